package keys_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// newBundle makes a bundle that passes; the KEM key is only bytes here.
func newBundle(t testing.TB) *keys.Bundle {
	t.Helper()
	random := chance("bundle")
	own := identity(t, "bundle identity")
	sign := func(b []byte) []byte {
		s, err := own.Sign(random, b)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	kem := make([]byte, keys.KEMPublicKeySize)
	random.Read(kem)
	kem[0] = keys.TypeKyber1024
	signed := identity(t, "signed prekey").Public()
	return &keys.Bundle{
		Registration: 4711,
		Device:       3,
		Identity:     own.Public(),
		Signed:       keys.SignedPreKey{ID: 1, Key: signed, Signature: sign(signed.Bytes())},
		OneTime:      &keys.OneTimePreKey{ID: 2, Key: identity(t, "one-time prekey").Public()},
		KEM:          keys.KEMPreKey{ID: 3, Key: kem, Signature: sign(kem)},
	}
}

func TestBundleVerify(t *testing.T) {
	if err := newBundle(t).Verify(); err != nil {
		t.Fatal(err)
	}
	torsion := curve.PublicKey{1} // u = 1 has order 4
	for _, c := range []struct {
		name  string
		spoil func(*keys.Bundle)
		field keys.BundleField // "" passes
		cause error
	}{
		{"no one-time prekey", func(b *keys.Bundle) { b.OneTime = nil }, "", nil},
		{"highest device", func(b *keys.Bundle) { b.Device = 127 }, "", nil},
		{"highest registration", func(b *keys.Bundle) { b.Registration = 16383 }, "", nil},
		{"device 0", func(b *keys.Bundle) { b.Device = 0 }, keys.FieldDevice, keys.ErrRange},
		{"device 128", func(b *keys.Bundle) { b.Device = 128 }, keys.FieldDevice, keys.ErrRange},
		{"registration 0", func(b *keys.Bundle) { b.Registration = 0 }, keys.FieldRegistration, keys.ErrRange},
		{"registration of 15 bits", func(b *keys.Bundle) { b.Registration = 1 << 14 }, keys.FieldRegistration, keys.ErrRange},
		{"no identity", func(b *keys.Bundle) { b.Identity = curve.PublicKey{} }, keys.FieldIdentity, curve.ErrTorsion},
		{"identity not canonical", func(b *keys.Bundle) { b.Identity[31] |= 0x80 }, keys.FieldIdentity, curve.ErrNotCanonical},
		{"identity of low order", func(b *keys.Bundle) { b.Identity = torsion }, keys.FieldIdentity, curve.ErrTorsion},
		{"another identity", func(b *keys.Bundle) { b.Identity = b.OneTime.Key }, keys.FieldSignedSignature, keys.ErrSignature},
		{"signed prekey on the twist", func(b *keys.Bundle) { b.Signed.Key = curve.PublicKey{2} }, keys.FieldSigned, curve.ErrNotOnCurve},
		{"signed prekey of low order", func(b *keys.Bundle) { b.Signed.Key = torsion }, keys.FieldSigned, curve.ErrTorsion},
		{"signed prekey swapped", func(b *keys.Bundle) { b.Signed.Key = b.OneTime.Key }, keys.FieldSignedSignature, keys.ErrSignature},
		{"signed prekey unsigned", func(b *keys.Bundle) { b.Signed.Signature = nil }, keys.FieldSignedSignature, keys.ErrSignature},
		{"signature of the other prekey", func(b *keys.Bundle) { b.Signed.Signature = b.KEM.Signature }, keys.FieldSignedSignature, keys.ErrSignature},
		{"one-time prekey of low order", func(b *keys.Bundle) { b.OneTime.Key = torsion }, keys.FieldOneTime, curve.ErrTorsion},
		{"KEM prekey missing", func(b *keys.Bundle) { b.KEM = keys.KEMPreKey{} }, keys.FieldKEM, keys.ErrKEMPublicKey},
		{"KEM prekey of another type", func(b *keys.Bundle) { b.KEM.Key[0] = 0x0a }, keys.FieldKEM, keys.ErrKEMPublicKey},
		{"KEM prekey short", func(b *keys.Bundle) { b.KEM.Key = b.KEM.Key[:1568] }, keys.FieldKEM, keys.ErrKEMPublicKey},
		{"KEM prekey altered", func(b *keys.Bundle) { b.KEM.Key[1000] ^= 1 }, keys.FieldKEMSignature, keys.ErrSignature},
		{"KEM signature altered", func(b *keys.Bundle) { b.KEM.Signature[5] ^= 1 }, keys.FieldKEMSignature, keys.ErrSignature},
		{"KEM signature long", func(b *keys.Bundle) { b.KEM.Signature = append(b.KEM.Signature, 0) }, keys.FieldKEMSignature, keys.ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBundle(t)
			c.spoil(b)
			err := b.Verify()
			if c.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var refused *keys.BundleError
			if !errors.As(err, &refused) || refused.Field != c.field || !errors.Is(err, c.cause) {
				t.Errorf("got %v, want %s: %v", err, c.field, c.cause)
			}
		})
	}
}

// FuzzBundleVerify changes single bytes of a good bundle: none passes, but for
// those of the ids, which no signature covers.
func FuzzBundleVerify(f *testing.F) {
	good := newBundle(f)
	parts := func(b *keys.Bundle) [][]byte {
		return [][]byte{b.Identity[:], b.Signed.Key[:], b.Signed.Signature, b.KEM.Key, b.KEM.Signature}
	}
	for part, b := range parts(good) {
		f.Add(uint8(part), uint16(0), byte(1))
		f.Add(uint8(part), uint16(len(b)-1), byte(0x80))
	}
	f.Fuzz(func(t *testing.T, part uint8, at uint16, flip byte) {
		b := *good
		b.Signed.Signature = bytes.Clone(b.Signed.Signature)
		b.KEM.Key, b.KEM.Signature = bytes.Clone(b.KEM.Key), bytes.Clone(b.KEM.Signature)
		list := parts(&b)
		field := list[int(part)%len(list)]
		field[int(at)%len(field)] ^= flip
		if err := b.Verify(); (err == nil) != (flip == 0) {
			t.Fatalf("part %d, byte %d xor %02x: %v", part, at, flip, err)
		}
	})
}

func BenchmarkBundleVerify(b *testing.B) {
	bundle := newBundle(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := bundle.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}
