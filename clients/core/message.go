package core

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// State is how far a message came. It only ever moves on: queued, at_server,
// at_peer, delivered, read; or failed, with a reason, from any of the first three. An
// operator may have what failed put back to queued.
type State string

// The states. Incoming messages are StateReceived.
const (
	StateQueued    State = "queued"    // in this vault, not yet at the own homeserver
	StateAtServer  State = "at_server" // durable at the own homeserver
	StateAtPeer    State = "at_peer"   // durable at the recipient's homeserver
	StateDelivered State = "delivered" // a device of the recipient has it; of a group, of every member
	StateRead      State = "read"      // the recipient read it, and tells such things; of a group, every member
	StateFailed    State = "failed"    // given up: see Reason
	StateReceived  State = "received"
)

// rank orders the states that follow each other.
func (s State) rank() int {
	switch s {
	case StateQueued:
		return 1
	case StateAtServer:
		return 2
	case StateAtPeer:
		return 3
	case StateFailed:
		return 4
	case StateDelivered:
		return 5 // a receipt corrects a failure that was reported too early
	case StateRead:
		return 6
	}
	return 0
}

// Arrived tells whether a device of the recipient has the message.
func (s State) Arrived() bool { return s == StateDelivered || s == StateRead }

// MessageKind says what a line of a conversation is.
type MessageKind string

// The kinds of lines.
const (
	MessageText            MessageKind = "text"
	MessageFile            MessageKind = "file"
	MessageDeleted         MessageKind = "deleted"          // taken back by its sender; only the place is left
	MessageGroup           MessageKind = "group"            // Event: what became of the group
	MessageTimer           MessageKind = "timer"            // the sender set Expires for what is written from then on
	MessageUndecryptable   MessageKind = "undecryptable"    // Reason says why; shown once as "could not be decrypted"
	MessageUnsupported     MessageKind = "unsupported"      // a kind that a newer version sent
	MessageIdentityChanged MessageKind = "identity_changed" // the contact's safety number changed
	MessageDevices         MessageKind = "devices_changed"  // the contact linked a new device; their keys are the same
	MessageRenewed         MessageKind = "keys_renewed"     // the contact has a new identity key, signed by their account
)

// Message is one line of a conversation, as the vault has it.
type Message struct {
	Order        uint64             `cbor:"1,keyasint"` // place in the local order of all conversations
	ID           clearbox.MessageID `cbor:"2,keyasint"`
	Conversation clearbox.UserID    `cbor:"3,keyasint,omitzero"` // with whom; zero in a group
	Sender       clearbox.UserID    `cbor:"4,keyasint,omitzero"`
	SenderDevice clearbox.DeviceID  `cbor:"5,keyasint"`
	Outgoing     bool               `cbor:"6,keyasint,omitempty"`
	Kind         MessageKind        `cbor:"7,keyasint"`
	Text         string             `cbor:"8,keyasint,omitempty"`
	Sent         clearbox.Millis    `cbor:"9,keyasint"`  // by the sender's clock
	Stored       clearbox.Millis    `cbor:"10,keyasint"` // by this device's clock
	State        State              `cbor:"11,keyasint"`
	Reason       clearbox.Code      `cbor:"12,keyasint,omitempty"` // why it failed, waits or cannot be read
	Delayed      bool               `cbor:"13,keyasint,omitempty"` // the recipient's homeserver is away
	Token        []byte             `cbor:"14,keyasint,omitempty"` // delivery token that was shown for it
	Outer        clearbox.MessageID `cbor:"15,keyasint,omitzero"`  // its id at the servers, where that is not ID
	Asked        bool               `cbor:"70,keyasint,omitempty"` // it cannot be read, and its sender was asked for it again

	Group     clearbox.GroupID   `cbor:"16,keyasint,omitzero"`
	Epoch     uint64             `cbor:"41,keyasint,omitempty"` // of the group, when an own message was encrypted for it
	Reply     *Ref               `cbor:"17,keyasint,omitempty"` // what it answers; the author is never zero
	Mentions  []Mention          `cbor:"18,keyasint,omitempty"`
	File      *File              `cbor:"19,keyasint,omitempty"`
	Edited    clearbox.Millis    `cbor:"20,keyasint,omitempty"` // when its sender last changed it, or took it back
	EditID    clearbox.MessageID `cbor:"21,keyasint,omitzero"`  // and by which content
	Reactions []Reaction         `cbor:"22,keyasint,omitempty"`
	Expires   uint32             `cbor:"23,keyasint,omitempty"` // seconds after it was read or sent; 0 is for ever
	Gone      clearbox.Millis    `cbor:"24,keyasint,omitempty"` // when it disappears, once that is known
	// Unsent is why the last change of ours to it did not go out.
	Unsent clearbox.Code `cbor:"25,keyasint,omitempty"`
	// Frank is the key under which ID, or EditID, commits to what it says. Carried is
	// the id under which that came, where it is another.
	Frank   []byte             `cbor:"26,keyasint,omitempty"`
	Carried clearbox.MessageID `cbor:"27,keyasint,omitzero"`
	Event   *GroupEvent        `cbor:"40,keyasint,omitempty"` // of MessageGroup
	Reach   *Reach             `cbor:"42,keyasint,omitempty"` // of an own one to a group; nil while nobody was sent it
}

// Reaction is what somebody put beside a message.
type Reaction struct {
	User  clearbox.UserID    `cbor:"1,keyasint"`
	Emoji string             `cbor:"2,keyasint,omitempty"` // empty: it was taken back
	Sent  clearbox.Millis    `cbor:"3,keyasint"`           // by the clock of User
	ID    clearbox.MessageID `cbor:"4,keyasint"`           // of the content that set it
}

// Ref names the message to others.
func (m *Message) Ref() Ref { return Ref{ID: m.ID, Author: m.Sender} }

// In is the conversation that the message is a line of.
func (m *Message) In() ConversationID { return ConversationID{User: m.Conversation, Group: m.Group} }

// Shown gives the reactions that were not taken back.
func (m *Message) Shown() []Reaction {
	return slices.DeleteFunc(slices.Clone(m.Reactions), func(r Reaction) bool { return r.Emoji == "" })
}

// written tells what its sender wrote from lines that say something else.
func (m *Message) written() bool { return m.Kind == MessageText || m.Kind == MessageFile }

// sendable tells whether m, of our own, can be sent again.
func (m *Message) sendable() bool { return m.written() || m.Kind == MessageTimer }

// content is what m is sent as.
func (m *Message) content() *Content {
	c := &Content{
		Kind: KindText, ID: m.ID, Sent: m.Sent, To: m.Conversation,
		Text: m.Text, Target: m.Reply, Mentions: m.Mentions, File: m.File, Expires: m.Expires, Frank: m.Frank,
	}
	if m.EditID != (clearbox.MessageID{}) {
		c.Edit = &EditOf{ID: m.EditID, Sent: m.Edited}
	}
	switch m.Kind {
	case MessageFile:
		c.Kind = KindFile
	case MessageTimer:
		c.Kind, c.Timer, c.Expires = KindTimer, m.Expires, 0
	}
	if !m.Group.IsZero() {
		c.Group = &GroupContext{ID: m.Group}
	}
	return c
}

// place is where the message with a sender and id is.
type place struct {
	UUID  string `cbor:"1,keyasint"` // conversation
	Order uint64 `cbor:"2,keyasint"` // 0: it was no line of a conversation, or the line is gone
	// Change tells that the id is that of an own change to the line.
	Change bool `cbor:"3,keyasint,omitempty"`
}

// findMessage gives the message with that sender and id, or nil.
func findMessage(r Reader, senderUUID string, id clearbox.MessageID) (*Message, string, error) {
	at, err := load[place](r, idKey(senderUUID, id))
	if err != nil || at == nil || at.Order == 0 || at.Change {
		return nil, "", err
	}
	key := messageKey(at.UUID, at.Order)
	m, err := load[Message](r, key)
	if err == nil && m == nil {
		err = errors.New("the vault's index names a message that is not there")
	}
	return m, key, err
}

// addMessage gives m its order and stores it in the conversation with uuid.
// Lines that have no id of their own are not indexed.
func addMessage(tx Tx, uuid, senderUUID string, m *Message) error {
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	m.Order = order
	if err := save(tx, messageKey(uuid, order), m); err != nil {
		return err
	}
	if !m.Outgoing {
		if err := tx.Put(newKey(order), []byte(uuid)); err != nil {
			return err
		}
	}
	if m.ID == (clearbox.MessageID{}) {
		return nil
	}
	return save(tx, idKey(senderUUID, m.ID), place{UUID: uuid, Order: order})
}

// advance moves an own message on to state, if that is further than where it
// is, and tells whether anything changed.
func (b *Brain) advance(tx Tx, self *self, id clearbox.MessageID, state State, reason clearbox.Code, delayed bool) (bool, error) {
	m, key, err := findMessage(tx, self.uuid, id)
	if err != nil || m == nil || !m.Outgoing {
		return false, err
	}
	switch {
	case state.rank() > m.State.rank():
		was := m.State
		m.State, m.Reason = state, reason
		m.Delayed = delayed && state == StateAtServer
		if err := noteFate(tx, m, was); err != nil {
			return false, err
		}
	case state == StateAtServer && m.State == StateAtServer && delayed && !m.Delayed:
		m.Delayed = true
	default:
		return false, nil
	}
	if err := startClock(tx, m, b.now()); err != nil {
		return false, err
	}
	if m.State == StateAtPeer || m.State.Arrived() || m.State == StateFailed {
		if err := errors.Join(tx.Delete(awaitKey(m.ID)), tx.Delete(awaitKey(m.Outer))); err != nil {
			return false, err
		}
	}
	return true, save(tx, key, m)
}

// fail gives up what was to be sent under id: a message, or a change to one.
func (b *Brain) fail(tx Tx, s *self, id clearbox.MessageID, why clearbox.Code) (bool, error) {
	changed, err := b.advance(tx, s, id, StateFailed, why, false)
	if err != nil || changed {
		return changed, err
	}
	return unsent(tx, s, id, why)
}

// Message gives an own message by its id; ErrNoValue if there is none.
func (b *Brain) Message(ctx context.Context, id clearbox.MessageID) (*Message, error) {
	self, err := b.me()
	if err != nil {
		return nil, err
	}
	var out *Message
	err = b.vault.View(ctx, func(r Reader) error {
		m, _, err := findMessage(r, self.uuid, id)
		if err == nil && m == nil {
			err = ErrNoValue
		}
		out = m
		return err
	})
	return out, err
}

// Unshown gives up to limit incoming lines of all conversations that MarkShown
// has not named yet, in their order.
func (b *Brain) Unshown(ctx context.Context, limit int) ([]Message, error) {
	return b.listed(ctx, prefixNew, limit)
}

// listed gives the lines that the keys with prefix name by their order, each
// with the conversation as its value.
func (b *Brain) listed(ctx context.Context, prefix string, limit int) (out []Message, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: prefix, Limit: limit})
		if err != nil {
			return err
		}
		for _, e := range entries {
			order, err := strconv.ParseUint(e.Key[len(prefix):], 16, 64)
			if err != nil {
				return err
			}
			m, err := load[Message](r, messageKey(string(e.Value), order))
			if err != nil {
				return err
			}
			if m != nil && !m.goneBy(b.now()) {
				out = append(out, *m)
			}
		}
		return nil
	})
	return out, err
}

// MarkShown says that these lines were shown as they stand here, own ones
// included. A process that dies between showing and marking shows them again.
// What others wrote counts as read from now on: it may be told them, and what
// disappears begins to.
func (b *Brain) MarkShown(ctx context.Context, lines ...Message) error {
	if len(lines) == 0 {
		return nil
	}
	read := false
	err := b.vault.Update(ctx, func(tx Tx) error {
		read = false
		for i := range lines {
			m := &lines[i]
			if m.Outgoing {
				if err := fateShown(tx, m); err != nil {
					return err
				}
				continue
			}
			unseen, err := optional(tx.Get(newKey(m.Order)))
			if err != nil {
				return err
			}
			if unseen == nil {
				continue
			}
			if err := tx.Delete(newKey(m.Order)); err != nil {
				return err
			}
			told, err := b.wasRead(tx, m)
			if err != nil {
				return err
			}
			read = read || told
		}
		return nil
	})
	if read {
		wake(b.receiptWake)
	}
	wake(b.expiryWake)
	return err
}
