package spqr

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/kem"
)

// Phase is where a side of the braid stands. In each epoch one side owns a key
// pair (K) and the other encapsulates to it (C); then they change places.
type Phase uint8

// The eleven phases. ML-KEM Braid, 2.5. The comments say what is sent.
const (
	OwnerStart        Phase = iota // nothing yet; sending makes a key pair
	OwnerHeader                    // chunks of the header
	OwnerVector                    // chunks of the vector; the first ciphertext part is arriving
	OwnerVectorAck                 // chunks of the vector, marked: the first part is complete
	OwnerAck                       // only the mark; the second part is arriving
	PeerStart                      // nothing; the header is arriving
	PeerHeader                     // header complete; sending makes the first ciphertext part
	PeerPart1                      // chunks of the first part; the vector is arriving
	PeerPart1Vector                // chunks of the first part; the vector is complete
	PeerPart1Received              // nothing; first part acknowledged, the vector still arriving
	PeerPart2                      // chunks of the second part
	phaseCount
)

// Sizes of the four streamed objects in bytes.
const (
	headerObject = kem.HeaderSize + macSize
	vectorObject = kem.VectorSize
	part1Object  = kem.Part1Size
	part2Object  = kem.Part2Size + macSize
)

// Errors of the braid. Each one means that the peer broke the protocol or an
// attacker who holds session keys altered a message.
var (
	ErrEpoch         = errors.New("spqr: message of an epoch to come")
	ErrHeaderMAC     = errors.New("spqr: header not authentic")
	ErrCiphertextMAC = errors.New("spqr: ciphertext not authentic")
	ErrVector        = errors.New("spqr: vector does not fit its header")
)

// braid is the state machine. Which fields are in use depends on the phase; see
// fields in storage.go.
type braid struct {
	phase  Phase
	epoch  uint64
	next   uint16    // index of the next chunk to send
	in     collector // of the object that is arriving
	auth   authenticator
	own    kem.SplitKey
	mac    [macSize]byte // over own.Header
	header [kem.HeaderSize]byte
	vector [kem.VectorSize]byte
	coins  [kem.CoinsSize]byte
	part1  [kem.Part1Size]byte
	part2  [part2Object]byte
}

// send returns the next message, without counter, and the key of a new epoch if
// this message began one.
func (b *braid) send(random io.Reader) (m *Message, key []byte, err error) {
	m = &Message{Epoch: b.epoch}
	switch b.phase {
	case OwnerStart:
		own, err := kem.GenerateSplit(random)
		if err != nil {
			return nil, nil, err
		}
		b.own = *own
		b.mac = b.auth.header(b.epoch, own.Header[:])
		b.enter(OwnerHeader)
		b.header96(m)
	case OwnerHeader:
		b.header96(m)
	case OwnerVector:
		b.chunk(m, KindVector, b.own.Vector[:])
	case OwnerVectorAck:
		b.chunk(m, KindVecAck, b.own.Vector[:])
	case OwnerAck:
		m.Kind = KindAck
	case PeerHeader:
		if key, err = b.encapsulate(random); err != nil {
			return nil, nil, err
		}
		b.chunk(m, KindPart1, b.part1[:])
	case PeerPart1, PeerPart1Vector:
		b.chunk(m, KindPart1, b.part1[:])
	case PeerPart2:
		b.chunk(m, KindPart2, b.part2[:])
	}
	return m, key, nil
}

func (b *braid) header96(m *Message) {
	var object [headerObject]byte
	copy(object[:], b.own.Header[:])
	copy(object[kem.HeaderSize:], b.mac[:])
	b.chunk(m, KindHeader, object[:])
}

// chunk fills in the next chunk. Beyond index 65535 the indexes begin again:
// the peer can use any chunk it has not seen.
func (b *braid) chunk(m *Message, kind Kind, object []byte) {
	m.Kind, m.Index = kind, b.next
	m.Chunk = encodeChunk(object, b.next)
	b.next++
}

func (b *braid) encapsulate(random io.Reader) ([]byte, error) {
	coins, part1, shared, err := kem.EncapsulateHeader(random, &b.header)
	if err != nil {
		return nil, err
	}
	b.coins, b.part1 = *coins, *part1
	key := epochKey(shared, b.epoch)
	clear(shared)
	clear(coins[:])
	b.auth.update(b.epoch, key)
	b.enter(PeerPart1)
	return key, nil
}

// enter starts a phase in which a new object is sent, received, or both.
func (b *braid) enter(p Phase) {
	b.phase, b.next, b.in = p, 0, collector{}
}

// receive takes an authenticated message and returns the key of a new epoch if
// the message completed one. On an error the state is undefined: the caller
// works on a copy.
func (b *braid) receive(m *Message) (key []byte, err error) {
	switch {
	case m.Epoch < b.epoch:
		return nil, nil
	case m.Epoch == b.epoch+1 && b.phase == PeerPart2:
		b.wipe()
		b.epoch++
		b.enter(OwnerStart)
		return nil, nil
	case m.Epoch > b.epoch:
		return nil, fmt.Errorf("%w: %d, at %d", ErrEpoch, m.Epoch, b.epoch)
	}
	switch b.phase {
	case OwnerHeader:
		if m.Kind == KindPart1 {
			b.enter(OwnerVector)
			b.in.add(part1Object, m.Index, m.Chunk[:])
		}
	case OwnerVector:
		if m.Kind == KindPart1 && b.in.add(part1Object, m.Index, m.Chunk[:]) {
			copy(b.part1[:], b.in.object(part1Object))
			b.phase, b.in = OwnerVectorAck, collector{}
		}
	case OwnerVectorAck:
		if m.Kind == KindPart2 {
			b.enter(OwnerAck)
			b.in.add(part2Object, m.Index, m.Chunk[:])
		}
	case OwnerAck:
		if m.Kind == KindPart2 && b.in.add(part2Object, m.Index, m.Chunk[:]) {
			return b.decapsulate()
		}
	case PeerStart:
		if m.Kind == KindHeader && b.in.add(headerObject, m.Index, m.Chunk[:]) {
			object := b.in.object(headerObject)
			copy(b.header[:], object)
			want := b.auth.header(b.epoch, b.header[:])
			if !hmac.Equal(want[:], object[kem.HeaderSize:]) {
				return nil, ErrHeaderMAC
			}
			b.enter(PeerHeader)
		}
	case PeerPart1, PeerPart1Received:
		return nil, b.receiveVector(m)
	case PeerPart1Vector:
		if m.Kind == KindVecAck || m.Kind == KindAck {
			return nil, b.finish()
		}
	}
	return nil, nil
}

func (b *braid) receiveVector(m *Message) error {
	acked := b.phase == PeerPart1Received || m.Kind == KindVecAck || m.Kind == KindAck
	complete := false
	if m.Kind == KindVector || m.Kind == KindVecAck {
		complete = b.in.add(vectorObject, m.Index, m.Chunk[:])
	}
	if complete {
		copy(b.vector[:], b.in.object(vectorObject))
		if err := kem.CheckVector(&b.header, &b.vector); err != nil {
			return fmt.Errorf("%w: %w", ErrVector, err)
		}
		b.in = collector{}
	}
	switch {
	case complete && acked:
		return b.finish()
	case complete:
		b.phase = PeerPart1Vector // the chunk index of the first part goes on
	case acked:
		b.phase = PeerPart1Received
	}
	return nil
}

// finish does the second part of the encapsulation.
func (b *braid) finish() error {
	part2, err := kem.EncapsulateVector(&b.coins, &b.header, &b.vector)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrVector, err)
	}
	mac := b.auth.ciphertext(b.epoch, b.part1[:], part2[:])
	copy(b.part2[:], part2[:])
	copy(b.part2[kem.Part2Size:], mac[:])
	clear(b.coins[:])
	b.enter(PeerPart2)
	return nil
}

// decapsulate ends an epoch on the owner's side.
func (b *braid) decapsulate() ([]byte, error) {
	object := b.in.object(part2Object)
	part2 := (*[kem.Part2Size]byte)(object)
	shared, err := kem.DecapsulateSplit(&b.own.Seed, &b.part1, part2)
	if err != nil {
		return nil, err
	}
	key := epochKey(shared, b.epoch)
	clear(shared)
	b.auth.update(b.epoch, key)
	want := b.auth.ciphertext(b.epoch, b.part1[:], part2[:])
	if !hmac.Equal(want[:], object[kem.Part2Size:]) {
		return nil, ErrCiphertextMAC
	}
	b.wipe()
	b.epoch++
	b.enter(PeerStart)
	return key, nil
}

// wipe forgets the secrets of an epoch that is over.
func (b *braid) wipe() {
	clear(b.own.Seed[:])
	clear(b.coins[:])
}

// String returns a name for diagnosis.
func (p Phase) String() string {
	switch p {
	case OwnerStart:
		return "owner-start"
	case OwnerHeader:
		return "owner-header"
	case OwnerVector:
		return "owner-vector"
	case OwnerVectorAck:
		return "owner-vector-ack"
	case OwnerAck:
		return "owner-ack"
	case PeerStart:
		return "peer-start"
	case PeerHeader:
		return "peer-header"
	case PeerPart1:
		return "peer-part1"
	case PeerPart1Vector:
		return "peer-part1-vector"
	case PeerPart1Received:
		return "peer-part1-received"
	case PeerPart2:
		return "peer-part2"
	}
	return "unknown"
}
