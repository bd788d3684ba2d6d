package core

import (
	"crypto/sha256"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// Limits of what stands inside a content, in bytes where nothing else is said.
const (
	MaxEmoji     = 64
	MaxFileName  = 255
	MaxThumbnail = 32 << 10
	MaxName      = 128                // of a person, as they call themselves
	MaxTimer     = 366 * 24 * 60 * 60 // seconds
	maxMentions  = 64
	maxMime      = 127
	maxObject    = 64
	maxPixels    = 1 << 20 // of either side
	maxSealed    = 1 << 10
	fileKeySize  = 64
)

// Ref names a message by its author and the id that they gave it.
type Ref struct {
	ID clearbox.MessageID `cbor:"1,keyasint"`
	// Author is zero in a content where it is the sender's own message.
	Author clearbox.UserID `cbor:"2,keyasint,omitzero"`
}

// Mention says that the bytes [From, To) of a text name a person.
type Mention struct {
	User clearbox.UserID `cbor:"1,keyasint"`
	From int             `cbor:"2,keyasint"`
	To   int             `cbor:"3,keyasint"`
}

// File says where an attachment is and how it is opened. Servers see neither.
type File struct {
	Object string              `cbor:"1,keyasint"` // its name at Origin
	Origin clearbox.ServerName `cbor:"2,keyasint"` // the server that keeps it
	Key    []byte              `cbor:"3,keyasint"` // 64 bytes: for encryption and for authentication
	Digest []byte              `cbor:"4,keyasint"` // SHA-256 of the ciphertext
	Size   int64               `cbor:"5,keyasint"` // of the file
	Padded int64               `cbor:"6,keyasint"` // of what was encrypted
	Mime   string              `cbor:"7,keyasint,omitempty"`
	Name   string              `cbor:"8,keyasint,omitempty"`
	// Of pictures: pixels, and a small picture that is shown at once.
	Width     int    `cbor:"9,keyasint,omitempty"`
	Height    int    `cbor:"10,keyasint,omitempty"`
	Thumbnail []byte `cbor:"11,keyasint,omitempty"`
}

// GroupContext says which group a content was written in, and what its sender
// knew of the group then.
type GroupContext struct {
	ID    [32]byte `cbor:"1,keyasint"`
	Epoch uint64   `cbor:"2,keyasint"`
	Head  [32]byte `cbor:"3,keyasint"` // hash of the newest operation
}

// checkParts checks what kinds since the first ones carry.
func (c *Content) checkParts() error {
	switch {
	case (c.Kind == KindEdit || c.Kind == KindDelete || c.Kind == KindReaction) && c.Target == nil,
		c.Kind == KindProfile && c.Profile == nil, c.Kind == KindFile && c.File == nil:
		return fmt.Errorf("%w: incomplete", ErrContent)
	case c.Target != nil && c.Target.ID == clearbox.MessageID{}:
		return fmt.Errorf("%w: target", ErrContent)
	case c.Timer > MaxTimer || c.Expires > MaxTimer:
		return fmt.Errorf("%w: timer", ErrContent)
	case c.Emoji != "" && !validEmoji(c.Emoji):
		return fmt.Errorf("%w: reaction", ErrContent)
	case !validMentions(c.Text, c.Mentions):
		return fmt.Errorf("%w: mentions", ErrContent)
	case c.Profile != nil && (len(c.Profile.Key) != profileKeySize || len(c.Profile.Sealed) > maxSealed):
		return fmt.Errorf("%w: profile", ErrContent)
	case c.File != nil:
		return c.File.check()
	}
	return nil
}

// validEmoji accepts what can stand beside a message: a few characters, none of
// which moves the cursor.
func validEmoji(s string) bool {
	if s == "" || len(s) > MaxEmoji || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// validMentions accepts mentions that lie in the text, in order and apart.
func validMentions(text string, all []Mention) bool {
	if len(all) > maxMentions {
		return false
	}
	edge := func(i int) bool { return i == len(text) || utf8.RuneStart(text[i]) }
	at := 0
	for _, m := range all {
		if m.User.IsZero() || m.From < at || m.To <= m.From || m.To > len(text) || !edge(m.From) || !edge(m.To) {
			return false
		}
		at = m.To
	}
	return true
}

func (f *File) check() error {
	server, err := clearbox.ParseServerName(string(f.Origin))
	switch {
	case err != nil || server != f.Origin || f.Object == "" || len(f.Object) > maxObject:
		return fmt.Errorf("%w: file without a place", ErrContent)
	case len(f.Key) != fileKeySize || len(f.Digest) != sha256.Size:
		return fmt.Errorf("%w: file without keys", ErrContent)
	case f.Size < 0 || f.Padded < f.Size || f.Width < 0 || f.Height < 0 || f.Width > maxPixels || f.Height > maxPixels:
		return fmt.Errorf("%w: size of a file", ErrContent)
	case len(f.Mime) > maxMime || len(f.Name) > MaxFileName || len(f.Thumbnail) > MaxThumbnail:
		return fmt.Errorf("%w: too long", ErrContent)
	}
	return nil
}
