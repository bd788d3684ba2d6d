// Package group holds sender keys: one device encrypts a message once for all
// members of a group, compatible with the Signal Protocol (message version 3).
// A Sender is one's own key for one distribution; a Receiver is what one knows
// of the keys of one other device in one distribution. It does not know members,
// servers or stores: who gets a distribution message, over a session of package
// ratchet, and when a new Sender is made, is the caller's decision.
//
// What a sender key does not give: it does not heal. Whoever learns the chain key
// reads everything sent after it until the sender makes a new Sender; so one is
// made whenever a member or a device leaves, and after a number of messages or
// days. A member that joins reads from the message on at which its distribution
// message was made, and nothing before.
//
// There is no I/O and no clock; randomness is handed in. A call that returns an
// error has changed nothing. Senders and Receivers are not safe for concurrent
// use. Secrets that this package owns are zeroed when they are done with; Go
// cannot promise that no copy remains.
package group

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// ID names a distribution: a UUID, chosen by the group and not secret.
type ID [16]byte

// Limits of the protocol, the same in every product.
const (
	MaxJump   = 25_000 // messages that one message may pass over
	MaxKept   = 2_000  // keys of messages passed over, kept for each chain
	MaxStates = 5      // chains of one sender in one distribution
)

// Sizes in bytes. The longest message fits into a sealed content.
const (
	MaxMessage   = 93 << 10
	MaxPlaintext = 92 << 10
)

// Errors a caller may branch on. None of them carries secrets or plaintext.
var (
	// ErrMalformed: not a message of the protocol.
	ErrMalformed = errors.New("group: malformed message")
	// ErrDistribution: the message belongs to another distribution.
	ErrDistribution = errors.New("group: message of another distribution")
	// ErrNoKey: the chain of the message is not known, or no longer; its sender
	// can be asked for a distribution message.
	ErrNoKey = errors.New("group: unknown sender key")
	// ErrSignature: the message is not from the sender of its chain, or altered.
	ErrSignature = errors.New("group: message not authentic")
	// ErrDuplicate: the message was read before, was sent before the distribution
	// message was made, or its key is no longer kept.
	ErrDuplicate = errors.New("group: duplicate message")
	// ErrJump: the message lies more than MaxJump ahead of the last one read.
	ErrJump = errors.New("group: message too far ahead")
	// ErrTooLong: a plaintext above MaxPlaintext.
	ErrTooLong = errors.New("group: plaintext too long")
	// ErrExhausted: the chain has no number left; a new Sender is needed.
	ErrExhausted = errors.New("group: sender key used up")
	// ErrRecord: a stored record is damaged or of an unknown version.
	ErrRecord = errors.New("group: unreadable record")
)

// VersionError reports a message of a version that is not spoken.
type VersionError struct {
	Version uint8 // below 3: too old; above: not known yet
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("group: message version %d, not 3", e.Version)
}

const labelMessage = "WhisperGroup"

// chain derives one seed for each message.
type chain struct {
	key  [32]byte
	next uint32 // number of the next message
}

func hmac32(key *[32]byte, b byte) (out [32]byte) {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte{b})
	h.Sum(out[:0])
	return out
}

// step advances the chain and returns the message's seed, which is that of the
// Double Ratchet (5.2) without a turn.
func (c *chain) step() (seed [32]byte) {
	seed = hmac32(&c.key, 1)
	c.key = hmac32(&c.key, 2)
	c.next++
	return seed
}

// messageKeys returns IV, 16 bytes, and cipher key, 32.
func messageKeys(seed *[32]byte) []byte {
	keys, err := hkdf.Key(sha256.New, seed[:], nil, labelMessage, 48)
	if err != nil {
		panic("group: HKDF gives this many bytes")
	}
	return keys
}
