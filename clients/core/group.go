package core

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
)

// group is what the vault keeps of a group beside its operations and the openings
// of its members.
type group struct {
	ID    clearbox.GroupID `cbor:"1,keyasint"`
	Epoch uint64           `cbor:"2,keyasint"` // of the newest operation that was verified here; 0: none yet
	Head  chain.Hash       `cbor:"3,keyasint"`
	Me    chain.Member     `cbor:"4,keyasint"` // the own membership, the last one; zero while there was none
	// Keys open what the group is called, the newest first.
	Keys        [][]byte        `cbor:"5,keyasint,omitempty"`
	Title       string          `cbor:"6,keyasint,omitempty"`
	Description string          `cbor:"7,keyasint,omitempty"`
	Alarm       Alarm           `cbor:"8,keyasint,omitempty"`
	Behind      uint64          `cbor:"9,keyasint,omitempty"`  // an epoch that a member knows of and the own server does not show
	BehindBy    chain.Member    `cbor:"13,keyasint,omitzero"`  // who says so: it counts while they are in
	AlarmBy     chain.Member    `cbor:"14,keyasint,omitzero"`  // whose word the alarm is, likewise; zero where it was proven
	Asked       clearbox.Millis `cbor:"10,keyasint,omitempty"` // when the server was last asked for operations
	// Unnamed is the first, UnnamedTo the last epoch of an operation of somebody of
	// whom the server does not say who it is; 0 once a member confirmed them.
	Unnamed   uint64 `cbor:"11,keyasint,omitempty"`
	UnnamedTo uint64 `cbor:"12,keyasint,omitempty"`
}

// Alarm is why a group takes no operations any more at this device. The talk
// goes on, among those who are members here.
type Alarm string

// The alarms.
const (
	AlarmFork    Alarm = "fork"    // there are two histories of it
	AlarmDeleted Alarm = "deleted" // the administrators of its hub ended it
	AlarmForged  Alarm = "forged"  // the server brought an operation that nobody may make
)

// GroupMember is a person in a group.
type GroupMember struct {
	User    clearbox.UserID // zero where nobody told who it is
	Role    chain.Role
	Invited bool // was not accepted yet
	Trust   Trust
	// Foreign tells that the keys by which the person is known are not those that
	// they were invited with: nothing is sent to the group until that is settled.
	Foreign bool
}

// Group is a group as this device knows it.
type Group struct {
	ID          clearbox.GroupID
	Title       string // empty where it is not known
	Description string
	Epoch       uint64
	Hub         clearbox.ServerName
	Policy      chain.Policy
	Members     []GroupMember // members and invited people
	Mine        chain.Status  // the own membership
	Role        chain.Role    // and its role
	InvitedBy   clearbox.UserID
	Closed      bool
	Alarm       Alarm
	AlarmBy     clearbox.UserID // of a fork: whose word it is; once they are out, it ends
	Behind      bool            // a member knows of changes that the own server does not show
}

// ErrNoGroup: there is no group by that name.
var ErrNoGroup = clearbox.Errorf(clearbox.CodeNotFound, "there is no such group")

const (
	prefixGroup  = "group/"     // <group>: what is known of it
	prefixOp     = "groupop/"   // <group>/<epoch>: verified operations
	prefixNewOp  = "groupnew/"  // <group>/<epoch>: operations that were not verified yet
	prefixWho    = "groupwho/"  // <group>/<member>: opening
	prefixSender = "sender/"    // <group>: own sender key
	prefixHear   = "hear/"      // <group>/<uuid>/<device>: sender keys of others
	prefixEarly  = "groupheld/" // <group>/<order>: messages that cannot be judged yet
)

func groupKey(id clearbox.GroupID) string { return prefixGroup + id.String() }

func opKey(prefix string, id clearbox.GroupID, epoch uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefix, id, epoch)
}

func whoKey(id clearbox.GroupID, m chain.Member) string {
	return prefixWho + id.String() + "/" + clearbox.MemberID(m).String()
}

// behind tells whether somebody who is in the group knows of an epoch that the own
// server does not show.
func (g *group) behind(st *chain.State) bool {
	return g.Behind > g.Epoch && st.Members[g.BehindBy].Status != chain.StatusFormer
}

// doubted tells whether nothing but a member's word speaks against the group's
// history.
func (g *group) doubted() bool { return g.AlarmBy != chain.Member{} }

// loadGroup gives a group's record and its verified state; nil where the vault
// has no record.
func (b *Brain) loadGroup(r Reader, id clearbox.GroupID) (*group, *chain.State, error) {
	g, err := load[group](r, groupKey(id))
	if err != nil || g == nil {
		return nil, nil, err
	}
	st, err := b.stateOf(r, g)
	return g, st, err
}

// stateOf gives the state that a group's operations led to, from memory where it
// is there.
func (b *Brain) stateOf(r Reader, g *group) (*chain.State, error) {
	if g.Epoch == 0 {
		return new(chain.State), nil
	}
	b.mu.Lock()
	st := b.states[g.ID]
	b.mu.Unlock()
	if st != nil && st.Epoch == g.Epoch && st.Head == g.Head {
		return st, nil
	}
	entries, err := r.List(Range{Prefix: prefixOp + g.ID.String() + "/"})
	if err != nil {
		return nil, err
	}
	ops := make([][]byte, 0, len(entries))
	for _, e := range entries {
		ops = append(ops, e.Value)
	}
	verified, err := chain.Verify(ops)
	if err != nil {
		return nil, fmt.Errorf("read a group of the vault: %w", err)
	}
	b.keepState(g.ID, &verified)
	return &verified, nil
}

// keepState remembers a verified state. What is remembered is used only where
// the vault names the same operation.
func (b *Brain) keepState(id clearbox.GroupID, st *chain.State) {
	b.mu.Lock()
	b.states[id] = st
	b.mu.Unlock()
}

// whoIs gives the person behind a membership; nil where nobody told, or the
// person was erased.
func whoIs(r Reader, id clearbox.GroupID, m chain.Member) (*chain.Opening, clearbox.UserID, error) {
	raw, err := optional(r.Get(whoKey(id, m)))
	if err != nil || raw == nil {
		return nil, clearbox.UserID{}, err
	}
	o, err := chain.ParseOpening(raw)
	if err != nil {
		return nil, clearbox.UserID{}, err
	}
	user, err := clearbox.ParseUserID(o.Account)
	return o, user, err
}

// memberOf gives the present membership of a person.
func memberOf(r Reader, g *group, st *chain.State, user clearbox.UserID) (chain.Member, bool, error) {
	all, err := membershipsOf(r, g, st, user)
	if err != nil || len(all) == 0 {
		return chain.Member{}, false, err
	}
	return all[0], true, nil
}

// membershipsOf gives all present memberships of a person, in their order: more
// than one where servers let them in twice.
func membershipsOf(r Reader, g *group, st *chain.State, user clearbox.UserID) (out []chain.Member, err error) {
	for id, m := range st.Members {
		if m.Status == chain.StatusFormer {
			continue
		}
		o, who, err := whoIs(r, g.ID, id)
		if err != nil {
			return nil, err
		}
		if o != nil && who == user {
			out = append(out, id)
		}
	}
	chain.SortMembers(out)
	return out, nil
}

// Groups gives all groups that the account is or was in, or is invited to, by
// their titles.
func (b *Brain) Groups(ctx context.Context) (out []Group, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: prefixGroup})
		if err != nil {
			return err
		}
		for _, e := range entries {
			g, err := parse[group](e.Value)
			if err != nil {
				return err
			}
			if g.Epoch == 0 {
				continue
			}
			shown, err := b.showGroup(r, g)
			if err != nil {
				return err
			}
			out = append(out, shown)
		}
		slices.SortFunc(out, func(x, y Group) int {
			return strings.Compare(x.Title+" "+x.ID.String(), y.Title+" "+y.ID.String())
		})
		return nil
	})
	return out, err
}

// Group gives one group; ErrNoGroup if there is none.
func (b *Brain) Group(ctx context.Context, id clearbox.GroupID) (out Group, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		g, err := load[group](r, groupKey(id))
		if err != nil {
			return err
		}
		if g == nil || g.Epoch == 0 {
			return ErrNoGroup
		}
		out, err = b.showGroup(r, g)
		return err
	})
	return out, err
}

func (b *Brain) showGroup(r Reader, g *group) (Group, error) {
	s, err := b.me()
	if err != nil {
		return Group{}, err
	}
	st, err := b.stateOf(r, g)
	if err != nil {
		return Group{}, err
	}
	out := Group{
		ID: g.ID, Title: g.Title, Description: g.Description, Epoch: st.Epoch, Hub: clearbox.ServerName(st.Hub), Policy: st.Policy,
		Closed: st.Closed, Alarm: g.Alarm, Behind: g.behind(st), Mine: st.Members[g.Me].Status, Role: st.Members[g.Me].Role,
	}
	if g.doubted() {
		if _, out.AlarmBy, err = whoIs(r, g.ID, g.AlarmBy); err != nil {
			return out, err
		}
	}
	for id, m := range st.Members {
		if m.Status == chain.StatusFormer {
			continue
		}
		o, user, err := whoIs(r, g.ID, id)
		if err != nil {
			return out, err
		}
		shown := GroupMember{User: user, Role: m.Role, Invited: m.Status == chain.StatusInvited, Trust: TrustUnverified}
		if user == s.User {
			shown.Trust = TrustVerified
		}
		if o != nil && user != s.User {
			c, err := load[contact](r, contactKey(uuidOfUser(user)))
			if err != nil {
				return out, err
			}
			if c != nil {
				shown.Trust = c.level()
				shown.Foreign = c.Changed != nil || c.Identity != nil && !c.known(o.Identity[:])
			}
		}
		out.Members = append(out.Members, shown)
	}
	slices.SortFunc(out.Members, func(x, y GroupMember) int { return strings.Compare(x.User.String(), y.User.String()) })
	if me, ok := st.Members[g.Me]; ok && me.Status == chain.StatusInvited {
		_, out.InvitedBy, err = whoIs(r, g.ID, me.AddedBy)
	}
	return out, err
}

// groupInfo is what a group is called, before it is sealed.
type groupInfo struct {
	Title       string `cbor:"1,keyasint"`
	Description string `cbor:"2,keyasint,omitempty"`
}

// MaxTitle and MaxDescription bound what a group is called, in bytes.
const (
	MaxTitle       = 200
	MaxDescription = 2000
)

// groupKeySize is that of the key under which a group's info is sealed, and
// groupKeysKept how many are kept: older ones open nothing new.
const (
	groupKeySize  = 32
	groupKeysKept = 8
)

// infoPad is the size in bytes to whose multiples an info is filled up.
const infoPad = 256

// sealInfo seals what a group is called with AES-256-GCM: 12 bytes of nonce, then
// the ciphertext of the CBOR, filled up with zeros behind 0x80.
func sealInfo(random io.Reader, key []byte, info groupInfo) ([]byte, error) {
	aead, err := infoCipher(key)
	if err != nil {
		return nil, err
	}
	plain, err := recordOut.Marshal(info)
	if err != nil {
		return nil, err
	}
	plain = append(plain, padMark)
	plain = append(plain, make([]byte, (infoPad-len(plain)%infoPad)%infoPad)...)
	nonce := make([]byte, aead.NonceSize())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, err
	}
	return aead.Seal(nonce, nonce, plain, nil), nil
}

func infoCipher(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// openInfo is the inverse of sealInfo; false where key does not fit.
func openInfo(key, sealed []byte) (groupInfo, bool) {
	aead, err := infoCipher(key)
	if err != nil || len(sealed) < aead.NonceSize() {
		return groupInfo{}, false
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil {
		return groupInfo{}, false
	}
	n := len(strings.TrimRight(string(plain), "\x00"))
	if n == 0 || plain[n-1] != padMark {
		return groupInfo{}, false
	}
	info, err := parse[groupInfo](plain[:n-1])
	if err != nil || len(info.Title) > MaxTitle || len(info.Description) > MaxDescription {
		return groupInfo{}, false
	}
	return *info, true
}

// nameGroup reads what the group is called, if one of its keys fits.
func nameGroup(g *group, st *chain.State) {
	for _, key := range g.Keys {
		if info, ok := openInfo(key, st.Info); ok {
			g.Title, g.Description = info.Title, info.Description
			return
		}
	}
}

// learnKey takes a key for what the group is called.
func learnKey(g *group, key []byte) error {
	if len(key) != groupKeySize {
		return errors.New("core: a group's key of another size")
	}
	if !slices.ContainsFunc(g.Keys, func(k []byte) bool { return string(k) == string(key) }) {
		g.Keys = append([][]byte{key}, g.Keys...)
		g.Keys = g.Keys[:min(len(g.Keys), groupKeysKept)]
	}
	return nil
}
