package memvault_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// TestVaultMatchesMap compares random transactions and ranges with a plain map
// that is sorted for every question.
func TestVaultMatchesMap(t *testing.T) {
	key := rapid.StringMatching(`[ab]/[a-c]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		v := &memvault.Vault{}
		model := map[string]string{}
		ctx := context.Background()
		compare := func(r core.Reader, want map[string]string) {
			rng := core.Range{
				Prefix: rapid.SampledFrom([]string{"", "a", "a/", "b/a", "b/c"}).Draw(t, "prefix"),
				Limit:  rapid.IntRange(0, 5).Draw(t, "limit"), Reverse: rapid.Bool().Draw(t, "reverse"),
			}
			if rapid.Bool().Draw(t, "bounded") {
				rng.After = rapid.OneOf(key, rapid.Just("")).Draw(t, "after")
				rng.Before = rapid.OneOf(key, rapid.Just("")).Draw(t, "before")
			}
			got, err := r.List(rng)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, k := range slices.Sorted(maps.Keys(want)) {
				if strings.HasPrefix(k, rng.Prefix) && (rng.After == "" || k > rng.After) && (rng.Before == "" || k < rng.Before) {
					keys = append(keys, k)
				}
			}
			if rng.Reverse {
				slices.Reverse(keys)
			}
			if rng.Limit > 0 && len(keys) > rng.Limit {
				keys = keys[:rng.Limit]
			}
			if len(got) != len(keys) {
				t.Fatalf("%+v: got %v, want %v", rng, got, keys)
			}
			for i, e := range got {
				if e.Key != keys[i] || string(e.Value) != want[e.Key] {
					t.Fatalf("%+v: entry %d is %s=%s, want %s=%s", rng, i, e.Key, e.Value, keys[i], want[keys[i]])
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "transactions") {
			next := maps.Clone(model)
			fail := rapid.Bool().Draw(t, "fail")
			boom := errors.New("boom")
			err := v.Update(ctx, func(tx core.Tx) error {
				for range rapid.IntRange(0, 8).Draw(t, "ops") {
					k := key.Draw(t, "key")
					if rapid.Bool().Draw(t, "put") {
						val := fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "value"))
						next[k] = val
						_ = tx.Put(k, []byte(val))
					} else {
						delete(next, k)
						_ = tx.Delete(k)
					}
					got, err := tx.Get(k)
					if want, ok := next[k]; ok != (err == nil) || string(got) != want {
						t.Fatalf("Get(%s) = %q, %v; want %q, %v", k, got, err, want, ok)
					}
				}
				compare(tx, next)
				if fail {
					return boom
				}
				return nil
			})
			if fail {
				if !errors.Is(err, boom) {
					t.Fatalf("Update = %v", err)
				}
			} else {
				model = next
			}
			_ = v.View(ctx, func(r core.Reader) error { compare(r, model); return nil })
		}
	})
}

// TestImageSplits fills many blocks in an awkward order and empties them again.
func TestImageSplits(t *testing.T) {
	var m memvault.Image
	const n = 5000
	for i := range n {
		m.Put(fmt.Sprintf("%08d", i*7919%n), []byte{byte(i)})
	}
	if m.Len() != n || m.Bytes() != n*9 {
		t.Fatalf("len %d, bytes %d", m.Len(), m.Bytes())
	}
	prev := ""
	m.Ascend(func(e core.Entry) bool {
		if e.Key <= prev {
			t.Fatalf("%s after %s", e.Key, prev)
		}
		prev = e.Key
		return true
	})
	if got := m.List(core.Range{Reverse: true, Limit: 2}); got[0].Key != "00004999" || got[1].Key != "00004998" {
		t.Fatalf("last two: %v", got)
	}
	for i := range n {
		if !m.Delete(fmt.Sprintf("%08d", i)) {
			t.Fatalf("%d was not there", i)
		}
	}
	if m.Len() != 0 || m.Bytes() != 0 || len(m.List(core.Range{})) != 0 {
		t.Fatalf("not empty: %d entries, %d bytes", m.Len(), m.Bytes())
	}
}
