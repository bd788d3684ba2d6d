// Package franking makes the id of a message a commitment to what it says, so
// that a recipient can prove to the sender's server what was sent, and nobody
// else learns anything from the id.
//
// The sender draws a key for each message; it travels inside the encryption. The
// sender's server keeps the ids that an account submitted anyway. Whoever shows
// the key and what the message said to that server lets it compute the id again:
// if the account submitted that id, the account said that. To show what was never
// said takes a second preimage of 128 bits. A sender who looks for two messages
// under one id (work of 2^64) gains nothing: each of them can be shown.
//
// What is sent again, for a device that could not read it, needs another id at the
// servers: Again gives one that commits to the message's, so that whoever reads it
// sees that the message stays provable.
//
// A brain must never submit an id that somebody else chose.
package franking

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
)

// Sizes in bytes.
const (
	KeySize   = 32
	IDSize    = 16
	NonceSize = 4
	MaxFrom   = 1 << 10
	MaxText   = 64 << 10
)

// ErrSize reports a key or a part that has no valid size.
var ErrSize = errors.New("franking: wrong size")

// The labels separate these MACs from all others, and from each other.
const (
	label      = "clearbox franking 1\x00"
	labelAgain = "clearbox franking again 1\x00"
)

// Revealed is the part of a content that can be shown. It names the sender and
// neither the recipient nor the group.
type Revealed struct {
	Kind uint64
	Sent int64  // ms, by the sender's clock
	From string // uid@server
	Text string
	File [sha256.Size]byte // FileDigest; zero without an attachment
}

// NewKey draws a key. It returns random's error.
func NewKey(random io.Reader) ([]byte, error) {
	key := make([]byte, KeySize)
	_, err := io.ReadFull(random, key)
	return key, err
}

// FileDigest stands for an attachment: its keys and the SHA-256 of its
// ciphertext, which together fix every byte of it.
func FileDigest(key, digest []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("clearbox franking file 1\x00"))
	writeSized(h, key)
	writeSized(h, digest)
	return [sha256.Size]byte(h.Sum(nil))
}

// Commit gives the id of the message that says r. Its error is ErrSize.
func Commit(key []byte, r *Revealed) (id [IDSize]byte, err error) {
	if len(key) != KeySize || len(r.From) > MaxFrom || len(r.Text) > MaxText {
		return id, ErrSize
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(label))
	var head [16]byte
	binary.BigEndian.PutUint64(head[:8], r.Kind)
	binary.BigEndian.PutUint64(head[8:], uint64(r.Sent))
	h.Write(head[:])
	writeSized(h, []byte(r.From))
	writeSized(h, []byte(r.Text))
	h.Write(r.File[:])
	copy(id[:], h.Sum(nil))
	return id, nil
}

// Verify tells whether the message with that id says r.
func Verify(key []byte, r *Revealed, id [IDSize]byte) bool {
	want, err := Commit(key, r)
	return err == nil && hmac.Equal(want[:], id[:])
}

// Again gives another id under which the message with that id is carried. nonce
// tells several of them apart; to find another key or message for one takes a
// second preimage of 96 bits. Its error is ErrSize.
func Again(key []byte, id [IDSize]byte, nonce [NonceSize]byte) (outer [IDSize]byte, err error) {
	if len(key) != KeySize {
		return outer, ErrSize
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(labelAgain))
	h.Write(nonce[:])
	h.Write(id[:])
	copy(outer[:], nonce[:])
	copy(outer[NonceSize:], h.Sum(nil))
	return outer, nil
}

// Carries tells whether outer is the id itself, or one of Again.
func Carries(key []byte, outer, id [IDSize]byte) bool {
	if outer == id {
		return true
	}
	want, err := Again(key, id, [NonceSize]byte(outer[:NonceSize]))
	return err == nil && hmac.Equal(want[:], outer[:])
}

// writeSized writes b behind its length. A hash returns no error.
func writeSized(h io.Writer, b []byte) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	h.Write(n[:])
	h.Write(b)
}
