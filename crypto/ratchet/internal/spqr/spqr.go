// Package spqr is the sparse post-quantum ratchet of a session: the ML-KEM Braid
// that agrees on a new key every few dozen messages, 32 bytes at a time, and the
// key chains fed by it. It gives one key for each message; mixing that key with
// the classical ratchet, encrypting and authenticating messages is the caller's
// part.
//
// A State is changed in place. Callers that may have to undo a step parse a
// fresh State from its storage form.
package spqr

import "io"

// State is one side of a post-quantum ratchet. It is not safe for concurrent
// use.
type State struct {
	initiator bool
	braid     braid
	root      [32]byte
	links     []link // ascending, at most maxLinks
}

// New starts a side from the 32-byte authentication key of the key agreement.
func New(key []byte, initiator bool) *State {
	s := &State{initiator: initiator}
	s.braid.epoch = 1
	s.braid.auth = newAuthenticator(key)
	s.braid.phase = PeerStart
	if initiator {
		s.braid.phase = OwnerStart
	}
	s.addEpoch(0, nil, key, labelStart)
	return s
}

// Send appends the next message to dst and returns it with the key that protects the session
// message it travels in. Random is read only when a key pair or an
// encapsulation is made.
func (s *State) Send(random io.Reader, dst []byte) (message []byte, key [32]byte, err error) {
	m, fresh, err := s.braid.send(random)
	if err != nil {
		return nil, key, err
	}
	if fresh != nil {
		s.addEpoch(m.Epoch, s.root[:], fresh, labelEpoch)
		clear(fresh)
	}
	if key, m.Counter, err = s.seal(m.Epoch); err != nil {
		return nil, key, err
	}
	return m.Append(dst), key, nil
}

// Open returns the key of a received message. The message is not trusted yet:
// only after the session message proved authentic may Receive follow.
func (s *State) Open(m *Message, limits Limits) ([32]byte, error) {
	return s.open(m, limits)
}

// Receive takes the content of an authentic message whose key Open returned.
func (s *State) Receive(m *Message) error {
	fresh, err := s.braid.receive(m)
	if err != nil {
		return err
	}
	if fresh != nil {
		s.addEpoch(m.Epoch, s.root[:], fresh, labelEpoch)
		clear(fresh)
	}
	return nil
}

// Epoch returns the braid's epoch, 1 at the start.
func (s *State) Epoch() uint64 { return s.braid.epoch }

// Phase returns where the braid stands.
func (s *State) Phase() Phase { return s.braid.phase }
