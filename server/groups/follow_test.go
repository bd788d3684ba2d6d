package groups_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/storage"
)

// followed is a group of another hub: owner and carol there, alice here, dave here
// who is in it later.
type followed struct {
	*world
	*story
	owner, carol, alice, dave *member
}

func follow(t *testing.T) *followed {
	w := newWorld(t)
	f := &followed{world: w, owner: w.elsewhere("owner", there), carol: w.elsewhere("carol", there), alice: w.local("alice"), dave: w.local("dave")}
	f.story = w.afar(f.owner, rules())
	w.serve(f.story)
	f.hear(f.owner, invite(chain.RoleMember, f.carol, f.alice), f.carol, f.alice)
	f.hear(f.carol, chain.Accept{})
	f.obey()
	if err := w.submit(f.story, f.alice, f.next(f.alice, chain.Accept{})); err != nil {
		t.Fatal(err)
	}
	f.note(f.next(f.alice, chain.Accept{}))
	return f
}

// hear has the hub put an operation into its place and tell of it.
func (f *followed) hear(m *member, body chain.Body, who ...*member) {
	f.world.T.Helper()
	raw := f.next(m, body)
	f.note(raw)
	f.opens = append(f.opens, openings(who...)...)
	f.tell(federation.GroupOp{Group: f.id, Op: raw, Openings: openings(who...)})
}

// obey has the hub take what comes to it.
func (f *followed) obey() {
	f.hub = func(g federation.GroupOp) (uint64, [32]byte, error) {
		next, err := f.state.Apply(g.Op)
		return next.Epoch, [32]byte(next.Head), err
	}
}

func TestFollower(t *testing.T) {
	f := follow(t)
	if g := f.stored(f.story); g.Hub != there || g.Epoch != 4 || g.State != storage.GroupActive {
		t.Fatalf("stored as %+v", g)
	}
	// What was answered already is told again and not shown twice.
	f.tell(federation.GroupOp{Group: f.id, Op: f.ops[3]})
	f.hear(f.owner, chain.SetInfo{Sealed: []byte("x")})
	if got := f.mail(f.alice); len(got) != 4 || got[0].Epoch != 2 || len(got[0].Openings) != 2 || got[3].Epoch != 5 {
		t.Errorf("alice was told %d times", len(got))
	}
	if out := f.outgoing(); len(out) != 0 {
		t.Errorf("a follower tells %d operations on", len(out))
	}
	// An operation went missing: the next one has us ask.
	f.note(f.next(f.owner, invite(chain.RoleMember, f.dave)))
	f.opens = append(f.opens, openings(f.dave)...)
	f.history = func(after uint64) (federation.GroupHistory, error) {
		return federation.GroupHistory{Ops: f.ops[after:], Openings: openings(f.dave)}, nil
	}
	f.hear(f.owner, chain.SetInfo{Sealed: []byte("y")})
	if g := f.stored(f.story); g.Epoch != 7 || g.State != storage.GroupActive {
		t.Errorf("after the gap: %+v", g)
	}
	if got := f.mail(f.dave); len(got) != 2 || got[0].Epoch != 6 || len(got[0].Openings) != 1 {
		t.Errorf("dave was told %d times", len(got))
	}
	f.restart()
	roster, err := f.groups.Roster(t.Context(), f.id)
	if err != nil || roster.Epoch != 7 || roster.Members[f.dave.User].Status != delivery.MemberInvited || roster.Members[f.owner.User].Status != delivery.MemberActive {
		t.Errorf("the roster: %+v, %v", roster, err)
	}
	f.tell(federation.GroupOp{Group: f.id, Ended: true})
	if g := f.stored(f.story); g.State != storage.GroupDeleted || len(f.alerts) != 0 {
		t.Errorf("after its end: %+v, alerts %v", g, f.alerts)
	}
}

// Threat 16: without the hub the membership stands still, and nothing else.
func TestThreat16HubWithholds(t *testing.T) {
	f := follow(t)
	f.hub, f.history = nil, nil
	leave := f.next(f.alice, chain.Remove{Members: []chain.Member{f.alice.opening.Member}})
	if err := f.submit(f.story, f.alice, leave); clearbox.CodeOf(err) != clearbox.CodeHubUnreachable {
		t.Errorf("leaving: %v", err)
	}
	if roster, err := f.groups.Roster(t.Context(), f.id); err != nil || roster.Closed || roster.Members[f.alice.User].Status != delivery.MemberActive {
		t.Errorf("the roster: %+v, %v", roster, err)
	}
	// What was told and cannot be taken yet waits, and is taken when the hub is back.
	f.note(f.next(f.owner, chain.SetInfo{Sealed: []byte("missed")}))
	f.hear(f.owner, chain.SetInfo{Sealed: []byte("told")})
	if g := f.stored(f.story); g.Epoch != 4 {
		t.Errorf("at epoch %d", g.Epoch)
	}
	f.serve(f.story)
	f.Clock.Fly(time.Minute)
	f.follow()
	if g := f.stored(f.story); g.Epoch != 6 || g.State != storage.GroupActive {
		t.Errorf("with the hub back: %+v", g)
	}
	// Others were faster at the hub: the device learns of it after its server did.
	slow := f.next(f.alice, chain.Remove{Members: []chain.Member{f.alice.opening.Member}})
	f.note(f.next(f.owner, chain.SetInfo{Sealed: []byte("faster")}))
	f.hub = func(federation.GroupOp) (uint64, [32]byte, error) {
		return 0, [32]byte{}, &clearbox.GroupChangedError{Epoch: 7}
	}
	var changed *clearbox.GroupChangedError
	if err := f.submit(f.story, f.alice, slow); !errors.As(err, &changed) || changed.Epoch != 7 || f.stored(f.story).Epoch != 7 {
		t.Errorf("the slower: %v, stored at %d", err, f.stored(f.story).Epoch)
	}
}

// told brings an operation from the hub with the openings of those whom it adds.
func (f *followed) told(raw []byte, who ...*member) {
	f.tell(federation.GroupOp{Group: f.id, Op: raw, Openings: openings(who...)})
}

// treason is something that a hostile hub does, and what an operator is told.
type treason struct {
	run  func(f *followed)
	kind federation.Alert
}

// Threat 15: what a hostile hub makes up is refused, each for its own reason; the
// membership is frozen, an operator told, and messages go on among those who were
// known.
func TestThreat15HubAddsAMember(t *testing.T) {
	suffer(t, map[string]treason{
		"forged add: signed by a key that is nobody's": {func(f *followed) {
			key := f.PersonAt("x", there).Devices[1]
			f.told(f.nextWith(f.owner, key, invite(1, f.dave)), f.dave)
		}, federation.AlertGroupInvalid},
		"swapped bytes": {func(f *followed) {
			raw := slices.Clone(f.next(f.owner, chain.SetInfo{Sealed: []byte("x")}))
			raw[len(raw)-70] ^= 1
			f.told(raw)
		}, federation.AlertGroupInvalid},
		"by a lower role": {func(f *followed) {
			f.told(f.next(f.carol, chain.Remove{Members: []chain.Member{f.alice.opening.Member}}))
		}, federation.AlertGroupInvalid},
		"without openings": {func(f *followed) {
			f.told(f.next(f.owner, invite(1, f.dave)))
		}, federation.AlertGroupInvalid},
		"opening of another": {func(f *followed) {
			f.told(f.next(f.owner, invite(1, f.dave)), f.carol)
		}, federation.AlertGroupInvalid},
		"opening with another salt": {func(f *followed) {
			raw := f.next(f.owner, invite(1, f.dave))
			f.dave.opening.Salt[3] ^= 1
			f.told(raw, f.dave)
		}, federation.AlertGroupInvalid},
		"swapped identity of somebody here": {func(f *followed) {
			f.dave.opening.Identity = f.carol.opening.Identity
			f.told(f.next(f.owner, invite(1, f.dave)), f.dave)
		}, federation.AlertGroupInvalid},
		"swapped identity of somebody elsewhere": {func(f *followed) {
			erin := f.elsewhere("erin", there)
			erin.opening.Identity = f.carol.opening.Identity
			f.told(f.next(f.owner, invite(1, erin)), erin)
		}, federation.AlertGroupInvalid},
		"ghost member": {func(f *followed) {
			ghost := f.world.member(f.PersonAt("ghost", there), f.owner.who)
			f.told(f.next(f.owner, invite(1, ghost)), ghost)
		}, federation.AlertGroupInvalid},
		"ghost device accepts": {func(f *followed) {
			erin := f.elsewhere("erin", there)
			f.hear(f.owner, invite(1, erin), erin)
			f.told(f.nextWith(erin, f.PersonAt("x", there).Devices[1], chain.Accept{}))
		}, federation.AlertGroupInvalid},
		"ghost device is introduced": {func(f *followed) {
			f.told(f.nextWith(f.carol, f.PersonAt("x", there).Devices[1], chain.Introduce{}))
		}, federation.AlertGroupInvalid},
		"by a removed device": {func(f *followed) {
			f.owner.AddDevice(2)
			f.owner.DropDevice(1)
			f.publish(f.owner.Person)
			f.Clock.Fly(2 * time.Hour) // what was looked up before is old
			f.told(f.next(f.owner, chain.SetInfo{Sealed: []byte("x")}))
		}, federation.AlertGroupInvalid},
		"replayed accept": {func(f *followed) {
			f.hear(f.owner, chain.Remove{Members: []chain.Member{f.carol.opening.Member}})
			f.told(f.next(f.carol, chain.Accept{}))
		}, federation.AlertGroupInvalid},
		"somebody of a server that the policy excludes": {func(f *followed) {
			p := rules()
			p.Servers = []string{string(home), string(there)}
			f.hear(f.owner, chain.SetPolicy{Policy: p})
			erin := f.elsewhere("erin", "c.test")
			f.told(f.next(f.owner, invite(1, erin)), erin)
		}, federation.AlertGroupInvalid},
		"somebody of a country that the policy excludes": {func(f *followed) {
			p := rules()
			p.Countries = []string{"AT", "DE"}
			f.hear(f.owner, chain.SetPolicy{Policy: p})
			f.country["c.test"] = "US"
			erin := f.elsewhere("erin", "c.test")
			f.told(f.next(f.owner, invite(1, erin)), erin)
		}, federation.AlertGroupInvalid},
		"a policy against a member": {func(f *followed) {
			p := rules()
			p.Countries = []string{"DE"}
			f.told(f.next(f.owner, chain.SetPolicy{Policy: p}))
		}, federation.AlertGroupInvalid},
		"an answer about another operation": {func(f *followed) {
			f.hub = func(federation.GroupOp) (uint64, [32]byte, error) { return 5, [32]byte{1}, nil }
			err := f.submit(f.story, f.alice, f.next(f.alice, chain.Remove{Members: []chain.Member{f.alice.opening.Member}}))
			if clearbox.CodeOf(err) != clearbox.CodeGroupFrozen {
				f.world.T.Errorf("the device is told %v", err)
			}
		}, federation.AlertGroupInvalid},
	})
}

// Threat 16: two histories of one group are noticed by whoever knows one of them.
func TestThreat16HubForks(t *testing.T) {
	suffer(t, map[string]treason{
		"fork: another operation for an epoch that is over": {func(f *followed) {
			before := f.state
			f.hear(f.owner, chain.SetInfo{Sealed: []byte("one")})
			f.state = before
			f.told(f.next(f.owner, chain.SetInfo{Sealed: []byte("two")}))
		}, federation.AlertGroupFork},
		"fork: the next operation follows another history": {func(f *followed) {
			before := f.state
			f.hear(f.owner, chain.SetInfo{Sealed: []byte("one")})
			other, err := before.Apply(func() []byte {
				o := before.Next(f.owner.opening.Member, f.state.Members[f.owner.opening.Member].Keys[0], 1, f.Clock.Now().UnixMilli())
				o.Body = chain.SetInfo{Sealed: []byte("two")}
				return f.sign(f.owner.Devices[1], o)
			}())
			if err != nil {
				f.world.T.Fatal(err)
			}
			f.state = other
			f.told(f.next(f.owner, chain.SetInfo{Sealed: []byte("three")}))
		}, federation.AlertGroupFork},
	})
}

func suffer(t *testing.T, treasons map[string]treason) {
	for name, c := range treasons {
		t.Run(name, func(t *testing.T) {
			f := follow(t)
			f.history = nil
			c.run(f)
			g := f.stored(f.story)
			if g.State != storage.GroupFrozen || g.Reason != string(c.kind) || !slices.Equal(f.alerts, []federation.Alert{c.kind}) {
				t.Errorf("stored as %s for %q, alerts %v", g.State, g.Reason, f.alerts)
			}
			roster, err := f.groups.Roster(t.Context(), f.id)
			if err != nil || roster.Closed || roster.Epoch != g.Epoch || roster.Members[f.alice.User].Status != delivery.MemberActive {
				t.Errorf("the roster: %+v, %v", roster, err)
			}
			f.obey()
			err = f.submit(f.story, f.alice, f.next(f.alice, chain.Remove{Members: []chain.Member{f.alice.opening.Member}}))
			if code := clearbox.CodeOf(err); code != clearbox.CodeGroupFrozen && code != clearbox.CodeGroupChanged {
				t.Errorf("an operation afterwards: %v", err)
			}
			f.tell(federation.GroupOp{Group: f.id, Op: f.next(f.owner, chain.SetInfo{})})
			if again := f.stored(f.story); again.Epoch != g.Epoch || len(f.alerts) != 1 {
				t.Errorf("frozen and at epoch %d, alerts %v", again.Epoch, f.alerts)
			}
		})
	}
}

// Invitations that are none have nobody here fetch or show anything.
func TestInvitationsThatAreNone(t *testing.T) {
	w := newWorld(t)
	owner, alice := w.elsewhere("owner", there), w.local("alice")
	s := w.afar(owner, rules())
	asked := 0
	serve := func(f func(after uint64) (federation.GroupHistory, error)) {
		w.history = func(after uint64) (federation.GroupHistory, error) {
			asked++
			return f(after)
		}
	}
	w.serve(s)
	honest := w.history
	serve(honest)
	add := s.next(owner, invite(chain.RoleMember, alice))
	ghost := w.member(w.Person("ghost"), owner.who)
	for name, g := range map[string]federation.GroupOp{
		"no add":           {Group: s.id, Op: s.ops[0], Openings: openings(owner)},
		"no opening":       {Group: s.id, Op: add},
		"nobody here":      {Group: s.id, Op: s.next(owner, invite(1, owner)), Openings: openings(owner)},
		"a ghost here":     {Group: s.id, Op: s.next(owner, invite(1, ghost)), Openings: openings(ghost)},
		"its end":          {Group: s.id, Ended: true},
		"nothing readable": {Group: s.id, Op: []byte("x")},
	} {
		w.tell(g)
		if asked != 0 {
			t.Fatalf("%s: the hub was asked", name)
		}
	}
	// A history of another group, of another hub, and one that does not verify.
	s.note(add)
	s.opens = append(s.opens, openings(alice)...)
	other := w.afar(w.again(owner), rules())
	for name, h := range map[string]federation.GroupHistory{
		"another group":     {Ops: other.ops, Openings: other.opens},
		"broken":            {Ops: [][]byte{s.ops[1]}},
		"a foreign opening": {Ops: s.ops, Openings: append(openings(w.again(owner)), s.opens...)},
	} {
		serve(func(uint64) (federation.GroupHistory, error) { return h, nil })
		w.alerts = nil
		w.tell(federation.GroupOp{Group: s.id, Op: add, Openings: openings(alice)})
		if !slices.Equal(w.alerts, []federation.Alert{federation.AlertGroupInvalid}) {
			t.Errorf("%s: alerts %v", name, w.alerts)
		}
	}
	if got := w.mail(alice); len(got) != 0 {
		t.Errorf("alice was shown %d", len(got))
	}
	// The true one is shown, to who has not blocked whoever invites.
	bob := w.local("bob")
	s.note(s.next(owner, invite(chain.RoleMember, bob)))
	s.opens = append(s.opens, openings(bob)...)
	w.Update(func(tx *storage.Tx) error { return tx.Block(bob.who.UserNo, owner.User) })
	serve(honest)
	w.tell(federation.GroupOp{Group: s.id, Op: s.ops[2], Openings: openings(bob)})
	if got := w.mail(alice); len(got) != 1 || got[0].Epoch != 3 {
		t.Errorf("alice was shown %d", len(got))
	}
	if got := w.mail(bob); len(got) != 0 {
		t.Errorf("bob was shown %d of somebody blocked", len(got))
	}
	if g := w.stored(s); g.Epoch != 3 || g.Hub != there {
		t.Errorf("stored as %+v", g)
	}
	if err := w.groups.Delete(t.Context(), storage.AuditEntry{Action: "group.delete"}, s.id); clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("a group of another hub deleted: %v", err)
	}
}

// A member whose server does not answer is taken on the chain's word at a follower,
// and not where the operation is handed in.
func TestFollowerWhileAnotherServerIsAway(t *testing.T) {
	f := follow(t)
	erin := f.elsewhere("erin", "c.test")
	f.away["c.test"] = true
	f.hear(f.owner, invite(chain.RoleMember, erin), erin)
	f.hear(erin, chain.Accept{})
	if g := f.stored(f.story); g.Epoch != 6 || g.State != storage.GroupActive {
		t.Errorf("stored as %+v", g)
	}
	f.hear(f.owner, chain.SetRole{Member: f.alice.opening.Member, Role: chain.RoleAdmin})
	finn := f.elsewhere("finn", "c.test")
	err := f.submit(f.story, f.alice, f.next(f.alice, invite(chain.RoleMember, finn)), openings(finn)...)
	if clearbox.CodeOf(err) != clearbox.CodePeerUnreachable {
		t.Errorf("handed in: %v", err)
	}
	if errors.Is(err, groups.ErrGhost) {
		t.Error("away is taken for nobody")
	}
}

// A hub whose history of a group never ends is asked no more once it is larger than
// any group's, and an operator told.
func TestHistoryWithoutEnd(t *testing.T) {
	w := newWorld(t)
	owner, alice := w.elsewhere("owner", there), w.local("alice")
	s := w.afar(owner, rules())
	asked, op := 0, make([]byte, federation.MaxGroupOp)
	w.history = func(uint64) (federation.GroupHistory, error) {
		asked++
		return federation.GroupHistory{Ops: [][]byte{op}, More: true}, nil
	}
	w.tell(federation.GroupOp{Group: s.id, Op: s.next(owner, invite(chain.RoleMember, alice)), Openings: openings(alice)})
	if asked > 1200 || !slices.Equal(w.alerts, []federation.Alert{federation.AlertGroupInvalid}) {
		t.Errorf("asked %d times, alerts %v", asked, w.alerts)
	}
}

// A hub that lists one person under two memberships is not believed.
func TestHistoryWithOneTwice(t *testing.T) {
	w := newWorld(t)
	owner, alice := w.elsewhere("owner", there), w.local("alice")
	s := w.afar(owner, rules())
	s.note(s.next(owner, invite(chain.RoleMember, alice)))
	again := w.again(alice)
	s.note(s.next(owner, invite(chain.RoleMember, again)))
	s.opens = append(s.opens, openings(alice, again)...)
	w.serve(s)
	w.tell(federation.GroupOp{Group: s.id, Op: s.ops[1], Openings: openings(alice)})
	if !slices.Equal(w.alerts, []federation.Alert{federation.AlertGroupInvalid}) || len(w.mail(alice)) != 0 {
		t.Errorf("alerts %v", w.alerts)
	}
}

// A hub that takes its time to answer has its own groups wait, and nobody else's.
func TestSlowHubWaitsAlone(t *testing.T) {
	w := newWorld(t)
	owner, alice := w.elsewhere("owner", there), w.local("alice")
	asked := 0
	w.history = func(uint64) (federation.GroupHistory, error) {
		asked++
		w.Clock.Fly(10 * time.Second)
		return federation.GroupHistory{}, clearbox.Errorf(clearbox.CodeHubUnreachable, "slow")
	}
	for range 5 {
		s := w.afar(w.again(owner), rules())
		w.tell(federation.GroupOp{Group: s.id, Op: s.next(owner, invite(chain.RoleMember, alice)), Openings: openings(alice)})
	}
	if asked != 1 {
		t.Errorf("a slow hub was asked %d times in a row", asked)
	}
	w.Clock.Fly(2 * time.Minute)
	w.follow()
	if asked != 2 {
		t.Errorf("after its rest it was asked %d times", asked)
	}
}
