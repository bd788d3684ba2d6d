package vault_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/clearbox-im/clearbox/crypto/vault"
)

func source(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{99}).Read(b)
	return b
}

// encrypted returns an attachment of n bytes and its ciphertext.
func encrypted(t testing.TB, n int) (*vault.Attachment, []byte) {
	t.Helper()
	key, err := vault.NewAttachmentKey(source(1))
	if err != nil {
		t.Fatal(err)
	}
	e, err := vault.NewEncrypter(key, int64(n), bytes.NewReader(content(n)))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(e)
	if err != nil {
		t.Fatal(err)
	}
	return e.Attachment(), sealed
}

func decrypt(a *vault.Attachment, sealed []byte) ([]byte, error) {
	d, err := a.Decrypt(bytes.NewReader(sealed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(d)
}

var attachmentSizes = []int{0, 1, 15, 16, 4095, 4096, 4097, vault.ChunkSize - 1, vault.ChunkSize, vault.ChunkSize + 1, 3*vault.ChunkSize - 7, 500_000}

func TestAttachmentRoundTrip(t *testing.T) {
	for _, n := range attachmentSizes {
		a, sealed := encrypted(t, n)
		if int64(len(sealed)) != vault.SealedAttachment(int64(n)) || a.Digest != sha256.Sum256(sealed) || a.Size != int64(n) {
			t.Fatalf("%d bytes: %d sealed", n, len(sealed))
		}
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(sealed), "in pieces": iotest.HalfReader(bytes.NewReader(sealed)), "end with data": iotest.DataErrReader(bytes.NewReader(sealed))} {
			d, err := a.Decrypt(r)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(d); err != nil || !bytes.Equal(got, content(n)) {
				t.Fatalf("%d bytes, %s: %v", n, name, err)
			}
		}
	}
}

func TestAttachmentPadding(t *testing.T) {
	for _, c := range []struct{ n, padded int64 }{
		{0, 4096}, {1, 4096}, {4096, 4096}, {4097, 4352}, {65_535, 65_536}, {65_537, 67_584}, {20 << 20, 20 << 20}, {20<<20 + 1, 20<<20 + 512<<10},
	} {
		if got := vault.PaddedAttachment(c.n); got != c.padded {
			t.Errorf("%d becomes %d, want %d", c.n, got, c.padded)
		}
	}
	sizes := map[int64]bool{}
	last := int64(0)
	for n := int64(0); n < 1<<20; n += 61 {
		p := vault.PaddedAttachment(n)
		if p < n || p < last || p%16 != 0 || n > 4096 && p-n > n/16 {
			t.Fatalf("%d becomes %d", n, p)
		}
		sizes[p] = true
		last = p
	}
	if len(sizes) > 200 {
		t.Fatalf("%d sizes below 1 MiB", len(sizes))
	}
}

func TestAttachmentTampered(t *testing.T) {
	const n = 2*vault.ChunkSize + 100
	a, sealed := encrypted(t, n)
	chunk := vault.ChunkSize + 32
	swapped := bytes.Clone(sealed)
	copy(swapped, sealed[chunk:2*chunk])
	copy(swapped[chunk:], sealed[:chunk])
	other, _ := encrypted(t, n)
	other.Key[0] ^= 1
	for name, c := range map[string]struct {
		a    *vault.Attachment
		b    []byte
		want error
	}{
		"chunks exchanged":   {a, swapped, vault.ErrAttachment},
		"a chunk twice":      {a, append(bytes.Clone(sealed[:chunk]), sealed...), vault.ErrAttachment},
		"a chunk less":       {a, sealed[chunk:], vault.ErrAttachment},
		"the end cut":        {a, sealed[:len(sealed)-1], io.ErrUnexpectedEOF},
		"the last chunk cut": {a, sealed[:2*chunk], io.ErrUnexpectedEOF},
		"nothing":            {a, nil, io.ErrUnexpectedEOF},
		"longer":             {a, append(bytes.Clone(sealed), 0), vault.ErrAttachment},
		"cipher key":         {other, sealed, nil}, // the MAC key is right; the plaintext is not
		"size":               {&vault.Attachment{Key: a.Key, Size: n + vault.ChunkSize, Digest: a.Digest}, sealed, vault.ErrAttachment},
		"digest":             {&vault.Attachment{Key: a.Key, Size: n}, sealed, vault.ErrAttachment},
		"size below zero":    {&vault.Attachment{Key: a.Key, Size: -1}, sealed, vault.ErrSize},
		"size above all":     {&vault.Attachment{Key: a.Key, Size: vault.MaxAttachment + 1}, sealed, vault.ErrSize},
	} {
		got, err := decrypt(c.a, c.b)
		if !errors.Is(err, c.want) || c.want == nil && bytes.Equal(got, content(n)) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want != nil && !bytes.HasPrefix(content(n), got) {
			t.Errorf("%s: bytes given that are not of the attachment", name)
		}
	}
	for at := 0; at < len(sealed); at += 1013 {
		b := bytes.Clone(sealed)
		b[at] ^= 0x10
		got, err := decrypt(a, b)
		if !errors.Is(err, vault.ErrAttachment) {
			t.Fatalf("byte %d altered: %v", at, err)
		}
		if len(got) != at/chunk*vault.ChunkSize || !bytes.HasPrefix(content(n), got) {
			t.Fatalf("byte %d altered: %d bytes given", at, len(got))
		}
	}
}

// The last chunk waits for the digest.
func TestAttachmentDigestBeforeTheEnd(t *testing.T) {
	a, sealed := encrypted(t, 100)
	a.Digest[0] ^= 1
	if got, err := decrypt(a, sealed); !errors.Is(err, vault.ErrAttachment) || len(got) != 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestAttachmentRanges(t *testing.T) {
	const n = 3*vault.ChunkSize + 77
	a, sealed := encrypted(t, n)
	for _, c := range []struct{ offset, length int64 }{
		{0, 1}, {0, n}, {n - 1, 1}, {vault.ChunkSize - 1, 2}, {vault.ChunkSize, vault.ChunkSize}, {2*vault.ChunkSize + 5, 9}, {10, 2 * vault.ChunkSize},
	} {
		from, to, err := a.Range(c.offset, c.length)
		if err != nil {
			t.Fatal(err)
		}
		d, err := a.DecryptRange(c.offset, c.length, bytes.NewReader(sealed[from:to]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(d)
		if err != nil || !bytes.Equal(got, content(n)[c.offset:c.offset+c.length]) {
			t.Fatalf("%+v: %d bytes, %v", c, len(got), err)
		}
		// The bytes of another place are refused.
		if from > 0 {
			if d, err = a.DecryptRange(c.offset, c.length, bytes.NewReader(sealed)); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(d); !errors.Is(err, vault.ErrAttachment) || len(got) != 0 {
				t.Fatalf("%+v at another place: %d bytes, %v", c, len(got), err)
			}
		}
		if d, err = a.DecryptRange(c.offset, c.length, bytes.NewReader(sealed[from:to-1])); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(d); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%+v cut: %v", c, err)
		}
	}
	for _, c := range []struct{ offset, length int64 }{{0, 0}, {-1, 2}, {n, 1}, {0, n + 1}, {1 << 62, 1 << 62}, {0, -1}} {
		if _, _, err := a.Range(c.offset, c.length); err != vault.ErrSize {
			t.Errorf("%+v: %v", c, err)
		}
		if _, err := a.DecryptRange(c.offset, c.length, nil); err != vault.ErrSize {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestEncrypterHoldsToItsSize(t *testing.T) {
	key, err := vault.NewAttachmentKey(source(1))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		size int64
		from io.Reader
		want error
	}{
		"less":  {100, strings.NewReader("less"), io.ErrUnexpectedEOF},
		"more":  {3, strings.NewReader("more"), vault.ErrSize},
		"fails": {3, iotest.ErrReader(io.ErrClosedPipe), io.ErrClosedPipe},
	} {
		e, err := vault.NewEncrypter(key, c.size, c.from)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(e); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, size := range []int64{-1, vault.MaxAttachment + 1} {
		if _, err := vault.NewEncrypter(key, size, nil); err != vault.ErrSize {
			t.Error(err)
		}
	}
}

// An upload that broke off goes on with the same bytes; another key gives others.
func TestAttachmentRepeats(t *testing.T) {
	_, once := encrypted(t, 100_000)
	_, again := encrypted(t, 100_000)
	if !bytes.Equal(once, again) {
		t.Fatal("the same key gives another ciphertext")
	}
	key, err := vault.NewAttachmentKey(source(2))
	if err != nil {
		t.Fatal(err)
	}
	e, err := vault.NewEncrypter(key, 100_000, bytes.NewReader(content(100_000)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := io.ReadAll(e)
	if err != nil || bytes.Equal(once[:16], other[:16]) || bytes.Equal(once[:16], once[vault.ChunkSize+32:][:16]) {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %x %+v", key, key, &vault.Attachment{Key: key}); strings.Contains(s, fmt.Sprintf("%x", key[:4])) || strings.Contains(s, fmt.Sprint(key[0], key[1])) {
		t.Fatal("the key was printed")
	}
}

func FuzzDecryptAttachment(f *testing.F) {
	a, sealed := encrypted(f, 5000)
	f.Add(int64(5000), uint16(0), []byte{1})
	f.Add(int64(5000), uint16(4000), []byte{})
	f.Add(int64(4999), uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, size int64, at uint16, patch []byte) {
		b := bytes.Clone(sealed)
		for i, p := range patch {
			b[(int(at)+i)%len(b)] ^= p
		}
		c := *a
		c.Size = size
		got, err := decrypt(&c, b)
		if err == nil && !bytes.Equal(b, sealed) {
			t.Fatal("an altered attachment was read")
		}
		if len(got) > len(sealed) {
			t.Fatal("more than there is")
		}
	})
}
