package ratchet

import (
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/kem"
)

// NewSignedPreKey makes a signed prekey: the public part for the server, the
// private one for the store.
func NewSignedPreKey(random io.Reader, identity *curve.PrivateKey, id uint32) (keys.SignedPreKey, *curve.PrivateKey, error) {
	private, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return keys.SignedPreKey{}, nil, err
	}
	public := private.Public()
	signature, err := identity.Sign(random, public.Bytes())
	if err != nil {
		return keys.SignedPreKey{}, nil, err
	}
	return keys.SignedPreKey{ID: id, Key: public, Signature: signature}, private, nil
}

// NewOneTimePreKey makes a one-time prekey.
func NewOneTimePreKey(random io.Reader, id uint32) (keys.OneTimePreKey, *curve.PrivateKey, error) {
	private, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return keys.OneTimePreKey{}, nil, err
	}
	return keys.OneTimePreKey{ID: id, Key: private.Public()}, private, nil
}

// NewKEMPreKey makes a Kyber prekey. A last-resort prekey serves when the
// one-time ones are used up, and serves repeatedly.
func NewKEMPreKey(random io.Reader, identity *curve.PrivateKey, id uint32, lastResort bool) (keys.KEMPreKey, *KEMSecret, error) {
	public, secret, err := kem.Generate(random)
	if err != nil {
		return keys.KEMPreKey{}, nil, err
	}
	signature, err := identity.Sign(random, public)
	if err != nil {
		return keys.KEMPreKey{}, nil, err
	}
	return keys.KEMPreKey{ID: id, Key: public, Signature: signature}, &KEMSecret{secret, lastResort}, nil
}

// KEMPublicKey returns the public key that belongs to a stored Kyber prekey.
func KEMPublicKey(secret *KEMSecret) (keys.KEMPublicKey, error) {
	public, err := kem.PublicOf(secret.Secret)
	if err != nil {
		return nil, fmt.Errorf("ratchet: stored prekey: %w", err)
	}
	return public, nil
}
