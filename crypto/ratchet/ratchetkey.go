package ratchet

import (
	"fmt"
	"io"

	"github.com/cloudflare/circl/dh/x25519"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// ratchetKey is an X25519 key pair that lives for one turn of the ratchet. It is
// read from storage with every message, so unlike curve.PrivateKey it is not
// derived again on loading, which would cost as much as a key agreement.
type ratchetKey struct {
	private [32]byte
	public  curve.PublicKey
}

func newRatchetKey(random io.Reader) (k ratchetKey, err error) {
	if _, err := io.ReadFull(random, k.private[:]); err != nil {
		return k, fmt.Errorf("ratchet: random: %w", err)
	}
	// RFC 7748, 5.
	k.private[0] &= 248
	k.private[31] &= 127
	k.private[31] |= 64
	x25519.KeyGen((*x25519.Key)(&k.public), (*x25519.Key)(&k.private))
	return k, nil
}

// dh returns the shared secret, or curve.ErrLowOrder (RFC 7748, 6.1).
func (k *ratchetKey) dh(peer curve.PublicKey) (secret [32]byte, err error) {
	peer[31] &= 127 // RFC 7748, 5: the top bit is ignored
	if !x25519.Shared((*x25519.Key)(&secret), (*x25519.Key)(&k.private), (*x25519.Key)(&peer)) || secret == [32]byte{} {
		return secret, curve.ErrLowOrder
	}
	return secret, nil
}
