package groups_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/storage"
)

const (
	home  clearbox.ServerName = "a.test" // the server under test
	there clearbox.ServerName = "b.test" // a server that the test plays
)

// world is a real server's groups on a real store; the other servers are the
// test's.
type world struct {
	*authtest.World
	router *delivery.Router
	dir    *directory.Service
	groups *groups.Service

	lists   map[clearbox.UserID]directory.RemoteAccount // people of other servers
	away    map[clearbox.ServerName]bool                // servers that do not answer
	country map[clearbox.ServerName]string
	hub     func(g federation.GroupOp) (uint64, [32]byte, error) // what the played hub answers
	history func(after uint64) (federation.GroupHistory, error)
	alerts  []federation.Alert
	pos     int64
}

func newWorld(t *testing.T) *world {
	w := &world{
		World: authtest.New(t, auth.Options{}), lists: map[clearbox.UserID]directory.RemoteAccount{}, away: map[clearbox.ServerName]bool{},
		country: map[clearbox.ServerName]string{home: "AT", there: "DE"},
	}
	w.dir = directory.New(w.Store, w.Auth, home, directory.Options{Now: w.Clock.Now, Random: w.Random, Remote: remote{w}})
	w.router = delivery.New(w.Store, w.People, w.dir, open{}, home, delivery.Options{Now: w.Clock.Now, Random: w.Random})
	w.restart()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.router.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return w
}

// restart forgets what is in memory.
func (w *world) restart() {
	w.groups = groups.New(w.Store, w.dir, w.router, home, groups.Options{
		Now: w.Clock.Now, Random: w.Random, Hubs: hubs{w},
		Route: func(_ context.Context, peer clearbox.ServerName) error {
			if peer != there {
				return clearbox.Errorf(clearbox.CodePeerBlocked, "not a peer")
			}
			return nil
		},
		Country: func(s clearbox.ServerName) string { return w.country[s] },
		Alert:   func(_ clearbox.ServerName, kind federation.Alert) { w.alerts = append(w.alerts, kind) },
	})
}

type open struct{}

func (open) Route(context.Context, clearbox.ServerName) error { return nil }

type remote struct{ w *world }

func (r remote) Resolve(context.Context, clearbox.Address) (directory.RemoteAccount, error) {
	return directory.RemoteAccount{}, clearbox.Errorf(clearbox.CodeConsentRequired, "not asked")
}

func (r remote) Devices(_ context.Context, u clearbox.UserID) (directory.RemoteAccount, error) {
	if r.w.away[u.Server] {
		return directory.RemoteAccount{}, clearbox.Errorf(clearbox.CodePeerUnreachable, "away")
	}
	if a, ok := r.w.lists[u]; ok {
		return a, nil
	}
	return directory.RemoteAccount{}, clearbox.Errorf(clearbox.CodeNotFound, "nobody")
}

func (r remote) Claim(context.Context, clearbox.UserID, string, []byte, []clearbox.DeviceID) ([]directory.Bundle, error) {
	return nil, errors.New("not asked")
}

type hubs struct{ w *world }

func (h hubs) SubmitOp(_ context.Context, _ clearbox.ServerName, g federation.GroupOp) (uint64, [32]byte, error) {
	if h.w.hub == nil {
		return 0, [32]byte{}, clearbox.Errorf(clearbox.CodeHubUnreachable, "away")
	}
	return h.w.hub(g)
}

func (h hubs) GroupHistory(_ context.Context, _ clearbox.ServerName, _ clearbox.GroupID, after uint64) (federation.GroupHistory, error) {
	if h.w.history == nil {
		return federation.GroupHistory{}, clearbox.Errorf(clearbox.CodeHubUnreachable, "away")
	}
	return h.w.history(after)
}

// member is somebody with one membership.
type member struct {
	*authtest.Person
	who     auth.Principal // zero for people of other servers
	opening chain.Opening
}

func (w *world) member(p *authtest.Person, who auth.Principal) *member {
	m := &member{Person: p, who: who}
	w.Random.Read(m.opening.Member[:])
	w.Random.Read(m.opening.Salt[:])
	m.opening.Account = p.User.String()
	copy(m.opening.Identity[:], p.Identity.Public().Bytes())
	return m
}

// local joins somebody of the server under test.
func (w *world) local(h clearbox.Handle) *member {
	p, tokens := w.Join(h)
	return w.member(p, w.Principal(tokens.Access))
}

// elsewhere makes somebody of another server, which describes them so.
func (w *world) elsewhere(h clearbox.Handle, s clearbox.ServerName) *member {
	p := w.PersonAt(h, s)
	w.publish(p)
	return w.member(p, auth.Principal{})
}

func (w *world) publish(p *authtest.Person) {
	w.lists[p.User] = directory.RemoteAccount{User: p.User, Address: clearbox.Address{Handle: p.Handle, Server: p.User.Server}, DeviceList: p.Signed(), Version: p.List.Version}
}

// again is the same person with another membership.
func (w *world) again(m *member) *member { return w.member(m.Person, m.who) }

// story is a group as an honest client sees it.
type story struct {
	w     *world
	id    clearbox.GroupID
	state chain.State
	ops   [][]byte
	opens [][]byte // of everybody who was added
}

func rules() chain.Policy { return chain.Policy{MayAdd: chain.AdminsAdd, MaxMembers: 20} }

func (w *world) sign(device ed25519.PrivateKey, o *chain.Op) []byte {
	w.T.Helper()
	raw, err := chain.Sign(device, o)
	if err != nil {
		w.T.Fatal(err)
	}
	return raw
}

// creation signs a create operation.
func (w *world) creation(m *member, hub clearbox.ServerName, p chain.Policy) []byte {
	key := m.Devices[1]
	return w.sign(key, &chain.Op{
		Epoch: 1, Actor: m.opening.Member, Signer: key.Public().(ed25519.PublicKey), List: m.List.Version, Time: w.Clock.Now().UnixMilli(),
		Body: chain.Create{Hub: string(hub), Nonce: [16]byte(m.opening.Salt[:16]), Commitment: m.opening.Commitment(), Policy: p},
	})
}

// begin creates a group with the server under test as its hub.
func (w *world) begin(m *member, p chain.Policy) *story {
	w.T.Helper()
	raw := w.creation(m, home, p)
	r, err := w.groups.Create(w.T.Context(), m.who, raw, m.opening.Encode())
	if err != nil {
		w.T.Fatal(err)
	}
	s := &story{w: w, id: r.Group, opens: [][]byte{m.opening.Encode()}}
	s.note(raw)
	if r.Epoch != 1 || chain.Hash(r.Head) != s.state.Head || r.Group != clearbox.GroupID(s.state.Group) {
		w.T.Errorf("created as %+v", r)
	}
	return s
}

// afar begins a group at another hub; nothing of it is told.
func (w *world) afar(m *member, p chain.Policy) *story {
	s := &story{w: w, opens: [][]byte{m.opening.Encode()}}
	s.note(w.creation(m, there, p))
	s.id = clearbox.GroupID(s.state.Group)
	return s
}

// note applies an operation to what clients know.
func (s *story) note(raw []byte) {
	s.w.T.Helper()
	next, err := s.state.Apply(raw)
	if err != nil {
		s.w.T.Fatal(err)
	}
	s.state, s.ops = next, append(s.ops, raw)
}

func (s *story) next(m *member, body chain.Body) []byte { return s.nextWith(m, m.Devices[1], body) }

func (s *story) nextWith(m *member, device ed25519.PrivateKey, body chain.Body) []byte {
	s.w.T.Helper()
	o := s.state.Next(m.opening.Member, device.Public().(ed25519.PublicKey), m.List.Version, s.w.Clock.Now().UnixMilli())
	o.Body = body
	return s.w.sign(device, o)
}

func invite(r chain.Role, who ...*member) chain.Add {
	var a chain.Add
	for _, m := range who {
		a.Invitees = append(a.Invitees, chain.Invitee{Member: m.opening.Member, Commitment: m.opening.Commitment(), Role: r})
	}
	chain.SortInvitees(a.Invitees)
	return a
}

func openings(who ...*member) (out [][]byte) {
	for _, m := range who {
		out = append(out, m.opening.Encode())
	}
	return out
}

// submit hands in what a member signed, at the server under test or, of somebody
// elsewhere, as their server.
func (w *world) submit(s *story, m *member, raw []byte, opens ...[]byte) error {
	if m.User.Server == home {
		r, err := w.groups.Submit(w.T.Context(), m.who, s.id, raw, opens)
		if err == nil && chain.Hash(r.Head) != chain.HashOf(raw) {
			w.T.Errorf("the answer is about another operation: epoch %d", r.Epoch)
		}
		return err
	}
	_, _, err := w.groups.PeerOp(w.T.Context(), m.User.Server, federation.GroupOp{Group: s.id, Op: raw, Openings: opens})
	return err
}

// do is submit of what must be taken.
func (s *story) do(m *member, body chain.Body, who ...*member) {
	s.w.T.Helper()
	raw := s.next(m, body)
	if err := s.w.submit(s, m, raw, openings(who...)...); err != nil {
		s.w.T.Fatalf("%s at epoch %d: %v", body.Kind(), s.state.Epoch+1, err)
	}
	s.opens = append(s.opens, openings(who...)...)
	s.note(raw)
}

func (s *story) add(by *member, r chain.Role, who ...*member) {
	s.w.T.Helper()
	s.do(by, invite(r, who...), who...)
}

func (s *story) accept(who ...*member) {
	s.w.T.Helper()
	for _, m := range who {
		s.do(m, chain.Accept{})
	}
}

// tell brings an operation from the played hub to the server under test, which
// looks at it.
func (w *world) tell(g federation.GroupOp) {
	w.T.Helper()
	w.pos++
	id, err := clearbox.NewMessageID(w.Random)
	if err != nil {
		w.T.Fatal(err)
	}
	txn := &federation.Transaction{Stream: make([]byte, 16), Class: federation.ClassControl, Fence: 1, FirstPos: w.pos, Items: []federation.Item{
		{ID: id, AcceptedAt: clearbox.Millis(w.Clock.Now().UnixMilli()), Op: &g},
	}}
	a, err := w.router.Accept(w.T.Context(), there, txn)
	if err != nil || a.Verdicts[0].Code != federation.VerdictOK {
		w.T.Fatalf("what the hub tells got %+v, %v", a, err)
	}
	w.follow()
}

func (w *world) follow() {
	w.T.Helper()
	if _, err := w.groups.Follow(w.T.Context()); err != nil {
		w.T.Fatal(err)
	}
}

// serve has the played hub give the whole story to who asks.
func (w *world) serve(s *story) {
	w.history = func(after uint64) (federation.GroupHistory, error) {
		h := federation.GroupHistory{Ops: s.ops[min(after, uint64(len(s.ops))):]}
		if after == 0 {
			h.Openings = s.opens
		}
		return h, nil
	}
}

// mail gives what waits for the first device of somebody here, and acknowledges it.
func (w *world) mail(m *member) (out []*delivery.GroupEvent) {
	w.T.Helper()
	box := w.router.Mailbox(m.who)
	defer box.Close()
	for after := int64(0); ; {
		ds, err := box.Read(w.T.Context(), after, 100, 1<<20)
		if err != nil {
			w.T.Fatal(err)
		}
		if len(ds) == 0 {
			return out
		}
		for _, d := range ds {
			after = d.Seq
			if d.Group != nil {
				out = append(out, d.Group)
			}
		}
	}
}

// outgoing gives what waits for the other server.
func (w *world) outgoing() (out []federation.GroupOp) {
	w.T.Helper()
	lease, err := w.router.Lease(w.T.Context(), there, federation.ClassControl)
	if err != nil {
		w.T.Fatal(err)
	}
	for {
		b, err := w.router.Take(w.T.Context(), there, federation.ClassControl, lease, 100, 1<<20)
		if err != nil {
			w.T.Fatal(err)
		}
		if b == nil {
			return out
		}
		verdicts := make([]federation.Verdict, len(b.Items))
		for i, it := range b.Items {
			verdicts[i].Code = federation.VerdictOK
			if it.Op == nil {
				w.T.Errorf("something else waits for %s: %+v", there, it)
				continue
			}
			out = append(out, *it.Op)
		}
		if err := w.router.Settle(w.T.Context(), there, federation.ClassControl, lease, b, verdicts); err != nil {
			w.T.Fatal(err)
		}
	}
}

// stored is the group's row.
func (w *world) stored(s *story) (g storage.Group) {
	w.T.Helper()
	w.View(func(tx *storage.Tx) (err error) {
		g, err = tx.Group(s.id)
		return err
	})
	return g
}
