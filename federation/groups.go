package federation

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
)

// Groups across servers (federation.md, 12). A member's server hands an operation
// to the group's hub and has the answer at once; the hub tells every member server
// by items of the control class; a server that has missed some asks for them.

// The endpoints of groups.
const (
	PathGroupOps     = "/fed/v1/groups/ops"
	PathGroupHistory = "/fed/v1/groups/history"
)

// Limits of groups on the wire.
const (
	MaxGroupOp    = 28 << 10  // bytes of one signed operation
	MaxOpening    = 512       // bytes of one opening
	MaxOpenings   = 64        // openings with one operation
	MaxHistoryOps = 256       // operations in one answer
	MaxHistory    = 512 << 10 // bytes of operations and openings in one answer, unless the first operation alone has more
)

// GroupOp is one operation that a hub has put into its place, or the word that
// the hub keeps the group no longer.
type GroupOp struct {
	Group    clearbox.GroupID
	Op       []byte   // signed (crypto/chain); nil when Ended
	Openings [][]byte // of the people whom it adds
	Ended    bool     // the administrators of the hub deleted the group
}

func (g *GroupOp) size() int {
	n := groupOpOverhead + len(g.Op)
	for _, o := range g.Openings {
		n += 3 + len(o)
	}
	return n
}

const groupOpOverhead = 96

// GroupHistory is a run of operations, in their order.
type GroupHistory struct {
	Ops      [][]byte
	Openings [][]byte // of the people whom they add
	More     bool     // others follow
}

// Groups are the groups of this server towards its peers. An error's code is told
// to the peer, with the epoch of a *clearbox.GroupChangedError.
type Groups interface {
	// PeerOp puts an operation of a person of the peer into its place, if this
	// server is the hub. The same again gets the first answer.
	PeerOp(ctx context.Context, peer clearbox.ServerName, g GroupOp) (epoch uint64, head [32]byte, err error)
	// PeerHistory gives the operations after an epoch to a server with members.
	PeerHistory(ctx context.Context, peer clearbox.ServerName, group clearbox.GroupID, after uint64) (GroupHistory, error)
}

type wireGroupOp struct {
	Group    []byte   `cbor:"group"`
	Op       []byte   `cbor:"op,omitempty"`
	Openings [][]byte `cbor:"openings,omitempty"`
	Ended    bool     `cbor:"ended,omitempty"`
}

type groupOpAnswer struct {
	Epoch uint64 `cbor:"epoch"`
	Head  []byte `cbor:"head"` // 32 bytes
}

type groupHistoryRequest struct {
	Group []byte `cbor:"group"`
	After uint64 `cbor:"after"`
}

type groupHistoryAnswer struct {
	Ops      [][]byte `cbor:"ops"`
	Openings [][]byte `cbor:"openings,omitempty"`
	More     bool     `cbor:"more,omitempty"`
}

func groupOpToWire(g *GroupOp) wireGroupOp {
	return wireGroupOp{Group: g.Group[:], Op: g.Op, Openings: g.Openings, Ended: g.Ended}
}

func groupOpFrom(w *wireGroupOp) (GroupOp, error) {
	var g GroupOp
	if len(w.Group) != len(g.Group) || clearbox.GroupID(w.Group).IsZero() {
		return g, clearbox.Errorf(clearbox.CodeBadRequest, "a group id has %d bytes", len(g.Group))
	}
	g = GroupOp{Group: clearbox.GroupID(w.Group), Op: w.Op, Openings: w.Openings, Ended: w.Ended}
	switch {
	case (len(g.Op) == 0) != g.Ended, g.Ended && len(g.Openings) != 0:
		return g, clearbox.Errorf(clearbox.CodeBadRequest, "what is told of a group is one operation or its end")
	case len(g.Op) > MaxGroupOp:
		return g, clearbox.Errorf(clearbox.CodeTooLarge, "an operation has at most %d bytes", MaxGroupOp)
	case len(g.Openings) > MaxOpenings:
		return g, clearbox.Errorf(clearbox.CodeTooLarge, "an operation comes with at most %d openings", MaxOpenings)
	}
	return g, checkOpenings(g.Openings)
}

func checkOpenings(openings [][]byte) error {
	for _, o := range openings {
		if len(o) == 0 || len(o) > MaxOpening {
			return clearbox.Errorf(clearbox.CodeBadRequest, "an opening has 1 to %d bytes", MaxOpening)
		}
	}
	return nil
}

// groupFrom reads an item that tells of a group.
func (it *Item) groupFrom(class Class, w *wireItem) error {
	switch {
	case class != ClassControl:
		return clearbox.Errorf(clearbox.CodeBadRequest, "operations of groups belong to the control class")
	case w.From != "" || w.Device != 0 || w.To != "" || len(w.Token) != 0 || len(w.Ref) != 0 || len(w.Envelopes) != 0 || w.Bounce != "" || w.Knock != nil:
		return clearbox.Errorf(clearbox.CodeBadRequest, "an operation of a group says nothing else")
	}
	g, err := groupOpFrom(w.Op)
	it.Op = &g
	return err
}

// SubmitOp hands an operation of a person here to the group's hub. Errors:
// *clearbox.GroupChangedError, the hub's code, or clearbox.CodeHubUnreachable.
func (c *Client) SubmitOp(ctx context.Context, hub clearbox.ServerName, g GroupOp) (epoch uint64, head [32]byte, err error) {
	raw, err := c.askHub(ctx, hub, PathGroupOps, groupOpToWire(&g))
	if err != nil {
		return 0, head, groupError(err)
	}
	var w groupOpAnswer
	if err := decodeBody(raw, &w); err != nil {
		return 0, head, groupError(err)
	}
	if len(w.Head) != len(head) {
		return 0, head, groupError(clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range"))
	}
	return w.Epoch, [32]byte(w.Head), nil
}

// GroupHistory asks a group's hub for the operations after an epoch. Errors are
// those of SubmitOp.
func (c *Client) GroupHistory(ctx context.Context, hub clearbox.ServerName, group clearbox.GroupID, after uint64) (GroupHistory, error) {
	raw, err := c.askHub(ctx, hub, PathGroupHistory, groupHistoryRequest{Group: group[:], After: after})
	if err != nil {
		return GroupHistory{}, groupError(err)
	}
	w, err := decodeHistory(raw)
	if err != nil {
		return GroupHistory{}, groupError(err)
	}
	return w, nil
}

func (c *Client) askHub(ctx context.Context, hub clearbox.ServerName, path string, question any) ([]byte, error) {
	body, err := encoder.Marshal(question)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the question could not be encoded", err)
	}
	return c.askRaw(ctx, hub, CircuitClaim, path, body, MaxDirectory)
}

func decodeHistory(raw []byte) (GroupHistory, error) {
	var w groupHistoryAnswer
	if err := decodeBody(raw, &w); err != nil {
		return GroupHistory{}, err
	}
	if len(w.Ops) > MaxHistoryOps || w.More && len(w.Ops) == 0 {
		return GroupHistory{}, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range")
	}
	for _, op := range w.Ops {
		if len(op) == 0 || len(op) > MaxGroupOp {
			return GroupHistory{}, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range")
		}
	}
	return GroupHistory(w), checkOpenings(w.Openings)
}

// groupError turns what went wrong between the servers into what a person can be
// told. Only what the hub signed is its word.
func groupError(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Signed {
		switch refused.Code {
		case clearbox.CodeGroupChanged:
			return &clearbox.GroupChangedError{Epoch: uint64(max(refused.Expected, 0))}
		case clearbox.CodeNotAMember, clearbox.CodeGroupFrozen, clearbox.CodeGroupClosed, clearbox.CodeForbidden, clearbox.CodeIdentityChanged,
			clearbox.CodeBadRequest, clearbox.CodeBadSignature, clearbox.CodeNoRoutePolicy, clearbox.CodeConflict, clearbox.CodePeerBlocked,
			clearbox.CodeRateLimited, clearbox.CodeDeviceRemoved, clearbox.CodeTooLarge, clearbox.CodeNotFound, clearbox.CodeQuota, clearbox.CodeRecipientUnavailable:
			return clearbox.Wrap(refused.Code, "the group's server does not accept this", err)
		}
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeNoRoutePolicy:
		return err
	}
	return clearbox.Wrap(clearbox.CodeHubUnreachable, "the group's server does not answer at the moment", err)
}

func (in *Inbox) groupOp(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var w wireGroupOp
	if err := decodeBody(body, &w); err != nil {
		return nil, err
	}
	g, err := groupOpFrom(&w)
	if err != nil {
		return nil, err
	}
	if g.Ended {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "only the hub tells that a group has ended")
	}
	epoch, head, err := in.opts.Groups.PeerOp(ctx, peer, g)
	if err != nil {
		return nil, err
	}
	return encoder.Marshal(groupOpAnswer{Epoch: epoch, Head: head[:]})
}

func (in *Inbox) groupHistory(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var q groupHistoryRequest
	if err := decodeBody(body, &q); err != nil {
		return nil, err
	}
	var id clearbox.GroupID
	if len(q.Group) != len(id) {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a group id has %d bytes", len(id))
	}
	copy(id[:], q.Group)
	h, err := in.opts.Groups.PeerHistory(ctx, peer, id, q.After)
	if err != nil {
		return nil, err
	}
	return encoder.Marshal(groupHistoryAnswer(h))
}
