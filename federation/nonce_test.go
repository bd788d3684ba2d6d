package federation_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func TestNonces(t *testing.T) {
	n := federation.NewNonces(100)
	now := base
	use := func(peer clearbox.ServerName, kid string, i uint64) federation.Fault {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], i)
		err := n.Use(peer, kid, b[:], now.Add(180*time.Second), now)
		var p *federation.ProfileError
		if err != nil && !errors.As(err, &p) {
			t.Fatal(err)
		}
		if p == nil {
			return ""
		}
		return p.Fault
	}
	for i := range uint64(100) {
		if f := use("a.test", "k", i); f != "" {
			t.Fatalf("nonce %d: %s", i, f)
		}
		now = now.Add(time.Second)
	}
	if f := use("a.test", "k", 5); f != federation.FaultReplay {
		t.Errorf("a repeat: %q", f)
	}
	if f := use("a.test", "k", 100); f != federation.FaultNonceFull {
		t.Errorf("a full cache must refuse: %q", f)
	}
	if f := use("a.test", "k", 5); f != federation.FaultReplay {
		t.Errorf("a full cache forgot a live nonce: %q", f)
	}
	if f := use("b.test", "k", 5); f != "" {
		t.Errorf("one peer filled another's cache: %q", f)
	}
	now = now.Add(115 * time.Second) // the first ones are over, with the slack of a slot
	if f := use("a.test", "other", 99); f != "" {
		t.Errorf("another key's nonce, room again: %q", f)
	}
	if f := use("a.test", "k", 99); f != federation.FaultReplay {
		t.Errorf("a live nonce: %q", f)
	}
}

// What is beyond a quota takes no room in the cache, may come again, and is
// then done once.
func TestNoncesAboveQuota(t *testing.T) {
	two(t, nil, func(_ *world, a, b *node) {
		const room, burst = 60, 50 // the claims that may come at once
		b.inbox.Store(federation.NewInbox(b.self, b.client, b.acceptor, b.dir, federation.InboxOptions{Now: b.now, MaxNonces: room}))
		c := newCaptured(t, a, b)
		c.body = []byte{0xa0}
		c.r.URL.Path = federation.PathClaim
		count := map[clearbox.Code]int{}
		for range 4 * room {
			time.Sleep(time.Millisecond) // another nonce
			c.sign(t, time.Now())
			count[problemCode(t, c.deliver())]++
		}
		if count[clearbox.CodeRateLimited] < 4*room-burst-5 || count[clearbox.CodeBadRequest] < burst {
			t.Fatalf("%v: the quota was not what refused", count)
		}
		for range 2 {
			if code := problemCode(t, c.deliver()); code != clearbox.CodeRateLimited {
				t.Errorf("once more, beyond the quota: %s", code)
			}
		}
		time.Sleep(10 * time.Second)
		for i, want := range []clearbox.Code{clearbox.CodeBadRequest, clearbox.CodeReplay} {
			if code := problemCode(t, c.deliver()); code != want {
				t.Errorf("within the quota, time %d: %s, want %s", i+1, code, want)
			}
		}
	})
}
