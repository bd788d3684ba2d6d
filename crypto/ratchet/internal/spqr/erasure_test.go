package spqr_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

func TestFieldAxioms(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2_000 {
		a, b, c := uint16(r.Uint32()), uint16(r.Uint32()), uint16(r.Uint32())
		if spqr.Multiply(a, b) != spqr.Multiply(b, a) || spqr.Multiply(a, 1) != a ||
			spqr.Multiply(spqr.Multiply(a, b), c) != spqr.Multiply(a, spqr.Multiply(b, c)) ||
			spqr.Multiply(a, b^c) != spqr.Multiply(a, b)^spqr.Multiply(a, c) {
			t.Fatalf("%04x %04x %04x", a, b, c)
		}
		if a != 0 && spqr.Multiply(a, spqr.Inverse(a)) != 1 {
			t.Fatalf("inverse of %04x", a)
		}
	}
	// x * x^15 = x^16 = x^12 + x^3 + x + 1.
	if got := spqr.Multiply(2, 0x8000); got != 0x100b {
		t.Fatalf("x^16 is %04x", got)
	}
}

// The first chunks are the object itself; any k distinct ones restore it.
func TestAnyChunksRestoreTheObject(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, size := range []int{96, 160, 960, 1152} {
		object := make([]byte, size)
		for i := range object {
			object[i] = byte(r.Uint32())
		}
		k := size / spqr.ChunkSize
		for i := range k {
			if c := spqr.EncodeChunk(object, uint16(i)); !bytes.Equal(c[:], object[i*32:i*32+32]) {
				t.Fatalf("size %d: chunk %d is not the object's", size, i)
			}
		}
		for range 20 {
			var at []uint16
			var chunks [][32]byte
			seen := map[uint16]bool{}
			for len(at) < k {
				x := uint16(r.IntN(1 << 16))
				if r.IntN(2) == 0 {
					x = uint16(r.IntN(2 * k))
				}
				if seen[x] {
					continue
				}
				seen[x] = true
				at = append(at, x)
				chunks = append(chunks, spqr.EncodeChunk(object, x))
			}
			if _, complete := spqr.Collect(size, at[:k-1], chunks[:k-1]); complete {
				t.Fatal("complete with a chunk too few")
			}
			got, complete := spqr.Collect(size, at, chunks)
			if !complete || !bytes.Equal(got, object) {
				t.Fatalf("size %d from chunks %v: wrong object", size, at)
			}
		}
	}
}

func TestRepeatedChunksDoNotCount(t *testing.T) {
	object := make([]byte, 96)
	c := spqr.EncodeChunk(object, 7)
	if _, complete := spqr.Collect(96, []uint16{7, 7, 7}, [][32]byte{c, c, c}); complete {
		t.Fatal("one chunk three times completed an object of three")
	}
}

func BenchmarkEncodeVectorChunk(b *testing.B) {
	object := make([]byte, 1152)
	for b.Loop() {
		spqr.EncodeChunk(object, 100)
	}
}
