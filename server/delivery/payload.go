package delivery

import (
	"encoding/binary"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/federation"
)

// Delivery is one entry of a device's mailbox: an envelope, a notice, a knock or
// what became of a group.
type Delivery struct {
	Seq      int64 // the device's mailbox sequence, from 1, without holes at the time of writing
	Envelope *clearbox.Envelope
	Notice   *Notice
	Knock    *Knock
	Group    *GroupEvent

	ref     []byte   // of a sealed envelope: goes back to its server when it expires
	pointer *pointer // of a stored one the content of which is elsewhere
}

// NoticeKind says what a notice tells the sender.
type NoticeKind string

// The kinds of notice.
const (
	NoticeDelayed       NoticeKind = "delayed"       // not delivered for some hours, still being tried
	NoticeUndeliverable NoticeKind = "undeliverable" // given up; Code says why
	NoticeRequeue       NoticeKind = "requeue"       // given up for Code before; the sender's device is asked to submit it again
)

// Notice tells a sender what became of a message. It waits in the sender's
// mailbox like any envelope until the device has stored it.
type Notice struct {
	Kind      NoticeKind
	ID        clearbox.MessageID
	Recipient clearbox.UserID
	Code      clearbox.Code
	FirstTry  clearbox.Millis // 0 when it was never tried
	LastTry   clearbox.Millis
	Attempts  int
}

// The first byte of a stored mailbox entry.
const (
	payloadEnvelope = 1
	payloadNotice   = 2
	payloadSealed   = 3
	payloadKnock    = 4
	payloadPointer  = 5
	payloadGroup    = 6
)

// Lengths in bytes.
const (
	refSize     = 16
	bodyKeySize = 32
)

// appendEnvelope writes the stored form of an envelope: kind, id, sender
// device, type, accepted at, sender, content. Recipient and device are the
// mailbox's own and not repeated.
func appendEnvelope(b []byte, e *clearbox.Envelope) []byte {
	b = append(b, payloadEnvelope)
	b = append(b, e.ID[:]...)
	b = append(b, byte(e.SenderDevice), byte(e.Type))
	b = binary.BigEndian.AppendUint64(b, uint64(e.AcceptedAt))
	b = appendText(b, e.Sender.String())
	return append(b, e.Content...)
}

// appendSealed writes the stored form of a sealed envelope: kind, id, ref,
// accepted at, origin, content.
func appendSealed(b []byte, e *clearbox.Envelope, ref []byte) []byte {
	b = append(b, payloadSealed)
	b = append(b, e.ID[:]...)
	b = append(b, ref[:refSize]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.AcceptedAt))
	b = appendText(b, string(e.Origin))
	return append(b, e.Content...)
}

// appendKnock writes the stored form of a knock.
func appendKnock(b []byte, k *Knock) []byte {
	b = append(b, payloadKnock)
	b = append(b, k.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(k.AcceptedAt))
	b = appendText(b, k.From.String())
	b = appendText(b, string(k.Handle))
	b = appendText(b, k.Controller)
	return appendText(b, k.Country)
}

// appendNotice writes the stored form of a notice.
func appendNotice(b []byte, n *Notice) []byte {
	b = append(b, payloadNotice)
	b = append(b, n.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(n.FirstTry))
	b = binary.BigEndian.AppendUint64(b, uint64(n.LastTry))
	b = binary.BigEndian.AppendUint32(b, uint32(n.Attempts))
	b = appendText(b, string(n.Kind))
	b = appendText(b, string(n.Code))
	return appendText(b, n.Recipient.String())
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

var errPayload = errors.New("stored mailbox entry is damaged")

// parsePayload is the inverse; the content is a slice of b.
func parsePayload(b []byte) (Delivery, error) {
	r := reader{b: b}
	switch r.byte() {
	case payloadEnvelope:
		e := &clearbox.Envelope{ID: clearbox.MessageID(r.bytes(16))}
		e.SenderDevice = clearbox.DeviceID(r.byte())
		e.Type = clearbox.ContentType(r.byte())
		e.AcceptedAt = clearbox.Millis(r.uint64())
		sender := r.text()
		if r.bad {
			return Delivery{}, errPayload
		}
		user, err := clearbox.ParseUserID(sender)
		if err != nil {
			return Delivery{}, errPayload
		}
		e.Sender, e.Content = user, r.b
		return Delivery{Envelope: e}, nil
	case payloadNotice:
		n := &Notice{ID: clearbox.MessageID(r.bytes(16))}
		n.FirstTry = clearbox.Millis(r.uint64())
		n.LastTry = clearbox.Millis(r.uint64())
		n.Attempts = int(binary.BigEndian.Uint32(r.bytes(4)))
		n.Kind = NoticeKind(r.text())
		n.Code = clearbox.Code(r.text())
		recipient := r.text()
		if r.bad || len(r.b) != 0 {
			return Delivery{}, errPayload
		}
		user, err := clearbox.ParseUserID(recipient)
		if err != nil {
			return Delivery{}, errPayload
		}
		n.Recipient = user
		return Delivery{Notice: n}, nil
	case payloadSealed:
		e := &clearbox.Envelope{ID: clearbox.MessageID(r.bytes(16)), Type: clearbox.ContentSealed}
		ref := r.bytes(refSize)
		e.AcceptedAt = clearbox.Millis(r.uint64())
		e.Origin = clearbox.ServerName(r.text())
		if r.bad || e.Origin == "" {
			return Delivery{}, errPayload
		}
		e.Content = r.b
		return Delivery{Envelope: e, ref: ref}, nil
	case payloadPointer:
		e := &clearbox.Envelope{ID: clearbox.MessageID(r.bytes(16)), Type: clearbox.ContentSealed}
		ref := r.bytes(refSize)
		e.AcceptedAt = clearbox.Millis(r.uint64())
		e.Origin = clearbox.ServerName(r.text())
		if r.bad || e.Origin == "" || len(r.b) != bodyKeySize+fanout.MaterialSize {
			return Delivery{}, errPayload
		}
		return Delivery{Envelope: e, ref: ref, pointer: &pointer{key: r.b[:bodyKeySize], material: r.b[bodyKeySize:]}}, nil
	case payloadKnock:
		k := &Knock{ID: clearbox.MessageID(r.bytes(16)), AcceptedAt: clearbox.Millis(r.uint64())}
		from := r.text()
		k.Handle, k.Controller, k.Country = clearbox.Handle(r.text()), r.text(), r.text()
		if r.bad || len(r.b) != 0 {
			return Delivery{}, errPayload
		}
		user, err := clearbox.ParseUserID(from)
		if err != nil {
			return Delivery{}, errPayload
		}
		k.From = user
		return Delivery{Knock: k}, nil
	case payloadGroup:
		e, err := parseGroup(&r)
		return Delivery{Group: e}, err
	}
	return Delivery{}, errPayload
}

// encodeArrived and decodeArrived are the form in which a peer's knock waits to
// be looked at: as in a mailbox, and the handle that was knocked at.
func encodeArrived(it *federation.Item) ([]byte, error) {
	k := it.Knock
	if k == nil {
		return nil, errPayload
	}
	b := appendText(nil, string(k.To))
	return appendKnock(b, &Knock{ID: it.ID, From: k.From, Handle: k.Handle, AcceptedAt: it.AcceptedAt}), nil
}

func decodeArrived(b []byte) (*Knock, clearbox.Handle, error) {
	r := reader{b: b}
	to := clearbox.Handle(r.text())
	d, err := parsePayload(r.b)
	if err != nil || r.bad || d.Knock == nil {
		return nil, "", errPayload
	}
	return d.Knock, to, nil
}

// reader takes fields off the front of b; after the first shortage everything
// it gives is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

var zeros [16]byte

// bytes gives the next n bytes, n at most 16 or the shortage would outgrow zeros.
func (r *reader) bytes(n int) []byte {
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return zeros[:min(n, len(zeros))]
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte     { return r.bytes(1)[0] }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.bytes(8)) }

func (r *reader) text() string {
	n := int(binary.BigEndian.Uint16(r.bytes(2)))
	if len(r.b) < n {
		r.bad, r.b = true, nil
		return ""
	}
	out := string(r.b[:n])
	r.b = r.b[n:]
	return out
}
