package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// asker asks a person; a script is not asked. An answer that does not come
// before ctx ends is ctx's error.
type asker interface {
	// interactive tells whether there is a person to ask.
	interactive() bool
	// secret asks for something that is not shown while typed.
	secret(ctx context.Context, prompt string) (string, error)
	// answer asks for a line.
	answer(ctx context.Context, prompt string) (string, error)
}

// terminal asks on the terminal that input comes from.
type terminal struct {
	in  *os.File
	out io.Writer
}

func (t terminal) interactive() bool { return term.IsTerminal(int(t.in.Fd())) }

func (t terminal) secret(ctx context.Context, prompt string) (string, error) {
	fd := int(t.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(t.out, prompt, ": ")
	s, err := wait(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	fmt.Fprintln(t.out)
	if ctx.Err() != nil {
		err = errors.Join(err, term.Restore(fd, before)) // or the shell would not show what is typed
	}
	return s, err
}

// maxAnswer bounds a line that was asked for, in bytes.
const maxAnswer = 4096

func (t terminal) answer(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(t.out, prompt, ": ")
	s, err := wait(ctx, func() (string, error) {
		// A byte at a time: what follows the line belongs to somebody else.
		var line []byte
		for b := make([]byte, 1); ; {
			n, err := t.in.Read(b)
			if n == 1 && b[0] == '\n' {
				return strings.TrimSpace(string(line)), nil
			}
			if err != nil {
				return "", err
			}
			if line = append(line, b[:n]...); len(line) > maxAnswer {
				return "", errors.New("the answer is too long")
			}
		}
	})
	if err != nil {
		fmt.Fprintln(t.out)
	}
	return s, err
}

// wait gives what ask gives, unless ctx ends before. A read of the terminal
// cannot be called off: then it goes on until the process ends, which is soon.
func wait(ctx context.Context, ask func() (string, error)) (string, error) {
	type reply struct {
		text string
		err  error
	}
	got := make(chan reply, 1)
	go func() {
		s, err := ask()
		got <- reply{s, err}
	}()
	select {
	case r := <-got:
		if errors.Is(r.err, io.EOF) {
			return "", errors.New("the input ended before an answer")
		}
		return r.text, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
