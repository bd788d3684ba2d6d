package storage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

// world is a store with a keystore in a temporary folder, and a clock.
type world struct {
	*storage.Store
	t    testing.TB
	keys *keystore.Keystore
	path string
	opts storage.Options
	now  atomic.Int64 // milliseconds
}

const testStart = 1_800_000_000_000

func open(t testing.TB, change ...func(*storage.Options)) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, path: filepath.Join(dir, "clearbox.db")}
	w.now.Store(testStart)
	var err error
	root := bytes.Repeat([]byte{7}, 32)
	storagetest.Files(t, w.path, filepath.Join(dir, "keys.db"), root)
	w.keys, err = keystore.Open(t.Context(), filepath.Join(dir, "keys.db"), root, keystore.Options{})
	must(t, err)
	w.opts = storage.Options{
		Path: w.path, Sealer: w.keys, Index: w.keys.Index,
		Now: func() time.Time { return time.UnixMilli(w.now.Load()) },
	}
	for _, c := range change {
		c(&w.opts)
	}
	w.reopen()
	t.Cleanup(func() {
		must(t, w.Store.Close())
		must(t, w.keys.Close())
	})
	return w
}

// reopen closes the store, if it is open, and opens it again.
func (w *world) reopen() {
	w.t.Helper()
	if w.Store != nil {
		must(w.t, w.Store.Close())
	}
	s, err := storage.Open(context.Background(), w.opts)
	must(w.t, err)
	w.Store = s
}

func (w *world) advance(d time.Duration) { w.now.Add(d.Milliseconds()) }

// update and view fail the test when fn does.
func (w *world) update(fn func(tx *storage.Tx) error) {
	w.t.Helper()
	must(w.t, w.Update(context.Background(), fn))
}

func (w *world) view(fn func(tx *storage.Tx) error) {
	w.t.Helper()
	must(w.t, w.View(context.Background(), fn))
}

// user makes an account with one device.
func (w *world) user(handle clearbox.Handle) (storage.User, storage.DeviceRecord) {
	w.t.Helper()
	key, err := w.keys.Create(context.Background())
	must(w.t, err)
	uid, err := clearbox.NewUID(rand.Reader)
	must(w.t, err)
	u := storage.User{UID: uid, Key: key, Handle: handle, Role: storage.RoleMember, Password: "$argon2id$", DeviceList: []byte("list"), DevicesVersion: 1}
	var d storage.DeviceRecord
	w.update(func(tx *storage.Tx) error {
		if err := tx.CreateUser(&u); err != nil {
			return err
		}
		d = storage.DeviceRecord{UserNo: u.No, ID: 1, Registration: 77, Key: []byte("public"), Name: "phone of " + string(handle)}
		return tx.AddDevice(&d)
	})
	return u, d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func messageID(n int) (id clearbox.MessageID) {
	copy(id[:], "message "+strconv.Itoa(n))
	return id
}

func itoa(n int) string { return strconv.Itoa(n) }

func sealed(payload string) storage.Sealed {
	return storage.Sealed{Payload: []byte(payload), Wrapped: []byte("wrapped key")}
}
