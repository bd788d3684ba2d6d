package delivery

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox"
)

// A ref goes with a sealed message to its recipient's server and comes back
// when the message expires there: it says who sent it, and only this server can
// read it. It is one block of AES under a key of the keystore: the sender's
// number (5 bytes), a tag that binds it to the peer and the message (6), and
// randomness (5), so that no two are alike.

const (
	refNumber = 5
	refTag    = 6
)

// refCipher derives the block cipher. It is the same after a restart.
func refCipher(keys Keys) (cipher.Block, error) {
	return aes.NewCipher(keys.Index("delivery.ref.key", nil))
}

func (r *Router) refTag(peer clearbox.ServerName, id clearbox.MessageID) []byte {
	return r.keys.Index("delivery.ref.tag", append([]byte(peer), id[:]...))[:refTag]
}

// newRef makes the ref of a message of the person with the number to the peer.
func (r *Router) newRef(userNo int64, peer clearbox.ServerName, id clearbox.MessageID) ([]byte, error) {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], uint64(userNo))
	ref := make([]byte, refSize)
	copy(ref, number[8-refNumber:])
	copy(ref[refNumber:], r.refTag(peer, id))
	if _, err := io.ReadFull(r.opts.Random, ref[refNumber+refTag:]); err != nil {
		return nil, fmt.Errorf("draw a ref: %w", err)
	}
	r.refs.Encrypt(ref, ref)
	return ref, nil
}

// openRef tells who sent the message that a ref came back with; 0: the ref is
// not ours, or is of another message or peer.
func (r *Router) openRef(ref []byte, peer clearbox.ServerName, id clearbox.MessageID) (userNo int64) {
	if len(ref) != refSize {
		return 0
	}
	plain := make([]byte, refSize)
	r.refs.Decrypt(plain, ref)
	if subtle.ConstantTimeCompare(plain[refNumber:refNumber+refTag], r.refTag(peer, id)) != 1 {
		return 0
	}
	var number [8]byte
	copy(number[8-refNumber:], plain[:refNumber])
	return int64(binary.BigEndian.Uint64(number[:]))
}
