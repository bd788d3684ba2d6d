package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/wire"
)

// receiptGroup is how many people a group has at most whose members tell each
// other what they have got. A message causes one receipt of each of them, so that
// is also the most that a message causes.
const receiptGroup = 32

// Reach is how far an own message to a group came with its members.
type Reach struct {
	Of        int `cbor:"1,keyasint"`           // people whom it was encrypted for
	Delivered int `cbor:"2,keyasint,omitempty"` // on a device of theirs, as they say
	Read      int `cbor:"3,keyasint,omitempty"` // of those, who were shown it and tell such things
	Failed    int `cbor:"4,keyasint,omitempty"` // their server or mailbox refused it
}

// MemberFate is how far an own message to a group came with one of its members.
type MemberFate struct {
	User   clearbox.UserID `cbor:"1,keyasint"`
	State  State           `cbor:"2,keyasint"` // StateDelivered, StateRead or StateFailed
	Reason clearbox.Code   `cbor:"3,keyasint,omitempty"`
}

const (
	prefixReach = "reach/"     // <order of an own message>/<uuid>: how far it came with a member
	prefixTold  = "told/"      // <number>: the last receipts, not shown yet
	keyToldNext = "count/told" // number of the next one
	prefixAgain = "again/"     // <message id>: the own message that was sent to a member again under that id
)

// toldMost is how many receipts are kept for whoever shows them: who never asks
// has the last ones.
const toldMost = 1024

func reachPrefix(order uint64) string { return fmt.Sprintf("%s%016x/", prefixReach, order) }

func toldKey(number uint64) string { return fmt.Sprintf("%s%04x", prefixTold, number%toldMost) }

// readers notes for how many people an own message to a group is.
func readers(tx Tx, s *self, id clearbox.MessageID, of int) error {
	m, key, err := findMessage(tx, s.uuid, id)
	if err != nil || m == nil || !m.Outgoing || m.Reach != nil && m.Reach.Of == of {
		return err
	}
	if m.Reach == nil {
		m.Reach = new(Reach)
	}
	m.Reach.Of = of
	return save(tx, key, m)
}

// othersIn counts the active members besides this account.
func othersIn(st *chain.State) int {
	n := -1
	for _, m := range st.Members {
		if m.Status == chain.StatusActive {
			n++
		}
	}
	return max(n, 0)
}

// reached notes how far an own message to a group came with one of its members, if
// that is news, and moves the message on when all of them are as far.
func (b *Brain) reached(tx Tx, s *self, m *Message, f MemberFate) (bool, error) {
	at := reachPrefix(m.Order) + uuidOfUser(f.User)
	was, err := load[MemberFate](tx, at)
	if err != nil || was != nil && f.State.rank() <= was.State.rank() {
		return false, err
	}
	if m.Reach == nil {
		m.Reach = new(Reach)
	}
	if was != nil {
		m.Reach.count(was.State, -1)
	}
	m.Reach.count(f.State, 1)
	err = errors.Join(save(tx, at, f), save(tx, messageKey(m.In().key(), m.Order), m))
	if err != nil {
		return false, err
	}
	if err := b.tellReach(tx, m, &f); err != nil {
		return false, err
	}
	if all := m.Reach.all(); all != "" {
		_, err = b.advance(tx, s, m.ID, all, f.Reason, false)
	}
	return true, err
}

func (r *Reach) count(s State, by int) {
	switch s {
	case StateRead:
		r.Read += by
		r.Delivered += by
	case StateDelivered:
		r.Delivered += by
	case StateFailed:
		r.Failed += by
	}
}

// all is how far the message is with every member; empty if that differs.
func (r *Reach) all() State {
	switch {
	case r.Of == 0:
		return ""
	case r.Read >= r.Of:
		return StateRead
	case r.Delivered >= r.Of:
		return StateDelivered
	case r.Failed >= r.Of:
		return StateFailed
	}
	return ""
}

// tellReach keeps in mind that something became of an own message: who did not get
// it until that was shown, receipts only as long as they are among the last ones.
func (b *Brain) tellReach(tx Tx, m *Message, f *MemberFate) error {
	e := &event{
		Kind: KindReceipt, User: m.Conversation, Group: m.Group, Actor: f.User, At: b.now(), Target: m.Ref(), State: f.State, Reason: f.Reason,
	}
	if f.State == StateFailed {
		return b.note(tx, e)
	}
	n, err := count(tx, keyToldNext)
	if err != nil {
		return err
	}
	if e.Order, err = nextOrder(tx); err != nil {
		return err
	}
	return errors.Join(setCount(tx, keyToldNext, n+1), save(tx, toldKey(n), e))
}

// memberNotice takes what the server says of one member and a message to a group.
func (b *Brain) memberNotice(tx Tx, s *self, m *Message, n *wire.Notice, got *arrivals) (changed bool, err error) {
	switch n.Kind {
	case wire.NoticeDelayed:
		return b.advance(tx, s, m.ID, StateAtServer, "", true)
	case wire.NoticeUndeliverable:
		return b.reached(tx, s, m, MemberFate{n.Recipient, StateFailed, n.Code})
	case wire.NoticeRequeue:
		return b.sendToMember(tx, s, m, n.Recipient, got)
	}
	return false, nil
}

// sendToMember sends a message to a group to one member again, in the sessions with
// their devices, if they did not get it, were in the group then by the same
// membership, and this device wrote it.
func (b *Brain) sendToMember(tx Tx, s *self, m *Message, to clearbox.UserID, got *arrivals) (bool, error) {
	at := reachPrefix(m.Order) + uuidOfUser(to)
	f, err := load[MemberFate](tx, at)
	if err != nil || f == nil || f.State != StateFailed || !m.sendable() || m.SenderDevice != s.Device {
		return false, err
	}
	g, _, err := b.loadGroup(tx, m.Group)
	if err != nil || g == nil || g.UnnamedTo != 0 {
		return false, err
	}
	o, is, err := b.memberNow(tx, g, to)
	if err != nil || o == nil || m.Epoch < is.Joined {
		return false, err
	}
	again := m.content()
	again.To = to
	number, err := b.enqueueNumbered(tx, s, g, 0, again, o.Identity[:])
	if err != nil {
		return false, err
	}
	m.Reach.count(StateFailed, -1)
	if m.State == StateFailed {
		m.State, m.Reason = StateAtServer, ""
	}
	got.queue = true
	return true, errors.Join(
		tx.Delete(at), tx.Delete(fateKey(m.Order)), save(tx, messageKey(m.In().key(), m.Order), m),
		save(tx, prefixAgain+number.String(), m.Ref()),
	)
}

// memberNow gives a person's active membership with what says who they are; nil if
// there is none.
func (b *Brain) memberNow(r Reader, g *group, user clearbox.UserID) (*chain.Opening, chain.Membership, error) {
	st, err := b.stateOf(r, g)
	if err != nil {
		return nil, chain.Membership{}, err
	}
	id, in, err := memberOf(r, g, st, user)
	is := st.Members[id]
	if err != nil || !in || is.Status != chain.StatusActive {
		return nil, is, err
	}
	o, _, err := whoIs(r, g.ID, id)
	return o, is, err
}

// sentAgain gives the own message that was sent to a member again under that id.
func sentAgain(tx Tx, id clearbox.MessageID) (*Message, error) {
	ref, err := load[Ref](tx, prefixAgain+id.String())
	if err != nil || ref == nil {
		return nil, err
	}
	m, _, err := findMessage(tx, uuidOfUser(ref.Author), ref.ID)
	return m, err
}

// dropReach forgets how far an own message came.
func dropReach(tx Tx, m *Message) error {
	if m.Reach == nil {
		return nil
	}
	entries, err := tx.List(Range{Prefix: reachPrefix(m.Order)})
	for _, e := range entries {
		err = errors.Join(err, tx.Delete(e.Key))
	}
	return err
}

// Members gives those members with whom an own message to a group came any further
// than to their server, or failed, by their names.
func (b *Brain) Members(ctx context.Context, m *Message) (out []MemberFate, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: reachPrefix(m.Order)})
		if err != nil {
			return err
		}
		for _, e := range entries {
			f, err := parse[MemberFate](e.Value)
			if err != nil {
				return err
			}
			out = append(out, *f)
		}
		slices.SortFunc(out, func(x, y MemberFate) int { return strings.Compare(x.User.String(), y.User.String()) })
		return nil
	})
	return out, err
}

// owesReceipt tells whether a member who wrote to a group is to be told what became
// of it: an accepted contact, in a group that is not too large for that.
func (b *Brain) owesReceipt(r Reader, m *Message) (bool, error) {
	c, err := load[contact](r, contactKey(uuidOfUser(m.Sender)))
	if err != nil || c == nil || !c.Accepted || c.Blocked {
		return false, err
	}
	if m.Group.IsZero() {
		return true, nil
	}
	_, st, err := b.loadGroup(r, m.Group)
	return err == nil && st != nil && othersIn(st) < receiptGroup, err
}

// putReceipt keeps in mind that the sender of m is to be told something.
func putReceipt(tx Tx, m *Message, what byte) error {
	value := []byte{what}
	if !m.Group.IsZero() {
		value = append(value, m.Group[:]...)
	}
	return tx.Put(receiptKey(uuidOfUser(m.Sender), m.ID), value)
}
