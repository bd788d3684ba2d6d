package core

import (
	"context"
	"sort"

	"github.com/clearbox-im/clearbox"
)

// Event is something that happened to a message that had been shown already, or
// to a contact, and that nobody was shown yet.
type Event struct {
	Order  uint64          // place in the local order of everything
	Kind   Kind            // KindEdit, KindDelete, KindReaction, KindProfile, or KindReceipt
	In     ConversationID  // where
	Actor  clearbox.UserID // who did it
	At     clearbox.Millis // by their clock
	Target Ref             // of KindProfile: the zero Ref
	Line   *Message        // the message as it is now; nil if it is gone, and of KindProfile
	Emoji  string          // of KindReaction: what stands there now; empty if it was taken back
	State  State           // of KindReceipt: how far Target, an own message, came with Actor
	Reason clearbox.Code   // of KindReceipt: why it did not get to them
	key    string
}

// event is an Event in the vault; its key says what it is about.
type event struct {
	Order  uint64           `cbor:"1,keyasint"`
	Kind   Kind             `cbor:"2,keyasint"`
	User   clearbox.UserID  `cbor:"3,keyasint,omitzero"`
	Group  clearbox.GroupID `cbor:"4,keyasint,omitzero"`
	Actor  clearbox.UserID  `cbor:"5,keyasint"`
	At     clearbox.Millis  `cbor:"6,keyasint"`
	Target Ref              `cbor:"7,keyasint,omitzero"`
	State  State            `cbor:"8,keyasint,omitempty"`
	Reason clearbox.Code    `cbor:"9,keyasint,omitempty"`
}

// tell keeps in mind that a change to m is to be shown, unless m itself is still
// to be.
func (b *Brain) tell(tx Tx, m *Message, c *Content) error {
	unseen, err := optional(tx.Get(newKey(m.Order)))
	if err != nil || unseen != nil {
		return err
	}
	return b.note(tx, &event{Kind: c.Kind, User: m.Conversation, Group: m.Group, Actor: c.From, At: c.Sent, Target: m.Ref()})
}

// note keeps an event. One that would say the same of something else is replaced,
// so there are at most as many as there are messages and people.
func (b *Brain) note(tx Tx, e *event) (err error) {
	if e.Order, err = nextOrder(tx); err != nil {
		return err
	}
	key := prefixEvent + uuidOfUser(e.Actor) + "/" + e.Kind.String()
	if e.Target != (Ref{}) {
		key += "/" + uuidOfUser(e.Target.Author) + "/" + e.Target.ID.String()
	}
	return save(tx, key, e)
}

// Events gives what happened to lines that were shown before, in the order in
// which it came: changes of others, the last receipts, and who of a group did not
// get an own message. They stay until MarkSeen names them.
func (b *Brain) Events(ctx context.Context) (out []Event, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: prefixEvent})
		if err != nil {
			return err
		}
		told, err := r.List(Range{Prefix: prefixTold})
		if err != nil {
			return err
		}
		for _, one := range append(entries, told...) {
			e, err := parse[event](one.Value)
			if err != nil {
				return err
			}
			shown := Event{Order: e.Order, Kind: e.Kind, In: ConversationID{e.User, e.Group}, Actor: e.Actor, At: e.At, Target: e.Target, State: e.State, Reason: e.Reason, key: one.Key}
			if e.Target != (Ref{}) {
				m, _, err := findMessage(r, uuidOfUser(e.Target.Author), e.Target.ID)
				if err != nil {
					return err
				}
				if m != nil && !m.goneBy(b.now()) {
					shown.Line, shown.Emoji = m, m.reactionOf(e.Actor)
				}
			}
			out = append(out, shown)
		}
		sort.Slice(out, func(i, j int) bool { return out[i].Order < out[j].Order }) // slices.SortFunc would be compiled for each large type
		return nil
	})
	return out, err
}

func (m *Message) reactionOf(user clearbox.UserID) string {
	for _, r := range m.Reactions {
		if r.User == user {
			return r.Emoji
		}
	}
	return ""
}

// MarkSeen says that these events were shown. What has happened since stays.
func (b *Brain) MarkSeen(ctx context.Context, shown ...Event) error {
	if len(shown) == 0 {
		return nil
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		for _, one := range shown {
			e, err := load[event](tx, one.key)
			if err != nil {
				return err
			}
			if e == nil || e.Order != one.Order {
				continue
			}
			if err := tx.Delete(one.key); err != nil {
				return err
			}
		}
		return nil
	})
}
