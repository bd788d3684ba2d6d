package storage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

func TestStreams(t *testing.T) {
	w := open(t)
	const peer = "b.test"
	w.update(func(tx *storage.Tx) error {
		o, err := tx.OutStream(peer, storage.ClassMessage)
		same(t, "none yet", o, storage.OutStream{NextPos: 1})
		for want := range int64(2) {
			o, err = tx.BumpFence(peer, storage.ClassMessage)
			same(t, "fence", o.Fence, want+1)
		}
		o.Stream, o.NextPos = []byte("epoch"), 5
		must(t, tx.SetOutStream(peer, storage.ClassMessage, o))
		got, _ := tx.OutStream(peer, storage.ClassMessage)
		same(t, "stream", got, o)
		in := storage.InStream{Stream: []byte("theirs"), LastPos: 9, Fence: 2}
		must(t, tx.SetInStream(peer, storage.ClassMessage, in))
		for i := range int64(20) {
			must(t, tx.PutAnswer(peer, storage.ClassMessage, in.Stream, i, 3, []byte(fmt.Sprint(i))))
		}
		gotIn, _ := tx.InStream(peer, storage.ClassMessage)
		same(t, "in", gotIn, in)
		return err
	})
	w.view(func(tx *storage.Tx) error {
		for i := range int64(20) {
			a, n, err := tx.Answer(peer, storage.ClassMessage, []byte("theirs"), i)
			if i < 12 {
				same(t, "an old answer", err, storage.ErrNotFound)
			} else if string(a) != fmt.Sprint(i) || n != 3 || err != nil {
				t.Errorf("answer %d: %q %d %v", i, a, n, err)
			}
		}
		if _, _, err := tx.Answer(peer, storage.ClassMessage, []byte("other"), 19); err != storage.ErrNotFound {
			t.Error("an answer of another stream")
		}
		return nil
	})
}

func TestPeers(t *testing.T) {
	w := open(t)
	p := storage.Peer{
		Server: "b.test", State: storage.PeerActive, Pin: []byte("pin"), Identity: []byte("id"), Document: []byte("doc"), Seq: 3,
		Endpoints: []string{"https://h.b.test:8448"}, Country: "DE", AllowPrivate: true, Direction: "both", ClockOffset: -1500,
		LastSeen: 1, LastTry: 2, Failures: 4, NextTry: 5, LastError: clearbox.CodePeerUnreachable, Trouble: "dns", Since: 2,
		FirstUse: true, ProbationUntil: 6, Features: []string{"presence"}, Envelopes: 10, Bytes: 1 << 20, StateSince: 7,
		Steps: []storage.PeerStep{{Name: "traffic", Done: 8}, {Name: "queue"}},
	}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.PutPeer(&p))
		p.Failures = 0
		return tx.PutPeer(&p)
	})
	w.view(func(tx *storage.Tx) error {
		got, err := tx.Peer("b.test")
		must(t, err)
		same(t, "peer", got, p)
		ps, err := tx.Peers()
		same(t, "peers", ps, []storage.Peer{p})
		return err
	})
	w.update(func(tx *storage.Tx) error { return tx.DeletePeer("b.test") })
	w.fails("gone", storage.ErrNotFound, func(tx *storage.Tx) error { return tx.DeletePeer("b.test") })
	w.update(func(tx *storage.Tx) error {
		return tx.PutPeerInvite(storage.PeerInvite{Hash: []byte("h"), Server: "c.test", Country: "AT", Expires: tx.Now() + 1000})
	})
	for _, want := range []error{nil, storage.ErrNotFound} {
		same(t, "use", w.Update(t.Context(), func(tx *storage.Tx) error {
			v, err := tx.UsePeerInvite([]byte("h"))
			if err == nil && (v.Server != "c.test" || v.Country != "AT") {
				t.Errorf("%+v", v)
			}
			return err
		}), want)
	}
	w.update(func(tx *storage.Tx) error {
		for hash, server := range map[string]clearbox.ServerName{"1": "c.test", "2": "c.test", "3": "d.test"} {
			if err := tx.PutPeerInvite(storage.PeerInvite{Hash: []byte(hash), Server: server, Country: "AT", Expires: tx.Now() + 1000}); err != nil {
				return err
			}
		}
		return tx.DeletePeerInvites("c.test")
	})
	for hash, want := range map[string]error{"1": storage.ErrNotFound, "2": storage.ErrNotFound, "3": nil} {
		same(t, "withdrawn", w.Update(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.UsePeerInvite([]byte(hash))
			return err
		}), want)
	}
}

func TestRemoteUsers(t *testing.T) {
	w := open(t)
	bob := clearbox.UserID{UID: "bbbbbbbbbbbbbbbbbbbbbbbbba", Server: "b.test"}
	eve := clearbox.UserID{UID: "eeeeeeeeeeeeeeeeeeeeeeeeea", Server: "b.test"}
	addr := clearbox.Address{Handle: "bob", Server: "b.test"}
	u := storage.RemoteUser{User: bob, Handle: "bob", DeviceList: []byte("list"), Version: 4, Fetched: 9}
	w.update(func(tx *storage.Tx) error { return tx.PutRemoteUser(&u) })
	w.view(func(tx *storage.Tx) error {
		got, err := tx.RemoteUser(bob)
		must(t, err)
		same(t, "by id", got, u)
		got, err = tx.RemoteUserByAddress(addr)
		must(t, err)
		same(t, "by address", got, u)
		_, err = tx.RemoteUser(eve)
		same(t, "unknown", err, storage.ErrNotFound)
		return nil
	})
	// The address moves to another person.
	w.update(func(tx *storage.Tx) error {
		return tx.PutRemoteUser(&storage.RemoteUser{User: eve, Handle: "bob", Version: 1})
	})
	w.view(func(tx *storage.Tx) error {
		got, err := tx.RemoteUserByAddress(addr)
		same(t, "whose address", got.User, eve)
		return err
	})
	w.update(func(tx *storage.Tx) error { return tx.DeleteRemoteUser(bob) })
	w.fails("gone", storage.ErrNotFound, func(tx *storage.Tx) error { return tx.DeleteRemoteUser(bob) })
}

func TestArchive(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	other, _ := w.user("bob")
	add := func(no int64, ids ...string) {
		w.update(func(tx *storage.Tx) error {
			var items []storage.ArchiveItem
			for _, id := range ids {
				items = append(items, storage.ArchiveItem{ID: id, Conversation: []byte("c"), Body: []byte("body of " + id)})
			}
			return tx.AddArchive(no, items)
		})
	}
	page := func(no, cursor int64, limit int, forward bool) (ids string) {
		w.view(func(tx *storage.Tx) error {
			items, err := tx.Archive(no, cursor, limit, forward)
			for _, it := range items {
				ids += it.ID
				if string(it.Body) != "body of "+it.ID {
					t.Errorf("body %q", it.Body)
				}
			}
			return err
		})
		return ids
	}
	size := func() (n, bytes int64) {
		w.view(func(tx *storage.Tx) (err error) {
			n, bytes, err = tx.ArchiveSize(u.No)
			return err
		})
		return n, bytes
	}
	add(u.No, "a", "b", "c")
	add(u.No, "b", "d") // b is repeated
	add(other.No, "z")
	same(t, "forward", page(u.No, 0, 3, true), "abc")
	same(t, "on", page(u.No, 3, 3, true), "d")
	same(t, "backward", page(u.No, 0, 2, false), "dc")
	same(t, "further", page(u.No, 3, 9, false), "ba")
	n, bytes := size()
	same(t, "size", [2]int64{n, bytes}, [2]int64{4, 4 * 10})
	w.update(func(tx *storage.Tx) error {
		n, err := tx.DeleteArchive(u.No, []string{"b", "none"})
		same(t, "deleted", n, 1)
		return err
	})
	same(t, "without b", page(u.No, 0, 9, true), "acd")
	add(u.No, "e")
	w.update(func(tx *storage.Tx) error {
		n, err := tx.DeleteArchive(u.No, nil)
		same(t, "deleted", n, 4)
		return err
	})
	n, bytes = size()
	same(t, "empty", [2]int64{n, bytes}, [2]int64{0, 0})
	same(t, "the other's", page(other.No, 0, 9, true), "z")
}

func TestServerState(t *testing.T) {
	w := open(t)
	w.fails("nothing yet", storage.ErrNotFound, func(tx *storage.Tx) error { _, err := tx.ServerState("k"); return err })
	for _, v := range []string{"one", "two"} {
		w.update(func(tx *storage.Tx) error { return tx.SetServerState("k", []byte(v)) })
		w.view(func(tx *storage.Tx) error {
			got, err := tx.ServerState("k")
			same(t, "value", string(got), v)
			return err
		})
	}
}

func TestSealedPayload(t *testing.T) {
	w := open(t)
	alice, _ := w.user("alice")
	bob, _ := w.user("bob")
	random := strings.NewReader(strings.Repeat("0123456789abcdef", 2))
	ad := []byte("message/1")
	p, err := storage.SealPayload(w.keys, random, alice.Key, ad, []byte("hello"))
	must(t, err)
	plain, err := storage.OpenPayload(w.keys, alice.Key, ad, p)
	same(t, "opened", []any{string(plain), err}, []any{"hello", error(nil)})
	for name, open := range map[string]func() ([]byte, error){
		"another envelope": func() ([]byte, error) { return storage.OpenPayload(w.keys, alice.Key, []byte("message/2"), p) },
		"another person":   func() ([]byte, error) { return storage.OpenPayload(w.keys, bob.Key, ad, p) },
		"altered": func() ([]byte, error) {
			return storage.OpenPayload(w.keys, alice.Key, ad, storage.Sealed{Payload: append([]byte{1}, p.Payload...), Wrapped: p.Wrapped})
		},
		"nobody": func() ([]byte, error) { return storage.OpenPayload(w.keys, storage.KeyID{}, ad, p) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: it opened", name)
		}
	}
	if _, err := storage.SealPayload(w.keys, random, alice.Key, ad, nil); err == nil {
		t.Error("sealed without randomness")
	}
	wrapped, err := storage.Rewrap(w.keys, alice.Key, bob.Key, ad, p.Wrapped)
	must(t, err)
	must(t, w.keys.Destroy(t.Context(), alice.Key))
	if _, err := storage.OpenPayload(w.keys, alice.Key, ad, p); !errors.Is(err, storage.ErrShredded) {
		t.Errorf("after the key was destroyed: %v", err)
	}
	plain, err = storage.OpenPayload(w.keys, bob.Key, ad, storage.Sealed{Payload: p.Payload, Wrapped: wrapped})
	same(t, "the second owner", []any{string(plain), err}, []any{"hello", error(nil)})
}

// TestOutboxRuns: rows of one queue need not be consecutive, and a range
// touches none that was not asked for.
func TestOutboxRuns(t *testing.T) {
	w := open(t)
	const class = storage.ClassMessage
	stream := []byte("epoch")
	var rows, others []int64
	w.update(func(tx *storage.Tx) error {
		rows, others = nil, nil
		must(t, tx.SetOutStream("b.test", class, storage.OutStream{Stream: stream, NextPos: 1}))
		for _, peer := range []clearbox.ServerName{"b.test", "b.test", "c.test", "b.test", "c.test", "b.test", "b.test", "b.test"} {
			it := &storage.OutboxItem{Peer: peer, Class: class, Sealed: storage.Sealed{Payload: []byte("12345")}, Expires: tx.Now() + 1000}
			must(t, tx.PutOutbox(it))
			if peer == "b.test" {
				rows = append(rows, it.Row)
			} else {
				others = append(others, it.Row)
			}
		}
		return nil
	})
	w.fails("a row of another queue", storage.ErrNotFound, func(tx *storage.Tx) error {
		return tx.AssignPositions("b.test", class, stream, 1, []int64{rows[0], rows[1], others[0]})
	})
	w.update(func(tx *storage.Tx) error { return tx.AssignPositions("b.test", class, stream, 1, rows) })
	w.fails("dispatched before", storage.ErrNotFound, func(tx *storage.Tx) error {
		return tx.AssignPositions("b.test", class, stream, 7, rows[4:])
	})
	w.update(func(tx *storage.Tx) error {
		its, err := tx.OutboxHeads(append([]int64{others[1]}, rows...))
		for i, it := range its {
			same(t, "position", it.Pos, int64(i)) // the other queue's item has none
		}
		same(t, "items", len(its), 7)
		must(t, err)
		return tx.DeleteOutbox(append(rows[1:], rows[1]))
	})
	w.view(func(tx *storage.Tx) error {
		n, bytes, err := tx.OutboxSize("b.test", class)
		same(t, "what is left", []int64{n, bytes}, []int64{1, 5})
		must(t, err)
		n, bytes, err = tx.OutboxSize("c.test", class)
		same(t, "the neighbour's", []int64{n, bytes}, []int64{2, 10})
		left, _ := tx.OutboxRows(append(rows, others...))
		same(t, "rows", len(left), 3)
		return err
	})
}

// TestOutQueue: what is put in one go is held, marked and counted as if it were
// put one by one, and the states of a whole batch change together.
func TestOutQueue(t *testing.T) {
	w := open(t)
	const class = storage.ClassMessage
	stream := []byte("epoch")
	item := func(hold string, id byte) *storage.OutboxItem {
		return &storage.OutboxItem{SenderNo: 7, MessageID: clearbox.MessageID{id}, Sealed: storage.Sealed{Payload: []byte("12345")}, Expires: testStart * 2, HoldKey: []byte(hold)}
	}
	until := clearbox.Millis(testStart) * 2
	var rows []int64
	put := func(items ...*storage.OutboxItem) {
		w.update(func(tx *storage.Tx) error {
			q, err := tx.OutQueue("b.test", class)
			must(t, err)
			before, _ := q.Size()
			for i, it := range items {
				must(t, q.Put(it))
				n, _ := q.Size()
				same(t, "size on the way", n, before+int64(i)+1)
			}
			must(t, q.Close())
			return q.Close() // counts once
		})
		for _, it := range items {
			rows = append(rows, it.Row)
		}
	}
	put(item("bob", 1), item("carol", 2))
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetOutStream("b.test", class, storage.OutStream{Stream: stream, NextPos: 1}))
		return tx.DeferOutbox(rows[:1], until)
	})
	put(item("bob", 3), item("carol", 4))
	w.update(func(tx *storage.Tx) error {
		its, err := tx.OutboxRows(rows)
		must(t, err)
		for i, want := range []clearbox.Millis{until, 0, until, 0} {
			same(t, "held", its[i].DeferredUntil, want)
		}
		for i := range byte(5) {
			must(t, tx.PutSubmission(&storage.Submission{UserNo: 7, ID: clearbox.MessageID{i + 1}, Expires: until}))
		}
		must(t, tx.PutSubmission(&storage.Submission{UserNo: 8, ID: clearbox.MessageID{2}, Expires: until}))
		must(t, tx.ForgetSubmission(7, clearbox.MessageID{3}))
		_, err = tx.SetOutboxTaken(rows[1:])
		return err
	})
	w.view(func(tx *storage.Tx) error {
		states, err := tx.SubmissionStates(7, []clearbox.MessageID{{1}, {2}, {3}, {4}, {5}})
		same(t, "states", states, map[clearbox.MessageID]storage.SubmissionState{
			{1}: storage.SubmissionAccepted, {2}: storage.SubmissionAtPeer, {4}: storage.SubmissionAtPeer, {5}: storage.SubmissionAccepted,
		})
		must(t, err)
		states, err = tx.SubmissionStates(8, []clearbox.MessageID{{2}})
		same(t, "another sender's", states[clearbox.MessageID{2}], storage.SubmissionAccepted)
		return err
	})
	other := item("bob", 9)
	other.Peer, other.Class = "c.test", class
	w.update(func(tx *storage.Tx) error { return tx.PutOutbox(other) })
	w.update(func(tx *storage.Tx) error { return tx.DeleteOutbox(append(rows[2:], other.Row)) }) // one stretch, two queues
	w.view(func(tx *storage.Tx) error {
		for peer, want := range map[clearbox.ServerName]int64{"b.test": 2, "c.test": 0} {
			n, bytes, err := tx.OutboxSize(peer, class)
			must(t, err)
			same(t, string(peer), []int64{n, bytes}, []int64{want, 5 * want})
		}
		return nil
	})
}
