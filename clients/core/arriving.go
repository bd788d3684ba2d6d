package core

import (
	"errors"

	"github.com/clearbox-im/clearbox"
)

// readContent stores what an envelope held.
func (b *Brain) readContent(tx Tx, s *self, env *letter, plaintext []byte, got *arrivals) error {
	c, err := DecodeContent(plaintext)
	if err != nil {
		return b.unreadable(tx, s, env, reasonFormat, got)
	}
	if env.Sender.IsZero() {
		if ok, err := b.introduce(tx, s, env, c.From); err != nil || !ok {
			return errors.Join(err, b.unreadable(tx, s, env, reasonOrigin, got))
		}
	}
	// What is inside the encryption must agree with what the servers say of the
	// sender, and be meant for us. The id is taken from the inside: a server that
	// writes another one outside changes nothing.
	own := env.Sender == s.User
	if c.Group != nil && c.From == env.Sender && c.To == s.User {
		return b.readGroupLetter(tx, s, env, c, got)
	}
	if c.Group != nil || c.From != env.Sender || !own && c.To != s.User || own && (c.To == s.User) != kinds[c.Kind].own || !own && c.Kind == KindSync {
		return b.unreadable(tx, s, env, reasonMisrouted, got)
	}
	if err := b.heal(tx, s, env, c, got); err != nil {
		return err
	}
	uuid := env.uuid
	known, key, err := findMessage(tx, uuid, c.ID)
	if err != nil {
		return err
	}
	if known != nil && known.Kind != MessageUndecryptable {
		return nil // a repeat: re-encryption under the same id is no new message
	}
	if !own {
		if ignored, err := b.blocked(tx, uuid); err != nil || ignored {
			return err
		}
		if err := b.learnToken(tx, s, env, c, got); err != nil {
			return err
		}
		if err := b.claimName(tx, s, env.Sender, c.Address, got); err != nil {
			return err
		}
	}
	if c.Kind == KindAccept && !own {
		if ok, err := b.readAccept(tx, s, env, c, got); err != nil || !ok {
			return errors.Join(err, b.unreadable(tx, s, env, reasonMisrouted, got))
		}
	}
	quiet := c.Kind >= firstQuiet || c.Kind.Known() && !kinds[c.Kind].line
	if !quiet {
		return b.readLine(tx, s, env, c, known, key, got)
	}
	if err := b.readQuiet(tx, s, env, c, got); err != nil || known != nil {
		return err
	}
	return save(tx, idKey(uuid, c.ID), place{UUID: uuid})
}

// readQuiet does what a content that is no line of a conversation asks for. For a
// renewal the new session is all that it was for.
func (b *Brain) readQuiet(tx Tx, s *self, env *letter, c *Content, got *arrivals) error {
	in := With(c.From)
	if c.From == s.User {
		in = With(c.To)
	}
	switch c.Kind {
	case KindSync:
		return b.readSync(tx, s, env.SenderDevice, c.Sync, got)
	case KindReceipt:
		return b.takeReceipt(tx, s, env.Sender, in, c, got)
	case KindEdit, KindDelete, KindReaction:
		return b.takeChange(tx, s, in, c, env.ID, got)
	case KindProfile:
		if c.From != s.User {
			return b.takeProfile(tx, env.uuid, c, got)
		}
	}
	return nil
}

// readTalk stores what belongs to the talk of a group.
func (b *Brain) readTalk(tx Tx, s *self, l *letter, c *Content, got *arrivals) error {
	known, key, err := findMessage(tx, l.uuid, c.ID)
	if err != nil || known != nil && known.Kind != MessageUndecryptable {
		return err
	}
	if l.Sender != s.User {
		if ignored, err := b.blocked(tx, l.uuid); err != nil || ignored {
			return err
		}
	}
	switch {
	case c.Kind == KindTimer: // only the group's rules set one
		if err := b.ignored(tx); err != nil {
			return err
		}
	case c.Kind < firstQuiet && (!c.Kind.Known() || kinds[c.Kind].line):
		return b.readLine(tx, s, l, c, known, key, got)
	case c.Kind == KindEdit, c.Kind == KindDelete, c.Kind == KindReaction:
		if err := b.takeChange(tx, s, In(c.Group.ID), c, l.ID, got); err != nil {
			return err
		}
	case c.Kind == KindReceipt:
		if err := b.takeReceipt(tx, s, l.Sender, In(c.Group.ID), c, got); err != nil {
			return err
		}
	}
	if known != nil {
		return nil
	}
	return save(tx, idKey(l.uuid, c.ID), place{UUID: l.uuid})
}

// takeReceipt moves own messages of a conversation on.
func (b *Brain) takeReceipt(tx Tx, s *self, from clearbox.UserID, in ConversationID, c *Content, got *arrivals) error {
	for state, ids := range map[State][]clearbox.MessageID{StateDelivered: c.Delivered, StateRead: c.Read} {
		for _, id := range ids {
			moved, err := b.delivered(tx, s, from, in, id, state)
			if err != nil {
				return err
			}
			got.shown = got.shown || moved
		}
	}
	return nil
}

// readLine puts a content into its conversation. known is the line, at key, that
// says that it could not be read, if it could not at first.
func (b *Brain) readLine(tx Tx, s *self, env *letter, c *Content, known *Message, key string, got *arrivals) error {
	own := env.Sender == s.User
	if known == nil {
		at, err := load[place](tx, idKey(env.uuid, c.ID))
		if err != nil || at != nil {
			return err // it was here, and has disappeared
		}
	}
	m := &Message{
		ID: c.ID, Conversation: env.Sender, Sender: env.Sender, SenderDevice: env.SenderDevice,
		Kind: MessageText, Text: c.Text, Mentions: c.Mentions, File: c.File, Expires: c.Expires,
		Sent: c.Sent, Stored: b.now(), State: StateReceived, Frank: c.Frank, Carried: c.carriedBy(env.ID),
	}
	if c.Edit != nil {
		m.Edited, m.EditID = c.Edit.Sent, c.Edit.ID
	}
	switch {
	case !c.Kind.Known():
		m = &Message{ID: m.ID, Conversation: m.Conversation, Sender: m.Sender, SenderDevice: m.SenderDevice,
			Kind: MessageUnsupported, Sent: m.Sent, Stored: m.Stored, State: m.State}
	case c.Kind == KindFile:
		m.Kind = MessageFile
	case c.Kind == KindTimer:
		m.Kind, m.Text, m.Expires = MessageTimer, "", c.Timer
	}
	if own {
		m.Conversation, m.Outgoing, m.State = c.To, true, StateAtServer
	}
	if c.Group != nil {
		m.Conversation, m.Group = clearbox.UserID{}, c.Group.ID
		if own {
			_, st, err := b.loadGroup(tx, m.Group)
			if err != nil {
				return err
			}
			m.Reach = &Reach{Of: othersIn(st)}
		}
	} else if !own {
		got.wrote = append(got.wrote, env.Sender)
	}
	if c.Target != nil && m.written() {
		m.Reply = &Ref{ID: c.Target.ID, Author: c.Target.Author}
		if m.Reply.Author.IsZero() {
			m.Reply.Author = c.From
		}
	}
	got.shown = true
	if known != nil { // it could not be read at first; now it takes its place
		err := errors.Join(tally(tx, func(h *Healing) { h.Healed++ }), tx.Delete(key), tx.Delete(newKey(known.Order)), tx.Delete(lostKey(env.uuid, known.Order)))
		if err != nil {
			return err
		}
	}
	if err := addMessage(tx, m.In().key(), env.uuid, m); err != nil {
		return err
	}
	if err := b.afterLine(tx, m); err != nil || own {
		return err
	}
	if c.Group != nil {
		if owes, err := b.owesReceipt(tx, m); err != nil || !owes {
			return err
		}
	}
	got.receipts = true
	return putReceipt(tx, m, receiptDelivered)
}

// afterLine does what a line that came causes.
func (b *Brain) afterLine(tx Tx, m *Message) error {
	if m.Kind != MessageTimer {
		if m.Outgoing && m.Expires > 0 { // another device of ours has sent it
			if err := errors.Join(startClock(tx, m, b.now()), save(tx, messageKey(m.In().key(), m.Order), m)); err != nil {
				return err
			}
		}
		return b.catchUp(tx, m)
	}
	conv, err := conversationAt(tx, m.In().key())
	if err != nil {
		return err
	}
	return setTimer(tx, m, conv)
}

// blocked tells whether the person does not want to hear from a sender. Whoever
// can be heard can be asked for what is lost, again.
func (b *Brain) blocked(tx Tx, uuid string) (bool, error) {
	c, err := load[contact](tx, contactKey(uuid))
	if err != nil || c == nil {
		return false, err
	}
	if b.heard(&c.pace) {
		err = save(tx, contactKey(uuid), c)
	}
	return c.Blocked, err
}

// delivered takes a receipt for an own message, which only its recipient can give,
// or in a group its members.
func (b *Brain) delivered(tx Tx, s *self, from clearbox.UserID, in ConversationID, id clearbox.MessageID, state State) (bool, error) {
	m, _, err := findMessage(tx, s.uuid, id)
	if err != nil || m == nil || !m.Outgoing || m.In() != in || from == s.User {
		return false, err
	}
	if !m.Group.IsZero() {
		return b.reached(tx, s, m, MemberFate{User: from, State: state})
	}
	if err := b.arrived(tx, s, from); err != nil {
		return false, err
	}
	moved, err := b.advance(tx, s, id, state, "", false)
	if err != nil || !moved {
		return false, err
	}
	return true, b.tellReach(tx, m, &MemberFate{User: from, State: state})
}

// claimName notes what a sender says they are called, to be confirmed.
func (b *Brain) claimName(tx Tx, s *self, user clearbox.UserID, name string, got *arrivals) error {
	store := sessionsOf(tx, s, user)
	c, err := store.contact()
	if err != nil || name == "" || c.Claimed == name || c.Address == name {
		return err
	}
	if a, err := clearbox.ParseAddress(name); err != nil || a.Server != user.Server {
		return nil // not a name that their server could confirm
	}
	c.Claimed = name
	got.names = true
	return save(tx, contactKey(store.uuid), c)
}
