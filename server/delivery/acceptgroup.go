package delivery

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

const (
	// groupBehind is how long a message waits at its sender's server for the change
	// of the group that makes it one among members: the change comes by another
	// stream, which neither waits for the other.
	groupBehind = time.Hour
	groupRetry  = 10 * time.Second
)

// multi is a peer's message to members of a group here.
type multi struct {
	fan     *fan
	refused []refusal
	stale   []federation.Stale // whose devices are others than it was made for
}

// refusal is somebody for whom a message to many is not stored.
type refusal struct {
	user clearbox.UserID
	code clearbox.Code
}

func (m *multi) reset() {
	if m != nil && m.fan != nil {
		for i := range m.fan.mails {
			m.fan.mails[i].Seq = 0
		}
	}
}

// behind gives a message that this server may not understand yet a verdict: it
// comes again, but not for ever.
func (a *arrival) behind(now clearbox.Millis) {
	if a.item.AcceptedAt < after(now, -groupBehind) {
		a.reject(clearbox.CodeNotAMember)
		return
	}
	a.verdict = &federation.Verdict{Code: federation.VerdictDeferred, Reason: clearbox.CodeNotAMember, RetryAfter: groupRetry}
}

// speaks gives the group of an item in which the peer has somebody; nil with a
// verdict otherwise.
func (op *accept) speaks(ctx context.Context, a *arrival, invited bool, now clearbox.Millis) (*roster, error) {
	it := a.item
	ro, err := op.r.roster(ctx, it.Group)
	switch {
	case clearbox.CodeOf(err) == clearbox.CodeNotAMember:
		a.behind(now)
		return nil, nil
	case err != nil:
		return nil, err
	case ro.has(op.peer, it.Epoch, invited):
		return ro, nil
	case it.Epoch > ro.Epoch:
		a.behind(now)
	default:
		a.reject(clearbox.CodeNotAMember)
	}
	return nil, nil
}

// fellows gives a message from member to member a verdict unless both belong to
// the group. People who are invited may be written to, and write.
func (op *accept) fellows(ctx context.Context, a *arrival, now clearbox.Millis) error {
	ro, err := op.speaks(ctx, a, true, now)
	if ro == nil {
		return err
	}
	switch m := ro.Members[a.item.Recipient]; {
	case m.in(a.item.Epoch) || m.Status == MemberInvited:
	case a.item.Epoch > ro.Epoch:
		a.behind(now)
	default:
		a.reject(clearbox.CodeNotAMember)
	}
	return nil
}

// addMulti prepares a message to all members here. It is one item: who alone
// cannot get it is told about by a bounce, and the others get it.
func (op *accept) addMulti(ctx context.Context, a *arrival, fresh bool, now clearbox.Millis) error {
	r, it := op.r, a.item
	ro, err := op.speaks(ctx, a, false, now)
	if ro == nil {
		return err
	}
	m, err := parseMulti(it.Multi)
	if err != nil {
		a.reject(clearbox.CodeOf(err))
		return nil
	}
	here, err := r.here(ctx, ro, fresh)
	if err != nil {
		return err
	}
	out := &multi{}
	if out.fan, err = r.newFan(it.ID, op.peer, it.Ref, it.AcceptedAt, m); err != nil {
		return err
	}
	out.fan.people = here
	for i := range m.Recipients() {
		to := &m.Recipients()[i]
		user, known := ro.byID[to.ID]
		state := ro.Members[user]
		switch {
		case known && user.Server == r.server && state.in(it.Epoch):
			out.add(user, to, here)
		case it.Epoch > ro.Epoch:
			a.behind(now)
			return nil
		case !known || user.Server != r.server: // nobody of whom could be told
			a.reject(clearbox.CodeNotAMember)
			return nil
		default:
			out.refused = append(out.refused, refusal{user, clearbox.CodeNotAMember})
		}
	}
	a.multi = out
	return out.fan.seal(r)
}

// add has those devices of a member get the message that it was made for.
func (m *multi) add(user clearbox.UserID, to *fanout.Recipient, here *locals) {
	who, active := here.people[user]
	if !active { // banned or gone: as if they had left
		m.refused = append(m.refused, refusal{user, clearbox.CodeNotAMember})
		return
	}
	got := 0
	for _, d := range who.Devices {
		for _, t := range to.Devices {
			if t.ID == uint8(d.ID) && t.Registration == d.Registration {
				m.fan.add(user, d, to.Material())
				got++
			}
		}
	}
	if got != len(who.Devices) || got != len(to.Devices) {
		m.stale = append(m.stale, federation.Stale{UID: user.UID, Version: who.DevicesVersion})
	}
	if got == 0 {
		m.refused = append(m.refused, refusal{user, clearbox.CodeNoDevice})
		return
	}
	m.fan.who = append(m.fan.who, user)
}

// storeMulti stores it, and queues a bounce for each member who did not get it.
func (op *accept) storeMulti(tx *storage.Tx, b *batch, a *arrival) (federation.Verdict, error) {
	m := a.multi
	v := federation.Verdict{Code: federation.VerdictOK}
	named := 0
	for i := range op.answer.Verdicts {
		named += len(op.answer.Verdicts[i].Stale)
	}
	v.Stale = m.stale[:min(len(m.stale), federation.MaxStale-named)]
	full, err := m.fan.store(tx)
	if err != nil {
		return v, err
	}
	for _, f := range m.refused {
		if err := op.bounceOne(tx, b, a.item, f); err != nil {
			return v, err
		}
	}
	for _, u := range full {
		if err := op.bounceOne(tx, b, a.item, refusal{u, clearbox.CodeMailboxFull}); err != nil {
			return v, err
		}
	}
	return v, nil
}

// bounceOne queues the news for the peer that one member did not get its message.
func (op *accept) bounceOne(tx *storage.Tx, b *batch, it *federation.Item, f refusal) error {
	r := op.r
	back := federation.Item{ID: it.ID, Sender: f.user, AcceptedAt: tx.Now(), Bounce: f.code, Ref: it.Ref}
	sealed, err := r.sealItem(storage.ServerKey, it.ID, &back)
	if err != nil {
		return err
	}
	queue, err := b.queue(tx, op.peer)
	if err != nil {
		return err
	}
	op.bounced = true
	return queue.Put(&storage.OutboxItem{
		Peer: op.peer, Class: storage.ClassMessage, SenderKey: storage.ServerKey, Sealed: sealed, MessageID: it.ID,
		Expires: after(tx.Now(), r.opts.OutboxTTL), HoldKey: r.keys.Index("outbox.recipient", []byte(op.peer)),
	})
}
