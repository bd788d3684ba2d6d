package groups

import (
	"context"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

var _ federation.Groups = (*Service)(nil)

// Summary is a group as one of its people sees it.
type Summary struct {
	ID     clearbox.GroupID
	Hub    clearbox.ServerName
	State  storage.GroupState
	Epoch  uint64
	Head   [32]byte
	Member clearbox.MemberID // the person's own
	Role   chain.Role
	Status chain.Status
}

func (n *snapshot) summary(u clearbox.UserID) (Summary, bool) {
	id, m, ok := n.membership(u)
	return Summary{
		ID: n.row.ID, Hub: n.row.Hub, State: n.row.State, Epoch: n.state.Epoch, Head: n.state.Head,
		Member: clearbox.MemberID(id), Role: m.Role, Status: m.Status,
	}, ok
}

// List gives the groups that the caller is in or invited to, oldest first.
func (s *Service) List(ctx context.Context, p auth.Principal) ([]Summary, error) {
	var rows []storage.Group
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.GroupsOf(p.UserNo)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []Summary
	for _, row := range rows {
		g, err := s.group(ctx, row.ID)
		if err != nil {
			return nil, err
		}
		if sum, ok := g.now.Load().summary(p.User); ok && sum.Status != chain.StatusFormer {
			out = append(out, sum)
		}
	}
	return out, nil
}

// seen gives a group to who is or was in it; not_found otherwise.
func (s *Service) seen(ctx context.Context, p auth.Principal, id clearbox.GroupID) (*snapshot, Summary, error) {
	g, err := s.group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, Summary{}, errUnknown()
	}
	if err != nil {
		return nil, Summary{}, err
	}
	n := g.now.Load()
	sum, ok := n.summary(p.User)
	if !ok {
		return nil, Summary{}, errUnknown()
	}
	return n, sum, nil
}

// Get gives a group that the caller is in or invited to, with the openings of the
// people who are in it now.
func (s *Service) Get(ctx context.Context, p auth.Principal, id clearbox.GroupID) (Summary, [][]byte, error) {
	n, sum, err := s.seen(ctx, p, id)
	if err != nil {
		return Summary{}, nil, err
	}
	if sum.Status == chain.StatusFormer {
		return Summary{}, nil, errNotMember()
	}
	var openings [][]byte
	for _, m := range sortedMembers(n.people) {
		if n.state.Members[m].Status != chain.StatusFormer {
			openings = append(openings, n.people[m].opening)
		}
	}
	return sum, openings, nil
}

// Ops gives operations behind an epoch. Who is no member any more gets them up to
// the one that ended it.
func (s *Service) Ops(ctx context.Context, p auth.Principal, id clearbox.GroupID, after uint64) (Page, error) {
	n, sum, err := s.seen(ctx, p, id)
	if err != nil {
		return Page{}, err
	}
	page, err := s.page(ctx, n, after)
	if err != nil || sum.Status != chain.StatusFormer {
		return page, err
	}
	page.cut(after, n.state.Members[chain.Member(sum.Member)].Ended)
	return page, nil
}

// Roster implements delivery.Rosters.
func (s *Service) Roster(ctx context.Context, id clearbox.GroupID) (delivery.Roster, error) {
	g, err := s.group(ctx, id)
	if err != nil {
		return delivery.Roster{}, err
	}
	return g.now.Load().roster, nil
}

// Forget lets a person vanish from every group: who they were is deleted, here and
// in what this server says to others from now on. The operations stay and verify.
func (s *Service) Forget(ctx context.Context, u clearbox.UserID) error {
	var in []clearbox.GroupID
	err := s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		in, err = tx.ForgetGroupMember(u)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range in {
		g, err := s.turn(ctx, id)
		if err != nil {
			return err
		}
		err = s.reread(ctx, g)
		g.leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// Overview is a group as administrators see it: no names, no title.
type Overview struct {
	storage.Group
	Members int // people who are in it
	Invited int
	Servers []clearbox.ServerName // with people in it
}

// All gives every group that is kept here, oldest first.
func (s *Service) All(ctx context.Context) ([]Overview, error) {
	var out []Overview
	for after := int64(0); ; {
		var rows []storage.Group
		err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.Groups(after, loadPage)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			return out, nil
		}
		for _, row := range rows {
			o, err := s.Overview(ctx, row.ID)
			if err != nil {
				return nil, err
			}
			out = append(out, o)
		}
		after = rows[len(rows)-1].No
	}
}

// Overview gives one of them; not_found.
func (s *Service) Overview(ctx context.Context, id clearbox.GroupID) (Overview, error) {
	g, err := s.group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return Overview{}, errUnknown()
	}
	if err != nil {
		return Overview{}, err
	}
	n := g.now.Load()
	o := Overview{Group: n.row}
	for id, m := range n.state.Members {
		switch m.Status {
		case chain.StatusActive:
			o.Members++
		case chain.StatusInvited:
			o.Invited++
		default:
			continue
		}
		if p, ok := n.people[id]; ok && !slices.Contains(o.Servers, p.user.Server) {
			o.Servers = append(o.Servers, p.user.Server)
		}
	}
	slices.Sort(o.Servers)
	return o, nil
}

// Delete ends a group of which this server is the hub, whatever its members want:
// operations and members are deleted here, and every member server and device is
// told. deed is written into the audit log in the same update.
func (s *Service) Delete(ctx context.Context, deed storage.AuditEntry, id clearbox.GroupID) error {
	g, err := s.turn(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return errUnknown()
	}
	if err != nil {
		return err
	}
	defer g.leave()
	cur := g.now.Load()
	switch {
	case cur.row.Hub != s.server:
		return clearbox.Errorf(clearbox.CodeForbidden, "this group is kept by %s: only its administrators can delete it", cur.row.Hub)
	case cur.row.State == storage.GroupDeleted:
		return clearbox.Errorf(clearbox.CodeGroupClosed, "this group was deleted already")
	}
	_, servers := s.reach(cur, cur)
	deed.Object = id.String()
	return s.end(ctx, g, deed, s.routable(ctx, servers))
}

// end deletes what is kept of a group and tells its people. The caller has the turn.
func (s *Service) end(ctx context.Context, g *group, deed storage.AuditEntry, servers []clearbox.ServerName) error {
	cur := g.now.Load()
	people, _ := s.reach(cur, cur)
	news, err := s.mail.NewGroupNews(ctx, &delivery.GroupEvent{Group: g.id, Epoch: cur.state.Epoch, Ended: true}, people, servers)
	if err != nil {
		return err
	}
	row := cur.row
	row.State, row.Reason = storage.GroupDeleted, ""
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		if err := tx.SetGroupState(row.No, row.State, row.Reason); err != nil {
			return err
		}
		if err := tx.EmptyGroup(row.No); err != nil {
			return err
		}
		if deed.Action != "" {
			if err := tx.Audit(deed); err != nil {
				return err
			}
		}
		return news.Put(tx)
	})
	if err != nil {
		return err
	}
	g.now.Store((&snapshot{}).with(row, chain.State{}, nil))
	news.Tell()
	return nil
}
