package servertest_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/servertest"
)

// Row 26: a homeserver is put back to what it was some messages ago. Its peer has
// accepted positions that it does not remember: what is sent from then on must
// not be taken for repeats of what was sent before.
func TestThreat26RestoreOfASendersServer(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		var want []string
		say := func(what string, count int) {
			for i := range count {
				want = append(want, fmt.Sprintf("%s %d", what, i))
				alice.Say(bob, want[len(want)-1])
			}
			w.Wait("bob has "+what, 5*time.Minute, func() bool { return len(bob.Heard(alice)) >= len(want) })
		}
		a := w.House("a.test")
		say("before", 3)
		bob.Say(alice, "hello")
		w.Wait("alice has the answer", time.Minute, func() bool { return len(alice.Heard(bob)) == 1 })
		a.Stop()
		restore := a.Backup()
		a.Start()
		say("between", 20)
		a.Stop()
		restore()
		a.Start()
		say("after", 12)
		time.Sleep(time.Minute) // for what would come twice
		if got := bob.Heard(alice); !slices.Equal(got, want) {
			t.Errorf("bob has %q", got)
		}
		bob.Say(alice, "hello again")
		w.Wait("alice has what bob says", 5*time.Minute, func() bool { return slices.Contains(alice.Heard(bob), "hello again") })
	})
}
