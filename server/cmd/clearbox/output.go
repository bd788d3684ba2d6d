package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"rsc.io/qr"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/config"
)

// failure is why a command did not succeed, and what to do next.
type failure struct {
	code     int              // exit code
	slug     clearbox.Code    // the server's code, if it answered
	text     string           //
	next     string           // a command, or empty
	problems []config.Problem // mistakes in the configuration
	silent   bool             // everything was said already
}

func (f *failure) Error() string { return f.text }

// fail shows an error and gives its exit code.
func (x *call) fail(err error) int {
	f := asFailure(err)
	if f.silent {
		return f.code
	}
	if x.global.JSON {
		x.writeJSON(x.err, map[string]any{"error": jsonFailure{Code: string(f.slug), Text: f.text, Next: f.next, Problems: f.problems}})
		return f.code
	}
	for _, p := range f.problems {
		fmt.Fprintln(x.err, p.String())
	}
	fmt.Fprintln(x.err, "clearbox:", f.text)
	if f.next != "" {
		fmt.Fprintln(x.err, "  next:", f.next)
	}
	return f.code
}

type jsonFailure struct {
	Code     string           `json:"code,omitempty"`
	Text     string           `json:"text"`
	Next     string           `json:"next,omitempty"`
	Problems []config.Problem `json:"problems,omitempty"`
}

func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var ce *config.Errors
	if errors.As(err, &ce) {
		return &failure{code: exitUsage, text: ce.Summary(), next: "clearbox config explain KEY", problems: ce.Problems}
	}
	return &failure{code: exitFailed, slug: clearbox.CodeOf(err), text: err.Error()}
}

func usage(format string, a ...any) *failure {
	return &failure{code: exitUsage, text: fmt.Sprintf(format, a...)}
}

// show writes v as JSON when that was asked for, else what text prints.
func (x *call) show(v any, text func()) {
	if x.global.JSON {
		x.writeJSON(x.out, v)
		return
	}
	text()
}

func (x *call) writeJSON(w interface{ Write([]byte) (int, error) }, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		fmt.Fprintln(x.err, "clearbox: cannot write JSON:", err)
		return
	}
	_, _ = w.Write(b.Bytes()) // a closed pipe is the reader's wish
}

// printf writes to standard output; a closed pipe is the reader's wish.
func (x *call) printf(format string, a ...any) { fmt.Fprintf(x.out, format, a...) }

// table prints rows in columns; the first row is the heading.
func (x *call) table(rows [][]string) {
	w := tabwriter.NewWriter(x.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // a closed pipe is the reader's wish
}

// when prints a moment in UTC, or a dash.
func when(m clearbox.Millis) string {
	if m == 0 {
		return "-"
	}
	return time.UnixMilli(int64(m)).UTC().Format("2006-01-02 15:04 UTC")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// qrCode draws text with half blocks, two rows of modules in one line, with the
// quiet zone that scanners need.
func qrCode(text string) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("draw a QR code: %w", err)
	}
	const quiet = 2
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			// Terminals are dark: a light module is a drawn one.
			switch top, bottom := !code.Black(x, y), !code.Black(x, y+1) && y+1 < code.Size+quiet; {
			case top && bottom:
				b.WriteRune('█')
			case top:
				b.WriteRune('▀')
			case bottom:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
