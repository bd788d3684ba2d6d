package group

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/internal/pack"
)

// Receiver is what is known of the sender keys of one other device in one
// distribution. The caller keeps one for each pair and makes sure that what it
// hands in came from that device: the distribution message through the session
// with it, the message through its sealed sender.
type Receiver struct {
	distribution ID
	states       []state // newest first
}

// state is one chain of the sender.
type state struct {
	number  uint32
	signing curve.PublicKey
	chain   chain
	kept    []byte // entries of messages passed over, ascending; never modified in place
}

// keptSize is the length of one kept entry: number of the message and its seed.
const keptSize = 4 + 32

// NewReceiver returns a Receiver that knows no key yet.
func NewReceiver(distribution ID) *Receiver { return &Receiver{distribution: distribution} }

// ID returns the distribution.
func (r *Receiver) ID() ID { return r.distribution }

// Clone returns a copy that changes independently.
func (r *Receiver) Clone() *Receiver {
	return &Receiver{r.distribution, slices.Clone(r.states)}
}

// Process takes a distribution message. A chain that is known already stays as it
// is, so that an old distribution message, brought again, lets nothing be read
// twice; the same number with another signing key is another chain, which takes
// the place of the first. Above MaxStates the oldest chain is dropped.
//
// The errors are ErrMalformed, *VersionError and ErrDistribution.
func (r *Receiver) Process(distribution []byte) error {
	d, err := parseDistribution(distribution)
	if err != nil {
		return err
	}
	if d.Distribution != r.distribution {
		return ErrDistribution
	}
	s := state{number: d.Chain, signing: d.signing, chain: chain{d.key, d.Iteration}}
	if i := r.find(d.Chain); i >= 0 {
		if r.states[i].signing == d.signing {
			s = r.states[i]
		}
		r.states = slices.Delete(slices.Clone(r.states), i, i+1)
	}
	r.states = slices.Insert(slices.Clone(r.states), 0, s)
	r.states = r.states[:min(len(r.states), MaxStates)]
	return nil
}

// Knows reports whether a chain is known.
func (r *Receiver) Knows(chain uint32) bool { return r.find(chain) >= 0 }

func (r *Receiver) find(chain uint32) int {
	return slices.IndexFunc(r.states, func(s state) bool { return s.number == chain })
}

// Decrypt reads a message: each one once, in whatever order they come. The
// plaintext is the caller's. The errors are ErrMalformed, *VersionError,
// ErrDistribution, ErrNoKey, ErrSignature, ErrDuplicate and ErrJump; after each
// of them the Receiver is what it was, and an intact copy can still be read.
func (r *Receiver) Decrypt(message []byte) ([]byte, error) {
	m, err := parseMessage(message)
	if err != nil {
		return nil, err
	}
	if m.Distribution != r.distribution {
		return nil, ErrDistribution
	}
	i := r.find(m.Chain)
	if i < 0 {
		return nil, ErrNoKey
	}
	after := r.states[i]
	// First the signature: nobody but the sender can make us walk the chain.
	if !curve.Verify(after.signing, m.signed, m.signature) {
		return nil, ErrSignature
	}
	seed, err := after.at(m.Iteration)
	if err != nil {
		return nil, err
	}
	keys := messageKeys(&seed)
	defer clear(seed[:])
	defer clear(keys)
	plaintext, err := decryptBody(keys, m.ciphertext)
	if err != nil {
		return nil, err
	}
	r.states[i] = after
	return plaintext, nil
}

// at returns the seed of message n, keeping those passed over.
func (s *state) at(n uint32) ([32]byte, error) {
	if n < s.chain.next {
		return s.takeKept(n)
	}
	gap := n - s.chain.next
	if gap > MaxJump {
		return [32]byte{}, ErrJump
	}
	if n == math.MaxUint32 {
		return [32]byte{}, fmt.Errorf("%w: iteration", ErrMalformed)
	}
	if gap > 0 {
		s.skip(gap)
	}
	return s.chain.step(), nil
}

// skip passes over gap messages and keeps the newest seeds.
func (s *state) skip(gap uint32) {
	fresh := min(gap, MaxKept)
	drop := max(0, len(s.kept)/keptSize+int(fresh)-MaxKept)
	kept := make([]byte, 0, len(s.kept)+(int(fresh)-drop)*keptSize)
	kept = append(kept, s.kept[drop*keptSize:]...)
	for left := gap; left > 0; left-- {
		if left <= fresh {
			seed := hmac32(&s.chain.key, 1)
			kept = binary.BigEndian.AppendUint32(kept, s.chain.next)
			kept = append(kept, seed[:]...)
		}
		s.chain.key = hmac32(&s.chain.key, 2)
		s.chain.next++
	}
	s.kept = kept
}

// takeKept returns the seed of a message passed over and forgets it.
func (s *state) takeKept(n uint32) ([32]byte, error) {
	for i := 0; i < len(s.kept); i += keptSize {
		if binary.BigEndian.Uint32(s.kept[i:]) == n {
			seed := [32]byte(s.kept[i+4:])
			s.kept = slices.Concat(s.kept[:i], s.kept[i+keptSize:])
			return seed, nil
		}
	}
	return [32]byte{}, ErrDuplicate
}

const receiverVersion = 1

// Append appends the storage form, which is secret: version 1, distribution,
// number of chains in one byte and, newest first, for each its number, signing
// key, number of the next message, chain key, and the length of the kept entries
// with them.
func (r *Receiver) Append(b []byte) []byte {
	b = append(b, receiverVersion)
	b = append(b, r.distribution[:]...)
	b = append(b, byte(len(r.states)))
	for i := range r.states {
		s := &r.states[i]
		b = binary.BigEndian.AppendUint32(b, s.number)
		b = append(b, s.signing[:]...)
		b = binary.BigEndian.AppendUint32(b, s.chain.next)
		b = append(b, s.chain.key[:]...)
		b = pack.AppendBytes(b, s.kept)
	}
	return b
}

// ParseReceiver reads the storage form; the only error is ErrRecord. The Receiver
// shares memory with b, which must not change afterwards and is never written to.
func ParseReceiver(b []byte) (*Receiver, error) {
	in := pack.NewReader(b)
	version := in.Byte()
	r := new(Receiver)
	in.Fixed(r.distribution[:])
	n := int(in.Byte())
	if n > MaxStates {
		return nil, ErrRecord
	}
	for range n {
		var s state
		s.number = in.Uint32()
		in.Fixed(s.signing[:])
		s.chain.next = in.Uint32()
		in.Fixed(s.chain.key[:])
		s.kept = in.Bytes(MaxKept * keptSize)
		if !ascending(s.kept, s.chain.next) || r.Knows(s.number) {
			return nil, ErrRecord
		}
		r.states = append(r.states, s)
	}
	if err := in.Done(); err != nil || version != receiverVersion {
		return nil, ErrRecord
	}
	return r, nil
}

// ascending reports whether kept entries are whole, in order, and of messages
// before next.
func ascending(kept []byte, next uint32) bool {
	if len(kept)%keptSize != 0 {
		return false
	}
	for i := 0; i < len(kept); i += keptSize {
		n := binary.BigEndian.Uint32(kept[i:])
		if n >= next || i > 0 && n <= binary.BigEndian.Uint32(kept[i-keptSize:]) {
			return false
		}
	}
	return true
}
