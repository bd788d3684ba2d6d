package core

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// MaxText is the longest text of one message, in bytes of UTF-8.
const MaxText = 64 << 10

// maxReceipts is how many ids one receipt names.
const maxReceipts = 256

// Kind says what a Content is. Kinds are appended, never reused.
type Kind uint64

// The kinds that this version knows.
const (
	KindText    Kind = 1 // Text
	KindReceipt Kind = 2 // Delivered: ids of the recipient's messages that are on this device
	KindRenew   Kind = 3 // Unread: ids that could not be decrypted; Failed; carries a new session
	KindAccept  Kind = 4 // Knock: the answer to it is yes; Token
	KindToken   Kind = 5 // Token alone
	KindTyping  Kind = 6 // a message is being written; in signals only

	KindVoid Kind = 70 // Unread: ids that were asked for again and stand for no message; none says nothing at all
)

// Known tells whether this version knows what to do with k.
func (k Kind) Known() bool { return k >= KindText && k <= KindTyping || k == KindVoid }

// Content is what stands inside the encryption. Sender, recipient and id are
// repeated here, where no homeserver can change them. Fields are appended,
// never reused; unknown ones are skipped.
type Content struct {
	Kind Kind               `cbor:"1,keyasint"`
	ID   clearbox.MessageID `cbor:"2,keyasint"`
	Sent clearbox.Millis    `cbor:"3,keyasint"` // by the sender's clock
	From clearbox.UserID    `cbor:"4,keyasint"`
	To   clearbox.UserID    `cbor:"5,keyasint"` // with whom the conversation is, also in a copy for own devices
	// Address is what the sender is called. A claim: shown only after the
	// sender's server confirmed it.
	Address   string               `cbor:"6,keyasint,omitempty"`
	Text      string               `cbor:"7,keyasint,omitempty"`
	Delivered []clearbox.MessageID `cbor:"8,keyasint,omitempty"`
	// Unread are ids that could not be decrypted; in a text, those in whose place it
	// is sent again.
	Unread []clearbox.MessageID `cbor:"9,keyasint,omitempty"`
	// Token is what the sender's server asks for from now on, in contents for
	// accepted contacts elsewhere. It counts for the account that sends it.
	Token []byte              `cbor:"10,keyasint,omitempty"`
	Knock *clearbox.MessageID `cbor:"11,keyasint,omitempty"`
	// Failed are DecryptionErrorMessages, in a renewal: one for each device whose
	// messages, named in Unread, could not be read.
	Failed [][]byte `cbor:"70,keyasint,omitempty"`
}

// Padded contents are contentVersion, 3 bytes of length, the CBOR and zeros up
// to the next bucket: 160 bytes doubled as often as needed. An observer of
// ciphertexts learns one of ten sizes.
const (
	contentVersion = 1
	contentHead    = 4
	smallestBucket = 160
	largestBucket  = smallestBucket << 9
)

// ErrContent is a decrypted content that cannot be read.
var ErrContent = errors.New("core: malformed content")

// EncodeContent writes c, padded.
func EncodeContent(c *Content) ([]byte, error) {
	body, err := recordOut.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the content: %w", err)
	}
	size := smallestBucket
	for size < contentHead+len(body) {
		if size *= 2; size > largestBucket {
			return nil, clearbox.Errorf(clearbox.CodeTooLarge, "the message is too long")
		}
	}
	out := make([]byte, size)
	n := len(body)
	out[0], out[1], out[2], out[3] = contentVersion, byte(n>>16), byte(n>>8), byte(n)
	copy(out[contentHead:], body)
	return out, nil
}

// DecodeContent reads what EncodeContent wrote, and what later versions may
// have added to it. Its error is ErrContent with the reason.
func DecodeContent(b []byte) (*Content, error) {
	if len(b) < contentHead || len(b) > largestBucket {
		return nil, fmt.Errorf("%w: %d bytes", ErrContent, len(b))
	}
	if b[0] != contentVersion {
		return nil, fmt.Errorf("%w: version %d", ErrContent, b[0])
	}
	n := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	if n > len(b)-contentHead {
		return nil, fmt.Errorf("%w: cut short", ErrContent)
	}
	for _, pad := range b[contentHead+n:] {
		if pad != 0 {
			return nil, fmt.Errorf("%w: padding", ErrContent)
		}
	}
	c := new(Content)
	if err := recordIn.Unmarshal(b[contentHead:contentHead+n], c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	return c, c.check()
}

func (c *Content) check() error {
	switch {
	case c.Kind == 0 || c.ID == clearbox.MessageID{} || c.From.IsZero() || c.To.IsZero():
		return fmt.Errorf("%w: incomplete", ErrContent)
	case len(c.Text) > MaxText || len(c.Delivered) > maxReceipts || len(c.Unread) > maxReceipts || len(c.Address) > 400:
		return fmt.Errorf("%w: too long", ErrContent)
	case len(c.Failed) > failedMost:
		return fmt.Errorf("%w: too many decryption errors", ErrContent)
	case c.Token != nil && len(c.Token) != len(clearbox.DeliveryToken{}):
		return fmt.Errorf("%w: token", ErrContent)
	case c.Kind == KindAccept && (c.Knock == nil || c.Token == nil), c.Kind == KindToken && c.Token == nil:
		return fmt.Errorf("%w: incomplete", ErrContent)
	case c.Kind == KindText && c.Text == "":
		return fmt.Errorf("%w: no text", ErrContent)
	}
	return nil
}
