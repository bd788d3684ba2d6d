package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// How lost messages are asked for, and given again. Both sides are bounded, so
// that two damaged devices, or a hostile one, do not talk about it for ever.
const (
	healFree   = 3                   // requests to one contact, or to own devices, that need no pause between them
	healFirst  = time.Minute         // the pause before the next one; doubled each time
	healCalm   = time.Hour           // after which, if anything of theirs was read, the next ones need no pause again
	healInARow = 10                  // requests to a contact of whom nothing can be read meanwhile
	healTries  = 3                   // requests for one message
	resendFor  = 30 * 24 * time.Hour // older messages are not sent again: no mail waits longer
	resendMost = 256                 // messages that are sent to one contact, or to own devices, again in a resendDay
	resendDay  = 24 * time.Hour
	lostMost   = 4096                  // messages of one contact that are waited for
	failedMost = keys.MaxActiveDevices // decryption errors in one request
	rewindSkip = 1 << 14               // numbers of prekeys that an older copy leaves out
)

// lost is a message that could not be read and is asked for. Its order is that
// of its line.
type lost struct {
	ID     clearbox.MessageID `cbor:"1,keyasint"`
	Device clearbox.DeviceID  `cbor:"2,keyasint"` // of its sender
	Error  []byte             `cbor:"3,keyasint"` // a DecryptionErrorMessage, as ratchet writes it
	Tries  int                `cbor:"4,keyasint,omitempty"`
}

// Healing counts what could not be read and what became of it.
type Healing struct {
	Lost    uint64 `cbor:"1,keyasint,omitempty"` // messages that could not be read
	Asked   uint64 `cbor:"2,keyasint,omitempty"` // requests for them, each with a new session
	Healed  uint64 `cbor:"3,keyasint,omitempty"` // of them that came after all
	Resent  uint64 `cbor:"4,keyasint,omitempty"` // own messages that were sent again because somebody asked
	Rewound uint64 `cbor:"5,keyasint,omitempty"` // times this vault turned out to be an older copy
}

// tally edits the counters.
func tally(tx Tx, edit func(*Healing)) error {
	h, err := load[Healing](tx, keyHealing)
	if err != nil {
		return err
	}
	if h == nil {
		h = new(Healing)
	}
	edit(h)
	return save(tx, keyHealing, h)
}

// miss notes that the message at m's line could not be read, and has it asked for
// if its sender is an accepted contact or an own device. Others do not learn that we
// read at all.
func (b *Brain) miss(tx Tx, s *self, l *letter, m *Message, got *arrivals) error {
	if err := tally(tx, func(h *Healing) { h.Lost++ }); err != nil {
		return err
	}
	with, err := partnerAt(tx, s, l.uuid)
	if err != nil || with == nil {
		return err
	}
	waiting, err := tx.List(Range{Prefix: prefixLost + l.uuid + "/", Limit: lostMost})
	if err != nil || len(waiting) == lostMost {
		return err
	}
	failed, err := ratchet.NewDecryptionError(ratchet.Type(l.Type), l.Content, uint64(l.AcceptedAt), uint8(l.SenderDevice))
	if err != nil {
		return nil // noise: there is nothing that could be sent again
	}
	m.Asked = true
	if !slices.Contains(got.lost, l.uuid) {
		got.lost = append(got.lost, l.uuid)
	}
	return errors.Join(
		save(tx, messageKey(l.uuid, m.Order), m),
		save(tx, lostKey(l.uuid, m.Order), lost{ID: m.ID, Device: l.SenderDevice, Error: failed.PlaintextContent()}),
	)
}

// askLost asks a contact, or own devices, for what is missing, at most as often as
// the pauses allow. The request is written in new sessions with the devices whose messages
// could not be read; it names the messages.
func (b *Brain) askLost(tx Tx, s *self, uuid string, got *arrivals) error {
	with, err := partnerAt(tx, s, uuid)
	if err != nil || with == nil || with.heldBack() {
		return err
	}
	now := b.now()
	if with.Renewals >= healInARow || with.Renewals >= healFree && within(now, with.Renewed, healFirst<<(with.Renewals-healFree)) {
		return nil
	}
	entries, err := tx.List(Range{Prefix: prefixLost + uuid + "/"})
	if err != nil {
		return err
	}
	ask := &Content{Kind: KindRenew, To: with.user}
	devices := map[clearbox.DeviceID]bool{}
	for _, e := range entries {
		l, err := parse[lost](e.Value)
		if err != nil {
			return err
		}
		if l.Tries >= healTries {
			if err := b.forgo(tx, uuid, e.Key); err != nil {
				return err
			}
			continue
		}
		if len(ask.Unread) == maxReceipts || !devices[l.Device] && len(devices) == failedMost {
			continue
		}
		l.Tries++
		if err := save(tx, e.Key, l); err != nil {
			return err
		}
		ask.Unread = append(ask.Unread, l.ID)
		if !devices[l.Device] {
			devices[l.Device] = true
			ask.Failed = append(ask.Failed, l.Error)
		}
	}
	if len(ask.Unread) == 0 {
		return nil
	}
	for d := range devices {
		if err := b.archive(tx, s, with.user, d); err != nil {
			return err
		}
	}
	with.Renewed, with.Renewals = now, with.Renewals+1
	if err := with.save(tx); err != nil {
		return err
	}
	if err := tally(tx, func(h *Healing) { h.Asked++ }); err != nil {
		return err
	}
	got.queue = true
	return b.enqueueQuiet(tx, s, ask)
}

// within tells whether now is less than d after then. A clock that was put back
// keeps nobody waiting.
func within(now, then clearbox.Millis, d time.Duration) bool {
	return now >= then && now < then+clearbox.Millis(d.Milliseconds())
}

// archive puts the present session with a device away: what is written next
// begins a new one, and late messages can still be read.
func (b *Brain) archive(tx Tx, s *self, user clearbox.UserID, d clearbox.DeviceID) error {
	store := sessionsOf(tx, s, user)
	peer := store.peer(d)
	record, err := store.Session(peer)
	if err != nil || record == nil {
		return err
	}
	return s.device.Archive(store, peer)
}

// forgo gives a lost message up; its line no longer says that it was asked for.
func (b *Brain) forgo(tx Tx, uuid, key string) error {
	at := messageKey(uuid, orderOf(key))
	m, err := load[Message](tx, at)
	if err != nil {
		return err
	}
	if m != nil && m.Asked {
		m.Asked = false
		if err := save(tx, at, m); err != nil {
			return err
		}
	}
	return tx.Delete(key)
}

// tendLost asks again for what did not come.
func (b *Brain) tendLost(ctx context.Context) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var waiting []string
	err = b.vault.View(ctx, func(r Reader) (err error) {
		waiting, err = heads(r, prefixLost)
		return err
	})
	if err != nil || len(waiting) == 0 {
		return err
	}
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		for _, uuid := range waiting {
			if err := b.askLost(tx, s, uuid, &got); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		b.actOn(got)
	}
	return err
}

// came removes the line that stood for a message that could not be read, if it
// is of that sender's device, and what was still to be asked.
func (b *Brain) came(tx Tx, l *letter, id clearbox.MessageID) (bool, error) {
	m, key, err := findMessage(tx, l.uuid, id)
	if err != nil || m == nil || m.Kind != MessageUndecryptable || m.SenderDevice != l.SenderDevice {
		return false, err
	}
	return true, errors.Join(tx.Delete(key), tx.Delete(newKey(m.Order)), tx.Delete(lostKey(l.uuid, m.Order)), tx.Delete(idKey(l.uuid, id)))
}

// answerLost sends a device of a contact, or an own one, again what it could not
// read of ours, and says of what it asked for in vain that it was no message. Only
// the device that wrote a message sends it again, and only to a device that it was
// for.
func (b *Brain) answerLost(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	who, err := partnerAt(tx, s, l.uuid)
	if err != nil || who == nil || who.heldBack() {
		return err
	}
	if now := b.now(); !within(now, who.ResentFrom, resendDay) {
		who.ResentFrom, who.Resent = now, 0
	}
	if who.own() && len(c.Unread) == 0 {
		return errors.Join(b.tellAll(tx, s, who, l.SenderDevice, got), who.save(tx))
	}
	if ours, err := b.failedHere(tx, s, l, c.Failed); err != nil || !ours {
		return err
	}
	added, err := who.added(s, l.SenderDevice)
	if err != nil {
		return err
	}
	void := &Content{Kind: KindVoid, To: l.Sender}
	sent := 0
	for _, id := range c.Unread {
		again, m, err := lostContent(tx, s, id)
		if err != nil {
			return err
		}
		if again == nil {
			void.Unread = append(void.Unread, id)
			continue
		}
		if !who.own() && m.Conversation != l.Sender || !m.Group.IsZero() || !b.mayResend(s, again, m, added) || who.Resent >= resendMost {
			continue
		}
		if !who.own() && again.Sent < who.contact.Replaced && m.State.Arrived() {
			continue // who had other keys has read it: these may be anybody's
		}
		who.Resent++
		sent++
		again.Unread = []clearbox.MessageID{id}
		if err := b.enqueueFor(tx, s, l.Sender, l.SenderDevice, again); err != nil {
			return err
		}
	}
	if len(void.Unread) > 0 {
		if err := b.enqueueFor(tx, s, l.Sender, l.SenderDevice, void); err != nil {
			return err
		}
		if err := b.tellAgain(tx, s, who, l.SenderDevice, got); err != nil {
			return err
		}
	}
	got.queue = true
	return errors.Join(who.save(tx), tally(tx, func(h *Healing) { h.Resent += uint64(sent) }))
}

// failedHere tells whether one of a request's decryption errors is about a
// message of this device, and puts away the session that it was written in, if
// that is still the present one.
func (b *Brain) failedHere(tx Tx, s *self, l *letter, failed [][]byte) (ours bool, err error) {
	for _, f := range failed {
		e, err := ratchet.ParsePlaintextContent(f)
		if err != nil || e.Device != uint32(s.Device) {
			continue
		}
		ours = true
		store := l.sessions(tx, s)
		record, err := store.Session(store.peer(l.SenderDevice))
		if err != nil || record == nil {
			return true, err
		}
		info, err := s.device.Inspect(record, b.opts.Now())
		if err != nil {
			return true, err
		}
		if e.RatchetKey != nil && info.RatchetKey == *e.RatchetKey {
			return true, b.archive(tx, s, l.Sender, l.SenderDevice)
		}
	}
	return ours, nil
}

// lostContent gives what was sent under id, as far as it still holds, with the
// message that it is or changes; nil if it stands for nothing any more.
func lostContent(tx Tx, s *self, id clearbox.MessageID) (*Content, *Message, error) {
	at, err := load[place](tx, idKey(s.uuid, id))
	if err != nil || at == nil || at.Order == 0 {
		return nil, nil, err
	}
	m, err := load[Message](tx, messageKey(at.UUID, at.Order))
	switch {
	case err != nil || m == nil:
		return nil, nil, err
	case at.Change:
		return m.changeBy(s.User, id), m, nil
	case m.sendable():
		return m.content(), m, nil
	}
	return nil, nil, nil
}

// mayResend tells whether c, which is or changes m, was sent by this device, to
// whoever was there at the time since, and not too long ago. Its state says nothing:
// who asks for it has its id from its server, of which this device's own may tell later.
func (b *Brain) mayResend(s *self, c *Content, m *Message, since clearbox.Millis) bool {
	ours := kinds[c.Kind].line && m.Outgoing && m.SenderDevice == s.Device || c.Target != nil && !kinds[c.Kind].line
	return ours && c.Sent >= since && c.Sent >= b.soon(-resendFor)
}

// enqueueFor queues a content that only one device of to is to have: the others get
// one that says nothing, since servers take messages for all devices of a person
// alone.
func (b *Brain) enqueueFor(tx Tx, s *self, to clearbox.UserID, d clearbox.DeviceID, c *Content) error {
	number, err := b.number(c)
	if err != nil {
		return err
	}
	if c.ID == (clearbox.MessageID{}) {
		c.ID, c.Sent = number, b.now()
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	it := &outItem{ID: number, To: to, Kind: KindVoid, Only: d}
	if it.Content, err = b.compose(tx, s, c); err != nil {
		return err
	}
	filler := &Content{Kind: KindVoid, ID: number, Sent: b.now(), To: to}
	if it.Filler, err = b.compose(tx, s, filler); err != nil {
		return err
	}
	err = b.queueItem(tx, s, outKey(uuidOfUser(to), order), it)
	if errors.Is(err, errHeldBack) {
		return nil
	}
	return err
}

// contentFor is what a device is to read of an item.
func (it *outItem) contentFor(t target) []byte {
	if it.Only != 0 && (t.user != it.To || t.device != it.Only) {
		return it.Filler
	}
	return it.Content
}

// rewind deals with a vault that is an older copy of this device's memory: no
// session of it is written in again, since its keys were used; the mail up to
// acked was read by the newer one. What comes in the meantime is asked for, and own
// devices are asked for what the person decided since.
func (b *Brain) rewind(ctx context.Context, acked int64) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		entries, err := tx.List(Range{Prefix: prefixSession})
		if err != nil {
			return err
		}
		for _, e := range entries {
			peer, err := peerOf(e.Key)
			if err != nil {
				return err
			}
			store := &sessions{tx: tx, self: s, uuid: peer.Name}
			err = s.device.Archive(store, peer)
			if errors.Is(err, ratchet.ErrRecord) {
				err = tx.Delete(e.Key)
			}
			if err != nil {
				return err
			}
		}
		spoken, err := tx.List(Range{Prefix: prefixSender})
		if err != nil {
			return err
		}
		for _, e := range spoken { // the next message to a group has a new key
			if err := tx.Delete(e.Key); err != nil {
				return err
			}
		}
		st, err := loadPreKeyState(tx)
		if err != nil {
			return err
		}
		// The server may have newer keys than this vault, under the next numbers.
		st.Rotated, st.NextID = 0, st.NextID+rewindSkip
		return errors.Join(save(tx, keyPreKeys, st), tx.Delete(keyGroupsAsked), tx.Put(keyAskOwn, []byte{1}), setCount(tx, keySeq, uint64(acked)), tally(tx, func(h *Healing) { h.Rewound++ }))
	})
}

// askAll asks everybody for what a batch of mail did not give.
func (b *Brain) askAll(tx Tx, s *self, got *arrivals) error {
	for _, uuid := range got.lost {
		if err := b.askLost(tx, s, uuid, got); err != nil {
			return err
		}
	}
	got.lost = nil
	return nil
}

// heal deals with what somebody says about lost messages: theirs that comes again,
// theirs that never was one, and ours that they could not read. An own device reads
// here, too, that it can be heard.
func (b *Brain) heal(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	if l.Sender == s.User {
		if err := b.heardOwn(tx); err != nil {
			return err
		}
	}
	if c.Kind == KindRenew {
		return b.answerLost(tx, s, l, c, got)
	}
	for _, id := range c.Unread {
		gone, err := b.came(tx, l, id)
		if err != nil {
			return err
		}
		if got.shown = got.shown || gone; gone && c.Kind != KindVoid {
			if err := tally(tx, func(h *Healing) { h.Healed++ }); err != nil {
				return err
			}
		}
	}
	return nil
}
