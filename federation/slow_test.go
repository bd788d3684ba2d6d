package federation_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// carry takes the time that n bytes need on a wire with a rate; requests under
// way at one time share it piece by piece.
func (w *world) carry(ctx context.Context, n, rate int) bool {
	const piece = 4 << 10
	for ; rate > 0 && n > 0; n -= piece {
		select {
		case w.link <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		ok := pass(ctx, time.Duration(min(n, piece))*time.Second/time.Duration(rate))
		<-w.link
		if !ok {
			return false
		}
	}
	return true
}

// sendLarge is send with content of the given size.
func (n *node) sendLarge(to clearbox.ServerName, count, size int) {
	for range count {
		r := n.outbox.add(n.name, to)
		r.item.Envelopes[0].Content = bytes.Repeat([]byte{7}, size)
	}
	n.sender.Nudge(to)
}

// A small batch that overtook a large one on a slow wire is refused with a gap
// that is stale when it is read: it is sent again, and no stream restarts.
func TestStaleGaps(t *testing.T) {
	two(t, func(w *world, a, b *node) { w.wire.rate = 200 << 10 }, func(w *world, a, b *node) {
		stream := bytes.Clone(a.outbox.stream)
		for range 5 {
			a.sendLarge("b.test", 60, 16<<10)
			wait(t, 10*time.Millisecond)
			a.send("b.test", 30)
			wait(t, 30*time.Second)
		}
		if b.acceptor.gaps == 0 {
			t.Error("nothing overtook: the test does not test")
		}
		if !bytes.Equal(a.outbox.stream, stream) {
			t.Error("the stream was restarted")
		}
		if n := b.acceptor.count(); n != 450 {
			t.Errorf("delivered %d", n)
		}
	})
}

// A wire on which a whole batch does not arrive in its time carries smaller
// ones, and whole ones again when it has recovered.
func TestSlowWires(t *testing.T) {
	for _, rate := range []int{70 << 10, 20 << 10, 4 << 10} {
		two(t, func(w *world, a, b *node) { w.wire.rate = rate }, func(w *world, a, b *node) {
			before := w.attempts()
			a.sendLarge("b.test", 128, 8<<10) // 1 MiB
			wait(t, time.Duration(2<<20/rate)*time.Second+10*time.Minute)
			if n := b.acceptor.count(); n != 128 {
				t.Errorf("%d KiB/s: delivered %d", rate>>10, n)
			}
			if n := w.attempts() - before; n > 40 {
				t.Errorf("%d KiB/s: %d attempts", rate>>10, n)
			}
			w.set(func(x *wire) { x.rate = 0 })
			a.send("b.test", 3000)
			wait(t, time.Minute)
			if last := a.outbox.batches[len(a.outbox.batches)-2]; last != federation.MaxItems {
				t.Errorf("%d KiB/s: batches of %d after the wire has recovered", rate>>10, last)
			}
		})
	}
}

// The largest item there may be takes longer on a slow wire than small ones
// are given.
func TestLargeItemOnASlowWire(t *testing.T) {
	two(t, func(w *world, a, b *node) { w.wire.rate = 20 << 10 }, func(w *world, a, b *node) {
		r := a.outbox.add("a.test", "b.test")
		r.item.Envelopes = nil
		for d := range clearbox.MaxDevices {
			r.item.Envelopes = append(r.item.Envelopes, federation.ItemEnvelope{Device: clearbox.DeviceID(d + 1), Type: 2, Content: make([]byte, clearbox.MaxContent)})
		}
		a.sender.Nudge("b.test")
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 1 {
			t.Errorf("delivered %d", n)
		}
	})
}

func TestGreetBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.test", "b.test")
		a := w.nodes["a.test"]
		w.start()
		wait(t, time.Second)
		a.stop()
		before := w.attempts()
		a.open()
		a.sender.Greet() // as a resumed peering does during the start
		a.run()
		wait(t, time.Second)
		if w.attempts() == before {
			a.cancel() // not stop: a sender that hangs would never end
			w.nodes["b.test"].stop()
			t.Fatal("nobody was greeted")
		}
		w.stop()
	})
}

// Row 26: the sender was restored from a day-old backup and gives out positions that it has
// given out before: it learns so, opens a new stream, and nothing new is taken
// for a repeat. What was under way when the backup was made may come again.
func TestThreat26RestoredSender(t *testing.T) {
	for _, pending := range []int{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a.test", "b.test")
			a, b := w.nodes["a.test"], w.nodes["b.test"]
			w.start()
			defer w.stop()
			wait(t, time.Second)
			a.send("b.test", 20)
			wait(t, time.Second)
			w.set(func(x *wire) { x.dropAnswer = 1 })
			a.send("b.test", pending)
			wait(t, time.Second)
			w.set(func(x *wire) { x.dropAnswer = 0 })
			a.stop()
			backup := a.outbox.copy()
			a.restart()
			a.send("b.test", 30)
			wait(t, 24*time.Hour)
			if n := b.acceptor.count(); n != 50+pending {
				t.Fatalf("before the restore: delivered %d", n)
			}
			a.stop()
			fence := a.outbox.fence
			a.outbox = backup
			a.outbox.fence = fence // from a clock, as a real one
			a.outbox.base += 1000
			a.restart()
			a.send("b.test", 40)
			wait(t, time.Minute)
			seen := map[clearbox.MessageID]int{}
			for _, id := range b.acceptor.delivered {
				seen[id]++
			}
			for _, r := range a.outbox.rows {
				if n := seen[r.item.ID]; n != 1 && (n != 2 || r.row <= 20) {
					t.Errorf("%d pending: row %d delivered %d times", pending, r.row, n)
				}
				if r.settled != 1 {
					t.Errorf("%d pending: row %d settled %d times", pending, r.row, r.settled)
				}
			}
			if bytes.Equal(a.outbox.stream, backup.stream) && a.outbox.stream[15] == 1 {
				t.Error("the stream was not restarted")
			}
		})
	}
}

// A peer that claims to have accepted what was never sent has the stream
// restarted, but not in a hurry.
func TestPeerThatIsAlwaysAhead(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		b.stop()
		l := &boaster{acceptor: b.acceptor}
		b.openWith(l)
		b.run()
		before := w.attempts()
		a.send("b.test", 3)
		wait(t, time.Hour)
		if n := w.attempts() - before; n > 60 {
			t.Errorf("%d attempts in an hour", n)
		}
		l.mu.Lock()
		l.honest = true
		l.mu.Unlock()
		wait(t, time.Hour)
		if n := a.outbox.unsettled(); n != 0 {
			t.Errorf("%d unsettled", n)
		}
	})
}

// boaster says that it has accepted more than it has.
type boaster struct {
	*acceptor
	honest bool // guarded by the acceptor's mu
}

func (b *boaster) Resume(ctx context.Context, peer clearbox.ServerName, own federation.Position) (federation.Position, error) {
	p, err := b.acceptor.Resume(ctx, peer, own)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.honest {
		p.Stream, p.Last = own.Stream, own.Last+1000
	}
	return p, err
}
