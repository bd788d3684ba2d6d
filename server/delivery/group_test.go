package delivery_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// circle is a group as another room would tell of it.
type circle struct {
	mu  sync.Mutex
	id  clearbox.GroupID
	now delivery.Roster
}

func (c *circle) Roster(_ context.Context, id clearbox.GroupID) (delivery.Roster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != c.id {
		return delivery.Roster{}, storage.ErrNotFound
	}
	return c.now, nil
}

// set begins the next epoch with somebody as something.
func (c *circle) set(status delivery.MemberStatus, users ...clearbox.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	members := maps.Clone(c.now.Members)
	if members == nil {
		members = map[clearbox.UserID]delivery.MemberState{}
	}
	c.now.Epoch++
	for _, u := range users {
		members[u] = delivery.MemberState{Status: status}
		if status == delivery.MemberFormer {
			members[u] = delivery.MemberState{Status: status, Ended: c.now.Epoch}
		}
	}
	c.now.Members = members
}

func (c *circle) ref() *clearbox.GroupRef { return &clearbox.GroupRef{ID: c.id, Epoch: c.now.Epoch} }

// groupWorld is a world with a group of the given people.
func groupWorld(t testing.TB, o worldOptions) (*world, *circle) {
	c := &circle{id: clearbox.GroupID{'g', 'r', 'o', 'u', 'p'}}
	o.Rosters = c
	return newWorld(t, o), c
}

// many is a message for many recipients in which nothing is encrypted.
type many struct {
	text       string
	recipients []manyRecipient
}

type manyRecipient struct {
	user    clearbox.UserID
	devices []fanout.Device
}

// with adds a recipient with the registration ids that people here have.
func (m many) with(user clearbox.UserID, devices ...clearbox.DeviceID) many {
	r := manyRecipient{user: user}
	for _, d := range devices {
		r.devices = append(r.devices, fanout.Device{ID: uint8(d), Registration: uint16(d) + 100})
	}
	m.recipients = append(slices.Clone(m.recipients), r)
	return m
}

// shared pads the text so that what is received has the smallest size.
func (m many) shared() []byte {
	b := make([]byte, clearbox.MinSealed-1-fanout.MaterialSize)
	copy(b[fanout.EphemeralSize:], m.text)
	return b
}

func materialOf(u clearbox.UserID) []byte {
	id := keys.AccountServiceID(u.String())
	return slices.Repeat(id[1:17], 3)
}

func (m many) bytes() []byte {
	b := fanout.AppendHead(nil, len(m.recipients))
	for _, r := range m.recipients {
		b = fanout.AppendDevices(b, keys.AccountServiceID(r.user.String()), r.devices)
		if len(r.devices) > 0 {
			b = append(b, materialOf(r.user)...)
		}
	}
	return append(b, m.shared()...)
}

// form is what the devices of a user receive.
func (m many) form(u clearbox.UserID) string {
	return string(fanout.AppendForm(nil, materialOf(u), m.shared()))
}

func (w *world) sendMany(p auth.Principal, id clearbox.MessageID, group *clearbox.GroupRef, m many, to ...delivery.Recipient) (delivery.Receipt, error) {
	return w.router.Submit(bg, p, delivery.Submission{ID: id, To: to, Group: group, Multi: m.bytes()})
}

// bodies demands that what is stored is what is counted, and gives how much.
func (w *world) bodies() (bodies, pointers int64) {
	w.t.Helper()
	var c storage.BodyCounts
	must(w.t, w.store.View(bg, func(tx *storage.Tx) (err error) {
		c, err = tx.BodyCounts()
		return err
	}))
	if c.Wrong != 0 || c.Pointers != c.Counted {
		w.t.Errorf("bodies are counted wrongly: %+v", c)
	}
	return c.Bodies, c.Pointers
}

func (w *world) ackAll(p auth.Principal) {
	w.t.Helper()
	m := w.router.Mailbox(p)
	defer m.Close()
	for after := int64(0); ; {
		ds, err := m.Read(bg, after, 256, 1<<20)
		must(w.t, err)
		if len(ds) == 0 {
			return
		}
		after = ds[len(ds)-1].Seq
		must(w.t, m.Ack(bg, after))
		w.flush(p)
	}
}

// flush returns when what was acknowledged before is stored: what is submitted
// is stored behind it.
func (w *world) flush(p auth.Principal) {
	w.t.Helper()
	_, err := w.send(p, newID(w.t), to(w.shut("quiet-"+newID(w.t).String(), 1).user, "x", 1))
	must(w.t, err)
}

func TestGroupMessageIsStoredOnce(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob, carol := w.person("alice", 1, 2), w.person("bob", 1, 2), w.person("carol", 1)
	c.set(delivery.MemberActive, alice.user, bob.user, carol.user)
	open := w.router.Mailbox(bob.devices[0])
	defer open.Close()
	m := many{text: "to all"}.with(alice.user, 2).with(bob.user, 1, 2).with(carol.user, 1)
	id := newID(t)
	first, err := w.sendMany(alice.devices[0], id, c.ref(), m)
	must(t, err)
	if again, err := w.sendMany(alice.devices[0], id, c.ref(), m); err != nil || again != first {
		t.Errorf("a repeat: %+v, %v", again, err)
	}
	if _, err := w.sendMany(alice.devices[0], id, c.ref(), many{text: "other"}.with(alice.user, 2).with(bob.user, 1, 2).with(carol.user, 1)); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("the id with another body: %v", err)
	}
	if bodies, pointers := w.bodies(); bodies != 1 || pointers != 4 {
		t.Errorf("%d bodies, %d pointers", bodies, pointers)
	}
	if got := contents(t, open, 0); !slices.Equal(got, []string{m.form(bob.user)}) {
		t.Errorf("an open mailbox has %q", got)
	}
	for _, p := range []auth.Principal{alice.devices[1], bob.devices[0], bob.devices[1], carol.devices[0]} {
		box := w.router.Mailbox(p)
		ds, err := box.Read(bg, 0, 10, 1<<20)
		must(t, err)
		if len(ds) != 1 || string(ds[0].Envelope.Content) != m.form(p.User) {
			t.Fatalf("%s has %+v", p.Session, ds)
		}
		if e := ds[0].Envelope; e.ID != id || e.Origin != home || !e.Sender.IsZero() || e.Type != clearbox.ContentSealed || e.Device != p.Device || e.AcceptedAt != first.AcceptedAt {
			t.Errorf("%s has %+v", p.Session, e)
		}
		box.Close()
	}
	if got := w.contents(alice.devices[0], 0); len(got) != 0 {
		t.Errorf("the sending device has %q", got)
	}
	var size int64
	must(t, w.store.View(bg, func(tx *storage.Tx) (err error) {
		_, size, err = tx.MailboxSize(carol.devices[0].DeviceNo)
		return err
	}))
	if size < clearbox.MinSealed {
		t.Errorf("the quota counts %d bytes", size)
	}
	w.ackAll(alice.devices[1])
	w.ackAll(bob.devices[0])
	w.ackAll(carol.devices[0])
	if bodies, pointers := w.bodies(); bodies != 1 || pointers != 1 {
		t.Errorf("after three acknowledgements: %d bodies, %d pointers", bodies, pointers)
	}
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		_, err := tx.RemoveDevice(bob.devices[1].UserNo, 2)
		return err
	}))
	if bodies, pointers := w.bodies(); bodies != 0 || pointers != 0 {
		t.Errorf("nothing points to it: %d bodies, %d pointers", bodies, pointers)
	}
}

func TestGroupMessagesAcknowledgedTogether(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	c.set(delivery.MemberActive, alice.user, bob.user)
	var want []string
	for i := range 5 {
		m := many{text: string(rune('a' + i))}.with(bob.user, 1)
		_, err := w.sendMany(alice.devices[0], newID(t), c.ref(), m)
		must(t, err)
		_, err = w.send(alice.devices[0], newID(t), to(bob.user, "between", 1))
		must(t, err)
		want = append(want, m.form(bob.user), "between")
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, want) {
		t.Errorf("bob has %d of %d", len(got), len(want))
	}
	w.ackAll(bob.devices[0])
	if bodies, pointers := w.bodies(); bodies != 0 || pointers != 0 {
		t.Errorf("%d bodies, %d pointers are left", bodies, pointers)
	}
}

func TestGroupDevicesMustBeExact(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob, carol, dave := w.person("alice", 1), w.person("bob", 1, 2), w.person("carol", 1), w.stranger()
	c.set(delivery.MemberActive, alice.user, bob.user, carol.user, dave)
	stale := func(m many) map[clearbox.UserID][2]int {
		t.Helper()
		_, err := w.sendMany(alice.devices[0], newID(t), c.ref(), m)
		var e *clearbox.StaleDevicesError
		if !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		out := map[clearbox.UserID][2]int{}
		for _, e := range append([]clearbox.StaleDevicesError{*e}, e.Others...) {
			out[e.User] = [2]int{len(e.Missing), len(e.Extra)}
		}
		return out
	}
	got := stale(many{}.with(bob.user, 1, 3).with(dave, 2))
	if want := map[clearbox.UserID][2]int{bob.user: {1, 1}, carol.user: {1, 0}, dave: {1, 1}}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if bodies, _ := w.bodies(); bodies != 0 {
		t.Error("a stale message was stored")
	}
	whole := many{}.with(bob.user, 1, 2).with(carol.user, 1).with(dave, 1)
	_, err := w.sendMany(alice.devices[0], newID(t), c.ref(), whole)
	must(t, err)
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		return tx.AddDevice(&storage.DeviceRecord{UserNo: carol.devices[0].UserNo, ID: 7, Registration: 107, Key: make([]byte, 32)})
	}))
	for range 2 { // the first may be told to try again
		_, err = w.sendMany(alice.devices[0], newID(t), c.ref(), whole)
		if clearbox.CodeOf(err) == clearbox.CodeStaleDevices {
			break
		}
	}
	if got := stale(whole); !maps.Equal(got, map[clearbox.UserID][2]int{carol.user: {1, 0}}) {
		t.Errorf("after a new device: %v", got)
	}
	unknown := clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: away}
	c.set(delivery.MemberActive, unknown)
	if got := stale(whole.with(unknown, 1)); got[unknown] != [2]int{0, 0} {
		t.Errorf("somebody whose devices nobody asked for: %v", got)
	} else if _, named := got[unknown]; !named {
		t.Errorf("somebody whose devices nobody asked for is not named: %v", got)
	}
}

func TestGroupSubmissionsAreRefused(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob, eve := w.person("alice", 1), w.person("bob", 1), w.person("eve", 1)
	c.set(delivery.MemberActive, alice.user, bob.user)
	good := many{}.with(bob.user, 1)
	big := good.bytes()
	for name, s := range map[string]struct {
		from auth.Principal
		sub  delivery.Submission
		code clearbox.Code
	}{
		"no group":       {alice.devices[0], delivery.Submission{Multi: good.bytes()}, clearbox.CodeBadRequest},
		"empty":          {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: []byte{}}, clearbox.CodeBadRequest},
		"not many":       {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: []byte{0x22, 1}}, clearbox.CodeBadRequest},
		"no bucket":      {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: append(slices.Clone(big), 0)}, clearbox.CodeBadRequest},
		"left out":       {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: good.with(eve.user).bytes()}, clearbox.CodeBadRequest},
		"not a member":   {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: good.with(eve.user, 1).bytes()}, clearbox.CodeNotAMember},
		"to an outsider": {alice.devices[0], delivery.Submission{Group: c.ref(), To: []delivery.Recipient{to(eve.user, "x", 1)}}, clearbox.CodeNotAMember},
		"from outside":   {eve.devices[0], delivery.Submission{Group: c.ref(), Multi: good.bytes()}, clearbox.CodeNotAMember},
		"no such group":  {alice.devices[0], delivery.Submission{Group: &clearbox.GroupRef{ID: clearbox.GroupID{1}, Epoch: 1}, Multi: good.bytes()}, clearbox.CodeNotAMember},
		"ahead of us":    {alice.devices[0], delivery.Submission{Group: &clearbox.GroupRef{ID: c.id, Epoch: 9}, Multi: good.bytes()}, clearbox.CodeUnavailable},
		"no epoch":       {alice.devices[0], delivery.Submission{Group: &clearbox.GroupRef{ID: c.id}, Multi: good.bytes()}, clearbox.CodeBadRequest},
		"too many": {alice.devices[0], delivery.Submission{Group: c.ref(), Multi: func() []byte {
			return append(fanout.AppendHead(nil, 1025), make([]byte, 1000)...)
		}()}, clearbox.CodeTooLarge},
	} {
		s.sub.ID = newID(t)
		if _, err := w.router.Submit(bg, s.from, s.sub); clearbox.CodeOf(err) != s.code {
			t.Errorf("%s: %v, want %s", name, err, s.code)
		}
	}
	old := c.ref()
	c.set(delivery.MemberFormer, bob.user)
	_, err := w.sendMany(alice.devices[0], newID(t), old, good)
	var changed *clearbox.GroupChangedError
	if !errors.As(err, &changed) || changed.Epoch != 2 {
		t.Errorf("after a removal: %v", err)
	}
	if _, err := w.sendMany(bob.devices[0], newID(t), c.ref(), many{}.with(alice.user, 1)); clearbox.CodeOf(err) != clearbox.CodeNotAMember {
		t.Errorf("who was removed writes: %v", err)
	}
	if bodies, _ := w.bodies(); bodies != 0 {
		t.Error("what was refused was stored")
	}
}

// Who is invited gets what goes to them alone, and may answer it; what goes to
// all is not theirs yet.
func TestInvitedMembers(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	c.set(delivery.MemberActive, alice.user)
	c.set(delivery.MemberInvited, bob.user)
	alone := func(from person, user clearbox.UserID) error {
		_, err := w.router.Submit(bg, from.devices[0], delivery.Submission{ID: newID(t), Group: c.ref(), To: []delivery.Recipient{to(user, "key", 1)}})
		return err
	}
	must(t, alone(alice, bob.user))
	must(t, alone(bob, alice.user))
	if _, err := w.sendMany(alice.devices[0], newID(t), c.ref(), many{}.with(bob.user, 1)); clearbox.CodeOf(err) != clearbox.CodeNotAMember {
		t.Errorf("to all: %v", err)
	}
}

// One member who cannot be reached does not keep the others from talking.
func TestGroupGoesOnWithoutOne(t *testing.T) {
	w, c := groupWorld(t, worldOptions{mails: 3})
	alice, full, bob := w.person("alice", 1), w.person("full", 1), w.person("bob", 1)
	dave := w.stranger()
	for range 3 {
		_, err := w.send(alice.devices[0], newID(t), to(full.user, "x", 1))
		must(t, err)
	}
	c.set(delivery.MemberActive, alice.user, full.user, bob.user, dave)
	m := many{text: "on"}.with(full.user, 1).with(bob.user, 1).with(dave, 1)
	id := newID(t)
	_, err := w.sendMany(alice.devices[0], id, c.ref(), m)
	must(t, err)
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{m.form(bob.user)}) {
		t.Errorf("bob has %q", got)
	}
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:mailbox_full"}) {
		t.Errorf("alice was told %q", got)
	}
	w.routes[away] = clearbox.Errorf(clearbox.CodePeerBlocked, "blocked")
	_, err = w.sendMany(alice.devices[0], newID(t), c.ref(), m)
	must(t, err)
	if got := w.contents(alice.devices[0], 1); !slices.Equal(got, []string{"undeliverable:mailbox_full", "undeliverable:peer_blocked"}) {
		t.Errorf("alice was told %q", got)
	}
	if bodies, pointers := w.bodies(); bodies != 2 || pointers != 2 {
		t.Errorf("%d bodies, %d pointers", bodies, pointers)
	}
}

// taken leases the queue to a peer and takes what is in it.
func (w *world) taken(peer clearbox.ServerName) (federation.Lease, *federation.Batch) {
	w.t.Helper()
	lease, err := w.router.Lease(bg, peer, federation.ClassMessage)
	must(w.t, err)
	batch, err := w.router.Take(bg, peer, federation.ClassMessage, lease, 256, 1<<20)
	must(w.t, err)
	if batch == nil {
		w.t.Fatal("nothing waits")
	}
	return lease, batch
}

// A peer's part names its own people alone and says nothing of who sent it.
func TestGroupMessageIsSplit(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	w.routes["c.test"] = nil
	alice, bob, dave := w.person("alice", 1), w.person("bob", 1), w.stranger()
	erin, frank := w.strangerAt("c.test"), w.strangerAt("c.test")
	c.set(delivery.MemberActive, alice.user, bob.user, dave, erin, frank)
	m := many{text: "to all"}.with(bob.user, 1).with(erin, 1).with(dave, 1).with(frank, 1)
	id := newID(t)
	events := make(chan delivery.State, 8)
	defer w.router.OnState(alice.devices[0].UserNo, func(s delivery.State) { events <- s })()
	_, err := w.sendMany(alice.devices[0], id, c.ref(), m)
	must(t, err)
	for _, peer := range []struct {
		name  clearbox.ServerName
		part  many
		after delivery.Status
	}{
		{away, many{text: "to all"}.with(dave, 1), delivery.StatusAccepted},
		{"c.test", many{text: "to all"}.with(erin, 1).with(frank, 1), delivery.StatusAtPeer},
	} {
		lease, batch := w.taken(peer.name)
		raw, err := federation.EncodeTransaction(&federation.Transaction{Stream: lease.Stream, Class: federation.ClassMessage, Fence: lease.Fence, FirstPos: 1, Items: batch.Items})
		must(t, err)
		if len(raw) > batch.Items[0].Size()+200 {
			t.Errorf("%d bytes where %d were promised", len(raw), batch.Items[0].Size())
		}
		if bytes.Contains(raw, []byte(alice.user.UID)) {
			t.Error("the peer is told who wrote")
		}
		sent, err := federation.DecodeTransaction(raw)
		must(t, err)
		it := sent.Items[0]
		if it.Refused != "" || it.ID != id || it.Group != c.id || it.Epoch != 1 || !bytes.Equal(it.Multi, peer.part.bytes()) || !slices.Equal(it.Crit, []string{"multi"}) || len(it.Ref) != 16 {
			t.Errorf("%s gets %+v", peer.name, it)
		}
		must(t, w.router.Settle(bg, peer.name, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
		if got := w.states(alice.devices[0], id); got[0] != peer.after {
			t.Errorf("after %s: %v", peer.name, got)
		}
	}
	if e := <-events; e.State != delivery.StatusAtPeer || len(events) != 0 {
		t.Errorf("events %+v and %d more", e, len(events))
	}
}

// What a peer does not take is told of each of its people once, however often
// and by whatever way it is said.
func TestGroupMessageIsReportedPerPerson(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, dave, erin := w.person("alice", 1), w.stranger(), w.stranger()
	c.set(delivery.MemberActive, alice.user, dave, erin)
	id := newID(t)
	_, err := w.sendMany(alice.devices[0], id, c.ref(), many{}.with(dave, 1).with(erin, 1))
	must(t, err)
	lease, batch := w.taken(away)
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictRejected, Reason: clearbox.CodeNotAMember}}))
	ref := batch.Items[0].Ref
	for pos := int64(1); pos < 4; pos++ {
		made := federation.Item{ID: id, Sender: dave, Ref: ref, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Bounce: clearbox.CodeMailboxFull}
		if pos == 3 { // people for whom it was not
			made.Sender.UID = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
		}
		w.accept(away, txn(1, 1, pos, made))
	}
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:not_a_member", "undeliverable:not_a_member"}) {
		t.Errorf("alice was told %q", got)
	}
	if got := w.dead(); len(got) != 1 {
		t.Errorf("dead letters %+v", got)
	}
	asked, left, err := w.router.Requeue(bg, storage.AuditEntry{Action: "fed.dead.requeue"}, storage.DeadPick{Peer: away})
	if asked != 1 || left != 0 || err != nil || len(w.dead()) != 0 {
		t.Errorf("asked %d, left %d, %v", asked, left, err)
	}
	if got := w.contents(alice.devices[0], 2); !slices.Equal(got, []string{"requeue:not_a_member", "requeue:not_a_member"}) {
		t.Errorf("alice was told %q", got)
	}
	if got := w.states(alice.devices[0], id); got[0] != delivery.StatusUndeliverable { // she would give it up as a whole otherwise
		t.Errorf("state %v", got)
	}
}

// Members whose mailbox is full at a peer that took the message are told of by
// bounces; the message is not at its peers then.
func TestGroupMessageBouncesForOne(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, dave, erin := w.person("alice", 1), w.stranger(), w.stranger()
	c.set(delivery.MemberActive, alice.user, dave, erin)
	id := newID(t)
	_, err := w.sendMany(alice.devices[0], id, c.ref(), many{}.with(dave, 1).with(erin, 1))
	must(t, err)
	lease, batch := w.taken(away)
	back := federation.Item{ID: id, Sender: erin, Ref: batch.Items[0].Ref, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Bounce: clearbox.CodeMailboxFull}
	w.accept(away, txn(1, 1, 1, back))
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
	if got := w.states(alice.devices[0], id); got[0] != delivery.StatusUndeliverable {
		t.Errorf("state %v", got)
	}
	w.accept(away, txn(1, 1, 2, back))
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:mailbox_full"}) {
		t.Errorf("alice was told %q", got)
	}
}

// groupItem is a message of the other server to members here.
func groupItem(t *testing.T, c *circle, m many) federation.Item {
	t.Helper()
	return federation.Item{ID: newID(t), AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Ref: slices.Repeat([]byte{7}, 16), Group: c.id, Epoch: c.now.Epoch, Multi: m.bytes()}
}

func TestAcceptForAGroup(t *testing.T) {
	w, c := groupWorld(t, worldOptions{mails: 2})
	alice, bob, full, eve := w.person("alice", 1, 2), w.person("bob", 1), w.person("full", 1), w.person("eve", 1)
	dave := w.stranger()
	for range 2 {
		_, err := w.send(alice.devices[0], newID(t), to(full.user, "x", 1))
		must(t, err)
	}
	c.set(delivery.MemberActive, alice.user, bob.user, full.user, dave)
	good := many{text: "hello"}.with(alice.user, 1, 9).with(bob.user, 1).with(full.user, 1)
	unknown := groupItem(t, c, good)
	unknown.Group[0]++
	late := unknown
	late.ID, late.AcceptedAt = newID(t), late.AcceptedAt-2*3600*1000
	ahead := groupItem(t, c, good.with(eve.user, 1))
	ahead.Epoch = 5
	broken := groupItem(t, c, good)
	broken.Multi = broken.Multi[:len(broken.Multi)-1]
	batch := txn(1, 1, 1, groupItem(t, c, good), unknown, late, ahead, broken, groupItem(t, c, good.with(eve.user, 1)))
	answer, err := w.router.Accept(bg, away, batch)
	must(t, err)
	want := []string{"ok ", "deferred not_a_member", "rejected not_a_member", "deferred not_a_member", "rejected bad_request", "rejected not_a_member"}
	if got := verdicts(answer); !slices.Equal(got, want) {
		t.Errorf("verdicts %q, want %q", got, want)
	}
	if s := answer.Verdicts[0].Stale; len(s) != 1 || s[0].UID != alice.user.UID || s[0].Version != 1 {
		t.Errorf("stale %+v", s)
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{good.form(bob.user)}) {
		t.Errorf("bob has %q", got)
	}
	if got := w.contents(alice.devices[1], 0); len(got) != 0 {
		t.Errorf("a device that it was not made for has %q", got)
	}
	if bodies, pointers := w.bodies(); bodies != 1 || pointers != 2 {
		t.Errorf("%d bodies, %d pointers", bodies, pointers)
	}
	again, err := w.router.Accept(bg, away, batch)
	must(t, err)
	if !slices.Equal(verdicts(again), want) || len(again.Verdicts[0].Stale) != 1 {
		t.Errorf("a repeat gets %q", verdicts(again))
	}
	_, out := w.taken(away)
	if len(out.Items) != 1 || out.Items[0].Bounce != clearbox.CodeMailboxFull || out.Items[0].Sender != full.user || !bytes.Equal(out.Items[0].Ref, batch.Items[0].Ref) {
		t.Errorf("towards the peer: %+v", out.Items)
	}
}

// Messages of an epoch in which somebody was a member are theirs; later ones are
// not, and their server says so.
func TestAcceptAfterARemoval(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob, dave := w.person("alice", 1), w.person("bob", 1), w.stranger()
	c.set(delivery.MemberActive, alice.user, bob.user, dave)
	before := many{text: "before"}.with(alice.user, 1).with(bob.user, 1)
	old := groupItem(t, c, before)
	c.set(delivery.MemberFormer, bob.user)
	after := groupItem(t, c, many{text: "after"}.with(alice.user, 1).with(bob.user, 1))
	if got := w.accept(away, txn(1, 1, 1, old, after)); !slices.Equal(got, []string{"ok ", "ok "}) {
		t.Errorf("verdicts %q", got)
	}
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{before.form(bob.user)}) {
		t.Errorf("bob has %q", got)
	}
	if got := w.contents(alice.devices[0], 0); len(got) != 2 {
		t.Errorf("alice has %q", got)
	}
	_, out := w.taken(away)
	if len(out.Items) != 1 || out.Items[0].Bounce != clearbox.CodeNotAMember || out.Items[0].Sender != bob.user {
		t.Errorf("towards the peer: %+v", out.Items)
	}
	last := groupItem(t, c, many{text: "last"}.with(alice.user, 1))
	c.set(delivery.MemberFormer, dave)
	gone := groupItem(t, c, many{text: "gone"}.with(alice.user, 1))
	if got := w.accept(away, txn(1, 1, 3, last, gone)); !slices.Equal(got, []string{"ok ", "rejected not_a_member"}) {
		t.Errorf("from who was removed: %q", got)
	}
}

// A member of the group may be written to alone without a token; a stranger not.
func TestAcceptFromAFellow(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	bob, eve, dave := w.shut("bob", 1), w.shut("eve", 1), w.stranger()
	c.set(delivery.MemberActive, bob.user, dave)
	item := func(to clearbox.UserID) federation.Item {
		it := sealedItem(t, to, nil, "key", 1)
		it.Token, it.Group, it.Epoch = nil, c.id, c.now.Epoch
		return it
	}
	if got := w.accept(away, txn(1, 1, 1, item(bob.user), item(eve.user))); !slices.Equal(got, []string{"ok ", "rejected not_a_member"}) {
		t.Errorf("verdicts %q", got)
	}
	if got := w.contents(bob.devices[0], 0); len(got) != 1 {
		t.Errorf("bob has %q", got)
	}
}

// Fellow members have one-time keys of each other without a token.
func TestGroupOpensTheWayToKeys(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	bob, eve, dave := w.shut("bob", 1), w.shut("eve", 1), w.stranger()
	c.set(delivery.MemberActive, bob.user, dave)
	reach := func(peer clearbox.ServerName, u clearbox.UserID, g clearbox.GroupRef) bool {
		t.Helper()
		ok, err := w.router.MayReach(bg, peer, u.UID, g.Permit())
		must(t, err)
		return ok
	}
	if !reach(away, bob.user, *c.ref()) {
		t.Error("a member's keys are not given")
	}
	other := *c.ref()
	other.ID[0]++
	if reach(away, eve.user, *c.ref()) || reach("c.test", bob.user, *c.ref()) || reach(away, bob.user, other) {
		t.Error("keys are given where no group is shared")
	}
	must(t, w.router.Fellows(bg, bob.user, dave, c.id))
	if err := w.router.Fellows(bg, eve.user, bob.user, c.id); clearbox.CodeOf(err) != clearbox.CodeNotAMember {
		t.Errorf("an outsider is a fellow: %v", err)
	}
	c.set(delivery.MemberFormer, bob.user)
	if reach(away, bob.user, *c.ref()) {
		t.Error("keys of who has left are given")
	}
}

func TestGroupMailExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := groupWorld(t, worldOptions{Options: delivery.Options{MailTTL: time.Hour}})
		alice, bob, carol, dave := w.person("alice", 1, 2), w.person("bob", 1, 2), w.person("carol", 1), w.stranger()
		c.set(delivery.MemberActive, alice.user, bob.user, carol.user, dave)
		m := many{}.with(alice.user, 2).with(bob.user, 1, 2).with(carol.user, 1)
		_, err := w.sendMany(alice.devices[0], newID(t), c.ref(), m.with(dave, 1))
		must(t, err)
		w.accept(away, txn(1, 1, 1, groupItem(t, c, many{}.with(alice.user, 1, 2).with(bob.user, 1, 2).with(carol.user, 1))))
		if bodies, pointers := w.bodies(); bodies != 2 || pointers != 9 {
			t.Errorf("%d bodies, %d pointers", bodies, pointers)
		}
		w.ackAll(carol.devices[0])
		time.Sleep(time.Hour + 2*time.Minute)
		if bodies, pointers := w.bodies(); bodies != 0 || pointers != 0 {
			t.Errorf("after the expiry: %d bodies, %d pointers", bodies, pointers)
		}
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
			t.Errorf("alice was told %q", got)
		}
		_, out := w.taken(away)
		var told []clearbox.UserID
		for _, it := range out.Items {
			if it.Bounce == clearbox.CodeExpired {
				told = append(told, it.Sender)
			}
		}
		if len(told) != 2 || !slices.Contains(told, alice.user) || !slices.Contains(told, bob.user) {
			t.Errorf("the peer is told of %d people", len(told))
		}
		w.stop()
	})
}

// The peer that never answers: everybody there is reported once, as not known to
// have got it.
func TestGroupMessageToADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := groupWorld(t, worldOptions{Options: delivery.Options{SweepEvery: time.Hour}})
		alice, dave, erin := w.person("alice", 1), w.stranger(), w.stranger()
		c.set(delivery.MemberActive, alice.user, dave, erin)
		id := newID(t)
		_, err := w.sendMany(alice.devices[0], id, c.ref(), many{}.with(dave, 1).with(erin, 1))
		must(t, err)
		time.Sleep(5 * time.Hour)
		if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"delayed:peer_unreachable"}) {
			t.Errorf("alice was told %q", got)
		}
		time.Sleep(15 * 24 * time.Hour)
		if got := w.contents(alice.devices[0], 1); !slices.Equal(got, []string{"undeliverable:peer_unreachable", "undeliverable:peer_unreachable"}) {
			t.Errorf("alice was told %q", got)
		}
		if got := w.states(alice.devices[0], id); got[0] != delivery.StatusUndeliverable {
			t.Errorf("state %v", got)
		}
		w.stop()
	})
}

// A body that is lost costs what it was and nothing else.
func TestLostBody(t *testing.T) {
	w, c := groupWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	c.set(delivery.MemberActive, alice.user, bob.user)
	_, err := w.sendMany(alice.devices[0], newID(t), c.ref(), many{}.with(bob.user, 1))
	must(t, err)
	_, err = w.send(alice.devices[0], newID(t), to(bob.user, "behind", 1))
	must(t, err)
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		no := bob.devices[0].DeviceNo
		mails, err := tx.MailAfter(no, 0, 1, 1<<20)
		if err != nil {
			return err
		}
		if err := tx.PutShared([]byte("rotten"), []storage.Pointer{{DeviceNo: no, Sealed: mails[0].Sealed}}, mails[0].Expires); err != nil {
			return err
		}
		_, err = tx.AckMail(no, 1)
		return err
	}))
	if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"behind"}) {
		t.Errorf("bob has %q", got)
	}
}

// One upload for 1,000 members on 10 servers: at most 80 bytes for each
// recipient's device beside the payload, and within the limits.
func TestSizeOfAnUpload(t *testing.T) {
	var m many
	for i := range clearbox.MaxGroup {
		uid, err := clearbox.NewUID(rand.Reader)
		must(t, err)
		m = m.with(clearbox.UserID{UID: uid, Server: clearbox.ServerName("s" + string(rune('0'+i%10)) + ".test")}, 1)
	}
	sub := &wire.Submission{ID: newID(t), To: []wire.Recipient{}, Group: &clearbox.GroupRef{ID: clearbox.GroupID{1}, Epoch: 1 << 40}, Multi: m.bytes()}
	must(t, sub.Check())
	frame, err := wire.AppendClientFrame(nil, wire.CBOR, &wire.ClientFrame{Type: wire.FrameSend, Ref: 1 << 40, Submission: sub})
	must(t, err)
	if over := len(frame) - len(m.shared()); over > 80*clearbox.MaxGroup {
		t.Errorf("%d bytes for %d devices", over, clearbox.MaxGroup)
	}
	if wire.MaxMulti < (fanout.Limits{}).MaxSize() || federation.MaxMulti < wire.MaxMulti {
		t.Error("a message within the limits of its form is larger than those of a wire")
	}
}

// A message to several people elsewhere is at its peers when all took it, two of
// them at one peer too.
func TestAtPeerIsEveryPeer(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.routes["c.test"] = nil
	alice, dave, erin, frank := w.person("alice", 1), w.stranger(), w.strangerAt("c.test"), w.strangerAt("c.test")
	id := newID(t)
	_, err := w.send(alice.devices[0], id, to(dave, "x", 1), to(erin, "x", 1), to(frank, "x", 1))
	must(t, err)
	for _, peer := range []struct {
		name  clearbox.ServerName
		items int
		after delivery.Status
	}{{"c.test", 2, delivery.StatusAccepted}, {away, 1, delivery.StatusAtPeer}} {
		lease, batch := w.taken(peer.name)
		if len(batch.Items) != peer.items {
			t.Fatalf("%s gets %d items", peer.name, len(batch.Items))
		}
		verdicts := slices.Repeat([]federation.Verdict{{Code: federation.VerdictOK}}, peer.items)
		for range 2 { // a repeat changes nothing
			must(t, w.router.Settle(bg, peer.name, federation.ClassMessage, lease, batch, verdicts))
		}
		if got := w.states(alice.devices[0], id); got[0] != peer.after {
			t.Errorf("after %s: %v", peer.name, got)
		}
	}
}
