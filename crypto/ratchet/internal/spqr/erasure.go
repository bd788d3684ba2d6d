package spqr

import (
	"encoding/binary"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/internal/pack"
)

// ChunkSize is the length in bytes of one chunk of a streamed object.
const ChunkSize = 32

const wordsPerChunk = ChunkSize / 2

// The erasure code reads an object as big-endian 16-bit words; word w is the
// value of polynomial w mod 16 at x = w div 16, and chunk j holds all sixteen
// polynomials at x = j. So the first k chunks are the object itself, later ones
// are extrapolated, and any k distinct chunks give the object back.

// points are distinct abscissas with the denominators of their Lagrange
// weights, inverted.
type points struct {
	at  []uint16
	inv []uint16 // 1 / product over m != i of (at[i] - at[m])
}

func newPoints(at []uint16) points {
	inv := make([]uint16, len(at))
	for i, a := range at {
		d := uint16(1)
		for m, b := range at {
			if m != i {
				d = mul(d, a^b)
			}
		}
		inv[i] = d
	}
	invertAll(inv)
	return points{at, inv}
}

// evaluate appends the chunk at x, which is none of the points, given the
// chunks at the points one after the other in data.
func (p points) evaluate(dst []byte, x uint16, data []byte) []byte {
	full := uint16(1)
	weights := make([]uint16, len(p.at))
	for i, a := range p.at {
		weights[i] = x ^ a
		full = mul(full, x^a)
	}
	invertAll(weights)
	var sum [wordsPerChunk]uint32 // unreduced: reduction is linear
	for i, w := range weights {
		w = mul(mul(w, full), p.inv[i])
		chunk := data[i*ChunkSize : (i+1)*ChunkSize]
		var words [wordsPerChunk]uint32
		for j := range words {
			words[j] = uint32(binary.BigEndian.Uint16(chunk[2*j:]))
		}
		for ; w != 0; w >>= 1 {
			mask := -uint32(w & 1)
			for j := range words {
				sum[j] ^= words[j] & mask
				words[j] <<= 1
			}
		}
	}
	for _, s := range sum {
		dst = binary.BigEndian.AppendUint16(dst, reduce(s))
	}
	return dst
}

// encodeChunk returns chunk x of object, whose length is a multiple of
// ChunkSize.
func encodeChunk(object []byte, x uint16) [ChunkSize]byte {
	k := len(object) / ChunkSize
	if int(x) < k {
		return [ChunkSize]byte(object[int(x)*ChunkSize:])
	}
	at := make([]uint16, k)
	for i := range at {
		at[i] = uint16(i)
	}
	return [ChunkSize]byte(newPoints(at).evaluate(make([]byte, 0, ChunkSize), x, object))
}

// collector gathers distinct chunks of one object until there are enough.
type collector struct {
	at   []uint16
	data []byte // the chunks in order of at
}

// add takes one chunk; repeated and superfluous ones change nothing. It reports
// whether size bytes can be restored now.
func (c *collector) add(size int, x uint16, chunk []byte) bool {
	if len(c.data) < size && !slices.Contains(c.at, x) {
		c.at = append(c.at, x)
		c.data = append(c.data, chunk[:ChunkSize]...)
	}
	return len(c.data) >= size
}

// object restores size bytes from exactly size/ChunkSize chunks.
func (c *collector) object(size int) []byte {
	out := make([]byte, 0, size)
	var p points
	for x := range uint16(size / ChunkSize) {
		if i := slices.Index(c.at, x); i >= 0 {
			out = append(out, c.data[i*ChunkSize:(i+1)*ChunkSize]...)
			continue
		}
		if p.at == nil {
			p = newPoints(c.at)
		}
		out = p.evaluate(out, x, c.data)
	}
	return out
}

func (c *collector) append(b []byte) []byte {
	b = append(b, byte(len(c.at)))
	for i, x := range c.at {
		b = binary.BigEndian.AppendUint16(b, x)
		b = append(b, c.data[i*ChunkSize:(i+1)*ChunkSize]...)
	}
	return b
}

// read takes a collector that is still short of size bytes.
func (c *collector) read(r *pack.Reader, size int) {
	n := int(r.Byte())
	if n >= size/ChunkSize {
		r.Fail()
		return
	}
	for range n {
		x := r.Uint16()
		var chunk [ChunkSize]byte
		r.Fixed(chunk[:])
		if !r.OK() || slices.Contains(c.at, x) {
			r.Fail()
			return
		}
		c.at = append(c.at, x)
		c.data = append(c.data, chunk[:]...)
	}
}
