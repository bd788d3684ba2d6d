package ratchet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/internal/cbc"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

const (
	labelRoot    = "WhisperRatchet"
	labelMessage = "WhisperMessageKeys"
)

// session is the state of one Triple Ratchet. It is parsed anew for every call
// and changed in place.
type session struct {
	base          curve.PublicKey // of the initiator; names the session
	local, remote curve.PublicKey // identities
	registration  uint16          // of the peer
	root          [32]byte
	previous      uint32 // index of the last message of the previous sending chain
	sending       sendingChain
	receiving     []receivingChain // oldest first
	pending       *pending         // until the peer has answered
	pq            *spqr.State
}

type sendingChain struct {
	own     ratchetKey
	key     [32]byte
	counter uint32
}

// receivingChain belongs to one of the peer's ratchet keys.
type receivingChain struct {
	peer    curve.PublicKey
	key     [32]byte
	counter uint32 // of the next message
	kept    []byte // skipped entries, ascending; never modified in place
}

// pending is what first messages repeat until the peer has answered.
type pending struct {
	oneTime   *uint32
	signed    uint32
	kem       uint32
	kemCipher []byte
	created   int64 // milliseconds
}

// keptSize is the length of one kept entry: counter and message seed.
const keptSize = 4 + 32

func hmac32(key *[32]byte, b byte) (out [32]byte) {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte{b})
	h.Sum(out[:0])
	return out
}

// step advances a chain and returns the message seed. Double Ratchet, 5.2.
func step(key *[32]byte) (seed [32]byte) {
	seed = hmac32(key, 1)
	*key = hmac32(key, 2)
	return seed
}

// messageKeys mixes both ratchets. Double Ratchet, 5 (Triple Ratchet).
func messageKeys(seed, pq [32]byte) []byte { return derive(seed[:], pq[:], labelMessage, 80) }

// nextRoot is KDF_RK.
func nextRoot(root *[32]byte, own *ratchetKey, peer curve.PublicKey) (chain [32]byte, err error) {
	secret, err := own.dh(peer)
	if err != nil {
		return chain, fmt.Errorf("%w: ratchet key: %w", ErrMalformed, err)
	}
	out := derive(secret[:], root[:], labelRoot, 64)
	copy(root[:], out)
	copy(chain[:], out[32:])
	clear(secret[:])
	clear(out)
	return chain, nil
}

// turn begins a sending chain with a fresh ratchet key towards the peer's.
func (s *session) turn(random io.Reader, peer curve.PublicKey) error {
	own, err := newRatchetKey(random)
	if err != nil {
		return err
	}
	chain, err := nextRoot(&s.root, &own, peer)
	if err != nil {
		return err
	}
	s.previous = 0
	if s.sending.counter > 0 {
		s.previous = s.sending.counter - 1
	}
	s.sending = sendingChain{own: own, key: chain}
	return nil
}

// encrypt returns the next message. Addresses may be empty.
func (s *session) encrypt(random io.Reader, plaintext, addresses []byte) ([]byte, error) {
	if s.sending.counter == 1<<32-1 {
		return nil, fmt.Errorf("%w: chain exhausted", ErrNoSession)
	}
	pqMessage, pqKey, err := s.pq.Send(random, make([]byte, 0, 64))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPostQuantum, err)
	}
	keys := messageKeys(step(&s.sending.key), pqKey)
	defer clear(keys)
	m := signalMessage{
		ratchet:    s.sending.own.public,
		counter:    s.sending.counter,
		previous:   s.previous,
		ciphertext: encryptBody(keys, plaintext),
		pq:         pqMessage,
		addresses:  addresses,
	}
	s.sending.counter++
	b := m.append(make([]byte, 0, len(m.ciphertext)+len(pqMessage)+len(addresses)+80))
	return append(b, messageMAC(keys[32:64], s.local, s.remote, b)...), nil
}

// decrypt reads a message and moves the state on. After an error the state must
// be thrown away.
func (s *session) decrypt(random io.Reader, m *signalMessage, limits Limits) ([]byte, error) {
	i := slices.IndexFunc(s.receiving, func(c receivingChain) bool { return c.peer == m.ratchet })
	turned := i < 0
	if turned {
		chain, err := nextRoot(&s.root, &s.sending.own, m.ratchet)
		if err != nil {
			return nil, err
		}
		i = len(s.receiving)
		s.receiving = append(s.receiving, receivingChain{peer: m.ratchet, key: chain})
	}
	seed, err := s.receiving[i].at(m.counter, limits)
	if err != nil {
		return nil, err
	}
	pqMessage, err := spqr.ParseMessage(m.pq)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPostQuantum, err)
	}
	pqKey, err := s.pq.Open(pqMessage, spqr.Limits{Jump: limits.Jump, Kept: limits.SkippedKeys})
	if turned && errors.Is(err, spqr.ErrDuplicate) {
		// With an unknown ratchet key this is most likely a message of another
		// session, not one that was read before.
		return nil, fmt.Errorf("%w: %w", ErrMAC, err)
	}
	if err != nil {
		return nil, pqError(err)
	}
	keys := messageKeys(seed, pqKey)
	defer clear(keys)
	if !hmac.Equal(m.mac, messageMAC(keys[32:64], s.remote, s.local, m.authentic)) {
		return nil, ErrMAC
	}
	plaintext, err := decryptBody(keys, m.ciphertext)
	if err != nil {
		return nil, err
	}
	if err := s.pq.Receive(pqMessage); err != nil {
		return nil, pqError(err)
	}
	if turned {
		// Only an authentic message makes us turn the ratchet ourselves.
		if err := s.turn(random, m.ratchet); err != nil {
			return nil, err
		}
		if extra := len(s.receiving) - limits.ReceivingChains; extra > 0 {
			s.receiving = s.receiving[extra:]
		}
	}
	s.pending = nil
	return plaintext, nil
}

// pqError translates errors of the post-quantum ratchet that mean the same as
// one of the classical ratchet.
func pqError(err error) error {
	switch {
	case errors.Is(err, spqr.ErrDuplicate):
		return fmt.Errorf("%w: %w", ErrDuplicate, err)
	case errors.Is(err, spqr.ErrJump):
		return fmt.Errorf("%w: %w", ErrJump, err)
	}
	return fmt.Errorf("%w: %w", ErrPostQuantum, err)
}

// at returns the seed of message n, keeping those passed over. Double Ratchet,
// 3.5.
func (c *receivingChain) at(n uint32, limits Limits) ([32]byte, error) {
	if n < c.counter {
		return c.takeKept(n)
	}
	gap := n - c.counter
	if gap > limits.Jump {
		return [32]byte{}, ErrJump
	}
	if n == 1<<32-1 {
		return [32]byte{}, fmt.Errorf("%w: counter", ErrMalformed)
	}
	if gap > 0 {
		c.skip(gap, limits.SkippedKeys)
	}
	c.counter++
	return step(&c.key), nil
}

// skip passes over gap messages and keeps the newest seeds.
func (c *receivingChain) skip(gap uint32, limit int) {
	fresh := int(min(uint64(gap), uint64(limit)))
	drop := max(0, len(c.kept)/keptSize+fresh-limit)
	kept := make([]byte, 0, len(c.kept)+(fresh-drop)*keptSize)
	kept = append(kept, c.kept[drop*keptSize:]...)
	for left := gap; left > 0; left-- {
		if uint64(left) <= uint64(fresh) {
			seed := hmac32(&c.key, 1)
			kept = binary.BigEndian.AppendUint32(kept, c.counter)
			kept = append(kept, seed[:]...)
		}
		c.key = hmac32(&c.key, 2)
		c.counter++
	}
	c.kept = kept
}

func (c *receivingChain) takeKept(n uint32) ([32]byte, error) {
	for i := 0; i < len(c.kept); i += keptSize {
		if binary.BigEndian.Uint32(c.kept[i:]) == n {
			seed := [32]byte(c.kept[i+4:])
			kept := make([]byte, 0, len(c.kept)-keptSize)
			kept = append(kept, c.kept[:i]...)
			c.kept = append(kept, c.kept[i+keptSize:]...)
			return seed, nil
		}
	}
	return [32]byte{}, ErrDuplicate
}

// encryptBody is AES-256-CBC; keys are cipher key, MAC key and IV.
func encryptBody(keys, plaintext []byte) []byte {
	return cbc.Encrypt(keys[:32], keys[64:80], plaintext)
}

// decryptBody runs only on authentic messages.
func decryptBody(keys, ciphertext []byte) ([]byte, error) {
	b, err := cbc.Decrypt(keys[:32], keys[64:80], ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return b, nil
}
