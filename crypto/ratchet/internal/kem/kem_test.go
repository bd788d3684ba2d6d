package kem_test

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/kem"
)

// The split encapsulation must be ML-KEM-768 byte for byte (FIPS 203).
func TestSplitEqualsMLKEM768(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for range 200 {
		key, err := kem.GenerateSplit(random)
		if err != nil {
			t.Fatal(err)
		}
		ek, err := mlkem.NewEncapsulationKey768(append(key.Vector[:], key.Header[:32]...))
		if err != nil {
			t.Fatal(err)
		}
		var m [32]byte
		random.Read(m[:])
		wantShared, wantCT, err := mlkemtest.Encapsulate768(ek, m[:])
		if err != nil {
			t.Fatal(err)
		}
		coins, part1, shared, err := kem.EncapsulateHeader(bytes.NewReader(m[:]), &key.Header)
		if err != nil {
			t.Fatal(err)
		}
		if err := kem.CheckVector(&key.Header, &key.Vector); err != nil {
			t.Fatal(err)
		}
		part2, err := kem.EncapsulateVector(coins, &key.Header, &key.Vector)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(shared, wantShared) || !bytes.Equal(append(part1[:], part2[:]...), wantCT) {
			t.Fatal("split encapsulation differs from ML-KEM-768")
		}
		got, err := kem.DecapsulateSplit(&key.Seed, part1, part2)
		if err != nil || !bytes.Equal(got, wantShared) {
			t.Fatalf("decapsulation: %x, %v", got, err)
		}
	}
}

func TestVectorMustFitHeader(t *testing.T) {
	key, err := kem.GenerateSplit(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad := key.Vector
	bad[700] ^= 1
	if err := kem.CheckVector(&key.Header, &bad); !errors.Is(err, kem.ErrVector) {
		t.Fatalf("changed vector: %v", err)
	}
}

// A coefficient of 3329 or more is refused although its hash fits.
func TestVectorModulusIsChecked(t *testing.T) {
	key, err := kem.GenerateSplit(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad := key.Vector
	bad[0], bad[1] = 0xff, bad[1]|0x0f // first coefficient 4095
	header := kem.HeaderOf(&bad, [32]byte(key.Header[:32]))
	if err := kem.CheckVector(&header, &bad); !errors.Is(err, kem.ErrVector) {
		t.Fatalf("coefficient out of range: %v", err)
	}
}

func TestKyber1024(t *testing.T) {
	public, secret, err := kem.Generate(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(public) != 1569 || len(secret) != 3169 {
		t.Fatalf("sizes %d and %d", len(public), len(secret))
	}
	if p, err := kem.PublicOf(secret); err != nil || !bytes.Equal(p, public) {
		t.Fatalf("public key inside the secret key differs: %v", err)
	}
	ct, shared, err := kem.Encapsulate(crand.Reader, public)
	if err != nil {
		t.Fatal(err)
	}
	got, err := kem.Decapsulate(secret, ct)
	if err != nil || !bytes.Equal(got, shared) {
		t.Fatalf("shared secrets differ: %v", err)
	}
	ct[100] ^= 1
	if got, err := kem.Decapsulate(secret, ct); err != nil || bytes.Equal(got, shared) {
		t.Fatalf("changed ciphertext: %v", err)
	}
}

func TestKyber1024RefusesOtherTypesAndLengths(t *testing.T) {
	public, secret, err := kem.Generate(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ct, _, err := kem.Encapsulate(crand.Reader, public)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []byte{0x00, 0x05, 0x07, 0x09, 0x0a} {
		p, s, c := bytes.Clone(public), bytes.Clone(secret), bytes.Clone(ct)
		p[0], s[0], c[0] = kind, kind, kind
		if _, _, err := kem.Encapsulate(crand.Reader, p); !errors.Is(err, kem.ErrEncoding) {
			t.Errorf("public key of type %#x: %v", kind, err)
		}
		if _, err := kem.Decapsulate(s, ct); !errors.Is(err, kem.ErrEncoding) {
			t.Errorf("secret key of type %#x: %v", kind, err)
		}
		if _, err := kem.Decapsulate(secret, c); !errors.Is(err, kem.ErrEncoding) {
			t.Errorf("ciphertext of type %#x: %v", kind, err)
		}
	}
	for _, n := range []int{0, 1, len(public) - 1} {
		if err := kem.CheckPublic(public[:n]); !errors.Is(err, kem.ErrEncoding) {
			t.Errorf("public key of %d bytes: %v", n, err)
		}
	}
	if _, _, err := kem.Generate(bytes.NewReader(nil)); err == nil {
		t.Error("a failing random source went unnoticed")
	}
}

func BenchmarkSplit(b *testing.B) {
	for b.Loop() {
		key, _ := kem.GenerateSplit(crand.Reader)
		coins, p1, _, _ := kem.EncapsulateHeader(crand.Reader, &key.Header)
		p2, _ := kem.EncapsulateVector(coins, &key.Header, &key.Vector)
		if _, err := kem.DecapsulateSplit(&key.Seed, p1, p2); err != nil {
			b.Fatal(err)
		}
	}
}
