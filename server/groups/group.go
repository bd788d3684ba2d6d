package groups

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

// group is one group in memory. Who changes it has its turn; who reads it takes
// the snapshot of the moment.
type group struct {
	id   clearbox.GroupID
	turn chan struct{} // capacity 1: whoever filled it has the turn
	now  atomic.Pointer[snapshot]
}

// snapshot is a group in one epoch. It is never changed.
type snapshot struct {
	row    storage.Group
	state  chain.State
	people map[chain.Member]person // of former members too; who was erased is missing
	roster delivery.Roster
}

// person is who a member is.
type person struct {
	user    clearbox.UserID
	userNo  int64  // 0: of another server
	opening []byte // encoded
	parsed  *chain.Opening
}

// turn waits until nobody else changes the group; leave ends the turn. Errors are
// those of group.
func (s *Service) turn(ctx context.Context, id clearbox.GroupID) (*group, error) {
	for {
		g, err := s.group(ctx, id)
		if err != nil {
			return nil, err
		}
		select {
		case g.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, clearbox.Wrap(clearbox.CodeUnavailable, "the request was given up", ctx.Err())
		}
		s.mu.Lock()
		current := s.all[id] == g
		s.mu.Unlock()
		if current {
			return g, nil
		}
		g.leave() // it was forgotten while we waited; others may have read it anew
	}
}

func (g *group) leave() { <-g.turn }

// group gives a group that this server knows; storage.ErrNotFound when it knows
// none of this id.
func (s *Service) group(ctx context.Context, id clearbox.GroupID) (*group, error) {
	s.mu.Lock()
	g := s.all[id]
	s.mu.Unlock()
	if g != nil {
		return g, nil
	}
	snap, err := s.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.keep(snap), nil
}

// keep puts a group into memory, unless somebody was faster.
func (s *Service) keep(snap *snapshot) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.all[snap.row.ID]; g != nil {
		return g
	}
	if len(s.all) >= maxGroups {
		for id, g := range s.all {
			if len(g.turn) == 0 {
				delete(s.all, id)
			}
		}
	}
	g := &group{id: snap.row.ID, turn: make(chan struct{}, 1)}
	g.now.Store(snap)
	s.all[g.id] = g
	return g
}

// reread replaces what is in memory by what is stored. The caller has the turn.
func (s *Service) reread(ctx context.Context, g *group) error {
	snap, err := s.load(ctx, g.id)
	if err == nil {
		g.now.Store(snap)
	}
	return err
}

const loadPage = 1000

func (s *Service) load(ctx context.Context, id clearbox.GroupID) (*snapshot, error) {
	snap := &snapshot{}
	var ops [][]byte
	var members []storage.GroupMember
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		ops = nil
		if snap.row, err = tx.Group(id); err != nil {
			return err
		}
		for {
			page, err := tx.GroupOps(snap.row.No, uint64(len(ops)), loadPage, 4<<20)
			if err != nil {
				return err
			}
			if ops = append(ops, page...); len(page) == 0 {
				break
			}
		}
		members, err = tx.GroupMembers(snap.row.No)
		return err
	})
	if err != nil {
		return nil, err
	}
	if snap.state, err = chain.Verify(ops); err != nil {
		return nil, fmt.Errorf("a stored group: %w", err)
	}
	snap.people = make(map[chain.Member]person, len(members))
	for _, m := range members {
		if m.Opening == nil {
			continue // erased
		}
		p, err := readPerson(m.Opening)
		if err != nil {
			return nil, fmt.Errorf("a stored opening: %w", err)
		}
		p.userNo = m.UserNo
		snap.people[p.parsed.Member] = p
	}
	snap.finish()
	return snap, nil
}

func readPerson(opening []byte) (person, error) {
	o, err := chain.ParseOpening(opening)
	if err != nil {
		return person{}, err
	}
	u, err := clearbox.ParseUserID(o.Account)
	if err != nil {
		return person{}, err
	}
	return person{user: u, opening: opening, parsed: o}, nil
}

// finish makes the roster.
func (n *snapshot) finish() {
	n.roster = delivery.Roster{
		Epoch: n.state.Epoch, Closed: n.row.State == storage.GroupClosed || n.row.State == storage.GroupDeleted,
		Members: make(map[clearbox.UserID]delivery.MemberState, len(n.people)),
	}
	for id, p := range n.people {
		m, ok := n.state.Members[id]
		if !ok {
			continue
		}
		st := delivery.MemberState{Status: delivery.MemberFormer, Ended: m.Ended}
		switch m.Status {
		case chain.StatusActive:
			st = delivery.MemberState{Status: delivery.MemberActive}
		case chain.StatusInvited:
			st = delivery.MemberState{Status: delivery.MemberInvited}
		}
		// Who came back has several memberships: the one that lasts counts, else the last.
		if have, ok := n.roster.Members[p.user]; ok && (have.Status != delivery.MemberFormer || st.Status == delivery.MemberFormer && st.Ended < have.Ended) {
			continue
		}
		n.roster.Members[p.user] = st
	}
}

// with is the snapshot after an operation.
func (n *snapshot) with(row storage.Group, state chain.State, added []person) *snapshot {
	next := &snapshot{row: row, state: state, people: n.people}
	if len(added) > 0 {
		next.people = make(map[chain.Member]person, len(n.people)+len(added))
		maps.Copy(next.people, n.people)
		for _, p := range added {
			next.people[p.parsed.Member] = p
		}
	}
	next.finish()
	return next
}

// membership finds what a person is in the group: what lasts, else the newest
// that ended.
func (n *snapshot) membership(u clearbox.UserID) (id chain.Member, m chain.Membership, ok bool) {
	for i, p := range n.people {
		if p.user != u {
			continue
		}
		is := n.state.Members[i]
		if !ok || is.Status != chain.StatusFormer || m.Status == chain.StatusFormer && is.Ended > m.Ended {
			id, m, ok = i, is, true
		}
	}
	return id, m, ok
}

// present calls fn for everybody who is in the group or invited.
func (n *snapshot) present(fn func(chain.Member, person)) {
	for id, p := range n.people {
		if m, ok := n.state.Members[id]; ok && m.Status != chain.StatusFormer {
			fn(id, p)
		}
	}
}

// reach gives whom a change from before to after concerns: people of this server,
// and the other servers, both in order.
func (s *Service) reach(before, after *snapshot) (people []clearbox.UserID, servers []clearbox.ServerName) {
	here, there := map[clearbox.UserID]bool{}, map[clearbox.ServerName]bool{}
	for _, n := range []*snapshot{before, after} {
		n.present(func(_ chain.Member, p person) {
			if p.user.Server == s.server {
				here[p.user] = true
			} else {
				there[p.user.Server] = true
			}
		})
	}
	people = slices.SortedFunc(maps.Keys(here), func(a, b clearbox.UserID) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return people, slices.Sorted(maps.Keys(there))
}

// put makes an operation that was examined durable and tells devices and, as the
// hub, member servers. The caller has the turn.
func (s *Service) put(ctx context.Context, g *group, raw []byte, next chain.State, added []person) error {
	cur := g.now.Load()
	row := cur.row
	row.Head, row.Hub, row.Changed = next.Head, clearbox.ServerName(next.Hub), s.now()
	if next.Closed {
		row.State = storage.GroupClosed
	}
	after := cur.with(row, next, added)
	people, servers := s.reach(cur, after)
	if cur.row.Hub != s.server {
		servers = nil
	}
	people, err := s.unblocked(ctx, after, people, added)
	if err != nil {
		return err
	}
	event := &delivery.GroupEvent{Group: g.id, Epoch: next.Epoch, Op: raw}
	for _, p := range added {
		event.Openings = append(event.Openings, p.opening)
	}
	news, err := s.mail.NewGroupNews(ctx, event, people, s.routable(ctx, servers))
	if err != nil {
		return err
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		stored := row
		if err := tx.AppendGroupOp(&stored, raw); err != nil {
			return err
		}
		if err := putPeople(tx, row.No, added); err != nil {
			return err
		}
		return news.Put(tx)
	})
	if errors.Is(err, storage.ErrNotFound) {
		// What is in memory is not what is stored.
		return errors.Join(clearbox.Errorf(clearbox.CodeUnavailable, "the group changed meanwhile; try again"), s.reread(ctx, g))
	}
	if err != nil {
		return err
	}
	after.row.Epoch = next.Epoch
	g.now.Store(after)
	news.Tell()
	return nil
}

func putPeople(tx *storage.Tx, groupNo int64, people []person) error {
	for _, p := range people {
		err := tx.PutGroupMember(&storage.GroupMember{
			GroupNo: groupNo, Member: clearbox.MemberID(p.parsed.Member), User: p.user, UserNo: p.userNo, Opening: p.opening,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// routable leaves out servers with which nothing is exchanged any more.
func (s *Service) routable(ctx context.Context, servers []clearbox.ServerName) []clearbox.ServerName {
	return slices.DeleteFunc(servers, func(peer clearbox.ServerName) bool { return s.o.Route(ctx, peer) != nil })
}

// unblocked leaves out who was just invited by somebody whom they have blocked.
func (s *Service) unblocked(ctx context.Context, after *snapshot, people []clearbox.UserID, added []person) ([]clearbox.UserID, error) {
	for _, p := range added {
		inviter, ok := after.people[after.state.Members[p.parsed.Member].AddedBy]
		if p.userNo == 0 || !ok || inviter.user == p.user {
			continue
		}
		blocked := false
		err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
			blocked, err = tx.Blocked(p.userNo, inviter.user)
			return err
		})
		if err != nil {
			return nil, err
		}
		if blocked {
			people = slices.DeleteFunc(people, func(u clearbox.UserID) bool { return u == p.user })
		}
	}
	return people, nil
}
