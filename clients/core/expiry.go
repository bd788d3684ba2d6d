package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
)

// How the brain lets go of what is to be forgotten.
const (
	forgetEvery = time.Minute // the vault is rewritten at most so often while Run goes on
	sweepBatch  = 512         // messages that disappear in one transaction
	lookEvery   = time.Hour   // a clock may have been set, or a machine have slept
)

func goneKey(at clearbox.Millis, order uint64) string {
	return fmt.Sprintf("%s%016x/%016x", prefixGone, uint64(at), order)
}

// goneAt cuts the moment out of a key of goneKey; 0 if there is none.
func goneAt(key string) clearbox.Millis {
	at, _, _ := strings.Cut(key[len(prefixGone):], "/")
	n, err := strconv.ParseUint(at, 16, 63)
	if err != nil {
		return 0
	}
	return clearbox.Millis(n)
}

// goneBy tells whether m has disappeared at a moment.
func (m *Message) goneBy(now clearbox.Millis) bool { return m.Gone != 0 && m.Gone <= now }

// startClock sets when a message disappears, once: it was sent, or read. The
// caller saves it.
func startClock(tx Tx, m *Message, now clearbox.Millis) error {
	if m.Expires == 0 || m.Gone != 0 || !m.written() {
		return nil
	}
	m.Gone = now + clearbox.Millis(m.Expires)*1000
	return tx.Put(goneKey(m.Gone, m.Order), []byte(m.In().key()))
}

// wasRead does what reading a message causes. It tells whether its sender is to
// be told.
func (b *Brain) wasRead(tx Tx, shown *Message) (bool, error) {
	key := messageKey(shown.In().key(), shown.Order)
	m, err := load[Message](tx, key)
	if err != nil || m == nil || !m.written() {
		return false, err
	}
	before := m.Gone
	if err := startClock(tx, m, b.now()); err != nil {
		return false, err
	}
	if m.Gone != before {
		if err := save(tx, key, m); err != nil {
			return false, err
		}
	}
	kept, err := settingsOf(tx)
	if err != nil || !kept.ReadReceipts {
		return false, err
	}
	if !m.Group.IsZero() {
		if owes, err := b.owesReceipt(tx, m); err != nil || !owes {
			return false, err
		}
	}
	return true, putReceipt(tx, m, receiptRead)
}

// SetTimer makes what anybody writes into a conversation from now on disappear so
// long after it was read, and for its sender after it was sent; 0 is never. It
// holds for both sides, and the one who set it last wins. after is rounded to
// seconds. In a group see SetGroupPolicy.
func (b *Brain) SetTimer(ctx context.Context, in ConversationID, after time.Duration) (*Message, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	if !in.Group.IsZero() {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "in a group its rules say when messages disappear, and who administers it sets them")
	}
	if after < 0 || after > MaxTimer*time.Second || after > 0 && after < time.Second {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "messages disappear after a second at least and a year at most")
	}
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return nil, err
	}
	now := b.now()
	m := &Message{
		ID: id, Sender: s.User, SenderDevice: s.Device, Outgoing: true, Kind: MessageTimer,
		Expires: uint32(after / time.Second), Stored: now,
	}
	err = b.say(ctx, s, in, m, func(tx Tx, conv *conversation) error {
		m.Sent = max(now, conv.TimerSent+1)
		return setTimer(tx, m, conv)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// setTimer gives a conversation the timer of m, unless a later one is set.
func setTimer(tx Tx, m *Message, conv *conversation) error {
	if m.Sent < conv.TimerSent || m.Sent == conv.TimerSent && slices.Compare(m.ID[:], conv.TimerID[:]) <= 0 {
		return nil
	}
	conv.Timer, conv.TimerSent, conv.TimerID = m.Expires, m.Sent, m.ID
	return save(tx, prefixConv+m.In().key(), conv)
}

// erase takes a line out of the vault. Its id stays known, so that nothing brings
// it back.
func (b *Brain) erase(tx Tx, m *Message) error {
	in := m.In().key()
	for _, id := range []clearbox.MessageID{m.ID, m.Outer} {
		if id == (clearbox.MessageID{}) {
			continue
		}
		if err := save(tx, idKey(uuidOfUser(m.Sender), id), place{UUID: in}); err != nil {
			return err
		}
	}
	conv, err := load[conversation](tx, prefixConv+in)
	if err != nil {
		return err
	}
	if conv != nil && slices.Contains(conv.Pins, m.Ref()) {
		conv.Pins = slices.DeleteFunc(conv.Pins, func(r Ref) bool { return r == m.Ref() })
		if err := save(tx, prefixConv+in, conv); err != nil {
			return err
		}
	}
	return errors.Join(
		tx.Delete(messageKey(in, m.Order)), tx.Delete(newKey(m.Order)), tx.Delete(fateKey(m.Order)), tx.Delete(goneKey(m.Gone, m.Order)),
		b.dropLate(tx, m), dropReach(tx, m), b.mustForget(tx),
	)
}

// sweep erases what has disappeared and tells when the next message does; 0 if
// none will.
func (b *Brain) sweep(ctx context.Context) (next clearbox.Millis, err error) {
	for {
		more, erased := false, false
		err := b.vault.Update(ctx, func(tx Tx) error {
			more, erased, next = false, false, 0
			now := b.now()
			entries, err := tx.List(Range{Prefix: prefixGone, Limit: sweepBatch})
			if err != nil {
				return err
			}
			for _, e := range entries {
				if at := goneAt(e.Key); at > now {
					next = at
					return nil
				}
				m, err := load[Message](tx, messageKey(string(e.Value), orderOf(e.Key)))
				if err != nil {
					return err
				}
				if err := tx.Delete(e.Key); err != nil {
					return err
				}
				if m != nil {
					erased = true
					if err := b.erase(tx, m); err != nil {
						return err
					}
				}
			}
			more = len(entries) == sweepBatch
			return nil
		})
		if erased {
			b.changed()
		}
		if err != nil || !more {
			return next, err
		}
	}
}

// mustForget notes that something was deleted or replaced that is to leave the
// vault's files as well.
func (b *Brain) mustForget(tx Tx) error {
	n, err := count(tx, keyForget)
	if err != nil {
		return err
	}
	return setCount(tx, keyForget, n+1)
}

// forget has the vault let go of what was deleted, if anything was.
func (b *Brain) forget(ctx context.Context) error {
	due := uint64(0)
	look := func(r Reader) (err error) {
		due, err = count(r, keyForget)
		return err
	}
	if err := b.vault.View(ctx, look); err != nil || due == 0 {
		return err
	}
	// A process that dies in between does it again.
	if err := b.vault.Forget(ctx); err != nil {
		return err
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		if now, err := count(tx, keyForget); err != nil || now != due {
			return err
		}
		return tx.Delete(keyForget)
	})
}

// Tidy erases what has disappeared, and has the vault's files forget whatever was
// deleted. Run does it by itself; a host that does not run calls it when it
// opens the brain, before it shows anything, and when it is done.
func (b *Brain) Tidy(ctx context.Context) error {
	if _, err := b.sweep(ctx); err != nil {
		return err
	}
	if err := b.endLate(ctx); err != nil {
		return err
	}
	return b.forget(ctx)
}

// expire tidies until ctx ends, or the vault does no more work: whoever uses it
// next is told. What fails otherwise is tried again.
func (b *Brain) expire(ctx context.Context) {
	var forgot, looked time.Time
	for {
		pause, err := b.tidyDue(ctx, &forgot, &looked)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrVaultBroken):
			return
		case err != nil:
			pause = forgetEvery
		}
		timer := time.NewTimer(max(pause, time.Millisecond))
		select {
		case <-timer.C:
		case <-b.expiryWake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tidyDue does what is due of Tidy and gives how long until something will be.
// forgot and looked are when it last did each of its costly parts.
func (b *Brain) tidyDue(ctx context.Context, forgot, looked *time.Time) (time.Duration, error) {
	now := b.opts.Now()
	if now.Sub(*looked) >= lookEvery {
		if err := b.endLate(ctx); err != nil {
			return 0, err
		}
		*looked = now
	}
	next, err := b.sweep(ctx)
	if err != nil {
		return 0, err
	}
	pause := lookEvery
	if next > 0 {
		pause = min(pause, time.UnixMilli(int64(next)).Sub(now))
	}
	due, err := b.forgetDue(ctx)
	if err != nil || !due {
		return pause, err
	}
	if wait := forgetEvery - now.Sub(*forgot); wait > 0 {
		return min(pause, wait), nil
	}
	*forgot = now
	return pause, b.forget(ctx)
}

func (b *Brain) forgetDue(ctx context.Context) (due bool, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		n, err := count(r, keyForget)
		due = n > 0
		return err
	})
	return due, err
}
