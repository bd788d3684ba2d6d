package core

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How often the brain looks after things while it is connected.
const (
	statusEvery  = time.Minute
	preKeysEvery = time.Hour
)

// receipts sends delivered receipts, collected for a moment.
func (c *connection) receipts(ctx context.Context) {
	for {
		if err := c.b.flushReceipts(ctx); err != nil {
			if ctx.Err() == nil {
				c.fail(err)
			}
			return
		}
		select {
		case <-c.b.receiptWake:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(c.b.spread(c.b.opts.ReceiptDelay[0], c.b.opts.ReceiptDelay[1]))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// What is to be told of a message; that it was read says that it was delivered.
const (
	receiptDelivered = 1
	receiptRead      = 2
)

// maxUnsentReceipts is how many receipts are kept for somebody who was not
// accepted; they are sent if that changes.
const maxUnsentReceipts = 1024

// flushReceipts puts the receipts for accepted contacts into the queue.
func (b *Brain) flushReceipts(ctx context.Context) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	queued := false
	err = b.vault.Update(ctx, func(tx Tx) error {
		queued = false
		people, err := heads(tx, prefixRcpt)
		if err != nil {
			return err
		}
		for _, uuid := range people {
			did, err := b.flushReceiptsFor(tx, s, uuid)
			if err != nil {
				return err
			}
			queued = queued || did
		}
		return nil
	})
	if queued {
		wake(b.queueWake)
	}
	return err
}

// Flush queues the receipts that are due without their pause and waits until
// Run, which goes on meanwhile, has sent everything, knocks and their answers included, or until ctx ends.
func (b *Brain) Flush(ctx context.Context) error {
	changed, stop := b.Watch()
	defer stop()
	if err := b.flushReceipts(ctx); err != nil {
		return err
	}
	wake(b.tasksWake)
	for {
		st, err := b.Status(ctx)
		if err != nil || st.Queued+st.Errands == 0 {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *Brain) flushReceiptsFor(tx Tx, s *self, uuid string) (queued bool, err error) {
	c, err := load[contact](tx, contactKey(uuid))
	if err != nil || c == nil {
		return false, err
	}
	waiting, err := tx.List(Range{Prefix: prefixRcpt + uuid + "/"})
	if err != nil {
		return false, err
	}
	send := c.Accepted && c.Changed == nil
	if !send {
		if len(waiting) <= maxUnsentReceipts {
			return false, nil
		}
		waiting = waiting[maxUnsentReceipts:]
	}
	due := map[clearbox.GroupID]*Content{}
	for _, e := range waiting {
		if err := tx.Delete(e.Key); err != nil {
			return false, err
		}
		id, err := clearbox.ParseMessageID(e.Key[strings.LastIndexByte(e.Key, '/')+1:])
		if err != nil {
			return false, err
		}
		if !send || len(e.Value) == 0 {
			continue
		}
		var in clearbox.GroupID
		copy(in[:], e.Value[1:])
		r := due[in]
		if r == nil {
			r = &Content{Kind: KindReceipt, To: c.User}
			due[in] = r
		}
		if e.Value[0] == receiptRead {
			r.Read = append(r.Read, id)
		} else {
			r.Delivered = append(r.Delivered, id)
		}
		if len(r.Delivered)+len(r.Read) == maxReceipts {
			if err := b.enqueueReceipt(tx, s, in, r); err != nil {
				return false, err
			}
			delete(due, in)
		}
	}
	for in, r := range due {
		if err := b.enqueueReceipt(tx, s, in, r); err != nil {
			return false, err
		}
	}
	return send, nil
}

// enqueueReceipt queues a receipt; of messages of a group in the name of the group,
// so that its sender need not have accepted us, and only while both are in it.
func (b *Brain) enqueueReceipt(tx Tx, s *self, in clearbox.GroupID, r *Content) error {
	if !in.IsZero() {
		g, st, err := b.loadGroup(tx, in)
		if err != nil || g == nil || g.Epoch == 0 || active(g, st) != nil {
			return err
		}
		o, _, err := b.memberNow(tx, g, r.To)
		if err != nil || o == nil {
			return err
		}
		return b.enqueueInGroup(tx, s, g, 0, r, o.Identity[:])
	}
	var err error
	if r.ID, err = clearbox.NewMessageID(b.opts.Random); err != nil {
		return err
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	r.Sent = b.now()
	return b.enqueue(tx, s, order, r)
}

// tasks looks after keys, names and states with requests that may take their
// time. What fails is tried again later.
func (c *connection) tasks(ctx context.Context) {
	statuses := time.NewTicker(statusEvery)
	defer statuses.Stop()
	preKeys := time.NewTicker(preKeysEvery)
	defer preKeys.Stop()
	run := func(task func(context.Context) error) {
		if err := task(ctx); err != nil && ctx.Err() == nil && lasting(err) {
			c.fail(err)
		}
	}
	run(c.b.tendContacts)
	run(c.b.tendPreKeys)
	run(c.b.askStatuses)
	run(c.b.ConfirmNames)
	run(c.b.tendDevices)
	run(c.b.BackUp)
	for ctx.Err() == nil {
		select {
		case <-statuses.C:
			run(c.b.tendContacts)
			run(c.b.askStatuses)
			run(c.b.BackUp)
		case <-preKeys.C:
			run(c.b.tendPreKeys)
			run(c.b.ConfirmNames)
			run(c.b.tendDevices)
		case <-c.b.tasksWake:
			run(c.b.tendContacts)
			run(c.b.ConfirmNames)
			if c.b.keysLow.Load() || c.b.keysUsed.Load() >= int64(c.b.preKeys/preKeyLow) {
				c.b.keysUsed.Store(0)
				run(c.b.tendPreKeys)
			}
		case <-ctx.Done():
		}
	}
}

// tendContacts does what consent asks for at the own server. One thing that fails
// does not keep the others.
func (b *Brain) tendContacts(ctx context.Context) error {
	var first error
	for _, task := range []func(context.Context) error{
		b.tendRenewal, b.tendDoubts, b.uploadToken, b.tendCertificate, b.tendRoots, b.sendKnocks, b.answerKnocks, b.putBlocks, b.dropFiles, b.tendLost, b.tellProfile, b.findGroups, b.tendGroups, b.tendSyncs, b.tendLists, b.bringReports,
	} {
		if err := task(ctx); err != nil {
			if lasting(err) || ctx.Err() != nil {
				return err
			}
			first = errors.Join(first, err)
		}
	}
	return first
}

// askStatuses learns what became of messages that are at the own server.
func (b *Brain) askStatuses(ctx context.Context) error {
	after := ""
	for {
		var query wire.StatusQuery
		err := b.vault.View(ctx, func(r Reader) error {
			entries, err := r.List(Range{Prefix: prefixAwait, After: after, Limit: wire.MaxStatusQuery})
			for _, e := range entries {
				id, err := clearbox.ParseMessageID(e.Key[len(prefixAwait):])
				if err != nil {
					return err
				}
				query.IDs = append(query.IDs, id)
				after = e.Key
			}
			return err
		})
		if err != nil || len(query.IDs) == 0 {
			return err
		}
		var out wire.Statuses
		if err := b.call(ctx, "POST", "/messages/status", query, &out); err != nil {
			return err
		}
		for _, st := range out.States {
			if err := b.status(ctx, st.ID, st.State); err != nil {
				return err
			}
		}
	}
}

// status takes the server's word on an own message. That it was given up is
// told with its reason by a notice, so it is not taken from here.
func (b *Brain) status(ctx context.Context, id clearbox.MessageID, state wire.MessageState) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	moved := false
	switch state {
	case wire.StateAtPeer:
		err = b.vault.Update(ctx, func(tx Tx) error {
			m, _, err := findMessage(tx, s.uuid, id)
			if err != nil || m == nil {
				return err
			}
			moved, err = b.advance(tx, s, id, StateAtPeer, "", false)
			return errors.Join(err, b.arrived(tx, s, m.Conversation))
		})
	case wire.StateDelayed:
		err = b.vault.Update(ctx, func(tx Tx) error {
			moved, err = b.advance(tx, s, id, StateAtServer, "", true)
			return err
		})
	case wire.StateUnknown:
		// It was taken, and is forgotten: the server was put back to an older
		// state, or nobody asked for so long. No notice will come any more.
		err = b.vault.Update(ctx, func(tx Tx) error {
			m, _, err := findMessage(tx, s.uuid, id)
			if err == nil && m != nil && m.State == StateAtServer {
				moved, err = b.advance(tx, s, id, StateFailed, clearbox.CodeOutcomeUnknown, false)
			}
			return errors.Join(err, tx.Delete(awaitKey(id)))
		})
	}
	if moved {
		b.changed()
	}
	return err
}

// ConfirmNames asks servers whether their users are called what they say. Run
// does it too, a moment after somebody new has written.
func (b *Brain) ConfirmNames(ctx context.Context) error {
	var claims []contact
	err := b.vault.View(ctx, func(r Reader) error {
		claims = nil
		return eachContact(r, func(_ string, c *contact) error {
			if c.Claimed != "" && len(claims) < 64 {
				claims = append(claims, *c)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	var first error
	for _, c := range claims {
		var acc wire.Account
		err := b.call(ctx, "GET", userPath(c.Claimed), nil, &acc)
		if err == nil && acc.User == c.User {
			_, err = b.adopt(ctx, &acc, c.Claimed)
		}
		if passing(clearbox.CodeOf(err)) {
			if first == nil {
				first = err
			}
			continue
		}
		claimed := c.Claimed
		err = b.changeContact(ctx, c.User, func(_ Tx, _ *self, c *contact) error {
			if c.Claimed == claimed {
				c.Claimed = "" // confirmed, or not true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return first
}
