package core

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
)

// Fates gives own messages of all conversations whose end nobody was shown
// yet, in the order in which they were written: those that were given up, with
// the reason, and those that arrived after all once their failure had been
// shown. They stay until MarkShown names them, through any restart, so that a
// failure is told however late it comes, and once.
func (b *Brain) Fates(ctx context.Context) ([]Message, error) {
	return b.listed(ctx, prefixFate, 0)
}

// noteFate keeps in mind that m, which was in state was, is to be shown.
func noteFate(tx Tx, m *Message, was State) error {
	key, uuid := fateKey(m.Order), []byte(m.In().key())
	if m.State == StateFailed {
		return tx.Put(key, uuid)
	}
	if was != StateFailed {
		return nil
	}
	unseen, err := optional(tx.Get(key))
	if err != nil {
		return err
	}
	if unseen != nil {
		return tx.Delete(key) // nobody saw the failure, which was no failure
	}
	return tx.Put(key, uuid)
}

// requeue puts an own text that was given up back into the queue, under its id
// and encrypted anew: the server has forgotten the submission, and recipients
// drop repeats. What was edited since goes under another id at the servers, which
// commits to what it says now. Only the device that wrote it does so, and only while nobody has
// it and the contact's keys are accepted.
func (b *Brain) requeue(tx Tx, s *self, m *Message) (bool, error) {
	if m.State != StateFailed || !m.sendable() || !m.Outgoing || m.SenderDevice != s.Device {
		return false, nil
	}
	c := m.content()
	if c.Edit != nil && c.Frank != nil { // it says something else than its id commits to
		number, err := b.number(c)
		if err != nil {
			return false, err
		}
		if err := b.resendAs(tx, s, m, number); err != nil {
			return false, err
		}
	}
	content, err := b.compose(tx, s, c)
	if err != nil {
		return false, err
	}
	it := &outItem{ID: m.ID, To: m.Conversation, Kind: c.Kind, Content: content, Own: true, Outer: m.Outer}
	err = b.queueItem(tx, s, outKey(m.In().key(), m.Order), it)
	if errors.Is(err, errHeldBack) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m.State, m.Reason, m.Delayed = StateQueued, "", false
	if err := tx.Delete(fateKey(m.Order)); err != nil {
		return false, err
	}
	return true, save(tx, messageKey(m.In().key(), m.Order), m)
}

// resendAs has m go out under another id at the servers. The caller saves it.
func (b *Brain) resendAs(tx Tx, s *self, m *Message, number clearbox.MessageID) error {
	var dropped error
	if m.Outer != (clearbox.MessageID{}) {
		dropped = errors.Join(tx.Delete(idKey(s.uuid, m.Outer)), tx.Delete(awaitKey(m.Outer)))
	}
	m.Outer = number
	return errors.Join(dropped, tx.Delete(awaitKey(m.ID)), save(tx, idKey(s.uuid, number), place{UUID: m.In().key(), Order: m.Order}))
}

// fateShown forgets that m is to be shown, if how it was shown is still true.
func fateShown(tx Tx, m *Message) error {
	uuid := m.In().key()
	now, err := load[Message](tx, messageKey(uuid, m.Order))
	if err != nil || now == nil {
		return err
	}
	switch {
	case now.State == m.State:
		return tx.Delete(fateKey(m.Order))
	case m.State == StateFailed: // it was shown as failed, and arrived meanwhile
		return tx.Put(fateKey(m.Order), []byte(uuid))
	}
	return nil
}
