package spqr

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits bound the work and the memory that a peer can cause.
type Limits struct {
	Jump uint32 // keys that may be passed over by one message
	Kept int    // passed-over keys kept in one chain
}

// Errors about keys that cannot be had.
var (
	ErrDuplicate    = errors.New("spqr: key already used or no longer kept")
	ErrJump         = errors.New("spqr: message too far ahead")
	ErrEpochDropped = errors.New("spqr: message of an epoch no longer kept")
	errExhausted    = errors.New("spqr: chain exhausted")
)

const (
	labelStart = "Signal PQ Ratchet V1 Chain  Start" // both blanks belong to it
	labelNext  = "Signal PQ Ratchet V1 Chain Next"
	labelEpoch = "Signal PQ Ratchet V1 Chain Add Epoch"
)

// entrySize is the length of one kept key: counter and key.
const entrySize = 4 + 32

// chain derives one key for each message of one direction and epoch. A zero key
// means that the chain is closed.
type chain struct {
	key     [32]byte
	counter uint32
	kept    []byte // entries, ascending by counter; never modified in place
}

// step returns the next key.
func (c *chain) step() [32]byte {
	c.counter++
	info := make([]byte, 0, 4+len(labelNext))
	info = binary.BigEndian.AppendUint32(info, c.counter)
	info = append(info, labelNext...)
	out := derive(nil, c.key[:], string(info), 64)
	copy(c.key[:], out)
	key := [32]byte(out[32:])
	clear(out)
	return key
}

// at returns the key of counter n, keeping those passed over.
func (c *chain) at(n uint32, limits Limits) ([32]byte, error) {
	if n <= c.counter {
		return c.takeKept(n)
	}
	gap := n - c.counter
	if gap > limits.Jump {
		return [32]byte{}, fmt.Errorf("%w: by %d", ErrJump, gap)
	}
	if gap > 1 {
		c.skipTo(n-1, limits.Kept)
	}
	return c.step(), nil
}

// skipTo moves the chain to counter n and keeps the newest keys passed over.
func (c *chain) skipTo(n uint32, limit int) {
	fresh := int(min(uint64(n-c.counter), uint64(limit)))
	drop := max(0, len(c.kept)/entrySize+fresh-limit)
	kept := make([]byte, 0, len(c.kept)-drop*entrySize+fresh*entrySize)
	kept = append(kept, c.kept[drop*entrySize:]...)
	for c.counter < n {
		key := c.step()
		if n-c.counter < uint32(fresh) {
			kept = binary.BigEndian.AppendUint32(kept, c.counter)
			kept = append(kept, key[:]...)
		}
	}
	c.kept = kept
}

func (c *chain) takeKept(n uint32) ([32]byte, error) {
	for i := 0; i < len(c.kept); i += entrySize {
		if binary.BigEndian.Uint32(c.kept[i:]) == n {
			key := [32]byte(c.kept[i+4:])
			kept := make([]byte, 0, len(c.kept)-entrySize)
			kept = append(kept, c.kept[:i]...)
			c.kept = append(kept, c.kept[i+entrySize:]...)
			return key, nil
		}
	}
	return [32]byte{}, ErrDuplicate
}

// link holds both chains of one epoch.
type link struct {
	epoch      uint64
	send, recv chain
}

// addEpoch derives the chains of an epoch from its key and the root.
func (s *State) addEpoch(epoch uint64, salt, secret []byte, label string) {
	out := derive(salt, secret, label, 96)
	copy(s.root[:], out)
	l := link{epoch: epoch}
	first, second := &l.send, &l.recv // initiator to responder, and back
	if !s.initiator {
		first, second = second, first
	}
	copy(first.key[:], out[32:])
	copy(second.key[:], out[64:])
	clear(out)
	s.links = append(s.links, l)
}

// open returns the key for a message received.
func (s *State) open(m *Message, limits Limits) ([32]byte, error) {
	epoch := m.Epoch - 1 // an epoch's key serves from the next epoch on
	for i := range s.links {
		if s.links[i].epoch == epoch {
			return s.links[i].recv.at(m.Counter, limits)
		}
	}
	if epoch < s.links[0].epoch {
		return [32]byte{}, ErrEpochDropped
	}
	return [32]byte{}, fmt.Errorf("%w: %d", ErrEpoch, m.Epoch)
}

// seal returns key and counter for a message to be sent in a braid epoch. When
// the epoch moves, one earlier epoch is kept for messages still under way.
func (s *State) seal(epoch uint64) ([32]byte, uint32, error) {
	epoch--
	for len(s.links) > 1 && s.links[1].epoch < epoch {
		s.links = s.links[1:]
	}
	for i := range s.links {
		l := &s.links[i]
		switch {
		case l.epoch < epoch:
			clear(l.send.key[:])
		case l.epoch == epoch:
			if l.send.counter == 1<<32-1 {
				return [32]byte{}, 0, errExhausted
			}
			key := l.send.step()
			return key, l.send.counter, nil
		}
	}
	return [32]byte{}, 0, fmt.Errorf("%w: %d", ErrEpoch, epoch)
}
