package wycheproof

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"filippo.io/edwards25519"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

func TestX25519(t *testing.T) {
	type parameters struct {
		Curve string `json:"curve"`
	}
	type test struct {
		vector
		Public  octets `json:"public"`
		Private octets `json:"private"`
		Shared  octets `json:"shared"`
	}
	counts := make(tally)
	refusedAsBase := 0
	for _, g := range load[parameters, test](t, "x25519_test.json", "XDH") {
		if g.Parameters.Curve != "curve25519" {
			t.Fatalf("curve %s", g.Parameters.Curve)
		}
		for _, v := range g.Tests {
			k, err := curve.NewPrivateKey(v.Private)
			if err != nil {
				t.Fatalf("vector %d: %v", v.ID, err)
			}
			public := curve.PublicKey(v.Public)
			secret, err := k.DH(public)
			right := err == nil && bytes.Equal(secret, v.Shared)
			if v.Result != acceptable {
				counts.judge(t, v.vector, right)
			} else {
				counts[acceptable]++
				// Our choice: refuse zeros, compute all else.
				if v.has("ZeroSharedSecret") {
					if !errors.Is(err, curve.ErrLowOrder) {
						t.Errorf("vector %d (%v): %v, want ErrLowOrder", v.ID, v.Flags, err)
					}
				} else if !right {
					t.Errorf("vector %d (%v): %x, %v", v.ID, v.Flags, secret, err)
				}
			}
			if public.CheckBase() != nil {
				refusedAsBase++
			} else if v.has("Twist") || v.has("NonCanonicalPublic") || v.has("LowOrderPublic") {
				t.Errorf("vector %d (%v): accepted as a base key", v.ID, v.Flags)
			}
		}
	}
	counts.report(t)
	t.Logf("%d of them refused as base keys", refusedAsBase)
}

type eddsaParameters struct {
	PublicKey struct {
		Curve string `json:"curve"`
		PK    octets `json:"pk"`
	} `json:"publicKey"`
}

type eddsaTest struct {
	vector
	Msg octets `json:"msg"`
	Sig octets `json:"sig"`
}

// Ed25519 signs device lists, requests and group operations.
func TestEd25519(t *testing.T) {
	counts := make(tally)
	for _, g := range load[eddsaParameters, eddsaTest](t, "ed25519_test.json", "EDDSA") {
		if g.Parameters.PublicKey.Curve != "edwards25519" {
			t.Fatalf("curve %s", g.Parameters.PublicKey.Curve)
		}
		for _, v := range g.Tests {
			counts.judge(t, v.vector, ed25519.Verify(ed25519.PublicKey(g.Parameters.PublicKey.PK), v.Msg, v.Sig))
		}
	}
	counts.report(t)
}

// An XEdDSA signature is an Ed25519 signature under the Montgomery form of the
// key, with the sign of the Edwards form in the top bit of the last byte. So the
// Ed25519 vectors test curve.Verify as well, but for those whose scalar has that
// bit set already.
func TestXEdDSA(t *testing.T) {
	counts := make(tally)
	for _, g := range load[eddsaParameters, eddsaTest](t, "ed25519_test.json", "EDDSA") {
		pk := g.Parameters.PublicKey.PK
		point, err := new(edwards25519.Point).SetBytes(pk)
		if err != nil {
			t.Fatalf("key %x: %v", pk, err)
		}
		public := curve.PublicKey(point.BytesMontgomery())
		for _, v := range g.Tests {
			signature := bytes.Clone(v.Sig)
			if len(signature) == curve.SignatureSize {
				if signature[63]&0x80 != 0 {
					continue
				}
				signature[63] |= pk[31] & 0x80
			}
			counts.judge(t, v.vector, curve.Verify(public, v.Msg, signature))
		}
	}
	if counts[valid] == 0 || counts[invalid] == 0 {
		t.Error("no vectors were left")
	}
	counts.report(t)
}
