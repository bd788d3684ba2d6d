package ratchet

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Errors a caller may branch on. None of them carries secrets or plaintext.
var (
	// ErrNoSession: there is no usable session with the peer; one has to be
	// initiated, or (receiving) a decryption error to be answered.
	ErrNoSession = errors.New("ratchet: no session")
	// ErrDuplicate: the message was read before, or its key is no longer kept.
	ErrDuplicate = errors.New("ratchet: duplicate message")
	// ErrMalformed: not a message of the protocol.
	ErrMalformed = errors.New("ratchet: malformed message")
	// ErrMAC: no session authenticates the message.
	ErrMAC = errors.New("ratchet: message not authentic")
	// ErrJump: the message lies too far ahead of the last one read.
	ErrJump = errors.New("ratchet: message too far ahead")
	// ErrAddress: the message was made for, or by, another address.
	ErrAddress = errors.New("ratchet: message bound to other addresses")
	// ErrKEMReused: a last-resort Kyber prekey was used before in the same way.
	ErrKEMReused = errors.New("ratchet: last-resort prekey used again with the same base key")
	// ErrPostQuantum: the post-quantum part of a message is wrong.
	ErrPostQuantum = errors.New("ratchet: post-quantum ratchet refused")
	// ErrRecord: a stored record is damaged or of an unknown version.
	ErrRecord = errors.New("ratchet: unreadable session record")
	// ErrTooLong: a plaintext above MaxPlaintext.
	ErrTooLong = errors.New("ratchet: plaintext too long")
	// ErrAddressRange: a device id outside 1 to MaxDevice.
	ErrAddressRange = errors.New("ratchet: device id out of range")
	// ErrStale is for stores: Change.Before is not the stored generation.
	ErrStale = errors.New("ratchet: session record changed by another writer")
)

// VersionError reports a message of a version that is not spoken.
type VersionError struct {
	Version uint8 // below 4: too old; above: not known yet
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("ratchet: message version %d, not 4", e.Version)
}

// UnknownPreKeyError reports that a first message names a prekey that this
// device does not have, or no longer.
type UnknownPreKeyError struct {
	Kind string // "one-time", "signed" or "kem"
	ID   uint32
}

func (e *UnknownPreKeyError) Error() string {
	return fmt.Sprintf("ratchet: unknown %s prekey %d", e.Kind, e.ID)
}

// IdentityChangedError reports that the peer's identity key is not the pinned
// one. Nothing is sent or shown until the client accepts the change.
type IdentityChangedError struct {
	Peer            Address
	Pinned, Offered curve.PublicKey
}

func (e *IdentityChangedError) Error() string { return "ratchet: identity key changed" }
