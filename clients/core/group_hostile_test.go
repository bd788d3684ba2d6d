package core_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// forgedAdd is an invitation that no member made: signed by a server's own key.
func forgedAdd(t *testing.T, g *groupAt, user clearbox.UserID, identity []byte, signer ed25519.PrivateKey, actor chain.Member) wire.GroupEvent {
	t.Helper()
	o := chain.Opening{Member: chain.Member{9, 9, 9}, Salt: [32]byte{1}, Account: user.String(), Identity: [33]byte(identity)}
	op := g.st.Next(actor, signer.Public().(ed25519.PublicKey), 1, time.Now().UnixMilli())
	op.Body = chain.Add{Invitees: []chain.Invitee{{Member: o.Member, Commitment: o.Commitment(), Role: chain.RoleMember}}}
	raw, err := chain.Sign(signer, op)
	if err != nil {
		t.Fatal(err)
	}
	return wire.GroupEvent{Group: clearbox.GroupID(g.st.Group), Epoch: op.Epoch, Op: raw, Openings: [][]byte{o.Encode()}}
}

func (w *world) groupOf(id clearbox.GroupID) *groupAt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.groups[id]
}

func (w *world) bring(to *person, op wire.GroupEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliverAll(to.user, op)
}

func signingKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	key, err := keys.NewSigningKey(cryptoRandom)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) identityOf(p *person) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accounts[p.user].parsed.Identity.Bytes()
}

// TestForgedAdd: a server invites its friend, in the name of the owner, with a
// valid key of another member, or with a key of its own that it lists nowhere.
func TestForgedAdd(t *testing.T) {
	for _, how := range []string{"own key", "key of a stranger who joined", "other opening", "rules that exclude a member"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := crew(t, "ada@a.test", "bob@b.test", "eve@b.test")
				ada, bob, eve := p[0], p[1], p[2]
				id := circle(t, ada, bob)
				eve.start()
				ada.tell(id, "one")
				settle(5 * time.Second)
				g := w.groupOf(id)
				owner := ownerOf(g)
				var op wire.GroupEvent
				switch how {
				case "own key":
					op = forgedAdd(t, g, eve.user, w.identityOf(eve), signingKey(t), owner)
				case "key of a stranger who joined":
					op = forgedAdd(t, g, eve.user, w.identityOf(eve), core.DeviceKey(eve.brain), owner)
				case "rules that exclude a member": // the owner signed them, and no honest server takes them
					key := core.DeviceKey(ada.brain)
					next := g.st.Next(owner, key.Public().(ed25519.PublicKey), 1, time.Now().UnixMilli())
					policy := g.st.Policy
					policy.Servers = []string{"a.test"}
					next.Body = chain.SetPolicy{Policy: policy}
					raw, err := chain.Sign(key, next)
					if err != nil {
						t.Fatal(err)
					}
					op = wire.GroupEvent{Group: id, Epoch: next.Epoch, Op: raw}
				case "other opening": // the owner invites one, and the server says it is another
					bob.w.setShowOps(func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent {
						var out []wire.GroupEvent
						for _, op := range ops {
							if to == bob.user && len(op.Openings) > 0 && op.Epoch > 2 {
								o, err := chain.ParseOpening(op.Openings[0])
								if err != nil {
									t.Error(err)
								}
								o.Account = eve.user.String()
								op.Openings = [][]byte{o.Encode()}
							}
							out = append(out, op)
						}
						return out
					})
					dan := newPerson(t, w, "dan@a.test").join()
					ada.contact("dan@a.test")
					if err := ada.brain.InviteToGroup(ctx, id, dan.user, false); err != nil {
						t.Fatal(err)
					}
				}
				if op.Op != nil {
					w.bring(bob, op)
				}
				settle(10 * time.Second)
				if b := bob.group(id); b.Alarm != core.AlarmForged || len(b.Members) != 2 {
					t.Errorf("bob: %+v", b)
				}
				if lines := bob.within(id); !slices.Contains(lines, "<forged>") {
					t.Errorf("bob sees %q", lines)
				}
				if err := bob.brain.LeaveGroup(ctx, id); clearbox.CodeOf(err) != clearbox.CodeConflict {
					t.Errorf("LeaveGroup = %v", err)
				}
				stopAll(p...)
			})
		})
	}
}

func ownerOf(g *groupAt) chain.Member {
	for id, m := range g.st.Members {
		if m.Role == chain.RoleOwner {
			return id
		}
	}
	return chain.Member{}
}

// TestFork: a server shows two members two histories. The first message between
// them gives it away, though each history holds by itself.
func TestFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, p...)
		settle(time.Minute)
		g := w.groupOf(id)
		// The owner's device signs two operations for one epoch, one for each side, as
		// it does when the hub tells it that the first one was not ordered.
		sign := func(disappear uint32) wire.GroupEvent {
			key := core.DeviceKey(ada.brain)
			op := g.st.Next(ownerOf(g), key.Public().(ed25519.PublicKey), 1, time.Now().UnixMilli())
			policy := g.st.Policy
			policy.Disappear = disappear
			op.Body = chain.SetPolicy{Policy: policy}
			raw, err := chain.Sign(key, op)
			if err != nil {
				t.Fatal(err)
			}
			return wire.GroupEvent{Group: id, Epoch: op.Epoch, Op: raw}
		}
		left, right := sign(60), sign(120)
		w.mu.Lock()
		if _, err := w.addOp(g, left.Op, nil); err != nil {
			t.Error(err)
		}
		// Cyd was brought the left one too: take it back, and bring the right one.
		d := w.accounts[cyd.user].devices[1]
		for i := range d.mail {
			if d.mail[i].Group != nil {
				d.mail[i].Group = &right
			}
		}
		w.mu.Unlock()
		settle(5 * time.Second)
		if bob.group(id).Epoch != cyd.group(id).Epoch || bob.group(id).Policy.Disappear == cyd.group(id).Policy.Disappear {
			t.Fatal("there is no fork")
		}
		bob.tell(id, "hello")
		settle(time.Minute)
		if c := cyd.group(id); c.Alarm != core.AlarmFork {
			t.Errorf("cyd: %+v", c)
		}
		if lines := cyd.within(id); !slices.Contains(lines, "<fork>") {
			t.Errorf("cyd sees %q", lines)
		}
		stopAll(p...)
	})
}

// TestWithheldRemoval: bob's server does not tell him that cyd was removed. The
// next message of somebody who knows stops him from writing, until he is told.
func TestWithheldRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, p...)
		ada.tell(id, "one")
		bob.tell(id, "two")
		settle(time.Minute)
		at := bob.group(id).Epoch
		w.setShowOps(func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent {
			if to != bob.user {
				return ops
			}
			return slices.DeleteFunc(slices.Clone(ops), func(op wire.GroupEvent) bool { return op.Epoch > at })
		})
		if err := ada.brain.RemoveFromGroup(ctx, id, cyd.user); err != nil {
			t.Fatal(err)
		}
		ada.tell(id, "three")
		settle(time.Minute)
		if b := bob.group(id); !b.Behind {
			t.Errorf("bob: %+v", b)
		}
		w.mu.Lock()
		before := w.uploads
		w.mu.Unlock()
		waiting := bob.tell(id, "does cyd read this?")
		settle(10 * time.Minute)
		w.mu.Lock()
		if w.uploads != before {
			t.Error("bob wrote to a group of which he knows that he does not know it")
		}
		w.mu.Unlock()
		if s := bob.state(waiting); s != core.StateQueued {
			t.Errorf("it is %s", s)
		}
		w.setShowOps(nil)
		settle(5 * time.Minute)
		if b := bob.group(id); b.Behind || len(b.Members) != 2 {
			t.Errorf("bob: %+v", b)
		}
		if lines := bob.within(id); !slices.Contains(lines, "ada: three") {
			t.Errorf("bob sees %q", lines)
		}
		if m, err := bob.brain.Message(ctx, waiting); err != nil || m.State != core.StateAtPeer {
			t.Errorf("it is %+v, %v", m, err)
		}
		if lines := ada.within(id); !slices.Contains(lines, "bob: does cyd read this?") {
			t.Errorf("ada sees %q", lines)
		}
		stopAll(p...)
	})
}

// TestTruncatedMembership: whoever is invited is shown the history without its
// end. The first message says that there is more.
func TestTruncatedMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		id := circle(t, ada, bob)
		cyd.start()
		ada.bring(cyd, id)
		at := bob.group(id).Epoch
		w.setShowOps(func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent {
			if to != cyd.user {
				return ops
			}
			return slices.DeleteFunc(slices.Clone(ops), func(op wire.GroupEvent) bool { return op.Epoch > at })
		})
		dan := newPerson(t, w, "dan@a.test").join()
		dan.start()
		ada.bring(dan, id)
		ada.tell(id, "we are four")
		settle(time.Minute)
		if c := cyd.group(id); !c.Behind || len(c.Members) != 3 {
			t.Errorf("cyd: %+v", c)
		}
		dan.stop()
		stopAll(p...)
	})
}

// TestSwappedIdentity: the server of a member gives out other keys for somebody
// than those that they were invited with.
func TestSwappedIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test", "cyd@c.test")
		ada, bob, cyd := p[0], p[1], p[2]
		ada.start()
		bob.start()
		cyd.start()
		g, err := ada.brain.CreateGroup(ctx, "the crew", "")
		if err != nil {
			t.Fatal(err)
		}
		id := g.ID
		ada.bring(cyd, id)
		// Bob's first sight of cyd is a list that the server made up, with its keys.
		eve := newPerson(t, w, "eve@c.test")
		if err := core.RegisterAs(eve.brain, ctx, eve.registration(), cyd.user.UID); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		ada.contact(bob.name.String())
		if err := ada.brain.InviteToGroup(ctx, id, bob.user, false); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		_ = bob.brain.AcceptGroup(ctx, id)
		settle(5 * time.Second)
		_, err = bob.brain.Post(ctx, core.In(id), core.Post{Text: "for cyd, and not for eve"})
		settle(5 * time.Minute)
		w.mu.Lock()
		kept := slices.Clone(w.kept)
		w.mu.Unlock()
		for _, e := range kept {
			if e.Origin == "b.test" {
				t.Error("bob sealed something for keys that were swapped")
			}
		}
		if b, gerr := bob.brain.Group(ctx, id); err == nil && gerr == nil && !slices.ContainsFunc(b.Members, func(m core.GroupMember) bool { return m.Foreign }) && b.Alarm == "" {
			t.Errorf("bob: %+v", b)
		}
		stopAll(p...)
	})
}

// TestGroupGhostDevice: a server says that a member has a device that their list does
// not have. Nothing is encrypted for it.
func TestGroupGhostDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := p[0], p[1]
		id := circle(t, p...)
		ada.tell(id, "one")
		settle(5 * time.Second)
		w.setRefuse(func(sub *wire.Submission) error {
			if sub.Multi == nil {
				return nil
			}
			return &clearbox.StaleDevicesError{User: bob.user, Version: 1, Missing: []clearbox.DeviceRef{{ID: 7, Registration: 77}}}
		})
		id2 := ada.tell(id, "two")
		settle(10 * time.Minute)
		if s := ada.state(id2); s != core.StateQueued && s != core.StateFailed {
			t.Errorf("it is %s", s)
		}
		w.mu.Lock()
		for _, e := range w.kept {
			if bytes.Contains(e.Content, []byte("two")) {
				t.Error("it stands in the open")
			}
		}
		w.mu.Unlock()
		w.setRefuse(nil)
		settle(10 * time.Minute)
		if lines := bob.within(id); !slices.Contains(lines, "ada: two") {
			t.Errorf("bob sees %q", lines)
		}
		stopAll(p...)
	})
}
