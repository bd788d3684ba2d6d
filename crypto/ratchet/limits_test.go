package ratchet_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

func TestOutOfOrderInOneChain(t *testing.T) {
	a, b := established(t)
	one, two, three := a.send(b, "1"), a.send(b, "2"), a.send(b, "3")
	b.read(a, three)
	b.read(a, one)
	b.read(a, two)
	for _, l := range []letter{one, two, three} {
		b.refuse(a, l, ratchet.ErrDuplicate)
	}
}

// turnChains lets both ends speak in turn, so that a begins n new chains.
func turnChains(a, b *end, n int) {
	for range n {
		a.read(b, b.send(a, "turn"))
		b.read(a, a.send(b, "turn"))
	}
}

func TestFiveReceivingChains(t *testing.T) {
	a, b := established(t)
	b.read(a, a.send(b, "opens the chain"))
	old := a.send(b, "late")
	turnChains(a, b, 4)
	copyOf := b.store.Clone()
	b.read(a, old) // the chain is the oldest of five
	b.store = copyOf
	turnChains(a, b, 1)
	b.refuse(a, old, ratchet.ErrMAC) // the sixth-last
	b.read(a, a.send(b, "still fine"))
}

func TestFiveReceivingChainsLifted(t *testing.T) {
	a, b := established(t)
	b.setLimits(ratchet.Limits{ReceivingChains: ratchet.Lifted})
	b.read(a, a.send(b, "opens the chain"))
	old := a.send(b, "late")
	turnChains(a, b, 12)
	b.read(a, old)
}

func TestJump24999Passes25000Fails(t *testing.T) {
	a, b := established(t)
	kept := []letter{a.send(b, "0")}
	a.lose(b, 24_998)
	kept = append(kept, a.send(b, "24,999"), a.send(b, "25,000"))
	b.refuse(a, kept[2], ratchet.ErrJump) // 25,000 passed over
	afterRefusal := b.store.Clone()
	b.read(a, kept[1]) // 24,999 passed over
	b.read(a, kept[2])
	b.refuse(a, kept[0], ratchet.ErrDuplicate) // its key is no longer kept
	b.store = afterRefusal
	b.read(a, kept[0]) // the refused jump changed nothing
}

func TestSelfSessionHasNoJumpLimit(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "alice", 2)
	device := *b.device
	device.Identity = a.device.Identity
	b.device = &device
	a.initiate(b, b.bundle(1, true, false))
	b.read(a, a.send(b, "first"))
	a.read(b, b.send(a, "answer"))
	a.lose(b, 25_000)
	b.read(a, a.send(b, "far ahead"))
}

func TestSkipped2000KeysAreKept(t *testing.T) {
	for _, c := range []struct {
		gap  int
		want error
	}{{2_000, nil}, {2_001, ratchet.ErrDuplicate}} {
		t.Run(fmt.Sprint(c.gap), func(t *testing.T) {
			a, b := established(t)
			first := a.send(b, "first skipped")
			second := a.send(b, "second skipped")
			a.lose(b, c.gap-2)
			b.read(a, a.send(b, "ahead"))
			if c.want == nil {
				b.read(a, first)
			} else {
				b.refuse(a, first, c.want)
			}
			b.read(a, second)
		})
	}
}

func TestSkippedKeysAddUpTo2000(t *testing.T) {
	a, b := established(t)
	early := a.send(b, "early")
	a.lose(b, 1_500)
	b.read(a, a.send(b, "ahead"))
	middle := a.send(b, "middle")
	a.lose(b, 1_500)
	b.read(a, a.send(b, "further ahead"))
	stored, err := b.store.Session(a.address())
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := ratchet.KeptKeys(stored); err != nil || kept[len(kept)-1] != 2_000 {
		t.Fatalf("%v keys kept, %v", kept, err)
	}
	b.refuse(a, early, ratchet.ErrDuplicate)
	b.read(a, middle)
}

func TestArchivedSessions40(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	var late []letter
	// 42 sessions: one is current, 40 are archived, the oldest is gone.
	for i := range 42 {
		a.initiate(b, b.bundle(uint32(i+1), true, false))
		b.read(a, a.send(b, "begin"))
		late = append(late, b.send(a, fmt.Sprint("late ", i)))
	}
	if info := inspect(t, a, b); info.Archived != 40 {
		t.Fatalf("%d archived", info.Archived)
	}
	a.refuse(b, late[0], ratchet.ErrMAC)
	a.read(b, late[1]) // the oldest kept is found, and becomes the current one
	if info := inspect(t, a, b); info.Archived != 40 || info.Unacknowledged {
		t.Fatalf("%+v", info)
	}
	for _, l := range late[2:] {
		a.read(b, l)
	}
}

func TestUnacknowledged30Days(t *testing.T) {
	a, b := newEnd(t, "alice", 1), newEnd(t, "bob", 1)
	a.initiate(b, b.bundle(1, true, false))
	start := a.now
	first := a.send(b, "first")
	a.now = start.Add(30 * 24 * time.Hour)
	if l := a.send(b, "on the last day"); l.Type != ratchet.TypePreKey {
		t.Fatalf("type %d", l.Type)
	}
	a.now = start.Add(31 * 24 * time.Hour)
	if _, err := a.device.Encrypt(a.store, a.now, b.address(), []byte("x")); err == nil || inspect(t, a, b).Usable {
		t.Fatal("an unanswered session was used after 31 days")
	}
	// An answer makes it usable for good.
	b.read(a, first)
	a.read(b, b.send(a, "answer"))
	a.now = start.Add(300 * 24 * time.Hour)
	b.read(a, a.send(b, "much later"))
}

func TestPlaintextSizes(t *testing.T) {
	a, b := established(t)
	for _, n := range []int{0, 1, 15, 16, 17, 4096, ratchet.MaxPlaintext} {
		b.read(a, a.send(b, string(bytes.Repeat([]byte{'p'}, n))))
	}
	before := a.store.Applied()
	if _, err := a.device.Encrypt(a.store, a.now, b.address(), make([]byte, ratchet.MaxPlaintext+1)); err != ratchet.ErrTooLong {
		t.Fatal(err)
	}
	if a.store.Applied() != before {
		t.Fatal("refused but stored")
	}
}

func TestDeviceIDRange(t *testing.T) {
	a, b := established(t)
	for _, id := range []uint8{0, 128, 255} {
		peer := ratchet.AddressOf(keys.AccountServiceID("bob"), id)
		if _, err := a.device.Encrypt(a.store, a.now, peer, nil); err != ratchet.ErrAddressRange {
			t.Errorf("device %d: %v", id, err)
		}
	}
	_ = b
}
