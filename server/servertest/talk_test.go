package servertest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

var two = []clearbox.ServerName{"a.test", "b.test"}

func TestTwoOrganisationsTalk(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		id := alice.Say(bob, "hello from a quiet lake")
		took := w.Wait("bob has it", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		t.Logf("first message after %v", took)
		bob.Say(alice, "and hello from the shore")
		w.Wait("alice has the answer", time.Minute, func() bool { return len(alice.Heard(bob)) == 1 })
		w.Wait("delivered", time.Minute, func() bool { s, _ := alice.State(id); return s == core.StateDelivered })
		figures := w.House("a.test").Figures()
		for _, line := range []string{`clearbox_fed_requests_total{outcome="failed",proto="h2"} 0`, `clearbox_fed_requests_total{outcome="answered",proto="h3"} 0`, "clearbox_panics_total 0"} {
			if !strings.Contains(figures, "\n"+line+"\n") {
				t.Errorf("the figures do not say %s", line)
			}
		}
		if strings.Contains(figures, `clearbox_fed_requests_total{outcome="answered",proto="h2"} 0`) || strings.Contains(figures, `clearbox_fed_served_total{proto="h2"} 0`) {
			t.Error("no request to or of the peer is counted")
		}
	})
}

func TestTalkSurvivesPartitionAndRestart(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		alice.Say(bob, "the first of them all")
		w.Wait("bob has one", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })

		w.Partition("a.test", "b.test")
		for i := range 20 {
			alice.Say(bob, fmt.Sprintf("while apart %d", i))
			bob.Say(alice, fmt.Sprintf("also apart %d", i))
		}
		time.Sleep(time.Hour)
		if n := len(bob.Heard(alice)); n != 1 {
			t.Errorf("%d messages crossed a cut wire", n)
		}
		w.Heal("a.test", "b.test")
		took := w.Wait("all arrived", 16*time.Minute, func() bool { return len(bob.Heard(alice)) == 21 && len(alice.Heard(bob)) == 20 })
		t.Logf("all arrived %v after the wire was mended", took)

		bob.Offline()
		alice.Say(bob, "something for later")
		w.House("b.test").Restart()
		w.House("a.test").Restart()
		bob.Online()
		w.Wait("the late one", 5*time.Minute, func() bool { return slices.Contains(bob.Heard(alice), "something for later") })
	})
}

// What waits for an organisation when the peering ends is reported to those who
// wrote it, at once, and so is what they write afterwards.
func TestRemovedPeerBouncesWhatWaits(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		alice.Say(bob, "the first of them all")
		w.Wait("bob has one", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		w.Partition("a.test", "b.test")
		waiting := alice.Say(bob, "this one has to wait")
		w.Wait("accepted", time.Minute, func() bool { s, _ := alice.State(waiting); return s == core.StateAtServer })
		w.House("a.test").Admin("DELETE", "/admin/peers/b.test", nil, nil)
		took := w.Wait("reported", time.Minute, func() bool { s, _ := alice.State(waiting); return s == core.StateFailed })
		_, code := alice.State(waiting)
		if code != clearbox.CodePeerBlocked && code != clearbox.CodeOutcomeUnknown {
			t.Errorf("reported as %s after %v", code, took)
		}
		late := alice.Say(bob, "this one is too late")
		w.Wait("refused", time.Minute, func() bool { s, _ := alice.State(late); return s == core.StateFailed })
		if _, code := alice.State(late); code != clearbox.CodePeerBlocked {
			t.Errorf("refused with %s", code)
		}
	})
}

// A device that lost its sessions asks for what it cannot read, across servers and
// sealed; it gets it once, after one round trip.
func TestLostSessionsHealAcrossServers(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		first, answer := alice.Say(bob, "the first of them all"), bob.Say(alice, "and its answer")
		w.Wait("both know that the other has one", time.Minute, func() bool { // so that no receipt is lost as well
			mine, _ := alice.State(first)
			theirs, _ := bob.State(answer)
			return mine == core.StateDelivered && theirs == core.StateDelivered
		})
		bob.Offline()
		err := bob.Vault.Update(t.Context(), func(tx core.Tx) error {
			sessions, err := tx.List(core.Range{Prefix: "session/"})
			for _, s := range sessions {
				err = errors.Join(err, tx.Delete(s.Key))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		id := alice.Say(bob, "this one cannot be read at first")
		w.Wait("it is at bob's server", time.Minute, func() bool { s, _ := alice.State(id); return s == core.StateAtPeer })
		bob.Online()
		w.Wait("bob has it after all", time.Minute, func() bool {
			heard := bob.Heard(alice)
			return len(heard) == 2 && heard[1] == "this one cannot be read at first"
		})
		w.Wait("alice knows", time.Minute, func() bool { s, _ := alice.State(id); return s == core.StateDelivered })
		st, err := bob.Brain.Status(t.Context())
		if err != nil || st.Healing.Lost != 1 || st.Healing.Healed != 1 {
			t.Errorf("healing %+v, %v", st.Healing, err)
		}
	})
}
