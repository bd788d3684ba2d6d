package core

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// ConversationID names a conversation: with a person, or of a group. One of the
// two is set.
type ConversationID struct {
	User  clearbox.UserID
	Group clearbox.GroupID
}

// With is the conversation with a person.
func With(user clearbox.UserID) ConversationID { return ConversationID{User: user} }

// In is the conversation of a group.
func In(group clearbox.GroupID) ConversationID { return ConversationID{Group: group} }

// key is how the vault's keys name it: a person by the UUID of the service id,
// a group by g and its id.
func (c ConversationID) key() string {
	if !c.Group.IsZero() {
		return "g" + c.Group.String()
	}
	return uuidOfUser(c.User)
}

// conversation is what the vault keeps of one besides its lines; a conversation
// without such a record is an ordinary one.
type conversation struct {
	Timer     uint32             `cbor:"1,keyasint,omitempty"` // seconds; 0 is for ever
	TimerSent clearbox.Millis    `cbor:"2,keyasint,omitempty"` // when it was set, by the clock of who did
	TimerID   clearbox.MessageID `cbor:"3,keyasint,omitzero"`
	Muted     clearbox.Millis    `cbor:"4,keyasint,omitempty"` // until when; forever if MutedForever
	Pins      []Ref              `cbor:"5,keyasint,omitempty"`
	Draft     string             `cbor:"6,keyasint,omitempty"`
}

// MutedForever is the end of a mute that has none.
const MutedForever = clearbox.Millis(1<<62 - 1)

// maxPins is how many messages of a conversation are pinned at most.
const maxPins = 64

// Conversation is one as a list shows it.
type Conversation struct {
	In      ConversationID
	Last    *Message        // its newest line; nil if there is none
	Unshown int             // lines that nobody was shown yet
	Timer   time.Duration   // what is written disappears so long after it was read; 0 is for ever
	Muted   clearbox.Millis // until when; 0 if it is not
	Pins    []Ref
	Draft   string
}

// real gives the conversation that one with a provisional contact became.
func (c ConversationID) real(r Reader) (ConversationID, error) {
	if !c.Group.IsZero() {
		return c, nil
	}
	user, err := behind(r, c.User)
	return ConversationID{User: user}, err
}

// Messages gives up to limit lines of the conversation with user that come
// after the one with that order, oldest first; 0 is before the first. Limit 0
// is all.
func (b *Brain) Messages(ctx context.Context, user clearbox.UserID, after uint64, limit int) ([]Message, error) {
	return b.Lines(ctx, With(user), after, limit)
}

// Recent gives the last limit lines of the conversation with user, oldest first.
func (b *Brain) Recent(ctx context.Context, user clearbox.UserID, limit int) ([]Message, error) {
	return b.Before(ctx, With(user), 0, limit)
}

// Lines gives up to limit lines of a conversation that come after the one with
// that order, oldest first; 0 is before the first. Limit 0 is all.
func (b *Brain) Lines(ctx context.Context, in ConversationID, after uint64, limit int) ([]Message, error) {
	return b.lines(ctx, in, limit, func(key string) Range {
		return Range{Prefix: prefixMsg + key + "/", After: messageKey(key, after)}
	})
}

// Before gives up to limit lines of a conversation that come before the one with
// that order, oldest first; 0 is behind the last. Limit 0 is all.
func (b *Brain) Before(ctx context.Context, in ConversationID, before uint64, limit int) ([]Message, error) {
	out, err := b.lines(ctx, in, limit, func(key string) Range {
		r := Range{Prefix: prefixMsg + key + "/", Reverse: true}
		if before > 0 {
			r.Before = messageKey(key, before)
		}
		return r
	})
	slices.Reverse(out)
	return out, err
}

// lines gives the lines of a conversation, also by the provisional contact that it
// began with. What has disappeared and was not removed yet is left out.
func (b *Brain) lines(ctx context.Context, in ConversationID, limit int, rng func(key string) Range) (out []Message, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		real, err := in.real(r)
		if err != nil {
			return err
		}
		next, now := rng(real.key()), b.now()
		for {
			next.Limit = 0
			if limit > 0 {
				next.Limit = limit - len(out)
			}
			entries, err := r.List(next)
			if err != nil {
				return err
			}
			for _, e := range entries {
				m, err := parse[Message](e.Value)
				if err != nil {
					return err
				}
				if !m.goneBy(now) {
					out = append(out, *m)
				}
			}
			if limit == 0 || len(out) == limit || len(entries) < next.Limit {
				return nil
			}
			if last := entries[len(entries)-1].Key; next.Reverse {
				next.Before = last
			} else {
				next.After = last
			}
		}
	})
	return out, err
}

// Conversations gives every conversation with lines or a draft, the one with the
// newest line first.
func (b *Brain) Conversations(ctx context.Context) (out []Conversation, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		unshown, err := newLines(r)
		if err != nil {
			return err
		}
		begun, err := heads(r, prefixMsg)
		if err != nil {
			return err
		}
		for _, key := range begun {
			c, err := summary(r, key, b.now())
			if err != nil {
				return err
			}
			if c == nil {
				continue
			}
			c.Unshown = unshown[key]
			if err := b.ruled(r, c); err != nil {
				return err
			}
			out = append(out, *c)
		}
		sort.Slice(out, func(i, j int) bool { return out[i].Last.Order > out[j].Last.Order })
		return nil
	})
	return out, err
}

// newLines counts the lines of each conversation that nobody was shown yet.
func newLines(r Reader) (map[string]int, error) {
	entries, err := r.List(Range{Prefix: prefixNew})
	out := map[string]int{}
	for _, e := range entries {
		out[string(e.Value)]++
	}
	return out, err
}

// summary gives a conversation; nil if it has no line.
func summary(r Reader, key string, now clearbox.Millis) (*Conversation, error) {
	kept, err := conversationAt(r, key)
	if err != nil {
		return nil, err
	}
	newest := Range{Prefix: prefixMsg + key + "/", Limit: 1, Reverse: true}
	for {
		last, err := r.List(newest)
		if err != nil || len(last) == 0 {
			return nil, err
		}
		m, err := parse[Message](last[0].Value)
		if err != nil {
			return nil, err
		}
		if !m.goneBy(now) {
			return kept.public(m.In(), m), nil
		}
		newest.Before = last[0].Key
	}
}

func (c *conversation) public(in ConversationID, last *Message) *Conversation {
	return &Conversation{In: in, Last: last, Timer: time.Duration(c.Timer) * time.Second, Muted: c.Muted, Pins: c.Pins, Draft: c.Draft}
}

// conversationAt gives what is kept of a conversation; never nil without an error.
func conversationAt(r Reader, key string) (*conversation, error) {
	c, err := load[conversation](r, prefixConv+key)
	if c == nil && err == nil {
		c = new(conversation)
	}
	return c, err
}

// Conversation gives one conversation, also one that has not begun.
func (b *Brain) Conversation(ctx context.Context, in ConversationID) (out Conversation, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		real, err := in.real(r)
		if err != nil {
			return err
		}
		c, err := summary(r, real.key(), b.now())
		if err != nil {
			return err
		}
		if c == nil {
			kept, err := conversationAt(r, real.key())
			if err != nil {
				return err
			}
			c = kept.public(real, nil)
		}
		unshown, err := newLines(r)
		c.Unshown = unshown[real.key()]
		err = errors.Join(err, b.ruled(r, c))
		out = *c
		return err
	})
	return out, err
}

// ruled gives the conversation of a group the timer of its rules.
func (b *Brain) ruled(r Reader, c *Conversation) error {
	if c.In.Group.IsZero() {
		return nil
	}
	seconds, err := b.timerOf(r, c.In, nil)
	c.Timer = time.Duration(seconds) * time.Second
	return err
}

// keep edits what is kept of a conversation for the person alone.
func (b *Brain) keep(ctx context.Context, in ConversationID, edit func(Tx, *conversation) error) error {
	err := b.vault.Update(ctx, func(tx Tx) error {
		real, err := in.real(tx)
		if err != nil {
			return err
		}
		key := real.key()
		c, err := conversationAt(tx, key)
		if err != nil {
			return err
		}
		if err := edit(tx, c); err != nil {
			return err
		}
		return save(tx, prefixConv+key, c)
	})
	if err == nil {
		b.changed()
	}
	return err
}

// Mute asks not to be disturbed by a conversation until a moment; 0 ends it.
// What comes is kept and shown as ever: it is for the host not to make a noise.
func (b *Brain) Mute(ctx context.Context, in ConversationID, until clearbox.Millis) error {
	return b.keep(ctx, in, func(_ Tx, c *conversation) error {
		c.Muted = until
		return nil
	})
}

// SetDraft keeps what somebody has begun to write; an empty text forgets it.
func (b *Brain) SetDraft(ctx context.Context, in ConversationID, text string) error {
	if len(text) > MaxText || !utf8.ValidString(text) {
		return clearbox.Errorf(clearbox.CodeTooLarge, "a draft has at most %d bytes of UTF-8", MaxText)
	}
	return b.keep(ctx, in, func(tx Tx, c *conversation) error {
		if c.Draft != "" {
			if err := b.mustForget(tx); err != nil {
				return err
			}
		}
		c.Draft = text
		return nil
	})
}

// Pin keeps a message at hand in its conversation, on own devices; or no longer.
// ErrNoMessage if there is none.
func (b *Brain) Pin(ctx context.Context, target Ref, pinned bool) error {
	var in ConversationID
	err := b.vault.View(ctx, func(r Reader) error {
		m, _, err := findMessage(r, uuidOfUser(target.Author), target.ID)
		if err == nil && m == nil {
			err = ErrNoMessage
		}
		if err == nil {
			in = m.In()
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.keep(ctx, in, func(_ Tx, c *conversation) error {
		c.Pins = slices.DeleteFunc(c.Pins, func(r Ref) bool { return r == target })
		if pinned && len(c.Pins) >= maxPins {
			return clearbox.Errorf(clearbox.CodeTooLarge, "a conversation has at most %d pinned messages", maxPins)
		}
		if pinned {
			c.Pins = append(c.Pins, target)
		}
		return nil
	})
}

// Find gives the messages whose id begins with prefix, as a person types it from
// a screen; at most limit.
func (b *Brain) Find(ctx context.Context, prefix string, limit int) (out []Message, err error) {
	if prefix == "" || strings.Contains(prefix, "/") {
		return nil, nil
	}
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		senders, err := heads(r, prefixID)
		if err != nil {
			return err
		}
		for _, sender := range senders {
			entries, err := r.List(Range{Prefix: prefixID + sender + "/" + prefix, Limit: limit})
			if err != nil {
				return err
			}
			for _, e := range entries {
				at, err := parse[place](e.Value)
				if err != nil {
					return err
				}
				if at.Order == 0 || at.Change {
					continue
				}
				m, err := load[Message](r, messageKey(at.UUID, at.Order))
				if err != nil {
					return err
				}
				if m != nil && !m.goneBy(b.now()) && len(out) < limit && !slices.ContainsFunc(out, func(o Message) bool { return o.Order == m.Order }) {
					out = append(out, *m)
				}
			}
		}
		return nil
	})
	return out, err
}

// Line gives a message by its author and id; ErrNoMessage if there is none.
func (b *Brain) Line(ctx context.Context, target Ref) (out Message, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		m, _, err := findMessage(r, uuidOfUser(target.Author), target.ID)
		if err == nil && (m == nil || m.goneBy(b.now())) {
			err = ErrNoMessage
		}
		if err == nil {
			out = *m
		}
		return err
	})
	return out, err
}
