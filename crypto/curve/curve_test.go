package curve_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/edwards25519"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey(t testing.TB) *curve.PrivateKey {
	t.Helper()
	k, err := curve.GeneratePrivateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestParsePublicKey(t *testing.T) {
	k := newKey(t).Public()
	good := k.Bytes()
	if len(good) != 33 || good[0] != 0x05 {
		t.Fatalf("serialized as %x", good)
	}
	got, err := curve.ParsePublicKey(good)
	if err != nil || got != k {
		t.Fatalf("read back as %x, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"empty":       nil,
		"no type":     good[1:],
		"short":       good[:32],
		"long":        append(bytes.Clone(good), 0),
		"wrong type":  append([]byte{0x06}, good[1:]...),
		"zero type":   append([]byte{0x00}, good[1:]...),
		"ed25519 DER": append([]byte{0x30, 0x2a}, good[2:]...),
	} {
		if _, err := curve.ParsePublicKey(b); !errors.Is(err, curve.ErrPublicKeyEncoding) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateKeyForm(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := curve.NewPrivateKey(make([]byte, n)); !errors.Is(err, curve.ErrPrivateKeyEncoding) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	zero, err := curve.NewPrivateKey(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if b := zero.Bytes(); b[0] != 0x00 || b[31] != 0x40 {
		t.Errorf("not clamped: %x", b)
	}
	k, err := curve.NewPrivateKey(bytes.Repeat([]byte{0xff}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if b := k.Bytes(); b[0] != 0xf8 || b[31] != 0x7f {
		t.Errorf("not clamped: %x", b)
	}
	again, err := curve.NewPrivateKey(k.Bytes())
	if err != nil || again.Public() != k.Public() || !bytes.Equal(again.Bytes(), k.Bytes()) {
		t.Error("a saved key is another key when loaded")
	}
	if _, err := curve.GeneratePrivateKey(strings.NewReader("short")); err == nil {
		t.Error("a short random source made a key")
	}
	broken := errors.New("broken")
	if _, err := k.Sign(iotest.ErrReader(broken), nil); !errors.Is(err, broken) {
		t.Errorf("signed without randomness: %v", err)
	}
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	k := newKey(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, v := range []any{k, *k} {
			if got := fmt.Sprintf(verb, v); got != "curve.PrivateKey(secret)" {
				t.Errorf("%s of %T printed something else", verb, v)
			}
		}
	}
}

// RFC 7748, 5.2.
func TestX25519Vectors(t *testing.T) {
	for _, v := range []struct{ scalar, u, out string }{
		{
			"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
			"e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
			"c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
		},
		{
			"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
			"e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
			"95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
		},
	} {
		k, err := curve.NewPrivateKey(unhex(t, v.scalar))
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.DH(curve.PublicKey(unhex(t, v.u)))
		if err != nil || !bytes.Equal(got, unhex(t, v.out)) {
			t.Errorf("got %x, %v, want %s", got, err, v.out)
		}
	}
}

// RFC 7748, 5.2, the iterated vector after 1 and after 1,000 rounds.
func TestX25519Iterated(t *testing.T) {
	k := append([]byte{9}, make([]byte, 31)...)
	u := bytes.Clone(k)
	want := map[int]string{
		1:    "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
		1000: "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
	}
	for i := 1; i <= 1000; i++ {
		priv, err := curve.NewPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		out, err := priv.DH(curve.PublicKey(u))
		if err != nil {
			t.Fatal(err)
		}
		u, k = k, out
		if w, ok := want[i]; ok && hex.EncodeToString(out) != w {
			t.Fatalf("round %d: %x, want %s", i, out, w)
		}
	}
}

// RFC 7748, 6.1.
func TestX25519Agreement(t *testing.T) {
	alice, err := curve.NewPrivateKey(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
	if err != nil {
		t.Fatal(err)
	}
	bob, err := curve.NewPrivateKey(unhex(t, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
	if err != nil {
		t.Fatal(err)
	}
	if got := alice.Public(); got != curve.PublicKey(unhex(t, "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")) {
		t.Errorf("public key of Alice: %x", got)
	}
	if got := bob.Public(); got != curve.PublicKey(unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")) {
		t.Errorf("public key of Bob: %x", got)
	}
	want := unhex(t, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
	for _, side := range []struct {
		name string
		own  *curve.PrivateKey
		peer curve.PublicKey
	}{{"Alice", alice, bob.Public()}, {"Bob", bob, alice.Public()}} {
		if got, err := side.own.DH(side.peer); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v", side.name, got, err)
		}
	}
}

// The points of order 1, 2, 4 and 8 of the curve and its twist, with the
// encodings that reduce to them (top bit set, or not below p).
func lowOrderKeys(t testing.TB) map[string]curve.PublicKey {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(n *big.Int) (k curve.PublicKey) {
		n.FillBytes(k[:])
		for i := range 16 {
			k[i], k[31-i] = k[31-i], k[i]
		}
		return k
	}
	add := func(n int64) *big.Int { return new(big.Int).Add(p, big.NewInt(n)) }
	keys := map[string]curve.PublicKey{
		"order 2":               encode(big.NewInt(0)),
		"order 4":               encode(big.NewInt(1)),
		"order 4 of the twist":  encode(add(-1)),
		"order 2, plus p":       encode(add(0)),
		"order 4, plus p":       encode(add(1)),
		"order 8, first point":  curve.PublicKey(unhex(t, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
		"order 8, second point": curve.PublicKey(unhex(t, "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
	}
	for name, k := range keys {
		k[31] |= 0x80
		keys[name+", top bit"] = k
	}
	return keys
}

func TestLowOrderIsRefused(t *testing.T) {
	k := newKey(t)
	for name, p := range lowOrderKeys(t) {
		if _, err := k.DH(p); !errors.Is(err, curve.ErrLowOrder) {
			t.Errorf("%s: key agreement: %v", name, err)
		}
		if p.CheckBase() == nil {
			t.Errorf("%s: accepted as base key", name)
		}
		// With a key A of low order and s = 0, R = -hA takes few values: some
		// message would soon verify if the key were not refused.
		signature := make([]byte, 64)
		signature[0] = 1
		for i := range 64 {
			if curve.Verify(p, []byte{byte(i)}, signature) {
				t.Fatalf("%s: forged a signature", name)
			}
		}
	}
}

// montgomery gives the u-coordinate of an Edwards point.
func montgomery(p *edwards25519.Point) curve.PublicKey {
	return curve.PublicKey(p.BytesMontgomery())
}

func TestCheckBase(t *testing.T) {
	for range 50 {
		if err := newKey(t).Public().CheckBase(); err != nil {
			t.Fatalf("an honest key: %v", err)
		}
	}
	honest, err := new(edwards25519.Point).SetBytes(edwards25519.NewGeneratorPoint().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	// A point of order 8 on edwards25519.
	eight, err := new(edwards25519.Point).SetBytes(unhex(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"))
	if err != nil {
		t.Fatal(err)
	}
	torsion := new(edwards25519.Point).Set(eight)
	for i := 1; i < 8; i++ {
		mixed := montgomery(new(edwards25519.Point).Add(honest, torsion))
		if err := mixed.CheckBase(); !errors.Is(err, curve.ErrTorsion) {
			t.Errorf("%d times the point of order 8 added: %v", i, err)
		}
		torsion.Add(torsion, eight)
	}

	k := newKey(t).Public()
	high := k
	high[31] |= 0x80
	if err := high.CheckBase(); !errors.Is(err, curve.ErrNotCanonical) {
		t.Errorf("top bit set: %v", err)
	}
	// 9 + p is the base point in another encoding.
	if err := (curve.PublicKey(unhex(t, "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))).CheckBase(); !errors.Is(err, curve.ErrNotCanonical) {
		t.Errorf("base point plus p: %v", err)
	}
	// u = 2 lies on the twist.
	if err := (curve.PublicKey{2}).CheckBase(); !errors.Is(err, curve.ErrNotOnCurve) {
		t.Errorf("twist: %v", err)
	}
	if err := (curve.PublicKey{9}).CheckBase(); err != nil {
		t.Errorf("base point: %v", err)
	}
}
