package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// fuzzLine is what fuzz prints. Keys are only ever added.
type fuzzLine struct {
	Test    string `json:"test"`
	Targets int    `json:"targets"`
	Execs   int64  `json:"execs"`
	Seconds string `json:"each"`
}

// fuzz is the long form of what make check does: every fuzz target of the
// module for five minutes. It is not among the tests that run by themselves.
func (s *suite) fuzz(ctx context.Context) (verdict, error) {
	line := fuzzLine{Test: "fuzz", Seconds: fmt.Sprintf("%ds", s.scaled(300))}
	v := verdict{line: &line}
	if _, err := os.Stat(".ci/fuzz"); err != nil {
		return v, errors.New("start this from the root of the module: it runs .ci/fuzz")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, ".ci/fuzz", line.Seconds)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	for _, m := range fuzzed.FindAllSubmatch(out.Bytes(), -1) {
		line.Targets++
		n, _ := strconv.ParseInt(string(m[1]), 10, 64) // the pattern has digits only
		line.Execs += n
	}
	if err != nil {
		os.Stderr.Write(out.Bytes()[max(0, out.Len()-8192):])
		v.demand(false, "a target failed: %v", err)
	}
	v.demand(line.Targets > 0, "no target ran")
	return v, nil
}

var fuzzed = regexp.MustCompile(`(?m)^fuzz \./.*execs: ([0-9]+)$`)
