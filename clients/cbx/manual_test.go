package main

import (
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/clearbox-im/clearbox/clients/core"
)

// TestManual: every command line in docs/cbx.md and the README is one that cbx
// understands, every command is in the manual, and so is every state and exit code.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/cbx.md")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&arguments{}, kong.Name("cbx"), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:bin/)?cbx (.*)$`).FindAllStringSubmatch(string(manual)+string(readme), -1) {
		line, _, _ := strings.Cut(m[1], " #")
		args := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`).FindAllString(line, -1)
		for i := range args {
			args[i] = strings.Trim(args[i], `"'`)
		}
		parsed, err := parser.Parse(args)
		if err != nil {
			t.Errorf("cbx %s: %v", line, err)
			continue
		}
		command, _, _ := strings.Cut(parsed.Command(), " <")
		shown[command] = true
	}
	for _, node := range parser.Model.Leaves(true) {
		if path := strings.TrimPrefix(node.FullPath(), "cbx "); !shown[path] {
			t.Errorf("cbx %s is not in docs/cbx.md", path)
		}
	}
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitPending, exitLogin, exitOffline, exitVault, exitIdentity, exitNotFound, exitRefused, 130} {
		if !strings.Contains(string(manual), "\n| "+strconv.Itoa(code)+" |") || !strings.Contains(exitHelp, strconv.Itoa(code)+" ") {
			t.Errorf("exit code %d is not explained", code)
		}
	}
	for _, s := range []core.State{core.StateQueued, core.StateAtServer, core.StateAtPeer, core.StateDelivered, core.StateRead, core.StateFailed} {
		if !strings.Contains(string(manual), "| `"+string(s)+"` |") {
			t.Errorf("the state %s is not explained", s)
		}
	}
}
