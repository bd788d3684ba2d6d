package core

import (
	"context"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
)

// ErrNoMessage says that the vault has no message of that author and id.
var ErrNoMessage = clearbox.Errorf(clearbox.CodeNotFound, "there is no such message")

// change is an edit, a deletion or a reaction, as it was made or came. Whatever
// the order in which changes come, a message ends up the same: of edits, and of
// one person's reactions, the one counts that its author made last, and nothing
// undoes a deletion.
type change struct {
	Kind     Kind               `cbor:"1,keyasint"`
	Actor    clearbox.UserID    `cbor:"2,keyasint"`
	Sent     clearbox.Millis    `cbor:"3,keyasint"`
	ID       clearbox.MessageID `cbor:"4,keyasint"`
	Text     string             `cbor:"5,keyasint,omitempty"`
	Mentions []Mention          `cbor:"6,keyasint,omitempty"`
	Emoji    string             `cbor:"7,keyasint,omitempty"`
	Frank    []byte             `cbor:"9,keyasint,omitempty"`
	Carried  clearbox.MessageID `cbor:"10,keyasint,omitzero"`
	Stored   clearbox.Millis    `cbor:"8,keyasint,omitempty"` // when it came, while its message is not here
}

// changeOf gives the change that came, or goes, under the id carrier at servers.
func changeOf(c *Content, carrier clearbox.MessageID) *change {
	return &change{Kind: c.Kind, Actor: c.From, Sent: c.Sent, ID: c.ID, Text: c.Text, Mentions: c.Mentions, Emoji: c.Emoji, Frank: c.Frank, Carried: c.carriedBy(carrier)}
}

// after tells whether its author made it after the one with sent and id.
func (c *change) after(sent clearbox.Millis, id clearbox.MessageID) bool {
	return c.Sent > sent || c.Sent == sent && slices.Compare(c.ID[:], id[:]) > 0
}

// apply makes the change to a message and tells whether that made a difference.
// Whether the actor may was decided before.
func (c *change) apply(m *Message) bool {
	switch {
	case m.Kind == MessageDeleted:
		return false
	case c.Kind == KindDelete:
		m.Kind, m.Text, m.Reply, m.Mentions, m.File, m.Reactions = MessageDeleted, "", nil, nil, nil, nil
		m.Edited, m.EditID, m.Frank, m.Carried, m.Reason = c.Sent, c.ID, nil, clearbox.MessageID{}, ""
		return true
	case c.Kind == KindEdit && m.written():
		if !c.after(m.Edited, m.EditID) {
			return false
		}
		m.Text, m.Mentions, m.Edited, m.EditID, m.Frank, m.Carried = c.Text, c.Mentions, c.Sent, c.ID, c.Frank, c.Carried
		return true
	case c.Kind == KindReaction:
		return c.react(m)
	}
	return false
}

func (c *change) react(m *Message) bool {
	at := slices.IndexFunc(m.Reactions, func(r Reaction) bool { return r.User == c.Actor })
	if at < 0 {
		m.Reactions = append(m.Reactions, Reaction{User: c.Actor})
		at = len(m.Reactions) - 1
	}
	r := &m.Reactions[at]
	if !c.after(r.Sent, r.ID) {
		return false
	}
	*r = Reaction{User: c.Actor, Emoji: c.Emoji, Sent: c.Sent, ID: c.ID}
	return true
}

// Edit puts another text in place of what an own message said, for everyone.
// ErrNoMessage if there is none; CodeForbidden if it is somebody else's, or has
// no text.
func (b *Brain) Edit(ctx context.Context, target Ref, text string, mentions ...Mention) error {
	switch {
	case text == "":
		return clearbox.Errorf(clearbox.CodeBadRequest, "the message is empty; delete it instead")
	case !validMentions(text, mentions):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a mention lies outside of the text")
	}
	if err := checkText(text); err != nil {
		return err
	}
	return b.alter(ctx, target, &Content{Kind: KindEdit, Text: text, Mentions: mentions}, func(m *Message) error {
		switch {
		case !m.Outgoing:
			return clearbox.Errorf(clearbox.CodeForbidden, "only who wrote a message can change it")
		case !m.written():
			return clearbox.Errorf(clearbox.CodeForbidden, "there is nothing left of it to change")
		}
		return nil
	})
}

// Delete takes an own message back, for everyone: of a well-behaved client's
// memory too, and of its vault. What somebody read or copied stays so.
func (b *Brain) Delete(ctx context.Context, target Ref) error {
	defer wake(b.tasksWake) // its file goes too
	return b.alter(ctx, target, &Content{Kind: KindDelete}, func(m *Message) error {
		switch {
		case !m.Outgoing:
			return clearbox.Errorf(clearbox.CodeForbidden, "only who wrote a message can take it back; it can be removed from this device")
		case !m.written():
			return clearbox.Errorf(clearbox.CodeForbidden, "there is nothing of it to take back")
		}
		return nil
	})
}

// React puts an emoji beside a message, in place of the own one before; an empty
// one takes it back.
func (b *Brain) React(ctx context.Context, target Ref, emoji string) error {
	if emoji != "" && !validEmoji(emoji) {
		return clearbox.Errorf(clearbox.CodeBadRequest, "a reaction is an emoji, of at most %d bytes", MaxEmoji)
	}
	return b.alter(ctx, target, &Content{Kind: KindReaction, Emoji: emoji}, func(m *Message) error {
		if !m.written() {
			return clearbox.Errorf(clearbox.CodeForbidden, "there is nothing left of it to react to")
		}
		return nil
	})
}

// alter makes a change here and queues it for everyone else. allowed refuses it.
func (b *Brain) alter(ctx context.Context, target Ref, c *Content, allowed func(*Message) error) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if c.ID, err = clearbox.NewMessageID(b.opts.Random); err != nil {
		return err
	}
	return b.talk(ctx, func(tx Tx) (asking bool, err error) {
		m, key, err := findMessage(tx, uuidOfUser(target.Author), target.ID)
		if err == nil && (m == nil || m.goneBy(b.now())) {
			err = ErrNoMessage
		}
		if err != nil {
			return false, err
		}
		if err := allowed(m); err != nil {
			return false, err
		}
		if c.Kind == KindDelete {
			if err := mustDrop(tx, s, m.File); err != nil {
				return false, err
			}
		}
		to, err := b.writable(tx, m.In())
		if err != nil {
			return false, err
		}
		c.From, c.Target, c.Sent = s.User, &Ref{ID: m.ID}, m.lastSent(s.User, b.now())
		if m.Sender != s.User {
			c.Target.Author = m.Sender
		}
		if c.Kind == KindEdit {
			if err := b.frank(c); err != nil {
				return false, err
			}
		}
		changeOf(c, c.ID).apply(m)
		m.Unsent = ""
		if err := b.altered(tx, m, key, c.Kind); err != nil {
			return false, err
		}
		if dropped, err := b.unpark(tx, m, c.Kind); err != nil || dropped {
			return false, err
		}
		order, err := nextOrder(tx)
		if err != nil {
			return false, err
		}
		if err := save(tx, idKey(s.uuid, c.ID), place{UUID: m.In().key(), Order: m.Order, Change: true}); err != nil {
			return false, err
		}
		if !m.Group.IsZero() {
			c.Group = &GroupContext{ID: m.Group}
		}
		return b.submitTo(tx, s, to, order, c)
	})
}

// changeBy gives the change of user with that id, as far as it still holds; nil if
// another one has taken its place.
func (m *Message) changeBy(user clearbox.UserID, id clearbox.MessageID) *Content {
	c := &Content{ID: id, To: m.Conversation, Target: &Ref{ID: m.ID}}
	if m.Sender != user {
		c.Target.Author = m.Sender
	}
	switch {
	case m.Kind == MessageDeleted && m.Sender == user && m.EditID == id:
		c.Kind, c.Sent = KindDelete, m.Edited
		return c
	case m.Sender == user && m.EditID == id:
		c.Kind, c.Sent, c.Text, c.Mentions, c.Frank = KindEdit, m.Edited, m.Text, m.Mentions, m.Frank
		return c
	}
	for _, r := range m.Reactions {
		if r.User == user && r.ID == id {
			c.Kind, c.Sent, c.Emoji = KindReaction, r.Sent, r.Emoji
			return c
		}
	}
	return nil
}

// lastSent gives the time for a change of user that is later than the last one,
// even if the clock was put back.
func (m *Message) lastSent(user clearbox.UserID, now clearbox.Millis) clearbox.Millis {
	if m.Sender == user {
		now = max(now, m.Edited+1)
	}
	for _, r := range m.Reactions {
		if r.User == user {
			now = max(now, r.Sent+1)
		}
	}
	return now
}

// altered stores a changed message. What it said before is to be gone from the
// vault's files too.
func (b *Brain) altered(tx Tx, m *Message, key string, kind Kind) error {
	if err := save(tx, key, m); err != nil || kind == KindReaction {
		return err
	}
	if kind == KindDelete {
		if err := errors.Join(tx.Delete(fateKey(m.Order)), b.dropLate(tx, m)); err != nil {
			return err
		}
	}
	return b.mustForget(tx)
}

// unpark takes a message that was taken back out of the queue where nobody was
// sent it yet: it waited for consent. Nobody needs to be told then.
func (b *Brain) unpark(tx Tx, m *Message, kind Kind) (bool, error) {
	key := waitKey(m.In().key(), m.Order)
	waits, err := optional(tx.Get(key))
	if err != nil || waits == nil || kind != KindDelete {
		return false, err
	}
	return true, tx.Delete(key)
}

// Remove takes a message off this device; nobody else is told.
func (b *Brain) Remove(ctx context.Context, target Ref) error {
	err := b.vault.Update(ctx, func(tx Tx) error {
		m, _, err := findMessage(tx, uuidOfUser(target.Author), target.ID)
		if err == nil && m == nil {
			err = ErrNoMessage
		}
		if err != nil {
			return err
		}
		return b.erase(tx, m)
	})
	if err == nil {
		wake(b.expiryWake)
		b.changed()
	}
	return err
}

// takeChange makes a change that came, if its actor may: an edit or a deletion
// is its author's alone, and each concerns a message of the conversation that it
// came in. What refers to a message that is not here yet is kept for it. carrier
// is the id of the envelope.
func (b *Brain) takeChange(tx Tx, s *self, in ConversationID, c *Content, carrier clearbox.MessageID, got *arrivals) error {
	author := c.Target.Author
	if author.IsZero() {
		author = c.From
	}
	party := !in.Group.IsZero() || author == s.User || author == in.User
	if c.Kind != KindReaction && author != c.From || !party {
		return b.ignored(tx)
	}
	m, key, err := findMessage(tx, uuidOfUser(author), c.Target.ID)
	if err != nil {
		return err
	}
	if m == nil {
		at, err := load[place](tx, idKey(uuidOfUser(author), c.Target.ID))
		if err != nil || at != nil {
			return err // it is no message, or it is gone
		}
		return b.keepLate(tx, in, Ref{ID: c.Target.ID, Author: author}, changeOf(c, carrier))
	}
	switch {
	case m.In() != in:
		return b.ignored(tx)
	case m.Kind == MessageUndecryptable && c.Kind != KindDelete:
		return b.keepLate(tx, in, m.Ref(), changeOf(c, carrier))
	case !changeOf(c, carrier).apply(m):
		return nil
	}
	got.shown = true
	if err := b.altered(tx, m, key, c.Kind); err != nil {
		return err
	}
	if c.From == s.User {
		return nil
	}
	return b.tell(tx, m, c)
}

// ignored counts what was not done because whoever asked for it may not.
func (b *Brain) ignored(tx Tx) error {
	n, err := count(tx, keyIgnored)
	if err != nil {
		return err
	}
	return setCount(tx, keyIgnored, n+1)
}

// unsent notes at a message that an own change to it did not go out.
func unsent(tx Tx, s *self, id clearbox.MessageID, why clearbox.Code) (bool, error) {
	at, err := load[place](tx, idKey(s.uuid, id))
	if err != nil || at == nil || !at.Change {
		return false, err
	}
	key := messageKey(at.UUID, at.Order)
	m, err := load[Message](tx, key)
	if err != nil || m == nil {
		return false, err
	}
	m.Unsent = why
	return true, save(tx, key, m)
}
