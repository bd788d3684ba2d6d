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
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// circle is a group whose members are spoken for by the test.
type circle struct {
	w     *servertest.World
	state chain.State
	opens map[*bare]*chain.Opening
}

func (c *circle) id() clearbox.GroupID { return clearbox.GroupID(c.state.Group) }

func (c *circle) ref() *clearbox.GroupRef {
	return &clearbox.GroupRef{ID: c.id(), Epoch: c.state.Epoch}
}

func (c *circle) check(err error) {
	c.w.T.Helper()
	if err != nil {
		c.w.T.Fatal(err)
	}
}

func (c *circle) opening(p *bare) *chain.Opening {
	if o := c.opens[p]; o != nil {
		return o
	}
	o := &chain.Opening{Account: p.User.String()}
	copy(o.Member[:], p.User.UID)
	copy(o.Salt[:], p.User.UID)
	copy(o.Identity[:], p.Identity.Public().Bytes())
	c.opens[p] = o
	return o
}

// begin has somebody create it at their server.
func begin(w *servertest.World, p *bare) *circle {
	c := &circle{w: w, opens: map[*bare]*chain.Opening{}}
	o := c.opening(p)
	raw, err := chain.Sign(p.Devices[1], &chain.Op{
		Epoch: 1, Actor: o.Member, Signer: p.Devices[1].Public().(ed25519.PublicKey), List: p.List.Version, Time: time.Now().UnixMilli(),
		Body: chain.Create{Hub: string(p.User.Server), Nonce: [16]byte{1}, Commitment: o.Commitment(), Policy: chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: 10}},
	})
	c.check(err)
	c.state, err = chain.Verify([][]byte{raw})
	c.check(err)
	p.do("POST", "/groups/create", wire.GroupCreate{Op: raw, Opening: o.Encode()}, nil)
	return c
}

// do signs the next operation and hands it in at the person's server.
func (c *circle) do(p *bare, body chain.Body, added ...*bare) {
	c.w.T.Helper()
	o := c.state.Next(c.opening(p).Member, p.Devices[1].Public().(ed25519.PublicKey), p.List.Version, time.Now().UnixMilli())
	o.Body = body
	raw, err := chain.Sign(p.Devices[1], o)
	c.check(err)
	c.state, err = c.state.Apply(raw)
	c.check(err)
	in := wire.GroupSubmit{Op: raw}
	for _, a := range added {
		in.Openings = append(in.Openings, c.opening(a).Encode())
	}
	p.do("POST", "/groups/"+c.id().String()+"/ops", in, nil)
}

// admit invites people, who accept.
func (c *circle) admit(by *bare, who ...*bare) {
	c.w.T.Helper()
	var add chain.Add
	for _, p := range who {
		o := c.opening(p)
		add.Invitees = append(add.Invitees, chain.Invitee{Member: o.Member, Commitment: o.Commitment(), Role: chain.RoleMember})
	}
	chain.SortInvitees(add.Invitees)
	c.do(by, add, who...)
	for _, p := range who {
		c.know(p)
		c.do(p, chain.Accept{})
	}
	for _, p := range append(who, by) {
		c.know(p)
	}
}

// know waits until somebody's server is where the group is.
func (c *circle) know(p *bare) {
	c.w.T.Helper()
	c.w.Wait("the group is known to "+string(p.Handle), 5*time.Minute, func() bool {
		var all wire.Groups
		p.do("GET", "/groups", nil, &all)
		return slices.ContainsFunc(all.Groups, func(g wire.GroupSummary) bool { return g.Group == c.id() && g.Epoch == c.state.Epoch })
	})
}

// multi is a message for people with one device each, and what each of them
// receives.
func multi(text string, to ...*bare) (b []byte, forms map[*bare]string) {
	b, forms = fanout.AppendHead(nil, len(to)), map[*bare]string{}
	shared := make([]byte, clearbox.MinSealed-1-fanout.MaterialSize)
	copy(shared[fanout.EphemeralSize:], text)
	for _, p := range to {
		id := keys.AccountServiceID(p.User.String())
		material := slices.Repeat(id[1:17], 3)
		b = append(fanout.AppendDevices(b, id, []fanout.Device{{ID: 1, Registration: 1001}}), material...)
		forms[p] = string(fanout.AppendForm(nil, material, shared))
	}
	return append(b, shared...), forms
}

// post sends a message to the group over HTTP and gives its id and the status.
func (c *circle) post(p *bare, group *clearbox.GroupRef, m []byte) (clearbox.MessageID, core.Response) {
	c.w.T.Helper()
	var id clearbox.MessageID
	copy(id[:], fmt.Sprintf("message %08d", time.Now().UnixMilli()%100_000_000))
	body, err := json.Marshal(wire.Submission{ID: id, To: []wire.Recipient{}, Group: group, Multi: m})
	c.check(err)
	res, err := p.line.Do(c.w.T.Context(), core.Request{Method: "POST", Path: "/messages/send", Token: p.token, Body: body})
	c.check(err)
	time.Sleep(time.Second) // another id next time
	return id, res
}

func (c *circle) status(p *bare, id clearbox.MessageID) wire.MessageState {
	c.w.T.Helper()
	var out wire.Statuses
	p.do("POST", "/messages/status", wire.StatusQuery{IDs: []clearbox.MessageID{id}}, &out)
	return out.States[0].State
}

// heard fetches and acknowledges everything that waits, and gives the contents.
func (p *bare) heard() (out []string) {
	p.w.T.Helper()
	acked := int64(0)
	for {
		var page wire.Sync
		p.do("GET", "/sync?timeout=0&ack="+fmt.Sprint(acked), nil, &page)
		if len(page.Events) == 0 {
			return out
		}
		for _, f := range page.Events {
			acked = f.Seq
			switch {
			case f.Envelope != nil:
				out = append(out, string(f.Envelope.Content))
			case f.Notice != nil:
				out = append(out, string(f.Notice.Kind)+":"+string(f.Notice.Code))
			}
		}
	}
}

// A message to a group goes straight from its sender's server to each of the
// others, also while one of them is away and through a restart, arrives once at
// everybody and leaves nothing behind.
func TestGroupAcrossThreeHouses(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test", "c.test"}, func(w *servertest.World) {
		makers := authtest.New(w.T, auth.Options{})
		makers.Clock.Fly(time.Until(makers.Clock.Now()) * -1)
		people := map[string]*bare{}
		for name, server := range map[string]clearbox.ServerName{"alice": "a.test", "anna": "a.test", "bob": "b.test", "ben": "b.test", "eve": "b.test", "carol": "c.test"} {
			people[name] = joinBare(w, makers, clearbox.Handle(name), server)
			defer people[name].end()
		}
		alice, anna, bob, ben, carol := people["alice"], people["anna"], people["bob"], people["ben"], people["carol"]
		// The hub is b.test: what is sent needs it for nothing.
		c := begin(w, bob)
		c.admit(bob, alice, anna, ben, carol)
		for _, p := range []*bare{bob, ben, carol} { // as clients do before they encrypt
			alice.do("GET", "/users/"+url.PathEscape(p.User.String()), nil, nil)
		}
		for _, p := range people {
			p.heard()
		}
		all := []*bare{anna, bob, ben, carol}
		got := func(p *bare, want ...string) {
			t.Helper()
			if got := p.heard(); !slices.Equal(got, want) {
				t.Errorf("%s has %d messages, want %d", p.Handle, len(got), len(want))
			}
		}

		first, forms := multi("to all", all...)
		id, res := c.post(alice, c.ref(), first)
		if res.Status != 200 {
			t.Fatalf("%d %s", res.Status, res.Body)
		}
		w.Wait("all have the first message", 5*time.Minute, func() bool { return c.status(alice, id) == wire.StateAtPeer })
		for _, p := range all {
			got(p, forms[p])
		}

		w.Partition("a.test", "c.test")
		second, forms := multi("while one is away", all...)
		id, res = c.post(alice, c.ref(), second)
		if res.Status != 200 {
			t.Fatalf("%d %s", res.Status, res.Body)
		}
		time.Sleep(time.Minute)
		w.House("a.test").Restart()
		w.House("b.test").Restart()
		got(anna, forms[anna])
		got(bob, forms[bob])
		if s := c.status(alice, id); s != wire.StateAccepted {
			t.Errorf("while a part of it waits: %s", s)
		}
		w.Heal("a.test", "c.test")
		w.Wait("the last one has it", time.Hour, func() bool { return c.status(alice, id) == wire.StateAtPeer })
		got(carol, forms[carol])
		got(ben, forms[ben])

		if _, res := c.post(people["eve"], c.ref(), first); res.Status != 403 {
			t.Errorf("from outside: %d %s", res.Status, res.Body)
		}
		old := c.ref()
		c.do(bob, chain.Remove{Members: []chain.Member{c.opening(ben).Member}})
		c.know(alice)
		if _, res := c.post(alice, old, first); res.Status != 409 {
			t.Errorf("in the former epoch: %d %s", res.Status, res.Body)
		}
		third, forms := multi("without one", anna, bob, carol)
		if id, res = c.post(alice, c.ref(), third); res.Status != 200 {
			t.Errorf("%d %s", res.Status, res.Body)
		}
		w.Wait("the rest has it", 5*time.Minute, func() bool { return c.status(alice, id) == wire.StateAtPeer })
		got(ben)
		for _, p := range []*bare{anna, bob, carol} {
			got(p, forms[p])
		}
		time.Sleep(time.Minute)
		for _, h := range []clearbox.ServerName{"a.test", "b.test", "c.test"} {
			if n := rows(w, w.House(h), []byte("while one is away")); n["bodies"] != 0 || n["body_refs"] != 0 || n["outbox"] != 0 {
				t.Errorf("%s has %d bodies, %d counts, %d in the outbox", h, n["bodies"], n["body_refs"], n["outbox"])
			}
		}
	})
}
