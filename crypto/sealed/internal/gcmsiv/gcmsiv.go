// Package gcmsiv is responsible for AES-256-GCM-SIV (RFC 8452), the cipher of
// sealed sender version 2. It offers no 128-bit keys and no streaming.
//
// POLYVAL runs in constant time without tables. AES is that of the standard
// library: constant in time where it uses the processor's instructions, based
// on tables in WebAssembly and on processors without them.
package gcmsiv

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"math"
)

// Sizes in bytes.
const (
	KeySize   = 32
	NonceSize = 12
	Overhead  = 16 // of the tag, which follows the ciphertext
)

// maxText bounds plaintext and additional data (RFC 8452, 6: 2^36 bytes each).
// An int may be smaller than that.
const maxText = min(1<<36, math.MaxInt-Overhead)

// Errors of this package.
var (
	// ErrKeySize: a key that is not 32 bytes.
	ErrKeySize = errors.New("gcmsiv: key is not 32 bytes")
	// ErrOpen: the ciphertext was not made with this key, nonce and additional
	// data, or was altered.
	ErrOpen = errors.New("gcmsiv: ciphertext not authentic")
)

type aead struct{ generator cipher.Block }

// New returns the AEAD for a key of 32 bytes, else ErrKeySize. It is safe for
// concurrent use. key is not kept, but the expanded key is, and Go cannot
// promise its erasure.
//
// Sealing the same plaintext and additional data twice under one nonce shows
// that they are equal and nothing else. Nonces are 12 bytes; another size, an
// overlap of input and output other than in place, and texts above 2^36 bytes
// when sealing are mistakes of the caller and panic.
func New(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, ErrKeySize
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, ErrKeySize
	}
	return aead{block}, nil
}

func (aead) NonceSize() int { return NonceSize }
func (aead) Overhead() int  { return Overhead }

// session holds the keys of one nonce (RFC 8452, 4).
type session struct {
	hash  *polyval
	block cipher.Block
	nonce [NonceSize]byte
}

func (a aead) session(nonce []byte) *session {
	if len(nonce) != NonceSize {
		panic("gcmsiv: nonce of the wrong size")
	}
	var in, out [blockSize]byte
	var authentication [blockSize]byte
	var encryption [KeySize]byte
	copy(in[4:], nonce)
	for i := range uint32(6) {
		binary.LittleEndian.PutUint32(in[:4], i)
		a.generator.Encrypt(out[:], in[:])
		if i < 2 {
			copy(authentication[8*i:], out[:8])
		} else {
			copy(encryption[8*(i-2):], out[:8])
		}
	}
	block, err := aes.NewCipher(encryption[:])
	if err != nil {
		panic("gcmsiv: 32 bytes are an AES key")
	}
	s := &session{hash: newPolyval(&authentication), block: block, nonce: [NonceSize]byte(nonce)}
	clear(out[:])
	clear(authentication[:])
	clear(encryption[:])
	return s
}

// tag computes the synthetic initialisation vector, which is the tag too.
func (s *session) tag(plaintext, additional []byte) (tag [Overhead]byte) {
	s.hash.update(additional)
	s.hash.update(plaintext)
	s.hash.block(element{uint64(len(additional)) * 8, uint64(len(plaintext)) * 8})
	s.hash.sum.store(&tag)
	subtle.XORBytes(tag[:NonceSize], tag[:NonceSize], s.nonce[:])
	tag[15] &= 0x7f
	s.block.Encrypt(tag[:], tag[:])
	*s.hash = polyval{}
	return tag
}

// stream encrypts or decrypts src into dst, which is as long (AES_CTR of
// RFC 8452, 4): a 32-bit little-endian counter that starts anywhere and wraps.
func (s *session) stream(dst, src []byte, tag *[Overhead]byte) {
	counter, pad := *tag, [blockSize]byte{}
	counter[15] |= 0x80
	for n := binary.LittleEndian.Uint32(counter[:4]); len(src) > 0; n++ {
		binary.LittleEndian.PutUint32(counter[:4], n)
		s.block.Encrypt(pad[:], counter[:])
		done := subtle.XORBytes(dst, src, pad[:])
		dst, src = dst[done:], src[done:]
	}
	clear(pad[:])
}

// Seal appends ciphertext and tag to dst. plaintext may be dst[len(dst):].
func (a aead) Seal(dst, nonce, plaintext, additional []byte) []byte {
	if uint64(len(plaintext)) > maxText || uint64(len(additional)) > maxText {
		panic("gcmsiv: text too long")
	}
	s := a.session(nonce)
	tag := s.tag(plaintext, additional)
	all, out := grow(dst, len(plaintext)+Overhead)
	s.stream(out[:len(plaintext)], plaintext, &tag)
	copy(out[len(plaintext):], tag[:])
	return all
}

// Open appends the plaintext to dst, or returns nil and ErrOpen and leaves zeros
// where the plaintext would have been. sealed may be dst[len(dst):].
func (a aead) Open(dst, nonce, sealed, additional []byte) ([]byte, error) {
	size := len(sealed) - Overhead
	if size < 0 || uint64(size) > maxText || uint64(len(additional)) > maxText {
		return nil, ErrOpen
	}
	s := a.session(nonce)
	tag := [Overhead]byte(sealed[size:])
	all, out := grow(dst, size)
	s.stream(out, sealed[:size], &tag)
	// The tag can only be computed from the plaintext, so it exists before it
	// is known to be right; it does not leave this function before.
	if want := s.tag(out, additional); subtle.ConstantTimeCompare(want[:], tag[:]) != 1 {
		clear(out)
		return nil, ErrOpen
	}
	return all, nil
}

// grow extends dst by n bytes; tail shares its memory.
func grow(dst []byte, n int) (all, tail []byte) {
	if total := len(dst) + n; cap(dst) >= total {
		all = dst[:total]
	} else {
		all = make([]byte, total)
		copy(all, dst)
	}
	return all, all[len(dst):]
}
