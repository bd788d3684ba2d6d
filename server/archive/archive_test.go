package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/archive"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// people gives a store with n accounts and their numbers.
func people(t *testing.T, n int) (*storage.Store, []int64) {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	ks, err := keystore.Open(ctx, filepath.Join(dir, "keys.db"), bytes.Repeat([]byte{1}, 32), keystore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	s, err := storage.Open(ctx, storage.Options{Path: filepath.Join(dir, "store.db"), Sealer: ks, Index: ks.Index})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var nos []int64
	for i := range n {
		key, err := ks.Create(ctx)
		if err != nil {
			t.Fatal(err)
		}
		uid, err := clearbox.NewUID(bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 16)))
		if err != nil {
			t.Fatal(err)
		}
		user := &storage.User{UID: uid, Key: key, Handle: clearbox.Handle(fmt.Sprintf("p%d", i)), Role: storage.RoleMember, State: storage.UserActive}
		if err := s.Update(ctx, func(tx *storage.Tx) error { return tx.CreateUser(user) }); err != nil {
			t.Fatal(err)
		}
		nos = append(nos, user.No)
	}
	return s, nos
}

func item(i int) wire.HistoryItem {
	return wire.HistoryItem{ID: fmt.Sprintf("item-%03d", i), Conversation: []byte("c"), Body: []byte(fmt.Sprintf("sealed %d", i))}
}

func ids(page wire.HistoryPage) []string {
	var out []string
	for _, it := range page.Items {
		out = append(out, it.ID)
	}
	return out
}

func TestPagesForwardAndBackward(t *testing.T) {
	ctx := context.Background()
	store, nos := people(t, 2)
	s := archive.New(store, archive.Options{})
	var items []wire.HistoryItem
	var want []string
	for i := range 7 {
		items = append(items, item(i))
		want = append(want, item(i).ID)
	}
	if got, err := s.Add(ctx, nos[0], items); err != nil || got.Stored != 7 || got.Items != 7 {
		t.Fatal(got, err)
	}
	if got, err := s.Add(ctx, nos[0], items[:2]); err != nil || got.Stored != 0 || got.Items != 7 {
		t.Fatal("a repeated upload:", got, err)
	}
	for _, forward := range []bool{true, false} {
		var got []string
		cursor := ""
		for n := 0; ; n++ {
			page, err := s.Page(ctx, nos[0], cursor, 3, forward)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ids(page)...)
			if cursor = page.Next; cursor == "" {
				if n != 2 {
					t.Errorf("%d pages of 3 for 7 items", n+1)
				}
				break
			}
		}
		expect := slices.Clone(want)
		if !forward {
			slices.Reverse(expect)
		}
		if !slices.Equal(got, expect) {
			t.Errorf("forward %t: %v", forward, got)
		}
	}
	// Back from the second page.
	first, err := s.Page(ctx, nos[0], "", 3, true)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Page(ctx, nos[0], first.Next, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	back, err := s.Page(ctx, nos[0], second.Prev, 3, false)
	if err != nil || !slices.Equal(ids(back), []string{want[2], want[1], want[0]}) {
		t.Error("backward from the second page:", ids(back), err)
	}
	if page, err := s.Page(ctx, nos[1], "", 3, true); err != nil || len(page.Items) != 0 {
		t.Error("another person sees", ids(page), err)
	}
	if !bytes.Equal(first.Items[0].Body, []byte("sealed 0")) || first.Items[0].Created > clearbox.Millis(time.Now().UnixMilli()) {
		t.Errorf("%+v", first.Items[0])
	}
}

func TestQuotaStoresNothing(t *testing.T) {
	ctx := context.Background()
	store, nos := people(t, 1)
	s := archive.New(store, archive.Options{MaxItems: 3, MaxBytes: 40})
	if _, err := s.Add(ctx, nos[0], []wire.HistoryItem{item(0), item(1)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(ctx, nos[0], []wire.HistoryItem{item(2), item(3)}); clearbox.CodeOf(err) != clearbox.CodeQuota {
		t.Error("too many items:", err)
	}
	big := item(4)
	big.Body = make([]byte, 40)
	if _, err := s.Add(ctx, nos[0], []wire.HistoryItem{big}); clearbox.CodeOf(err) != clearbox.CodeQuota {
		t.Error("too many bytes:", err)
	}
	if page, err := s.Page(ctx, nos[0], "", 10, true); err != nil || len(page.Items) != 2 {
		t.Error("a refused upload left", ids(page), err)
	}
}

func TestDelete(t *testing.T) {
	ctx := context.Background()
	store, nos := people(t, 2)
	s := archive.New(store, archive.Options{})
	for _, no := range nos {
		if _, err := s.Add(ctx, no, []wire.HistoryItem{item(0), item(1), item(2)}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Delete(ctx, nos[0], nil); err != nil || n != 0 {
		t.Error("deleting nothing deleted", n, err)
	}
	if n, err := s.Delete(ctx, nos[0], []string{"item-001", "absent"}); err != nil || n != 1 {
		t.Error(n, err)
	}
	if n, err := s.DeleteAll(ctx, nos[0]); err != nil || n != 2 {
		t.Error(n, err)
	}
	if page, err := s.Page(ctx, nos[1], "", 10, true); err != nil || len(page.Items) != 3 {
		t.Error("the other person has", ids(page), err)
	}
}

func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", "AQE", "AQ", "AQEB", "_", "AgE", "AYAA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		seq, err := archive.ParseCursor(s)
		if err == nil && s != "" && archive.FormatCursor(seq) != s {
			t.Errorf("%q has two spellings", s)
		}
		if err != nil && clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Error(err)
		}
	})
}
