package vault_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/clearbox-im/clearbox/crypto/vault"
)

var (
	secret  = bytes.Repeat([]byte{0x51}, 32)
	header  = vault.Header{Kind: vault.KindExport, Hint: []byte("a hint")}
	context = []byte("whose, and which")
)

const segment = 64 << 10

func container(t testing.TB, frames ...[]byte) []byte {
	t.Helper()
	return salted(t, 7, frames...)
}

// salted makes a container whose salt comes from a seed.
func salted(t testing.TB, seed byte, frames ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := vault.NewWriter(&b, source(seed), secret, header, context)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := w.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read returns the frames before the end or the error.
func read(r io.Reader, secret, context []byte) (frames [][]byte, err error) {
	c, err := vault.NewReader(r)
	if err != nil {
		return nil, err
	}
	if err := c.Open(secret, context); err != nil {
		return nil, err
	}
	for {
		f, err := c.Next()
		if err == io.EOF {
			return frames, nil
		}
		if err != nil {
			if _, again := c.Next(); again != err {
				return frames, errors.New("the error did not stay")
			}
			return frames, err
		}
		frames = append(frames, f)
	}
}

func sameFrames(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func TestContainerRoundTrip(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"none":             nil,
		"an empty one":     {{}},
		"small ones":       {[]byte("one"), {}, []byte("three")},
		"up to a segment":  {content(segment - 8)},
		"over a segment":   {content(segment - 7)},
		"several segments": {content(200_000), []byte("between"), content(segment), content(1)},
	} {
		whole := container(t, frames...)
		sum := int64(0)
		for _, f := range frames {
			sum += int64(len(f))
		}
		if want := vault.SealedContainer(len(header.Hint), len(frames), sum); int64(len(whole)) != want {
			t.Errorf("%s: %d bytes, announced %d", name, len(whole), want)
		}
		for how, r := range map[string]io.Reader{"whole": bytes.NewReader(whole), "bytewise": iotest.OneByteReader(bytes.NewReader(whole)), "end with data": iotest.DataErrReader(bytes.NewReader(whole))} {
			got, err := read(r, secret, context)
			if err != nil || !sameFrames(got, frames) {
				t.Fatalf("%s, %s: %d frames, %v", name, how, len(got), err)
			}
		}
	}
}

// Number and lengths of frames do not show, only a rounded sum.
func TestContainerHidesFrames(t *testing.T) {
	if a, b := container(t, content(100)), container(t, content(40), content(30), nil); len(a) != len(b) {
		t.Errorf("%d and %d bytes", len(a), len(b))
	}
	if a, b := container(t, content(10_000)), container(t, content(10_020)); len(a) != len(b) {
		t.Errorf("%d and %d bytes", len(a), len(b))
	}
}

func TestContainerHeader(t *testing.T) {
	r, err := vault.NewReader(bytes.NewReader(container(t, []byte("x"))))
	if err != nil || r.Header().Kind != vault.KindExport || string(r.Header().Hint) != "a hint" {
		t.Fatalf("%+v, %v", r.Header(), err)
	}
	if _, err := r.Next(); err != vault.ErrSecret {
		t.Fatalf("before Open: %v", err)
	}
	other := bytes.Clone(secret)
	other[31] ^= 1
	for name, c := range map[string]struct{ secret, context []byte }{
		"another secret": {other, context}, "a short secret": {secret[:31], context}, "no secret": {nil, context},
		"another context": {secret, []byte("whose, not which")[:len(context)]}, "no context": {secret, nil}, "a long context": {secret, make([]byte, vault.MaxContext+1)},
	} {
		if err := r.Open(c.secret, c.context); err != vault.ErrSecret {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Open(secret, context); err != nil {
		t.Fatal(err)
	}
	if f, err := r.Next(); err != nil || string(f) != "x" {
		t.Fatalf("%q, %v", f, err)
	}
}

// Cut anywhere, altered anywhere, with segments lost, doubled or exchanged: a
// container is refused, and only frames from before the fault were given.
func TestContainerTampered(t *testing.T) {
	frames := [][]byte{content(100), content(150_000), content(40_000), []byte("last")}
	whole := container(t, frames...)
	const sealedSegment = segment + 16
	start := 8 + 2 + len(header.Hint) + 64
	refuse := func(name string, b []byte) {
		t.Helper()
		got, err := read(bytes.NewReader(b), secret, context)
		if !errors.Is(err, vault.ErrAltered) && !errors.Is(err, vault.ErrSecret) && !errors.Is(err, vault.ErrContainer) {
			t.Fatalf("%s: %d frames, %v", name, len(got), err)
		}
		if len(got) >= len(frames) || !sameFrames(got, frames[:len(got)]) {
			t.Fatalf("%s: wrong frames given", name)
		}
	}
	for n := range start + 1 {
		refuse("cut in the beginning", whole[:n])
	}
	for _, n := range []int{1, 15, 16, 17, sealedSegment - 1, sealedSegment, sealedSegment + 1, 2 * sealedSegment, 3 * sealedSegment, len(whole) - start - 1} {
		refuse("cut", whole[:start+n])
	}
	for at := 0; at < len(whole); at += 1 + at/64 {
		b := bytes.Clone(whole)
		b[at] ^= 4
		refuse("altered", b)
	}
	parts := [][]byte{whole[start:][:sealedSegment], whole[start+sealedSegment:][:sealedSegment], whole[start+2*sealedSegment:]}
	refuse("exchanged", bytes.Join([][]byte{whole[:start], parts[1], parts[0], parts[2]}, nil))
	refuse("doubled", bytes.Join([][]byte{whole[:start], parts[0], parts[0], parts[1], parts[2]}, nil))
	refuse("lost", bytes.Join([][]byte{whole[:start], parts[0], parts[2]}, nil))
	refuse("the last one first", bytes.Join([][]byte{whole[:start], parts[2]}, nil))
	refuse("longer", append(bytes.Clone(whole), 0))
	refuse("twice", append(bytes.Clone(whole), whole...))
	// Segments of another container under the same secret.
	other := salted(t, 8, append([][]byte{[]byte("?")}, frames...)...)
	refuse("of another container", append(bytes.Clone(whole[:start]), other[start:]...))
}

func TestWriterRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		secret  []byte
		h       vault.Header
		context []byte
	}{
		"secret": {secret[:16], header, nil}, "hint": {secret, vault.Header{Hint: make([]byte, 256)}, nil}, "context": {secret, header, make([]byte, vault.MaxContext+1)},
	} {
		if _, err := vault.NewWriter(io.Discard, source(1), c.secret, c.h, c.context); err != vault.ErrSize {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := vault.NewWriter(io.Discard, bytes.NewReader(nil), secret, header, nil); err == nil {
		t.Error("no randomness, no error")
	}
	w, err := vault.NewWriter(io.Discard, source(1), secret, header, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteFrame(make([]byte, vault.MaxFrame+1)); err != vault.ErrFrame {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.WriteFrame(nil) == nil || w.Close() == nil {
		t.Error("written after the end")
	}
	full := errors.New("disk full")
	if w, err = vault.NewWriter(&failing{after: 1, err: full}, source(1), secret, header, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.WriteFrame(content(segment*2)), w.Close()); !errors.Is(err, full) {
		t.Error(err)
	}
}

// failing is a Writer that fails after some calls.
type failing struct {
	after int
	err   error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func FuzzContainer(f *testing.F) {
	whole := container(f, content(10), content(300))
	f.Add(whole, true)
	f.Add(whole[:80], true)
	f.Add([]byte{1, 2, 3}, false)
	f.Fuzz(func(t *testing.T, b []byte, raw bool) {
		if !raw { // a patch
			patch := b
			b = bytes.Clone(whole)
			for i, p := range patch {
				b[i*7%len(b)] ^= p
			}
		}
		frames, err := read(bytes.NewReader(b), secret, context)
		if err == nil && !bytes.Equal(b, whole) {
			t.Fatalf("%d frames from an altered container", len(frames))
		}
	})
}
