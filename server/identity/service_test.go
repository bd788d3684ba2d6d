package identity_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/identity"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

type memory struct{ blob []byte }

func (m *memory) LoadSelf(context.Context) ([]byte, error)   { return m.blob, nil }
func (m *memory) SaveSelf(_ context.Context, b []byte) error { m.blob = b; return nil }

// house is a server's identity with what lies around it.
type house struct {
	t     *testing.T
	now   time.Time
	files identity.Files
	state *memory
	store *storage.Store
	self  *federation.Self
	*identity.Service
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: now, files: disk(t), state: &memory{}}
	clock := func() time.Time { return h.now }
	dir := t.TempDir()
	root := bytes.Repeat([]byte{1}, 32)
	storagetest.Files(t, filepath.Join(dir, "clearbox.db"), filepath.Join(dir, "keystore.db"), root)
	ks, err := keystore.Open(t.Context(), filepath.Join(dir, "keystore.db"), root, keystore.Options{Now: clock})
	must(t, err)
	t.Cleanup(func() { ks.Close() })
	h.store, err = storage.Open(t.Context(), storage.Options{Path: filepath.Join(dir, "clearbox.db"), Sealer: ks, Index: ks.Index, Now: clock})
	must(t, err)
	t.Cleanup(func() { h.store.Close() })
	h.start()
	return h
}

// start is a start of the server with what the disk holds.
func (h *house) start() {
	h.t.Helper()
	s, err := h.files.Load(h.now)
	must(h.t, err)
	clock := func() time.Time { return h.now }
	h.self, err = federation.OpenSelf(h.t.Context(), "a.test", s.Key, h.state, federation.SelfOptions{
		Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Previous: s.Previous, PreviousUntil: s.PreviousUntil, Now: clock, Random: rand.Reader,
	})
	must(h.t, err)
	h.Service = identity.New(h.files, h.self, h.store, identity.Options{Now: clock})
}

func deed(action string) storage.AuditEntry { return storage.AuditEntry{Role: "admin", Action: action} }

func (h *house) audits() []string {
	h.t.Helper()
	var out []string
	must(h.t, h.store.View(h.t.Context(), func(tx *storage.Tx) error {
		out = nil
		es, err := tx.AuditEntries(0, 100)
		for _, e := range es {
			out = append(out, e.Action)
		}
		return err
	}))
	return out
}

func TestServiceOfflineAndBack(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	shown := h.Show()
	if shown.Offline || len(shown.Keys) != 4 || h.Until() != 0 {
		t.Errorf("at first: %+v", shown)
	}
	month := wire.AdminIdentityOffline{TTL: 30 * 24 * 3600, Pin: shown.Pin}
	other := month
	other.Pin = "00"
	if _, err := h.Offline(ctx, deed("identity.offline"), other); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("another identity was exported: %v", err)
	}
	if _, err := os.Stat(h.files.Path); err != nil || len(h.audits()) != 0 {
		t.Fatal("and its key was removed")
	}
	if _, err := h.Online(ctx, deed("identity.online")); err != nil {
		t.Errorf("online, and it is: %v", err)
	}
	out, err := h.Offline(ctx, deed("identity.offline"), month)
	must(t, err)
	if !out.Offline || out.Ahead != 29 || out.OfflineUntil != clearbox.Millis(now.Add(30*24*time.Hour).UnixMilli()) || h.Until() != 0 {
		t.Errorf("offline: %+v", out)
	}
	if _, err := os.Stat(h.files.Path); err == nil {
		t.Error("the key is still on the disk")
	}
	for name, do := range map[string]func() error{
		"offline": func() error { _, err := h.Offline(ctx, deed("x"), month); return err },
		"online":  func() error { _, err := h.Online(ctx, deed("x")); return err },
		"rotate":  func() error { _, err := h.Rotate(ctx, deed("x")); return err },
		"revoke":  func() error { _, err := h.RevokeKey(ctx, deed("x"), shown.Keys[0].ID); return err },
	} {
		if err := do(); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("%s without the key: %v", name, err)
		}
	}
	h.now = now.Add(17 * 24 * time.Hour)
	h.start()
	if h.Until() != out.OfflineUntil {
		t.Errorf("13 days before the end: %d", h.Until())
	}
	must(t, h.files.Put(federation.Identity{Key: key(1)}))
	back, err := h.Online(ctx, deed("identity.online"))
	must(t, err)
	if back.Offline || back.Ahead != 0 || back.Seq <= out.Seq+29 || h.Until() != 0 {
		t.Errorf("back: %+v", back)
	}
}

// A rotation that is killed between its files and its document is whole after
// the next start, and a key that was put there by mistake is not taken over.
func TestServiceRotate(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	before := h.Show()
	h.files.Fault = func(step string) error {
		if step == "promote" {
			return errKilled
		}
		return nil
	}
	h.Service = identity.New(h.files, h.self, h.store, identity.Options{Now: func() time.Time { return h.now }})
	if _, err := h.Rotate(ctx, deed("identity.rotate")); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	h.files.Fault = nil
	h.start()
	after := h.Show()
	if after.Pin == before.Pin || after.Seq <= before.Seq || !slices.Equal(after.PreviousWords, before.Words) {
		t.Errorf("after the start: %+v", after)
	}
	if _, err := h.Rotate(ctx, deed("identity.rotate")); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("a second change: %v", err)
	}
	h.now = now.Add(31 * 24 * time.Hour)
	h.start()
	if s := h.Show(); len(s.PreviousWords) != 0 {
		t.Errorf("after 31 days: %+v", s)
	}
	third, err := h.Rotate(ctx, deed("identity.rotate"))
	must(t, err)
	if third.Pin == after.Pin {
		t.Error("nothing changed")
	}
	text, err := config.NewKeyFile(rand.Reader)
	must(t, err)
	must(t, os.WriteFile(h.files.Path, text, 0o600))
	must(t, os.Remove(h.files.Path+".previous"))
	if _, err := h.Online(ctx, deed("identity.online")); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
		t.Errorf("a key from elsewhere: %v", err)
	}
	if _, err := h.RevokeKey(ctx, deed("identity.revoke_key"), "fs-none"); clearbox.CodeOf(err) != clearbox.CodeNotFound {
		t.Errorf("a key that is not there: %v", err)
	}
	if got := h.audits(); !slices.Equal(got, []string{"identity.rotate", "identity.rotate", "identity.online"}) {
		t.Errorf("audit: %v", got)
	}
}
