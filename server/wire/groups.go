package wire

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Limits of groups.
const (
	// MaxGroupOp bounds one signed operation, in bytes (crypto/chain).
	MaxGroupOp = 28 << 10
	// MaxOpenings bounds the openings that come with one operation.
	MaxOpenings = 64
	// MaxOpening bounds one opening, in bytes.
	MaxOpening = 512
	// MaxGroupBody bounds the bodies of operations, in bytes.
	MaxGroupBody = 128 << 10
)

// GroupCreate is the body of POST /groups/create: a signed create operation that
// names this server as the hub, and the opening of the caller.
type GroupCreate struct {
	Op      []byte `json:"op"`
	Opening []byte `json:"opening"`
}

// Check applies the limits.
func (g *GroupCreate) Check() error {
	var f faults
	f.bytes("/op", g.Op, MaxGroupOp)
	f.bytes("/opening", g.Opening, MaxOpening)
	return f.result()
}

// GroupSubmit is the body of POST /groups/{id}/ops: a signed operation, and the
// openings of the people whom it adds.
type GroupSubmit struct {
	Op       []byte   `json:"op"`
	Openings [][]byte `json:"openings,omitempty"`
}

// Check applies the limits.
func (g *GroupSubmit) Check() error {
	var f faults
	f.bytes("/op", g.Op, MaxGroupOp)
	f.check(len(g.Openings) <= MaxOpenings, "/openings", "has at most "+strconv.Itoa(MaxOpenings)+" elements")
	for i, o := range g.Openings {
		f.bytes(at("/openings", i), o, MaxOpening)
	}
	return f.result()
}

// GroupPlace is where an operation stands in its group.
type GroupPlace struct {
	Group clearbox.GroupID `json:"group"`
	Epoch uint64           `json:"epoch"`
	Head  []byte           `json:"head"` // 32 bytes: SHA-256 of the signed operation
}

// GroupSummary is a group as one of its people sees it.
type GroupSummary struct {
	Group  clearbox.GroupID    `json:"group"`
	Hub    clearbox.ServerName `json:"hub"`
	State  string              `json:"state"` // active, frozen, closed or deleted
	Epoch  uint64              `json:"epoch"`
	Head   []byte              `json:"head"`   // 32 bytes
	Member clearbox.MemberID   `json:"member"` // the caller's own
	Role   string              `json:"role"`   // member, admin or owner
	Status string              `json:"status"` // invited or active
}

// Groups is the answer of GET /groups: those that the caller is in or invited to.
type Groups struct {
	Groups []GroupSummary `json:"groups"`
}

// GroupDetail is the answer of GET /groups/{id}. Nothing in it may be believed
// before the client verified the operations.
type GroupDetail struct {
	Summary  GroupSummary `json:"summary"`
	Openings [][]byte     `json:"openings"` // of everybody who is in the group or invited
}

// GroupPage is the answer of GET /groups/{id}/ops?after=epoch.
type GroupPage struct {
	Ops      [][]byte `json:"ops"`      // in their order, from the epoch after
	Openings [][]byte `json:"openings"` // of the people whom they add; of who was erased there is none
	More     bool     `json:"more"`
}

// GroupEvent is what became of a group, in a mailbox. A client that misses an
// operation before it asks for GET /groups/{id}/ops.
type GroupEvent struct {
	Group    clearbox.GroupID `json:"group"`
	Epoch    uint64           `json:"epoch"`
	Op       []byte           `json:"op,omitempty"`
	Openings [][]byte         `json:"openings,omitempty"` // of the people whom it adds
	Ended    bool             `json:"ended,omitempty"`    // no operation: the administrators of the hub deleted the group
}

// AdminGroup is a group as administrators see it: nobody's name and no title.
type AdminGroup struct {
	Group   clearbox.GroupID      `json:"group"`
	Hub     clearbox.ServerName   `json:"hub"`
	Own     bool                  `json:"own"`   // this server is the hub
	State   string                `json:"state"` // active, frozen, closed or deleted
	Reason  string                `json:"reason,omitempty"`
	Epoch   uint64                `json:"epoch"`
	Members int                   `json:"members"`
	Invited int                   `json:"invited"`
	Servers []clearbox.ServerName `json:"servers"` // with people in it
	Created clearbox.Millis       `json:"created_at"`
	Changed clearbox.Millis       `json:"changed_at"`
}

// AdminGroups is the answer of GET /admin/groups.
type AdminGroups struct {
	Groups []AdminGroup `json:"groups"`
}
