package config_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/server/config"
)

// Whatever the file holds: no panic, every position lies in the file, and what
// is accepted reads back the same after it was written.
func FuzzParse(f *testing.F) {
	f.Add(config.Example())
	f.Add([]byte(required))
	f.Add([]byte("a: [1, {b: 2}]\n? x\n: y\n"))
	f.Add([]byte("log: &a {level: *a}\n<<: [a]\n"))
	f.Add([]byte("server: |\n  x\n\ty\n"))
	f.Add([]byte(required + "federation:\n  peers:\n  - server: b.example\n    endpoints: [\"https://b.example\"]\n  - \n"))
	f.Add([]byte(required + "notice:\n  text: >-\n    some\n    text\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := config.Parse("x", data, config.Options{})
		if err != nil {
			var e *config.Errors
			if !errors.As(err, &e) || len(e.Problems) == 0 || l != nil {
				t.Fatalf("error %T: %v", err, err)
			}
			lines := strings.Count(string(data), "\n") + 1
			for _, p := range e.Problems {
				if p.Line < 0 || p.Line > lines || p.Line > 0 && p.Column < 1 || p.Text == "" {
					t.Fatalf("position outside of the %d lines: %+v", lines, p)
				}
			}
			return
		}
		var b bytes.Buffer
		if err := config.Render(&b, l.Config); err != nil {
			t.Fatal(err)
		}
		again, err := config.Parse("y", b.Bytes(), config.Options{})
		if err != nil {
			t.Fatalf("what was written is refused:\n%v\n%s", err, b.String())
		}
		if len(config.Diff(l.Config, again.Config)) > 0 || !reflect.DeepEqual(l.Config.Federation.Peers, again.Config.Federation.Peers) {
			t.Fatalf("read back differently:\n%+v\n%+v\n%s", l.Config, again.Config, b.String())
		}
	})
}
