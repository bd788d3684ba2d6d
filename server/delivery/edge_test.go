package delivery_test

import (
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/delivery"
)

// At the edge of a peer's queue each message is either queued, which its sender
// was told, or refused: what was promised is what goes out.
func TestNothingIsLostAtTheEdgeOfABacklog(t *testing.T) {
	const room = 20
	w := newWorld(t, worldOptions{Options: delivery.Options{PeerQueueItems: room}})
	alice, bob, far := w.person("alice", 1), w.person("bob", 1), w.stranger()
	var mu sync.Mutex
	promised := map[clearbox.MessageID]bool{}
	delayed, refused := 0, 0
	var all sync.WaitGroup
	for i := range 3 * room {
		from := []person{alice, bob}[i%2].devices[0]
		id := newID(t)
		all.Go(func() {
			receipt, err := w.send(from, id, to(far, "hello", 1))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				promised[id] = true
				if receipt.Status == delivery.StatusDelayed {
					delayed++
				}
			case clearbox.CodeOf(err) == clearbox.CodePeerBacklogFull:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(promised)+refused != 3*room || refused == 0 || delayed == 0 {
		t.Errorf("%d promised, %d of them delayed, %d refused", len(promised), delayed, refused)
	}
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, federation.MaxItems, 1<<20)
	must(t, err)
	for _, it := range batch.Items {
		if !promised[it.ID] {
			t.Error("a refused message goes out")
		}
	}
	if len(batch.Items) != len(promised) || len(promised) != room {
		t.Errorf("%d go out, %d were promised, room for %d", len(batch.Items), len(promised), room)
	}
}
