package core_test

import (
	"crypto/ed25519"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/wire"
)

// impostor is who a server says that p is: another vault under p's uid and name,
// with a device that claims to have been there since the beginning.
func (w *world) impostor(t *testing.T, p *person) *person {
	t.Helper()
	w.mu.Lock()
	delete(w.names, p.name.String())
	w.mu.Unlock()
	eve := newPerson(t, w, p.name.String())
	if err := core.RegisterAs(eve.brain, ctx, eve.registration(), p.user.UID, time.Now().Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	eve.user = p.user
	return eve
}

// count gives how many records of p's vault begin so.
func (p *person) count(prefix string) (n int) {
	p.t.Helper()
	err := p.vault.View(ctx, func(r core.Reader) error {
		entries, err := r.List(core.Range{Prefix: prefix})
		n = len(entries)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// TestKnocksWithoutEnd: the server of an accepted contact brings knocks of theirs
// without end. Some are answered, as a contact who lost a token needs it.
func TestKnocksWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		knock := func(n int) {
			for range n {
				id, err := clearbox.NewMessageID(cryptoRandom)
				if err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				w.accounts[bob.user].knocks[id] = true
				w.deliver(ada.user, 1, wire.ServerFrame{Type: wire.FrameReceive, Knock: &wire.Knock{ID: id, From: bob.user, Address: bob.name.String(), AcceptedAt: millis(time.Now())}})
				w.mu.Unlock()
			}
			settle(5 * time.Minute)
		}
		answers := 0 // setRefuse calls it under w's lock
		w.setRefuse(func(*wire.Submission) error { answers++; return nil })
		knock(1)
		w.mu.Lock()
		if answers == 0 {
			t.Error("a contact's knock was not answered")
		}
		w.mu.Unlock()
		knock(200)
		w.mu.Lock()
		if answers > 8 {
			t.Errorf("%d messages answer 201 knocks", answers)
		}
		w.mu.Unlock()
		if open, err := ada.brain.Requests(ctx); err != nil || len(open) != 0 {
			t.Errorf("requests: %v, %v", open, err)
		}
		stopAll(ada, bob)
	})
}

// TestImpostorAsksForTexts: a contact's server puts other keys in the place of
// theirs, which were never compared. Who has those is not sent what the contact
// has read.
func TestImpostorAsksForTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		secret := ada.send(bob, "for bob alone")
		settle(5 * time.Second)
		bob.stop()
		unread := ada.send(bob, "which bob never got")
		settle(5 * time.Second)
		eve := w.impostor(t, bob)
		eve.start()
		eve.contact(ada.name.String())
		eve.send(ada, "hello, this is bob")
		settle(10 * time.Second)
		for range 3 {
			if err := core.SendRenew(ctx, eve.brain, ada.user, 1, secret, unread); err != nil {
				t.Fatal(err)
			}
			settle(10 * time.Second)
		}
		want(t, "eve heard", eve.heard(ada), []string{"which bob never got"})
		stopAll(ada, eve)
	})
}

// claims sends ada contents as somebody may whose client says what it likes of a group.
func claims(t *testing.T, by *person, to *person, c core.Content, contexts ...core.GroupContext) {
	t.Helper()
	for _, g := range contexts {
		c.ID, c.Group = clearbox.MessageID{}, &g
		if err := core.SendContent(ctx, by.brain, to.user, c); err != nil {
			t.Fatal(err)
		}
	}
	settle(10 * time.Second)
}

// TestImpostorAsksForKey: a member's server puts other keys in the place of theirs.
// Who has those gets neither the key under which others write to the group nor what
// was written, and is not read in it.
func TestImpostorAsksForKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, p...)
		secret := ada.tell(id, "for bob and cyd")
		settle(5 * time.Second)
		bob.stop()
		g := ada.group(id)
		eve := w.impostor(t, bob)
		eve.start()
		eve.contact(ada.name.String())
		eve.send(ada, "hello, this is bob")
		settle(10 * time.Second)
		here := core.GroupContext{ID: id, Epoch: g.Epoch, Head: w.groupOf(id).st.Head}
		claims(t, eve, ada, core.Content{Kind: core.KindKeyRequest, Unread: []clearbox.MessageID{secret}}, here)
		claims(t, eve, ada, core.Content{Kind: core.KindText, Text: "bob says so"}, here)
		if n := eve.count("hear/"); n != 0 {
			t.Errorf("eve was given %d sender keys", n)
		}
		if n := eve.count("groupheld/"); n != 0 {
			t.Errorf("eve was given %d messages", n)
		}
		for _, line := range ada.within(id) {
			if line == "bob: bob says so" {
				t.Error("ada reads eve as bob")
			}
		}
		stopAll(ada, cyd, eve)
	})
}

// TestRenewAfterReinstall: a contact who set up their account again asks for what was
// lost before anybody knows their devices. Mail goes on.
func TestRenewAfterReinstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		bob.stop()
		eve := w.impostor(t, bob)
		eve.start()
		eve.contact(ada.name.String())
		if err := core.SendRenew(ctx, eve.brain, ada.user, 1); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Second)
		eve.send(ada, "is anybody there?")
		settle(10 * time.Second)
		if lines := ada.heard(bob); !slices.Contains(lines, "is anybody there?") {
			t.Errorf("ada heard %q", lines)
		}
		stopAll(ada, eve)
	})
}

// TestWordsAgainstGroup: what somebody says of a group's history counts while they
// are in it. Others stop nobody from writing, and a member who lies is removed.
func TestWordsAgainstGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test", "dan@b.test")
		ada, bob, cyd, dan := p[0], p[1], p[2], p[3]
		id := circle(t, ada, bob, cyd)
		dan.start()
		ada.bring(dan, id)
		for _, x := range []*person{cyd, dan} {
			x.contact(ada.name.String())
			x.send(ada, "hello")
			settle(2 * time.Second)
			ada.send(x, "re: hello")
			settle(2 * time.Second)
		}
		if err := ada.brain.RemoveFromGroup(ctx, id, dan.user); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Minute)
		now := ada.group(id).Epoch
		lies := []core.GroupContext{{ID: id, Epoch: now - 1, Head: [32]byte{1}}, {ID: id, Epoch: now, Head: [32]byte{1}}, {ID: id, Epoch: 60_000}, {ID: id, Epoch: 1 << 60}}
		text := core.Content{Kind: core.KindText, Text: "another history"}
		claims(t, dan, ada, text, lies...)
		if g := ada.group(id); g.Alarm != "" || g.Behind {
			t.Errorf("by the word of who is out: %+v", g)
		}
		claims(t, cyd, ada, text, lies[2:]...)
		if g := ada.group(id); !g.Behind {
			t.Errorf("a member's word is not heard: %+v", g)
		}
		claims(t, cyd, ada, text, lies[1])
		if g := ada.group(id); g.Alarm != core.AlarmFork || g.AlarmBy != cyd.user {
			t.Errorf("a member's word is not heard: %+v", g)
		}
		if err := ada.brain.SetGroupInfo(ctx, id, "other", ""); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("SetGroupInfo = %v", err)
		}
		if err := ada.brain.RemoveFromGroup(ctx, id, cyd.user); err != nil {
			t.Fatal(err)
		}
		ada.tell(id, "without cyd")
		settle(10 * time.Minute)
		if g := ada.group(id); g.Alarm != "" || g.Behind || len(g.Members) != 2 {
			t.Errorf("%+v", g)
		}
		if lines := bob.within(id); !slices.Contains(lines, "ada: without cyd") {
			t.Errorf("bob sees %q", lines)
		}
		stopAll(p...)
	})
}

// act has somebody's key sign an operation, as whoever holds it may.
func (g *groupAt) act(t *testing.T, key ed25519.PrivateKey, actor chain.Member, body chain.Body) []byte {
	t.Helper()
	op := g.st.Next(actor, key.Public().(ed25519.PublicKey), 1, time.Now().UnixMilli())
	op.Body = body
	raw, err := chain.Sign(key, op)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestOpeningKeptBack: bob's server does not tell him who was invited, answers the
// invitation itself, lets eve in in that name, and leaves. Bob writes nothing to her.
func TestOpeningKeptBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@a.test", "eve@b.test")
		ada, bob, eve := p[0], p[1], p[3]
		id := circle(t, ada, bob)
		eve.start()
		ada.tell(id, "one")
		settle(5 * time.Second)
		ada.stop() // else she says that there is another history
		kept := ada.group(id).Epoch + 1
		w.setShowOps(func(to clearbox.UserID, ops []wire.GroupEvent) (out []wire.GroupEvent) {
			for _, op := range ops {
				if op.Epoch == kept && to == bob.user {
					op.Openings = nil
				}
				out = append(out, op)
			}
			return out
		})
		g := w.groupOf(id)
		opening := func(who *person, n byte) *chain.Opening {
			return &chain.Opening{Member: chain.Member{n}, Salt: [32]byte{n}, Account: who.user.String(), Identity: [33]byte(w.identityOf(who))}
		}
		invite := func(o *chain.Opening, role chain.Role) chain.Body {
			return chain.Add{Invitees: []chain.Invitee{{Member: o.Member, Commitment: o.Commitment(), Role: role}}}
		}
		add := func(raw []byte, openings ...[]byte) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if _, err := w.addOp(g, raw, openings); err != nil {
				t.Fatal(err)
			}
		}
		own := signingKey(t)
		c, e := opening(p[2], 1), opening(eve, 2)
		add(g.act(t, core.DeviceKey(ada.brain), ownerOf(g), invite(c, chain.RoleAdmin)), c.Encode())
		add(g.act(t, own, c.Member, chain.Accept{}))
		add(g.act(t, own, c.Member, invite(e, chain.RoleMember)), e.Encode())
		add(g.act(t, core.DeviceKey(eve.brain), e.Member, chain.Accept{}))
		add(g.act(t, own, c.Member, chain.Remove{Members: []chain.Member{c.Member}}))
		settle(10 * time.Second)
		w.mu.Lock()
		before := w.uploads
		w.mu.Unlock()
		bob.tell(id, "for ada alone")
		settle(10 * time.Minute)
		w.mu.Lock()
		if w.uploads != before {
			t.Error("bob wrote to somebody whom no member let in")
		}
		w.mu.Unlock()
		stopAll(bob, eve)
	})
}

// TestFounderErased: the founder has left and was erased. Who is invited later does
// not learn who that was, and writes as soon as whoever invited them has said which
// history is right.
func TestFounderErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, ada, bob)
		if err := ada.brain.SetGroupRole(ctx, id, bob.user, chain.RoleAdmin); err != nil {
			t.Fatal(err)
		}
		if err := ada.brain.LeaveGroup(ctx, id); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		g := w.groupOf(id)
		w.mu.Lock()
		g.openings[0] = nil
		delete(g.users, ownerOf(g))
		w.mu.Unlock()
		cyd.start()
		bob.bring(cyd, id)
		cyd.tell(id, "glad to be here")
		settle(time.Minute)
		if lines := bob.within(id); !slices.Contains(lines, "cyd: glad to be here") {
			t.Errorf("bob sees %q; cyd's group is %+v", lines, cyd.group(id))
		}
		stopAll(p...)
	})
}

// TestJoinedLongAgo: who joins says that it was long ago, and names messages of then,
// whose ids servers know. They are not given.
func TestJoinedLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, ada, bob)
		settle(time.Hour)
		before := ada.tell(id, "before cyd")
		settle(time.Hour)
		cyd.start()
		ada.contact(cyd.name.String())
		g := w.groupOf(id)
		o := &chain.Opening{Member: chain.Member{1}, Salt: [32]byte{1}, Account: cyd.user.String(), Identity: [33]byte(w.identityOf(cyd))}
		old := func(key ed25519.PrivateKey, actor chain.Member, body chain.Body, openings ...[]byte) {
			op := g.st.Next(actor, key.Public().(ed25519.PublicKey), 1, g.st.Time)
			op.Body = body
			raw, err := chain.Sign(key, op)
			if err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if _, err := w.addOp(g, raw, openings); err != nil {
				t.Fatal(err)
			}
		}
		old(core.DeviceKey(ada.brain), ownerOf(g), chain.Add{Invitees: []chain.Invitee{{Member: o.Member, Commitment: o.Commitment(), Role: chain.RoleMember}}}, o.Encode())
		settle(5 * time.Second)
		old(core.DeviceKey(cyd.brain), o.Member, chain.Accept{})
		settle(5 * time.Second)
		after := ada.tell(id, "after cyd")
		settle(5 * time.Second)
		cyd.contact(ada.name.String())
		claims(t, cyd, ada, core.Content{Kind: core.KindKeyRequest, Unread: []clearbox.MessageID{before, after}}, core.GroupContext{ID: id, Epoch: g.st.Epoch, Head: g.st.Head})
		if lines := cyd.within(id); slices.Contains(lines, "ada: before cyd") || !slices.Contains(lines, "ada: after cyd") {
			t.Errorf("cyd sees %q", lines)
		}
		stopAll(ada, bob, cyd)
	})
}
