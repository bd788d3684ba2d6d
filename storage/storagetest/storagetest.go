// Package storagetest makes the files of a new server for tests.
package storagetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// empty are the files of new servers. They are made once in a test binary and
// never change, because the migrations take most of a test's time.
var empty struct {
	mu       sync.Mutex // guards what follows; held while they are made
	database []byte
	keys     map[string][]byte // by root key
}

// Files writes an empty database, and an empty keystore under the root key, to
// where nothing is yet: what opening them there would make.
func Files(t testing.TB, database, keys string, root []byte) {
	t.Helper()
	empty.mu.Lock()
	defer empty.mu.Unlock()
	if empty.keys[string(root)] == nil {
		if err := create(root); err != nil {
			t.Fatalf("make the files of a new server: %v", err)
		}
	}
	for path, content := range map[string][]byte{database: empty.database, keys: empty.keys[string(root)]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func create(root []byte) error {
	dir, err := os.MkdirTemp("", "storagetest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, database, keys := context.Background(), filepath.Join(dir, "store.db"), filepath.Join(dir, "keys.db")
	ks, err := keystore.Open(ctx, keys, root, keystore.Options{})
	if err != nil {
		return err
	}
	past := func() time.Time { return time.Unix(1, 0) } // before the clock of any test
	store, err := storage.Open(ctx, storage.Options{Path: database, Sealer: ks, Index: ks.Index, Now: past})
	if err != nil {
		return errors.Join(err, ks.Close())
	}
	if err := errors.Join(store.Close(), ks.Close()); err != nil {
		return err
	}
	if empty.database, err = os.ReadFile(database); err != nil {
		return err
	}
	content, err := os.ReadFile(keys)
	if err != nil {
		return err
	}
	if empty.keys == nil {
		empty.keys = map[string][]byte{}
	}
	empty.keys[string(root)] = content
	return nil
}
