package ratchet

import (
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// call is one operation on the record of one peer, from loading to Apply.
type call struct {
	device *Device
	store  Store
	peer   Address
	limits Limits
	record *record
	pin    *curve.PublicKey
	change Change
}

func (d *Device) begin(store Store, peer Address) (*call, error) {
	if !peer.valid() || !d.Address.valid() {
		return nil, ErrAddressRange
	}
	stored, err := store.Session(peer)
	if err != nil {
		return nil, fmt.Errorf("ratchet: load session: %w", err)
	}
	rec, err := parseRecord(stored)
	if err != nil {
		return nil, err
	}
	pin, err := store.Pin(peer)
	if err != nil {
		return nil, fmt.Errorf("ratchet: load pin: %w", err)
	}
	c := &call{device: d, store: store, peer: peer, limits: d.Limits.filled(), record: rec, pin: pin}
	c.change = Change{Peer: peer, Before: rec.generation}
	return c, nil
}

// trust refuses an identity that is not the pinned one; the first one seen is
// pinned with the change.
func (c *call) trust(identity curve.PublicKey) error {
	if c.pin == nil {
		c.change.Pin = &identity
		return nil
	}
	if *c.pin != identity {
		return &IdentityChangedError{c.peer, *c.pin, identity}
	}
	return nil
}

func (c *call) apply() error {
	c.record.generation++
	c.change.Record = c.record.append(make([]byte, 0, c.record.size()))
	if err := c.store.Apply(&c.change); err != nil {
		return fmt.Errorf("ratchet: apply: %w", err)
	}
	return nil
}

// setCurrent puts the session's new state in place of the current one.
func (c *call) setCurrent(s *session, sizeHint int) {
	c.record.current = s.append(make([]byte, 0, sizeHint+256))
}

// Initiate begins a session with the device that published a bundle; a former
// session is archived. The bundle's signatures and the pinned identity are
// checked first (*keys.BundleError, *IdentityChangedError). Nothing is sent:
// the next Encrypt carries the agreement.
func (d *Device) Initiate(store Store, now time.Time, peer Address, b *keys.Bundle) error {
	if err := b.Verify(); err != nil {
		return err
	}
	c, err := d.begin(store, peer)
	if err != nil {
		return err
	}
	if err := c.trust(b.Identity); err != nil {
		return err
	}
	s, err := initiate(d.Random, now, d.Identity, b)
	if err != nil {
		return err
	}
	c.record.archive(c.limits.Archived)
	c.setCurrent(s, 4096)
	return c.apply()
}

// Encrypt makes the next message of the current session. ErrNoSession asks for
// Initiate: there is no session, it was archived, or it was initiated too long
// ago without any answer. The plaintext is not kept.
func (d *Device) Encrypt(store Store, now time.Time, peer Address, plaintext []byte) (*Ciphertext, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, ErrTooLong
	}
	c, err := d.begin(store, peer)
	if err != nil {
		return nil, err
	}
	if c.record.current == nil {
		return nil, ErrNoSession
	}
	encoded, s, err := c.record.session(-1)
	if err != nil {
		return nil, err
	}
	if s.expired(now, c.limits) {
		return nil, ErrNoSession
	}
	if err := c.trust(s.remote); err != nil {
		return nil, err
	}
	out := &Ciphertext{Type: TypeWhisper, Registration: s.registration}
	var addresses []byte
	if s.pending != nil {
		addresses = addressField(d.Address, peer)
	}
	if out.Body, err = s.encrypt(d.Random, plaintext, addresses); err != nil {
		return nil, err
	}
	if p := s.pending; p != nil {
		m := preKeyMessage{
			oneTime:      p.oneTime,
			base:         s.base,
			identity:     s.local,
			inner:        out.Body,
			registration: uint32(d.Registration),
			signed:       p.signed,
			kem:          p.kem,
			kemCipher:    p.kemCipher,
		}
		out.Type = TypePreKey
		out.Body = m.append(make([]byte, 0, len(out.Body)+1800))
	}
	c.setCurrent(s, len(encoded))
	if err := c.apply(); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *session) expired(now time.Time, limits Limits) bool {
	return s.pending != nil && now.UnixMilli()-s.pending.created > limits.Unacknowledged.Milliseconds()
}

// Decrypt reads a message of TypeWhisper or TypePreKey. The body is not changed
// and not kept. See the errors of this package; whatever the error, the state
// is as before and an intact copy of the message can still be read.
func (d *Device) Decrypt(store Store, peer Address, t Type, body []byte) (*Opened, error) {
	c, err := d.begin(store, peer)
	if err != nil {
		return nil, err
	}
	var out *Opened
	switch t {
	case TypeWhisper:
		out, err = c.openWhisper(body)
	case TypePreKey:
		out, err = c.openPreKey(body)
	default:
		err = fmt.Errorf("%w: type %d", ErrMalformed, t)
	}
	if err != nil {
		return nil, err
	}
	if err := c.apply(); err != nil {
		return nil, err
	}
	return out, nil
}

// openWhisper tries the current session, then the archived ones, newest first.
// A duplicate ends the search: the message did belong to that session.
func (c *call) openWhisper(body []byte) (*Opened, error) {
	m, err := parseSignalMessage(body)
	if err != nil {
		return nil, err
	}
	first := ErrNoSession
	tried := false
	for i := -1; i < len(c.record.archived); i++ {
		if i < 0 && c.record.current == nil {
			continue
		}
		out, err := c.openIn(i, m)
		if err == nil {
			return out, nil
		}
		var changed *IdentityChangedError
		if errors.Is(err, ErrDuplicate) || errors.Is(err, ErrAddress) || errors.As(err, &changed) {
			return nil, err
		}
		if !tried {
			first, tried = err, true
		}
	}
	return nil, first
}

// openIn decrypts with one session and, on success, makes it the current one.
func (c *call) openIn(i int, m *signalMessage) (*Opened, error) {
	encoded, s, err := c.record.session(i)
	if err != nil {
		return nil, err
	}
	plaintext, err := c.open(s, m)
	if err != nil {
		return nil, err
	}
	if err := c.trust(s.remote); err != nil {
		clear(plaintext)
		return nil, err
	}
	c.record.promote(i, c.limits.Archived)
	c.setCurrent(s, len(encoded))
	return &Opened{Plaintext: plaintext, Identity: s.remote, Registration: s.registration}, nil
}

// open decrypts and checks the addresses bound into the message, which are
// authentic only afterwards. Towards own devices there is no jump limit.
func (c *call) open(s *session, m *signalMessage) ([]byte, error) {
	limits := c.limits
	if s.local == s.remote && c.device.Address.Name == c.peer.Name {
		limits.Jump = 1<<32 - 1
	}
	plaintext, err := s.decrypt(c.device.Random, m, limits)
	if err != nil {
		return nil, err
	}
	if m.addresses != nil && string(m.addresses) != string(addressField(c.peer, c.device.Address)) {
		clear(plaintext)
		return nil, ErrAddress
	}
	return plaintext, nil
}

// openPreKey reads a first message: with the session that its base key began,
// or else with a new one. Other sessions are not tried.
func (c *call) openPreKey(body []byte) (*Opened, error) {
	m, err := parsePreKeyMessage(body)
	if err != nil {
		return nil, err
	}
	inner, err := parseSignalMessage(m.inner)
	if err != nil {
		return nil, err
	}
	if err := c.trust(m.identity); err != nil {
		return nil, err
	}
	if i, ok := c.record.withBase(m.base); ok {
		_, s, err := c.record.session(i)
		if err != nil {
			return nil, err
		}
		if s.remote != m.identity {
			return nil, fmt.Errorf("%w: identity of another session", ErrMalformed)
		}
		return c.openIn(i, inner)
	}
	own, use, err := c.preKeys(m)
	if err != nil {
		return nil, err
	}
	s, err := accept(c.device.Identity, own, m)
	if err != nil {
		return nil, err
	}
	plaintext, err := c.open(s, inner)
	if err != nil {
		return nil, err
	}
	c.change.UsedOneTime, c.change.UsedKEM, c.change.LastResort = m.oneTime, use, own.kem.LastResort
	c.record.archive(c.limits.Archived)
	c.setCurrent(s, 4096)
	return &Opened{Plaintext: plaintext, Identity: s.remote, Registration: s.registration, Began: true}, nil
}

// preKeys loads the own prekeys that a first message names.
func (c *call) preKeys(m *preKeyMessage) (own responderKeys, use *KEMUse, err error) {
	if own.signed, err = c.store.SignedPreKey(m.signed); err != nil {
		return own, nil, fmt.Errorf("ratchet: load prekey: %w", err)
	}
	if own.signed == nil {
		return own, nil, &UnknownPreKeyError{"signed", m.signed}
	}
	if own.kem, err = c.store.KEMPreKey(m.kem); err != nil {
		return own, nil, fmt.Errorf("ratchet: load prekey: %w", err)
	}
	if own.kem == nil {
		return own, nil, &UnknownPreKeyError{"kem", m.kem}
	}
	if m.oneTime != nil {
		if own.oneTime, err = c.store.OneTimePreKey(*m.oneTime); err != nil {
			return own, nil, fmt.Errorf("ratchet: load prekey: %w", err)
		}
		if own.oneTime == nil {
			return own, nil, &UnknownPreKeyError{"one-time", *m.oneTime}
		}
	}
	use = &KEMUse{m.kem, m.signed, m.base}
	if own.kem.LastResort {
		used, err := c.store.KEMUsed(*use)
		if err != nil {
			return own, nil, fmt.Errorf("ratchet: load prekey uses: %w", err)
		}
		if used {
			return own, nil, ErrKEMReused
		}
	}
	return own, use, nil
}

// Archive retires the current session: the next Encrypt needs a new one, late
// messages can still be read. Without a current session nothing happens.
func (d *Device) Archive(store Store, peer Address) error {
	c, err := d.begin(store, peer)
	if err != nil {
		return err
	}
	if c.record.current == nil {
		return nil
	}
	c.record.archive(c.limits.Archived)
	return c.apply()
}
