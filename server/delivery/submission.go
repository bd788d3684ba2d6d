package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/clearbox-im/clearbox"
)

// Submission is one message as its sender's brain hands it in: the same text,
// encrypted once per device of each recipient, or once for all members of a
// group.
type Submission struct {
	ID    clearbox.MessageID
	To    []Recipient
	Group *clearbox.GroupRef // everybody in To and Multi is in it; needed for Multi
	Multi []byte             // crypto/fanout's form for many recipients, or nil; not copied
}

// Recipient is one person and the ciphertexts for the devices that the brain
// believes to be current. The sender's own other devices are a recipient too.
type Recipient struct {
	User      clearbox.UserID
	Token     []byte // of people of other servers: their delivery token, or the id of their knock
	Envelopes []Outgoing
}

// Outgoing is the ciphertext for one device.
type Outgoing struct {
	Device       clearbox.DeviceID
	Registration uint16
	Type         clearbox.ContentType
	Content      []byte // not copied; the caller leaves it alone until Submit has answered
}

// Status is how far a message has come, as far as this server knows.
type Status string

// The states of a message at the sender's server.
const (
	StatusAccepted      Status = "accepted"      // durable here
	StatusDelayed       Status = "delayed"       // durable here; its peer is far behind
	StatusAtPeer        Status = "at_peer"       // the recipient's server took custody
	StatusUndeliverable Status = "undeliverable" // a bounce is in the sender's mailbox
	StatusUnknown       Status = "unknown"       // no such message, or forgotten after 30 days
)

// Receipt is the answer to a submission: the message is durable at this
// server, nothing more. A repeat of the submission gets the same receipt.
type Receipt struct {
	ID         clearbox.MessageID
	Status     Status
	AcceptedAt clearbox.Millis
}

// check refuses what can be seen to be wrong without looking anything up.
// nothing is stored when it fails.
func (s *Submission) check() error {
	if s.ID == (clearbox.MessageID{}) {
		return field(clearbox.CodeBadRequest, "/id", "the message id is missing")
	}
	switch {
	case s.Multi == nil:
	case s.Group == nil:
		return field(clearbox.CodeBadRequest, "/group", "a message to many is one to a group")
	case len(s.Multi) == 0:
		return field(clearbox.CodeBadRequest, "/multi", "the message is empty")
	}
	if s.Group != nil && (s.Group.ID.IsZero() || s.Group.Epoch == 0) {
		return field(clearbox.CodeBadRequest, "/group", "a group has an id and an epoch")
	}
	if len(s.To) == 0 && s.Multi == nil {
		return field(clearbox.CodeBadRequest, "/to", "a message has at least one recipient")
	}
	total := 0
	for i, r := range s.To {
		for _, other := range s.To[:i] {
			if other.User == r.User {
				return field(clearbox.CodeBadRequest, "/to", "a recipient is named twice")
			}
		}
		if r.User.IsZero() {
			return field(clearbox.CodeBadRequest, "/to", "a recipient is missing")
		}
		total += len(r.Envelopes)
		if total > clearbox.MaxEnvelopesPer {
			return field(clearbox.CodeTooLarge, "/to", "a message has at most 64 envelopes")
		}
		for j, e := range r.Envelopes {
			for _, other := range r.Envelopes[:j] {
				if other.Device == e.Device {
					return field(clearbox.CodeBadRequest, "/to", "a device is named twice")
				}
			}
			switch {
			case e.Device < 1 || e.Device > 127:
				return field(clearbox.CodeBadRequest, "/to", "a device id is a number from 1 to 127")
			case e.Registration > 1<<14-1:
				return field(clearbox.CodeBadRequest, "/to", "a registration id has 14 bits")
			case !e.Type.Valid():
				return field(clearbox.CodeBadRequest, "/to", "the envelope type is unknown")
			case e.Type == clearbox.ContentSealed && clearbox.SealedSize(len(e.Content)) != len(e.Content) && len(e.Content) <= clearbox.MaxContent:
				return field(clearbox.CodeBadRequest, "/to", "a sealed envelope is padded to a size bucket")
			case len(e.Content) == 0:
				return field(clearbox.CodeBadRequest, "/to", "an envelope is empty")
			case len(e.Content) > clearbox.MaxContent:
				return field(clearbox.CodeTooLarge, "/to", "an envelope holds at most 96 KiB")
			}
		}
	}
	return nil
}

func field(code clearbox.Code, pointer, text string) error {
	return &clearbox.Error{Code: code, Text: text, Field: pointer}
}

// open tells whether a message to somebody of this server is as it must be: its
// sender is named, and nobody needs a token.
func (to *Recipient) open() error {
	if to.Token != nil {
		return field(clearbox.CodeBadRequest, "/to", "a token is for people of other servers")
	}
	for i := range to.Envelopes {
		if to.Envelopes[i].Type == clearbox.ContentSealed {
			return field(clearbox.CodeBadRequest, "/to", "sealed messages are for people of other servers")
		}
	}
	return nil
}

// sealed tells the same of a message to somebody of another server: it shows
// that they want it, by a token or as a fellow member of a group, and says outside
// of nothing who sent it.
func (to *Recipient) sealed(fellow bool) error {
	switch _, err := clearbox.ParseDeliveryToken(to.Token); {
	case len(to.Token) == 0 && fellow:
	case len(to.Token) == 0:
		return &clearbox.Error{Code: clearbox.CodeConsentRequired, Text: "this person has to accept you first", Field: "/to"}
	case err != nil:
		return field(clearbox.CodeBadRequest, "/to", err.Error())
	}
	for i := range to.Envelopes {
		if to.Envelopes[i].Type != clearbox.ContentSealed {
			return field(clearbox.CodeBadRequest, "/to", "messages to people of other servers are sealed")
		}
	}
	return nil
}

// bodyHash names the submission's body, so that the same id with another body
// can be told from a repeat. Every variable part is preceded by its length.
func (s *Submission) bodyHash() [32]byte {
	h := sha256.New()
	h.Write(s.ID[:])
	var b [8]byte
	for _, r := range s.To {
		hashString(h, r.User.String())
		hashString(h, string(r.Token))
		binary.BigEndian.PutUint32(b[:4], uint32(len(r.Envelopes)))
		h.Write(b[:4])
		for _, e := range r.Envelopes {
			b[0], b[1] = byte(e.Device), byte(e.Type)
			binary.BigEndian.PutUint16(b[2:4], e.Registration)
			binary.BigEndian.PutUint32(b[4:8], uint32(len(e.Content)))
			h.Write(b[:8])
			h.Write(e.Content)
		}
	}
	if s.Group != nil {
		h.Write(s.Group.ID[:])
		binary.BigEndian.PutUint64(b[:], s.Group.Epoch)
		h.Write(b[:])
		h.Write(s.Multi)
	}
	var out [32]byte
	h.Sum(out[:0])
	return out
}

func hashString(h hash.Hash, s string) {
	var n [2]byte
	binary.BigEndian.PutUint16(n[:], uint16(len(s)))
	h.Write(n[:])
	h.Write([]byte(s))
}
