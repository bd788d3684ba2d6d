package reports_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/franking"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

var ctx = context.Background()

// world is a store with two accounts, and what was brought to other servers.
type world struct {
	*reports.Service
	t          *testing.T
	keys       *keystore.Keystore
	store      *storage.Store
	alice, eve storage.User
	brought    []federation.Report
	full       error
	now        time.Time
}

// Report implements reports.Peers.
func (w *world) Report(_ context.Context, r federation.Report) error {
	w.brought = append(w.brought, r)
	return nil
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Now()}
	dir := t.TempDir()
	root := bytes.Repeat([]byte{1}, 32)
	storagetest.Files(t, filepath.Join(dir, "store.db"), filepath.Join(dir, "keys.db"), root)
	var err error
	w.keys, err = keystore.Open(ctx, filepath.Join(dir, "keys.db"), root, keystore.Options{})
	w.must(err)
	t.Cleanup(func() { w.keys.Close() })
	w.store, err = storage.Open(ctx, storage.Options{Path: filepath.Join(dir, "store.db"), Sealer: w.keys, Index: w.keys.Index})
	w.must(err)
	t.Cleanup(func() { w.store.Close() })
	for i, u := range []*storage.User{&w.alice, &w.eve} {
		key, err := w.keys.Create(ctx)
		w.must(err)
		uid, err := clearbox.NewUID(bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 16)))
		w.must(err)
		*u = storage.User{UID: uid, Key: key, Handle: []clearbox.Handle{"alice", "eve"}[i], Role: storage.RoleMember, State: storage.UserActive}
		w.must(w.store.Update(ctx, func(tx *storage.Tx) error { return tx.CreateUser(u) }))
	}
	w.Service = reports.New(w.store, "a.test", reports.Options{
		Now: func() time.Time { return w.now }, Peers: w, Admit: func() error { return w.full },
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// said makes the report of a text of alice, who submits it unless silent.
func (w *world) said(text string, silent bool) federation.Report {
	w.t.Helper()
	r := federation.Report{User: clearbox.UserID{UID: w.alice.UID, Server: "a.test"}, Kind: 1, Sent: 5, Text: text, Key: make([]byte, franking.KeySize), Reason: "rude"}
	id, err := franking.Commit(r.Key, &franking.Revealed{Kind: 1, Sent: 5, From: r.User.String(), Text: text})
	w.must(err)
	if r.Message = id; !silent {
		w.submit(r.Message)
	}
	return r
}

func (w *world) submit(id clearbox.MessageID) {
	w.t.Helper()
	w.must(w.store.Update(ctx, func(tx *storage.Tx) error {
		return tx.PutSubmission(&storage.Submission{UserNo: w.alice.No, ID: id, Answer: []byte{1}, Expires: tx.Now() + 1000})
	}))
}

func (w *world) stored() (all []storage.Report) {
	w.t.Helper()
	w.must(w.store.View(ctx, func(tx *storage.Tx) (err error) {
		all, err = tx.Reports(0, 100)
		return err
	}))
	return all
}

func TestPeerReport(t *testing.T) {
	w := newWorld(t)
	good := w.said("what alice said", false)
	again := w.said("what came again", true) // under another id
	var err error
	outer, err := franking.Again(again.Key, again.Message, [franking.NonceSize]byte{1})
	w.must(err)
	again.Carrier = outer
	w.submit(again.Carrier)
	for _, c := range []struct {
		name  string
		of    federation.Report
		alter func(*federation.Report)
		fails bool
		count int
	}{
		{"true", good, func(*federation.Report) {}, false, 1},
		{"the same for another reason", good, func(r *federation.Report) { r.Reason = "and loud" }, false, 1},
		{"text", good, func(r *federation.Report) { r.Text = "what alice says" }, true, 1},
		{"key", good, func(r *federation.Report) { r.Key = bytes.Repeat([]byte{1}, 32) }, true, 1},
		{"no key", good, func(r *federation.Report) { r.Key = nil }, true, 1},
		{"another account", good, func(r *federation.Report) { r.User.UID = w.eve.UID }, true, 1},
		{"no account", good, func(r *federation.Report) { r.User.UID = "aaaaaaaaaaaaaaaaaaaaaaaaaa" }, true, 1},
		{"another server", good, func(r *federation.Report) { r.User.Server = "c.test" }, true, 1},
		{"proven, and not sent", w.said("never sent", true), func(*federation.Report) {}, true, 1},
		{"not sent, under an id that was", w.said("never sent", true), func(r *federation.Report) { r.Carrier = good.Message }, true, 1},
		{"under a strange id", again, func(r *federation.Report) { r.Carrier[15]++ }, true, 1},
		{"under another id", again, func(*federation.Report) {}, false, 2},
	} {
		r := c.of
		c.alter(&r)
		err := w.PeerReport(ctx, "b.test", r)
		if c.fails && clearbox.CodeOf(err) != clearbox.CodeUnproven || !c.fails && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if n := len(w.stored()); n != c.count {
			t.Errorf("%s: %d reports are stored, want %d", c.name, n, c.count)
		}
	}
	w.must(w.store.View(ctx, func(tx *storage.Tx) error {
		r, err := tx.Report(w.stored()[0].No)
		w.must(err)
		shown, err := reports.ReadShown(r.Body)
		if err != nil || shown.Text != "what alice said" || shown.Reason != "rude" || shown.Sent != 5 || shown.File || r.Peer != "b.test" || r.UserNo != w.alice.No {
			t.Errorf("%+v of %+v, %v", shown, r, err)
		}
		return nil
	}))
	w.must(w.keys.Destroy(ctx, w.alice.Key))
	if err := w.PeerReport(ctx, "b.test", w.said("of who is erased", false)); clearbox.CodeOf(err) != clearbox.CodeUnproven {
		t.Errorf("of somebody erased: %v", err)
	}
}

func TestSubmit(t *testing.T) {
	w := newWorld(t)
	bob := auth.Principal{User: clearbox.UserID{UID: w.eve.UID, Server: "a.test"}, UserNo: w.eve.No}
	here, there := w.said("said here", false), w.said("said there", true)
	there.User.Server = "b.test"
	id, err := franking.Commit(there.Key, &franking.Revealed{Kind: 1, Sent: 5, From: there.User.String(), Text: there.Text})
	w.must(err)
	there.Message = id
	w.must(w.Submit(ctx, bob, here))
	w.must(w.Submit(ctx, bob, there))
	forged := there
	forged.Text = "never said"
	if err := w.Submit(ctx, bob, forged); clearbox.CodeOf(err) != clearbox.CodeUnproven {
		t.Errorf("forged: %v", err)
	}
	if all := w.stored(); len(all) != 1 || all[0].Peer != "a.test" || len(w.brought) != 1 || w.brought[0].Text != "said there" {
		t.Errorf("stored %+v, brought on %+v", all, w.brought)
	}
	w.full = clearbox.Errorf(clearbox.CodeStoreFull, "full")
	if err := w.Submit(ctx, bob, here); clearbox.CodeOf(err) != clearbox.CodeStoreFull {
		t.Errorf("on a full disk: %v", err)
	}
	alone := reports.New(w.store, "a.test", reports.Options{})
	if err := alone.Submit(ctx, bob, there); clearbox.CodeOf(err) != clearbox.CodeNoRoutePolicy {
		t.Errorf("without peers: %v", err)
	}
}

// Nobody, and no peer, reports without end; one does not use up another's share.
func TestReportLimits(t *testing.T) {
	w := newWorld(t)
	bob := auth.Principal{User: clearbox.UserID{UID: w.eve.UID, Server: "a.test"}}
	carl := auth.Principal{User: clearbox.UserID{UID: w.alice.UID, Server: "a.test"}}
	forged := w.said("never sent", true)
	until := func(try func() error) (n int) {
		for ; n < 1000 && clearbox.CodeOf(try()) == clearbox.CodeUnproven; n++ {
		}
		if err := try(); clearbox.CodeOf(err) != clearbox.CodeRateLimited {
			t.Errorf("after %d: %v", n, err)
		}
		return n
	}
	if n := until(func() error { return w.Submit(ctx, bob, forged) }); n != 10 {
		t.Errorf("a person made %d reports at once", n)
	}
	if n := until(func() error { return w.PeerReport(ctx, "b.test", forged) }); n != 60 {
		t.Errorf("a peer made %d reports at once", n)
	}
	for _, err := range []error{w.Submit(ctx, carl, forged), w.PeerReport(ctx, "c.test", forged)} {
		if clearbox.CodeOf(err) != clearbox.CodeUnproven {
			t.Errorf("somebody else: %v", err)
		}
	}
	w.now = w.now.Add(6 * time.Minute)
	if err := w.Submit(ctx, bob, forged); clearbox.CodeOf(err) != clearbox.CodeUnproven {
		t.Errorf("six minutes later: %v", err)
	}
}
