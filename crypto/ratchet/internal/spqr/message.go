package spqr

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind is the type byte of a message: what its chunk belongs to.
type Kind uint8

// The kinds of ML-KEM Braid version 1. Only those with a chunk carry data.
const (
	KindNone   Kind = 0
	KindHeader Kind = 1 // chunk of the header
	KindVector Kind = 2 // chunk of the encapsulation key's vector
	KindVecAck Kind = 3 // the same, and the first ciphertext part has arrived
	KindAck    Kind = 4 // the first ciphertext part has arrived
	KindPart1  Kind = 5 // chunk of the first ciphertext part
	KindPart2  Kind = 6 // chunk of the second ciphertext part
	kindCount       = 7
)

// Version is the only version spoken. An absent message is version 0, which
// would be a session without post-quantum ratchet, and is refused.
const Version = 1

func (k Kind) hasChunk() bool { return k != KindNone && k != KindAck && k < kindCount }

// Message is the post-quantum part of one session message.
type Message struct {
	Epoch   uint64 // braid epoch, at least 1
	Counter uint32 // position in the key chain, at least 1
	Kind    Kind
	Index   uint16 // of the chunk
	Chunk   [ChunkSize]byte
}

// ErrMessage reports bytes that are no message of version 1.
var ErrMessage = errors.New("spqr: malformed message")

// MaxMessageSize bounds what ParseMessage looks at; trailing bytes are
// tolerated, as the protocol asks, up to this size in all.
const MaxMessageSize = 256

// Append appends the wire form.
func (m *Message) Append(b []byte) []byte {
	b = append(b, Version)
	b = binary.AppendUvarint(b, m.Epoch)
	b = binary.AppendUvarint(b, uint64(m.Counter))
	b = append(b, byte(m.Kind))
	if m.Kind.hasChunk() {
		b = binary.AppendUvarint(b, uint64(m.Index))
		b = append(b, m.Chunk[:]...)
	}
	return b
}

// ParseMessage reads a message. Other versions, epoch 0, counter 0, unknown
// kinds, chunk indexes beyond 65535, overlong integers and short chunks give
// ErrMessage.
func ParseMessage(b []byte) (*Message, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: version 0", ErrMessage)
	}
	if len(b) > MaxMessageSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	if b[0] != Version {
		return nil, fmt.Errorf("%w: version %d", ErrMessage, b[0])
	}
	b = b[1:]
	m := new(Message)
	var counter, index uint64
	var ok bool
	if m.Epoch, b, ok = uvarint(b, 1<<63-1); !ok || m.Epoch == 0 {
		return nil, fmt.Errorf("%w: epoch", ErrMessage)
	}
	if counter, b, ok = uvarint(b, 1<<32-1); !ok || counter == 0 {
		return nil, fmt.Errorf("%w: counter", ErrMessage)
	}
	m.Counter = uint32(counter)
	if len(b) == 0 || b[0] >= kindCount {
		return nil, fmt.Errorf("%w: kind", ErrMessage)
	}
	m.Kind, b = Kind(b[0]), b[1:]
	if !m.Kind.hasChunk() {
		return m, nil
	}
	if index, b, ok = uvarint(b, 1<<16-1); !ok {
		return nil, fmt.Errorf("%w: chunk index", ErrMessage)
	}
	m.Index = uint16(index)
	if len(b) < ChunkSize {
		return nil, fmt.Errorf("%w: short chunk", ErrMessage)
	}
	copy(m.Chunk[:], b)
	return m, nil
}

// uvarint reads a minimally encoded integer of at most max.
func uvarint(b []byte, max uint64) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > max || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}
