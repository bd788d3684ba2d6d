package chain

import (
	"cmp"
	"crypto/ed25519"
	"slices"
)

// Kind tells operations apart on the wire. Kinds are appended, never reused.
type Kind uint8

// The kinds of operations.
const (
	KindCreate  Kind = 1
	KindAdd     Kind = 2
	KindAccept  Kind = 3
	KindDecline Kind = 4
	KindRemove  Kind = 5
	KindRole    Kind = 6
	KindPolicy  Kind = 7
	KindInfo    Kind = 8
	KindDevice  Kind = 9
	KindHubMove Kind = 10
	KindClose   Kind = 11
)

var kindNames = [...]string{
	KindCreate: "create", KindAdd: "add", KindAccept: "accept", KindDecline: "decline", KindRemove: "remove", KindRole: "role",
	KindPolicy: "policy", KindInfo: "info", KindDevice: "device", KindHubMove: "hub-move", KindClose: "close",
}

// String is the name of the kind in documents and logs.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "unknown"
}

// Op is one operation of a group before it is signed or after it was verified.
type Op struct {
	Group  Hash   // zero in a Create
	Epoch  uint64 // 1 for a Create, then one more each
	Prev   Hash   // the signed operation before; zero in a Create
	Actor  Member
	Signer ed25519.PublicKey // the key of the actor's device
	List   int64             // version of the actor's device list that has it, 1 or higher
	Time   int64             // milliseconds since 1970, by the signer's clock, never before the last operation
	Body   Body
}

// Body is what an operation does: one of the types below, by value.
type Body interface {
	Kind() Kind
	check() error
	append([]byte) []byte
}

// Create begins a group. Its actor is the owner and active at once.
type Create struct {
	Hub        string   // name of the server that orders the operations
	Nonce      [16]byte // random: two groups of one person with the same contents differ
	Commitment Hash     // of the creator
	Policy     Policy
	Info       []byte // title, description and picture, sealed by the members; may be empty
}

// Add invites people. Each is a member when a device of theirs accepts.
type Add struct{ Invitees []Invitee }

// Invitee is one person in an Add.
type Invitee struct {
	Member     Member
	Commitment Hash
	Role       Role // RoleMember or RoleAdmin
}

// Accept answers an invitation; its actor becomes active and its signer known.
type Accept struct{}

// Decline answers an invitation with no.
type Decline struct{}

// Remove ends memberships and invitations. Whoever names only themselves leaves.
type Remove struct{ Members []Member } // strictly ascending

// SetRole gives a member another role.
type SetRole struct {
	Member Member
	Role   Role
}

// SetPolicy replaces the group's rules.
type SetPolicy struct{ Policy Policy }

// SetInfo replaces the sealed title, description and picture.
type SetInfo struct{ Sealed []byte }

// Introduce makes a further device of an active member known, which signs it
// itself: that the key is one of the member's is checked with the device list.
type Introduce struct{}

// HubMove gives the ordering to another server. That the countersignatures are
// of a majority of the member servers is checked by those who know the servers.
type HubMove struct {
	Hub string
	By  []Countersignature // strictly ascending by server
}

// Countersignature is a member server's consent to a hub move: its Ed25519
// signature over HubMoveStatement.
type Countersignature struct {
	Server    string
	Key       ed25519.PublicKey
	Signature []byte // 64 bytes
}

// Close ends the group.
type Close struct{}

// Adders says who may invite.
type Adders uint8

// Who may invite.
const (
	AdminsAdd  Adders = 1
	MembersAdd Adders = 2
)

// Policy is a group's rules. Countries and servers bind whom the group takes
// in; servers and clients check them, since the chain knows no names.
type Policy struct {
	MayAdd     Adders
	Disappear  uint32   // seconds after which messages disappear; 0 = never, at most MaxDisappear
	MaxMembers int      // 2 to MaxMembers, members and invited people together
	Countries  []string // two capital letters each, strictly ascending; empty = any
	Servers    []string // names, strictly ascending; empty = any
}

// Kind is KindCreate.
func (Create) Kind() Kind { return KindCreate }

// Kind is KindAdd.
func (Add) Kind() Kind { return KindAdd }

// Kind is KindAccept.
func (Accept) Kind() Kind { return KindAccept }

// Kind is KindDecline.
func (Decline) Kind() Kind { return KindDecline }

// Kind is KindRemove.
func (Remove) Kind() Kind { return KindRemove }

// Kind is KindRole.
func (SetRole) Kind() Kind { return KindRole }

// Kind is KindPolicy.
func (SetPolicy) Kind() Kind { return KindPolicy }

// Kind is KindInfo.
func (SetInfo) Kind() Kind { return KindInfo }

// Kind is KindDevice.
func (Introduce) Kind() Kind { return KindDevice }

// Kind is KindHubMove.
func (HubMove) Kind() Kind { return KindHubMove }

// Kind is KindClose.
func (Close) Kind() Kind { return KindClose }

// check holds the rules of an operation that stands alone. Sign and Parse share
// it, so what can be signed can be read and the reverse.
func (o *Op) check() error {
	if o.Body == nil {
		return refuse("no body")
	}
	create := o.Body.Kind() == KindCreate
	switch {
	case create != (o.Epoch == 1), create != (o.Group == Hash{}), create != (o.Prev == Hash{}):
		return refuse("only the first operation, of epoch 1, creates and follows nothing")
	case o.Epoch < 1 || o.Epoch > MaxOperations:
		return refuse("epoch %d", o.Epoch)
	case o.Actor == Member{}:
		return refuse("no actor")
	case len(o.Signer) != ed25519.PublicKeySize:
		return refuse("device key of %d bytes", len(o.Signer))
	case o.List < 1 || o.List > MaxTime:
		return refuse("device list version %d", o.List)
	case o.Time < 1 || o.Time > MaxTime:
		return refuse("time %d", o.Time)
	}
	return o.Body.check()
}

func (c Create) check() error {
	if err := checkName(c.Hub); err != nil {
		return err
	}
	if err := c.Policy.check(); err != nil {
		return err
	}
	return checkInfo(c.Info)
}

func (a Add) check() error {
	if len(a.Invitees) < 1 || len(a.Invitees) > MaxInvitees {
		return refuse("%d invited people", len(a.Invitees))
	}
	for i, v := range a.Invitees {
		if i > 0 && compareMembers(a.Invitees[i-1].Member, v.Member) >= 0 || v.Member == (Member{}) {
			return refuse("member ids are not in ascending order")
		}
		if v.Role != RoleMember && v.Role != RoleAdmin {
			return refuse("invitation to be %s", v.Role)
		}
	}
	return nil
}

func (Accept) check() error    { return nil }
func (Decline) check() error   { return nil }
func (Introduce) check() error { return nil }
func (Close) check() error     { return nil }

func (r Remove) check() error {
	if len(r.Members) < 1 || len(r.Members) > MaxRemoved {
		return refuse("%d removed people", len(r.Members))
	}
	for i, m := range r.Members {
		if i > 0 && compareMembers(r.Members[i-1], m) >= 0 || m == (Member{}) {
			return refuse("member ids are not in ascending order")
		}
	}
	return nil
}

func (s SetRole) check() error {
	if s.Member == (Member{}) || !s.Role.valid() {
		return refuse("%s for a member", s.Role)
	}
	return nil
}

func (s SetPolicy) check() error { return s.Policy.check() }

func (s SetInfo) check() error { return checkInfo(s.Sealed) }

func (h HubMove) check() error {
	if err := checkName(h.Hub); err != nil {
		return err
	}
	if len(h.By) > MaxCountersignatures {
		return refuse("%d countersignatures", len(h.By))
	}
	for i, c := range h.By {
		if err := checkName(c.Server); err != nil {
			return err
		}
		if i > 0 && h.By[i-1].Server >= c.Server {
			return refuse("countersignatures are not in ascending order")
		}
		if len(c.Key) != ed25519.PublicKeySize || len(c.Signature) != ed25519.SignatureSize {
			return refuse("countersignature of another size")
		}
	}
	return nil
}

func (p Policy) check() error {
	switch {
	case p.MayAdd != AdminsAdd && p.MayAdd != MembersAdd:
		return refuse("policy on who may add: %d", p.MayAdd)
	case p.Disappear > MaxDisappear:
		return refuse("messages that disappear after %d s", p.Disappear)
	case p.MaxMembers < 2 || p.MaxMembers > MaxMembers:
		return refuse("at most %d members", p.MaxMembers)
	case len(p.Countries) > MaxPolicyEntries, len(p.Servers) > MaxPolicyEntries:
		return refuse("policy with too many entries")
	case !ascending(p.Countries), !ascending(p.Servers):
		return refuse("policy entries are not in ascending order")
	}
	for _, c := range p.Countries {
		if len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' {
			return refuse("country of another form")
		}
	}
	for _, s := range p.Servers {
		if err := checkName(s); err != nil {
			return err
		}
	}
	return nil
}

// AllowsServer tells whether the policy takes in people of the server by its name.
func (p Policy) AllowsServer(name string) bool {
	return len(p.Servers) == 0 || slices.Contains(p.Servers, name)
}

// AllowsCountry tells whether the policy takes in people of servers in country.
// An unknown country is the empty string, which only a policy for any allows.
func (p Policy) AllowsCountry(country string) bool {
	return len(p.Countries) == 0 || slices.Contains(p.Countries, country)
}

func ascending(s []string) bool {
	for i := 1; i < len(s); i++ {
		if s[i-1] >= s[i] {
			return false
		}
	}
	return true
}

func checkInfo(b []byte) error {
	if len(b) > MaxInfo {
		return refuse("sealed info of %d bytes", len(b))
	}
	return nil
}

// checkName wants the bytes of a domain in lower case; the rest is a matter of
// names and not of the chain.
func checkName(s string) error {
	if len(s) < 1 || len(s) > MaxName {
		return refuse("server name of %d bytes", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return refuse("server name with another byte than a-z, 0-9, dot and hyphen")
		}
	}
	return nil
}

func compareMembers(a, b Member) int {
	return slices.CompareFunc(a[:], b[:], cmp.Compare[byte])
}

// SortMembers puts ids into the order in which Remove wants them.
func SortMembers(ids []Member) { slices.SortFunc(ids, compareMembers) }

// SortInvitees puts invitees into the order in which Add wants them.
func SortInvitees(v []Invitee) {
	slices.SortFunc(v, func(a, b Invitee) int { return compareMembers(a.Member, b.Member) })
}
