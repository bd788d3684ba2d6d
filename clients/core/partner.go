package core

import (
	"context"
	"slices"

	"github.com/clearbox-im/clearbox"
)

// pace bounds how often lost messages are asked for and given again.
type pace struct {
	Renewed    clearbox.Millis `cbor:"8,keyasint,omitempty"`  // when they were last asked for
	Renewals   int             `cbor:"70,keyasint,omitempty"` // requests since anything was read
	Resent     int             `cbor:"71,keyasint,omitempty"` // own messages sent again since ResentFrom
	ResentFrom clearbox.Millis `cbor:"72,keyasint,omitempty"`
}

// partner is with whom this device talks of lost messages: an accepted contact, or
// the own other devices.
type partner struct {
	user    clearbox.UserID
	contact *contact // nil for own devices
	*pace
}

const (
	keyPace   = "pace"
	keyAskOwn = "askown"
)

// partnerAt gives whoever has that UUID; nil where nothing is said about lost
// messages. Its changes are to be saved.
func partnerAt(r Reader, s *self, uuid string) (*partner, error) {
	if uuid == s.uuid {
		p, err := load[pace](r, keyPace)
		if p == nil {
			p = new(pace)
		}
		return &partner{user: s.User, pace: p}, err
	}
	c, err := load[contact](r, contactKey(uuid))
	if err != nil || c == nil || !c.Accepted || c.Blocked {
		return nil, err
	}
	return &partner{user: c.User, contact: c, pace: &c.pace}, nil
}

// never is later than every time.
const never = clearbox.Millis(1<<63 - 1)

func (p *partner) own() bool { return p.contact == nil }

// heldBack tells whether nothing is written to them for now.
func (p *partner) heldBack() bool { return p.contact != nil && p.contact.Changed != nil }

func (p *partner) save(tx Tx) error {
	if p.own() {
		return save(tx, keyPace, p.pace)
	}
	return save(tx, contactKey(uuidOfUser(p.user)), p.contact)
}

// added says when a device was put on the list of their devices; a time that never
// comes for one that is not there.
func (p *partner) added(s *self, d clearbox.DeviceID) (clearbox.Millis, error) {
	if p.contact != nil {
		return p.contact.added(d)
	}
	return addedTo(s.others(), d), nil
}

func (c *contact) added(d clearbox.DeviceID) (clearbox.Millis, error) {
	if c.List == nil { // their keys changed a moment ago
		return never, nil
	}
	active, err := c.active()
	return addedTo(active, d), err
}

func addedTo(list []deviceEntry, d clearbox.DeviceID) clearbox.Millis {
	for _, e := range list {
		if clearbox.DeviceID(e.ID) == d {
			return clearbox.Millis(e.Added)
		}
	}
	return never
}

// heard notes that something was read: they can be asked for what is lost, again.
// It tells whether p changed.
func (b *Brain) heard(p *pace) bool {
	renewals := min(p.Renewals, healFree)
	if !within(b.now(), p.Renewed, healCalm) {
		renewals = 0
	}
	changed := renewals != p.Renewals
	p.Renewals = renewals
	return changed
}

func (b *Brain) heardOwn(tx Tx) error {
	p, err := load[pace](tx, keyPace)
	if err != nil || p == nil || !b.heard(p) {
		return err
	}
	return save(tx, keyPace, p)
}

// tellAgain says again what may have been in contents that somebody could not read
// and that stand for no message: what this account is called, and between own
// devices everything that was decided.
func (b *Brain) tellAgain(tx Tx, s *self, who *partner, d clearbox.DeviceID, got *arrivals) error {
	if who.own() {
		return b.tellAll(tx, s, who, d, got)
	}
	if who.Resent < resendMost && who.contact.CardSent > 0 {
		who.Resent++
		who.contact.CardSent, got.tasks = 0, true
	}
	return nil
}

// tellAll tells own devices all that this one knows of what the person decided,
// under the numbers that it has: what they know better stays. d, which asks for it,
// must be one of them.
func (b *Brain) tellAll(tx Tx, s *self, who *partner, d clearbox.DeviceID, got *arrivals) error {
	if added, err := who.added(s, d); err != nil || added == never || who.Resent >= resendMost {
		return err
	}
	y, err := decided(tx)
	if err != nil {
		return err
	}
	who.Resent += 1 + len(y.Contacts)/maxSyncContacts + len(y.Records)/maxSyncRecords
	queued, err := b.tellOwn(quiet(tx), s, y)
	got.queue = got.queue || queued
	return err
}

// decided gives all that own devices agree on, with its numbers; what was decided
// before there was another device has none.
func decided(tx Tx) (*Sync, error) {
	y := new(Sync)
	number := func(key string) (int64, error) {
		at, err := load[agreed](tx, prefixSynced+key)
		if err != nil || at == nil {
			return 0, err
		}
		return at.At, nil
	}
	err := eachContact(tx, func(key string, c *contact) (err error) {
		if c.Provisional || c.User.IsZero() {
			return nil
		}
		p := c.portable()
		p.At, err = number(key)
		y.Contacts = append(y.Contacts, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, key := range []string{keySettings, keyProfile} {
		value, err := optional(tx.Get(key))
		if err != nil {
			return nil, err
		}
		at, err := number(key)
		if err != nil {
			return nil, err
		}
		if value != nil && len(value) <= maxSyncRecord {
			y.Records = append(y.Records, SyncRecord{key, slices.Clone(value), at})
		}
	}
	kept, err := tx.List(Range{Prefix: prefixConv})
	if err != nil {
		return nil, err
	}
	for _, e := range kept {
		c, err := parse[conversation](e.Value)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Concat(convParts, []string{partTimer}) {
			r := SyncRecord{Key: e.Key + "/" + name}
			if r.Value, err = c.part(name); err != nil {
				return nil, err
			}
			if r.At, err = number(r.Key); err != nil {
				return nil, err
			}
			if r.Value != nil || r.At > 0 {
				y.Records = append(y.Records, r)
			}
		}
	}
	token, err := load[ownToken](tx, keyOwnToken)
	if err != nil {
		return nil, err
	}
	if token != nil {
		y.Token = token.Token
		if y.TokenAt, err = number(keyOwnToken); err != nil {
			return nil, err
		}
	}
	y.Archive, err = load[archiveKeys](tx, keyArchive)
	return y, err
}

// askOwn asks own devices for all that was decided, where that is due: this vault
// was behind.
func (b *Brain) askOwn(ctx context.Context) error {
	var due []byte
	err := b.vault.View(ctx, func(r Reader) (err error) {
		due, err = optional(r.Get(keyAskOwn))
		return err
	})
	if err != nil || due == nil {
		return err
	}
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		if len(s.others()) > 0 {
			if err := b.enqueueQuiet(tx, s, &Content{Kind: KindRenew, To: s.User}); err != nil {
				return err
			}
		}
		return tx.Delete(keyAskOwn)
	})
	wake(b.queueWake)
	return err
}
