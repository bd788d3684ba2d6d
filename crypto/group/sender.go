package group

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/internal/pack"
)

// Sender is this device's own sender key in one distribution. To rotate is to
// make a new one and to distribute it to those who are to read on.
type Sender struct {
	distribution ID
	number       uint32 // of the chain
	chain        chain
	signing      *curve.PrivateKey
}

// New makes a sender key from 68 bytes of random, which must be a cryptographic
// source; its error is the only one.
func New(random io.Reader, distribution ID) (*Sender, error) {
	s := &Sender{distribution: distribution}
	var number [4]byte
	if _, err := io.ReadFull(random, number[:]); err != nil {
		return nil, fmt.Errorf("group: random source: %w", err)
	}
	s.number = binary.BigEndian.Uint32(number[:]) &^ (1 << 31) // signed in some products
	if _, err := io.ReadFull(random, s.chain.key[:]); err != nil {
		return nil, fmt.Errorf("group: random source: %w", err)
	}
	var err error
	s.signing, err = curve.GeneratePrivateKey(random)
	return s, err
}

// Distribution returns the message that lets its reader read what is encrypted
// from now on, and nothing before. It is a secret: it travels inside a session.
func (s *Sender) Distribution() []byte {
	d := &distribution{Head: s.head(), key: s.chain.key, signing: s.signing.Public()}
	defer clear(d.key[:])
	return d.append(make([]byte, 0, 128))
}

func (s *Sender) head() Head { return Head{s.distribution, s.number, s.chain.next} }

// ID returns the distribution that the key is for.
func (s *Sender) ID() ID { return s.distribution }

// Chain returns the number of the chain, by which messages name this key.
func (s *Sender) Chain() uint32 { return s.number }

// Sent returns how many messages were encrypted.
func (s *Sender) Sent() uint32 { return s.chain.next }

// Encrypt returns the next message, which everyone can read who got a
// distribution message before. It is padded to 16 bytes only: what hides its
// length is the caller's. The changed Sender is to be stored before the message
// leaves, or a key may be used twice. It reads 64 bytes from random, whose error
// it returns; the others are ErrTooLong and ErrExhausted.
func (s *Sender) Encrypt(random io.Reader, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, ErrTooLong
	}
	if s.chain.next == math.MaxUint32 {
		return nil, ErrExhausted
	}
	after := s.chain
	seed := after.step()
	keys := messageKeys(&seed)
	defer clear(seed[:])
	defer clear(keys)
	m := message{Head: s.head(), ciphertext: encryptBody(keys, plaintext)}
	b := m.append(make([]byte, 0, len(m.ciphertext)+128))
	signature, err := s.signing.Sign(random, b)
	if err != nil {
		return nil, fmt.Errorf("group: %w", err)
	}
	s.chain = after
	return append(b, signature...), nil
}

const senderVersion = 1

// Append appends the storage form, which is secret: version 1, distribution,
// number of the chain, number of the next message, chain key, private signing
// key.
func (s *Sender) Append(b []byte) []byte {
	b = append(b, senderVersion)
	b = append(b, s.distribution[:]...)
	b = binary.BigEndian.AppendUint32(b, s.number)
	b = binary.BigEndian.AppendUint32(b, s.chain.next)
	b = append(b, s.chain.key[:]...)
	return append(b, s.signing.Bytes()...)
}

// ParseSender reads the storage form; the only error is ErrRecord.
func ParseSender(b []byte) (*Sender, error) {
	r := pack.NewReader(b)
	s := new(Sender)
	version := r.Byte()
	r.Fixed(s.distribution[:])
	s.number = r.Uint32()
	s.chain.next = r.Uint32()
	r.Fixed(s.chain.key[:])
	var private [curve.PrivateKeySize]byte
	r.Fixed(private[:])
	defer clear(private[:])
	if err := r.Done(); err != nil || version != senderVersion {
		return nil, ErrRecord
	}
	signing, err := curve.NewPrivateKey(private[:])
	if err != nil || !bytes.Equal(signing.Bytes(), private[:]) {
		return nil, ErrRecord // stored keys are clamped
	}
	s.signing = signing
	return s, nil
}
