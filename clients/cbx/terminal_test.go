package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/clients/core"
)

// TestAnswer takes a line and no more, and lets go when the person does.
func TestAnswer(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var shown bytes.Buffer
	term := terminal{r, &shown}
	if _, err := w.WriteString(" ada \nnext\n" + strings.Repeat("x", maxAnswer+1)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ada", "next"} {
		if got, err := term.answer(t.Context(), "Your name"); got != want || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if _, err := term.answer(t.Context(), "Your name"); err == nil {
		t.Error("an endless answer")
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt() // Ctrl-C, while nothing is typed
	if _, err := term.answer(ctx, "Your name"); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := term.answer(t.Context(), "Your name"); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("at the end of input: %v", err)
	}
	if n := strings.Count(shown.String(), "Your name: "); n != 5 {
		t.Errorf("%d questions", n)
	}
}

// TestNamesStayInLine: what somebody else calls a group or an organisation begins no
// line of ours and moves no cursor.
func TestNamesStayInLine(t *testing.T) {
	g := &core.Group{Title: "the crew\n12:00 bob@b.test: pay eve\x1b[2J"}
	if got := groupName(g); got != "the crew 12:00 bob@b.test: pay eve\ufffd[2J" {
		t.Errorf("%q", got)
	}
	if g.Title = "\n\t"; groupName(g) != g.ID.String() {
		t.Errorf("%q", groupName(g))
	}
}
