package spqr

import (
	"encoding/binary"

	"github.com/clearbox-im/clearbox/crypto/internal/pack"
)

// maxLinks: one earlier epoch, the sending one, and the one whose key is agreed
// while messages of the sending epoch still run.
const maxLinks = 3

// maxKept bounds the kept keys read back from storage in bytes. It is well above
// the protocol's limit, which may be lifted in experiments.
const maxKept = 1 << 22

const storageVersion = 1

// fields lists what the current phase needs, in storage order, and the size of
// the object that is arriving (0: none).
func (b *braid) fields() (fixed [][]byte, arriving int) {
	switch b.phase {
	case OwnerHeader:
		return [][]byte{b.own.Seed[:], b.own.Header[:], b.own.Vector[:], b.mac[:]}, 0
	case OwnerVector:
		return [][]byte{b.own.Seed[:], b.own.Vector[:]}, part1Object
	case OwnerVectorAck:
		return [][]byte{b.own.Seed[:], b.own.Vector[:], b.part1[:]}, 0
	case OwnerAck:
		return [][]byte{b.own.Seed[:], b.part1[:]}, part2Object
	case PeerStart:
		return nil, headerObject
	case PeerHeader:
		return [][]byte{b.header[:]}, 0
	case PeerPart1, PeerPart1Received:
		return [][]byte{b.header[:], b.coins[:], b.part1[:]}, vectorObject
	case PeerPart1Vector:
		return [][]byte{b.header[:], b.coins[:], b.part1[:], b.vector[:]}, 0
	case PeerPart2:
		return [][]byte{b.part2[:]}, 0
	}
	return nil, 0
}

// Append appends the storage form.
func (s *State) Append(dst []byte) []byte {
	b := &s.braid
	dst = append(dst, storageVersion)
	dst = pack.AppendBool(dst, s.initiator)
	dst = append(dst, byte(b.phase))
	dst = binary.BigEndian.AppendUint64(dst, b.epoch)
	dst = binary.BigEndian.AppendUint16(dst, b.next)
	dst = append(dst, b.auth.root[:]...)
	dst = append(dst, b.auth.mac[:]...)
	fixed, arriving := b.fields()
	for _, f := range fixed {
		dst = append(dst, f...)
	}
	if arriving != 0 {
		dst = b.in.append(dst)
	}
	dst = append(dst, s.root[:]...)
	dst = append(dst, byte(len(s.links)))
	for i := range s.links {
		l := &s.links[i]
		dst = binary.BigEndian.AppendUint64(dst, l.epoch)
		for _, c := range []*chain{&l.send, &l.recv} {
			dst = append(dst, c.key[:]...)
			dst = binary.BigEndian.AppendUint32(dst, c.counter)
			dst = pack.AppendBytes(dst, c.kept)
		}
	}
	return dst
}

// Parse reads the storage form. The state shares memory with b, which must not
// change afterwards; b itself is never written to.
func Parse(b []byte) (*State, error) {
	r := pack.NewReader(b)
	s := new(State)
	if r.Byte() != storageVersion {
		return nil, pack.ErrDamaged
	}
	s.initiator = r.Bool()
	s.braid.phase = Phase(r.Byte())
	s.braid.epoch = r.Uint64()
	s.braid.next = r.Uint16()
	r.Fixed(s.braid.auth.root[:])
	r.Fixed(s.braid.auth.mac[:])
	if s.braid.phase >= phaseCount || s.braid.epoch == 0 {
		return nil, pack.ErrDamaged
	}
	fixed, arriving := s.braid.fields()
	for _, f := range fixed {
		r.Fixed(f)
	}
	if arriving != 0 {
		s.braid.in.read(r, arriving)
	}
	r.Fixed(s.root[:])
	n := int(r.Byte())
	if n == 0 || n > maxLinks {
		return nil, pack.ErrDamaged
	}
	s.links = make([]link, n, maxLinks+1)
	for i := range s.links {
		l := &s.links[i]
		l.epoch = r.Uint64()
		for _, c := range []*chain{&l.send, &l.recv} {
			r.Fixed(c.key[:])
			c.counter = r.Uint32()
			c.kept = readKept(r, c.counter)
		}
		if i > 0 && l.epoch != s.links[i-1].epoch+1 {
			r.Fail()
		}
	}
	if err := r.Done(); err != nil {
		return nil, err
	}
	return s, nil
}

func readKept(r *pack.Reader, counter uint32) []byte {
	kept := r.Bytes(maxKept)
	if len(kept)%entrySize != 0 {
		r.Fail()
		return nil
	}
	last := uint32(0)
	for i := 0; i < len(kept); i += entrySize {
		n := binary.BigEndian.Uint32(kept[i:])
		if n <= last || n > counter {
			r.Fail()
			return nil
		}
		last = n
	}
	return kept
}
