package core

import (
	"context"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// outItem is one content on its way to the own homeserver. Once it is sealed
// it is sent again byte by byte until the server has answered.
type outItem struct {
	ID      clearbox.MessageID `cbor:"1,keyasint"`
	To      clearbox.UserID    `cbor:"2,keyasint,omitzero"`
	Kind    Kind               `cbor:"3,keyasint"`
	Content []byte             `cbor:"4,keyasint"`           // padded plaintext
	Sealed  []byte             `cbor:"5,keyasint,omitempty"` // wire.Submission in CBOR
	Stale   bool               `cbor:"6,keyasint,omitempty"` // Sealed goes to the wrong devices; the server stored nothing
	Own     bool               `cbor:"7,keyasint,omitempty"` // own other devices get a copy

	// For people of other servers: Wrapped is Sealed with every envelope sealed
	// for them, under a certificate that is valid until Until and with Token.
	Wrapped []byte             `cbor:"8,keyasint,omitempty"`
	Until   clearbox.Millis    `cbor:"9,keyasint,omitempty"`
	Token   []byte             `cbor:"10,keyasint,omitempty"`
	Pass    []byte             `cbor:"11,keyasint,omitempty"` // the knock that it answers, in place of a token
	Outer   clearbox.MessageID `cbor:"12,keyasint,omitzero"`  // its id at the servers, where that is not ID

	// Of what one device of the recipient is to have alone: the others get Filler.
	Only   clearbox.DeviceID `cbor:"70,keyasint,omitempty"`
	Filler []byte            `cbor:"71,keyasint,omitempty"`

	// Of what goes to a group, or to one member in its name.
	Group clearbox.GroupID `cbor:"40,keyasint,omitzero"`
	Epoch uint64           `cbor:"41,keyasint,omitempty"`
	// For is the identity of the member that it is for, where no other keys may
	// have it; nil where it holds nothing.
	For []byte `cbor:"42,keyasint,omitempty"`
}

// outer is the id under which the servers know it.
func (it *outItem) outer() clearbox.MessageID {
	if it.Outer != (clearbox.MessageID{}) {
		return it.Outer
	}
	return it.ID
}

// submission is what the server is sent.
func (it *outItem) submission() []byte {
	if it.Wrapped != nil {
		return it.Wrapped
	}
	return it.Sealed
}

// errNeedsList says that the recipient's devices are not known.
var errNeedsList = errors.New("core: device list not known")

// errHeldBack says that the recipient's keys changed and nobody accepted them.
var errHeldBack = clearbox.Errorf(clearbox.CodeIdentityChanged,
	"the contact's safety number changed; compare and accept the new one before writing")

// errOtherKeys says that a member is known by other keys than those by which the
// group knows them: what was for them is given up.
var errOtherKeys = clearbox.Errorf(clearbox.CodeForbidden, "the group knows this person by other keys")

// target is one device to encrypt to.
type target struct {
	user         clearbox.UserID
	device       clearbox.DeviceID
	registration uint16
}

// targets gives the devices that it goes to, the recipient's first.
func (b *Brain) targets(tx Tx, s *self, it *outItem) ([]target, error) {
	var own []target
	for _, d := range s.others() {
		own = append(own, target{s.User, clearbox.DeviceID(d.ID), d.Registration})
	}
	if it.To == s.User {
		if len(own) == 0 {
			return nil, clearbox.Errorf(clearbox.CodeNoDevice, "there is no other own device")
		}
		return own, nil
	}
	c, err := load[contact](tx, contactKey(uuidOfUser(it.To)))
	if err != nil {
		return nil, err
	}
	if c == nil || c.List == nil {
		return nil, errNeedsList
	}
	if c.Changed != nil {
		return nil, errHeldBack
	}
	if it.For != nil && !c.known(it.For) {
		return nil, errOtherKeys
	}
	devices, err := c.active()
	if err != nil {
		return nil, err
	}
	if len(devices) == 0 {
		return nil, clearbox.Errorf(clearbox.CodeNoDevice, "the recipient has no device")
	}
	var out []target
	for _, d := range devices {
		out = append(out, target{it.To, clearbox.DeviceID(d.ID), d.Registration})
	}
	if it.Own {
		out = append(out, own...)
	}
	return out, nil
}

// seal brings it.Sealed in line with the devices it goes to: envelopes that
// exist and still fit stay as they are, missing ones are encrypted. Where a
// session is missing, it takes it from bundles; if that lacks one too, nothing
// is changed and the devices that need one are returned. The caller saves it.
func (b *Brain) seal(tx Tx, s *self, it *outItem, bundles map[target]*keys.Bundle) (need []target, err error) {
	targets, err := b.targets(tx, s, it)
	if err != nil {
		return nil, err
	}
	kept := map[target]wire.Outgoing{}
	if it.Sealed != nil {
		var old wire.Submission
		if err := wire.Decode(wire.CBOR, it.Sealed, &old); err != nil {
			return nil, fmt.Errorf("read a queued message: %w", err)
		}
		for _, to := range old.To {
			for _, e := range to.Envelopes {
				kept[target{to.User, e.Device, e.Registration}] = e
			}
		}
	}
	for _, t := range targets {
		if _, ok := kept[t]; ok || bundles[t] != nil {
			continue
		}
		ok, err := b.hasSession(tx, s, t)
		if err != nil {
			return nil, err
		}
		if !ok {
			need = append(need, t)
		}
	}
	if len(need) > 0 {
		return need, nil
	}
	sub := wire.Submission{ID: it.ID}
	if !it.Group.IsZero() {
		sub.Group = &clearbox.GroupRef{ID: it.Group, Epoch: it.Epoch}
	}
	for _, t := range targets {
		e, ok := kept[t]
		if !ok {
			if e, err = b.encrypt(tx, s, t, it.contentFor(t), bundles[t]); err != nil {
				return nil, err
			}
		}
		if n := len(sub.To); n == 0 || sub.To[n-1].User != t.user {
			sub.To = append(sub.To, wire.Recipient{User: t.user})
		}
		to := &sub.To[len(sub.To)-1]
		to.Envelopes = append(to.Envelopes, e)
	}
	if it.Own && sub.To[len(sub.To)-1].User != s.User {
		// Named without an envelope, so that the server can say if we have
		// other devices that we do not know of.
		sub.To = append(sub.To, wire.Recipient{User: s.User, Envelopes: []wire.Outgoing{}})
	}
	if it.Sealed, err = wire.Append(wire.CBOR, nil, &sub); err != nil {
		return nil, fmt.Errorf("write a queued message: %w", err)
	}
	it.Stale, it.Wrapped = false, nil
	return nil, nil
}

// hasSession tells whether there is a session that fits t: usable, with the
// device that is listed now, with the pinned identity and under the own present one.
func (b *Brain) hasSession(tx Tx, s *self, t target) (bool, error) {
	store := sessionsOf(tx, s, t.user)
	peer := store.peer(t.device)
	record, err := store.Session(peer)
	if err != nil || record == nil {
		return false, err
	}
	info, err := s.device.Inspect(record, b.opts.Now())
	if err != nil {
		return false, err
	}
	pin, err := store.Pin(peer)
	if err != nil {
		return false, err
	}
	return info.Usable && info.Registration == t.registration && pin != nil && info.Identity == *pin && info.Local == s.identity.Public(), nil
}

// encrypt makes the envelope for one device; with a bundle it begins a session
// first, unless one has come to be meanwhile.
func (b *Brain) encrypt(tx Tx, s *self, t target, content []byte, bundle *keys.Bundle) (wire.Outgoing, error) {
	store := sessionsOf(tx, s, t.user)
	peer := store.peer(t.device)
	if bundle != nil {
		ok, err := b.hasSession(tx, s, t)
		if err != nil {
			return wire.Outgoing{}, err
		}
		if !ok {
			if err := s.device.Initiate(store, b.opts.Now(), peer, bundle); err != nil {
				return wire.Outgoing{}, fmt.Errorf("begin a session: %w", err)
			}
		}
	}
	c, err := s.device.Encrypt(store, b.opts.Now(), peer, content)
	if err != nil {
		return wire.Outgoing{}, fmt.Errorf("encrypt: %w", err)
	}
	return wire.Outgoing{Device: t.device, Registration: t.registration, Type: clearbox.ContentType(c.Type), Content: c.Body}, nil
}

// prepare gives the item at key ready to be sent, asking the network for
// device lists and prekeys where they are missing; nil if the item is gone.
// Errors carry codes; errHeldBack where nothing may be sent.
func (b *Brain) prepare(ctx context.Context, key string) (*outItem, error) {
	var bundles map[target]*keys.Bundle
	for range 6 {
		s, err := b.me()
		if err != nil {
			return nil, err
		}
		var it *outItem
		var need []target
		var unwrapped error
		err = b.vault.Update(ctx, func(tx Tx) error {
			need, unwrapped = nil, nil
			it, err = load[outItem](tx, key)
			if err != nil || it == nil {
				return err
			}
			if it.Sealed == nil || it.Stale {
				if need, err = b.seal(tx, s, it, bundles); err != nil || len(need) > 0 {
					return err
				}
				if err := save(tx, key, it); err != nil {
					return err
				}
			} else if !s.elsewhere(it.To) {
				return nil
			}
			if unwrapped = b.wrap(tx, s, it); unwrapped != nil {
				return nil // what was encrypted is kept
			}
			return save(tx, key, it)
		})
		switch {
		case errors.Is(err, errNeedsList):
			if _, err = b.contactWithList(ctx, it.To); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case it == nil || len(need) == 0 && unwrapped == nil:
			return it, nil
		case errors.Is(unwrapped, errNeedsCertificate):
			if err := b.fetchCertificate(ctx); err != nil {
				return nil, err
			}
		case errors.Is(unwrapped, errNeedsUpload):
			if err := b.uploadToken(ctx); err != nil {
				return nil, err
			}
		case unwrapped != nil:
			return nil, unwrapped
		default:
			if bundles, err = b.claim(ctx, it, need); err != nil {
				return nil, err
			}
		}
	}
	return nil, clearbox.Errorf(clearbox.CodeUnavailable, "the recipient's devices keep changing")
}

// stale notes that an item goes to the wrong devices and learns the right ones.
// The server stored nothing, so the item is encrypted anew where it must be.
func (b *Brain) stale(ctx context.Context, key string, e *clearbox.StaleDevicesError) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if err := b.lookAgain(ctx, e.User); err != nil {
		return err
	}
	for i := range e.Others {
		if err := b.lookAgain(ctx, e.Others[i].User); err != nil {
			return err
		}
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		it, err := load[outItem](tx, key)
		if err != nil || it == nil {
			return err
		}
		it.Stale = true
		it.Own = it.Own || e.User == s.User && it.Group.IsZero()
		return save(tx, key, it)
	})
}
