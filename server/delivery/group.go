package delivery

import (
	"context"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// groupPart is what a submission to a group is beside its messages to single
// people: one body for the devices here and one item for each peer.
type groupPart struct {
	roster *roster
	key    storage.KeyID // the sender's

	fan     *fan // nil: nobody here gets it
	parts   []peerPart
	bounces []*bounce // of the last run
}

// peerPart is the item for one peer.
type peerPart struct {
	users   []clearbox.UserID
	item    storage.OutboxItem
	blocked clearbox.Code // not queued, for this reason
	full    bool          // not queued in the last run, because too much waits
}

// enterGroup checks that the sender may write to the group, in its present state.
func (op *submit) enterGroup(ctx context.Context, p auth.Principal) error {
	s := &op.sub
	ro, err := op.r.roster(ctx, s.Group.ID)
	if err != nil {
		return err
	}
	switch m := ro.Members[op.user]; {
	case ro.Closed || m.Status != MemberActive && (m.Status != MemberInvited || s.Multi != nil):
		return errNotMember()
	case s.Group.Epoch > ro.Epoch:
		return clearbox.Errorf(clearbox.CodeUnavailable, "this server has not heard of the last change of the group yet; try again in a moment")
	case s.Group.Epoch < ro.Epoch:
		return &clearbox.GroupChangedError{Epoch: ro.Epoch}
	}
	for i := range s.To {
		to := s.To[i].User
		if st := ro.Members[to].Status; to != op.user && st != MemberActive && st != MemberInvited {
			return field(clearbox.CodeNotAMember, "/to", "a recipient is not in the group")
		}
	}
	op.group = &groupPart{roster: ro, key: p.Key}
	return nil
}

// addMulti makes the message to all members into what each peer and each device
// here gets. Its device sets must be those of all active members; where they
// are not, one answer names everybody concerned.
func (op *submit) addMulti(ctx context.Context) error {
	r, g := op.r, op.group
	m, err := parseMulti(op.sub.Multi)
	if err != nil {
		return err
	}
	recipients := m.Recipients()
	for i := range recipients {
		if u, ok := g.roster.byID[recipients[i].ID]; !ok || g.roster.Members[u].Status != MemberActive {
			return field(clearbox.CodeNotAMember, "/multi", "a recipient is not in the group")
		}
	}
	here, err := op.exact(ctx, m)
	if err != nil {
		return err
	}
	if err := op.addHere(m, here); err != nil {
		return err
	}
	for _, part := range fanout.Split(m, func(id keys.ServiceID) (clearbox.ServerName, bool) {
		server := g.roster.byID[id].Server
		return server, server != r.server
	}) {
		if err := op.addPeer(ctx, part, recipients); err != nil {
			return err
		}
	}
	return nil
}

// exact holds the message against the devices of all active members, and gives
// those of this server.
func (op *submit) exact(ctx context.Context, m *fanout.Message) (*locals, error) {
	r, ro := op.r, op.group.roster
	here, err := r.here(ctx, ro, false)
	if err != nil {
		return nil, err
	}
	for fresh := false; ; fresh = true {
		var stale []clearbox.StaleDevicesError
		for i := range ro.active {
			e, err := op.exactFor(ctx, &ro.active[i], m, here, fresh)
			if err != nil {
				return nil, err
			}
			if e != nil {
				stale = append(stale, *e)
			}
		}
		if len(stale) == 0 {
			return here, nil
		}
		if fresh {
			first := stale[0]
			first.Others = stale[1:]
			return nil, &first
		}
		if here, err = r.here(ctx, ro, true); err != nil {
			return nil, err
		}
	}
}

// exactFor tells how the devices of one member differ. Of somebody whose devices
// are not known here at all it names none: the brain asks for them first.
func (op *submit) exactFor(ctx context.Context, who *member, m *fanout.Message, here *locals, fresh bool) (*clearbox.StaleDevicesError, error) {
	var to []fanout.Device
	if place, ok := m.Find(who.id); ok {
		to = m.Recipients()[place].Devices
	}
	var current []clearbox.DeviceRef
	var version int64
	if who.user.Server == op.r.server {
		known := here.people[who.user] // nobody without an active account
		if sameRefs(known.Devices, to, who.user == op.user, op.device) {
			return nil, nil
		}
		var except clearbox.DeviceID
		if who.user == op.user {
			except = op.device
		}
		current, version = localRefs(known, except), known.DevicesVersion
	} else {
		known, err := op.r.remote(ctx, who.user, fresh)
		if err != nil {
			return nil, err
		}
		current, version = remoteRefs(known), known.Version
		if version == 0 {
			return &clearbox.StaleDevicesError{User: who.user}, nil
		}
	}
	return compareMany(who.user, version, current, to), nil
}

// sameRefs compares without memory what is almost always the same.
func sameRefs(known []storage.RecipientDevice, to []fanout.Device, own bool, sending clearbox.DeviceID) bool {
	n := 0
	for _, d := range known {
		if own && d.ID == sending {
			continue
		}
		n++
		if !slices.Contains(to, fanout.Device{ID: uint8(d.ID), Registration: d.Registration}) {
			return false
		}
	}
	return n == len(to)
}

// compareMany is compare for a recipient of a message to many; nil: no difference.
func compareMany(u clearbox.UserID, version int64, current []clearbox.DeviceRef, to []fanout.Device) *clearbox.StaleDevicesError {
	stale := clearbox.StaleDevicesError{User: u, Version: version}
	for _, d := range current {
		if !slices.Contains(to, fanout.Device{ID: uint8(d.ID), Registration: d.Registration}) {
			stale.Missing = append(stale.Missing, d)
		}
	}
	for _, d := range to {
		ref := clearbox.DeviceRef{ID: clearbox.DeviceID(d.ID), Registration: d.Registration}
		if !slices.Contains(current, ref) {
			stale.Extra = append(stale.Extra, ref)
		}
	}
	if len(stale.Missing) == 0 && len(stale.Extra) == 0 {
		return nil
	}
	return &stale
}

// addHere prepares the mail for the devices at this server.
func (op *submit) addHere(m *fanout.Message, here *locals) error {
	r := op.r
	var f *fan
	for i := range m.Recipients() {
		to := &m.Recipients()[i]
		user := op.group.roster.byID[to.ID]
		if user.Server != r.server {
			continue
		}
		if f == nil {
			ref, err := r.newRef(op.userNo, r.server, op.sub.ID)
			if err != nil {
				return err
			}
			if f, err = r.newFan(op.sub.ID, r.server, ref, op.at, m); err != nil {
				return err
			}
			f.people, f.to = here, make([]target, 0, len(m.Recipients()))
		}
		f.who = append(f.who, user)
		for _, d := range here.people[user].Devices {
			if user != op.user || d.ID != op.device {
				f.add(user, d, to.Material())
			}
		}
	}
	op.group.fan = f
	if f == nil {
		return nil
	}
	return f.seal(r)
}

// addPeer prepares the item for one peer. A peer to which nothing may be sent
// does not keep the others from talking: its people are reported.
func (op *submit) addPeer(ctx context.Context, part fanout.Part[clearbox.ServerName], recipients []fanout.Recipient) error {
	r, g := op.r, op.group
	out := peerPart{}
	for _, place := range part.Places {
		out.users = append(out.users, g.roster.byID[recipients[place].ID])
	}
	if err := r.peers.Route(ctx, part.Peer); err != nil {
		if out.blocked = clearbox.CodeOf(err); out.blocked == clearbox.CodeInternal {
			return err
		}
		g.parts = append(g.parts, out)
		return nil
	}
	item := federation.Item{ID: op.sub.ID, Sender: op.user, SenderDevice: op.device, AcceptedAt: op.at,
		Group: op.sub.Group.ID, Epoch: op.sub.Group.Epoch, Multi: part.Bytes}
	var err error
	if item.Ref, err = r.newRef(op.userNo, part.Peer, op.sub.ID); err != nil {
		return err
	}
	sealed, err := r.sealGroupItem(g.key, item.ID, &item, out.users)
	if err != nil {
		return err
	}
	out.item = storage.OutboxItem{
		Peer: part.Peer, Class: storage.ClassMessage, SenderNo: op.userNo, SenderKey: g.key, Sealed: sealed, MessageID: op.sub.ID,
		Accepted: op.at, Expires: after(op.at, r.opts.OutboxTTL), HoldKey: r.keys.Index("outbox.group", append([]byte(part.Peer), op.sub.Group.ID[:]...)),
	}
	g.parts = append(g.parts, out)
	return nil
}

// reset forgets the last run of the update.
func (g *groupPart) reset() {
	g.bounces = g.bounces[:0]
	for i := range g.parts {
		g.parts[i].full = false
	}
	if g.fan != nil {
		for i := range g.fan.mails {
			g.fan.mails[i].Seq = 0
		}
	}
}

// takePlaces finds out for which peers there is room in the queues.
func (g *groupPart) takePlaces(op *submit, tx *storage.Tx, b *batch) error {
	for i := range g.parts {
		part := &g.parts[i]
		if part.blocked != "" {
			continue
		}
		queue, err := b.queue(tx, part.item.Peer)
		if err != nil {
			return err
		}
		items, bytes := queue.Size()
		switch o := &op.r.opts; {
		case items >= o.PeerQueueItems || bytes >= o.PeerQueueBytes:
			part.full = true
		case items >= o.PeerQueueItems/10*8 || bytes >= o.PeerQueueBytes/10*8:
			op.receipt.Status = StatusDelayed
		}
	}
	return nil
}

// queued is the number of peers that get an item.
func (g *groupPart) queued() (n int) {
	for i := range g.parts {
		if g.parts[i].blocked == "" && !g.parts[i].full {
			n++
		}
	}
	return n
}

// people is the number of those whom the message to all is for.
func (g *groupPart) people() (n int) {
	if g.fan != nil {
		n = len(g.fan.who)
	}
	for i := range g.parts {
		n += len(g.parts[i].users)
	}
	return n
}

// store stores what the group gets, and tells the sender of whom it cannot reach.
func (g *groupPart) store(op *submit, tx *storage.Tx, b *batch) error {
	full, err := g.fan.store(tx)
	if err != nil {
		return err
	}
	full = slices.DeleteFunc(full, func(u clearbox.UserID) bool { return u == op.user })
	if err := g.refuse(op, tx, full, clearbox.CodeMailboxFull); err != nil {
		return err
	}
	for i := range g.parts {
		part := &g.parts[i]
		switch {
		case part.blocked != "":
			err = g.refuse(op, tx, part.users, part.blocked)
		case part.full:
			err = g.refuse(op, tx, part.users, clearbox.CodePeerBacklogFull)
		default:
			item := part.item // a copy: Put writes the row into it
			err = b.queues[item.Peer].Put(&item)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *groupPart) refuse(op *submit, tx *storage.Tx, users []clearbox.UserID, code clearbox.Code) error {
	if len(users) == 0 {
		return nil
	}
	told, err := op.r.undeliverable(tx, op.user, op.userNo, op.sub.ID, users, code)
	g.bounces = append(g.bounces, told...)
	return err
}

// post tells open readers and the senders to peers after the commit.
func (g *groupPart) post(r *Router) {
	g.fan.post(r)
	for _, b := range g.bounces {
		b.wake(r)
	}
	for i := range g.parts {
		if part := &g.parts[i]; part.blocked == "" && !part.full {
			r.opts.Nudge(part.item.Peer)
		}
	}
}

// membersMoved answers when devices of members changed since prepare looked.
// Nothing was written yet.
func (op *submit) membersMoved(tx *storage.Tx) error {
	op.group.roster.local.Store(nil)
	if known, err := op.answered(tx); known || err != nil {
		return err
	}
	op.refused = clearbox.Errorf(clearbox.CodeUnavailable, "devices of the group are changing; try again")
	return nil
}
