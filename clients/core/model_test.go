package core_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/clearbox-im/clearbox/clients/core"
)

// TestModel lets two people talk through random faults: networks that come and
// go, requests and answers that get lost, processes that die at any write. The
// model is two lists of texts: each side hears exactly the other's list.
func TestModel(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // a run is long; ask for more by the flag
		if err := f.Value.Set(fmt.Sprint(rounds(30, 3))); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		type step struct{ who, what, n int }
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{rapid.IntRange(0, 1).Draw(t, "who"), rapid.IntRange(0, 6).Draw(t, "what"), rapid.IntRange(1, 12).Draw(t, "n")}
		}), 1, 25).Draw(rt, "steps")
		problem := ""
		synctest.Test(t, func(t *testing.T) {
			w, ada, bob := pair(t)
			ada.contact("bob@b.test")
			bob.contact("ada@a.test")
			people := []*person{ada, bob}
			stops := []func(){ada.supervise(), bob.supervise()}
			said := make([][]string, 2)
			faults := 0
			kinds := []string{"lost", "unheard"}
			w.setFault(func(_, path string) string {
				if faults > 0 && path != "/auth/refresh" {
					faults--
					return kinds[faults%2]
				}
				return ""
			})
			for i, s := range steps {
				p, other := people[s.who], people[1-s.who]
				switch s.what {
				case 0, 1, 2:
					text := fmt.Sprint(i)
					p.say(other, text)
					said[s.who] = append(said[s.who], text)
				case 3:
					p.net.setAway(s.n%2 == 0)
				case 4:
					w.faultMu.Lock()
					faults = s.n
					w.faultMu.Unlock()
				case 5: // a process that will die at its n-th write from now on
					stops[s.who]()
					p.vault = &crashVault{inner: p.store, at: s.n, after: s.n%2 == 0}
					restartMu.Lock()
					p.open()
					restartMu.Unlock()
					stops[s.who] = p.supervise()
				case 6:
					settle(time.Duration(s.n*s.n) * time.Second)
				}
			}
			for _, p := range people {
				p.net.setAway(false)
			}
			settle(10 * time.Minute)
			for i, p := range people {
				stops[i]()
				p.reopen()
				if heard := p.heard(people[1-i]); !slices.Equal(heard, said[1-i]) {
					problem = fmt.Sprintf("%s heard %q, and %q was said", p.name, heard, said[1-i])
				}
				lines, err := p.brain.Messages(ctx, people[1-i].user, 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range lines {
					if m.Outgoing && m.State != core.StateDelivered && m.State != core.StateAtPeer {
						problem = fmt.Sprintf("%q is %s (%s)", m.Text, m.State, m.Reason)
					}
				}
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}
