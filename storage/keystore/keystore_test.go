package keystore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var root = bytes.Repeat([]byte{7}, keystore.RootKeySize)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string, o keystore.Options) *keystore.Keystore {
	t.Helper()
	k, err := keystore.Open(context.Background(), path, root, o)
	must(t, err)
	t.Cleanup(func() { k.Close() })
	return k
}

func create(t testing.TB, k *keystore.Keystore) storage.KeyID {
	t.Helper()
	id, err := k.Create(context.Background())
	must(t, err)
	return id
}

func TestSealAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	k := open(t, path, keystore.Options{})
	alice, bob := create(t, k), create(t, k)
	ad := []byte("users|handle|u|profile")
	sealed, err := k.Seal(alice, storage.PurposeProfile, ad, []byte("alice"))
	must(t, err)
	server, err := k.Seal(storage.ServerKey, storage.PurposeProfile, ad, []byte("server"))
	must(t, err)
	again, err := k.Seal(alice, storage.PurposeProfile, ad, []byte("alice"))
	must(t, err)
	if bytes.Equal(sealed, again) {
		t.Error("the same value sealed twice looks the same")
	}
	// After a restart too.
	must(t, k.Close())
	k = open(t, path, keystore.Options{})
	plain, err := k.Open(alice, storage.PurposeProfile, ad, sealed)
	if string(plain) != "alice" || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	plain, err = k.Open(storage.ServerKey, storage.PurposeProfile, ad, server)
	if string(plain) != "server" || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, err := range map[string]error{
		"another person":  openErr(k, bob, storage.PurposeProfile, ad, sealed),
		"another purpose": openErr(k, alice, storage.PurposeContacts, ad, sealed),
		"another place":   openErr(k, alice, storage.PurposeProfile, []byte("users|handle|v|profile"), sealed),
		"altered":         openErr(k, alice, storage.PurposeProfile, ad, flipped),
		"cut":             openErr(k, alice, storage.PurposeProfile, ad, sealed[:20]),
		"empty":           openErr(k, alice, storage.PurposeProfile, ad, nil),
		"another version": openErr(k, alice, storage.PurposeProfile, ad, append([]byte{9}, sealed[1:]...)),
		"no purpose":      openErr(k, alice, "other", ad, sealed),
		"no key":          openErr(k, storage.KeyID{}, storage.PurposeProfile, ad, sealed),
		"the server":      openErr(k, storage.ServerKey, storage.PurposeProfile, ad, sealed),
	} {
		if err == nil || errors.Is(err, keystore.ErrShredded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func openErr(k *keystore.Keystore, id storage.KeyID, purpose string, ad, sealed []byte) error {
	_, err := k.Open(id, purpose, ad, sealed)
	return err
}

// recorder remembers what was drawn: the key bytes to search for.
type recorder struct {
	mu    sync.Mutex
	drawn [][]byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := rand.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drawn = append(r.drawn, bytes.Clone(p[:n]))
	return n, err
}

// TestDestroyLeavesNothing: after Destroy neither the key nor its wrapped form
// is in any file, at once and after a restart, and nothing opens or seals.
func TestDestroyLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	r := &recorder{}
	k := open(t, path, keystore.Options{Random: r})
	for range 50 {
		create(t, k)
	}
	r.drawn = nil
	id := create(t, k)
	key, nonce := r.drawn[1], r.drawn[2] // the id, the key, the nonce of its wrapping
	if !found(t, dir, nonce) {
		t.Fatal("the wrapped key is not in the files: the search is blind")
	}
	sealed, err := k.Seal(id, storage.PurposeMailbox, nil, []byte("x"))
	must(t, err)
	must(t, k.Destroy(t.Context(), id))
	must(t, k.Destroy(t.Context(), id))
	for _, when := range []string{"at once", "after a restart"} {
		if found(t, dir, nonce) || found(t, dir, key) {
			t.Errorf("%s: the key is still in a file", when)
		}
		if err := openErr(k, id, storage.PurposeMailbox, nil, sealed); !errors.Is(err, keystore.ErrShredded) {
			t.Errorf("%s: open: %v", when, err)
		}
		if _, err := k.Seal(id, storage.PurposeMailbox, nil, nil); !errors.Is(err, keystore.ErrShredded) {
			t.Errorf("%s: seal: %v", when, err)
		}
		if gone, err := k.Destroyed(t.Context(), id); !gone || err != nil {
			t.Errorf("%s: destroyed = %v, %v", when, gone, err)
		}
		must(t, k.Close())
		k = open(t, path, keystore.Options{})
	}
	if !found(t, dir, id[:]) {
		t.Error("no trace is left that there was a key")
	}
}

func found(t *testing.T, dir string, needle []byte) (yes bool) {
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		yes = yes || bytes.Contains(b, needle)
		return err
	}))
	return yes
}

// TestDestroyWhileInUse: many goroutines seal while the key is destroyed; once
// Destroy has returned, nobody can.
func TestDestroyWhileInUse(t *testing.T) {
	k := open(t, filepath.Join(t.TempDir(), "keys.db"), keystore.Options{CachedPersons: 2})
	for range 20 {
		id := create(t, k)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					_, err := k.Seal(id, storage.PurposeMailbox, nil, []byte("x"))
					if err != nil && !errors.Is(err, keystore.ErrShredded) {
						t.Error(err)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		must(t, k.Destroy(t.Context(), id))
		if _, err := k.Seal(id, storage.PurposeMailbox, nil, []byte("x")); !errors.Is(err, keystore.ErrShredded) {
			t.Errorf("after Destroy: %v", err)
		}
		close(stop)
		wg.Wait()
		if _, err := k.Seal(id, storage.PurposeMailbox, nil, []byte("x")); !errors.Is(err, keystore.ErrShredded) {
			t.Errorf("a cached key came back: %v", err)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	k := open(t, filepath.Join(t.TempDir(), "keys.db"), keystore.Options{CachedPersons: 3})
	var ids []storage.KeyID
	var sealed [][]byte
	for range 10 {
		id := create(t, k)
		s, err := k.Seal(id, storage.PurposeMailbox, nil, id[:])
		must(t, err)
		ids, sealed = append(ids, id), append(sealed, s)
	}
	if n := k.Cached(); n != 3 {
		t.Errorf("%d persons are cached", n)
	}
	for i, id := range ids {
		plain, err := k.Open(id, storage.PurposeMailbox, nil, sealed[i])
		if !bytes.Equal(plain, id[:]) || err != nil {
			t.Errorf("%x, %v", plain, err)
		}
	}
}

func TestWrongRootKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	open(t, path, keystore.Options{}).Close()
	other := bytes.Repeat([]byte{8}, keystore.RootKeySize)
	if _, err := keystore.Open(t.Context(), path, other, keystore.Options{}); !errors.Is(err, keystore.ErrWrongRootKey) {
		t.Errorf("got %v", err)
	}
	if _, err := keystore.Open(t.Context(), path, other[:31], keystore.Options{}); err == nil {
		t.Error("a short root key was accepted")
	}
	open(t, path, keystore.Options{})
}

func TestIndex(t *testing.T) {
	k := open(t, filepath.Join(t.TempDir(), "keys.db"), keystore.Options{})
	a := k.Index("users.handle", []byte("alice"))
	if len(a) != 32 || !bytes.Equal(a, k.Index("users.handle", []byte("alice"))) {
		t.Error("an index is not a function of its value")
	}
	if bytes.Equal(a, k.Index("users.handle", []byte("bob"))) || bytes.Equal(a, k.Index("other", []byte("alice"))) {
		t.Error("different values have the same index")
	}
}

func TestRootKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "root.key")
	key, err := keystore.CreateRootKey(path, rand.Reader)
	must(t, err)
	got, err := keystore.LoadRootKey(path)
	if !bytes.Equal(got, key) || err != nil {
		t.Errorf("%v", err)
	}
	if _, err := keystore.CreateRootKey(path, rand.Reader); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing key was replaced: %v", err)
	}
	if after, err := keystore.LoadRootKey(path); !bytes.Equal(after, key) || err != nil {
		t.Errorf("the refused creation changed the key: %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660} {
		must(t, os.Chmod(path, mode))
		if _, err := keystore.LoadRootKey(path); err == nil || !strings.Contains(err.Error(), "0600") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	for name, content := range map[string][]byte{"short": key[:31], "long": append(bytes.Clone(key), '\n'), "empty": nil} {
		p := filepath.Join(dir, name)
		must(t, os.WriteFile(p, content, 0o600))
		if _, err := keystore.LoadRootKey(p); err == nil || !strings.Contains(err.Error(), "32 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keystore.LoadRootKey(dir); err == nil {
		t.Error("a folder is a root key")
	}
	short := filepath.Join(dir, "noentropy")
	if _, err := keystore.CreateRootKey(short, io.LimitReader(rand.Reader, 31)); err == nil {
		t.Error("a root key without randomness")
	}
	if _, err := os.Stat(short); err == nil {
		t.Error("a file was left without a key")
	}
}

func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := open(t, filepath.Join(t.TempDir(), "keys.db"), keystore.Options{})
		id := create(t, k)
		_, err := k.Seal(id, storage.PurposeLedger, nil, []byte("x"))
		must(t, err)
		must(t, k.Close())
	})
}

func BenchmarkSeal(b *testing.B) {
	k := open(b, filepath.Join(b.TempDir(), "keys.db"), keystore.Options{})
	id := create(b, k)
	ad, key := []byte("message id and device"), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Seal(id, storage.PurposeMailbox, ad, key); err != nil {
			b.Fatal(err)
		}
	}
}
