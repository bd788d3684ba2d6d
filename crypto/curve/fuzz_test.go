package curve_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

func FuzzParsePublicKey(f *testing.F) {
	f.Add(newKey(f).Public().Bytes())
	f.Add([]byte{})
	f.Add(make([]byte, 33))
	for _, k := range lowOrderKeys(f) {
		f.Add(k.Bytes())
	}
	own := newKey(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := curve.ParsePublicKey(b)
		if err != nil {
			return
		}
		if !bytes.Equal(k.Bytes(), b) {
			t.Fatal("parsing and printing changed the key")
		}
		secret, err := own.DH(k)
		if err == nil && bytes.Equal(secret, make([]byte, 32)) {
			t.Fatal("a secret of zeros was handed out")
		}
		if k.CheckBase() == nil && err != nil {
			t.Fatalf("a base key in the prime-order group gave %v", err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	k := newKey(f)
	f.Add(k.Public().Bytes(), []byte("message"), sign(f, k, []byte("message")))
	f.Add(make([]byte, 33), []byte{}, make([]byte, 64))
	f.Fuzz(func(t *testing.T, public, message, signature []byte) {
		p, err := curve.ParsePublicKey(public)
		if err != nil {
			return
		}
		if !curve.Verify(p, message, signature) {
			return
		}
		// What verifies does not verify any more with one bit changed.
		bad := bytes.Clone(signature)
		bad[len(message)%64] ^= 0x10
		if curve.Verify(p, message, bad) {
			t.Fatal("two signatures of one message that differ in one bit")
		}
	})
}

// What strangers ask to be evaluated either is refused or has an answer that
// both ways of computing agree on.
func FuzzBlind(f *testing.F) {
	own, err := curve.NewBlind(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		f.Fatal(err)
	}
	asker, err := curve.NewBlind(bytes.NewReader(bytes.Repeat([]byte{8}, 64)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(asker.Ask("c", []byte("a.test")))
	f.Add([]byte{})
	f.Add(make([]byte, 32))
	for _, k := range lowOrderKeys(f) {
		f.Add(k.Bytes()[1:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		evaluated, err := own.Evaluate(b)
		if err != nil {
			return
		}
		if len(evaluated) != 32 {
			t.Fatalf("%d bytes", len(evaluated))
		}
		if _, err := asker.Reveal(evaluated); err != nil {
			t.Fatalf("what was evaluated cannot be revealed: %v", err)
		}
		word := asker.Ask("c", b)
		if e, err := own.Evaluate(word); err != nil {
			t.Fatal(err)
		} else if got, err := asker.Reveal(e); err != nil || !bytes.Equal(got, own.Word("c", b)) {
			t.Fatalf("the two sides differ: %v", err)
		}
	})
}
