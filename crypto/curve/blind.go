package curve

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
)

// Blind is a secret scalar for comparing words with somebody without showing
// them: an oblivious pseudorandom function in the 2HashDH form over the
// subgroup of prime order of edwards25519. The asker blinds a word, the other
// side evaluates it under a Blind of its own, and the asker takes the blinding
// off: it then holds what the other side gets from Word for the same word, and
// nothing about any other. The blinded form says nothing about the word.
//
// A Blind serves one exchange. It is safe for concurrent use.
type Blind struct {
	k, inverse *edwards25519.Scalar
}

var errPoint = errors.New("curve: not a point to compute with")

// NewBlind draws a scalar.
func NewBlind(random io.Reader) (*Blind, error) {
	var wide [64]byte
	if _, err := io.ReadFull(random, wide[:]); err != nil {
		return nil, fmt.Errorf("curve: draw a scalar: %w", err)
	}
	k := wideScalar(wide[:])
	if k.Equal(edwards25519.NewScalar()) == 1 {
		return nil, errors.New("curve: the randomness is all zeros")
	}
	return &Blind{k: k, inverse: edwards25519.NewScalar().Invert(k)}, nil
}

// wordPoint hashes a word to a point of prime order: the first of SHA-512(context
// ‖ n ‖ word), n = 0, 1, ..., whose first half is the encoding of a point
// (RFC 8032, 5.1.3), times the cofactor. How many tries it takes depends on the
// word, so time says a little about it to whoever can measure the caller.
func wordPoint(context string, word []byte) *edwards25519.Point {
	for n := range 256 {
		h := sha512.New()
		h.Write([]byte(context))
		h.Write([]byte{byte(n)})
		h.Write(word)
		p, err := new(edwards25519.Point).SetBytes(h.Sum(nil)[:32])
		if err != nil {
			continue
		}
		if p.MultByCofactor(p); p.Equal(edwards25519.NewIdentityPoint()) == 0 {
			return p
		}
	}
	panic("curve: 256 hashes and no point among them") // half of all encodings are points
}

// Ask is the blinded word, 32 bytes.
func (b *Blind) Ask(context string, word []byte) []byte {
	return new(edwards25519.Point).ScalarMult(b.k, wordPoint(context, word)).Bytes()
}

// Evaluate answers a blinded word. The error is for what is no point, or one of
// low order.
func (b *Blind) Evaluate(asked []byte) ([]byte, error) {
	p, err := new(edwards25519.Point).SetBytes(asked)
	if err != nil {
		return nil, errPoint
	}
	if p.MultByCofactor(p); p.Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, errPoint
	}
	return p.ScalarMult(b.k, p).Bytes(), nil
}

// Reveal takes the own blinding off an evaluated word.
func (b *Blind) Reveal(evaluated []byte) ([]byte, error) {
	p, err := new(edwards25519.Point).SetBytes(evaluated)
	if err != nil || lowOrder(p) {
		return nil, errPoint
	}
	return p.ScalarMult(b.inverse, p).Bytes(), nil
}

// Word is what the asker of this word ends up with.
func (b *Blind) Word(context string, word []byte) []byte {
	p := wordPoint(context, word)
	p.MultByCofactor(p)
	return p.ScalarMult(b.k, p).Bytes()
}
