package spqr

// Arithmetic in GF(2^16) with the modulus x^16 + x^12 + x^3 + x + 1 (0x1100B).
// Only public data passes through it: what is streamed in chunks is readable on
// the wire.

// multiply returns the product of two polynomials over GF(2) without reduction.
func multiply(a, b uint16) uint32 {
	var p uint32
	x, y := uint32(a), uint32(b)
	for y != 0 {
		p ^= x & -(y & 1)
		x <<= 1
		y >>= 1
	}
	return p
}

// reduce brings a product back into the field. Each fold replaces x^16 by
// x^12 + x^3 + x + 1, so the excess shrinks by four bits.
func reduce(p uint32) uint16 {
	for p>>16 != 0 {
		h := p >> 16
		p = p&0xffff ^ h<<12 ^ h<<3 ^ h<<1 ^ h
	}
	return uint16(p)
}

func mul(a, b uint16) uint16 { return reduce(multiply(a, b)) }

// inverse returns a^(2^16-2), the inverse of a nonzero element.
func inverse(a uint16) uint16 {
	// 2^16-2 in binary is fifteen ones and a zero.
	r := a
	for range 14 {
		r = mul(mul(r, r), a)
	}
	return mul(r, r)
}

// invertAll replaces each nonzero element by its inverse, at the cost of one
// inversion and three multiplications each.
func invertAll(v []uint16) {
	prefix := make([]uint16, len(v))
	product := uint16(1)
	for i, a := range v {
		prefix[i] = product
		product = mul(product, a)
	}
	inv := inverse(product)
	for i := len(v) - 1; i >= 0; i-- {
		v[i], inv = mul(inv, prefix[i]), mul(inv, v[i])
	}
}
