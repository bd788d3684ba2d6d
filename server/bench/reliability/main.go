// Command reliability is responsible for the long tests of the promises in the
// documentation: nothing that was acknowledged is lost, shown twice or out of
// order, whatever dies. It drives the real binaries and prints one JSON line
// per test; it exits with 1 when a bar was missed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
)

func main() {
	var s suite
	tests := flag.String("tests", "kill9,outage,clock,replay,timing,receipts,weather,faults,halfopen,diskfull,malformed,slow,leaks,model,away,healing,conversations,powercut", "which to run, separated by commas; fuzz, which takes hours, runs only when named")
	flag.StringVar(&s.clearbox, "clearbox", "bin/clearbox", "the homeserver's binary")
	flag.StringVar(&s.cbx, "cbx", "bin/cbx", "the terminal client's binary")
	flag.StringVar(&s.parent, "dir", "tmp", "folder for data, on a real disk; what is made below it is removed")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()), "of what is drawn: moments, prefixes, mutations")
	flag.BoolVar(&s.keep, "keep", false, "keep the folders")
	flag.IntVar(&s.scale, "scale", 100, "percent of the full counts, for trying out; the bars are for 100")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx, strings.Split(*tests, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		stop()
		os.Exit(1)
	}
}

// suite is one invocation.
type suite struct {
	clearbox, cbx, parent string
	seed                  uint64
	keep                  bool
	scale                 int

	dir       string // below parent, of this invocation
	authority *rig.Authority
}

// A verdict is what a test found out: a line to print and whether its bar holds.
type verdict struct {
	line   any
	missed []string // bars, in words; empty is a pass
}

func (v *verdict) demand(ok bool, format string, args ...any) {
	if !ok {
		v.missed = append(v.missed, fmt.Sprintf(format, args...))
	}
}

func (s *suite) run(ctx context.Context, tests []string) error {
	known := map[string]func(context.Context) (verdict, error){
		"kill9": s.kill9, "outage": s.outage, "clock": s.clock, "replay": s.replay, "timing": s.timing, "receipts": s.receipts, "weather": s.weather, "faults": s.faults, "halfopen": s.halfopen, "diskfull": s.diskfull, "malformed": s.malformed,
		"slow": s.slow, "leaks": s.leaks, "model": s.model, "away": s.away, "healing": s.healing, "conversations": s.conversations, "powercut": s.powercut, "fuzz": s.fuzz,
	}
	for _, t := range tests {
		if known[t] == nil {
			return fmt.Errorf("there is no test %q", t)
		}
	}
	rig.RaiseFiles()
	if err := os.MkdirAll(s.parent, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.parent, "rel")
	if err != nil {
		return err
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if !s.keep {
		defer os.RemoveAll(s.dir)
	}
	fs, durable, err := rig.Filesystem(s.dir)
	if err != nil {
		return err
	}
	if !durable {
		return fmt.Errorf("%s is on %s, which keeps nothing: name a folder on a disk with -dir", s.dir, fs)
	}
	if s.authority, err = rig.NewAuthority(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "reliability: filesystem %s, seed %d\n", fs, s.seed)
	var failed []error
	for _, t := range tests {
		began := time.Now()
		v, err := known[t](ctx)
		if err != nil {
			v.missed = append(v.missed, err.Error())
		}
		if err := s.print(t, v, time.Since(began)); err != nil {
			return err
		}
		if len(v.missed) > 0 {
			failed = append(failed, fmt.Errorf("%s: %s", t, strings.Join(v.missed, "; ")))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(failed, ctx.Err())...)
}

// print writes the line of a test: its own keys, then the common ones.
func (s *suite) print(name string, v verdict, took time.Duration) error {
	line := []byte("{}")
	var err error
	if v.line != nil {
		if line, err = json.Marshal(v.line); err != nil {
			return err
		}
	}
	tail, err := json.Marshal(struct {
		Seconds float64 `json:"seconds"`
		Seed    uint64  `json:"seed"`
		OK      bool    `json:"ok"`
	}{float64(took.Milliseconds()) / 1000, s.seed, len(v.missed) == 0})
	if err != nil {
		return err
	}
	body := strings.TrimSuffix(string(line), "}")
	if body == "{" {
		body = fmt.Sprintf(`{"test":%q`, name)
	}
	_, err = fmt.Println(body + "," + string(tail[1:]))
	return err
}

// server makes a server in a folder of its own; extra is YAML.
func (s *suite) server(test string, setup rig.Setup) (*rig.Server, error) {
	parent := filepath.Join(s.dir, test)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	setup.Binary, setup.Parent, setup.Authority = s.clearbox, parent, s.authority
	return rig.NewServer(setup)
}

// random is the source for one purpose; the same seed gives the same run as far
// as scheduling allows.
func (s *suite) random(purpose string) *rand.Rand {
	var mix uint64 = 14695981039346656037 // FNV-1a
	for _, c := range []byte(purpose) {
		mix = (mix ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(s.seed, mix))
}

// scaled is n in percent of -scale, at least one.
func (s *suite) scaled(n int) int { return max(1, n*s.scale/100) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
