package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// person is a terminal at which nothing is typed.
type person struct{}

func (person) interactive() bool { return true }

func (person) secret(context.Context, string) (string, error) {
	return "", errors.New("nobody types")
}

func (person) answer(context.Context, string) (string, error) {
	return "", errors.New("nobody types")
}

// screen calls seen when a text has been written to it.
type screen struct {
	mu    sync.Mutex // guards buf
	buf   bytes.Buffer
	await string
	seen  func()
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.buf.Write(b)
	if strings.Contains(s.buf.String(), s.await) {
		s.seen()
	}
	return n, err
}

// interrupted ARGS... runs cbx in this process at a terminal, with Ctrl-C as
// soon as it says how it ends, and wants exit code 0.
func scriptInterrupted(ts *testscript.TestScript, neg bool, args []string) {
	for i, arg := range args {
		if strings.HasPrefix(arg, "--") && i+1 < len(args) {
			args[i+1] = ts.MkAbs(args[i+1])
		}
	}
	ctx, interrupt := context.WithTimeout(context.Background(), 30*time.Second)
	defer interrupt()
	typed, never := io.Pipe()
	var stdout bytes.Buffer
	stderr := &screen{await: "ends it", seen: interrupt}
	a := &app{
		stdin: typed, stdout: &stdout, stderr: stderr, asker: person{},
		now: time.Now, random: rand.Reader, getenv: ts.Getenv,
	}
	code := a.run(ctx, append(args, "--ca", certificate(ts)))
	ts.Check(never.Close()) // lets go of whoever reads
	if neg != (code != 0) {
		ts.Fatalf("exit code %d\n%s\n%s", code, stdout.String(), stderr.buf.String())
	}
	_, err := ts.Stdout().Write(stdout.Bytes())
	ts.Check(err)
	_, err = ts.Stderr().Write(stderr.buf.Bytes())
	ts.Check(err)
}
