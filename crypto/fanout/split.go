package fanout

import (
	"encoding/binary"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/keys"
)

// AppendPart appends to dst the message for many recipients with only those at
// the given places, in the order given. Nothing else of the others remains, not
// even their number. The key material is passed on as it came, so each recipient
// gets the same received form from the part as from the whole.
//
// ErrRecipients if a place is none, is given twice or is that of an excluded
// recipient, or if there are no places: exclusions are a matter between a client
// and its own server, and no peer learns of them.
func (m *Message) AppendPart(dst []byte, places []int) ([]byte, error) {
	if len(places) == 0 || len(places) > len(m.recipients) {
		return nil, ErrRecipients
	}
	taken := make([]uint64, (len(m.recipients)+63)/64)
	size := 1 + varintSize(uint64(len(places))) + len(m.shared)
	for _, p := range places {
		if p < 0 || p >= len(m.recipients) || m.recipients[p].Excluded() || taken[p/64]>>(p%64)&1 == 1 {
			return nil, ErrRecipients
		}
		taken[p/64] |= 1 << (p % 64)
		size += m.recipients[p].size()
	}
	dst = slices.Grow(dst, size)
	dst = AppendHead(dst, len(places))
	for _, p := range places {
		r := &m.recipients[p]
		dst = AppendDevices(dst, r.ID, r.Devices)
		dst = append(dst, r.material...)
	}
	return append(dst, m.shared...), nil
}

func (r *Recipient) size() int { return idSize + deviceSize*len(r.Devices) + len(r.material) }

// AppendHead appends the beginning of a message for count recipients. It is for
// those who write the form; what is written is not checked, unlike what is read.
func AppendHead(dst []byte, count int) []byte {
	dst = append(dst, TypeMany)
	return binary.AppendUvarint(dst, uint64(count))
}

// AppendDevices appends a recipient up to its key material, which has to follow;
// without devices, an excluded one, which has none. Like AppendHead it does not
// check.
func AppendDevices(dst []byte, id keys.ServiceID, devices []Device) []byte {
	dst = append(dst, id[:]...)
	if len(devices) == 0 {
		return append(dst, 0)
	}
	for i, d := range devices {
		word := d.Registration
		if i < len(devices)-1 {
			word |= moreDevices
		}
		dst = append(dst, d.ID)
		dst = binary.BigEndian.AppendUint16(dst, word)
	}
	return dst
}

// Part is what one peer gets.
type Part[P comparable] struct {
	Peer   P
	Places []int  // in the whole message's Recipients, in its order
	Bytes  []byte // a message for many recipients
}

// Split makes one part for each peer. peer tells whose account an id is; false
// leaves the recipient out, as for accounts of this server, which are served with
// AppendReceived. peer is asked once for each recipient that is not excluded, in
// their order; parts come in the order in which their peers were first named.
//
// Every part repeats the shared ciphertext: the caller bounds peers times size.
func Split[P comparable](m *Message, peer func(keys.ServiceID) (P, bool)) []Part[P] {
	var parts []Part[P]
	known := make(map[P]int)
	for place := range m.recipients {
		r := &m.recipients[place]
		if r.Excluded() {
			continue
		}
		p, ok := peer(r.ID)
		if !ok {
			continue
		}
		i, ok := known[p]
		if !ok {
			i = len(parts)
			known[p] = i
			parts = append(parts, Part[P]{Peer: p})
		}
		parts[i].Places = append(parts[i].Places, place)
	}
	for i := range parts {
		b, err := m.AppendPart(nil, parts[i].Places)
		if err != nil {
			panic("fanout: places of this message make a part")
		}
		parts[i].Bytes = b
	}
	return parts
}
