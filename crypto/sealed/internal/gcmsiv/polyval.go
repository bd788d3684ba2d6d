package gcmsiv

import (
	"encoding/binary"
	"math/bits"
)

const blockSize = 16

// element is a polynomial over GF(2) of degree below 128: bit i of lo is the
// coefficient of x^i, bit i of hi that of x^(64+i) (RFC 8452, 3).
type element struct{ lo, hi uint64 }

func load(b *[blockSize]byte) element {
	return element{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

func (e element) store(b *[blockSize]byte) {
	binary.LittleEndian.PutUint64(b[:8], e.lo)
	binary.LittleEndian.PutUint64(b[8:], e.hi)
}

// Every fourth bit of a word. In a product of two such words at most 16 terms
// fall on one bit position, and 16 only on the highest, so within 64 bits no
// carry of one position reaches the next position of the same mask.
const (
	every4from0 = 0x1111111111111111
	every4from1 = 0x2222222222222222
	every4from2 = 0x4444444444444444
	every4from3 = 0x8888888888888888
)

// carryless returns the low 64 bits of the product of x and y without carries,
// in constant time: sixteen integer products whose terms lie apart.
func carryless(x, y uint64) uint64 {
	x0, x1, x2, x3 := x&every4from0, x&every4from1, x&every4from2, x&every4from3
	y0, y1, y2, y3 := y&every4from0, y&every4from1, y&every4from2, y&every4from3
	z0 := x0*y0 ^ x1*y3 ^ x2*y2 ^ x3*y1
	z1 := x0*y1 ^ x1*y0 ^ x2*y3 ^ x3*y2
	z2 := x0*y2 ^ x1*y1 ^ x2*y0 ^ x3*y3
	z3 := x0*y3 ^ x1*y2 ^ x2*y1 ^ x3*y0
	return z0&every4from0 | z1&every4from1 | z2&every4from2 | z3&every4from3
}

// polyval is a running POLYVAL (RFC 8452, 3) under one key.
type polyval struct {
	// The key's two words and their sum, and all three with their bits
	// reversed: the high half of a product is the low half of the reversed one.
	h0, h1, h2 uint64
	r0, r1, r2 uint64
	sum        element
}

func newPolyval(key *[blockSize]byte) *polyval {
	h := load(key)
	return &polyval{
		h0: h.lo, h1: h.hi, h2: h.lo ^ h.hi,
		r0: bits.Reverse64(h.lo), r1: bits.Reverse64(h.hi), r2: bits.Reverse64(h.lo ^ h.hi),
	}
}

// block adds one block: sum = dot(sum + x, H), where dot(a, b) is
// a * b * x^-128 modulo x^128 + x^127 + x^126 + x^121 + 1.
func (p *polyval) block(x element) {
	y0, y1 := p.sum.lo^x.lo, p.sum.hi^x.hi
	y2 := y0 ^ y1
	s0, s1 := bits.Reverse64(y0), bits.Reverse64(y1)
	s2 := s0 ^ s1

	// Karatsuba: three products of 128 bits each.
	low0, low1 := carryless(y0, p.h0), bits.Reverse64(carryless(s0, p.r0))>>1
	high0, high1 := carryless(y1, p.h1), bits.Reverse64(carryless(s1, p.r1))>>1
	mid0, mid1 := carryless(y2, p.h2), bits.Reverse64(carryless(s2, p.r2))>>1
	mid0 ^= low0 ^ high0
	mid1 ^= low1 ^ high1
	v0, v1, v2, v3 := low0, low1^mid0, high0^mid1, high1

	// Montgomery reduction: multiples of the modulus, whose lowest term is 1,
	// clear the two low words; dropping them divides by x^128.
	v1 ^= v0<<57 ^ v0<<62 ^ v0<<63
	v2 ^= v0 ^ v0>>1 ^ v0>>2 ^ v0>>7
	v2 ^= v1<<57 ^ v1<<62 ^ v1<<63
	v3 ^= v1 ^ v1>>1 ^ v1>>2 ^ v1>>7
	p.sum = element{v2, v3}
}

// update adds b, filled up with zeros to whole blocks.
func (p *polyval) update(b []byte) {
	for ; len(b) >= blockSize; b = b[blockSize:] {
		p.block(load((*[blockSize]byte)(b)))
	}
	if len(b) > 0 {
		var last [blockSize]byte
		copy(last[:], b)
		p.block(load(&last))
		clear(last[:])
	}
}
