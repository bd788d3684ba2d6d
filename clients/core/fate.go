package core

import (
	"context"
	"errors"
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
// drop repeats. Only the device that wrote it does so, and only while nobody has
// it and the contact's keys are accepted.
func (b *Brain) requeue(tx Tx, s *self, m *Message) (bool, error) {
	if m.State != StateFailed || !m.sendable() || !m.Outgoing || m.SenderDevice != s.Device {
		return false, nil
	}
	content, err := b.compose(tx, s, m.content())
	if err != nil {
		return false, err
	}
	it := &outItem{ID: m.ID, To: m.Conversation, Kind: m.content().Kind, Content: content, Own: true, Outer: m.Outer}
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
