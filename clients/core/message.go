package core

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// State is how far a message came. It only ever moves on: queued, at_server,
// at_peer, delivered; or failed, with a reason, from any of the first three. An
// operator may have what failed put back to queued.
type State string

// The states. Incoming messages are StateReceived.
const (
	StateQueued    State = "queued"    // in this vault, not yet at the own homeserver
	StateAtServer  State = "at_server" // durable at the own homeserver
	StateAtPeer    State = "at_peer"   // durable at the recipient's homeserver
	StateDelivered State = "delivered" // a device of the recipient has it
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
	}
	return 0
}

// MessageKind says what a line of a conversation is.
type MessageKind string

// The kinds of lines.
const (
	MessageText            MessageKind = "text"
	MessageUndecryptable   MessageKind = "undecryptable"    // Reason says why; shown once as "could not be decrypted"
	MessageUnsupported     MessageKind = "unsupported"      // a kind that a newer version sent
	MessageIdentityChanged MessageKind = "identity_changed" // the contact's safety number changed
)

// Message is one line of a conversation, as the vault has it.
type Message struct {
	Order        uint64             `cbor:"1,keyasint"` // place in the local order of all conversations
	ID           clearbox.MessageID `cbor:"2,keyasint"`
	Conversation clearbox.UserID    `cbor:"3,keyasint"` // with whom
	Sender       clearbox.UserID    `cbor:"4,keyasint"`
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
}

// place is where the message with a sender and id is.
type place struct {
	UUID  string `cbor:"1,keyasint"` // conversation
	Order uint64 `cbor:"2,keyasint"` // 0: it was no line of a conversation
}

// findMessage gives the message with that sender and id, or nil.
func findMessage(r Reader, senderUUID string, id clearbox.MessageID) (*Message, string, error) {
	at, err := load[place](r, idKey(senderUUID, id))
	if err != nil || at == nil || at.Order == 0 {
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
func advance(tx Tx, self *self, id clearbox.MessageID, state State, reason clearbox.Code, delayed bool) (bool, error) {
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
	if m.State == StateAtPeer || m.State == StateDelivered || m.State == StateFailed {
		if err := errors.Join(tx.Delete(awaitKey(m.ID)), tx.Delete(awaitKey(m.Outer))); err != nil {
			return false, err
		}
	}
	return true, save(tx, key, m)
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

// Messages gives up to limit lines of the conversation with user that come
// after the one with that order, oldest first; 0 is before the first. Limit 0
// is all.
func (b *Brain) Messages(ctx context.Context, user clearbox.UserID, after uint64, limit int) ([]Message, error) {
	return b.lines(ctx, user, func(uuid string) Range {
		return Range{Prefix: prefixMsg + uuid + "/", After: messageKey(uuid, after), Limit: limit}
	})
}

// Recent gives the last limit lines of the conversation with user, oldest first.
func (b *Brain) Recent(ctx context.Context, user clearbox.UserID, limit int) ([]Message, error) {
	out, err := b.lines(ctx, user, func(uuid string) Range {
		return Range{Prefix: prefixMsg + uuid + "/", Limit: limit, Reverse: true}
	})
	slices.Reverse(out)
	return out, err
}

// lines gives the lines of a conversation, also by the provisional contact that it
// began with.
func (b *Brain) lines(ctx context.Context, user clearbox.UserID, rng func(uuid string) Range) (out []Message, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		real, err := behind(r, user)
		if err != nil {
			return err
		}
		entries, err := r.List(rng(uuidOfUser(real)))
		if err != nil {
			return err
		}
		for _, e := range entries {
			m, err := parse[Message](e.Value)
			if err != nil {
				return err
			}
			out = append(out, *m)
		}
		return nil
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
			if m != nil {
				out = append(out, *m)
			}
		}
		return nil
	})
	return out, err
}

// MarkShown says that these lines were shown as they stand here, own ones
// included. A process that dies between showing and marking shows them again.
func (b *Brain) MarkShown(ctx context.Context, lines ...Message) error {
	if len(lines) == 0 {
		return nil
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		for i := range lines {
			m := &lines[i]
			if m.Outgoing {
				if err := fateShown(tx, m); err != nil {
					return err
				}
				continue
			}
			if err := tx.Delete(newKey(m.Order)); err != nil {
				return err
			}
		}
		return nil
	})
}
