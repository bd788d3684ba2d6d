// Package fanout is responsible for the homeserver's part of sealed sender
// version 2: one upload for many recipients is read, checked, and made into what
// each peer and each recipient is to get. It holds no key, cannot tell who sent
// a message and cannot read one; package sealed, which a homeserver does not
// link, does both.
//
// The form for many recipients is that of the Signal Protocol: the byte 0x23, the
// number of recipients as a varint, the recipients, 32 bytes of ephemeral key,
// and the ciphertext that all of them share. A recipient is a service id of 17
// bytes, its devices, and 48 bytes of key material that only its identity can
// use; a device is an id of 1 byte and a big-endian 16-bit word with a
// registration id in the low 14 bits, whose top bit says that more follow. A
// recipient whose first device id is 0 is an excluded one: it has no
// registration id, no key material, and gets nothing.
//
// The form that a recipient gets is the byte 0x22, its key material, the
// ephemeral key and the ciphertext.
//
// Everything is safe for concurrent use as long as the bytes do not change.
package fanout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/keys"
)

// First bytes of the two forms.
const (
	TypeMany     = 0x23 // for many recipients, from client to server and between servers
	TypeReceived = 0x22 // for one recipient, all of its devices
)

// Sizes in bytes.
const (
	MaterialSize  = 32 + 16 // key material of one recipient: C and AT
	EphemeralSize = 32
	TagSize       = 16 // the shortest ciphertext is a tag
	idSize        = 17
	deviceSize    = 3
	minRecipient  = idSize + 1 // an excluded one
)

// Limits of one message. A zero field means the default in its comment.
type Limits struct {
	Recipients int // 1,024, excluded ones included
	Devices    int // 8 devices of one recipient; at most keys.MaxDevice
	Ciphertext int // 96 KiB less what the received form adds: shared bytes
}

// The defaults of Limits.
const (
	DefaultRecipients = 1024
	DefaultDevices    = 8
	DefaultCiphertext = 96<<10 - ReceivedOverhead
)

// ReceivedOverhead is by how much the received form is longer than the shared
// ciphertext.
const ReceivedOverhead = 1 + MaterialSize + EphemeralSize

func (l Limits) filled() Limits {
	if l.Recipients == 0 {
		l.Recipients = DefaultRecipients
	}
	if l.Devices == 0 {
		l.Devices = DefaultDevices
	}
	if l.Ciphertext == 0 {
		l.Ciphertext = DefaultCiphertext
	}
	return l
}

// MaxSize is the length of the longest message within the limits.
func (l Limits) MaxSize() int {
	l = l.filled()
	return 1 + binary.MaxVarintLen32 + l.Recipients*(idSize+l.Devices*deviceSize+MaterialSize) + EphemeralSize + l.Ciphertext
}

// Errors of this package.
var (
	// ErrMalformed: not the form for many recipients.
	ErrMalformed = errors.New("fanout: malformed message")
	// ErrLimit: more recipients, devices or bytes than allowed.
	ErrLimit = errors.New("fanout: above a limit")
	// ErrDuplicate: a recipient, or a device of one, occurs twice.
	ErrDuplicate = errors.New("fanout: named twice")
	// ErrRecipients: a part was asked for recipients that the message does not
	// have, that are excluded, or twice for the same.
	ErrRecipients = errors.New("fanout: no such part")
)

// Device is one device of a recipient.
type Device struct {
	ID           uint8  // keys.MinDevice to keys.MaxDevice
	Registration uint16 // keys.MinRegistration to keys.MaxRegistration
}

// Recipient is one account that a message names.
type Recipient struct {
	ID      keys.ServiceID
	Devices []Device // none: excluded

	material []byte // shares memory with the message
}

// Excluded reports whether the sender left the recipient out on purpose.
func (r *Recipient) Excluded() bool { return len(r.Devices) == 0 }

// Message is a parsed message for many recipients. It shares memory with the
// bytes that were parsed.
type Message struct {
	recipients []Recipient
	sorted     []uint32 // places in recipients, by id
	shared     []byte   // ephemeral key and ciphertext
}

// Parse reads a message for many recipients. It allocates nothing before the
// whole form was found right, and then three slices in proportion to the
// recipients really there. b is kept and must not change.
//
// It refuses with ErrMalformed everything that has a second meaning or encoding
// (a longer varint, a reserved bit, an account id of another kind, device or
// registration ids out of range, bytes that end early), with ErrLimit what is
// above a limit, and with ErrDuplicate a recipient or a device named twice. A
// message with excluded recipients only is one without effect, and malformed.
func Parse(b []byte, l Limits) (*Message, error) {
	l = l.filled()
	if len(b) > l.MaxSize() {
		return nil, fmt.Errorf("%w: %d bytes", ErrLimit, len(b))
	}
	if len(b) == 0 || b[0] != TypeMany {
		return nil, fmt.Errorf("%w: type", ErrMalformed)
	}
	count, n := binary.Uvarint(b[1:])
	if n <= 0 || n != varintSize(count) || count == 0 {
		return nil, fmt.Errorf("%w: number of recipients", ErrMalformed)
	}
	if count > uint64(l.Recipients) {
		return nil, fmt.Errorf("%w: %d recipients", ErrLimit, count)
	}
	list := b[1+n:]
	devices := 0
	rest := list
	for range count {
		size, in, err := scan(rest, l.Devices)
		if err != nil {
			return nil, err
		}
		devices += in
		rest = rest[size:]
	}
	switch {
	case devices == 0:
		return nil, fmt.Errorf("%w: nobody to receive it", ErrMalformed)
	case len(rest) < EphemeralSize+TagSize:
		return nil, fmt.Errorf("%w: ciphertext", ErrMalformed)
	case len(rest)-EphemeralSize > l.Ciphertext:
		return nil, fmt.Errorf("%w: ciphertext of %d bytes", ErrLimit, len(rest)-EphemeralSize)
	}
	m := &Message{
		recipients: make([]Recipient, count),
		sorted:     make([]uint32, count),
		shared:     rest,
	}
	all := make([]Device, 0, devices)
	for i := range m.recipients {
		m.sorted[i] = uint32(i)
		all, list = m.recipients[i].fill(all, list)
	}
	slices.SortFunc(m.sorted, func(x, y uint32) int { return m.compare(x, m.recipients[y].ID) })
	for i, x := range m.sorted[1:] {
		if m.compare(m.sorted[i], m.recipients[x].ID) == 0 {
			return nil, fmt.Errorf("%w: recipient", ErrDuplicate)
		}
	}
	return m, nil
}

func varintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func (m *Message) compare(place uint32, id keys.ServiceID) int {
	return bytes.Compare(m.recipients[place].ID[:], id[:])
}

// scan checks the recipient at the front of b and returns its length in bytes
// and its number of devices.
func scan(b []byte, maxDevices int) (size, devices int, err error) {
	if len(b) < minRecipient {
		return 0, 0, fmt.Errorf("%w: it ends in a recipient", ErrMalformed)
	}
	if b[0] != 0 {
		return 0, 0, fmt.Errorf("%w: kind of account", ErrMalformed)
	}
	size = idSize
	if b[size] == 0 {
		return size + 1, 0, nil
	}
	var seen [2]uint64 // device ids are below 128
	for more := true; more; devices++ {
		if devices == maxDevices {
			return 0, 0, fmt.Errorf("%w: devices of a recipient", ErrLimit)
		}
		if len(b) < size+deviceSize {
			return 0, 0, fmt.Errorf("%w: it ends in a device", ErrMalformed)
		}
		id, word := b[size], binary.BigEndian.Uint16(b[size+1:])
		if id < keys.MinDevice || id > keys.MaxDevice {
			return 0, 0, fmt.Errorf("%w: device id", ErrMalformed)
		}
		if r := word &^ moreDevices; r < keys.MinRegistration || r > keys.MaxRegistration {
			return 0, 0, fmt.Errorf("%w: registration id", ErrMalformed)
		}
		if seen[id/64]>>(id%64)&1 == 1 {
			return 0, 0, fmt.Errorf("%w: device", ErrDuplicate)
		}
		seen[id/64] |= 1 << (id % 64)
		more = word&moreDevices != 0
		size += deviceSize
	}
	if len(b) < size+MaterialSize {
		return 0, 0, fmt.Errorf("%w: it ends in key material", ErrMalformed)
	}
	return size + MaterialSize, devices, nil
}

// moreDevices is the bit of a device's word that says that another one follows.
// The bit below it is reserved and always 0.
const moreDevices = 1 << 15

// fill reads a recipient that scan has found right, its devices into all, which
// has room for them. It returns all and what follows the recipient.
func (r *Recipient) fill(all []Device, b []byte) ([]Device, []byte) {
	r.ID = keys.ServiceID(b[:idSize])
	b = b[idSize:]
	if b[0] == 0 {
		return all, b[1:]
	}
	first := len(all)
	for more := true; more; b = b[deviceSize:] {
		word := binary.BigEndian.Uint16(b[1:])
		all = append(all, Device{b[0], word &^ moreDevices})
		more = word&moreDevices != 0
	}
	r.Devices = all[first:len(all):len(all)]
	r.material = b[:MaterialSize:MaterialSize]
	return all, b[MaterialSize:]
}

// Recipients are the recipients in the sender's order, excluded ones included.
// The slice is the message's and must not be changed.
func (m *Message) Recipients() []Recipient { return m.recipients }

// Find returns the place of an account in Recipients.
func (m *Message) Find(id keys.ServiceID) (place int, ok bool) {
	i, ok := slices.BinarySearchFunc(m.sorted, id, m.compare)
	if !ok {
		return 0, false
	}
	return int(m.sorted[i]), true
}

// ReceivedSize is the length in bytes of every received form of this message.
func (m *Message) ReceivedSize() int { return 1 + MaterialSize + len(m.shared) }

// AppendReceived appends to dst what all devices of the recipient at a place get:
// the received form. ErrRecipients if there is no such recipient or it is
// excluded.
func (m *Message) AppendReceived(dst []byte, place int) ([]byte, error) {
	if place < 0 || place >= len(m.recipients) || m.recipients[place].Excluded() {
		return nil, ErrRecipients
	}
	return AppendForm(dst, m.recipients[place].material, m.shared), nil
}

// Material is what the recipient alone has in its received form, MaterialSize
// bytes of the message; nil of an excluded one.
func (r *Recipient) Material() []byte { return r.material }

// Shared is what all received forms have in common, behind the type and the key
// material. It is the message's and must not be changed.
func (m *Message) Shared() []byte { return m.shared }

// AppendForm appends a received form that is put together from its parts.
func AppendForm(dst, material, shared []byte) []byte {
	dst = slices.Grow(dst, 1+len(material)+len(shared))
	dst = append(dst, TypeReceived)
	dst = append(dst, material...)
	return append(dst, shared...)
}
