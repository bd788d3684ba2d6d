package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Some promises are about days. Their tests live in a bubble with a clock of
// its own and run as Go tests; what such a test prints as a JSON line with its
// name is passed on.

// outage is R2: a peer that is away for a day, and for a week.
func (s *suite) outage(ctx context.Context) (verdict, error) {
	return goTest(ctx, "outage", 10*time.Minute, "./server/servertest", "^TestOutage")
}

// model is R14: the store's mailboxes against a model in memory.
func (s *suite) model(ctx context.Context) (verdict, error) {
	steps := fmt.Sprint(s.scaled(10_000))
	return goTest(ctx, "model", 10*time.Minute, "./storage", "Model", "CLEARBOX_MODEL_STEPS="+steps)
}

// clock is R8: the clocks of two servers are apart, and one steps back.
func (s *suite) clock(ctx context.Context) (verdict, error) {
	return goTest(ctx, "clock", 5*time.Minute, "./server/servertest", "^TestClock")
}

// weather is three servers in one bubble, in bad weather drawn from twenty
// seeds.
func (s *suite) weather(ctx context.Context) (verdict, error) {
	return goTest(ctx, "weather", 15*time.Minute, "./server/servertest", "^TestThreeHousesInBadWeather$")
}

// replay is R19: 10,000 signed requests between servers are repeated, overtaken
// and forged.
func (s *suite) replay(ctx context.Context) (verdict, error) {
	return goTest(ctx, "replay", 10*time.Minute, "./federation", "^TestReplayReorderDuplicate$")
}

// timing is threat 13: how well a peer tells by the clock who is here.
func (s *suite) timing(ctx context.Context) (verdict, error) {
	return goTest(ctx, "timing", 10*time.Minute, "./server/delivery", "^TestThreat13Timing$")
}

// receipts is threat 20: whether receipts tell who wrote a sealed message.
func (s *suite) receipts(ctx context.Context) (verdict, error) {
	return goTest(ctx, "receipts", 10*time.Minute, "./clients/core", "^TestThreat20")
}

// away is R20: 29 days offline, 5,000 messages of 20 people.
func (s *suite) away(ctx context.Context) (verdict, error) {
	return goTest(ctx, "away", 10*time.Minute, "./clients/core", "^TestAway29Days$", "TMPDIR="+s.dir)
}

// healing is R21: a device goes on from an older copy of its memory.
func (s *suite) healing(ctx context.Context) (verdict, error) {
	return goTest(ctx, "healing", 5*time.Minute, "./clients/core", "^TestOldBackupHeals$")
}

// conversations is people with several devices and groups against a model.
func (s *suite) conversations(ctx context.Context) (verdict, error) {
	return goTest(ctx, "conversations", 20*time.Minute, "./clients/core", "^TestConversationsModel$",
		fmt.Sprintf("CLEARBOX_SEED=%d", s.seed), fmt.Sprintf("CLEARBOX_SEEDS=%d", s.scaled(100)))
}

// goTest runs tests of one package in the module's root, which is where make
// starts this program.
func goTest(ctx context.Context, name string, limit time.Duration, pkg, pattern string, env ...string) (verdict, error) {
	v := verdict{line: map[string]string{"test": name}}
	if _, err := os.Stat("go.mod"); err != nil {
		return v, errors.New("start this from the root of the module: the test is a Go test")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", limit.String(), "-run", pattern, pkg)
	cmd.Env = append(append(os.Environ(), "CLEARBOX_LONG=1"), env...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	lines, ran := jsonLines(out, name)
	if len(lines) > 0 {
		v.line = lines[len(lines)-1]
		for _, l := range lines[:len(lines)-1] {
			fmt.Println(string(l))
		}
	}
	switch {
	case err != nil:
		os.Stderr.Write(out[max(0, len(out)-8192):])
		v.demand(false, "go test %s: %v", pkg, err)
	case !ran:
		v.demand(false, "%s has no test that matches %s", pkg, pattern)
	case len(lines) == 0:
		v.demand(false, "the test printed no line with its figures")
	}
	return v, nil
}

// jsonLines finds the lines {"test":name,...}, also where the test logged them,
// and tells whether any test ran.
func jsonLines(out []byte, name string) (lines []json.RawMessage, ran bool) {
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		text := sc.Text()
		ran = ran || strings.Contains(text, "--- PASS") || strings.Contains(text, "--- FAIL")
		i := strings.Index(text, `{"test":"`+name+`"`)
		if i >= 0 && json.Valid([]byte(text[i:])) {
			lines = append(lines, json.RawMessage(text[i:]))
		}
	}
	return lines, ran
}
