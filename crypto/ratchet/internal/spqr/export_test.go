package spqr

// Inner workings under test.
var (
	Multiply    = mul
	Inverse     = inverse
	EncodeChunk = encodeChunk
)

// Collect restores an object from chunks by index.
func Collect(size int, at []uint16, chunks [][ChunkSize]byte) (object []byte, complete bool) {
	var c collector
	for i, x := range at {
		complete = c.add(size, x, chunks[i][:])
	}
	if !complete {
		return nil, false
	}
	return c.object(size), true
}

// Jump moves the next sending key ahead by n messages that are lost.
func (s *State) Jump(n int) {
	for range n {
		if _, _, err := s.seal(s.braid.epoch); err != nil {
			panic(err)
		}
	}
}

// SetNextChunk sets the index of the next chunk to be sent.
func (s *State) SetNextChunk(i uint16) { s.braid.next = i }
