package delivery_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
)

// A peer that takes a lease learns how far its stream has come, and from then
// on nothing of an older lease is accepted.
func TestResume(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, far := w.person("alice", 1), w.stranger()
	resume := func(stream byte, fence int64) (federation.Position, error) {
		return w.router.Resume(bg, away, federation.Position{Class: federation.ClassMessage, Stream: bytes.Repeat([]byte{stream}, 16), Fence: fence})
	}
	p, err := resume(1, 5)
	must(t, err)
	if len(p.Stream) != 0 || p.Last != 0 || p.Fence != 5 {
		t.Errorf("before anything was accepted: %+v", p)
	}
	var fenced *federation.FencedError
	if _, err := w.router.Accept(bg, away, txn(1, 4, 1, peerItem(t, far, alice.user, "old", 1))); !errors.As(err, &fenced) {
		t.Errorf("an older lease: %v", err)
	}
	_, err = w.router.Accept(bg, away, txn(1, 5, 1, peerItem(t, far, alice.user, "one", 1), peerItem(t, far, alice.user, "two", 1)))
	must(t, err)
	for _, fence := range []int64{5, 6} {
		p, err = resume(2, fence)
		must(t, err)
		if !bytes.Equal(p.Stream, bytes.Repeat([]byte{1}, 16)) || p.Last != 2 || p.Fence != fence {
			t.Errorf("after two messages: %+v", p)
		}
	}
	if _, err := resume(1, 5); !errors.As(err, &fenced) || fenced.Fence != 6 {
		t.Errorf("an older lease resumes: %v", err)
	}
	if _, err := w.router.Accept(bg, away, txn(1, 5, 3, peerItem(t, far, alice.user, "late", 1))); !errors.As(err, &fenced) {
		t.Errorf("a transaction of the older lease: %v", err)
	}
}

// A lease knows the next position, and its fence is not behind the clock.
func TestLeaseAfterARestore(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.stranger()
	before := time.Now().UnixMilli()
	lease, _ := w.outbox(alice.devices[0], bob, "one", "two", "three")
	if lease.Fence < before || lease.Next != 1 {
		t.Errorf("the first lease: %+v", lease)
	}
	_, err := w.router.Take(bg, away, federation.ClassMessage, lease, 2, 1<<20)
	must(t, err)
	again, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	if again.Next != 3 || again.Fence <= lease.Fence {
		t.Errorf("the second lease: %+v after %+v", again, lease)
	}
	anew, err := w.router.Rewind(bg, away, federation.ClassMessage, again, 100)
	must(t, err)
	if anew.Next != 3 || anew.Fence <= again.Fence || bytes.Equal(anew.Stream, again.Stream) {
		t.Errorf("the new stream: %+v after %+v", anew, again)
	}
}
