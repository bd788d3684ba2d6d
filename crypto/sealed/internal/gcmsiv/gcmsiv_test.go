package gcmsiv_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/sealed/internal/gcmsiv"
)

type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

type vector struct{ Key, Nonce, Plaintext, Additional, Result octets }

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/rfc8452.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Vectors
}

// RFC 8452, C.2 (24 vectors) and C.3 (2 vectors, in which the counter wraps).
func TestRFC8452(t *testing.T) {
	all := vectors(t)
	if len(all) != 26 {
		t.Fatalf("%d vectors", len(all))
	}
	for i, v := range all {
		a, err := gcmsiv.New(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Seal(nil, v.Nonce, v.Plaintext, v.Additional); !bytes.Equal(got, v.Result) {
			t.Errorf("vector %d: sealed %x, want %x", i, got, v.Result)
		}
		if got, err := a.Open(nil, v.Nonce, v.Result, v.Additional); err != nil || !bytes.Equal(got, v.Plaintext) {
			t.Errorf("vector %d: opened %x, %v", i, got, err)
		}
	}
}

// RFC 8452, 3 and A: the products and sums of the text.
func TestPolyval(t *testing.T) {
	for _, v := range []struct{ key, input, want string }{
		{"ff000000000000000000000000000000", "66e94bd4ef8a2c3b884cfa59ca342b2e", "ebe563401e7e91ea3ad6426b8140c394"},
		{"25629347589242761d31f826ba4b757b", "4f4f95668c83dfb6401762bb2d01a262d1a24ddd2721d006bbe45f20d3c9f362", "f7a3b47b846119fae5b7866cf5e5b77e"},
	} {
		key, _ := hex.DecodeString(v.key)
		input, _ := hex.DecodeString(v.input)
		if got := hex.EncodeToString(gcmsiv.Polyval(key, input)); got != v.want {
			t.Errorf("POLYVAL(%s, %s) = %s, want %s", v.key, v.input, got, v.want)
		}
	}
}

// The product in masked words equals one computed bit by bit.
func TestPolyvalBitByBit(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for i := range 2000 {
		var key, input [16]byte
		random.Read(key[:])
		random.Read(input[:])
		switch i {
		case 0:
			key = [16]byte(bytes.Repeat([]byte{0xff}, 16))
			input = key
		case 1:
			key = [16]byte{}
		case 2:
			input = [16]byte{15: 0x80}
			key = input
		}
		if got, want := gcmsiv.Polyval(key[:], input[:]), slowDot(input, key); !bytes.Equal(got, want[:]) {
			t.Fatalf("dot(%x, %x) = %x, want %x", input, key, got, want)
		}
	}
}

// slowDot computes a * b * x^-128 as RFC 8452, 3 defines it.
func slowDot(a, b [16]byte) (out [16]byte) {
	var product [256]bool
	for i := range 128 {
		for j := range 128 {
			if a[i/8]>>(i%8)&1 == 1 && b[j/8]>>(j%8)&1 == 1 {
				product[i+j] = !product[i+j]
			}
		}
	}
	// Division by x, 128 times: add the modulus when the lowest term is there.
	for i := range 128 {
		if product[i] {
			for _, term := range []int{0, 121, 126, 127, 128} {
				product[i+term] = !product[i+term]
			}
		}
	}
	for i := range 128 {
		if product[128+i] {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

func TestEveryBitCounts(t *testing.T) {
	key, nonce, additional := bytes.Repeat([]byte{7}, 32), make([]byte, 12), []byte("about")
	a, err := gcmsiv.New(key)
	if err != nil {
		t.Fatal(err)
	}
	plaintext := []byte("seventeen octets.")
	sealed := a.Seal(nil, nonce, plaintext, additional)
	for i := range 8 * len(sealed) {
		bad := bytes.Clone(sealed)
		bad[i/8] ^= 1 << (i % 8)
		room := make([]byte, 0, 64)
		if _, err := a.Open(room, nonce, bad, additional); !errors.Is(err, gcmsiv.ErrOpen) {
			t.Fatalf("bit %d: %v", i, err)
		}
		if !bytes.Equal(room[:len(plaintext)], make([]byte, len(plaintext))) {
			t.Fatalf("bit %d: the refused plaintext was left behind", i)
		}
	}
	for name, open := range map[string]func() ([]byte, error){
		"additional data": func() ([]byte, error) { return a.Open(nil, nonce, sealed, []byte("abouT")) },
		"nonce":           func() ([]byte, error) { return a.Open(nil, []byte("another one!"), sealed, additional) },
		"cut":             func() ([]byte, error) { return a.Open(nil, nonce, sealed[1:], additional) },
		"short":           func() ([]byte, error) { return a.Open(nil, nonce, sealed[:15], additional) },
		"empty":           func() ([]byte, error) { return a.Open(nil, nonce, nil, additional) },
		// Moving octets from one text to the other must not keep the tag.
		"moved": func() ([]byte, error) { return a.Open(nil, nonce, sealed, append(bytes.Clone(additional), 0)) },
	} {
		if got, err := open(); !errors.Is(err, gcmsiv.ErrOpen) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Sealing and opening in place and behind a prefix give the same as elsewhere.
func TestInPlace(t *testing.T) {
	a, err := gcmsiv.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, 12)
	for size := range 70 {
		plaintext := bytes.Repeat([]byte{byte(size)}, size)
		want := a.Seal(nil, nonce, plaintext, nil)
		room := append(make([]byte, 0, size+16), plaintext...)
		if got := a.Seal(room[:0], nonce, room, nil); !bytes.Equal(got, want) || &got[0] != &room[:1][0] {
			t.Fatalf("%d octets in place: %x, want %x", size, got, want)
		}
		if got, err := a.Open(want[:0:len(want)], nonce, want, nil); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("%d octets opened in place: %x, %v", size, got, err)
		}
		if got := a.Seal([]byte("ab"), nonce, plaintext, nil); !bytes.HasPrefix(got, []byte("ab")) || len(got) != 2+size+16 {
			t.Fatalf("%d octets behind a prefix: %x", size, got)
		}
	}
}

func TestKeySize(t *testing.T) {
	for _, n := range []int{0, 16, 24, 31, 33} {
		if _, err := gcmsiv.New(make([]byte, n)); !errors.Is(err, gcmsiv.ErrKeySize) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.Key), []byte(v.Nonce), []byte(v.Result), []byte(v.Additional))
	}
	f.Fuzz(func(t *testing.T, key, nonce, sealed, additional []byte) {
		a, err := gcmsiv.New(key)
		if err != nil || len(nonce) != gcmsiv.NonceSize {
			return
		}
		plaintext, err := a.Open(nil, nonce, sealed, additional)
		if err != nil {
			plaintext = sealed // then at least what we seal must open
			sealed = a.Seal(nil, nonce, plaintext, additional)
		}
		if again := a.Seal(nil, nonce, plaintext, additional); !bytes.Equal(again, sealed) {
			t.Fatalf("opened %x, sealed again as %x", sealed, again)
		}
		if got, err := a.Open(nil, nonce, sealed, additional); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("what was sealed does not open: %v", err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	a, err := gcmsiv.New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	for name, size := range map[string]int{"1KiB": 1 << 10, "64KiB": 64 << 10} {
		b.Run(name, func(b *testing.B) {
			plaintext, room, nonce := make([]byte, size), make([]byte, 0, size+16), make([]byte, 12)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				a.Seal(room, nonce, plaintext, nil)
			}
		})
	}
}
