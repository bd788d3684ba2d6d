package admin_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

func TestDeadLetters(t *testing.T) {
	ctx, local := context.Background(), admin.Local()
	w := newWorld(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.store.Update(ctx, func(tx *storage.Tx) error {
		for _, d := range []storage.DeadLetter{
			{Peer: "b.test", Class: storage.ClassMessage, Code: clearbox.CodeMailboxFull, SenderNo: 3, Recipient: []byte("sealed"), Attempts: 2, Accepted: 5},
			{Peer: "b.test", Class: storage.ClassMessage, Code: clearbox.CodePeerUnreachable, SenderNo: 3, Recipient: []byte("sealed")},
			{Peer: "b.test", Class: storage.ClassMessage, Code: clearbox.CodePeerUnreachable},
			{Peer: "c.test", Class: storage.ClassMessage, Code: clearbox.CodePeerUnreachable, SenderNo: 4, Recipient: []byte("sealed")},
		} {
			if err := tx.PutDead(&d); err != nil {
				return err
			}
		}
		return nil
	}))
	var numbers []int64
	for after := ""; ; {
		page, err := w.admin.Dead(ctx, local, "b.test", "", after, 2)
		must(err)
		if len(page.Counts) != 3 || page.Counts[1] != (wire.AdminDeadCount{Peer: "b.test", Code: clearbox.CodePeerUnreachable, Count: 2}) {
			t.Errorf("counts %+v", page.Counts)
		}
		for _, d := range page.Letters {
			numbers = append(numbers, d.No)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if !slices.Equal(numbers, []int64{1, 2, 3}) {
		t.Errorf("letters of b.test by twos: %v", numbers)
	}
	one, err := w.admin.DeadLetter(ctx, local, 1)
	must(err)
	if !one.Known || one.Attempts != 2 || one.Until-one.Died != clearbox.Millis((14*24*time.Hour).Milliseconds()) || one.Code != clearbox.CodeMailboxFull {
		t.Errorf("%+v", one)
	}
	if of, err := w.admin.DeadLetter(ctx, local, 3); err != nil || of.Known {
		t.Errorf("a report: %+v, %v", of, err)
	}
	for _, no := range []int64{0, 99} {
		if _, err := w.admin.DeadLetter(ctx, local, no); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("letter %d: %v", no, err)
		}
	}
	if _, err := w.admin.RequeueDead(ctx, local, wire.AdminDeadPick{No: 99}); clearbox.CodeOf(err) != clearbox.CodeNotFound {
		t.Errorf("requeue of nothing: %v", err)
	}
	asked, err := w.admin.RequeueDead(ctx, local, wire.AdminDeadPick{Peer: "b.test", Code: clearbox.CodePeerUnreachable})
	if asked.Asked != 3 || asked.Left != 1 || err != nil {
		t.Errorf("%+v, %v", asked, err)
	}
	dropped, err := w.admin.DropDead(ctx, local, wire.AdminDeadPick{Peer: "b.test", Code: clearbox.CodePeerUnreachable})
	if dropped.Dropped != 2 || err != nil {
		t.Errorf("%+v, %v", dropped, err)
	}
	if dropped, err = w.admin.DropDead(ctx, local, wire.AdminDeadPick{No: 1}); dropped.Dropped != 1 || err != nil {
		t.Errorf("%+v, %v", dropped, err)
	}
	if _, err = w.admin.DropDead(ctx, local, wire.AdminDeadPick{No: 1}); clearbox.CodeOf(err) != clearbox.CodeNotFound {
		t.Errorf("a second time: %v", err)
	}
	page, err := w.admin.Dead(ctx, local, "", "", "", 10)
	if err != nil || len(page.Letters) != 1 || page.Letters[0].Peer != "c.test" {
		t.Errorf("left: %+v, %v", page.Letters, err)
	}
	if got, want := w.actions(), []string{"local fed.dead.requeue b.test", "local fed.dead.drop b.test  2", "local fed.dead.drop b.test  1"}; !slices.Equal(got, want) {
		t.Errorf("audit log: %q, want %q", got, want)
	}
}
