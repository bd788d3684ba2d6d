package delivery_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox/storage"
)

// Each durable step fails before and after it persisted while a peer's
// transaction is taken in: the peer sends the same again, and every message is
// there once, in its order.
func TestAcceptFailureTable(t *testing.T) {
	for _, step := range []storage.FaultStep{"begin", "statement", "savepoint", "release", "commit"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", step, after), func(t *testing.T) {
				faults := &storage.Faults{}
				w := newWorld(t, worldOptions{faults: faults})
				bob, from := w.person("bob", 1), w.stranger()
				batch := txn(1, 1, 1, peerItem(t, from, bob.user, "one", 1), peerItem(t, from, bob.user, "two", 1))
				failed := false
				faults.Set(func(s storage.FaultStep, a bool, _ string) error {
					if s == step && a == after && !failed {
						failed = true
						return storage.ErrIO
					}
					return nil
				})
				_, firstErr := w.router.Accept(bg, away, batch)
				faults.Set(nil)
				answer, err := w.router.Accept(bg, away, batch)
				must(t, err)
				if answer.AcceptedThrough != 2 {
					t.Errorf("accepted through %d after %v", answer.AcceptedThrough, firstErr)
				}
				if got := w.contents(bob.devices[0], 0); !slices.Equal(got, []string{"one", "two"}) {
					t.Errorf("bob has %q after %v", got, firstErr)
				}
			})
		}
	}
}
