package peering_test

import (
	"fmt"
	"testing"

	"github.com/clearbox-im/clearbox/storage"
)

// Each durable step fails before and after it persisted, at either server,
// while they become peers: the same token again completes the peering.
func TestHandshakeFailureTable(t *testing.T) {
	for _, step := range []storage.FaultStep{"begin", "statement", "commit"} {
		for _, after := range []bool{false, true} {
			for _, inviter := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/after=%v/inviter=%v", step, after, inviter), func(t *testing.T) {
					bubble(t, func(t *testing.T, _ *lab, a, b *site) {
						inv := a.invite("b.test")
						broken := b
						if inviter {
							broken = a
						}
						failed := false
						broken.faults.Set(func(s storage.FaultStep, late bool, _ string) error {
							if s == step && late == after && !failed {
								failed = true
								return storage.ErrIO
							}
							return nil
						})
						_, firstErr := b.accept(inv.Token)
						broken.faults.Set(nil)
						if !failed {
							t.Fatal("nothing failed")
						}
						if _, err := b.accept(inv.Token); err != nil {
							t.Errorf("again: %v, after %v", err, firstErr)
						}
						if a.state("b.test") != storage.PeerActive || b.state("a.test") != storage.PeerActive {
							t.Errorf("a: %q, b: %q, after %v", a.state("b.test"), b.state("a.test"), firstErr)
						}
					})
				})
			}
		}
	}
}
