package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"cbx": main})
}

// leakChecked fails the tests if they leave goroutines behind: those of cbx are
// processes of their own, so they are the homeserver's and the unit tests'.
type leakChecked struct{ m *testing.M }

// Run implements testscript.TestingM.
func (l leakChecked) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// TestScripts runs cbx as a process against a real homeserver.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values[townKey{}] = town{}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=50") // each process would linger for a second under the race detector
			// Secrets must be readable by their owner only; archives make 0666.
			return os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte("a wide blue river at dawn\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": scriptServer, "peer": scriptPeer, "admin": scriptAdmin, "settled": scriptSettled,
			"field": scriptField, "edit": scriptEdit, "secret": scriptSecret, "long": scriptLong, "interrupted": scriptInterrupted, "fill": scriptFill,
		},
	})
}

// field VARIABLE NAME takes a text out of the JSON that was just printed.
func scriptField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field VARIABLE NAME")
	}
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	text, ok := object[args[1]].(string)
	if !ok {
		ts.Fatalf("no text %q in %v", args[1], object)
	}
	ts.Setenv(args[0], text)
}

// edit FILE flips a bit in the middle of a file.
func scriptEdit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: edit FILE")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// secret FILE TEXT writes a file that only its owner can read.
func scriptSecret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: secret FILE TEXT")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(args[1]), 0o600))
}

// long FILE N writes N times the letter x.
func scriptLong(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: long FILE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = f.WriteString(strings.Repeat("x", n) + "\n")
	ts.Check(errors.Join(err, f.Close()))
}

func TestParseLink(t *testing.T) {
	for link, want := range map[string]invitation{
		"https://chat.a.test/join#abc":              {"https://chat.a.test", "", "abc"},
		"https://chat.a.test:8443/join#a.test.abc":  {"https://chat.a.test:8443", "a.test", "abc"},
		"https://127.0.0.1:8443/join/#clinic.a.q":   {"https://127.0.0.1:8443", "clinic.a", "q"},
		"https://chat.a.test/join":                  {},
		"https://chat.a.test/#abc":                  {},
		"https://chat.a.test/join#.abc":             {},
		"https://chat.a.test/join#a.test.":          {},
		"https://user@chat.a.test/join#abc":         {},
		"https://chat.a.test/join?x=1#a.test.abc":   {},
		"https://chat.a.test/join#A_B.example.code": {},
		"chat.a.test": {},
	} {
		got, err := parseLink(link)
		if (err == nil) != (want != invitation{}) || err == nil && got != want {
			t.Errorf("%s: %+v, %v", link, got, err)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add("https://chat.a.test/join#a.test.abc")
	f.Add("https://[::1]:1/join#x")
	f.Fuzz(func(t *testing.T, link string) {
		in, err := parseLink(link)
		if err != nil {
			return
		}
		if in.code == "" || in.serverURL == "" {
			t.Fatalf("%q gave %+v", link, in)
		}
		if in.server != "" {
			if _, err := clearbox.ParseServerName(string(in.server)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestClean(t *testing.T) {
	if got := clean("a\x1b[2Jb\u202ec\r\nd\te\u0085"); got != "a\ufffd[2Jb\ufffdc\ufffd\nd\te\ufffd" {
		t.Errorf("%q", got)
	}
}

func TestTerminalQR(t *testing.T) {
	code, err := terminalQR(bytes.Repeat([]byte{0xff, 0, 0x80}, 30))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace([]byte(code)), []byte("\n"))
	if len(lines) < 20 || !bytes.Contains(lines[0], []byte("████████")) {
		t.Errorf("no quiet zone in %d lines", len(lines))
	}
}

// TestReasons: whatever can stand beside a message has a sentence, and none
// names the placeholder.
func TestReasons(t *testing.T) {
	for code := range reasons {
		for _, state := range []core.State{core.StateQueued, core.StateFailed} {
			m := &core.Message{State: state, Reason: code, Conversation: clearbox.UserID{Server: "b.test"}}
			if s := stateText(m); strings.Contains(s, "SERVER") || !strings.HasSuffix(s, " ["+string(code)+"]") || len(explanation(m)) < 15 {
				t.Errorf("%s: %q", code, s)
			}
		}
	}
	if s := stateText(&core.Message{State: core.StateFailed, Reason: "newer"}); s != "failed: [newer]" {
		t.Errorf("%q", s)
	}
}

// TestLines: one line that is too long costs that line alone.
func TestLines(t *testing.T) {
	long := strings.Repeat("x", core.MaxText)
	for _, x := range []struct{ in, want string }{
		{"", ""},
		{"a", "a|"},
		{"a\n\r\nb\r\n", "a||b|"},
		{long, long + "|"},
		{long + "\r\nb", long + "|b|"},
		{long + "y\nb\n", "!|b|"},
		{"a\n" + long + long + "\nb\n" + long + "y", "a|!|b|!|"},
	} {
		got := ""
		for text, err := range lines(strings.NewReader(x.in)) {
			if err != nil && clearbox.CodeOf(err) != clearbox.CodeTooLarge {
				t.Fatal(err)
			}
			if err != nil {
				text += "!"
			}
			got += text + "|"
		}
		if got != x.want {
			t.Errorf("%.20q of %d bytes: %.20q", x.in, len(x.in), got)
		}
	}
}
