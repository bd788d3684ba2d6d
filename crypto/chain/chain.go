// Package chain is responsible for the history of a group: operations that
// member devices sign, each naming the hash of the one before, and the state
// that they lead to. A server orders operations; it cannot make, change or
// reorder any, and two histories for one group give each other away. Servers and
// clients verify with this one package. A homeserver may link it: nothing here
// can read a message.
//
// It does not know who a member is. Members are random ids with a commitment to
// a person; what opens a commitment is kept beside the chain (see Opening), so
// that a person can be erased and the chain still verifies. Whether the device
// that signed belongs to the person is for whoever holds the opening and the
// person's device list. It does no I/O, has no clock and no randomness of its
// own. Everything is safe for concurrent use as long as the caller does not
// change a value meanwhile.
package chain

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// Limits of operations and groups. They are part of the protocol.
const (
	MaxMembers           = 1000     // members and invited people of one group at a time
	MaxOperations        = 1 << 16  // operations of one group
	MaxOperationSize     = 28 << 10 // bytes of one signed operation
	MaxInfo              = 8 << 10  // bytes of a group's sealed title, description and picture
	MaxInvitees          = 64       // people in one Add
	MaxRemoved           = 256      // people in one Remove
	MaxKeys              = 64       // device keys that one member ever used
	MaxName              = 253      // bytes of a server's name
	MaxCountersignatures = 64
	MaxPolicyEntries     = 64 // countries, and servers, of a policy
	MaxDisappear         = 366 * 86400
	MaxTime              = 1<<53 - 1
)

// Hash is the SHA-256 of a signed operation. That of the first one names the group.
type Hash [sha256.Size]byte

// HashOf gives the hash by which the next operation names the signed one raw.
func HashOf(raw []byte) Hash { return sha256.Sum256(raw) }

// Member is a random id by which a group's chain knows one membership of one
// person. It is never used again: who comes back gets another.
type Member [16]byte

// Role is what a member may do. See State.Apply.
type Role uint8

// The roles, each with more rights than the one before.
const (
	RoleMember Role = 1
	RoleAdmin  Role = 2
	RoleOwner  Role = 3
)

func (r Role) valid() bool { return r >= RoleMember && r <= RoleOwner }

// String is member, admin or owner.
func (r Role) String() string {
	switch r {
	case RoleMember:
		return "member"
	case RoleAdmin:
		return "admin"
	case RoleOwner:
		return "owner"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Status is where a membership stands.
type Status uint8

// The statuses, in the order in which a membership passes them.
const (
	StatusInvited Status = 1 // added by somebody, not accepted
	StatusActive  Status = 2
	StatusFormer  Status = 3 // removed, left or declined
)

// String is invited, active or former.
func (s Status) String() string {
	switch s {
	case StatusInvited:
		return "invited"
	case StatusActive:
		return "active"
	case StatusFormer:
		return "former"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Errors of operations. A caller branches on them with errors.Is; those with
// more to say wrap them.
var (
	// ErrOperation: malformed, not in the one encoding, or out of a limit.
	ErrOperation = errors.New("chain: operation refused")
	// ErrSignature: not signed by the device key that it names.
	ErrSignature = errors.New("chain: operation is not signed by the key it names")
	// ErrNoGroup: the first operation creates the group, and no later one does.
	ErrNoGroup = errors.New("chain: a chain begins with its only create operation")
	// ErrGroup: an operation of another group.
	ErrGroup = errors.New("chain: operation of another group")
	// ErrEpoch: not the epoch after the last one; the signer has not seen the
	// newest operations, or this one came before.
	ErrEpoch = errors.New("chain: operation is not for the next epoch")
	// ErrPrev: for the next epoch, but after another history. At a follower this is a fork.
	ErrPrev = errors.New("chain: operation follows another history")
	// ErrTime: dated before the operation that it follows.
	ErrTime = errors.New("chain: operation is dated before the last one")
	// ErrClosed: the group is closed; nothing follows.
	ErrClosed = errors.New("chain: group is closed")
	// ErrUnknownMember: the actor or the object was never in the group.
	ErrUnknownMember = errors.New("chain: unknown member")
	// ErrNotActive: an actor or object that was not accepted yet or is a member no more.
	ErrNotActive = errors.New("chain: not an active member")
	// ErrNotInvited: an answer to an invitation that is not open.
	ErrNotInvited = errors.New("chain: no open invitation")
	// ErrKey: signed by a key that the actor has not introduced.
	ErrKey = errors.New("chain: device key is not one of the member's")
	// ErrKeyInUse: a device key is introduced that a member has already.
	ErrKeyInUse = errors.New("chain: device key is in use")
	// ErrRole: the actor's role does not allow it.
	ErrRole = errors.New("chain: role does not allow the operation")
	// ErrMemberInUse: an id is added that the group knows already.
	ErrMemberInUse = errors.New("chain: member id is in use")
	// ErrFull: more people than the group's policy allows.
	ErrFull = errors.New("chain: group is full")
	// ErrLimit: a limit of the protocol on what a group may gather over its life.
	ErrLimit = errors.New("chain: group has reached a limit")
	// ErrCountersignature: a hub move with a countersignature that does not verify.
	ErrCountersignature = errors.New("chain: countersignature does not verify")
	// ErrCommitment: an opening that is not what the chain committed to.
	ErrCommitment = errors.New("chain: opening does not match the commitment")
)

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrOperation, fmt.Sprintf(format, args...))
}
