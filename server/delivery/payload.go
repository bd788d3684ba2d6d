package delivery

import (
	"encoding/binary"
	"errors"

	"github.com/clearbox-im/clearbox"
)

// Delivery is one entry of a device's mailbox: an envelope or a notice.
type Delivery struct {
	Seq      int64 // the device's mailbox sequence, from 1, without holes at the time of writing
	Envelope *clearbox.Envelope
	Notice   *Notice
}

// NoticeKind says what a notice tells the sender.
type NoticeKind string

// The kinds of notice.
const (
	NoticeDelayed       NoticeKind = "delayed"       // not delivered for some hours, still being tried
	NoticeUndeliverable NoticeKind = "undeliverable" // given up; Code says why
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
	}
	return Delivery{}, errPayload
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
