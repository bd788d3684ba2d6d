package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// section frames a body of fewer than 128 bytes.
func section(id byte, body ...byte) []byte { return append([]byte{id, byte(len(body))}, body...) }

func segment(at byte, data string) []byte {
	return append([]byte{0, 0x41, at, 0x0b, byte(len(data))}, data...)
}

// TestPack: segments out of order and with zeros between them become one that
// fills the same memory; other sections stay; what is no module stays too.
func TestPack(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "pack")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	head, memory := []byte("\x00asm\x01\x00\x00\x00"), section(5, 1, 0, 1)
	custom := section(0, 1, 'x')
	far := append([]byte{0, 0x41, 0x80, 0x80, 0x01, 0x0b, 1}, 'f') // at 16384
	parts := bytes.Join([][]byte{{4}, segment(20, "cd"), segment(8, "ab"), far, segment(0x3f, "")}, nil)
	module := bytes.Join([][]byte{head, memory, section(11, parts...), custom}, nil)
	joined := bytes.Join([][]byte{{2}, segment(8, "ab"+string(make([]byte, 10))+"cd"+string(make([]byte, 41))), far}, nil)
	want := bytes.Join([][]byte{head, memory, section(11, joined...), custom}, nil)

	name := filepath.Join(t.TempDir(), "m.wasm")
	pack := func(in []byte) ([]byte, error) {
		if err := os.WriteFile(name, in, 0o600); err != nil {
			t.Fatal(err)
		}
		err := exec.Command(bin, name).Run()
		out, readErr := os.ReadFile(name)
		if readErr != nil {
			t.Fatal(readErr)
		}
		return out, err
	}
	if got, err := pack(module); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n got %x\nwant %x", err, got, want)
	}
	passive := bytes.Join([][]byte{head, section(11, 1, 1, 1, 'a')}, nil)
	for _, bad := range [][]byte{nil, []byte("ELF"), module[:len(module)-1], module[:14], passive} {
		if got, err := pack(bad); err == nil || !bytes.Equal(got, bad) {
			t.Errorf("%x became %x", bad, got)
		}
	}
}
