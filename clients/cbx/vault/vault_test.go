package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

var ctx = context.Background()

func fileKey() vault.Secret { return vault.Secret{Key: bytes.Repeat([]byte{7}, vault.KeySize)} }

func options(create bool) vault.Options {
	return vault.Options{Secret: fileKey(), Random: rand.Reader, Create: create}
}

func create(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(dir, options(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func put(t *testing.T, v core.Vault, kv ...string) {
	t.Helper()
	err := v.Update(ctx, func(tx core.Tx) error {
		for i := 0; i < len(kv); i += 2 {
			if err := tx.Put(kv[i], []byte(kv[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, v core.Vault) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := v.View(ctx, func(r core.Reader) error {
		entries, err := r.List(core.Range{})
		for _, e := range entries {
			out[e.Key] = string(e.Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func reopen(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(dir, options(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// copyDir is what a backup tool would take.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestVaultKeepsContent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profile")
	v := create(t, dir)
	put(t, v, "a", "1", "b", "2")
	put(t, v, "a", "3")
	err := v.Update(ctx, func(tx core.Tx) error { return tx.Delete("b") })
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err = v.Update(ctx, func(tx core.Tx) error {
		_ = tx.Put("c", []byte("never"))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Update = %v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := v.Update(ctx, func(core.Tx) error { return nil }); !errors.Is(err, vault.ErrClosed) {
		t.Fatalf("Update after Close = %v", err)
	}
	if got := content(t, reopen(t, dir)); !maps.Equal(got, map[string]string{"a": "3"}) {
		t.Fatalf("got %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), info.Mode().Perm())
		}
	}
}

func TestSecrets(t *testing.T) {
	cheap := vault.Argon{Passes: 1, MemoryKiB: 64, Lanes: 1}
	pass := vault.Secret{Passphrase: []byte("correct horse")}
	dir := t.TempDir()
	v, err := vault.Open(dir, vault.Options{Secret: pass, Random: rand.Reader, Create: true, Argon: cheap})
	if err != nil {
		t.Fatal(err)
	}
	put(t, v, "secret-name", "secret-text")
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		secret vault.Secret
		want   error
	}{
		{"right passphrase", pass, nil},
		{"wrong passphrase", vault.Secret{Passphrase: []byte("correct horsf")}, vault.ErrWrongKey},
		{"key file for a passphrase vault", fileKey(), vault.ErrWrongKey},
	}
	for _, c := range cases {
		v, err := vault.Open(dir, vault.Options{Secret: c.secret, Random: rand.Reader})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err == nil {
			v.Close()
		}
	}
	for _, s := range []vault.Secret{{}, {Key: []byte("short")}, {Key: fileKey().Key, Passphrase: []byte("both")}} {
		if _, err := vault.Open(dir, vault.Options{Secret: s, Random: rand.Reader}); err == nil {
			t.Errorf("%v was taken for a secret", s)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "vault.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, canary := range []string{"secret-name", "secret-text", "correct horse"} {
		if bytes.Contains(log, []byte(canary)) {
			t.Errorf("%q can be read in the file", canary)
		}
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	if _, err := vault.Open(dir, options(false)); !errors.Is(err, vault.ErrAbsent) {
		t.Fatalf("Open of nothing = %v", err)
	}
	v := create(t, dir)
	if _, err := vault.Open(dir, options(false)); !errors.Is(err, vault.ErrLocked) {
		t.Fatalf("second Open = %v", err)
	}
	v.Close()
	if _, err := vault.Open(dir, options(true)); !errors.Is(err, vault.ErrExists) {
		t.Fatalf("second create = %v", err)
	}
	reopen(t, dir)
}

// TestCrashAtEveryByte cuts the log at every byte of its last record, fills the
// cut part with zeros as some file systems do, and expects the state before it
// each time; the next write and the one after must be readable.
func TestCrashAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	v := create(t, dir)
	put(t, v, "a", "1")
	put(t, v, "b", "2")
	before := copyDir(t, dir)
	put(t, v, "c", strings.Repeat("x", 90))
	v.Abandon()
	full, err := os.ReadFile(filepath.Join(dir, "vault.log"))
	if err != nil {
		t.Fatal(err)
	}
	start := size(t, before)
	for cut := start; cut < len(full); cut++ {
		for _, tail := range []string{"cut", "zeros"} {
			crashed := copyDir(t, before)
			image := slices.Clone(full[:cut])
			if tail == "zeros" {
				if cut > start {
					continue // zeros inside a record that begins well are damage
				}
				image = append(image, make([]byte, 40)...)
			}
			if err := os.WriteFile(filepath.Join(crashed, "vault.log"), image, 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := vault.Open(crashed, options(false))
			if err != nil {
				t.Fatalf("%s at %d: %v", tail, cut, err)
			}
			if got := content(t, v); !maps.Equal(got, map[string]string{"a": "1", "b": "2"}) {
				t.Fatalf("%s at %d: %v", tail, cut, got)
			}
			put(t, v, "d", "4")
			v.Close()
			v = reopen(t, crashed)
			if got := content(t, v); got["d"] != "4" || len(got) != 3 {
				t.Fatalf("%s at %d, after another write: %v", tail, cut, got)
			}
			v.Close()
		}
	}
}

func size(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "vault.log"))
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// TestEveryFlipIsRefused flips each byte of log and mark in turn.
func TestEveryFlipIsRefused(t *testing.T) {
	dir := t.TempDir()
	v := create(t, dir)
	put(t, v, "a", "1")
	put(t, v, "b", "2")
	v.Close()
	for _, name := range []string{"vault.log", "vault.mark"} {
		good, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bad := slices.Clone(good)
			bad[i] ^= 0x40
			if err := os.WriteFile(filepath.Join(dir, name), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := vault.Open(dir, options(false))
			if err == nil {
				v.Close()
				t.Fatalf("byte %d of %s flipped and nobody noticed", i, name)
			}
			var corrupt *vault.CorruptError
			if !errors.As(err, &corrupt) && !errors.Is(err, vault.ErrVersion) {
				t.Fatalf("byte %d of %s: %v", i, name, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reopen(t, dir)
}

func TestRecordsCanNotMove(t *testing.T) {
	dir := t.TempDir()
	v := create(t, dir)
	put(t, v, "a", "1")
	one := size(t, dir)
	put(t, v, "a", "2")
	two := size(t, dir)
	put(t, v, "a", "3")
	v.Close()
	log, err := os.ReadFile(filepath.Join(dir, "vault.log"))
	if err != nil {
		t.Fatal(err)
	}
	head, r1, r2, r3 := log[:vault.HeaderSize], log[vault.HeaderSize:one], log[one:two], log[two:]
	for name, image := range map[string][][]byte{
		"swapped": {head, r2, r1, r3}, "left out": {head, r1, r3}, "twice": {head, r1, r2, r3, r3},
	} {
		if err := os.WriteFile(filepath.Join(dir, "vault.log"), slices.Concat(image...), 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt *vault.CorruptError
		if _, err := vault.Open(dir, options(false)); !errors.As(err, &corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOlderLogIsRefused restores an earlier log beside a later mark: within a
// generation, across a compaction, and cut at the end of a record.
func TestOlderLogIsRefused(t *testing.T) {
	for _, compact := range []bool{false, true} {
		dir := t.TempDir()
		v := create(t, dir)
		put(t, v, "a", "1")
		old := copyDir(t, dir)
		put(t, v, "a", "2")
		if compact {
			if err := v.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		v.Abandon()
		log, err := os.ReadFile(filepath.Join(old, "vault.log"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vault.log"), log, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := vault.Open(dir, options(false)); !errors.Is(err, vault.ErrRolledBack) {
			t.Errorf("compacted %v: %v", compact, err)
		}
	}
	dir := t.TempDir()
	v := create(t, dir)
	v.Close()
	if err := os.Remove(filepath.Join(dir, "vault.mark")); err != nil {
		t.Fatal(err)
	}
	var corrupt *vault.CorruptError
	if _, err := vault.Open(dir, options(false)); !errors.As(err, &corrupt) {
		t.Errorf("without a mark: %v", err)
	}
}

var errCrash = errors.New("crash")

// TestCrashAtEveryStep kills the vault before each step of a workload that
// compacts several times. After each kill the vault holds everything that was
// reported as written, and at most the one transaction that was not.
func TestCrashAtEveryStep(t *testing.T) {
	stages := map[string]int{}
	for crashAt := 1; ; crashAt++ {
		dir := t.TempDir()
		step := 0
		opts := options(true)
		opts.Slack = 400
		v, err := vault.OpenAt(dir, opts, func(stage string) error {
			if step++; step == crashAt {
				stages[stage]++
				return errCrash
			}
			return nil
		})
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		if err != nil { // died while it was made: it may be there or not, never half
			v, err := vault.Open(dir, options(true))
			if errors.Is(err, vault.ErrExists) {
				v, err = vault.Open(dir, options(false))
			}
			if err != nil {
				t.Fatalf("crash at step %d of creation: %v", crashAt, err)
			}
			v.Close()
			continue
		}
		done := 0
		for done < 30 {
			err = v.Update(ctx, func(tx core.Tx) error {
				_ = tx.Put("n", fmt.Appendf(nil, "%d", done+1))
				return tx.Put(fmt.Sprintf("k%d", (done+1)%3), bytes.Repeat([]byte{byte(done + 1)}, 50))
			})
			if err != nil {
				break
			}
			done++
		}
		v.Abandon()
		crashed := step >= crashAt
		v, err = vault.Open(dir, options(false))
		if err != nil {
			t.Fatalf("crash at step %d (%d done): %v", crashAt, done, err)
		}
		got := content(t, v)
		n := fmt.Sprint(done)
		if done == 0 {
			n = ""
		}
		if got["n"] != n && (!crashed || got["n"] != fmt.Sprint(done+1)) {
			t.Fatalf("crash at step %d: %q instead of %q", crashAt, got["n"], n)
		}
		v.Close()
		if !crashed {
			break
		}
	}
	for _, s := range []string{"append", "sync", "mark", "compact-write", "compact-rename", "compact-dirsync", "compact-wipe"} {
		if stages[s] == 0 {
			t.Errorf("no crash at %s", s)
		}
	}
}

func TestCompactionForgets(t *testing.T) {
	dir := t.TempDir()
	v := create(t, dir)
	put(t, v, "old", "state", "keep", "this")
	old, err := os.Open(filepath.Join(dir, "vault.log")) // keeps the old file's blocks reachable
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := v.Update(ctx, func(tx core.Tx) error { return tx.Delete("old") }); err != nil {
		t.Fatal(err)
	}
	if err := v.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	v.Close()
	head := make([]byte, vault.HeaderSize)
	if _, err := old.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if err := vault.DecodeHeader(head); err == nil {
		t.Error("the old file still has its wrapped key")
	}
	if got := content(t, reopen(t, dir)); !maps.Equal(got, map[string]string{"keep": "this"}) {
		t.Errorf("got %v", got)
	}
}

// TestLogStaysSmall rewrites one value many times.
func TestLogStaysSmall(t *testing.T) {
	dir := t.TempDir()
	opts := options(true)
	opts.Slack = 64 << 10
	v, err := vault.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for i := range 300 {
		put(t, v, "session", strings.Repeat(string(rune('a'+i%26)), 4000))
	}
	if n := size(t, dir); n > 100<<10 {
		t.Errorf("300 writes of 4 kB left %d bytes", n)
	}
}

func FuzzOpenLog(f *testing.F) {
	dir := f.TempDir()
	v, err := vault.Open(dir, options(true))
	if err != nil {
		f.Fatal(err)
	}
	_ = v.Update(ctx, func(tx core.Tx) error { return tx.Put("a", []byte("b")) })
	v.Close()
	good, err := os.ReadFile(filepath.Join(dir, "vault.log"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:vault.HeaderSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, image []byte) {
		if err := os.WriteFile(filepath.Join(dir, "vault.log"), image, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := vault.Open(dir, options(false))
		if err != nil {
			return
		}
		defer v.Close()
		if !bytes.HasPrefix(image, good) {
			t.Fatal("an image that nobody wrote was opened")
		}
	})
}

func FuzzDecodeOps(f *testing.F) {
	f.Add(vault.EncodeOps([]memvault.Op{{Key: "a", Value: []byte("b")}, {Key: "c", Delete: true}}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := vault.DecodeOps(b)
		if err != nil {
			return
		}
		again, err := vault.DecodeOps(vault.EncodeOps(ops))
		if err != nil || len(again) != len(ops) {
			t.Fatalf("%d operations, then %d, %v", len(ops), len(again), err)
		}
		for i := range ops {
			if ops[i].Key != again[i].Key || ops[i].Delete != again[i].Delete || !bytes.Equal(ops[i].Value, again[i].Value) {
				t.Fatalf("operation %d changed", i)
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	v, err := vault.Open(b.TempDir(), options(true))
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	value := make([]byte, 4096)
	b.SetBytes(4096)
	for i := 0; b.Loop(); i++ {
		err := v.Update(ctx, func(tx core.Tx) error { return tx.Put(fmt.Sprintf("k%d", i%100), value) })
		if err != nil {
			b.Fatal(err)
		}
	}
}
