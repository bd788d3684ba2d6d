package core

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// A first message under another identity than the pinned one is from a contact who
// renewed their keys, whose list says so, or from somebody else, or from a contact
// who lost all keys. So it waits until the list was asked for.

const (
	prefixDoubt = "doubt/"         // <uuid>: see doubt
	doubtFor    = 10 * time.Minute // for which a list that says nothing is asked for
	doubtEvery  = 30 * time.Second // and how often at most
)

// doubt is an identity that somebody writes under and that their list is to say
// something about.
type doubt struct {
	User     clearbox.UserID `cbor:"1,keyasint"`
	Identity []byte          `cbor:"2,keyasint"`
	Since    clearbox.Millis `cbor:"3,keyasint"`
	Asked    clearbox.Millis `cbor:"4,keyasint,omitempty"`
	Settled  bool            `cbor:"5,keyasint,omitempty"` // the list says nothing of it
}

// errDoubt: what was written under these keys is to wait.
var errDoubt = errors.New("core: keys that the contact's list is asked about")

// decipher decrypts a letter as this device, whichever of the account's identities its
// sender knew, and also where it comes from a session that was begun before its
// sender renewed theirs.
func (b *Brain) decipher(tx Tx, s *self, store *sessions, env *letter) (*ratchet.Opened, error) {
	peer := store.peer(env.SenderDevice)
	try := func(d ratchet.Device) (*ratchet.Opened, error) {
		return d.Decrypt(store, peer, ratchet.Type(env.Type), env.Content)
	}
	out, err := try(s.device)
	var changed *ratchet.IdentityChangedError
	if errors.As(err, &changed) {
		known, settled, fault := b.alias(tx, s, env, changed.Offered)
		switch {
		case fault != nil:
			return nil, fault
		case !known && settled:
			return nil, ratchet.ErrNoSession // of keys that are replaced for good
		case !known:
			return nil, err
		}
		store.as, store.settled = &changed.Offered, settled
		defer func() { store.as, store.settled = nil, false }()
		out, err = try(s.device)
	}
	if err == nil || env.Type != clearbox.ContentPreKey || !readingFault(err) {
		return out, err
	}
	all, fault := b.identities(tx, s)
	if fault != nil {
		return nil, fault
	}
	for _, identity := range all {
		d := s.device
		d.Identity = identity
		if out, other := try(d); other == nil {
			return out, nil
		}
	}
	return nil, err
}

// alias tells whether an identity that is not the pinned one may stand for the
// sender all the same: an own one that is to come, or one that was replaced, in
// sessions that are there. settled is for those: no session begins under them any
// more, since the devices that may be removed know them.
func (b *Brain) alias(tx Tx, s *self, env *letter, offered curve.PublicKey) (known, settled bool, err error) {
	if env.uuid == s.uuid {
		all, err := loadRenewals(tx)
		if err != nil || all.of(offered) != nil {
			return err == nil, false, err
		}
		_, replaced := s.list.Replaced(offered)
		return replaced && slices.ContainsFunc(s.others(), func(d deviceEntry) bool { return clearbox.DeviceID(d.ID) == env.SenderDevice }), replaced, nil
	}
	c, err := load[contact](tx, contactKey(env.uuid))
	if err != nil || c == nil || c.List == nil {
		return false, false, err
	}
	list, err := keys.ParseDeviceList(c.List)
	if err != nil {
		return false, false, err
	}
	until, replaced := list.Replaced(offered)
	active, err := c.active()
	if !replaced || err != nil {
		return false, false, err
	}
	there := slices.ContainsFunc(active, func(d deviceEntry) bool { return clearbox.DeviceID(d.ID) == env.SenderDevice })
	return there && clearbox.Millis(until) >= b.soon(-preKeyGrace), true, nil
}

// doubtful tells whether c's list is to be asked about an identity first.
func doubtful(r Reader, uuid string, c *contact, offered curve.PublicKey) (bool, error) {
	if c.List == nil || c.Changed != nil && bytes.Equal(c.Changed.Identity, offered.Bytes()) {
		return false, nil
	}
	settled, err := settledFor(r, uuid, offered.Bytes())
	return err == nil && !settled, err
}

// settledFor tells whether somebody's list was asked about an identity in vain.
func settledFor(r Reader, uuid string, identity []byte) (bool, error) {
	d, err := load[doubt](r, prefixDoubt+uuid)
	return d != nil && d.Settled && bytes.Equal(d.Identity, identity), err
}

// doubt lets a letter wait for the list of its sender.
func (b *Brain) doubt(tx Tx, env *letter, offered curve.PublicKey, got *arrivals) error {
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	return errors.Join(b.noteDoubt(tx, env, offered.Bytes(), got), save(tx, heldKey(env.uuid, order), held{env.Envelope, env.identity}))
}

// noteDoubt has the list of a letter's sender asked for.
func (b *Brain) noteDoubt(tx Tx, env *letter, identity []byte, got *arrivals) error {
	key := prefixDoubt + env.uuid
	d, err := load[doubt](tx, key)
	if err != nil || d != nil && bytes.Equal(d.Identity, identity) {
		return err
	}
	got.tasks = true
	return save(tx, key, doubt{User: env.Sender, Identity: identity, Since: b.now()})
}

// tendDoubts asks for the lists of people who write under other keys.
func (b *Brain) tendDoubts(ctx context.Context) error {
	var all []doubt
	err := b.vault.View(ctx, func(r Reader) error {
		all = nil
		entries, err := r.List(Range{Prefix: prefixDoubt})
		for _, e := range entries {
			d, err := parse[doubt](e.Value)
			if err != nil {
				return err
			}
			all = append(all, *d)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Settled || within(b.now(), all[i].Asked, doubtEvery) {
			continue
		}
		if err := b.askDoubt(ctx, &all[i]); err != nil {
			return err
		}
	}
	return nil
}

// askDoubt asks for the list of one of them. What it does not vouch for in time, or
// not at all, is dealt with as a change of keys.
func (b *Brain) askDoubt(ctx context.Context, d *doubt) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	uuid := uuidOfUser(d.User)
	var version int64
	err = b.vault.View(ctx, func(r Reader) error {
		c, err := load[contact](r, contactKey(uuid))
		if err == nil && c != nil {
			version = c.version()
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = b.refreshFrom(ctx, d.User, version+1) // resolve reads what waits
	if lasting(err) || ctx.Err() != nil {
		return err
	}
	wait := s.elsewhere(d.User) && (err == nil || passing(clearbox.CodeOf(err))) || passing(clearbox.CodeOf(err))
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		d, err := load[doubt](tx, prefixDoubt+uuid)
		if err != nil || d == nil || d.Settled {
			return err
		}
		if d.Asked = b.now(); wait && within(d.Asked, d.Since, doubtFor) {
			return save(tx, prefixDoubt+uuid, d)
		}
		d.Settled = true
		if err := save(tx, prefixDoubt+uuid, d); err != nil {
			return err
		}
		return b.readDoubted(tx, s, d.User, &got)
	})
	if err == nil {
		b.actOn(got)
	}
	return err
}

// resolve reads what waited for c's list, if that names the keys now.
func (b *Brain) resolve(tx Tx, s *self, c *contact, got *arrivals) error {
	d, err := load[doubt](tx, prefixDoubt+uuidOfUser(c.User))
	switch {
	case err != nil || d == nil:
		return err
	case bytes.Equal(c.Identity, d.Identity):
		return errors.Join(tx.Delete(prefixDoubt+uuidOfUser(c.User)), b.readDoubted(tx, s, c.User, got))
	case c.Changed != nil && bytes.Equal(c.Changed.Identity, d.Identity) && !d.Settled: // it waits until the person accepts them
		d.Settled = true
		return save(tx, prefixDoubt+uuidOfUser(c.User), d)
	}
	return nil
}

// readDoubted reads what waited.
func (b *Brain) readDoubted(tx Tx, s *self, user clearbox.UserID, got *arrivals) error {
	got.shown, got.receipts, got.queue, got.tasks = true, true, true, true
	return b.readHeld(tx, s, user)
}
