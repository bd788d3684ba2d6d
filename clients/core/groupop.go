package core

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// newOp is an operation that the server brought, before it was verified.
type newOp struct {
	Op       []byte   `cbor:"1,keyasint"`
	Openings [][]byte `cbor:"2,keyasint,omitempty"`
}

// maxNewOps bounds the operations of one group that wait to be verified.
const maxNewOps = 4096

// takeOp keeps an operation that came with the mail, to be verified by tendGroups:
// that may take questions to servers.
func (b *Brain) takeOp(tx Tx, op *wire.GroupEvent, got *arrivals) error {
	if op.Ended {
		return b.deleted(tx, op.Group, got)
	}
	waiting, err := tx.List(Range{Prefix: prefixNewOp + op.Group.String() + "/", Limit: maxNewOps})
	if err != nil || len(waiting) == maxNewOps {
		return err // it can be asked for
	}
	got.tasks = true
	return save(tx, opKey(prefixNewOp, op.Group, op.Epoch), newOp{op.Op, op.Openings})
}

// tendGroups verifies operations that came, fetches those that are missing, and
// judges the messages that waited for them.
func (b *Brain) tendGroups(ctx context.Context) error {
	wanted := map[clearbox.GroupID]bool{} // and whether to ask the server
	err := b.vault.View(ctx, func(r Reader) error {
		for _, prefix := range []string{prefixNewOp, prefixEarly} {
			names, err := heads(r, prefix)
			if err != nil {
				return err
			}
			for _, name := range names {
				id, err := clearbox.ParseGroupID(name)
				if err != nil {
					return err
				}
				wanted[id] = false
			}
		}
		entries, err := r.List(Range{Prefix: prefixGroup})
		for _, e := range entries {
			g, err := parse[group](e.Value)
			if err != nil {
				return err
			}
			st, err := b.stateOf(r, g)
			if err != nil {
				return err
			}
			if g.behind(st) {
				wanted[g.ID] = true
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	var first error
	for id, ask := range wanted {
		if err := b.syncGroup(ctx, id, ask); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// strangerError says that somebody's device list has to be known first, in a
// version.
type strangerError struct {
	user    clearbox.UserID
	version int64
}

func (e *strangerError) Error() string { return "a member's devices are not known" }

// syncRounds bounds what one syncGroup asks of servers.
const syncRounds = 64

// syncGroup verifies what waits of a group's operations; with ask, and where one
// is missing, the own server is asked for more. What a member's server does not
// tell in time is tried again with the next look.
func (b *Brain) syncGroup(ctx context.Context, id clearbox.GroupID, ask bool) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	met := map[clearbox.UserID]bool{}
	for range syncRounds {
		var got arrivals
		var gap bool
		var stranger *strangerError
		err := b.vault.Update(ctx, func(tx Tx) (err error) {
			got, stranger = arrivals{}, nil
			gap, err = b.applyOps(tx, s, id, &got)
			if errors.As(err, &stranger) {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
		b.actOn(got)
		switch {
		case stranger != nil && met[stranger.user]:
			return clearbox.Errorf(clearbox.CodeUnavailable, "the devices of a member are not told")
		case stranger != nil:
			met[stranger.user] = true
			if err := b.meet(ctx, stranger); err != nil {
				return err
			}
		case gap || ask:
			ask = false
			more, err := b.fetchOps(ctx, id)
			if err != nil {
				return err
			}
			if !more {
				return b.settleEarly(ctx, id)
			}
		default:
			return b.settleEarly(ctx, id)
		}
	}
	return clearbox.Errorf(clearbox.CodeUnavailable, "the group changes faster than it can be read")
}

// SyncGroup brings what this device knows of a group up to what the own server
// shows.
func (b *Brain) SyncGroup(ctx context.Context, id clearbox.GroupID) error {
	return b.syncGroup(ctx, id, true)
}

// meet asks for somebody's present devices.
func (b *Brain) meet(ctx context.Context, who *strangerError) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if who.user == s.User {
		_, err = b.Devices(ctx)
		return err
	}
	_, err = b.refreshFrom(ctx, who.user, who.version)
	return err
}

// fetchOps asks the own server for operations after the newest one that is known,
// and tells whether there were any.
func (b *Brain) fetchOps(ctx context.Context, id clearbox.GroupID) (bool, error) {
	var epoch uint64
	err := b.vault.View(ctx, func(r Reader) error {
		g, err := load[group](r, groupKey(id))
		if err == nil && g != nil {
			epoch = g.Epoch
		}
		return err
	})
	if err != nil {
		return false, err
	}
	var page wire.GroupPage
	if err := b.call(ctx, "GET", fmt.Sprintf("/groups/%s/ops?after=%d", id, epoch), nil, &page); err != nil {
		return false, err
	}
	any := false
	err = b.vault.Update(ctx, func(tx Tx) error {
		any = false
		for _, raw := range page.Ops {
			op, err := chain.Parse(raw)
			if err != nil {
				return clearbox.Wrap(clearbox.CodeInternal, "the server's history of the group cannot be read", err)
			}
			if op.Epoch <= epoch || op.Epoch > epoch+maxNewOps {
				continue
			}
			any = true
			if err := save(tx, opKey(prefixNewOp, id, op.Epoch), newOp{raw, openingsOf(op, page.Openings)}); err != nil {
				return err
			}
		}
		return nil
	})
	return any, err
}

// openingsOf picks the openings of those whom an operation brings in.
func openingsOf(op *chain.Op, all [][]byte) (out [][]byte) {
	var members []chain.Member
	switch body := op.Body.(type) {
	case chain.Create:
		members = append(members, op.Actor)
	case chain.Add:
		for _, v := range body.Invitees {
			members = append(members, v.Member)
		}
	}
	if len(members) == 0 {
		return nil
	}
	for _, raw := range all {
		if o, err := chain.ParseOpening(raw); err == nil && slices.Contains(members, o.Member) {
			out = append(out, raw)
		}
	}
	return out
}

// deleted notes that the administrators of the hub ended a group.
func (b *Brain) deleted(tx Tx, id clearbox.GroupID, got *arrivals) error {
	g, err := load[group](tx, groupKey(id))
	if err != nil || g == nil {
		return err
	}
	return b.alarm(tx, g, AlarmDeleted, chain.Member{}, got)
}

// applyOps verifies the waiting operations in their order as far as they reach,
// and tells whether one is missing before others. A *strangerError asks for
// somebody's devices; what was verified before it is kept.
func (b *Brain) applyOps(tx Tx, s *self, id clearbox.GroupID, got *arrivals) (gap bool, err error) {
	g, st, err := b.loadGroup(tx, id)
	if err != nil {
		return false, err
	}
	if g == nil {
		g, st = &group{ID: id}, new(chain.State)
	}
	waiting, err := tx.List(Range{Prefix: prefixNewOp + id.String() + "/"})
	if err != nil {
		return false, err
	}
	for _, e := range waiting {
		if g.Alarm != "" && !g.doubted() {
			return false, nil
		}
		op, err := parse[newOp](e.Value)
		if err != nil {
			return false, err
		}
		if orderOf(e.Key) > g.Epoch+1 {
			return true, nil
		}
		next, err := b.applyOp(tx, s, g, st, op)
		var stranger *strangerError
		switch {
		case errors.As(err, &stranger):
			return false, err
		case errors.Is(err, errKnownOp):
		case errors.Is(err, errVault):
			return false, err
		case err != nil:
			if err := b.alarm(tx, g, alarmOf(err), chain.Member{}, got); err != nil {
				return false, err
			}
		default:
			st = next
			got.shown, got.queue = true, true
		}
		if err := tx.Delete(e.Key); err != nil {
			return false, err
		}
	}
	return false, nil
}

var (
	errKnownOp = errors.New("core: an operation that is known")
	errFork    = errors.New("core: two histories of a group")
	errDevice  = errors.New("core: an operation signed by no device of its actor")
	errVault   = errors.New("core: the vault failed") // wrapped around what must not look like a forged operation
)

func alarmOf(err error) Alarm {
	if errors.Is(err, errFork) || errors.Is(err, chain.ErrPrev) {
		return AlarmFork
	}
	return AlarmForged
}

// vaultFault marks an error as the vault's.
func vaultFault(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(errVault, err)
}

// applyOp verifies one operation: that the chain allows it, that the openings are
// what it commits to, and that the key that signed it is on the signed device
// list of its actor. It stores the operation.
func (b *Brain) applyOp(tx Tx, s *self, g *group, st *chain.State, op *newOp) (*chain.State, error) {
	o, err := chain.Parse(op.Op)
	if err != nil {
		return nil, err
	}
	if o.Epoch <= g.Epoch {
		known, err := tx.Get(opKey(prefixOp, g.ID, o.Epoch))
		if err != nil {
			return nil, vaultFault(err)
		}
		if !bytes.Equal(known, op.Op) {
			return nil, errFork
		}
		return nil, errors.Join(errKnownOp, b.takeOpenings(tx, s, g, st, op.Openings))
	}
	next, err := st.Apply(op.Op)
	if err != nil {
		return nil, err
	}
	if clearbox.GroupID(next.Group) != g.ID {
		return nil, chain.ErrGroup
	}
	if err := b.takeOpenings(tx, s, g, &next, op.Openings); err != nil {
		return nil, err
	}
	if err := lawful(tx, g.ID, &next, o); err != nil {
		return nil, err
	}
	if err := b.bound(tx, s, g, o); err != nil {
		return nil, err
	}
	if g.doubted() && next.Members[g.AlarmBy].Status == chain.StatusFormer {
		g.Alarm, g.AlarmBy = "", chain.Member{}
	}
	was := g.Title
	g.Epoch, g.Head = next.Epoch, next.Head
	nameGroup(g, &next)
	err = errors.Join(tx.Put(opKey(prefixOp, g.ID, o.Epoch), op.Op), save(tx, groupKey(g.ID), g))
	if err == nil {
		err = b.tellOp(tx, s, g, &next, o, was)
	}
	if err != nil {
		return nil, vaultFault(err)
	}
	b.keepState(g.ID, &next)
	return &next, nil
}

// takeOpenings keeps who members are. One that the chain does not commit to is
// forged; one of a membership that is not known yet is left.
func (b *Brain) takeOpenings(tx Tx, s *self, g *group, st *chain.State, openings [][]byte) error {
	for _, raw := range openings {
		o, err := chain.ParseOpening(raw)
		if err != nil {
			return err
		}
		switch err := st.Opens(o); {
		case errors.Is(err, chain.ErrUnknownMember):
			continue
		case err != nil:
			return err
		}
		if _, err := clearbox.ParseUserID(o.Account); err != nil {
			return err
		}
		if o.Account == s.User.String() && (st.Members[o.Member].Status != chain.StatusFormer || g.Me == chain.Member{}) {
			ours, err := b.ours(tx, s, o.Identity[:])
			if err != nil {
				return vaultFault(err)
			}
			if ours {
				g.Me = o.Member
			}
		}
		if err := tx.Put(whoKey(g.ID, o.Member), raw); err != nil {
			return vaultFault(err)
		}
	}
	return nil
}

// bound checks that the key which signed an operation is one of its actor's
// devices, on the list that the actor's root signed, and was not removed then.
// Of somebody who was erased there is no opening, and the chain stands alone. A
// server can keep one back to act as that person: nothing is encrypted for who is
// in the group by such operations until a member has confirmed them (see confirm).
func (b *Brain) bound(tx Tx, s *self, g *group, o *chain.Op) error {
	opening, user, err := whoIs(tx, g.ID, o.Actor)
	if err != nil {
		return vaultFault(err)
	}
	if opening == nil {
		if g.UnnamedTo = o.Epoch; g.Unnamed == 0 {
			g.Unnamed = o.Epoch
		}
		return nil
	}
	list := s.list
	if user != s.User {
		c, err := load[contact](tx, contactKey(uuidOfUser(user)))
		if err != nil {
			return vaultFault(err)
		}
		if c == nil || c.List == nil {
			return &strangerError{user, o.List}
		}
		known := &c.pins
		if c.Changed != nil && c.Changed.List != nil && c.Changed.known(opening.Identity[:]) {
			known = c.Changed
		}
		if list, err = keys.ParseDeviceList(known.List); err != nil {
			return vaultFault(err)
		}
	}
	if list.Version < o.List {
		return &strangerError{user, o.List}
	}
	for _, d := range list.Devices {
		if ed25519.PublicKey(d.Key).Equal(o.Signer) && (d.Removed == 0 || d.Removed > o.Time) {
			return nil
		}
	}
	return errDevice
}

// alarm stops a group from taking operations, and says so once. by is the member
// whose word it is; while there is nothing but that, operations are taken on, and
// this device makes none but the one that removes them.
func (b *Brain) alarm(tx Tx, g *group, why Alarm, by chain.Member, got *arrivals) error {
	proven := by == chain.Member{}
	if g.Alarm != "" && !(g.doubted() && proven) || g.Epoch == 0 && why != AlarmForged {
		return nil
	}
	g.Alarm, g.AlarmBy = why, by
	if err := save(tx, groupKey(g.ID), g); err != nil || g.Epoch == 0 {
		return err
	}
	got.shown = true
	return b.groupLine(tx, g, clearbox.UserID{}, &GroupEvent{Kind: GroupAlarm, Alarm: why})
}

// settleEarly judges the messages that waited for operations or keys.
func (b *Brain) settleEarly(ctx context.Context, id clearbox.GroupID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		return b.readEarly(tx, s, id, &got)
	})
	if err == nil {
		b.actOn(got)
	}
	return err
}

// GroupEventKind says what happened in a group.
type GroupEventKind string

// The kinds of events.
const (
	GroupCreated  GroupEventKind = "created"
	GroupInvited  GroupEventKind = "invited"
	GroupJoined   GroupEventKind = "joined"
	GroupDeclined GroupEventKind = "declined"
	GroupRemoved  GroupEventKind = "removed"
	GroupLeft     GroupEventKind = "left"
	GroupRole     GroupEventKind = "role"
	GroupPolicy   GroupEventKind = "policy"
	GroupNamed    GroupEventKind = "named"
	GroupClosed   GroupEventKind = "closed"
	GroupAlarm    GroupEventKind = "alarm"
)

// GroupEvent is a line of a group that says what became of the group.
type GroupEvent struct {
	Kind  GroupEventKind    `cbor:"1,keyasint"`
	About []clearbox.UserID `cbor:"2,keyasint,omitempty"` // whom it concerns, as far as somebody told who they are
	Role  string            `cbor:"3,keyasint,omitempty"`
	Title string            `cbor:"4,keyasint,omitempty"`
	Alarm Alarm             `cbor:"5,keyasint,omitempty"`
}

// tellOp writes the line for an operation.
func (b *Brain) tellOp(tx Tx, s *self, g *group, st *chain.State, o *chain.Op, title string) error {
	_, actor, err := whoIs(tx, g.ID, o.Actor)
	if err != nil {
		return err
	}
	e := &GroupEvent{}
	var about []chain.Member
	switch body := o.Body.(type) {
	case chain.Create:
		e.Kind = GroupCreated
	case chain.Add:
		e.Kind = GroupInvited
		for _, v := range body.Invitees {
			about = append(about, v.Member)
		}
	case chain.Accept:
		e.Kind = GroupJoined
	case chain.Decline:
		e.Kind = GroupDeclined
	case chain.Remove:
		e.Kind, about = GroupRemoved, body.Members
		if len(about) == 1 && about[0] == o.Actor {
			e.Kind, about = GroupLeft, nil
		}
	case chain.SetRole:
		e.Kind, e.Role, about = GroupRole, body.Role.String(), []chain.Member{body.Member}
	case chain.SetPolicy:
		e.Kind = GroupPolicy
	case chain.SetInfo:
		if e.Kind, e.Title = GroupNamed, g.Title; g.Title == title {
			return nil // a new key for the same
		}
	case chain.Close:
		e.Kind = GroupClosed
	default:
		return nil
	}
	for _, id := range about {
		_, user, err := whoIs(tx, g.ID, id)
		if err != nil {
			return err
		}
		if !user.IsZero() {
			e.About = append(e.About, user)
		}
	}
	return b.groupLine(tx, g, actor, e)
}

// groupLine adds a line to a group's conversation that says what happened to it.
func (b *Brain) groupLine(tx Tx, g *group, actor clearbox.UserID, e *GroupEvent) error {
	m := &Message{
		Group: g.ID, Sender: actor, Kind: MessageGroup, Event: e, State: StateReceived, Sent: b.now(), Stored: b.now(),
	}
	return addMessage(tx, m.In().key(), uuidOfUser(actor), m)
}

// earlyFor is how long a message waits for operations or keys before it counts as
// unreadable.
const earlyFor = time.Hour
