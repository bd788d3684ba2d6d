package storage

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
)

// KeyID names a person's key in the keystore: 128 random bits. Destroying the
// key makes everything that it sealed unreadable, wherever it lies. The zero
// value names no key and is refused, so that a forgotten key is no open door.
type KeyID [16]byte

// ServerKey is the key of what belongs to no local person: signing keys,
// invites, people of other servers. It is never destroyed; rows are.
var ServerKey = KeyID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// IsZero tells whether k names no key.
func (k KeyID) IsZero() bool { return k == KeyID{} }

// The purposes of data keys: gdpr.md 8. A value sealed for one purpose does not
// open for another.
const (
	PurposeProfile  = "profile"
	PurposeContacts = "contacts"
	PurposeMailbox  = "mailbox"
	PurposeLedger   = "ledger"
	PurposeAudit    = "audit-link"
)

// Sealer seals bytes under a person's key (AES-256-GCM, authenticated with ad).
// Open returns ErrShredded when the key was destroyed. Both are safe for
// concurrent use; neither keeps its arguments.
type Sealer interface {
	Seal(k KeyID, purpose string, ad, plaintext []byte) ([]byte, error)
	Open(k KeyID, purpose string, ad, sealed []byte) ([]byte, error)
}

// Sealed is a payload at rest: the payload under a random content key of its
// own, and that key under a person's key. So one payload may have several
// owners, each with a Wrapped of their own, and the death of a person's key is
// the death of their copy, in a backup or a broker too.
type Sealed struct {
	Payload []byte // AES-256-GCM under the content key, nonce zero: the key is used once
	Wrapped []byte // the content key, sealed for PurposeMailbox
}

const contentKeySize = 32

var zeroNonce [12]byte

// SealPayload seals plaintext for the owner of k. ad names the envelope
// (message id and device), not the table, so that the sealed form may move
// between queues. It costs about 2 us and is meant to be called outside of
// Update.
func SealPayload(s Sealer, random io.Reader, k KeyID, ad, plaintext []byte) (Sealed, error) {
	var key [contentKeySize]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return Sealed{}, fmt.Errorf("draw a content key: %w", err)
	}
	defer clear(key[:])
	aead, err := contentAEAD(key[:])
	if err != nil {
		return Sealed{}, err
	}
	wrapped, err := s.Seal(k, PurposeMailbox, ad, key[:])
	if err != nil {
		return Sealed{}, fmt.Errorf("wrap a content key: %w", err)
	}
	return Sealed{Payload: aead.Seal(nil, zeroNonce[:], plaintext, ad), Wrapped: wrapped}, nil
}

// OpenPayload reverses SealPayload. ErrShredded: the person's key was destroyed.
func OpenPayload(s Sealer, k KeyID, ad []byte, p Sealed) ([]byte, error) {
	key, err := s.Open(k, PurposeMailbox, ad, p.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap a content key: %w", err)
	}
	defer clear(key)
	aead, err := contentAEAD(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, zeroNonce[:], p.Payload, ad)
	if err != nil {
		return nil, errors.New("a stored payload does not open: it was altered or belongs elsewhere")
	}
	return plain, nil
}

// Rewrap gives a second owner access to a payload: a Wrapped for to, under the
// same ad. The payload is not touched.
func Rewrap(s Sealer, from, to KeyID, ad, wrapped []byte) ([]byte, error) {
	key, err := s.Open(from, PurposeMailbox, ad, wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap a content key: %w", err)
	}
	defer clear(key)
	return s.Seal(to, PurposeMailbox, ad, key)
}

func contentAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != contentKeySize {
		return nil, errors.New("a content key has 32 bytes")
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// SealBody seals what many mails share under a new key, which goes into each of
// them.
func SealBody(random io.Reader, plaintext []byte) (sealed, key []byte, err error) {
	key = make([]byte, contentKeySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, nil, fmt.Errorf("draw a body key: %w", err)
	}
	aead, err := contentAEAD(key)
	if err != nil {
		return nil, nil, err
	}
	return aead.Seal(nil, zeroNonce[:], plaintext, []byte("body")), key, nil
}

// OpenBody reverses SealBody.
func OpenBody(key, sealed []byte) ([]byte, error) {
	aead, err := contentAEAD(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, zeroNonce[:], sealed, []byte("body"))
	if err != nil {
		return nil, errors.New("a stored body does not open: it was altered or is another one")
	}
	return plain, nil
}
