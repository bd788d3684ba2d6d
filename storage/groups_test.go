package storage_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

func TestGroupOps(t *testing.T) {
	w := open(t)
	g := storage.Group{ID: clearbox.GroupID{1}, Hub: "a.test", Epoch: 1, Head: [32]byte{1}, State: storage.GroupActive}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.PutGroup(&g))
		return tx.PutGroupOps(g.No, [][]byte{[]byte("create")})
	})
	w.fails("a group twice", storage.ErrExists, func(tx *storage.Tx) error {
		return tx.PutGroup(&storage.Group{ID: g.ID, Hub: "b.test", State: storage.GroupActive})
	})
	w.update(func(tx *storage.Tx) error {
		next := g
		next.Head = [32]byte{2}
		must(t, tx.AppendGroupOp(&next, []byte("add")))
		next.Head, next.Hub, next.State = [32]byte{3}, "b.test", storage.GroupClosed
		return tx.AppendGroupOp(&next, []byte("close"))
	})
	w.fails("an operation for an epoch that is over", storage.ErrNotFound, func(tx *storage.Tx) error {
		late := g
		return tx.AppendGroupOp(&late, []byte("late"))
	})
	w.view(func(tx *storage.Tx) error {
		got, err := tx.Group(g.ID)
		must(t, err)
		if got.Epoch != 3 || got.Head != [32]byte{3} || got.Hub != "b.test" || got.State != storage.GroupClosed || got.Created != testStart {
			t.Errorf("the group is %+v", got)
		}
		all, err := tx.GroupOps(g.No, 0, 10, 1<<20)
		must(t, err)
		if got := string(bytes.Join(all, []byte(" "))); got != "create add close" {
			t.Errorf("operations %q", got)
		}
		for _, c := range []struct {
			after        uint64
			limit, bytes int
			want         string
		}{{1, 10, 1 << 20, "add close"}, {0, 2, 1 << 20, "create add"}, {0, 10, 7, "create"}, {0, 10, 1, "create"}, {3, 10, 10, ""}} {
			some, err := tx.GroupOps(g.No, c.after, c.limit, c.bytes)
			must(t, err)
			if got := string(bytes.Join(some, []byte(" "))); got != c.want {
				t.Errorf("%+v gives %q", c, got)
			}
		}
		return nil
	})
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetGroupState(g.No, storage.GroupDeleted, "deleted"))
		return tx.EmptyGroup(g.No)
	})
	w.view(func(tx *storage.Tx) error {
		got, err := tx.Group(g.ID)
		must(t, err)
		if ops, _ := tx.GroupOps(g.No, 0, 10, 100); got.State != storage.GroupDeleted || got.Reason != "deleted" || len(ops) != 0 {
			t.Errorf("after its deletion: %+v with %d operations", got, len(ops))
		}
		return nil
	})
}

// Who a member is opens with the person's key only, is found by whom it is
// about, and goes without the operations.
func TestGroupMembers(t *testing.T) {
	w := open(t)
	alice, _ := w.user("alice")
	bob, _ := w.user("bob")
	id := func(u storage.User) clearbox.UserID { return clearbox.UserID{UID: u.UID, Server: "a.test"} }
	g := storage.Group{ID: clearbox.GroupID{1}, Hub: "a.test", Epoch: 1, State: storage.GroupActive}
	other := storage.Group{ID: clearbox.GroupID{2}, Hub: "b.test", Epoch: 1, State: storage.GroupActive}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.PutGroup(&g))
		must(t, tx.PutGroup(&other))
		must(t, tx.PutGroupOps(g.No, [][]byte{[]byte("create")}))
		must(t, tx.PutGroupMember(&storage.GroupMember{GroupNo: g.No, Member: clearbox.MemberID{1}, User: id(alice), UserNo: alice.No, Opening: []byte("alice's")}))
		must(t, tx.PutGroupMember(&storage.GroupMember{GroupNo: g.No, Member: clearbox.MemberID{2}, User: id(bob), UserNo: bob.No, Opening: []byte("bob's")}))
		must(t, tx.PutGroupMember(&storage.GroupMember{GroupNo: g.No, Member: clearbox.MemberID{3}, User: stranger(1), Opening: []byte("stranger's")}))
		must(t, tx.PutGroupMember(&storage.GroupMember{GroupNo: other.No, Member: clearbox.MemberID{4}, User: stranger(1), Opening: []byte("stranger's other")}))
		return tx.PutGroupMember(&storage.GroupMember{GroupNo: g.No, Member: clearbox.MemberID{3}, User: id(bob), UserNo: bob.No, Opening: []byte("somebody else's")})
	})
	openings := func(no int64) (out []string) {
		w.view(func(tx *storage.Tx) error {
			members, err := tx.GroupMembers(no)
			must(t, err)
			for _, m := range members {
				out = append(out, string(m.Opening))
			}
			return nil
		})
		return out
	}
	same := func(what string, got []string, want ...string) {
		t.Helper()
		if len(got) != len(want) {
			t.Errorf("%s: %q", what, got)
			return
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: %q", what, got)
			}
		}
	}
	same("at first", openings(g.No), "alice's", "bob's", "stranger's")
	w.view(func(tx *storage.Tx) error {
		of, err := tx.GroupsOf(alice.No)
		must(t, err)
		if len(of) != 1 || of[0].ID != g.ID {
			t.Errorf("groups of alice: %+v", of)
		}
		of, err = tx.GroupsOf(0)
		if must(t, err); len(of) != 0 {
			t.Errorf("groups of nobody: %+v", of)
		}
		return nil
	})
	must(t, w.keys.Destroy(t.Context(), alice.Key))
	same("after alice's key was destroyed", openings(g.No), "", "bob's", "stranger's")
	w.update(func(tx *storage.Tx) error {
		in, err := tx.ForgetGroupMember(stranger(1))
		if len(in) != 2 || in[0] != g.ID || in[1] != other.ID {
			t.Errorf("the stranger was in %v", in)
		}
		must(t, err)
		_, err = tx.ForgetGroupMember(id(alice))
		return err
	})
	same("after two were forgotten", openings(g.No), "bob's")
	same("in the other group", openings(other.No))
	w.view(func(tx *storage.Tx) error {
		ops, err := tx.GroupOps(g.No, 0, 10, 100)
		if must(t, err); len(ops) != 1 {
			t.Errorf("%d operations are left", len(ops))
		}
		return nil
	})
}

func TestGroupArrivals(t *testing.T) {
	w := open(t)
	put := func(n byte, peer clearbox.ServerName) (no int64) {
		w.update(func(tx *storage.Tx) error {
			a := storage.GroupArrival{Peer: peer, Payload: []byte{n}}
			err := tx.PutGroupArrival(&a, bytes.Repeat([]byte{n}, 16))
			no = a.No
			return err
		})
		return no
	}
	one, two := put(1, "b.test"), put(2, "b.test")
	put(3, "c.test")
	due := func() (out []byte) {
		w.view(func(tx *storage.Tx) error {
			as, err := tx.GroupArrivals(10)
			must(t, err)
			for _, a := range as {
				out = append(out, a.Payload[0])
			}
			return nil
		})
		return out
	}
	if got := due(); !bytes.Equal(got, []byte{1, 2, 3}) {
		t.Errorf("due: %v", got)
	}
	w.update(func(tx *storage.Tx) error {
		if n, err := tx.CountGroupArrivals("b.test"); err != nil || n != 2 {
			t.Errorf("%d of b.test, %v", n, err)
		}
		must(t, tx.DeferGroupArrival(one, tx.Now()+1))
		return tx.DeleteGroupArrival(two)
	})
	if got := due(); !bytes.Equal(got, []byte{3}) {
		t.Errorf("due after one was deferred and one deleted: %v", got)
	}
}
