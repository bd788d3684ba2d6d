package groups

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

// What hubs tell arrives in a table and is verified here, after the hub has its
// answer, in the order in which it came. What is missing before it is asked for.

const (
	followEvery   = 30 * time.Second // a lost wake costs time only
	followPage    = 100
	arrivalKept   = 14 * 24 * time.Hour
	arrivalRetry  = 5 * time.Second
	arrivalRested = 15 * time.Minute

	// A hub that answers slowly is left alone for so many times as long as it took,
	// and does not keep what others tell waiting.
	slowHub  = 2 * time.Second
	slowRest = 2
)

// Run follows other hubs until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		n, err := s.follow(ctx)
		if err != nil && ctx.Err() == nil {
			s.o.Log.Warn("operations of groups were not looked at; it is tried again", "error", err)
		}
		if err == nil && n == followPage {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.arrived:
		}
	}
}

// follow looks at what is due.
func (s *Service) follow(ctx context.Context) (int, error) {
	var due []storage.GroupArrival
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		due, err = tx.GroupArrivals(followPage)
		return err
	})
	if err != nil {
		return 0, err
	}
	for i := range due {
		a := &due[i]
		begun := s.o.Now()
		if until := s.rest[a.Peer]; begun.Before(until) {
			err := s.store.Update(ctx, func(tx *storage.Tx) error {
				return tx.DeferGroupArrival(a.No, clearbox.Millis(until.UnixMilli()))
			})
			if err != nil {
				return i, err
			}
			continue
		}
		err := s.arrival(ctx, a)
		if took := s.o.Now().Sub(begun); took > slowHub {
			s.rest[a.Peer] = s.o.Now().Add(min(slowRest*took, arrivalRested))
		} else {
			delete(s.rest, a.Peer)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		old := clearbox.Millis(arrivalKept.Milliseconds())
		if err != nil && s.now()-a.Arrived < old {
			s.o.Log.Info("an operation of a group waits", "peer", string(a.Peer), "code", string(clearbox.CodeOf(err)), "attempts", a.Attempts+1)
			wait := min(arrivalRetry<<min(a.Attempts, 16), arrivalRested)
			err = s.store.Update(ctx, func(tx *storage.Tx) error {
				return tx.DeferGroupArrival(a.No, tx.Now()+clearbox.Millis(wait.Milliseconds()))
			})
		} else {
			err = s.store.Update(ctx, func(tx *storage.Tx) error { return tx.DeleteGroupArrival(a.No) })
		}
		if err != nil {
			return i, err
		}
	}
	return len(due), nil
}

// arrival deals with what a peer told. An error means that it is to be looked at
// again later.
func (s *Service) arrival(ctx context.Context, a *storage.GroupArrival) error {
	e, err := delivery.DecodeGroupArrival(a.Payload)
	if err != nil {
		return nil // damaged: its successor has us ask
	}
	g, err := s.turn(ctx, e.Group)
	if errors.Is(err, storage.ErrNotFound) {
		return s.join(ctx, a.Peer, e)
	}
	if err != nil {
		return err
	}
	defer g.leave()
	cur := g.now.Load()
	switch {
	case cur.row.Hub != a.Peer:
		s.o.Log.Warn("a server that is not the hub tells of a group", "peer", string(a.Peer))
		return nil
	case cur.row.State == storage.GroupDeleted:
		return nil
	case e.Ended:
		return s.end(ctx, g, storage.AuditEntry{}, nil)
	case cur.row.State == storage.GroupFrozen:
		return nil
	}
	return s.advance(ctx, g, e.Op, e.Openings)
}

// advance takes the hub's next operation. What cannot be is frozen, and no error.
func (s *Service) advance(ctx context.Context, g *group, raw []byte, openings [][]byte) error {
	cur := g.now.Load()
	o, err := chain.Parse(raw)
	if err != nil {
		return s.freeze(ctx, g, federation.AlertGroupInvalid, err)
	}
	if o.Epoch > cur.state.Epoch+1 {
		return s.catchUp(ctx, g)
	}
	return s.followOp(ctx, g, o, raw, openings)
}

// followOp takes an operation for the next epoch, or for one that is over.
func (s *Service) followOp(ctx context.Context, g *group, o *chain.Op, raw []byte, openings [][]byte) error {
	cur := g.now.Load()
	done, err := s.repeated(ctx, cur, o, raw)
	if changed := (*clearbox.GroupChangedError)(nil); errors.As(err, &changed) {
		return s.freeze(ctx, g, federation.AlertGroupFork, chain.ErrPrev)
	}
	if done || err != nil {
		return err
	}
	next, added, err := s.judge(ctx, cur, o, raw, openings, false)
	switch {
	case err == nil:
		return s.put(ctx, g, raw, next, added)
	case errors.Is(err, chain.ErrPrev):
		return s.freeze(ctx, g, federation.AlertGroupFork, err)
	case verdict(err):
		return s.freeze(ctx, g, federation.AlertGroupInvalid, err)
	}
	return err
}

// verdict tells whether an error condemns the operation, or only this moment.
func verdict(err error) bool {
	switch clearbox.CodeOf(refuse(err)) {
	case clearbox.CodeInternal, clearbox.CodeUnavailable, clearbox.CodeStoreFull, clearbox.CodePeerUnreachable, clearbox.CodeRateLimited:
		return false
	}
	return true
}

// freeze takes nothing more from a hub that showed what cannot be. Messages go on
// among those who are known. The error is for whoever asked.
func (s *Service) freeze(ctx context.Context, g *group, kind federation.Alert, cause error) error {
	cur := g.now.Load()
	row := cur.row
	row.State, row.Reason = storage.GroupFrozen, string(kind)
	err := s.store.Update(ctx, func(tx *storage.Tx) error { return tx.SetGroupState(row.No, row.State, row.Reason) })
	if err != nil {
		return err
	}
	g.now.Store(cur.with(row, cur.state, nil))
	s.o.Log.Error("the membership of a group is frozen", "peer", string(row.Hub), "kind", string(kind), "epoch", int64(cur.state.Epoch), "reason", cause.Error())
	s.o.Alert(row.Hub, kind)
	return nil
}

// catchUp asks the hub for what is missing and takes it. The caller has the turn.
func (s *Service) catchUp(ctx context.Context, g *group) error {
	for {
		cur := g.now.Load()
		if cur.row.State != storage.GroupActive {
			return nil
		}
		page, err := s.o.Hubs.GroupHistory(ctx, cur.row.Hub, g.id, cur.state.Epoch)
		if err != nil {
			return err
		}
		for i, raw := range page.Ops {
			o, err := chain.Parse(raw)
			if err == nil && o.Epoch != cur.state.Epoch+uint64(i)+1 {
				err = chain.ErrEpoch
			}
			if err != nil {
				return s.freeze(ctx, g, federation.AlertGroupInvalid, err)
			}
			if err := s.followOp(ctx, g, o, raw, of(raw, page.Openings)); err != nil {
				return err
			}
			if g.now.Load().row.State == storage.GroupFrozen {
				return nil
			}
		}
		if !page.More {
			return nil
		}
	}
}

// of picks the openings of the people whom an operation adds.
func of(raw []byte, openings [][]byte) (out [][]byte) {
	o, err := chain.Parse(raw)
	if err != nil {
		return nil
	}
	wanted := map[chain.Member]bool{}
	switch b := o.Body.(type) {
	case chain.Create:
		wanted[o.Actor] = true
	case chain.Add:
		for _, v := range b.Invitees {
			wanted[v.Member] = true
		}
	}
	for _, raw := range openings {
		if p, err := chain.ParseOpening(raw); err == nil && wanted[p.Member] {
			out = append(out, raw)
		}
	}
	return out
}

// join takes a group over to which somebody here was invited: the whole chain
// comes from its hub. An invitation of nobody here is ignored.
func (s *Service) join(ctx context.Context, hub clearbox.ServerName, e *delivery.GroupEvent) error {
	if e.Ended || !s.invites(ctx, e) {
		return nil
	}
	ops, openings, err := s.wholeHistory(ctx, hub, e.Group)
	if err != nil {
		return joinLater(err)
	}
	state, err := chain.Verify(ops)
	if err != nil || clearbox.GroupID(state.Group) != e.Group || state.Hub != string(hub) {
		s.o.Log.Error("a hub's history of a group does not verify", "peer", string(hub))
		s.o.Alert(hub, federation.AlertGroupInvalid)
		return nil
	}
	added, err := s.founders(ctx, &state, openings)
	if err != nil {
		if !verdict(err) {
			return err
		}
		s.o.Log.Error("a hub's members of a group do not verify", "peer", string(hub), "code", string(clearbox.CodeOf(refuse(err))))
		s.o.Alert(hub, federation.AlertGroupInvalid)
		return nil
	}
	row := storage.Group{ID: e.Group, Hub: hub, Epoch: state.Epoch, Head: state.Head, State: storage.GroupActive}
	if state.Closed {
		row.State = storage.GroupClosed
	}
	last := ops[len(ops)-1]
	return s.begin(ctx, row, ops, state, added, &delivery.GroupEvent{Group: e.Group, Epoch: state.Epoch, Op: last, Openings: of(last, openings)})
}

// maxHistory bounds the operations and openings of a group that is taken over, in
// bytes: 65,536 operations of the usual size have less, and a hub could make them a
// hundred times as large.
const maxHistory = 32 << 20

// wholeHistory asks a hub for all operations of a group.
func (s *Service) wholeHistory(ctx context.Context, hub clearbox.ServerName, group clearbox.GroupID) (ops, openings [][]byte, err error) {
	size := 0
	for more := true; more; {
		page, err := s.o.Hubs.GroupHistory(ctx, hub, group, uint64(len(ops)))
		if err != nil {
			return nil, nil, err
		}
		for _, part := range [][][]byte{page.Ops, page.Openings} {
			for _, b := range part {
				size += len(b)
			}
		}
		ops, openings = append(ops, page.Ops...), append(openings, page.Openings...)
		if more = page.More; len(ops) > chain.MaxOperations || size > maxHistory {
			s.o.Log.Error("a hub's history of a group has no end", "peer", string(hub))
			s.o.Alert(hub, federation.AlertGroupInvalid)
			return nil, nil, clearbox.Errorf(clearbox.CodeForbidden, "the history of the group is too long")
		}
	}
	return ops, openings, nil
}

// joinLater lets the hub's clear no be an end.
func joinLater(err error) error {
	switch clearbox.CodeOf(err) {
	case clearbox.CodeNotFound, clearbox.CodeForbidden, clearbox.CodePeerBlocked, clearbox.CodeUnknownPeer:
		return nil
	}
	return err
}

// invites tells whether an operation adds somebody of this server: nobody else has
// us fetch a history.
func (s *Service) invites(ctx context.Context, e *delivery.GroupEvent) bool {
	o, err := chain.Parse(e.Op)
	if err != nil {
		return false
	}
	a, ok := o.Body.(chain.Add)
	if !ok {
		return false
	}
	for _, raw := range e.Openings {
		p, err := readPerson(raw)
		if err != nil || p.user.Server != s.server {
			continue
		}
		for _, v := range a.Invitees {
			if v.Member == p.parsed.Member && v.Commitment == p.parsed.Commitment() {
				if _, err := s.userNo(ctx, p.user); err == nil {
					return true
				}
			}
		}
	}
	return false
}

// founders matches the openings of a whole history with its members, and holds
// those who are in the group against policy and, of people here, identity. Of who
// was erased there is none.
func (s *Service) founders(ctx context.Context, state *chain.State, openings [][]byte) ([]person, error) {
	var out []person
	seen, in := map[chain.Member]bool{}, map[clearbox.UserID]bool{}
	for _, raw := range openings {
		p, err := readPerson(raw)
		if err != nil {
			return nil, ErrOpening
		}
		if err := state.Opens(p.parsed); err != nil {
			return nil, err
		}
		if seen[p.parsed.Member] {
			return nil, ErrOpening
		}
		seen[p.parsed.Member] = true
		present := state.Members[p.parsed.Member].Status != chain.StatusFormer
		if present && in[p.user] {
			return nil, ErrTwice
		}
		in[p.user] = in[p.user] || present
		if present && (!state.Policy.AllowsServer(string(p.user.Server)) || !state.Policy.AllowsCountry(s.o.Country(p.user.Server))) {
			return nil, ErrPolicy
		}
		if p.user.Server == s.server {
			no, err := s.userNo(ctx, p.user)
			if clearbox.CodeOf(err) == clearbox.CodeRecipientUnavailable && !present {
				continue
			}
			if err != nil {
				return nil, err
			}
			p.userNo = no
			list, _, err := s.dir.List(ctx, p.user, 0)
			if err != nil {
				return nil, err
			}
			if present {
				if err := sameIdentity(&p, list); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, p)
	}
	return out, nil
}
