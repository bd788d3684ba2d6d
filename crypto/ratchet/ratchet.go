// Package ratchet holds the sessions of one device with other devices: PQXDH to
// begin, then the Triple Ratchet (Double Ratchet mixed with the sparse
// post-quantum ratchet), compatible with the Signal Protocol, session version 4
// with SPQR version 1 and nothing older. It does not know accounts, servers or
// files: keys and session records come from a Store, time and randomness from
// the caller.
//
// Every call of a Device loads what it needs from the Store, works on a copy
// and hands all changes to Store.Apply in one piece at the end. A call that
// returns an error has changed nothing.
//
// Sources: the specifications "The PQXDH Key Agreement Protocol", "The Double
// Ratchet Algorithm" (which includes the Triple Ratchet) and "The ML-KEM Braid
// Protocol".
//
// Secrets that this package owns are zeroed when they are done with; Go cannot
// promise that no copy remains. Without assembly (WebAssembly) Go's AES uses
// tables and is not constant in time.
package ratchet

import (
	"io"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Type says which message a ciphertext is; the numbers are the protocol's outer
// types.
type Type uint8

// The types of messages between two devices.
const (
	TypeWhisper   Type = 2 // SignalMessage: an established session
	TypePreKey    Type = 3 // PreKeySignalMessage: carries the key agreement
	TypeSenderKey Type = 7 // SenderKeyMessage: of package group; here only in NewDecryptionError
	TypePlaintext Type = 8 // PlaintextContent: a decryption error, see ParsePlaintextContent
)

// Sizes in bytes.
const (
	MaxMessage   = 128 << 10 // of any encoded message; longer ones are refused unread
	MaxPlaintext = 120 << 10 // of one Encrypt
)

// MaxDevice is the highest device id; the lowest is 1.
const MaxDevice = 127

// Device is the secret half of one device, as one end of all its sessions. It
// is immutable; a Device may be used from several goroutines if its Random and
// the Stores may. Calls about the same peer must not overlap: see Store.Apply.
type Device struct {
	Address      Address           // own address; its name is bound into first messages
	Identity     *curve.PrivateKey // the account's identity key
	Registration uint16            // own registration id, 14 bits
	Random       io.Reader         // cryptographic source
	Limits       Limits            // zero: the protocol's
}

// Limits of a session. A zero field means the protocol's own value, which every
// product uses: both ends must agree on what is forgotten. Other values are for
// experiments.
type Limits struct {
	ReceivingChains int           // 5: chains of the peer's ratchet keys kept
	SkippedKeys     int           // 2,000: passed-over message keys kept in one chain
	Jump            uint32        // 25,000: keys one message may pass over; no limit towards own devices
	Archived        int           // 40: former sessions kept with a peer
	Unacknowledged  time.Duration // 30 days: for how long an initiated session without any answer is used
}

// Lifted is a value for Limits.ReceivingChains that stands for no limit within
// what a record can hold.
const Lifted = 10_000

func (l Limits) filled() Limits {
	if l.ReceivingChains == 0 {
		l.ReceivingChains = 5
	}
	if l.SkippedKeys == 0 {
		l.SkippedKeys = 2_000
	}
	if l.Jump == 0 {
		l.Jump = 25_000
	}
	if l.Archived == 0 {
		l.Archived = 40
	}
	if l.Unacknowledged == 0 {
		l.Unacknowledged = 30 * 24 * time.Hour
	}
	return l
}

// Ciphertext is a message ready to be sent.
type Ciphertext struct {
	Type         Type
	Body         []byte // owned by the caller
	Registration uint16 // the registration id that the session knows of the peer's device
}

// Opened is a message received and authenticated.
type Opened struct {
	Plaintext    []byte // owned by the caller
	Identity     curve.PublicKey
	Registration uint16 // of the sending device
	Began        bool   // the message began a new session; a prekey was used up
}
