package federation_test

import (
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func circuits(c *federation.Client, peer clearbox.ServerName) map[federation.Circuit]federation.OpenCircuit {
	out := map[federation.Circuit]federation.OpenCircuit{}
	for _, o := range c.Open(peer) {
		out[o.Circuit] = o
	}
	return out
}

// Each circuit opens by its own failures only. Of many who ask at once while it
// is open one goes out.
func TestCircuitsAreSeparate(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		bob := clearbox.UserID{UID: knownUID, Server: "b.test"}
		if got := circuits(a.client, "b.test"); len(got) != 0 {
			t.Fatalf("open at the start: %v", got)
		}
		w.set(func(x *wire) { x.cut = true })
		a.send("b.test", 1)
		wait(t, time.Hour)
		got := circuits(a.client, "b.test")
		if len(got) != 1 || got[federation.CircuitTxn].Since.IsZero() || !got[federation.CircuitTxn].Until.After(time.Now()) {
			t.Fatalf("after an hour of a queue that fails: %v", got)
		}
		before := w.attempts()
		for range 3 {
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if _, err := a.client.Devices(w.t.Context(), bob); clearbox.CodeOf(err) != clearbox.CodePeerUnreachable {
						t.Errorf("%v", err)
					}
				})
			}
			all.Wait()
			time.Sleep(10 * time.Second)
		}
		// The first twenty found the circuit closed.
		if n := w.attempts() - before; n > 24 {
			t.Errorf("%d attempts for three times twenty questions", n)
		}
		if got := circuits(a.client, "b.test"); got[federation.CircuitClaim].Since.IsZero() {
			t.Errorf("after questions that failed: %v", got)
		}
		w.set(func(x *wire) { x.cut = false })
		time.Sleep(10 * time.Second)
		if _, err := a.client.Devices(w.t.Context(), bob); err != nil {
			t.Fatal(err)
		}
		if got := circuits(a.client, "b.test"); len(got) != 1 || got[federation.CircuitTxn].Since.IsZero() {
			t.Errorf("a question that was answered touched another circuit: %v", got)
		}
		a.sender.Retry("b.test")
		wait(t, time.Second)
		if got := circuits(a.client, "b.test"); len(got) != 0 {
			t.Errorf("open at the end: %v", got)
		}
	})
}
