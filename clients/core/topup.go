package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// Only a contact's own server knows the list of their devices of the moment
// (docs/federation.md): what is sent to another server is made for the list that
// the own one knows, so a device that was just linked may be left out. The brain
// looks at the list again after a message has arrived there, and sends new devices
// what they missed, under the same ids.
const (
	listsEvery = 5 * time.Minute // how often the list of one contact is asked for at most, for this

	topUpMost   = 256      // lines that are looked at
	prefixCheck = "check/" // <uuid>: a message to them has arrived at their server
)

// arrived notes that a message of ours is at another server.
func (b *Brain) arrived(tx Tx, s *self, user clearbox.UserID) error {
	if !s.elsewhere(user) {
		return nil
	}
	key := prefixCheck + uuidOfUser(user)
	b.mu.Lock()
	_, recent := b.checked[key]
	b.mu.Unlock()
	if !recent { // else the next look at everything is soon enough
		wake(b.tasksWake)
	}
	return tx.Put(key, []byte(user.String()))
}

// tendLists asks for the lists of contacts elsewhere whom a message has reached.
func (b *Brain) tendLists(ctx context.Context) error {
	var due []Entry
	err := b.vault.View(ctx, func(r Reader) (err error) {
		due, err = r.List(Range{Prefix: prefixCheck})
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range due {
		if !b.mayCheck(e.Key) {
			continue
		}
		user, err := clearbox.ParseUserID(string(e.Value))
		if err == nil {
			_, err = b.refresh(ctx, user)
		}
		if lasting(err) || ctx.Err() != nil {
			return err
		}
		if passing(clearbox.CodeOf(err)) {
			continue // later
		}
		if err := b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(e.Key) }); err != nil {
			return err
		}
	}
	return nil
}

// mayCheck tells whether a list may be asked for, and notes that it is.
func (b *Brain) mayCheck(key string) bool {
	now := b.opts.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, at := range b.checked {
		if now.Sub(at) >= listsEvery || now.Before(at) {
			delete(b.checked, k)
		}
	}
	if _, recent := b.checked[key]; recent {
		return false
	}
	b.checked[key] = now
	return true
}

// topUp sends a contact's new devices what this device wrote since they were added,
// and while it did not know of them. What reached them is dropped there by its id.
func (b *Brain) topUp(tx Tx, s *self, c *contact) error {
	if len(c.linked) == 0 || !s.elsewhere(c.User) || !c.Accepted || c.Blocked {
		return nil
	}
	entries, err := tx.List(Range{Prefix: prefixMsg + uuidOfUser(c.User) + "/", Limit: topUpMost, Reverse: true})
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	for _, e := range entries {
		m, err := parse[Message](e.Value)
		if err != nil {
			return err
		}
		if !m.Outgoing || m.SenderDevice != s.Device || !m.sendable() || m.State == StateQueued || m.State == StateFailed {
			continue
		}
		for _, d := range c.linked {
			if m.Sent < clearbox.Millis(d.Added) {
				continue
			}
			if err := b.enqueueFor(tx, s, c.User, clearbox.DeviceID(d.ID), m.content()); err != nil && !errors.Is(err, errHeldBack) {
				return err
			}
		}
	}
	return nil
}

// linkedSince gives the devices of next that was did not have.
func linkedSince(was, next *keys.DeviceList) []deviceEntry {
	return slices.DeleteFunc(next.Active(), func(d deviceEntry) bool {
		return slices.ContainsFunc(was.Devices, func(e deviceEntry) bool { return string(e.Key) == string(d.Key) })
	})
}
