// Package sealed is responsible for sealed sender, versions 1 and 2, on the
// devices: it hides inside the envelope who sent a message, and shows the
// recipient, and nobody on the way, a certificate of it. It does not know
// sessions: what it carries is a message that was already encrypted for the
// recipient by ratchet or by sender keys. A homeserver does not link it; what a
// homeserver does with sealed messages is in package fanout.
//
// The formats are compatible with the Signal Protocol. Everything is safe for
// concurrent use. There is no I/O and no clock; randomness is handed in.
//
// Secrets that this package derives are zeroed when they are done with; Go
// cannot promise that no copy remains. Without assembly (WebAssembly) Go's AES
// uses tables and is not constant in time.
package sealed

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// MaxMessage is the length in bytes above which a sealed message is refused
// unread: what an envelope holds.
const MaxMessage = 96 << 10

// TypeV1 is the first byte of a message of version 1. Of version 2 a recipient
// gets fanout.TypeReceived.
const TypeV1 = 0x11

// Errors a caller may branch on. None of them carries keys, names or plaintext.
var (
	// ErrMalformed: not a sealed message, or not a content inside one.
	ErrMalformed = errors.New("sealed: malformed message")
	// ErrVersion: neither version 1 nor version 2 for one recipient.
	ErrVersion = errors.New("sealed: unknown version")
	// ErrDecrypt: sealed for another identity, or altered.
	ErrDecrypt = errors.New("sealed: message not authentic")
	// ErrSender: the certificate inside is not that of the key that sealed the
	// message.
	ErrSender = errors.New("sealed: the certificate is not the sender's")
	// ErrOwn: the message comes from this very device.
	ErrOwn = errors.New("sealed: own message")
	// ErrContent: a content that cannot be sealed: without a certificate, with
	// one for another identity, of an unknown type, empty or too long.
	ErrContent = errors.New("sealed: content cannot be sealed")
	// ErrRecipients: recipients that one message cannot have. It wraps the reason
	// given by package fanout or curve.
	ErrRecipients = errors.New("sealed: not a set of recipients")
)

// Type says what a content carries. The numbers are those inside sealed messages;
// two of them differ from the outer types (ratchet.Type), see Outer.
type Type uint8

// The types of contents.
const (
	TypePreKey    Type = 1 // a first message of a session
	TypeWhisper   Type = 2 // a later one
	TypeSenderKey Type = 7 // for a group
	TypePlaintext Type = 8 // a decryption error
)

// Outer returns the type that the same message has outside of a sealed one, and
// 0 for an unknown type.
func (t Type) Outer() uint8 {
	switch t {
	case TypePreKey:
		return 3
	case TypeWhisper, TypeSenderKey, TypePlaintext:
		return uint8(t)
	}
	return 0
}

// TypeOfOuter is the inverse of Outer; false for an outer type that is not sealed.
func TypeOfOuter(outer uint8) (Type, bool) {
	switch outer {
	case 3:
		return TypePreKey, true
	case uint8(TypeWhisper), uint8(TypeSenderKey), uint8(TypePlaintext):
		return Type(outer), true
	}
	return 0, false
}

// Hint advises the recipient's client what to show when it cannot decrypt the
// message inside. An unknown hint stands for HintDefault.
type Hint uint32

// The hints.
const (
	HintDefault    Hint = 0 // say at once that a message could not be read
	HintResendable Hint = 1 // the sender will send it again when asked
	HintImplicit   Hint = 2 // nothing was lost that a person would miss
)

// Sizes of parts of a content in bytes. The longest content, sealed in either
// version, is below MaxMessage.
const (
	MaxBody  = 93 << 10
	MaxGroup = 256
)

// Content is what a sealed message carries.
type Content struct {
	Type   Type
	Sender *certificate.Sender
	Body   []byte // the encrypted message, 1 to MaxBody bytes
	Hint   Hint
	Group  []byte // id of the group that the message is for, up to MaxGroup bytes; nil for none
}

// The fields of a content (unidentified sender message content).
const (
	fieldType   = 1
	fieldSender = 2
	fieldBody   = 3
	fieldHint   = 4
	fieldGroup  = 5
)

// check tells whether identity can seal the content.
func (c *Content) check(identity *curve.PrivateKey) error {
	if c.Sender == nil || c.Type.Outer() == 0 || len(c.Body) == 0 || len(c.Body) > MaxBody || len(c.Group) > MaxGroup ||
		c.Sender.Subject().Identity != identity.Public() {
		return ErrContent
	}
	return nil
}

// maxContent bounds the encoded content: the fields, their tags and lengths.
const maxContent = MaxBody + certificate.MaxSender + MaxGroup + 64

// append appends the encoded content. The default hint and an empty group are
// left out.
func (c *Content) append(b []byte) []byte {
	b = field.AppendUint(b, fieldType, uint64(c.Type))
	b = field.AppendData(b, fieldSender, c.Sender.Bytes())
	b = field.AppendData(b, fieldBody, c.Body)
	if c.Hint != HintDefault {
		b = field.AppendUint(b, fieldHint, uint64(c.Hint))
	}
	if len(c.Group) > 0 {
		b = field.AppendData(b, fieldGroup, c.Group)
	}
	return b
}

// parseContent reads an encoded content. The result shares memory with b.
func parseContent(b []byte) (*Content, error) {
	if len(b) > maxContent {
		return nil, fmt.Errorf("%w: content of %d bytes", ErrMalformed, len(b))
	}
	c := new(Content)
	var kind, hint uint32
	var sender []byte
	err := field.Read(b, field.Set(fieldType, fieldSender, fieldBody, fieldHint, fieldGroup),
		field.Set(fieldType, fieldSender, fieldBody), func(f field.Field) error {
			switch f.Number {
			case fieldType:
				if err := f.Uint32(&kind); err != nil || kind > 0xff || Type(kind).Outer() == 0 {
					return f.Wrong()
				}
				return nil
			case fieldSender:
				return f.Data(&sender, 1, certificate.MaxSender)
			case fieldBody:
				return f.Data(&c.Body, 1, MaxBody)
			case fieldHint:
				return f.Uint32(&hint)
			default:
				return f.Data(&c.Group, 0, MaxGroup)
			}
		})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(c.Group) == 0 {
		c.Group = nil
	}
	c.Type, c.Hint = Type(kind), Hint(hint)
	if c.Sender, err = certificate.ParseSender(sender); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, nil
}

// Receiver is one device as the recipient of sealed messages.
type Receiver struct {
	Account  keys.ServiceID
	Device   uint8
	Identity *curve.PrivateKey // of the account
}

// Open reads a sealed message of version 1 or 2 and returns its content when all
// of this holds: it was sealed for this identity and not altered, by the key that
// the certificate inside names, by another device than this one, and the
// certificate is valid under one of the roots at the time acceptedAt, which is
// when the sender's server accepted the message; it may be opened any time later.
//
// The caller hands in the roots pinned for the homeserver that delivered the
// message, and then checks that the certificate's account belongs to that
// homeserver and that its identity is the one pinned for the account: a
// certificate proves what that homeserver says, and pins are above it.
//
// The errors are those of this package and certificate.ErrExpired,
// ErrUntrusted and ErrSignature. b is not changed; the content is the caller's.
func (r *Receiver) Open(b []byte, acceptedAt time.Time, roots ...curve.PublicKey) (*Content, error) {
	c, err := r.unseal(b)
	if err != nil {
		return nil, err
	}
	s := c.Sender.Subject()
	if s.Account == r.Account && s.Device == r.Device {
		return nil, ErrOwn
	}
	if err := c.Sender.Validate(acceptedAt, roots...); err != nil {
		return nil, err
	}
	return c, nil
}

// unseal does all that the message itself can prove.
func (r *Receiver) unseal(b []byte) (*Content, error) {
	if len(b) == 0 || len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	switch b[0] {
	case TypeV1:
		return openV1(r.Identity, b)
	case fanout.TypeReceived:
		return openV2(r.Identity, b)
	}
	return nil, ErrVersion
}

// derive is HKDF-SHA256 (RFC 5869); the parts of the key material are joined and
// the copy of them is zeroed.
func derive(salt []byte, info string, size int, material ...[]byte) []byte {
	var joined []byte
	n := 0
	for _, m := range material {
		n += len(m)
	}
	joined = make([]byte, 0, n)
	for _, m := range material {
		joined = append(joined, m...)
	}
	defer clear(joined)
	out, err := hkdf.Key(sha256.New, joined, salt, info, size)
	if err != nil {
		panic("sealed: HKDF gives this many bytes")
	}
	return out
}
