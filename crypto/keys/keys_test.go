package keys_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// chance is a repeatable random source; each name is another one.
func chance(name string) *rand.ChaCha8 {
	var seed [32]byte
	copy(seed[:], name)
	return rand.NewChaCha8(seed)
}

func identity(t testing.TB, name string) *curve.PrivateKey {
	t.Helper()
	k, err := curve.GeneratePrivateKey(chance(name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signingKey(t testing.TB, name string) ed25519.PrivateKey {
	t.Helper()
	k, err := keys.NewSigningKey(chance(name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// golden compares got with the file and, with -update, writes it first.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed, which is a change of the protocol:\n got %x\nwant %x", file, got, want)
	}
}

func TestNewSigningKey(t *testing.T) {
	a, again := signingKey(t, "a"), signingKey(t, "a")
	if !a.Equal(again) {
		t.Error("the random source that was handed in is not the one used")
	}
	if !ed25519.Verify(public(a), []byte("m"), ed25519.Sign(a, []byte("m"))) {
		t.Error("the key does not sign")
	}
	if _, err := keys.NewSigningKey(strings.NewReader("short")); err == nil {
		t.Error("a short random source made a key")
	}
}

func TestParseKEMPublicKey(t *testing.T) {
	good := bytes.Repeat([]byte{7}, keys.KEMPublicKeySize)
	good[0] = 0x08
	k, err := keys.ParseKEMPublicKey(good)
	if err != nil || !bytes.Equal(k, good) {
		t.Fatalf("a good key: %v", err)
	}
	good[1]++
	if k[1] == good[1] {
		t.Error("the key shares memory with what it was read from")
	}
	for name, b := range map[string][]byte{
		"empty":       nil,
		"no type":     good[1:],
		"short":       good[:1568],
		"long":        append(bytes.Clone(good), 0),
		"Kyber768":    append([]byte{0x07}, good[1:]...),
		"ML-KEM-1024": append([]byte{0x0a}, good[1:]...),
		"curve":       append([]byte{0x05}, good[1:]...),
	} {
		if _, err := keys.ParseKEMPublicKey(b); !errors.Is(err, keys.ErrKEMPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseKEMPublicKey(f *testing.F) {
	good := make([]byte, keys.KEMPublicKeySize)
	good[0] = 0x08
	f.Add(good)
	f.Add([]byte{0x08})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := keys.ParseKEMPublicKey(b)
		if err == nil && !bytes.Equal(k, b) {
			t.Fatal("parsing changed the key")
		}
	})
}
