package main

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFileName(t *testing.T) {
	for name, want := range map[string]string{
		"plan.pdf": "plan.pdf", "": "file", ".": "file", "..": "file", "...": "file", "../../etc/passwd": "passwd", `..\..\boot.ini`: "boot.ini", "/": "file", "a/": "file",
		".bashrc": "bashrc", "~/.ssh/id": "id", "a\x00b": "a_b", "a\nb.txt": "a_b.txt", "cv\u202efdp.exe": "cv_fdp.exe", "x\x1b[2J": "x_[2J", "name. ": "name",
		"con": "_con", "COM1.txt": "_COM1.txt", "a:b": "a_b", "C:evil": "C_evil", "grüße.txt": "grüße.txt", "\xff\xfe": "__", " lead": "lead",
		strings.Repeat("ä", 300): strings.Repeat("ä", 100),
	} {
		if got := fileName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzFileName(f *testing.F) {
	f.Add("../x")
	f.Add("con.txt")
	f.Fuzz(func(t *testing.T, s string) {
		got := fileName(s)
		if got == "" || got[0] == '.' || len(got) > maxSavedName+1 || !utf8.ValidString(got) || filepath.Base(got) != got || filepath.Dir(got) != "." || strings.ContainsAny(got, "/\\\x00\n\x1b") {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 KB", 1: "1 KB", 20_000: "20 KB", 2 << 20: "2.1 MB", 20 << 20: "20 MB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
