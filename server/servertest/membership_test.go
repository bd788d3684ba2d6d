package servertest_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// sign makes the next operation of somebody, which is not handed in.
func (c *circle) sign(p *bare, body chain.Body) []byte {
	c.w.T.Helper()
	o := c.state.Next(c.opening(p).Member, p.Devices[1].Public().(ed25519.PublicKey), p.List.Version, time.Now().UnixMilli())
	o.Body = body
	raw, err := chain.Sign(p.Devices[1], o)
	c.check(err)
	return raw
}

// hand hands an operation in and gives the status and the problem's code.
func (c *circle) hand(p *bare, raw []byte) (int, clearbox.Code) {
	c.w.T.Helper()
	body, err := json.Marshal(wire.GroupSubmit{Op: raw})
	c.check(err)
	res, err := p.line.Do(c.w.T.Context(), core.Request{Method: "POST", Path: "/groups/" + c.id().String() + "/ops", Token: p.token, Body: body})
	c.check(err)
	var problem wire.Problem
	if res.Status >= 300 {
		c.check(json.Unmarshal(res.Body, &problem))
	}
	return res.Status, problem.Code
}

// told fetches and acknowledges everything that waits, and gives the epochs of
// which somebody was told, in their order.
func (c *circle) told(p *bare) (epochs []uint64) {
	c.w.T.Helper()
	acked := int64(0)
	for {
		var page wire.Sync
		p.do("GET", "/sync?timeout=0&ack="+fmt.Sprint(acked), nil, &page)
		if len(page.Events) == 0 {
			return epochs
		}
		for _, f := range page.Events {
			if acked = f.Seq; f.Group != nil {
				epochs = append(epochs, f.Group.Epoch)
			}
		}
	}
}

// chainAt is what somebody's server gives them, verified as a client does.
func (c *circle) chainAt(p *bare) chain.State {
	c.w.T.Helper()
	var page wire.GroupPage
	p.do("GET", "/groups/"+c.id().String()+"/ops?after=0", nil, &page)
	s, err := chain.Verify(page.Ops)
	c.check(err)
	for _, raw := range page.Openings {
		o, err := chain.ParseOpening(raw)
		c.check(err)
		c.check(s.Opens(o))
	}
	return s
}

// A group's whole life over three servers, with restarts between and the hub away
// for a while: every server and device comes to the same chain, is told of each
// operation once and in order, and the talk goes on without the hub.
func TestMembershipAcrossThreeHouses(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test", "c.test"}, func(w *servertest.World) {
		makers := authtest.New(w.T, auth.Options{})
		makers.Clock.Fly(time.Until(makers.Clock.Now()) * -1)
		join := func(name clearbox.Handle, server clearbox.ServerName) *bare {
			p := joinBare(w, makers, name, server)
			w.Secret(string(p.User.UID))
			return p
		}
		alice, bob, dave, carol := join("alice", "a.test"), join("bob", "b.test"), join("dave", "b.test"), join("carol", "c.test")
		defer func() {
			for _, p := range []*bare{alice, bob, dave, carol} {
				p.end()
			}
		}()
		c := begin(w, alice)
		c.admit(alice, bob, carol)
		for _, h := range []clearbox.ServerName{"a.test", "b.test", "c.test"} {
			w.House(h).Restart()
		}
		c.do(alice, chain.SetRole{Member: c.opening(bob).Member, Role: chain.RoleAdmin})
		c.know(bob)
		c.admit(bob, dave) // by an admin of another server than the hub

		// A server that was away comes to the same state.
		w.House("c.test").Stop()
		c.do(bob, chain.SetInfo{Sealed: []byte("sealed one")})
		c.do(alice, chain.SetInfo{Sealed: []byte("sealed two")})
		w.House("c.test").Start()
		c.know(carol)

		// The hub is away: nobody comes or goes, and the talk goes on.
		for _, p := range []*bare{alice, carol} {
			bob.do("GET", "/users/"+url.PathEscape(p.User.String()), nil, nil)
		}
		before := map[*bare][]uint64{}
		for _, p := range []*bare{alice, bob, dave, carol} {
			before[p] = c.told(p)
		}
		w.House("a.test").Stop()
		remove := c.sign(bob, chain.Remove{Members: []chain.Member{c.opening(dave).Member}})
		if status, code := c.hand(bob, remove); status != 503 || code != clearbox.CodeHubUnreachable {
			t.Errorf("without the hub: %d %s", status, code)
		}
		m, forms := multi("without the hub", alice, dave, carol)
		if _, res := c.post(bob, c.ref(), m); res.Status != 200 {
			t.Fatalf("%d %s", res.Status, res.Body)
		}
		w.Wait("carol hears it without the hub", 5*time.Minute, func() bool { return slices.Contains(carol.heard(), forms[carol]) })
		w.House("a.test").Start()
		w.Wait("the hub answers again", 10*time.Minute, func() bool {
			status, code := c.hand(bob, remove) // the same one: at most once
			if status != 200 && code != clearbox.CodeHubUnreachable {
				t.Fatalf("with the hub back: %d %s", status, code)
			}
			return status == 200
		})
		var err error
		c.state, err = c.state.Apply(remove)
		c.check(err)
		c.know(carol)

		// Two at once, at two servers: one is first, the other learns of it.
		mine, theirs := c.sign(alice, chain.SetInfo{Sealed: []byte("hers")}), c.sign(bob, chain.SetInfo{Sealed: []byte("his")})
		one, _ := c.hand(alice, mine)
		two, code := c.hand(bob, theirs)
		if one != 200 || two != 409 || code != clearbox.CodeGroupChanged {
			t.Errorf("two at once: %d, %d %s", one, two, code)
		}
		c.state, err = c.state.Apply(mine)
		c.check(err)
		c.know(bob)
		c.know(carol)

		// A lower role is refused where it is handed in.
		if status, code := c.hand(carol, c.sign(carol, chain.Remove{Members: []chain.Member{c.opening(bob).Member}})); status != 403 || code != clearbox.CodeForbidden {
			t.Errorf("a member removes an admin: %d %s", status, code)
		}
		c.do(carol, chain.Remove{Members: []chain.Member{c.opening(carol).Member}})
		c.know(alice)
		c.do(alice, chain.Close{})
		c.know(bob)

		for _, p := range []*bare{alice, bob} {
			if got := c.chainAt(p); got.Head != c.state.Head || !got.Closed {
				t.Errorf("%s is at epoch %d", p.Handle, got.Epoch)
			}
		}
		if got := c.chainAt(carol); got.Epoch != c.state.Epoch-1 || got.Members[c.opening(carol).Member].Status != chain.StatusFormer {
			t.Errorf("carol, who left, reads up to epoch %d", got.Epoch)
		}
		last := c.state.Epoch
		for p, want := range map[*bare][2]uint64{alice: {1, last}, bob: {2, last}, dave: {6, 10}} {
			all := append(before[p], c.told(p)...)
			var should []uint64
			for e := want[0]; e <= want[1]; e++ {
				should = append(should, e)
			}
			if !slices.Equal(all, should) {
				t.Errorf("%s was told of %v, want %v", p.Handle, all, should)
			}
		}
	})
}
