package delivery_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
)

// What a message to 100 members costs from submission to the last
// acknowledgement; one delivery is a hundredth of it.
func BenchmarkGroup(b *testing.B) {
	w, c := groupWorld(b, worldOptions{})
	alice := w.person("alice", 1)
	m := many{text: "to all"}
	c.set(delivery.MemberActive, alice.user)
	var boxes []auth.Principal
	for i := range 100 {
		p := w.person(fmt.Sprintf("m%d", i), 1)
		c.set(delivery.MemberActive, p.user)
		m = m.with(p.user, 1)
		boxes = append(boxes, p.devices[0])
	}
	var done, readers sync.WaitGroup
	var wakes []chan struct{}
	for _, p := range boxes {
		box := w.router.Mailbox(p)
		wake := make(chan struct{}, 1)
		box.OnWake(func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		wakes = append(wakes, wake)
		readers.Go(func() {
			after := int64(0)
			for range wake {
				ds, err := box.Read(bg, after, 256, 1<<20)
				if err != nil {
					b.Error(err)
				}
				for range ds {
					done.Done()
				}
				if len(ds) > 0 {
					after = ds[len(ds)-1].Seq
					if err := box.Ack(bg, after); err != nil {
						b.Error(err)
					}
				}
			}
			box.Close()
		})
	}
	b.ResetTimer()
	for range b.N {
		done.Add(100)
		if _, err := w.sendMany(alice.devices[0], newID(b), c.ref(), m); err != nil {
			b.Fatal(err)
		}
		done.Wait()
	}
	b.StopTimer()
	for _, wake := range wakes {
		close(wake)
	}
	readers.Wait()
}
