package groups

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

// Create begins a group of which this server is the hub. The caller is its
// creator; opening says so. The same operation again gets the first answer.
func (s *Service) Create(ctx context.Context, p auth.Principal, raw, opening []byte) (Result, error) {
	if err := s.may(p); err != nil {
		return Result{}, err
	}
	o, err := chain.Parse(raw)
	if err != nil {
		return Result{}, refuse(err)
	}
	create, ok := o.Body.(chain.Create)
	if !ok {
		return Result{}, refuse(chain.ErrNoGroup)
	}
	if create.Hub != string(s.server) {
		return Result{}, refuse(ErrHub)
	}
	state, err := chain.Verify([][]byte{raw})
	if err != nil {
		return Result{}, refuse(err)
	}
	id := clearbox.GroupID(state.Group)
	result := Result{Group: id, Epoch: 1, Head: state.Head}
	if g, err := s.group(ctx, id); err == nil {
		if actor := g.now.Load().people[o.Actor]; actor.user == p.User {
			return result, nil
		}
		return Result{}, refuse(ErrActor)
	} else if !errors.Is(err, storage.ErrNotFound) {
		return Result{}, err
	}
	e := examination{s: s, cur: &snapshot{}, op: o, next: &state, openings: [][]byte{opening}, strict: true}
	added, err := e.people(ctx)
	if err != nil {
		return Result{}, refuse(err)
	}
	if added[0].user != p.User {
		return Result{}, refuse(ErrActor)
	}
	row := storage.Group{ID: id, Hub: s.server, Epoch: 1, Head: state.Head, State: storage.GroupActive}
	event := &delivery.GroupEvent{Group: id, Epoch: 1, Op: raw, Openings: [][]byte{added[0].opening}}
	return result, s.begin(ctx, row, [][]byte{raw}, state, added, event)
}

// begin stores a group that was not known here and tells its people here.
func (s *Service) begin(ctx context.Context, row storage.Group, ops [][]byte, state chain.State, added []person, event *delivery.GroupEvent) error {
	snap := (&snapshot{}).with(row, state, added)
	people, _ := s.reach(&snapshot{}, snap)
	people, err := s.unblocked(ctx, snap, people, added)
	if err != nil {
		return err
	}
	news, err := s.mail.NewGroupNews(ctx, event, people, nil)
	if err != nil {
		return err
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		stored := row
		if err := tx.PutGroup(&stored); err != nil {
			return err
		}
		snap.row = stored
		if err := tx.PutGroupOps(stored.No, ops); err != nil {
			return err
		}
		if err := putPeople(tx, stored.No, added); err != nil {
			return err
		}
		return news.Put(tx)
	})
	if errors.Is(err, storage.ErrExists) {
		return nil // somebody was faster with the same
	}
	if err != nil {
		return err
	}
	s.keep(snap)
	news.Tell()
	return nil
}

// may tells whether the caller may change groups now.
func (s *Service) may(p auth.Principal) error {
	if !p.HasDevice() {
		return clearbox.Errorf(clearbox.CodeForbidden, "log in with a device for this")
	}
	return s.byUser.Take(s.o.Now(), string(p.User.UID))
}

// Submit takes an operation of the caller for a group: as the hub it puts it into
// its place, else it hands it to the hub and has its answer. The same operation
// again gets the first answer. Errors: *clearbox.GroupChangedError when others
// were faster, hub_unreachable, group_frozen, group_closed, not_a_member, and what
// the operation is refused for.
func (s *Service) Submit(ctx context.Context, p auth.Principal, id clearbox.GroupID, raw []byte, openings [][]byte) (Result, error) {
	if err := s.may(p); err != nil {
		return Result{}, err
	}
	o, err := chain.Parse(raw)
	if err != nil {
		return Result{}, refuse(err)
	}
	if clearbox.GroupID(o.Group) != id {
		return Result{}, refuse(chain.ErrGroup)
	}
	g, err := s.turn(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return Result{}, errUnknown()
	}
	if err != nil {
		return Result{}, err
	}
	defer g.leave()
	cur := g.now.Load()
	if _, _, ok := cur.membership(p.User); !ok {
		return Result{}, errUnknown() // absent and not visible look alike
	}
	if actor, ok := cur.people[o.Actor]; !ok || actor.user != p.User {
		return Result{}, refuse(ErrActor)
	}
	if cur.row.Hub == s.server {
		return s.order(ctx, g, o, raw, openings)
	}
	return s.pass(ctx, g, o, raw, openings)
}

// open tells whether operations are taken for the group.
func (n *snapshot) open() error {
	switch n.row.State {
	case storage.GroupFrozen:
		return clearbox.Errorf(clearbox.CodeGroupFrozen, "the membership of this group is frozen, since its server contradicted itself")
	case storage.GroupClosed, storage.GroupDeleted:
		return clearbox.Errorf(clearbox.CodeGroupClosed, "the group is closed")
	}
	return nil
}

// repeated tells whether an operation was taken before. Another one for an epoch
// that is over is a *clearbox.GroupChangedError.
func (s *Service) repeated(ctx context.Context, cur *snapshot, o *chain.Op, raw []byte) (bool, error) {
	if o.Epoch > cur.state.Epoch {
		return false, nil
	}
	var ops [][]byte
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		ops, err = tx.GroupOps(cur.row.No, o.Epoch-1, 1, 1)
		return err
	})
	if err != nil {
		return false, err
	}
	if len(ops) != 1 || string(ops[0]) != string(raw) {
		return false, &clearbox.GroupChangedError{Epoch: cur.state.Epoch}
	}
	return true, nil
}

// order is the hub's part. The caller has the turn.
func (s *Service) order(ctx context.Context, g *group, o *chain.Op, raw []byte, openings [][]byte) (Result, error) {
	cur := g.now.Load()
	result := Result{Group: g.id, Epoch: o.Epoch, Head: chain.HashOf(raw)}
	if done, err := s.repeated(ctx, cur, o, raw); done || err != nil {
		return result, err
	}
	if err := cur.open(); err != nil {
		return Result{}, err
	}
	if err := s.byGroup.Take(s.o.Now(), string(g.id[:])); err != nil {
		return Result{}, err
	}
	next, added, err := s.judge(ctx, cur, o, raw, openings, true)
	if err != nil {
		return Result{}, outdated(err, cur.state.Epoch)
	}
	return result, s.put(ctx, g, raw, next, added)
}

// judge verifies an operation with everything that this server knows.
func (s *Service) judge(ctx context.Context, cur *snapshot, o *chain.Op, raw []byte, openings [][]byte, strict bool) (chain.State, []person, error) {
	next, err := cur.state.Apply(raw)
	if err != nil {
		return chain.State{}, nil, err
	}
	if o.Body.Kind() == chain.KindHubMove {
		return chain.State{}, nil, clearbox.Errorf(clearbox.CodeNotImplemented, "groups cannot move to another hub yet")
	}
	e := examination{s: s, cur: cur, op: o, next: &next, openings: openings, strict: strict}
	added, err := e.people(ctx)
	return next, added, err
}

// pass is the part of a member's server that is not the hub. The caller has the
// turn.
func (s *Service) pass(ctx context.Context, g *group, o *chain.Op, raw []byte, openings [][]byte) (Result, error) {
	result := Result{Group: g.id, Epoch: o.Epoch, Head: chain.HashOf(raw)}
	cur := g.now.Load()
	if o.Epoch > cur.state.Epoch+1 && cur.row.State == storage.GroupActive { // the device knows more than its server
		if err := s.catchUp(ctx, g); err != nil {
			return Result{}, err
		}
		cur = g.now.Load()
	}
	if done, err := s.repeated(ctx, cur, o, raw); done || err != nil {
		return result, err
	}
	if err := cur.open(); err != nil {
		return Result{}, err
	}
	next, added, err := s.judge(ctx, cur, o, raw, openings, true)
	if err != nil {
		return Result{}, outdated(err, cur.state.Epoch)
	}
	epoch, head, err := s.o.Hubs.SubmitOp(ctx, cur.row.Hub, federation.GroupOp{Group: g.id, Op: raw, Openings: openings})
	var changed *clearbox.GroupChangedError
	switch {
	case errors.As(err, &changed):
		if err := s.catchUp(ctx, g); err != nil {
			return Result{}, err
		}
		return Result{}, &clearbox.GroupChangedError{Epoch: g.now.Load().state.Epoch}
	case err != nil:
		return Result{}, err
	case epoch != o.Epoch || chain.Hash(head) != next.Head:
		err := s.freeze(ctx, g, federation.AlertGroupInvalid, errors.New("groups: the hub's answer is about another operation"))
		return Result{}, errors.Join(err, g.now.Load().open())
	}
	return result, s.put(ctx, g, raw, next, added)
}

// PeerOp implements federation.Groups: an operation of a person of the peer comes
// to the hub.
func (s *Service) PeerOp(ctx context.Context, peer clearbox.ServerName, in federation.GroupOp) (epoch uint64, head [32]byte, err error) {
	o, err := chain.Parse(in.Op)
	if err != nil {
		return 0, head, refuse(err)
	}
	if clearbox.GroupID(o.Group) != in.Group {
		return 0, head, refuse(chain.ErrGroup)
	}
	g, err := s.turn(ctx, in.Group)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, head, errUnknown()
	}
	if err != nil {
		return 0, head, err
	}
	defer g.leave()
	cur := g.now.Load()
	actor, ok := cur.people[o.Actor]
	switch {
	case cur.row.Hub != s.server, !cur.concerns(peer):
		return 0, head, errUnknown()
	case !ok, actor.user.Server != peer:
		return 0, head, refuse(ErrActor) // a peer speaks for its own people only
	}
	r, err := s.order(ctx, g, o, in.Op, in.Openings)
	return r.Epoch, r.Head, err
}

// concerns tells whether the group has or had people of a server.
func (n *snapshot) concerns(server clearbox.ServerName) bool {
	for _, p := range n.people {
		if p.user.Server == server {
			return true
		}
	}
	return false
}

// Limits of a page of History.
const (
	pageOps      = federation.MaxHistoryOps
	pageOpenings = 1000
)

// PeerHistory implements federation.Groups. A server whose people are all out of the
// group gets it up to the operation that ended the last of them.
func (s *Service) PeerHistory(ctx context.Context, peer clearbox.ServerName, id clearbox.GroupID, after uint64) (federation.GroupHistory, error) {
	g, err := s.group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !g.now.Load().concerns(peer) {
		return federation.GroupHistory{}, errUnknown()
	}
	if err != nil {
		return federation.GroupHistory{}, err
	}
	n := g.now.Load()
	page, err := s.page(ctx, n, after)
	if end, over := n.ended(peer); over {
		page.cut(after, end)
	}
	return federation.GroupHistory{Ops: page.Ops, Openings: page.Openings, More: page.More}, err
}

// ended tells whether nobody of a server is in the group or invited any more, and
// since which epoch.
func (n *snapshot) ended(server clearbox.ServerName) (epoch uint64, over bool) {
	for id, p := range n.people {
		if p.user.Server != server {
			continue
		}
		m := n.state.Members[id]
		if m.Status != chain.StatusFormer {
			return 0, false
		}
		epoch = max(epoch, m.Ended)
	}
	return epoch, true
}

// Page is a run of operations with the openings of the people whom they add.
type Page struct {
	Ops      [][]byte
	Openings [][]byte
	More     bool
}

// cut takes out of a page that begins behind an epoch what comes after another one.
func (p *Page) cut(after, end uint64) {
	last := after + uint64(len(p.Ops))
	if last < end {
		return
	}
	p.Ops, p.More = p.Ops[:max(0, int64(len(p.Ops))-int64(last-end))], false
	var openings [][]byte
	for _, raw := range p.Ops {
		openings = append(openings, of(raw, p.Openings)...)
	}
	p.Openings = openings
}

// page reads operations behind an epoch from the store.
func (s *Service) page(ctx context.Context, n *snapshot, after uint64) (Page, error) {
	var p Page
	if after >= n.state.Epoch {
		return p, nil
	}
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		p.Ops, err = tx.GroupOps(n.row.No, after, pageOps, federation.MaxHistory/2)
		return err
	})
	if err != nil {
		return p, err
	}
	byEpoch := map[uint64][]chain.Member{}
	for id := range n.people {
		e := n.state.Members[id].Added
		byEpoch[e] = append(byEpoch[e], id)
	}
	size := 0
	for i := range p.Ops {
		ids := byEpoch[after+uint64(i)+1]
		for _, id := range ids {
			size += len(n.people[id].opening)
		}
		if i > 0 && (len(p.Openings)+len(ids) > pageOpenings || size > federation.MaxHistory/2) {
			p.Ops = p.Ops[:i]
			break
		}
		chain.SortMembers(ids)
		for _, id := range ids {
			p.Openings = append(p.Openings, n.people[id].opening)
		}
	}
	p.More = after+uint64(len(p.Ops)) < n.state.Epoch
	return p, nil
}

// sortedMembers gives ids in their order.
func sortedMembers(people map[chain.Member]person) []chain.Member {
	ids := slices.Collect(maps.Keys(people))
	chain.SortMembers(ids)
	return ids
}
