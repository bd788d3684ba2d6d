// Package kem holds the two key encapsulation mechanisms of a session: Kyber1024
// (round 3 of the NIST competition) for the key agreement, and ML-KEM-768 with
// its encapsulation split in two for the post-quantum ratchet. It knows bytes
// and mathematics only: no messages, no storage, no randomness of its own.
package kem

import (
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/kem/kyber/kyber1024"
)

// Sizes of serialized Kyber1024 objects in bytes; each includes the leading
// type byte.
const (
	PublicKeySize  = 1 + kyber1024.PublicKeySize
	SecretKeySize  = 1 + kyber1024.PrivateKeySize
	CiphertextSize = 1 + kyber1024.CiphertextSize
	SharedSize     = kyber1024.SharedKeySize
)

// TypeKyber1024 leads every serialized Kyber1024 key and ciphertext. It is the
// only type spoken: 0x07 (Kyber768), 0x09 and 0x0A (ML-KEM-1024) are refused.
const TypeKyber1024 = 0x08

// ErrEncoding reports a serialized object of a wrong type or length.
var ErrEncoding = errors.New("kem: not a Kyber1024 object")

func body(name string, b []byte, size int) ([]byte, error) {
	if len(b) != size {
		return nil, fmt.Errorf("%w: %s of %d bytes, not %d", ErrEncoding, name, len(b), size)
	}
	if b[0] != TypeKyber1024 {
		return nil, fmt.Errorf("%w: %s of type 0x%02x", ErrEncoding, name, b[0])
	}
	return b[1:], nil
}

// Generate makes a key pair from 64 bytes of random. Both slices carry the type
// byte and are owned by the caller.
func Generate(random io.Reader) (public, secret []byte, err error) {
	var seed [kyber1024.KeySeedSize]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, nil, fmt.Errorf("kem: random: %w", err)
	}
	defer clear(seed[:])
	pk, sk := kyber1024.NewKeyFromSeed(seed[:])
	public = make([]byte, PublicKeySize)
	secret = make([]byte, SecretKeySize)
	public[0], secret[0] = TypeKyber1024, TypeKyber1024
	pk.Pack(public[1:])
	sk.Pack(secret[1:])
	return public, secret, nil
}

// PublicOf returns the public key that a serialized secret key carries.
func PublicOf(secret []byte) ([]byte, error) {
	b, err := body("secret key", secret, SecretKeySize)
	if err != nil {
		return nil, err
	}
	// Kyber round 3, algorithm 7: secret || public || H(public) || z.
	const at = kyber1024.PrivateKeySize - 64 - kyber1024.PublicKeySize
	public := make([]byte, PublicKeySize)
	public[0] = TypeKyber1024
	copy(public[1:], b[at:])
	return public, nil
}

// Encapsulate makes a fresh shared secret of 32 bytes and the ciphertext that
// carries it to the owner of public. It takes 32 bytes of random.
func Encapsulate(random io.Reader, public []byte) (ciphertext, shared []byte, err error) {
	b, err := body("public key", public, PublicKeySize)
	if err != nil {
		return nil, nil, err
	}
	var seed [kyber1024.EncapsulationSeedSize]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, nil, fmt.Errorf("kem: random: %w", err)
	}
	defer clear(seed[:])
	var pk kyber1024.PublicKey
	pk.Unpack(b)
	ciphertext = make([]byte, CiphertextSize)
	ciphertext[0] = TypeKyber1024
	shared = make([]byte, SharedSize)
	pk.EncapsulateTo(ciphertext[1:], shared, seed[:])
	return ciphertext, shared, nil
}

// Decapsulate returns the shared secret of 32 bytes. A well-formed ciphertext
// made for another key gives an unrelated secret, not an error (implicit
// rejection).
func Decapsulate(secret, ciphertext []byte) ([]byte, error) {
	s, err := body("secret key", secret, SecretKeySize)
	if err != nil {
		return nil, err
	}
	c, err := body("ciphertext", ciphertext, CiphertextSize)
	if err != nil {
		return nil, err
	}
	var sk kyber1024.PrivateKey
	sk.Unpack(s)
	shared := make([]byte, SharedSize)
	sk.DecapsulateTo(shared, c)
	return shared, nil
}

// CheckPublic reports whether b has the type and length of a public key.
func CheckPublic(b []byte) error {
	_, err := body("public key", b, PublicKeySize)
	return err
}
