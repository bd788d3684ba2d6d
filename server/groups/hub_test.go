package groups_test

import (
	"crypto/ed25519"
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

// A group across two servers, from its creation to its end: every operation
// reaches the devices here and the other server once and in order.
func TestHub(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.local("alice"), w.local("bob"), w.elsewhere("carol", there)
	s := w.begin(alice, rules())
	s.add(alice, chain.RoleAdmin, bob)
	s.add(alice, chain.RoleMember, carol)
	s.accept(bob, carol)
	s.do(bob, chain.SetInfo{Sealed: []byte("sealed")})
	s.do(alice, chain.SetRole{Member: carol.opening.Member, Role: chain.RoleAdmin})

	w.restart()
	list, err := w.groups.List(t.Context(), bob.who)
	if err != nil || len(list) != 1 || list[0].Role != chain.RoleAdmin || list[0].Status != chain.StatusActive || list[0].Epoch != 7 ||
		list[0].Member != clearbox.MemberID(bob.opening.Member) || chain.Hash(list[0].Head) != s.state.Head {
		t.Fatalf("bob's groups: %+v, %v", list, err)
	}
	sum, opens, err := w.groups.Get(t.Context(), bob.who, s.id)
	if err != nil || sum != list[0] || len(opens) != 3 {
		t.Errorf("the group: %+v with %d openings, %v", sum, len(opens), err)
	}
	page, err := w.groups.Ops(t.Context(), bob.who, s.id, 2)
	if err != nil || len(page.Ops) != 5 || len(page.Openings) != 1 || page.More || string(page.Openings[0]) != string(carol.opening.Encode()) {
		t.Errorf("%d operations with %d openings, more %v, %v", len(page.Ops), len(page.Openings), page.More, err)
	}
	roster, err := w.groups.Roster(t.Context(), s.id)
	if err != nil || roster.Epoch != 7 || roster.Closed || len(roster.Members) != 3 || roster.Members[carol.User].Status != delivery.MemberActive {
		t.Errorf("the roster: %+v, %v", roster, err)
	}

	s.do(carol, chain.Remove{Members: []chain.Member{bob.opening.Member}})
	s.do(carol, chain.Remove{Members: []chain.Member{carol.opening.Member}})
	s.do(alice, chain.Close{})
	roster, err = w.groups.Roster(t.Context(), s.id)
	if err != nil || !roster.Closed || roster.Members[bob.User] != (delivery.MemberState{Status: delivery.MemberFormer, Ended: 8}) || roster.Members[alice.User].Status != delivery.MemberActive {
		t.Errorf("the roster at the end: %+v, %v", roster, err)
	}
	got, err := chain.Verify(s.ops)
	if err != nil || got.Head != s.state.Head || w.stored(s).State != storage.GroupClosed {
		t.Errorf("the chain: epoch %d, %v; stored as %s", got.Epoch, err, w.stored(s).State)
	}

	epochs := func(events []*delivery.GroupEvent) (out []uint64) {
		for _, e := range events {
			if string(e.Op) != string(s.ops[e.Epoch-1]) || e.Group != s.id {
				t.Errorf("another operation at epoch %d", e.Epoch)
			}
			out = append(out, e.Epoch)
		}
		return out
	}
	if got := epochs(w.mail(alice)); len(got) != 10 || got[0] != 1 || got[9] != 10 {
		t.Errorf("alice was told of %v", got)
	}
	if got := epochs(w.mail(bob)); len(got) != 7 || got[0] != 2 || got[6] != 8 { // from the invitation to the removal
		t.Errorf("bob was told of %v", got)
	}
	out := w.outgoing()
	if len(out) != 7 { // from carol's invitation to her leave
		t.Fatalf("%d items for the other server", len(out))
	}
	for i, g := range out {
		if g.Group != s.id || string(g.Op) != string(s.ops[i+2]) || len(g.Openings) != map[bool]int{true: 1}[i == 0] {
			t.Errorf("item %d is another operation, with %d openings", i, len(g.Openings))
		}
	}
	// Who is no member any more reads up to the operation that ended it.
	page, err = w.groups.Ops(t.Context(), bob.who, s.id, 0)
	if err != nil || len(page.Ops) != 8 || page.More {
		t.Errorf("bob reads %d operations, %v", len(page.Ops), err)
	}
	if page, err = w.groups.Ops(t.Context(), bob.who, s.id, 9); err != nil || len(page.Ops) != 0 {
		t.Errorf("bob reads %d operations of later, %v", len(page.Ops), err)
	}
	if _, _, err := w.groups.Get(t.Context(), bob.who, s.id); clearbox.CodeOf(err) != clearbox.CodeNotAMember {
		t.Errorf("bob looks in: %v", err)
	}
	if list, err := w.groups.List(t.Context(), bob.who); err != nil || len(list) != 0 {
		t.Errorf("bob's groups at the end: %+v, %v", list, err)
	}
}

// What the hub refuses, and why; nothing changes, and nobody is told.
func TestHubRefuses(t *testing.T) {
	type scene struct {
		*world
		*story
		alice, bob, carol, dave *member // owner, member, member elsewhere, nobody yet
	}
	set := func(t *testing.T) *scene {
		w := newWorld(t)
		c := &scene{world: w, alice: w.local("alice"), bob: w.local("bob"), carol: w.elsewhere("carol", there), dave: w.local("dave")}
		c.story = w.begin(c.alice, rules())
		c.add(c.alice, chain.RoleMember, c.bob, c.carol)
		c.accept(c.bob, c.carol)
		return c
	}
	for name, c := range map[string]struct {
		run  func(c *scene) error
		want error
		code clearbox.Code
	}{
		"no opening": {func(c *scene) error {
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, c.dave)))
		}, groups.ErrOpening, clearbox.CodeBadRequest},
		"opening of another": {func(c *scene) error {
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, c.dave)), c.bob.opening.Encode())
		}, groups.ErrOpening, clearbox.CodeBadRequest},
		"an opening too many": {func(c *scene) error {
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, c.dave)), c.dave.opening.Encode(), c.again(c.dave).opening.Encode())
		}, groups.ErrOpening, clearbox.CodeBadRequest},
		"malformed opening": {func(c *scene) error {
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, c.dave)), []byte("x"))
		}, groups.ErrOpening, clearbox.CodeBadRequest},
		"opening with another salt": {func(c *scene) error {
			raw := c.next(c.alice, invite(1, c.dave))
			c.dave.opening.Salt[0] ^= 1
			return c.submit(c.story, c.alice, raw, c.dave.opening.Encode())
		}, chain.ErrCommitment, clearbox.CodeBadRequest},
		"swapped identity": {func(c *scene) error {
			c.dave.opening.Identity = c.bob.opening.Identity
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, c.dave)), c.dave.opening.Encode())
		}, groups.ErrIdentity, clearbox.CodeIdentityChanged},
		"swapped identity of somebody elsewhere": {func(c *scene) error {
			erin := c.elsewhere("erin", there)
			erin.opening.Identity = c.bob.opening.Identity
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, erin)), erin.opening.Encode())
		}, groups.ErrIdentity, clearbox.CodeIdentityChanged},
		"ghost here": {func(c *scene) error {
			ghost := c.member(c.Person("ghost"), c.alice.who)
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, ghost)), ghost.opening.Encode())
		}, nil, clearbox.CodeRecipientUnavailable},
		"ghost elsewhere": {func(c *scene) error {
			ghost := c.member(c.PersonAt("ghost", there), c.alice.who)
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, ghost)), ghost.opening.Encode())
		}, groups.ErrGhost, clearbox.CodeRecipientUnavailable},
		"somebody of a server that is no peer": {func(c *scene) error {
			erin := c.elsewhere("erin", "c.test")
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, erin)), erin.opening.Encode())
		}, nil, clearbox.CodePeerBlocked},
		"somebody whose server is away": {func(c *scene) error {
			erin := c.elsewhere("erin", there)
			c.away[there] = true
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, erin)), erin.opening.Encode())
		}, nil, clearbox.CodePeerUnreachable},
		"somebody twice": {func(c *scene) error {
			bob := c.again(c.bob)
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, bob)), bob.opening.Encode())
		}, groups.ErrTwice, clearbox.CodeConflict},
		"accepted by another's device": {func(c *scene) error {
			c.add(c.alice, 1, c.dave)
			return c.submit(c.story, c.dave, c.nextWith(c.dave, c.Person("x").Devices[1], chain.Accept{}))
		}, groups.ErrDevice, clearbox.CodeDeviceRemoved},
		"a device that is not in the list is introduced": {func(c *scene) error {
			return c.submit(c.story, c.bob, c.nextWith(c.bob, c.Person("x").Devices[1], chain.Introduce{}))
		}, groups.ErrDevice, clearbox.CodeDeviceRemoved},
		"a list that does not exist": {func(c *scene) error {
			c.bob.List.Version++
			return c.submit(c.story, c.bob, c.next(c.bob, chain.Remove{Members: []chain.Member{c.bob.opening.Member}}))
		}, groups.ErrDevice, clearbox.CodeDeviceRemoved},
		"a removed device elsewhere": {func(c *scene) error {
			c.carol.AddDevice(2)
			c.carol.DropDevice(1)
			c.publish(c.carol.Person)
			c.Clock.Fly(time.Minute)
			return c.submit(c.story, c.carol, c.next(c.carol, chain.Remove{Members: []chain.Member{c.carol.opening.Member}}))
		}, groups.ErrDevice, clearbox.CodeDeviceRemoved},
		"a withdrawn device here": {func(c *scene) error {
			if err := c.dir.RemoveDevice(t.Context(), c.bob.who, 1); err != nil {
				t.Fatal(err)
			}
			return c.submit(c.story, c.bob, c.next(c.bob, chain.Remove{Members: []chain.Member{c.bob.opening.Member}}))
		}, groups.ErrDevice, clearbox.CodeDeviceRemoved},
		"banned": {func(c *scene) error {
			c.Update(func(tx *storage.Tx) error { return tx.SetUserState(c.bob.who.UserNo, storage.UserBanned) })
			return c.submit(c.story, c.bob, c.next(c.bob, chain.Remove{Members: []chain.Member{c.bob.opening.Member}}))
		}, groups.ErrGhost, clearbox.CodeRecipientUnavailable},
		"a lower role": {func(c *scene) error {
			return c.submit(c.story, c.bob, c.next(c.bob, chain.Remove{Members: []chain.Member{c.carol.opening.Member}}))
		}, chain.ErrRole, clearbox.CodeForbidden},
		"a lower role elsewhere": {func(c *scene) error {
			return c.submit(c.story, c.carol, c.next(c.carol, chain.SetInfo{Sealed: []byte("x")}))
		}, chain.ErrRole, clearbox.CodeForbidden},
		"another's operation": {func(c *scene) error {
			return c.submit(c.story, c.bob, c.next(c.alice, chain.Close{}))
		}, groups.ErrActor, clearbox.CodeForbidden},
		"another's operation from a peer": {func(c *scene) error {
			return c.submit(c.story, c.carol, c.next(c.alice, chain.Close{}))
		}, groups.ErrActor, clearbox.CodeForbidden},
		"from a server without members": {func(c *scene) error {
			_, _, err := c.groups.PeerOp(t.Context(), "c.test", federation.GroupOp{Group: c.id, Op: c.next(c.alice, chain.Close{})})
			return err
		}, nil, clearbox.CodeNotFound},
		"by somebody who is not in it": {func(c *scene) error {
			return c.submit(c.story, c.dave, c.next(c.alice, chain.Close{}))
		}, nil, clearbox.CodeNotFound},
		"dated in the future": {func(c *scene) error {
			c.Clock.Fly(time.Hour)
			raw := c.next(c.alice, chain.Close{})
			c.Clock.Fly(-time.Hour)
			return c.submit(c.story, c.alice, raw)
		}, groups.ErrFuture, clearbox.CodeBadRequest},
		"for another group": {func(c *scene) error {
			other := c.begin(c.again(c.alice), rules())
			raw := other.next(c.alice, chain.Close{})
			return c.submit(c.story, c.alice, raw)
		}, chain.ErrGroup, clearbox.CodeBadRequest},
		"a replayed accept": {func(c *scene) error {
			c.do(c.alice, chain.Remove{Members: []chain.Member{c.bob.opening.Member}})
			o, err := chain.Parse(c.ops[2])
			if err != nil {
				t.Fatal(err)
			}
			again := c.state.Next(c.bob.opening.Member, o.Signer, 1, c.Clock.Now().UnixMilli())
			again.Body = chain.Accept{}
			return c.submit(c.story, c.bob, c.sign(c.bob.Devices[1], again))
		}, chain.ErrNotInvited, clearbox.CodeConflict},
		"the hub is moved": {func(c *scene) error {
			return c.submit(c.story, c.alice, c.next(c.alice, chain.HubMove{Hub: string(there)}))
		}, nil, clearbox.CodeNotImplemented},
		"a policy against a member": {func(c *scene) error {
			p := rules()
			p.Servers = []string{string(home)}
			return c.submit(c.story, c.alice, c.next(c.alice, chain.SetPolicy{Policy: p}))
		}, groups.ErrPolicy, clearbox.CodeNoRoutePolicy},
		"a server against the policy": {func(c *scene) error {
			c.do(c.alice, chain.Remove{Members: []chain.Member{c.carol.opening.Member}})
			p := rules()
			p.Servers = []string{string(home)}
			c.do(c.alice, chain.SetPolicy{Policy: p})
			erin := c.elsewhere("erin", there)
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, erin)), erin.opening.Encode())
		}, groups.ErrPolicy, clearbox.CodeNoRoutePolicy},
		"a country against the policy": {func(c *scene) error {
			c.do(c.alice, chain.Remove{Members: []chain.Member{c.carol.opening.Member}})
			p := rules()
			p.Countries = []string{"AT"}
			c.do(c.alice, chain.SetPolicy{Policy: p})
			erin := c.elsewhere("erin", there)
			return c.submit(c.story, c.alice, c.next(c.alice, invite(1, erin)), erin.opening.Encode())
		}, groups.ErrPolicy, clearbox.CodeNoRoutePolicy},
	} {
		t.Run(name, func(t *testing.T) {
			s := set(t)
			err := c.run(s)
			if clearbox.CodeOf(err) != c.code || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("refused with %s: %v", clearbox.CodeOf(err), err)
			}
			if g := s.stored(s.story); g.Epoch != s.state.Epoch || chain.Hash(g.Head) != s.state.Head {
				t.Errorf("the group is at epoch %d", g.Epoch)
			}
			if got := s.mail(s.alice); uint64(len(got)) < s.state.Epoch {
				t.Errorf("alice was told of %d operations of %d", len(got), s.state.Epoch)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.local("alice"), w.local("bob")
	strict := rules()
	strict.Countries = []string{"CH"}
	for name, c := range map[string]struct {
		raw     []byte
		opening []byte
		want    error
	}{
		"another hub":       {w.creation(alice, there, rules()), alice.opening.Encode(), groups.ErrHub},
		"another's":         {w.creation(bob, home, rules()), bob.opening.Encode(), groups.ErrActor},
		"another's opening": {w.creation(alice, home, rules()), bob.opening.Encode(), groups.ErrOpening},
		"own country":       {w.creation(alice, home, strict), alice.opening.Encode(), groups.ErrPolicy},
		"no operation":      {[]byte("x"), alice.opening.Encode(), chain.ErrOperation},
	} {
		if _, err := w.groups.Create(t.Context(), alice.who, c.raw, c.opening); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw := w.creation(alice, home, rules())
	for range 2 { // again gets the first answer
		r, err := w.groups.Create(t.Context(), alice.who, raw, alice.opening.Encode())
		if err != nil || chain.Hash(r.Group) != chain.HashOf(raw) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if got := w.mail(alice); len(got) != 1 {
		t.Errorf("alice was told %d times", len(got))
	}
	if _, err := w.groups.Create(t.Context(), bob.who, raw, alice.opening.Encode()); !errors.Is(err, groups.ErrActor) {
		t.Errorf("bob creates alice's group again: %v", err)
	}
}

// Who was slower learns the epoch; who repeats an operation gets its answer again.
func TestSlowAndRepeated(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.local("alice"), w.local("bob")
	s := w.begin(alice, rules())
	s.add(alice, chain.RoleAdmin, bob)
	s.accept(bob)
	slow := s.next(bob, chain.SetInfo{Sealed: []byte("bob's")})
	s.do(alice, chain.SetInfo{Sealed: []byte("alice's")})
	var changed *clearbox.GroupChangedError
	if err := w.submit(s, bob, slow); !errors.As(err, &changed) || changed.Epoch != 4 {
		t.Errorf("the slower: %v", err)
	}
	if err := w.submit(s, bob, s.ops[2]); err != nil {
		t.Errorf("bob's accept again: %v", err)
	}
	if err := w.submit(s, alice, s.ops[3]); err != nil {
		t.Errorf("alice's info again: %v", err)
	}
	if got := w.mail(alice); len(got) != 4 {
		t.Errorf("alice was told of %d operations", len(got))
	}
	// Two at once: one is first.
	errs := make(chan error, 2)
	for _, m := range []*member{alice, bob} {
		raw := s.next(m, chain.SetInfo{Sealed: []byte(m.Handle)})
		go func() { errs <- w.submit(s, m, raw) }()
	}
	one, two := <-errs, <-errs
	if (one == nil) == (two == nil) || !errors.As(errors.Join(one, two), &changed) || changed.Epoch != 5 {
		t.Errorf("two at once: %v, %v", one, two)
	}
}

// Further devices introduce themselves.
func TestSecondDevice(t *testing.T) {
	w := newWorld(t)
	alice, carol := w.local("alice"), w.elsewhere("carol", there)
	s := w.begin(alice, rules())
	s.add(alice, chain.RoleAdmin, carol)
	s.accept(carol)
	carol.AddDevice(2)
	w.publish(carol.Person)
	second := carol.Devices[2]
	if err := w.submit(s, carol, s.nextWith(carol, second, chain.SetInfo{})); !errors.Is(err, chain.ErrKey) {
		t.Errorf("before it is introduced: %v", err)
	}
	w.Clock.Fly(time.Minute)
	raw := s.nextWith(carol, second, chain.Introduce{})
	if err := w.submit(s, carol, raw); err != nil {
		t.Fatal(err)
	}
	s.note(raw)
	if err := w.submit(s, carol, s.nextWith(carol, second, chain.SetInfo{})); err != nil {
		t.Error(err)
	}
	if keys := s.state.Members[carol.opening.Member].Keys; len(keys) != 2 || !keys[1].Equal(second.Public().(ed25519.PublicKey)) {
		t.Errorf("%d keys", len(keys))
	}
}

// Who is erased vanishes from what is kept and told; the chain still verifies, and
// the group goes on.
func TestErasedPersonVanishes(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.local("alice"), w.local("bob"), w.elsewhere("carol", there)
	s := w.begin(alice, rules())
	s.add(alice, chain.RoleMember, bob, carol)
	s.accept(bob, carol)
	for _, u := range []clearbox.UserID{bob.User, carol.User} {
		if err := w.groups.Forget(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		page, err := w.groups.Ops(t.Context(), alice.who, s.id, 0)
		if err != nil || len(page.Openings) != 1 || len(page.Ops) != 4 {
			t.Errorf("%d openings with %d operations, %v", len(page.Openings), len(page.Ops), err)
		}
		state, err := chain.Verify(page.Ops)
		if err != nil || state.Head != s.state.Head || state.Present() != 3 {
			t.Errorf("the chain: %d present, %v", state.Present(), err)
		}
		roster, err := w.groups.Roster(t.Context(), s.id)
		if err != nil || len(roster.Members) != 1 {
			t.Errorf("the roster: %+v, %v", roster, err)
		}
		if _, err := w.groups.PeerHistory(t.Context(), there, s.id, 0); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("a server of whom nobody is known any more reads on: %v", err)
		}
		w.restart()
	}
	ids := []chain.Member{bob.opening.Member, carol.opening.Member}
	chain.SortMembers(ids)
	s.do(alice, chain.Remove{Members: ids})
	if s.state.Present() != 1 {
		t.Errorf("%d present", s.state.Present())
	}
}

// Administrators of the hub delete a group: devices and servers are told, nothing
// is left but that it was.
func TestDelete(t *testing.T) {
	w := newWorld(t)
	alice, carol := w.local("alice"), w.elsewhere("carol", there)
	s := w.begin(alice, rules())
	s.add(alice, chain.RoleMember, carol)
	w.mail(alice)
	w.outgoing()
	if err := w.groups.Delete(t.Context(), storage.AuditEntry{Role: storage.RoleAdmin, Action: "group.delete"}, s.id); err != nil {
		t.Fatal(err)
	}
	if err := w.groups.Delete(t.Context(), storage.AuditEntry{Role: storage.RoleAdmin, Action: "group.delete"}, s.id); clearbox.CodeOf(err) != clearbox.CodeGroupClosed {
		t.Errorf("again: %v", err)
	}
	events := w.mail(alice)
	if last := events[len(events)-1]; !last.Ended || last.Group != s.id || last.Op != nil {
		t.Errorf("alice was told %+v", last)
	}
	if out := w.outgoing(); len(out) != 1 || !out[0].Ended || out[0].Group != s.id {
		t.Errorf("the other server is told %+v", out)
	}
	for range 2 {
		if err := w.submit(s, alice, s.next(alice, chain.Close{})); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("an operation afterwards: %v", err)
		}
		if roster, err := w.groups.Roster(t.Context(), s.id); err != nil || !roster.Closed || len(roster.Members) != 0 {
			t.Errorf("the roster: %+v, %v", roster, err)
		}
		w.restart()
	}
	w.View(func(tx *storage.Tx) error {
		log, err := tx.AuditEntries(0, 100)
		n := 0
		for _, e := range log {
			if e.Action == "group.delete" && e.Object == s.id.String() {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d rows in the audit log", n)
		}
		return err
	})
}

// A long history comes in pages, to devices and to servers, each with the openings
// of the people whom its operations add.
func TestHistoryInPages(t *testing.T) {
	w := newWorld(t)
	alice, carol := w.local("alice"), w.elsewhere("carol", there)
	s := w.begin(alice, rules())
	for range federation.MaxHistoryOps {
		w.Clock.Fly(time.Second) // nobody changes a group faster for long
		s.do(alice, chain.SetInfo{Sealed: []byte("again")})
	}
	s.add(alice, chain.RoleMember, carol)
	var ops, opens [][]byte
	pages := 0
	for more := true; more; pages++ {
		h, err := w.groups.PeerHistory(t.Context(), there, s.id, uint64(len(ops)))
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Ops) == 0 || len(h.Ops) > federation.MaxHistoryOps {
			t.Fatalf("a page of %d operations", len(h.Ops))
		}
		ops, opens, more = append(ops, h.Ops...), append(opens, h.Openings...), h.More
	}
	state, err := chain.Verify(ops)
	if err != nil || state.Head != s.state.Head || pages != 2 || len(opens) != 2 || string(opens[1]) != string(carol.opening.Encode()) {
		t.Errorf("%d operations in %d pages with %d openings, %v", len(ops), pages, len(opens), err)
	}
	if h, err := w.groups.PeerHistory(t.Context(), there, s.id, s.state.Epoch+5); err != nil || len(h.Ops) != 0 || h.More {
		t.Errorf("behind its end: %d operations, more %v, %v", len(h.Ops), h.More, err)
	}
	// Who is faster than that has to wait.
	for i := 0; ; i++ {
		raw := s.next(alice, chain.SetInfo{Sealed: []byte{byte(i)}})
		err := w.submit(s, alice, raw)
		if clearbox.CodeOf(err) == clearbox.CodeRateLimited {
			break
		}
		if err != nil || i > 200 {
			t.Fatalf("%d operations in a moment, %v", i, err)
		}
		s.note(raw)
	}
}

// A server whose people are out of the group learns no more of who comes after them.
func TestHistoryEndsWithMembership(t *testing.T) {
	w := newWorld(t)
	owner, carol, dave := w.local("owner"), w.elsewhere("carol", there), w.local("dave")
	s := w.begin(owner, rules())
	s.add(owner, chain.RoleMember, carol)
	s.do(owner, chain.Remove{Members: []chain.Member{carol.opening.Member}})
	end := s.state.Epoch
	s.add(owner, chain.RoleMember, dave)
	for after := range s.state.Epoch + 1 {
		h, err := w.groups.PeerHistory(t.Context(), there, s.id, after)
		if err != nil || h.More || after+uint64(len(h.Ops)) != max(end, after) {
			t.Errorf("after %d: %d operations, more %v, %v", after, len(h.Ops), h.More, err)
		}
		for _, o := range h.Openings {
			if slices.Equal(o, dave.opening.Encode()) {
				t.Errorf("after %d: it learns of who came later", after)
			}
		}
	}
}
