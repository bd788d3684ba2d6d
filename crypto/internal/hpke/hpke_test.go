package hpke_test

import (
	"bytes"
	standard "crypto/hpke"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/internal/hpke"
)

var material, info = bytes.Repeat([]byte{7}, 32), []byte("what both know")

// theirs is the same key in the standard library.
func theirs(t *testing.T) standard.PrivateKey {
	t.Helper()
	k, err := standard.MLKEM768X25519().DeriveKeyPair(material)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ours(t *testing.T) *hpke.PrivateKey {
	t.Helper()
	k, err := hpke.DeriveKey(material)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestStandardHears: the standard library opens and exports what this package sends.
func TestStandardHears(t *testing.T) {
	k := ours(t)
	if !bytes.Equal(k.Public(), theirs(t).PublicKey().Bytes()) || len(k.Public()) != hpke.PublicSize {
		t.Fatal("the derived keys differ")
	}
	enc, s, err := hpke.NewSender(k.Public(), info)
	if err != nil || len(enc) != hpke.EncapsulatedSize {
		t.Fatal(len(enc), err)
	}
	r, err := standard.NewRecipient(enc, theirs(t), standard.HKDFSHA256(), standard.ChaCha20Poly1305(), info)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		message := bytes.Repeat([]byte{byte(i)}, i)
		sealed := s.Seal(message)
		if got, err := r.Open(nil, sealed); err != nil || !bytes.Equal(got, message) || len(sealed) != i+hpke.Overhead {
			t.Fatal(i, err)
		}
	}
	exports(t, s.Export, r.Export)
}

// TestStandardSends: this package opens and exports what the standard library sends.
func TestStandardSends(t *testing.T) {
	enc, s, err := standard.NewSender(theirs(t).PublicKey(), standard.HKDFSHA256(), standard.ChaCha20Poly1305(), info)
	if err != nil {
		t.Fatal(err)
	}
	r, err := hpke.NewRecipient(ours(t), enc, info)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		message := bytes.Repeat([]byte{byte(i)}, i)
		sealed, err := s.Seal(nil, message)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Open(sealed); err != nil || !bytes.Equal(got, message) {
			t.Fatal(i, err)
		}
	}
	exports(t, s.Export, r.Export)
}

func exports(t *testing.T, one, other func(string, int) ([]byte, error)) {
	t.Helper()
	for _, n := range []int{1, 32, 64, 300} {
		x, err := one("a label", n)
		y, otherErr := other("a label", n)
		if err != nil || otherErr != nil || !bytes.Equal(x, y) || len(x) != n {
			t.Fatalf("%d: %x, %v and %x, %v", n, x, err, y, otherErr)
		}
	}
}

// TestRefuses: nothing opens out of order, altered, or under other info; keys and
// encapsulations of other sizes, out of range and of low order are errors.
func TestRefuses(t *testing.T) {
	k := ours(t)
	enc, s, err := hpke.NewSender(k.Public(), info)
	if err != nil {
		t.Fatal(err)
	}
	first, second := s.Seal([]byte("first")), s.Seal([]byte("second"))
	r, err := hpke.NewRecipient(k, enc, info)
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(first)
	altered[0] ^= 1
	for name, sealed := range map[string][]byte{"out of order": second, "altered": altered, "empty": nil, "short": first[:15]} {
		if _, err := r.Open(sealed); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	if b, err := r.Open(first); err != nil || string(b) != "first" {
		t.Errorf("after refusals: %q, %v", b, err)
	}
	otherEnc := bytes.Clone(enc)
	otherEnc[0] ^= 1
	for name, c := range map[string]struct{ enc, info []byte }{"info": {enc, nil}, "encapsulation": {otherEnc, info}} {
		r, err := hpke.NewRecipient(k, c.enc, c.info)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := r.Open(first); err == nil {
			t.Errorf("opened under another %s", name)
		}
	}
	lowEnc, lowKey := bytes.Clone(enc), k.Public()
	clear(lowEnc[hpke.EncapsulatedSize-32:])
	clear(lowKey[hpke.PublicSize-32:])
	large := k.Public()
	large[0], large[1] = 0xff, 0xff
	for _, enc := range [][]byte{nil, enc[1:], append(bytes.Clone(enc), 0), lowEnc} {
		if _, err := hpke.NewRecipient(k, enc, info); err == nil {
			t.Errorf("an encapsulation of %d bytes was taken", len(enc))
		}
	}
	for _, public := range [][]byte{nil, k.Public()[1:], lowKey, large} {
		if _, _, err := hpke.NewSender(public, info); err == nil {
			t.Errorf("a key of %d bytes was taken", len(public))
		}
	}
}
