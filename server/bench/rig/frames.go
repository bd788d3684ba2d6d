package rig

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// FirstRef is the ref of the first message of a Template: from here on every
// ref has the same length in CBOR.
const FirstRef = 1 << 16

// PayloadSize is the size of the opaque ciphertext that the bench sends, one of
// those that sealed ones may have.
const PayloadSize = 1024

// Template is a send_message frame in CBOR, encoded once; each message patches
// its ref, its id and the head of its payload. Not safe for concurrent use.
type Template struct {
	frame            []byte
	ref, id, content int // offsets
	raw              [16]byte
}

// NewTemplate encodes a frame from anybody to one device: sealed with the
// account's token where it has one, as for people of other servers. The payload
// is random but for its first eight bytes, which carry sender and number.
func NewTemplate(to *Account) (*Template, error) {
	id, err := clearbox.NewMessageID(random)
	if err != nil {
		return nil, err
	}
	content := make([]byte, PayloadSize)
	if _, err := random.Read(content); err != nil {
		return nil, err
	}
	recipient := wire.Recipient{User: to.User, Envelopes: []wire.Outgoing{{
		Device: 1, Registration: to.Registration, Type: clearbox.ContentWhisper, Content: content,
	}}}
	if to.Token != (clearbox.DeliveryToken{}) {
		recipient.Token, recipient.Envelopes[0].Type = to.Token[:], clearbox.ContentSealed
	}
	frame, err := wire.AppendClientFrame(nil, wire.CBOR, &wire.ClientFrame{Type: wire.FrameSend, Ref: FirstRef, Submission: &wire.Submission{
		ID: id, To: []wire.Recipient{recipient},
	}})
	if err != nil {
		return nil, err
	}
	return newTemplate(frame, id, content)
}

// sharedSize is the part of a group message's payload that is the ciphertext.
const sharedSize = PayloadSize - fanout.ReceivedOverhead

// NewGroupTemplate encodes a frame to all members of a group, each with one
// device: what they receive has PayloadSize. Key material and ciphertext are
// random but for the ciphertext's first eight bytes, which carry sender and number.
func NewGroupTemplate(group clearbox.GroupRef, to []*Account) (*Template, error) {
	id, err := clearbox.NewMessageID(random)
	if err != nil {
		return nil, err
	}
	multi, content, err := multi(to)
	if err != nil {
		return nil, err
	}
	frame, err := wire.AppendClientFrame(nil, wire.CBOR, &wire.ClientFrame{Type: wire.FrameSend, Ref: FirstRef, Submission: &wire.Submission{
		ID: id, To: []wire.Recipient{}, Group: &group, Multi: multi,
	}})
	if err != nil {
		return nil, err
	}
	return newTemplate(frame, id, content)
}

// multi makes a message for many recipients, and gives its ciphertext too.
func multi(to []*Account) (b, content []byte, err error) {
	b = fanout.AppendHead(nil, len(to))
	for _, a := range to {
		b = fanout.AppendDevices(b, keys.AccountServiceID(a.User.String()), []fanout.Device{{ID: 1, Registration: a.Registration}})
		material := make([]byte, fanout.MaterialSize)
		if _, err := random.Read(material); err != nil {
			return nil, nil, err
		}
		b = append(b, material...)
	}
	shared := make([]byte, fanout.EphemeralSize+sharedSize)
	if _, err := random.Read(shared); err != nil {
		return nil, nil, err
	}
	return append(b, shared...), shared[fanout.EphemeralSize:], nil
}

// Len is the length of the frame in bytes.
func (t *Template) Len() int { return len(t.frame) }

func newTemplate(frame []byte, id clearbox.MessageID, content []byte) (*Template, error) {
	t := &Template{frame: frame, raw: id, id: bytes.Index(frame, []byte(id.String())), content: bytes.Index(frame, content)}
	t.ref = bytes.Index(frame, []byte{0x63, 'r', 'e', 'f', 0x1a, 0, 1, 0, 0}) + 5
	if t.id < 0 || t.content < 0 || t.ref < 5 {
		return nil, errors.New("rig: the encoded frame has another form than expected")
	}
	return t, nil
}

var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Message patches the template into message n of sender and returns it; it is
// valid until the next call.
func (t *Template) Message(sender, n uint32) []byte {
	binary.BigEndian.PutUint32(t.frame[t.ref:], FirstRef+n)
	binary.BigEndian.PutUint32(t.raw[12:], n)
	idText.Encode(t.frame[t.id:t.id+26], t.raw[:])
	binary.BigEndian.PutUint32(t.frame[t.content:], sender)
	binary.BigEndian.PutUint32(t.frame[t.content+4:], n)
	return t.frame
}

// MessageID is the id of message n.
func (t *Template) MessageID(n uint32) clearbox.MessageID {
	id := t.raw
	binary.BigEndian.PutUint32(id[12:], n)
	return id
}

// Event is what the bench wants to know of a server's frame.
type Event struct {
	Type    wire.FrameType
	Ref     uint64
	Seq     int64
	Content []byte        // of receive_message; aliases the frame; nil for a notice
	ID      []byte        // text of the envelope's message id; aliases the frame
	Code    clearbox.Code // of error
}

// Origin reads what Message put into the payload; ok is false for other payloads.
func (e *Event) Origin() (sender, n uint32, ok bool) {
	if len(e.Content) != PayloadSize {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(e.Content), binary.BigEndian.Uint32(e.Content[4:]), true
}

// GroupOrigin is Origin of a message to a group.
func (e *Event) GroupOrigin() (sender, n uint32, ok bool) {
	if len(e.Content) != PayloadSize || e.Content[0] != fanout.TypeReceived {
		return 0, 0, false
	}
	c := e.Content[fanout.ReceivedOverhead:]
	return binary.BigEndian.Uint32(c), binary.BigEndian.Uint32(c[4:]), true
}

var errCBOR = errors.New("rig: a frame of the server is not CBOR as expected")

// ReadEvent picks an Event out of a frame without allocating for the types that
// come in great numbers.
func ReadEvent(frame []byte) (Event, error) {
	var e Event
	rest, err := fields(frame, func(key string, value []byte) error {
		switch key {
		case "type":
			e.Type = frameType(text(value))
		case "ref":
			e.Ref = number(value)
		case "seq":
			e.Seq = int64(number(value))
		case "envelope":
			_, err := fields(value, func(key string, value []byte) error {
				switch key {
				case "content":
					e.Content = text(value)
				case "id":
					e.ID = text(value)
				}
				return nil
			})
			return err
		case "problem":
			_, err := fields(value, func(key string, value []byte) error {
				if key == "code" {
					e.Code = clearbox.Code(text(value))
				}
				return nil
			})
			return err
		}
		return nil
	})
	if err == nil && len(rest) != 0 {
		err = errCBOR
	}
	return e, err
}

func frameType(b []byte) wire.FrameType {
	switch string(b) { // does not allocate
	case string(wire.FrameReceive):
		return wire.FrameReceive
	case string(wire.FrameSent):
		return wire.FrameSent
	}
	return wire.FrameType(b)
}

// fields calls fn with every key of the map that data begins with and the
// encoding of its value, and returns what follows the map. RFC 8949, 3.
func fields(data []byte, fn func(key string, value []byte) error) ([]byte, error) {
	major, n, rest, err := head(data)
	if err != nil || major != 5 {
		return nil, errCBOR
	}
	for range n {
		major, size, after, err := head(rest)
		if err != nil || major != 3 || size > uint64(len(after)) {
			return nil, errCBOR
		}
		key := after[:size]
		value := after[size:]
		if rest, err = skip(value, 0); err != nil {
			return nil, err
		}
		if err := fn(knownKey(key), value[:len(value)-len(rest)]); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// knownKey turns a key into a string without allocating for those of ReadEvent.
func knownKey(b []byte) string {
	switch string(b) {
	case "type":
		return "type"
	case "ref":
		return "ref"
	case "seq":
		return "seq"
	case "envelope":
		return "envelope"
	case "content":
		return "content"
	case "id":
		return "id"
	case "problem":
		return "problem"
	case "code":
		return "code"
	}
	return ""
}

func head(b []byte) (major byte, n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, errCBOR
	}
	major, info := b[0]>>5, b[0]&31
	b = b[1:]
	size := 0
	switch {
	case info < 24:
		return major, uint64(info), b, nil
	case info <= 27:
		size = 1 << (info - 24)
	default:
		return 0, 0, nil, errCBOR
	}
	if len(b) < size {
		return 0, 0, nil, errCBOR
	}
	for _, c := range b[:size] {
		n = n<<8 | uint64(c)
	}
	return major, n, b[size:], nil
}

func skip(b []byte, depth int) ([]byte, error) {
	major, n, rest, err := head(b)
	if err != nil || depth > 16 {
		return nil, errCBOR
	}
	switch major {
	case 2, 3:
		if n > uint64(len(rest)) {
			return nil, errCBOR
		}
		return rest[n:], nil
	case 4, 5:
		if n > uint64(len(rest)) {
			return nil, errCBOR
		}
		if major == 5 {
			n *= 2
		}
		for range n {
			if rest, err = skip(rest, depth+1); err != nil {
				return nil, err
			}
		}
		return rest, nil
	case 6:
		return nil, errCBOR
	}
	return rest, nil // integers, booleans, null
}

// text is the inside of a text or byte string, nil for anything else.
func text(value []byte) []byte {
	major, n, rest, err := head(value)
	if err != nil || major != 2 && major != 3 || n > uint64(len(rest)) {
		return nil
	}
	return rest[:n]
}

func number(value []byte) uint64 {
	major, n, _, err := head(value)
	if err != nil || major != 0 {
		return 0
	}
	return n
}

// AppendAck writes an acknowledgement frame.
func AppendAck(dst []byte, seq int64) []byte {
	dst = append(dst, 0xa2, 0x63, 's', 'e', 'q')
	switch {
	case seq < 24:
		dst = append(dst, byte(seq))
	case seq < 1<<8:
		dst = append(dst, 0x18, byte(seq))
	case seq < 1<<16:
		dst = append(dst, 0x19, byte(seq>>8), byte(seq))
	case seq < 1<<32:
		dst = binary.BigEndian.AppendUint32(append(dst, 0x1a), uint32(seq))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x1b), uint64(seq))
	}
	return append(dst, 0x64, 't', 'y', 'p', 'e', 0x63, 'a', 'c', 'k')
}

// Welcome reads the first frame of a socket.
func (s *Socket) Welcome() error {
	frame, _, err := s.Next()
	if err != nil {
		return err
	}
	e, err := ReadEvent(frame)
	if err != nil {
		return err
	}
	if e.Type != wire.FrameWelcome {
		return fmt.Errorf("rig: the first frame is %q", e.Type)
	}
	return nil
}
