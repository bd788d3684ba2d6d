package clearbox

import "encoding/binary"

// GroupRef says in which state of a group something was sent.
type GroupRef struct {
	ID    GroupID `json:"id"`
	Epoch uint64  `json:"epoch"` // from 1
}

// permitSize is the length of a permit.
const permitSize = 32 + 8

// Permit is what a member of a group shows in place of a DeliveryToken.
func (g GroupRef) Permit() []byte {
	return binary.BigEndian.AppendUint64(g.ID[:len(g.ID):len(g.ID)], g.Epoch)
}

// ParsePermit tells whether b is a permit, and for which group.
func ParsePermit(b []byte) (g GroupRef, ok bool) {
	if len(b) != permitSize {
		return g, false
	}
	copy(g.ID[:], b)
	g.Epoch = binary.BigEndian.Uint64(b[len(g.ID):])
	return g, !g.ID.IsZero() && g.Epoch > 0
}
