package chain_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/chain"
)

var update = flag.Bool("update", false, "rewrite golden files")

const morning = 1_790_000_000_000 // milliseconds since 1970

// A person has a member id, an opening and devices, all made of a name.
type person struct {
	id      chain.Member
	opening chain.Opening
	phone   ed25519.PrivateKey
	laptop  ed25519.PrivateKey
}

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func newPerson(name string) person {
	p := person{phone: key(name + " phone"), laptop: key(name + " laptop")}
	h := sha256.Sum256([]byte(name + " id"))
	copy(p.id[:], h[:])
	p.opening = chain.Opening{Member: p.id, Salt: sha256.Sum256([]byte(name + " salt")), Account: name + "@a.test"}
	p.opening.Identity[0] = 5
	copy(p.opening.Identity[1:], name)
	return p
}

var (
	alice, bob, carol = newPerson("alice"), newPerson("bob"), newPerson("carol")
	dave, mallory     = newPerson("dave"), newPerson("mallory")
)

func invitee(p person, r chain.Role) chain.Invitee {
	return chain.Invitee{Member: p.id, Commitment: p.opening.Commitment(), Role: r}
}

// history is a chain that grows.
type history struct {
	t     testing.TB
	state chain.State
	ops   [][]byte
}

func policy() chain.Policy { return chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: 10} }

func creation() *chain.Op {
	return &chain.Op{Epoch: 1, Actor: alice.id, Signer: public(alice.phone), List: 1, Time: morning, Body: chain.Create{
		Hub: "a.test", Nonce: [16]byte{1, 2, 3}, Commitment: alice.opening.Commitment(), Policy: policy(), Info: []byte("sealed title"),
	}}
}

func sign(t testing.TB, k ed25519.PrivateKey, o *chain.Op) []byte {
	t.Helper()
	raw, err := chain.Sign(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func begin(t testing.TB) *history {
	t.Helper()
	h := &history{t: t}
	h.add(sign(t, alice.phone, creation()))
	return h
}

func (h *history) add(raw []byte) {
	h.t.Helper()
	next, err := h.state.Apply(raw)
	if err != nil {
		h.t.Fatalf("operation %d: %v", h.state.Epoch+1, err)
	}
	h.state, h.ops = next, append(h.ops, raw)
}

// next signs what follows with the person's phone.
func (h *history) next(p person, body chain.Body) []byte { return h.nextWith(p, p.phone, body) }

func (h *history) nextWith(p person, device ed25519.PrivateKey, body chain.Body) []byte {
	h.t.Helper()
	o := h.state.Next(p.id, public(device), 1, morning)
	o.Body = body
	return sign(h.t, device, o)
}

func (h *history) do(p person, body chain.Body) {
	h.t.Helper()
	h.add(h.next(p, body))
}

func invite(p person, r chain.Role) chain.Add {
	return chain.Add{Invitees: []chain.Invitee{invitee(p, r)}}
}

// peopled is a group with alice as owner, bob as admin, carol as member, dave
// invited by bob, and mallory who was a member.
func peopled(t testing.TB) *history {
	t.Helper()
	h := begin(t)
	all := []chain.Invitee{invitee(bob, chain.RoleAdmin), invitee(carol, chain.RoleMember), invitee(mallory, chain.RoleMember)}
	chain.SortInvitees(all)
	h.do(alice, chain.Add{Invitees: all})
	h.do(bob, chain.Accept{})
	h.do(carol, chain.Accept{})
	h.do(mallory, chain.Accept{})
	h.do(bob, chain.Remove{Members: []chain.Member{mallory.id}})
	h.do(bob, invite(dave, chain.RoleMember))
	return h
}

func TestHistory(t *testing.T) {
	h := peopled(t)
	h.do(dave, chain.Accept{})
	h.add(h.nextWith(carol, carol.laptop, chain.Introduce{}))
	h.add(h.nextWith(carol, carol.laptop, chain.Remove{Members: []chain.Member{carol.id}}))
	h.do(alice, chain.SetRole{Member: dave.id, Role: chain.RoleAdmin})
	h.do(dave, chain.SetInfo{Sealed: []byte("new title")})
	h.do(dave, chain.SetPolicy{Policy: chain.Policy{MayAdd: chain.MembersAdd, MaxMembers: 3, Disappear: 3600, Countries: []string{"CH", "DE"}, Servers: []string{"a.test", "b.test"}}})
	h.do(alice, chain.SetRole{Member: bob.id, Role: chain.RoleOwner})
	h.do(alice, chain.Remove{Members: []chain.Member{alice.id}})
	h.do(bob, chain.Close{})

	got, err := chain.Verify(h.ops)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, h.state) {
		t.Error("Verify and Apply lead to different states")
	}
	if got.Group != chain.HashOf(h.ops[0]) || got.Head != chain.HashOf(h.ops[len(h.ops)-1]) || got.Epoch != uint64(len(h.ops)) {
		t.Errorf("group, head or epoch is wrong at epoch %d of %d operations", got.Epoch, len(h.ops))
	}
	want := map[chain.Member]struct {
		role   chain.Role
		status chain.Status
		keys   int
	}{
		alice.id:   {chain.RoleOwner, chain.StatusFormer, 1},
		bob.id:     {chain.RoleOwner, chain.StatusActive, 1},
		carol.id:   {chain.RoleMember, chain.StatusFormer, 2},
		dave.id:    {chain.RoleAdmin, chain.StatusActive, 1},
		mallory.id: {chain.RoleMember, chain.StatusFormer, 1},
	}
	for id, w := range want {
		m := got.Members[id]
		if m.Role != w.role || m.Status != w.status || len(m.Keys) != w.keys {
			t.Errorf("member %x is %s, %s, with %d keys", id[:4], m.Role, m.Status, len(m.Keys))
		}
	}
	if !got.Closed || got.Present() != 2 || string(got.Info) != "new title" || got.Policy.Disappear != 3600 {
		t.Errorf("closed %v, %d present, info %q, policy %+v", got.Closed, got.Present(), got.Info, got.Policy)
	}
	if m := got.Members[mallory.id]; m.Added != 2 || m.Joined != 5 || m.Ended != 6 || m.AddedBy != alice.id {
		t.Errorf("mallory: %+v", m)
	}
}

// A state that was given does not change when an operation follows.
func TestApplyLeavesTheStateBefore(t *testing.T) {
	h := peopled(t)
	before, was := h.state, *h
	again, err := chain.Verify(h.ops)
	if err != nil {
		t.Fatal(err)
	}
	h.do(dave, chain.Accept{})
	h.add(h.nextWith(carol, carol.laptop, chain.Introduce{}))
	h.do(alice, chain.SetRole{Member: carol.id, Role: chain.RoleAdmin})
	if _, err := h.state.Apply(h.next(carol, chain.Close{})); !errors.Is(err, chain.ErrRole) {
		t.Fatalf("close by an admin: %v", err)
	}
	if !reflect.DeepEqual(before, again) || !reflect.DeepEqual(was.state, again) {
		t.Error("the state before has changed")
	}
}

// Every refusal has its own error, and the state stays.
func TestRefusals(t *testing.T) {
	stranger := newPerson("stranger")
	ids := func(p ...person) (out []chain.Member) {
		for _, p := range p {
			out = append(out, p.id)
		}
		chain.SortMembers(out)
		return out
	}
	signed := func(h *history, p person, device ed25519.PrivateKey, change func(*chain.Op)) []byte {
		o := h.state.Next(p.id, public(device), 1, morning)
		o.Body = chain.SetInfo{}
		change(o)
		return chain.SignUnchecked(device, o)
	}
	for _, c := range []struct {
		name string
		raw  func(h *history) []byte
		want error
	}{
		{"second create", func(h *history) []byte { return sign(t, alice.phone, creation()) }, chain.ErrNoGroup},
		{"another group", func(h *history) []byte {
			return signed(h, alice, alice.phone, func(o *chain.Op) { o.Group[0] ^= 1 })
		}, chain.ErrGroup},
		{"epoch skipped", func(h *history) []byte { return signed(h, alice, alice.phone, func(o *chain.Op) { o.Epoch++ }) }, chain.ErrEpoch},
		{"epoch of the past", func(h *history) []byte { return signed(h, alice, alice.phone, func(o *chain.Op) { o.Epoch-- }) }, chain.ErrEpoch},
		{"replayed accept", func(h *history) []byte { return h.ops[2] }, chain.ErrEpoch},
		{"another history", func(h *history) []byte { return signed(h, alice, alice.phone, func(o *chain.Op) { o.Prev[5] ^= 1 }) }, chain.ErrPrev},
		{"dated before", func(h *history) []byte { return signed(h, alice, alice.phone, func(o *chain.Op) { o.Time-- }) }, chain.ErrTime},
		{"signed by another key", func(h *history) []byte {
			o := h.state.Next(alice.id, public(alice.phone), 1, morning)
			o.Body = chain.Close{}
			return chain.SignUnchecked(key("attacker"), o)
		}, chain.ErrSignature},
		{"a changed byte", func(h *history) []byte {
			raw := h.next(alice, chain.SetInfo{Sealed: []byte("x")})
			raw[len(raw)-65] ^= 1
			return raw
		}, chain.ErrSignature},
		{"unknown actor", func(h *history) []byte { return h.next(stranger, chain.SetInfo{}) }, chain.ErrUnknownMember},
		{"unknown device of a member", func(h *history) []byte { return h.nextWith(alice, alice.laptop, chain.SetInfo{}) }, chain.ErrKey},
		{"device of another member", func(h *history) []byte { return h.nextWith(alice, bob.phone, chain.SetInfo{}) }, chain.ErrKey},
		{"former member acts", func(h *history) []byte { return h.next(mallory, chain.SetInfo{}) }, chain.ErrNotActive},
		{"invited person acts", func(h *history) []byte { return h.next(dave, chain.Remove{Members: ids(dave)}) }, chain.ErrNotActive},
		{"former member accepts again", func(h *history) []byte { return h.next(mallory, chain.Accept{}) }, chain.ErrNotInvited},
		{"member accepts again", func(h *history) []byte { return h.next(carol, chain.Accept{}) }, chain.ErrNotInvited},
		{"member declines", func(h *history) []byte { return h.next(carol, chain.Decline{}) }, chain.ErrNotInvited},
		{"accept with a member's device", func(h *history) []byte { return h.nextWith(dave, carol.phone, chain.Accept{}) }, chain.ErrKeyInUse},
		{"accept by somebody unknown: a ghost", func(h *history) []byte { return h.next(stranger, chain.Accept{}) }, chain.ErrUnknownMember},
		{"member adds", func(h *history) []byte { return h.next(carol, invite(stranger, chain.RoleMember)) }, chain.ErrRole},
		{"known id added", func(h *history) []byte { return h.next(bob, invite(mallory, chain.RoleMember)) }, chain.ErrMemberInUse},
		{"too many", func(h *history) []byte {
			var a chain.Add
			for _, n := range []string{"1", "2", "3", "4", "5", "6", "7"} {
				a.Invitees = append(a.Invitees, invitee(newPerson(n), chain.RoleMember))
			}
			chain.SortInvitees(a.Invitees)
			return h.next(alice, a)
		}, chain.ErrFull},
		{"unknown removed", func(h *history) []byte { return h.next(alice, chain.Remove{Members: ids(stranger)}) }, chain.ErrUnknownMember},
		{"former removed again", func(h *history) []byte { return h.next(alice, chain.Remove{Members: ids(mallory)}) }, chain.ErrNotActive},
		{"member removes another", func(h *history) []byte { return h.next(carol, chain.Remove{Members: ids(bob)}) }, chain.ErrRole},
		{"member removes another with itself", func(h *history) []byte { return h.next(carol, chain.Remove{Members: ids(bob, carol)}) }, chain.ErrRole},
		{"member takes back another's invitation", func(h *history) []byte { return h.next(carol, chain.Remove{Members: ids(dave)}) }, chain.ErrRole},
		{"admin removes the owner", func(h *history) []byte { return h.next(bob, chain.Remove{Members: ids(alice)}) }, chain.ErrRole},
		{"member promotes itself", func(h *history) []byte { return h.next(carol, chain.SetRole{Member: carol.id, Role: chain.RoleAdmin}) }, chain.ErrRole},
		{"admin makes an owner", func(h *history) []byte { return h.next(bob, chain.SetRole{Member: bob.id, Role: chain.RoleOwner}) }, chain.ErrRole},
		{"admin demotes the owner", func(h *history) []byte { return h.next(bob, chain.SetRole{Member: alice.id, Role: chain.RoleMember}) }, chain.ErrRole},
		{"role of somebody invited", func(h *history) []byte { return h.next(alice, chain.SetRole{Member: dave.id, Role: chain.RoleAdmin}) }, chain.ErrNotActive},
		{"role of somebody unknown", func(h *history) []byte {
			return h.next(alice, chain.SetRole{Member: stranger.id, Role: chain.RoleAdmin})
		}, chain.ErrUnknownMember},
		{"member sets the policy", func(h *history) []byte { return h.next(carol, chain.SetPolicy{Policy: policy()}) }, chain.ErrRole},
		{"member sets the info", func(h *history) []byte { return h.next(carol, chain.SetInfo{}) }, chain.ErrRole},
		{"admin closes", func(h *history) []byte { return h.next(bob, chain.Close{}) }, chain.ErrRole},
		{"admin moves the hub", func(h *history) []byte { return h.next(bob, chain.HubMove{Hub: "b.test"}) }, chain.ErrRole},
		{"hub move with a forged countersignature", func(h *history) []byte {
			return h.next(alice, chain.HubMove{Hub: "b.test", By: []chain.Countersignature{{Server: "b.test", Key: public(key("b.test")), Signature: make([]byte, 64)}}})
		}, chain.ErrCountersignature},
		{"device that is known", func(h *history) []byte { return h.next(carol, chain.Introduce{}) }, chain.ErrKeyInUse},
		{"device of somebody invited", func(h *history) []byte { return h.next(dave, chain.Introduce{}) }, chain.ErrNotActive},
		{"after the close", func(h *history) []byte {
			h.do(alice, chain.Close{})
			return h.next(alice, chain.SetInfo{})
		}, chain.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := peopled(t)
			raw := c.raw(h)
			before := h.state.Epoch
			if _, err := h.state.Apply(raw); !errors.Is(err, c.want) {
				t.Errorf("refused with %v, want %v", err, c.want)
			}
			if got, err := chain.Verify(append(h.ops, raw)); !errors.Is(err, c.want) || got.Epoch != before {
				t.Errorf("Verify stops at epoch %d with %v", got.Epoch, err)
			}
		})
	}
}

func TestWhatRolesAllow(t *testing.T) {
	h := peopled(t)
	h.do(bob, chain.SetPolicy{Policy: chain.Policy{MayAdd: chain.MembersAdd, MaxMembers: 10}})
	eve := newPerson("eve")
	if _, err := h.state.Apply(h.next(carol, invite(eve, chain.RoleAdmin))); !errors.Is(err, chain.ErrRole) {
		t.Errorf("member invites an admin: %v", err)
	}
	h.do(carol, invite(eve, chain.RoleMember))
	h.do(carol, chain.Remove{Members: []chain.Member{eve.id}})         // takes its invitation back
	h.do(dave, chain.Decline{})                                        // bob's invitation
	h.do(bob, chain.SetRole{Member: carol.id, Role: chain.RoleAdmin})  //
	h.do(carol, chain.SetRole{Member: bob.id, Role: chain.RoleMember}) // admins among themselves
	h.do(alice, chain.Remove{Members: []chain.Member{bob.id}})         //
	back := newPerson("bob again")                                     // who comes back has another id
	back.phone = bob.phone                                             // and may have the same device
	h.do(carol, invite(back, chain.RoleMember))                        //
	h.do(back, chain.Accept{})                                         //
	statement := chain.HubMoveStatement(h.state.Group, h.state.Epoch+1, h.state.Head, "b.test")
	server := key("b.test")
	h.do(alice, chain.HubMove{Hub: "b.test", By: []chain.Countersignature{{Server: "b.test", Key: public(server), Signature: ed25519.Sign(server, statement)}}})
	if h.state.Hub != "b.test" {
		t.Errorf("the hub is %s", h.state.Hub)
	}
}

func TestKeysOfAMemberAreBounded(t *testing.T) {
	h := begin(t)
	for i := range chain.MaxKeys - 1 {
		h.add(h.nextWith(alice, key(string(rune('a'+i))), chain.Introduce{}))
	}
	if _, err := h.state.Apply(h.nextWith(alice, key("one more"), chain.Introduce{})); !errors.Is(err, chain.ErrLimit) {
		t.Errorf("one key more: %v", err)
	}
}

func TestVerifyBeginsWithCreate(t *testing.T) {
	h := peopled(t)
	if s, err := chain.Verify(h.ops[1:]); !errors.Is(err, chain.ErrNoGroup) || s.Epoch != 0 {
		t.Errorf("a chain without its beginning: epoch %d, %v", s.Epoch, err)
	}
	if s, err := chain.Verify(nil); err != nil || s.Epoch != 0 {
		t.Errorf("no chain: epoch %d, %v", s.Epoch, err)
	}
}

// A time of the signer's clock that lags behind the chain is moved forward.
func TestNextNeverGoesBack(t *testing.T) {
	h := begin(t)
	if o := h.state.Next(alice.id, public(alice.phone), 1, morning-5000); o.Time != morning {
		t.Errorf("time %d", o.Time)
	}
	if o := h.state.Next(alice.id, public(alice.phone), 1, morning+5000); o.Time != morning+5000 {
		t.Errorf("time %d", o.Time)
	}
}

// Who is erased leaves a chain that verifies: nothing in it depends on openings.
func TestOpenings(t *testing.T) {
	h := peopled(t)
	o := carol.opening
	if err := h.state.Opens(&o); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*chain.Opening){
		"another account":  func(o *chain.Opening) { o.Account = "mallory@a.test" },
		"another identity": func(o *chain.Opening) { o.Identity[7] ^= 1 },
		"another salt":     func(o *chain.Opening) { o.Salt[7] ^= 1 },
		"another member":   func(o *chain.Opening) { o.Member = bob.id },
	} {
		o := carol.opening
		spoil(&o)
		if err := h.state.Opens(&o); !errors.Is(err, chain.ErrCommitment) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.Member[0] ^= 1
	if err := h.state.Opens(&o); !errors.Is(err, chain.ErrUnknownMember) {
		t.Errorf("unknown member: %v", err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs: a changed encoding is a changed protocol", path)
	}
}
