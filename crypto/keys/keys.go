// Package keys is responsible for the public half of the end-to-end encryption:
// the public keys of accounts and devices, prekey bundles and their checks, the
// signed list of a person's devices, and the numbers and words by which humans
// compare keys. A homeserver may link it: nothing here can read a message.
//
// It holds no sessions and no stores and does not know what a name means:
// accounts are bytes to it. It does no I/O, has no clock and no randomness of
// its own. Everything is safe for concurrent use as long as the caller does not
// change a value meanwhile.
package keys

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
)

// Ranges shared with the Signal Protocol.
const (
	MinDevice       = 1
	MaxDevice       = 127
	MinRegistration = 1
	MaxRegistration = 1<<14 - 1 // 14 bits travel in the sealed envelope
)

// KEMPublicKeySize is the size of a serialized KEM public key in bytes: the type
// byte and a Kyber1024 public key.
const KEMPublicKeySize = 1 + 1568

// TypeKyber1024 is the first byte of every serialized KEM key: Kyber1024 of
// round 3, which is not ML-KEM-1024. No other type is spoken.
const TypeKyber1024 = 0x08

// ErrKEMPublicKey is a KEM public key that is not 1569 bytes beginning with
// TypeKyber1024.
var ErrKEMPublicKey = errors.New("keys: malformed KEM public key")

// KEMPublicKey is a serialized Kyber1024 public key with its type byte.
type KEMPublicKey []byte

// ParseKEMPublicKey checks length and type; the only error is ErrKEMPublicKey.
// b is copied. Any 1568 bytes after the type are a key of the scheme.
func ParseKEMPublicKey(b []byte) (KEMPublicKey, error) {
	if !KEMPublicKey(b).valid() {
		return nil, ErrKEMPublicKey
	}
	return bytes.Clone(b), nil
}

func (k KEMPublicKey) valid() bool {
	return len(k) == KEMPublicKeySize && k[0] == TypeKyber1024
}

// NewSigningKey makes an Ed25519 key, for a device or as the root of an account,
// from exactly 32 bytes of random, which must be a cryptographic source. Its
// error is the only one. (ed25519.GenerateKey no longer reads the source it is
// given, which would make tests depend on chance.)
func NewSigningKey(random io.Reader) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("keys: random source: %w", err)
	}
	defer clear(seed[:])
	return ed25519.NewKeyFromSeed(seed[:]), nil
}
