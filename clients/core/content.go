package core

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// MaxText is the longest text of one message, in bytes of UTF-8.
const MaxText = 64 << 10

// maxReceipts is how many ids one receipt names.
const maxReceipts = 256

// Kind says what a Content is. Kinds are appended, never reused; docs/content.md
// has the table.
type Kind uint64

// The kinds that this version knows.
const (
	KindText    Kind = 1 // Text, perhaps as a reply to Target
	KindReceipt Kind = 2 // Delivered, Read: ids of the recipient's messages that are on this device, or were read
	KindRenew   Kind = 3 // Unread: ids that could not be decrypted; Failed; carries a new session
	KindAccept  Kind = 4 // Knock: the answer to it is yes; Token
	KindToken   Kind = 5 // Token alone
	KindTyping  Kind = 6 // a message is being written; in signals only

	KindEdit     Kind = 10 // Text in place of what the sender's message Target said
	KindDelete   Kind = 11 // the sender's message Target is taken back, for everyone
	KindReaction Kind = 12 // Emoji at Target, in place of the sender's one before; none takes it back
	KindTimer    Kind = 13 // Timer: what is written from now on disappears so long after it was read
	KindProfile  Kind = 14 // Profile: what the sender wants to be called
	KindFile     Kind = 15 // File, perhaps with a Text, perhaps as a reply to Target

	KindSenderKey  Kind = 40 // SenderKey: what the sending device writes to the group under
	KindKeyRequest Kind = 41 // that key is wanted, and the messages of Unread
	KindGroupKey   Kind = 42 // GroupKey: what opens the name of the group

	KindSync Kind = 50 // Sync; to own devices only

	KindVoid Kind = 70 // Unread: ids that were asked for again and stand for no message; none says nothing at all
)

// firstQuiet begins the kinds of later versions that are no line of a
// conversation: who does not know them shows nothing.
const firstQuiet Kind = 128

// traits are what the brain has to know of a kind to bring it on its way.
type traits struct {
	name string // in docs/content.md
	line bool   // it is a line of a conversation, and has a state
	talk bool   // it belongs to a conversation: own devices get it too, and it waits for consent
	own  bool   // own devices say it to each other
}

// kinds has every kind that this version knows what to do with.
var kinds = map[Kind]traits{
	KindText:    {name: "text", line: true, talk: true},
	KindReceipt: {name: "receipt"},
	KindRenew:   {name: "renew", own: true},
	KindAccept:  {name: "accept"},
	KindToken:   {name: "token"},
	KindTyping:  {name: "typing"},

	KindEdit:     {name: "edit", talk: true},
	KindDelete:   {name: "delete", talk: true},
	KindReaction: {name: "reaction", talk: true},
	KindTimer:    {name: "timer", line: true, talk: true},
	KindProfile:  {name: "profile"},
	KindFile:     {name: "file", line: true, talk: true},

	KindSync: {name: "sync", own: true},

	KindVoid: {name: "void", own: true},

	KindSenderKey:  {name: "sender-key"},
	KindKeyRequest: {name: "key-request"},
	KindGroupKey:   {name: "group-key"},
}

// Known tells whether this version knows what to do with k.
func (k Kind) Known() bool { _, ok := kinds[k]; return ok }

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

	Target   *Ref                 `cbor:"12,keyasint,omitempty"` // what it answers or changes
	Mentions []Mention            `cbor:"13,keyasint,omitempty"` // people whom Text names, in its order
	Emoji    string               `cbor:"14,keyasint,omitempty"`
	Read     []clearbox.MessageID `cbor:"15,keyasint,omitempty"`
	// Timer and Expires are seconds; 0 is for ever. Expires stands in every
	// message of a conversation with a timer, so that the order in which the two
	// arrive does not matter.
	Timer   uint32 `cbor:"16,keyasint,omitempty"`
	Expires uint32 `cbor:"17,keyasint,omitempty"`

	Profile *SealedProfile `cbor:"18,keyasint,omitempty"`
	File    *File          `cbor:"19,keyasint,omitempty"`
	Group   *GroupContext  `cbor:"20,keyasint,omitempty"` // nil in a conversation of two

	// Frank is the key under which ID commits to what a text, a file or an edit
	// says (crypto/franking); where Edit is there, the edit's id does.
	Frank []byte  `cbor:"21,keyasint,omitempty"`
	Edit  *EditOf `cbor:"22,keyasint,omitempty"`

	Sync *Sync `cbor:"50,keyasint,omitempty"`
	// Failed are DecryptionErrorMessages, in a renewal: one for each device whose
	// messages, named in Unread, could not be read.
	Failed [][]byte `cbor:"70,keyasint,omitempty"`

	SenderKey []byte `cbor:"40,keyasint,omitempty"` // a SenderKeyDistributionMessage
	GroupKey  []byte `cbor:"41,keyasint,omitempty"`
}

// Padded contents are contentVersion, 3 bytes of length, the CBOR and zeros up
// to the next bucket: 320 bytes doubled as often as needed. An observer of
// ciphertexts learns one of nine sizes, and a reaction, a receipt or a deletion
// has the size of a short text. Signals are told apart by how they travel, and
// have half the smallest size.
const (
	contentVersion = 1
	contentHead    = 4
	signalBucket   = 160
	smallestBucket = 2 * signalBucket
	largestBucket  = smallestBucket << 8
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
	if c.Kind == KindTyping {
		size = signalBucket
	}
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
	case len(c.Text) > MaxText || len(c.Delivered) > maxReceipts || len(c.Unread) > maxReceipts || len(c.Read) > maxReceipts || len(c.Address) > 400:
		return fmt.Errorf("%w: too long", ErrContent)
	case (c.Kind == KindSenderKey || c.Kind == KindKeyRequest || c.Kind == KindGroupKey) && c.Group == nil,
		c.Kind == KindSenderKey && (len(c.SenderKey) == 0 || len(c.SenderKey) > maxSenderKey), c.Kind == KindGroupKey && len(c.GroupKey) != groupKeySize:
		return fmt.Errorf("%w: of no group", ErrContent)
	case c.Edit != nil && (c.Kind != KindText && c.Kind != KindFile || c.Edit.ID == clearbox.MessageID{}):
		return fmt.Errorf("%w: edit", ErrContent)
	case len(c.Failed) > failedMost:
		return fmt.Errorf("%w: too many decryption errors", ErrContent)
	case c.Token != nil && len(c.Token) != len(clearbox.DeliveryToken{}):
		return fmt.Errorf("%w: token", ErrContent)
	case c.Kind == KindAccept && (c.Knock == nil || c.Token == nil), c.Kind == KindToken && c.Token == nil:
		return fmt.Errorf("%w: incomplete", ErrContent)
	case c.Kind == KindSync && c.Sync == nil:
		return fmt.Errorf("%w: incomplete", ErrContent)
	case (c.Kind == KindText || c.Kind == KindEdit) && c.Text == "":
		return fmt.Errorf("%w: no text", ErrContent)
	}
	if err := c.checkParts(); err != nil {
		return err
	}
	return c.checkFrank()
}

// String is the kind's name in docs/content.md, or its number.
func (k Kind) String() string {
	if name := kinds[k].name; name != "" {
		return name
	}
	return strconv.FormatUint(uint64(k), 10)
}
