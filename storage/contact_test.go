package storage_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

func stranger(n byte) clearbox.UserID {
	return clearbox.UserID{UID: clearbox.UID(bytes.Repeat([]byte{'a' + n}, 25)) + "a", Server: "b.test"}
}

// Tokens and names open with the person's key only, and mean nothing once it is
// destroyed.
func TestContactIsSealed(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	one, two := clearbox.DeliveryToken{1}, clearbox.DeliveryToken{2}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetToken(u.No, one, tx.Now()+1000))
		must(t, tx.SetToken(u.No, two, tx.Now()+1000))
		must(t, tx.Block(u.No, stranger(1)))
		must(t, tx.PutReceivedKnock(&storage.ReceivedKnock{ID: messageID(1), UserNo: u.No, Peer: "b.test", Stranger: stranger(2), Expires: tx.Now() + 1000}))
		return tx.PutKnock(&storage.Knock{ID: messageID(2), UserNo: u.No, To: clearbox.Address{Handle: "bob", Server: "b.test"}, Expires: tx.Now() + 1000})
	})
	read := func() (r storage.Reach, blocks []clearbox.UserID, who clearbox.UserID) {
		t.Helper()
		w.update(func(tx *storage.Tx) (err error) {
			r, err = tx.Reach(u.UID)
			must(t, err)
			blocks, err = tx.Blocks(u.No)
			must(t, err)
			who, err = tx.CloseKnock(u.No, messageID(1))
			return err
		})
		return r, blocks, who
	}
	r, blocks, who := read()
	id := messageID(2)
	if r.Token != two || r.Previous != one || r.Until != testStart+1000 || len(r.Knocks) != 1 || r.Knocks[0].Peer != "b.test" || r.Knocks[0].ID != storage.KnockIndex(w.keys.Index, id[:]) {
		t.Errorf("reach %+v", r)
	}
	if !slices.Equal(blocks, []clearbox.UserID{stranger(1)}) || who != stranger(2) {
		t.Errorf("blocked %v, knocked %v", blocks, who)
	}
	w.fails("nobody", storage.ErrNotFound, func(tx *storage.Tx) error {
		_, err := tx.Reach(stranger(0).UID)
		return err
	})
	must(t, w.keys.Destroy(t.Context(), u.Key))
	if r, blocks, who := read(); r.Token != (clearbox.DeliveryToken{}) || r.Previous != r.Token || len(blocks) != 0 || !who.IsZero() {
		t.Errorf("after the key was destroyed: %+v, %v, %v", r, blocks, who)
	}
}

// Knocks are counted while they are open, closed by their owner alone, and
// forgotten in time.
func TestKnocks(t *testing.T) {
	w := open(t)
	alice, _ := w.user("alice")
	bob, _ := w.user("bob")
	to := clearbox.Address{Handle: "carol", Server: "b.test"}
	put := func(n int, userNo int64, to clearbox.Address) error {
		return w.Update(t.Context(), func(tx *storage.Tx) error {
			return tx.PutKnock(&storage.Knock{ID: messageID(n), UserNo: userNo, To: to, Expires: tx.Now() + 1000})
		})
	}
	must(t, put(1, alice.No, to))
	must(t, put(2, alice.No, clearbox.Address{Handle: "dave", Server: "b.test"}))
	must(t, put(3, bob.No, to))
	if err := put(1, bob.No, to); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("an id twice: %v", err)
	}
	count := func() (all, there int64) {
		w.view(func(tx *storage.Tx) (err error) {
			all, there, err = tx.OpenKnocks(alice.No, to)
			return err
		})
		return all, there
	}
	if all, there := count(); all != 2 || there != 1 {
		t.Errorf("open: %d, there %d", all, there)
	}
	w.update(func(tx *storage.Tx) error {
		if made, err := tx.KnockMade(messageID(1), alice.No, to); made != testStart || err != nil {
			t.Errorf("made at %d, %v", made, err)
		}
		if made, err := tx.KnockMade(messageID(1), bob.No, to); made != 0 || err != nil {
			t.Errorf("another's: %d, %v", made, err)
		}
		if _, err := tx.CloseKnock(bob.No, messageID(1)); err != nil {
			t.Error(err)
		}
		return nil
	})
	if all, _ := count(); all != 2 {
		t.Errorf("after another closed it: %d", all)
	}
	w.update(func(tx *storage.Tx) error {
		_, err := tx.CloseKnock(alice.No, messageID(1))
		return err
	})
	if all, there := count(); all != 1 || there != 0 {
		t.Errorf("after it was closed: %d, there %d", all, there)
	}
	w.update(func(tx *storage.Tx) error {
		return tx.SetToken(alice.No, clearbox.DeliveryToken{1}, tx.Now()+1)
	})
	w.update(func(tx *storage.Tx) error {
		return tx.SetToken(alice.No, clearbox.DeliveryToken{2}, tx.Now()+1)
	})
	w.advance(2 * time.Second)
	w.update(func(tx *storage.Tx) error {
		n, err := tx.ExpireContact(2)
		if n != 2 || err != nil {
			t.Errorf("forgotten: %d, %v", n, err)
		}
		if n, err = tx.ExpireContact(2); n != 1 || err != nil {
			t.Errorf("then: %d, %v", n, err)
		}
		if n, err = tx.ExpireContact(2); n != 0 || err != nil {
			t.Errorf("then: %d, %v", n, err)
		}
		_, err = tx.KnockMade(messageID(1), alice.No, to)
		if err != storage.ErrNotFound {
			t.Errorf("it is still there: %v", err)
		}
		r, err := tx.Reach(alice.UID)
		if r.Previous != (clearbox.DeliveryToken{}) || r.Until != 0 || r.Token != (clearbox.DeliveryToken{2}) {
			t.Errorf("the former token is kept: %+v", r)
		}
		return err
	})
}

// The knocks of one stranger, of one server and of all are counted apart, and a
// block closes those of its stranger.
func TestReceivedKnocks(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	n := 0
	put := func(who clearbox.UserID) {
		n++
		w.update(func(tx *storage.Tx) error {
			return tx.PutReceivedKnock(&storage.ReceivedKnock{ID: messageID(n), UserNo: u.No, Peer: who.Server, Stranger: who, Expires: tx.Now() + 1000})
		})
	}
	elsewhere := stranger(1)
	elsewhere.Server = "c.test"
	for _, who := range []clearbox.UserID{stranger(1), stranger(1), stranger(2), elsewhere} {
		put(who)
	}
	count := func(who clearbox.UserID, want ...int64) {
		t.Helper()
		w.view(func(tx *storage.Tx) error {
			all, from, theirs, err := tx.ReceivedKnocks(u.No, who.Server, who)
			same(t, "open", []int64{all, from, theirs}, want)
			return err
		})
	}
	count(stranger(1), 4, 3, 2)
	count(elsewhere, 4, 1, 1)
	w.update(func(tx *storage.Tx) error { return tx.Block(u.No, stranger(1)) })
	count(stranger(1), 2, 1, 0)
	count(elsewhere, 2, 1, 1)
	w.view(func(tx *storage.Tx) error {
		for who, want := range map[clearbox.UserID]bool{stranger(1): true, stranger(2): false, elsewhere: false} {
			if got, err := tx.Blocked(u.No, who); got != want || err != nil {
				t.Errorf("%v blocked: %v, %v", who, got, err)
			}
		}
		return nil
	})
	w.fails("an id twice", storage.ErrExists, func(tx *storage.Tx) error {
		return tx.PutReceivedKnock(&storage.ReceivedKnock{ID: messageID(1), UserNo: u.No, Peer: "b.test", Stranger: stranger(3)})
	})
}
