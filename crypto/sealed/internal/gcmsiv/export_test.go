package gcmsiv

// Polyval is POLYVAL of input, filled up to whole blocks, under key.
func Polyval(key, input []byte) []byte {
	p := newPolyval((*[blockSize]byte)(key))
	p.update(input)
	var out [blockSize]byte
	p.sum.store(&out)
	return out[:]
}
