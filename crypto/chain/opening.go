package chain

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxAccount is the size in bytes that no account in an opening exceeds: uid@server.
const MaxAccount = 280

// IdentitySize is the size of an identity key with its type byte.
const IdentitySize = 33

// MaxOpeningSize is the size in bytes that no encoded opening exceeds.
const MaxOpeningSize = openingFixed + MaxAccount

// ErrOpening is an encoded opening that is malformed or out of a limit.
var ErrOpening = errors.New("chain: malformed opening")

// Opening says which person a member is. It travels and is kept beside the
// chain, one for each membership, and is deleted when the person is erased: the
// commitment that stays tells nothing without the salt.
type Opening struct {
	Member   Member
	Salt     [32]byte // random
	Account  string   // uid@server, as bytes that this package does not interpret
	Identity [IdentitySize]byte
}

// Commitment is what the chain holds of the opening: SHA-256 over a label, the
// salt, the identity and the account. The group is not in it; the salt is new
// for each membership.
func (o *Opening) Commitment() Hash {
	b := make([]byte, 0, len(commitmentLabel)+len(o.Salt)+len(o.Identity)+len(o.Account))
	b = append(b, commitmentLabel...)
	b = append(b, o.Salt[:]...)
	b = append(b, o.Identity[:]...)
	b = append(b, o.Account...)
	return sha256.Sum256(b)
}

// The encoded form of an opening, all numbers big-endian:
//
//	 1  format, 1
//	16  member   32  salt   33  identity
//	 2  length of account, n    n  account
const (
	openingFormat = 1
	openingFixed  = 1 + 16 + 32 + IdentitySize + 2
)

// Encode gives the one encoding of o in a new slice. An account without a byte
// or above MaxAccount gives bytes that ParseOpening refuses.
func (o *Opening) Encode() []byte {
	b := make([]byte, 0, openingFixed+len(o.Account))
	b = append(b, openingFormat)
	b = append(b, o.Member[:]...)
	b = append(b, o.Salt[:]...)
	b = append(b, o.Identity[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.Account)))
	return append(b, o.Account...)
}

// ParseOpening reads what Encode gives. Its error wraps ErrOpening. Whether it is
// the opening of a member is State.Opens' to say.
func ParseOpening(b []byte) (*Opening, error) {
	if len(b) > MaxOpeningSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrOpening, len(b))
	}
	r := &reader{rest: b}
	format := r.byte()
	o := &Opening{Member: r.member()}
	copy(o.Salt[:], r.take(len(o.Salt)))
	copy(o.Identity[:], r.take(len(o.Identity)))
	o.Account = string(r.take(int(r.uint16())))
	if r.short || len(r.rest) != 0 {
		return nil, fmt.Errorf("%w: its size is wrong", ErrOpening)
	}
	if format != openingFormat || o.Member == (Member{}) || o.Account == "" {
		return nil, fmt.Errorf("%w: format %d", ErrOpening, format)
	}
	return o, nil
}

// Opens checks that o is what the chain committed to for its member: nil,
// ErrUnknownMember or ErrCommitment.
func (s *State) Opens(o *Opening) error {
	m, ok := s.Members[o.Member]
	if !ok {
		return ErrUnknownMember
	}
	if m.Commitment != o.Commitment() {
		return ErrCommitment
	}
	return nil
}
