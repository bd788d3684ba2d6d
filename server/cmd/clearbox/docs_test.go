package main

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Every command line in the manual is one that the program understands, and
// every command of the program is in the manual.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../../docs/admin.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{}, kong.Name("clearbox"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{"help": true}
	for _, m := range regexp.MustCompile(`(?m)^(?:[AB]\$ )?clearbox (.*)$`).FindAllStringSubmatch(string(text), -1) {
		line, _, _ := strings.Cut(m[1], " #")
		args := regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1)
		for i := range args {
			args[i] = strings.Trim(args[i], `"`)
		}
		if args[0] == "help" {
			continue
		}
		parsed, err := parser.Parse(args)
		if err != nil {
			t.Errorf("clearbox %s: %v", line, err)
			continue
		}
		command, _, _ := strings.Cut(parsed.Command(), " <")
		shown[command] = true
	}
	for _, node := range parser.Model.Leaves(true) {
		if path := strings.TrimPrefix(node.FullPath(), "clearbox "); !shown[path] && path != "demo" {
			t.Errorf("clearbox %s is not in docs/admin.md", path)
		}
	}
}
