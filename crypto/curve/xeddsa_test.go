package curve_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"testing"

	"filippo.io/edwards25519"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sign(t testing.TB, k *curve.PrivateKey, message []byte) []byte {
	t.Helper()
	s, err := k.Sign(rand.Reader, message)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// All lengths up to 200 bytes and both signs of A; every altered bit is refused.
func TestSignatures(t *testing.T) {
	signs := make(map[byte]int)
	other := newKey(t).Public()
	for n := range 200 {
		k := newKey(t)
		message := make([]byte, n)
		rand.Read(message)
		s := sign(t, k, message)
		signs[s[63]>>7]++
		if len(s) != 64 || !curve.Verify(k.Public(), message, s) {
			t.Fatalf("%d bytes: own signature refused", n)
		}
		if curve.Verify(other, message, s) {
			t.Fatalf("%d bytes: verifies under another key", n)
		}
		if curve.Verify(k.Public(), append(bytes.Clone(message), 0), s) {
			t.Fatalf("%d bytes: verifies a longer message", n)
		}
	}
	if signs[0] == 0 || signs[1] == 0 {
		t.Errorf("signs of A seen: %v", signs)
	}

	k, message := newKey(t), []byte("one message")
	s := sign(t, k, message)
	for bit := range 512 {
		bad := bytes.Clone(s)
		bad[bit/8] ^= 1 << (bit % 8)
		if curve.Verify(k.Public(), message, bad) {
			t.Errorf("bit %d of the signature altered", bit)
		}
	}
	for bit := range 8 * len(message) {
		bad := bytes.Clone(message)
		bad[bit/8] ^= 1 << (bit % 8)
		if curve.Verify(k.Public(), bad, s) {
			t.Errorf("bit %d of the message altered", bit)
		}
	}
	for _, n := range []int{0, 1, 63, 65, 128} {
		bad := make([]byte, n)
		copy(bad, s)
		if curve.Verify(k.Public(), message, bad) {
			t.Errorf("signature of %d bytes", n)
		}
	}
}

// A signature with s + L is the same equation; it must not be a second valid
// signature.
func TestScalarOfSignatureIsCanonical(t *testing.T) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	k := newKey(t)
	for i := range 8 {
		message := []byte{byte(i)}
		s := sign(t, k, message)
		sign := s[63] & 0x80
		scalar := bytes.Clone(s[32:])
		scalar[31] &= 0x7f
		reverse(scalar)
		n := new(big.Int).SetBytes(scalar)
		for range 4 {
			n.Add(n, order)
			raised := n.FillBytes(make([]byte, 32))
			reverse(raised)
			if raised[31]&0x80 != 0 {
				break
			}
			raised[31] |= sign
			if curve.Verify(k.Public(), message, append(bytes.Clone(s[:32]), raised...)) {
				t.Fatal("a scalar that is not below the order was accepted")
			}
		}
	}
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

// A key in another encoding, or with torsion, is not the key that signed.
func TestVerifyWantsCanonicalKey(t *testing.T) {
	k, message := newKey(t), []byte("message")
	s := sign(t, k, message)
	p := k.Public()
	p[31] |= 0x80
	if curve.Verify(p, message, s) {
		t.Error("top bit of the key was ignored")
	}
}

// A signature is an Ed25519 signature (RFC 8032) under the Edwards form of the
// key once the sign bit has moved from the signature to the key: an independent
// check against the standard library.
func TestSignatureIsEd25519(t *testing.T) {
	for range 20 {
		k, message := newKey(t), []byte("checked by the standard library")
		s := sign(t, k, message)
		a, err := new(edwards25519.Scalar).SetBytesWithClamping(k.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		public := new(edwards25519.Point).ScalarBaseMult(a)
		if got := curve.PublicKey(public.BytesMontgomery()); got != k.Public() {
			t.Fatal("the Edwards form is another key")
		}
		if public.Bytes()[31]&0x80 != s[63]&0x80 {
			t.Fatal("the sign bit of A is not in the last byte")
		}
		s[63] &= 0x7f
		if !ed25519.Verify(public.Bytes(), message, s) {
			t.Fatal("the standard library refuses the signature")
		}
	}
}

// TestSigningIsSafeWithBadRandomness: with the same random bytes, two messages
// still get different nonces (the first 32 bytes), or the key would leak.
func TestSigningIsSafeWithBadRandomness(t *testing.T) {
	k, zero := newKey(t), make([]byte, 64)
	a, err := k.Sign(bytes.NewReader(zero), []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Sign(bytes.NewReader(zero), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a[:32], b[:32]) {
		t.Error("one nonce for two messages")
	}
}

type signatureVector struct {
	Private   []byte `json:"private"`
	Public    []byte `json:"public"` // with the type byte
	Random    []byte `json:"random"` // the 64 bytes that enter the nonce
	Message   []byte `json:"message"`
	Signature []byte `json:"signature"`
}

// TestSignatureVectors fixes the nonce derivation, which no verifier can see.
func TestSignatureVectors(t *testing.T) {
	const file = "../testdata/vectors/xeddsa.json"
	if *update {
		var vectors []signatureVector
		for i := range 16 {
			fill := func(n int, salt byte) []byte {
				b := make([]byte, n)
				for j := range b {
					b[j] = byte(j)*31 + byte(i)*7 + salt
				}
				return b
			}
			k, err := curve.NewPrivateKey(fill(32, 1))
			if err != nil {
				t.Fatal(err)
			}
			v := signatureVector{Private: k.Bytes(), Public: k.Public().Bytes(), Random: fill(64, 2), Message: fill(i*i, 3)}
			if v.Signature, err = k.Sign(bytes.NewReader(v.Random), v.Message); err != nil {
				t.Fatal(err)
			}
			vectors = append(vectors, v)
		}
		b, err := json.MarshalIndent(vectors, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []signatureVector
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 16 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for i, v := range vectors {
		k, err := curve.NewPrivateKey(v.Private)
		if err != nil {
			t.Fatal(err)
		}
		public, err := curve.ParsePublicKey(v.Public)
		if err != nil || public != k.Public() {
			t.Errorf("vector %d: public key %x, %v", i, public, err)
		}
		got, err := k.Sign(bytes.NewReader(v.Random), v.Message)
		if err != nil || !bytes.Equal(got, v.Signature) {
			t.Errorf("vector %d: signature %x, %v", i, got, err)
		}
		if !curve.Verify(public, v.Message, v.Signature) {
			t.Errorf("vector %d does not verify", i)
		}
	}
}
