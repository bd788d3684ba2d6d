package core_test

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// groupAt is a group as its hub and every member's server have it, which share
// one state in this world.
type groupAt struct {
	ops      [][]byte
	openings [][][]byte // by operation
	st       chain.State
	users    map[chain.Member]clearbox.UserID
}

// op gives an operation as servers pass it on.
func (g *groupAt) op(i int) wire.GroupEvent {
	return wire.GroupEvent{Group: clearbox.GroupID(g.st.Group), Epoch: uint64(i + 1), Op: g.ops[i], Openings: g.openings[i]}
}

func (g *groupAt) member(user clearbox.UserID, least chain.Status) bool {
	for id, u := range g.users {
		if st := g.st.Members[id].Status; u == user && (st == chain.StatusActive || st == least) {
			return true
		}
	}
	return false
}

// serveGroups answers what concerns groups.
func (w *world) serveGroups(s *session, method, path, query string, body []byte) (out any, err error, ok bool) {
	if !strings.HasPrefix(path, "/groups") {
		return nil, nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if method+" "+path == "POST /groups/create" {
		c, err := decode[wire.GroupCreate](body)
		if err != nil {
			return nil, err, true
		}
		g := &groupAt{users: map[chain.Member]clearbox.UserID{}}
		out, err := w.addOp(g, c.Op, [][]byte{c.Opening})
		if err == nil {
			w.groups[clearbox.GroupID(g.st.Group)] = g
		}
		return out, err, true
	}
	if method+" "+path == "GET /groups" {
		out := &wire.Groups{Groups: []wire.GroupSummary{}}
		for id, g := range w.groups {
			if g.member(s.user, chain.StatusInvited) {
				out.Groups = append(out.Groups, wire.GroupSummary{Group: id, Epoch: uint64(len(g.ops))})
			}
		}
		return out, nil, true
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/groups/"), "/")
	id, err := clearbox.ParseGroupID(name)
	g := w.groups[id]
	if err != nil || g == nil {
		return nil, refusal(clearbox.CodeNotFound), true
	}
	switch method + " " + rest {
	case "POST ops":
		c, err := decode[wire.GroupSubmit](body)
		if err != nil {
			return nil, err, true
		}
		if w.hubAway {
			return nil, refusal(clearbox.CodeUnavailable), true
		}
		out, err := w.addOp(g, c.Op, c.Openings)
		return out, err, true
	case "GET ops":
		q, err := url.ParseQuery(query)
		if err != nil {
			return nil, err, true
		}
		after, _ := strconv.Atoi(q.Get("after"))
		var ops []wire.GroupEvent
		for i := after; i < len(g.ops); i++ {
			ops = append(ops, g.op(i))
		}
		if w.showOps != nil {
			ops = w.showOps(s.user, ops)
		}
		page := &wire.GroupPage{Ops: [][]byte{}, Openings: [][]byte{}}
		for _, op := range ops {
			page.Ops, page.Openings = append(page.Ops, op.Op), append(page.Openings, op.Openings...)
		}
		return page, nil, true
	}
	return nil, refusal(clearbox.CodeNotFound), true
}

// addOp orders an operation and brings it to everybody.
func (w *world) addOp(g *groupAt, raw []byte, openings [][]byte) (*wire.GroupPlace, error) {
	st, err := g.st.Apply(raw)
	if err != nil {
		if g.st.Epoch > 0 {
			if o, _ := chain.Parse(raw); o != nil && (o.Epoch != g.st.Epoch+1 || o.Prev != g.st.Head) {
				return nil, &clearbox.GroupChangedError{Epoch: g.st.Epoch}
			}
		}
		return nil, refusal(clearbox.CodeForbidden)
	}
	for _, b := range openings {
		o, err := chain.ParseOpening(b)
		if err != nil || st.Opens(o) != nil {
			return nil, refusal(clearbox.CodeBadRequest)
		}
		user, err := clearbox.ParseUserID(o.Account)
		if err != nil {
			return nil, err
		}
		g.users[o.Member] = user
	}
	g.st = st
	g.ops, g.openings = append(g.ops, raw), append(g.openings, openings)
	told := map[clearbox.UserID]bool{}
	for id, user := range g.users {
		m := st.Members[id]
		if m.Status == chain.StatusFormer && m.Ended != st.Epoch || told[user] {
			continue
		}
		told[user] = true
		op := []wire.GroupEvent{g.op(len(g.ops) - 1)}
		if w.showOps != nil {
			op = w.showOps(user, op)
		}
		for _, one := range op {
			w.deliverAll(user, one)
		}
	}
	return &wire.GroupPlace{Group: clearbox.GroupID(st.Group), Epoch: st.Epoch, Head: st.Head[:]}, nil
}

// deliverAll brings an operation to all devices of somebody.
func (w *world) deliverAll(user clearbox.UserID, op wire.GroupEvent) {
	acc := w.accounts[user]
	for _, d := range acc.parsed.Active() {
		if acc.devices[clearbox.DeviceID(d.ID)] != nil {
			w.deliver(user, clearbox.DeviceID(d.ID), wire.ServerFrame{Type: wire.FrameReceive, Group: &op})
		}
	}
}

// fellows checks that a submission to a group is of its present epoch and by a
// member, and for members.
func (w *world) fellows(s *session, sub *wire.Submission) error {
	if sub.Group == nil {
		return nil
	}
	g := w.groups[sub.Group.ID]
	switch {
	case g == nil || !g.member(s.user, chain.StatusActive):
		return refusal(clearbox.CodeNotAMember)
	case sub.Group.Epoch != g.st.Epoch:
		return &clearbox.GroupChangedError{Epoch: g.st.Epoch}
	}
	for _, to := range sub.To {
		if !g.member(to.User, chain.StatusInvited) {
			return refusal(clearbox.CodeNotAMember)
		}
	}
	return nil
}

// many takes one message for all members of a group apart.
func (w *world) many(s *session, sub *wire.Submission, now clearbox.Millis) error {
	if sub.Multi == nil {
		return nil
	}
	g := w.groups[sub.Group.ID]
	m, err := fanout.Parse(sub.Multi, fanout.Limits{})
	if err != nil {
		return refusal(clearbox.CodeBadRequest)
	}
	if n := m.ReceivedSize(); clearbox.SealedSize(n) != n {
		w.t.Errorf("a message to a group of %d bytes", n)
		return refusal(clearbox.CodeBadRequest)
	}
	users := map[keys.ServiceID]clearbox.UserID{}
	has := map[clearbox.UserID][]wire.Outgoing{}
	for id, user := range g.users {
		if g.st.Members[id].Status == chain.StatusActive {
			users[keys.AccountServiceID(user.String())] = user
			has[user] = nil
		}
	}
	for _, r := range m.Recipients() {
		user, ok := users[r.ID]
		if !ok {
			return refusal(clearbox.CodeNotAMember)
		}
		for _, d := range r.Devices {
			has[user] = append(has[user], wire.Outgoing{Device: clearbox.DeviceID(d.ID), Registration: d.Registration})
		}
	}
	for user, envelopes := range has {
		if err := w.compare(s, wire.Recipient{User: user, Envelopes: envelopes}); err != nil {
			return err
		}
	}
	for place, r := range m.Recipients() {
		content, err := m.AppendReceived(nil, place)
		if err != nil {
			return err
		}
		w.kept = append(w.kept, wire.Envelope{Recipient: users[r.ID], Origin: s.user.Server, AcceptedAt: now, Content: content})
		for _, d := range r.Devices {
			w.deliver(users[r.ID], clearbox.DeviceID(d.ID), wire.ServerFrame{Type: wire.FrameReceive, Envelope: &wire.Envelope{
				ID: sub.ID, Recipient: users[r.ID], Device: clearbox.DeviceID(d.ID), Type: clearbox.ContentSealed,
				Origin: s.user.Server, AcceptedAt: now, Content: content,
			}})
		}
	}
	w.uploads++
	return nil
}

// setShowOps makes servers tell of operations what show leaves of them.
func (w *world) setShowOps(show func(to clearbox.UserID, ops []wire.GroupEvent) []wire.GroupEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.showOps = show
}
