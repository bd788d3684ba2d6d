package core

import (
	"errors"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	sender "github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/server/wire"
)

// early is a message to a group that cannot be judged yet: its sender's key, or
// the operation that it was written after, is not here.
type early struct {
	Envelope wire.Envelope   `cbor:"1,keyasint"`           // opened: Type and Content are those of what was sealed
	UUID     string          `cbor:"2,keyasint"`           // of the sender, whom the certificate names
	Identity []byte          `cbor:"3,keyasint,omitempty"` // likewise
	Plain    []byte          `cbor:"4,keyasint,omitempty"` // decrypted already
	Since    clearbox.Millis `cbor:"5,keyasint"`

	stuck bool // its key is used up, or never was here: only its sender can help
}

// maxEarly bounds such messages of one group.
const maxEarly = 2048

// reasonOutside: its sender was not in the group.
const reasonOutside clearbox.Code = "not_a_member"

// readMany reads a message that was encrypted for a group.
func (b *Brain) readMany(tx Tx, s *self, l *letter, id clearbox.GroupID, got *arrivals) error {
	before, err := tx.List(Range{Prefix: prefixEarly + id.String() + "/", Limit: maxEarly})
	if err != nil || len(before) == maxEarly {
		return err
	}
	e := &early{Envelope: wire.Envelope(l.Envelope), UUID: l.uuid, Identity: l.identity, Since: b.now()}
	if len(before) == 0 {
		wait, err := b.judge(tx, s, id, e, got)
		if err != nil || !wait {
			return err
		}
	}
	if err := b.keepEarly(tx, id, e, got); err != nil || len(before) == 0 {
		return err
	}
	return b.readEarly(tx, s, id, got) // in the order in which they came
}

func (b *Brain) keepEarly(tx Tx, id clearbox.GroupID, e *early, got *arrivals) error {
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	got.tasks = true
	return save(tx, opKey(prefixEarly, id, order), e)
}

// readEarly reads what waited, as far as that is possible now.
func (b *Brain) readEarly(tx Tx, s *self, id clearbox.GroupID, got *arrivals) error {
	entries, err := tx.List(Range{Prefix: prefixEarly + id.String() + "/"})
	if err != nil || len(entries) == 0 {
		return err
	}
	type device struct {
		uuid string
		id   clearbox.DeviceID
	}
	missing := map[device][]clearbox.MessageID{}
	waits := map[device]bool{}
	for _, entry := range entries {
		e, err := parse[early](entry.Value)
		if err != nil {
			return err
		}
		d := device{e.UUID, e.Envelope.SenderDevice}
		over, had := !within(b.now(), e.Since, earlyFor), e.Plain != nil
		wait := true
		if !waits[d] || over { // what comes from one device is read in its order
			if wait, err = b.judge(tx, s, id, e, got); err != nil {
				return err
			}
		}
		if wait && over {
			l := e.letter()
			in := false
			if l.Sender, in, err = b.senderOf(tx, id, l.uuid); err != nil {
				return err
			}
			if in { // else of a group that nobody showed us, or by a stranger
				if err := b.unreadableIn(tx, s, id, l, reasonSession, got); err != nil {
					return err
				}
			}
			wait = false
		}
		switch {
		case !wait:
			err = tx.Delete(entry.Key)
		case e.Plain != nil && !had:
			err = save(tx, entry.Key, e)
		}
		if err != nil {
			return err
		}
		waits[d] = waits[d] || wait && !e.stuck
		if wait && e.Plain == nil {
			missing[d] = append(missing[d], e.Envelope.ID)
		}
	}
	g, err := load[group](tx, groupKey(id))
	if err != nil || g == nil || g.Epoch == 0 {
		return err
	}
	for d, ids := range missing {
		user, in, err := b.senderOf(tx, id, d.uuid)
		if err != nil {
			return err
		}
		if !in {
			continue
		}
		if err := b.askSender(tx, s, g, user, d.id, ids); err != nil {
			return err
		}
		got.queue = true
	}
	return nil
}

func (e *early) letter() *letter {
	return &letter{Envelope: clearbox.Envelope(e.Envelope), uuid: e.UUID, identity: e.Identity}
}

// senderOf gives the person of a group whose service id has that UUID.
func (b *Brain) senderOf(tx Tx, id clearbox.GroupID, uuid string) (clearbox.UserID, bool, error) {
	g, st, err := b.loadGroup(tx, id)
	if err != nil || g == nil {
		return clearbox.UserID{}, false, err
	}
	for m := range st.Members {
		_, user, err := whoIs(tx, id, m)
		if err != nil {
			return clearbox.UserID{}, false, err
		}
		if !user.IsZero() && uuidOfUser(user) == uuid {
			return user, true, nil
		}
	}
	return clearbox.UserID{}, false, nil
}

// judge decrypts a message, if that was not done, and reads it if what its sender
// knew of the group is known here too; wait tells that it was not.
func (b *Brain) judge(tx Tx, s *self, id clearbox.GroupID, e *early, got *arrivals) (wait bool, err error) {
	l := e.letter()
	user, in, err := b.senderOf(tx, id, l.uuid)
	if err != nil || !in {
		return true, err
	}
	l.Sender = user
	if e.Plain == nil {
		key := hearKey(id, l.uuid, l.SenderDevice)
		r, err := receiverAt(tx, key, id)
		if err != nil {
			return false, err
		}
		e.Plain, err = r.Decrypt(l.Content)
		switch {
		case err == nil:
			if err := tx.Put(key, r.Append(nil)); err != nil {
				return false, err
			}
		case errors.Is(err, sender.ErrNoKey):
			return true, nil
		case errors.Is(err, sender.ErrDuplicate):
			return b.stick(tx, s, id, e, l, got)
		default:
			return false, b.unreadableIn(tx, s, id, l, reasonDamaged, got)
		}
	}
	c, err := DecodeContent(e.Plain)
	if err != nil {
		return false, b.unreadableIn(tx, s, id, l, reasonFormat, got)
	}
	if c.Group == nil || c.Group.ID != id || c.From != user {
		return false, b.unreadableIn(tx, s, id, l, reasonMisrouted, got)
	}
	return b.readInGroup(tx, s, l, c, got)
}

// stick shows that a message cannot be read and keeps it, to be asked for, until it
// comes again; one that was read before merely came twice.
func (b *Brain) stick(tx Tx, s *self, id clearbox.GroupID, e *early, l *letter, got *arrivals) (wait bool, err error) {
	known, err := optional(tx.Get(idKey(l.uuid, l.ID)))
	if err != nil {
		return false, err
	}
	if known == nil {
		if err := b.unreadableIn(tx, s, id, l, reasonSession, got); err != nil {
			return false, err
		}
	}
	m, key, err := findMessage(tx, l.uuid, l.ID)
	if err != nil || m == nil || m.Kind != MessageUndecryptable {
		return false, err
	}
	e.stuck = true
	m.Asked = within(b.now(), e.Since, earlyFor)
	return m.Asked, save(tx, key, m)
}

// readInGroup reads a content of a group, whoever brought it: to all members, or
// to this device again. It compares what its sender knew of the group with what is
// known here.
func (b *Brain) readInGroup(tx Tx, s *self, l *letter, c *Content, got *arrivals) (wait bool, err error) {
	g, st, err := b.loadGroup(tx, c.Group.ID)
	if err != nil || g == nil || g.Epoch == 0 {
		return true, err
	}
	if c.Group.Epoch > g.Epoch && g.Alarm == "" {
		return true, b.fallBehind(tx, g, st, l, c, got)
	}
	by, ok, err := b.wasIn(tx, s, g, st, l, c)
	if errors.Is(err, errDoubt) {
		return true, b.noteDoubt(tx, l, l.identity, got)
	}
	if err != nil {
		return false, err
	}
	if !ok {
		return false, b.unreadableIn(tx, s, g.ID, l, reasonOutside, got)
	}
	if c.Group.Epoch <= g.Epoch {
		if err := b.compareHeads(tx, s, g, st, by, l, c.Group, got); err != nil {
			return false, err
		}
	}
	for _, id := range c.Unread {
		gone, err := b.came(tx, l, id)
		if err != nil {
			return false, err
		}
		if gone {
			if err := tally(tx, func(h *Healing) { h.Healed++ }); err != nil {
				return false, err
			}
		}
	}
	if timed(c) {
		if c.Expires, err = timerAt(tx, g, st, c.Group.Epoch); err != nil {
			return false, err
		}
	}
	if c.Kind == KindGroupKey {
		return false, b.takeGroupKey(tx, g, st, c, got)
	}
	return false, b.readTalk(tx, s, l, c, got)
}

// fallBehind notes that somebody who is in the group, or invited, knows of an epoch
// that was not shown here.
func (b *Brain) fallBehind(tx Tx, g *group, st *chain.State, l *letter, c *Content, got *arrivals) error {
	by, in, err := memberOf(tx, g, st, l.Sender)
	if err != nil || !in || c.Group.Epoch > chain.MaxOperations || g.behind(st) && g.Behind >= c.Group.Epoch {
		return err
	}
	g.Behind, g.BehindBy = c.Group.Epoch, by
	got.tasks = true
	return save(tx, groupKey(g.ID), g)
}

// compareHeads finds out whether by, a member, follows another history of the group
// than this device does. Of who is out by now, that is no matter.
func (b *Brain) compareHeads(tx Tx, s *self, g *group, st *chain.State, by chain.Member, l *letter, theirs *GroupContext, got *arrivals) error {
	raw, err := optional(tx.Get(opKey(prefixOp, g.ID, theirs.Epoch)))
	if err != nil || raw == nil || st.Members[by].Status == chain.StatusFormer {
		return err
	}
	if chain.HashOf(raw) == theirs.Head {
		return b.confirm(tx, s, g, st, by, l, theirs.Epoch, got)
	}
	return b.alarm(tx, g, AlarmFork, by, got)
}

// confirm takes a member's word for the operations of people of whom the own server
// does not say who they are: of one who was in before them, who invited us, or whom
// the person has accepted as a contact. Others may be in by those alone.
func (b *Brain) confirm(tx Tx, s *self, g *group, st *chain.State, by chain.Member, l *letter, epoch uint64, got *arrivals) error {
	if g.UnnamedTo == 0 || epoch < g.UnnamedTo {
		return nil
	}
	sure := l.Sender == s.User || st.Members[by].Joined < g.Unnamed || st.Members[g.Me].AddedBy == by
	if !sure {
		c, err := load[contact](tx, contactKey(l.uuid))
		if err != nil || c == nil || !c.Accepted {
			return err
		}
	}
	g.Unnamed, g.UnnamedTo = 0, 0
	got.queue = true
	return save(tx, groupKey(g.ID), g)
}

// goodbye is for how long after a removal what the removed member wrote before
// they knew of it is read.
const goodbye = 5 * time.Minute

// wasIn tells whether the sender of a content was in the group when they wrote it,
// and not long gone when their server took it. errDoubt asks for their list.
func (b *Brain) wasIn(tx Tx, s *self, g *group, st *chain.State, l *letter, c *Content) (by chain.Member, ok bool, err error) {
	for id, m := range st.Members {
		o, user, err := whoIs(tx, g.ID, id)
		if err != nil {
			return id, false, err
		}
		if user != l.Sender || m.Joined == 0 || c.Group.Epoch < m.Joined {
			continue
		}
		if ok, err := b.wroteAs(tx, s, l, o); err != nil {
			return id, false, err
		} else if !ok {
			continue
		}
		if m.Ended == 0 {
			return id, true, nil
		}
		if c.Group.Epoch >= m.Ended {
			continue
		}
		ended, err := b.timeOf(tx, g, m.Ended)
		if err != nil {
			return id, false, err
		}
		if l.AcceptedAt <= ended+clearbox.Millis(goodbye.Milliseconds()) {
			return id, true, nil
		}
	}
	return chain.Member{}, false, nil
}

// wroteAs tells whether a letter was written with the keys by which the group knows
// its sender, or with others that those vouch for. What a server gave out since may
// be anybody's.
func (b *Brain) wroteAs(tx Tx, s *self, l *letter, o *chain.Opening) (bool, error) {
	switch {
	case l.identity != nil && string(l.identity) == string(o.Identity[:]):
		return true, nil
	case l.Sender == s.User && l.identity != nil:
		return b.ours(tx, s, l.identity)
	case l.Sender == s.User:
		return true, nil
	}
	c, err := load[contact](tx, contactKey(l.uuid))
	if err != nil {
		return false, err
	}
	if c != nil && c.known(o.Identity[:]) && (l.identity == nil || c.known(l.identity)) {
		return true, nil
	}
	if l.identity == nil || c != nil && (c.Changed != nil || c.known(l.identity)) {
		return false, nil
	}
	settled, err := settledFor(tx, l.uuid, l.identity) // they may have renewed their keys
	if err == nil && !settled {
		err = errDoubt
	}
	return false, err
}

// takeGroupKey takes the key under which the group's name is sealed.
func (b *Brain) takeGroupKey(tx Tx, g *group, st *chain.State, c *Content, got *arrivals) error {
	if err := learnKey(g, c.GroupKey); err != nil {
		return nil // noise
	}
	nameGroup(g, st)
	got.shown = true
	return save(tx, groupKey(g.ID), g)
}

// unreadableIn notes once in a group's conversation that a message could not be
// read.
func (b *Brain) unreadableIn(tx Tx, s *self, id clearbox.GroupID, l *letter, reason clearbox.Code, got *arrivals) error {
	known, err := optional(tx.Get(idKey(l.uuid, l.ID)))
	if err != nil || known != nil {
		return err
	}
	if err := tally(tx, func(h *Healing) { h.Lost++ }); err != nil {
		return err
	}
	got.shown = true
	m := &Message{
		ID: l.ID, Group: id, Sender: l.Sender, SenderDevice: l.SenderDevice, Kind: MessageUndecryptable, Reason: reason,
		Sent: l.AcceptedAt, Stored: b.now(), State: StateReceived,
	}
	return addMessage(tx, m.In().key(), l.uuid, m)
}

// takeVoid takes away what waits for messages of which their sender's device says that
// they stand for nothing any more.
func (b *Brain) takeVoid(tx Tx, l *letter, c *Content, got *arrivals) error {
	for _, id := range c.Unread {
		gone, err := b.came(tx, l, id)
		if err != nil {
			return err
		}
		got.shown = got.shown || gone
	}
	entries, err := tx.List(Range{Prefix: prefixEarly + clearbox.GroupID(c.Group.ID).String() + "/"})
	if err != nil {
		return err
	}
	for _, entry := range entries {
		e, err := parse[early](entry.Value)
		if err != nil {
			return err
		}
		if e.UUID == l.uuid && e.Envelope.SenderDevice == l.SenderDevice && e.Plain == nil && slices.Contains(c.Unread, e.Envelope.ID) {
			if err := tx.Delete(entry.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// readGroupLetter deals with a content that one member's device sent to this one
// alone in the name of a group, over their session.
func (b *Brain) readGroupLetter(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	if l.Sender != s.User {
		if err := b.claimName(tx, s, l.Sender, c.Address, got); err != nil {
			return err
		}
	}
	switch c.Kind {
	case KindSenderKey:
		return b.hear(tx, l, c, got)
	case KindKeyRequest:
		return b.answerKey(tx, s, l, c, got)
	case KindVoid:
		return b.takeVoid(tx, l, c, got)
	}
	plain, err := EncodeContent(c)
	if err != nil {
		return err
	}
	wait, err := b.readInGroup(tx, s, l, c, got)
	if err != nil || !wait {
		return err
	}
	before, err := tx.List(Range{Prefix: prefixEarly + clearbox.GroupID(c.Group.ID).String() + "/", Limit: maxEarly})
	if err != nil || len(before) == maxEarly {
		return err
	}
	return b.keepEarly(tx, c.Group.ID, &early{Envelope: wire.Envelope(l.Envelope), UUID: l.uuid, Identity: l.identity, Plain: plain, Since: b.now()}, got)
}
