package ratchet

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/kem"
	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

const labelAgreement = "WhisperText_X25519_SHA-256_CRYSTALS-KYBER-1024"

// agreed is the outcome of PQXDH, 3.3.
type agreed struct {
	root, chain, pq [32]byte
}

// dh is one key agreement of PQXDH.
type dh struct {
	private *curve.PrivateKey
	public  curve.PublicKey
}

// agree concatenates the secrets in the protocol's order and derives the keys.
func agree(agreements []dh, shared []byte) (a agreed, err error) {
	secret := bytes.Repeat([]byte{0xff}, 32)
	defer func() { clear(secret) }()
	for _, d := range agreements {
		s, err := d.private.DH(d.public)
		if err != nil {
			return a, fmt.Errorf("%w: key agreement: %w", ErrMalformed, err)
		}
		secret = append(secret, s...)
		clear(s)
	}
	secret = append(secret, shared...)
	out := derive(secret, nil, labelAgreement, 96)
	copy(a.root[:], out)
	copy(a.chain[:], out[32:])
	copy(a.pq[:], out[64:])
	clear(out)
	return a, nil
}

// derive is HKDF-SHA256. It cannot fail for the lengths used here.
func derive(secret, salt []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("ratchet: " + err.Error())
	}
	return out
}

// initiate makes the initiator's session from a verified bundle. PQXDH, 3.3.
func initiate(random io.Reader, now time.Time, identity *curve.PrivateKey, b *keys.Bundle) (*session, error) {
	base, err := curve.GeneratePrivateKey(random)
	if err != nil {
		return nil, err
	}
	kemCipher, shared, err := kem.Encapsulate(random, b.KEM.Key)
	if err != nil {
		return nil, fmt.Errorf("ratchet: %w", err)
	}
	defer clear(shared)
	agreements := []dh{{identity, b.Signed.Key}, {base, b.Identity}, {base, b.Signed.Key}}
	p := &pending{signed: b.Signed.ID, kem: b.KEM.ID, kemCipher: kemCipher, created: now.UnixMilli()}
	if b.OneTime != nil {
		agreements = append(agreements, dh{base, b.OneTime.Key})
		id := b.OneTime.ID
		p.oneTime = &id
	}
	a, err := agree(agreements, shared)
	if err != nil {
		return nil, err
	}
	s := &session{
		base:         base.Public(),
		local:        identity.Public(),
		remote:       b.Identity,
		registration: b.Registration,
		root:         a.root,
		receiving:    []receivingChain{{peer: b.Signed.Key, key: a.chain}},
		pending:      p,
		pq:           spqr.New(a.pq[:], true),
	}
	if err := s.turn(random, b.Signed.Key); err != nil {
		return nil, err
	}
	return s, nil
}

// responderKeys are the own prekeys that a first message names.
type responderKeys struct {
	signed, oneTime *curve.PrivateKey // oneTime may be nil
	kem             *KEMSecret
}

// accept makes the responder's session. PQXDH, 3.4.
func accept(identity *curve.PrivateKey, own responderKeys, m *preKeyMessage) (*session, error) {
	if err := m.base.CheckBase(); err != nil {
		return nil, fmt.Errorf("%w: base key: %w", ErrMalformed, err)
	}
	shared, err := kem.Decapsulate(own.kem.Secret, m.kemCipher)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer clear(shared)
	agreements := []dh{{own.signed, m.identity}, {identity, m.base}, {own.signed, m.base}}
	if own.oneTime != nil {
		agreements = append(agreements, dh{own.oneTime, m.base})
	}
	a, err := agree(agreements, shared)
	if err != nil {
		return nil, err
	}
	s := &session{
		base:         m.base,
		local:        identity.Public(),
		remote:       m.identity,
		registration: uint16(m.registration),
		root:         a.root,
		pq:           spqr.New(a.pq[:], false),
	}
	s.sending = sendingChain{own: ratchetKey{public: own.signed.Public()}, key: a.chain}
	copy(s.sending.own.private[:], own.signed.Bytes())
	return s, nil
}
