package chain

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// State is what a verified chain has led to. The zero value is that of a group
// which does not exist yet. A State that Apply or Verify gave is not changed
// afterwards, and the caller does not change it either.
type State struct {
	Group   Hash
	Epoch   uint64 // of the last operation; 0 = no group yet
	Head    Hash   // of the last operation
	Time    int64  // of the last operation
	Hub     string
	Policy  Policy
	Info    []byte
	Closed  bool
	Members map[Member]Membership // former ones too
}

// Membership is what the chain says of one member id.
type Membership struct {
	Role       Role
	Status     Status
	Commitment Hash
	AddedBy    Member // itself for the creator
	Added      uint64 // epoch of the invitation
	Joined     uint64 // epoch of the acceptance; 0 = never
	Ended      uint64 // epoch in which it ended; 0 = not
	Keys       []ed25519.PublicKey
}

// Known tells whether key is a device key that the member has introduced.
func (m *Membership) Known(key ed25519.PublicKey) bool {
	return slices.ContainsFunc(m.Keys, func(k ed25519.PublicKey) bool { return bytes.Equal(k, key) })
}

// Present counts members and invited people.
func (s *State) Present() int {
	n := 0
	for _, m := range s.Members {
		if m.Status != StatusFormer {
			n++
		}
	}
	return n
}

// Verify runs a whole chain from its Create. It gives the state before the
// first operation that is refused along with the error, which tells its place.
func Verify(ops [][]byte) (State, error) {
	var s State
	for i, raw := range ops {
		o, err := Parse(raw)
		if err == nil {
			err = s.apply(o, HashOf(raw))
		}
		if err != nil {
			return s, fmt.Errorf("operation %d: %w", i+1, err)
		}
	}
	return s, nil
}

// Apply gives the state after the signed operation raw; s stays as it is. It
// verifies the signature, the place in the chain and the actor's right:
//
//   - an owner may do everything;
//   - an admin invites members and admins, removes whoever is not an owner, makes
//     members admins and the reverse, and sets policy and info;
//   - a member leaves, invites members where the policy says so, and takes back
//     invitations of its own;
//   - who is invited accepts or declines.
//
// It returns one of the errors of this package.
func (s *State) Apply(raw []byte) (State, error) {
	o, err := Parse(raw)
	if err != nil {
		return State{}, err
	}
	next := *s
	next.Members = maps.Clone(s.Members)
	if err := next.apply(o, HashOf(raw)); err != nil {
		return State{}, err
	}
	return next, nil
}

// Next gives the operation that follows s, to be filled with a body and signed.
// now is the signer's clock in milliseconds.
func (s *State) Next(actor Member, signer ed25519.PublicKey, list, now int64) *Op {
	return &Op{Group: s.Group, Epoch: s.Epoch + 1, Prev: s.Head, Actor: actor, Signer: signer, List: list, Time: max(now, s.Time)}
}

// apply changes s, whose map is its own, or returns an error and leaves it.
func (s *State) apply(o *Op, hash Hash) error {
	if create, ok := o.Body.(Create); ok || s.Epoch == 0 {
		if !ok || s.Epoch != 0 {
			return ErrNoGroup
		}
		s.create(o, create, hash)
		return nil
	}
	switch {
	case o.Group != s.Group:
		return ErrGroup
	case o.Epoch != s.Epoch+1:
		return ErrEpoch
	case o.Prev != s.Head:
		return ErrPrev
	case s.Closed:
		return ErrClosed
	case o.Time < s.Time:
		return ErrTime
	}
	actor, ok := s.Members[o.Actor]
	if !ok {
		return ErrUnknownMember
	}
	if err := s.act(o, actor); err != nil {
		return err
	}
	s.Epoch, s.Head, s.Time = o.Epoch, hash, o.Time
	return nil
}

func (s *State) create(o *Op, c Create, hash Hash) {
	*s = State{
		Group: hash, Epoch: 1, Head: hash, Time: o.Time, Hub: c.Hub, Policy: c.Policy, Info: c.Info,
		Members: map[Member]Membership{o.Actor: {
			Role: RoleOwner, Status: StatusActive, Commitment: c.Commitment, AddedBy: o.Actor, Added: 1, Joined: 1,
			Keys: []ed25519.PublicKey{o.Signer},
		}},
	}
}

// act does what the body says, after the place in the chain was checked.
func (s *State) act(o *Op, actor Membership) error {
	switch b := o.Body.(type) {
	case Accept:
		return s.accept(o, actor)
	case Decline:
		if actor.Status != StatusInvited {
			return ErrNotInvited
		}
		s.end(o.Actor, o.Epoch)
		return nil
	case Introduce:
		return s.introduce(o, actor)
	default:
		if actor.Status != StatusActive {
			return ErrNotActive
		}
		if !actor.Known(o.Signer) {
			return ErrKey
		}
		return s.govern(o, actor, b)
	}
}

// govern does what takes an active member with a known device.
func (s *State) govern(o *Op, actor Membership, body Body) error {
	switch b := body.(type) {
	case Add:
		return s.add(o, actor, b)
	case Remove:
		return s.remove(o, actor, b)
	case SetRole:
		return s.setRole(actor, b)
	case Close:
		if actor.Role != RoleOwner {
			return ErrRole
		}
		s.Closed = true
		return nil
	}
	if actor.Role < RoleAdmin {
		return ErrRole
	}
	switch b := body.(type) {
	case SetPolicy:
		s.Policy = b.Policy
	case SetInfo:
		s.Info = b.Sealed
	case HubMove:
		return s.moveHub(o, actor, b)
	default:
		return refuse("kind %d", body.Kind())
	}
	return nil
}

func (s *State) accept(o *Op, actor Membership) error {
	if actor.Status != StatusInvited {
		return ErrNotInvited
	}
	if s.keyInUse(o.Signer) {
		return ErrKeyInUse
	}
	actor.Status, actor.Joined = StatusActive, o.Epoch
	actor.Keys = []ed25519.PublicKey{o.Signer}
	s.Members[o.Actor] = actor
	return nil
}

func (s *State) introduce(o *Op, actor Membership) error {
	switch {
	case actor.Status != StatusActive:
		return ErrNotActive
	case s.keyInUse(o.Signer):
		return ErrKeyInUse
	case len(actor.Keys) >= MaxKeys:
		return ErrLimit
	}
	actor.Keys = append(slices.Clone(actor.Keys), o.Signer) // older states share the slice
	s.Members[o.Actor] = actor
	return nil
}

// keyInUse tells whether an active member has introduced key. Former members
// may come back under another id with the same device.
func (s *State) keyInUse(key ed25519.PublicKey) bool {
	for _, m := range s.Members {
		if m.Status == StatusActive && m.Known(key) {
			return true
		}
	}
	return false
}

func (s *State) add(o *Op, actor Membership, a Add) error {
	if actor.Role < RoleAdmin && s.Policy.MayAdd != MembersAdd {
		return ErrRole
	}
	if s.Present()+len(a.Invitees) > s.Policy.MaxMembers {
		return ErrFull
	}
	for _, v := range a.Invitees {
		if v.Role > actor.Role {
			return ErrRole
		}
		if _, ok := s.Members[v.Member]; ok {
			return ErrMemberInUse
		}
	}
	for _, v := range a.Invitees {
		s.Members[v.Member] = Membership{Role: v.Role, Status: StatusInvited, Commitment: v.Commitment, AddedBy: o.Actor, Added: o.Epoch}
	}
	return nil
}

func (s *State) remove(o *Op, actor Membership, r Remove) error {
	for _, id := range r.Members {
		m, ok := s.Members[id]
		if !ok {
			return ErrUnknownMember
		}
		if m.Status == StatusFormer {
			return ErrNotActive
		}
		if !mayRemove(o.Actor, actor, id, m) {
			return ErrRole
		}
	}
	for _, id := range r.Members {
		s.end(id, o.Epoch)
	}
	return nil
}

func mayRemove(by Member, actor Membership, id Member, m Membership) bool {
	switch {
	case id == by, actor.Role == RoleOwner:
		return true
	case actor.Role == RoleAdmin:
		return m.Role < RoleOwner
	}
	return m.Status == StatusInvited && m.AddedBy == by
}

func (s *State) end(id Member, epoch uint64) {
	m := s.Members[id]
	m.Status, m.Ended = StatusFormer, epoch
	s.Members[id] = m
}

func (s *State) setRole(actor Membership, b SetRole) error {
	m, ok := s.Members[b.Member]
	if !ok {
		return ErrUnknownMember
	}
	if m.Status != StatusActive {
		return ErrNotActive
	}
	owner := b.Role == RoleOwner || m.Role == RoleOwner
	if actor.Role < RoleAdmin || owner && actor.Role < RoleOwner {
		return ErrRole
	}
	m.Role = b.Role
	s.Members[b.Member] = m
	return nil
}

func (s *State) moveHub(o *Op, actor Membership, h HubMove) error {
	if actor.Role != RoleOwner {
		return ErrRole
	}
	statement := HubMoveStatement(o.Group, o.Epoch, o.Prev, h.Hub)
	for _, c := range h.By {
		if !ed25519.Verify(c.Key, statement, c.Signature) {
			return ErrCountersignature
		}
	}
	s.Hub = h.Hub
	return nil
}

// HubMoveStatement is what a member server signs to consent that hub orders the
// operations from epoch on, which follows prev.
func HubMoveStatement(group Hash, epoch uint64, prev Hash, hub string) []byte {
	b := make([]byte, 0, len(hubMoveLabel)+len(group)+8+len(prev)+1+len(hub))
	b = append(b, hubMoveLabel...)
	b = append(b, group[:]...)
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = append(b, prev[:]...)
	return appendName(b, hub)
}
