package servertest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

// clock is a line of figures that TestClock prints.
type clock struct {
	Test      string  `json:"test"`
	Case      string  `json:"case"`
	Sent      int     `json:"sent"`
	Delivered int     `json:"delivered"` // while the clocks are wrong
	Late      int     `json:"late"`      // after they were put right
	Expired   int     `json:"expired"`   // reported to the sender
	Ordered   bool    `json:"ordered"`
	Seconds   float64 `json:"delivered_s"` // until all that could be delivered was, simulated
}

func (c clock) print(t *testing.T) {
	t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(raw))
}

// pairOf is two people who have met.
func pairOf(w *servertest.World) (alice, bob *servertest.Person) {
	alice, bob = w.Join("alice@a.test"), w.Join("bob@b.test")
	alice.Say(bob, "begin of the talk")
	w.Wait("they have met", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
	return alice, bob
}

// say sends count texts and gives them.
func say(from, to *servertest.Person, what string, count int) (texts []string) {
	for i := range count {
		texts = append(texts, fmt.Sprintf("%s number %d", what, i))
		from.Say(to, texts[i])
	}
	return texts
}

// TestClock is R8: the clocks of two servers are apart. Up to 15 minutes make
// no difference; beyond, nothing is delivered until they are put right, and
// nothing is lost.
func TestClock(t *testing.T) {
	for _, ahead := range []time.Duration{14 * time.Minute, -14 * time.Minute, 16 * time.Minute, -16 * time.Minute} {
		t.Run(fmt.Sprint(ahead), func(t *testing.T) {
			servertest.Run(t, two, func(w *servertest.World) {
				alice, bob := pairOf(w)
				w.House("b.test").SetClock(ahead)
				from := time.Now()
				want := append([]string{"begin of the talk"}, say(alice, bob, "apart", 10)...)
				line := clock{Test: "clock", Case: fmt.Sprintf("peer %v ahead", ahead), Sent: 10}
				arrives := ahead.Abs() < 15*time.Minute
				if arrives {
					w.Wait("all are there", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == len(want) })
					line.Seconds = time.Since(from).Seconds()
				} else {
					time.Sleep(40 * time.Minute)
				}
				line.Delivered = len(bob.Heard(alice)) - 1
				w.House("b.test").SetClock(0)
				answers := say(bob, alice, "answer", 5)
				w.Wait("everything is there", 2*time.Hour, func() bool {
					return len(bob.Heard(alice)) == len(want) && len(alice.Heard(bob)) == len(answers)
				})
				line.Late = len(bob.Heard(alice)) - 1 - line.Delivered
				line.Ordered = slices.Equal(bob.Heard(alice), want) && slices.Equal(alice.Heard(bob), answers)
				line.print(t)
				if arrives && line.Delivered != 10 || !arrives && line.Delivered != 0 || !line.Ordered {
					t.Errorf("%+v", line)
				}
			})
		})
	}
}

// A server's clock steps back by an hour: what is said keeps its order, and what
// waits expires neither early nor never.
func TestClockStepsBack(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		a := w.House("a.test")
		a.Conf.Retention.Outbox, a.Conf.Federation.DelayedAfter = 6*time.Hour, 3*time.Hour
		a.Restart()
		alice, bob := pairOf(w)
		carol := w.Join("carol@a.test")
		want := append([]string{"begin of the talk"}, say(alice, bob, "before", 10)...)
		near := say(alice, carol, "near before", 10)
		w.Wait("the first are there", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == len(want) && len(carol.Heard(alice)) == len(near) })

		line := clock{Test: "clock", Case: "server steps back 1h", Sent: 20}
		a.SetClock(-time.Hour)
		near = append(near, say(alice, carol, "near after", 10)...)
		want = append(want, say(alice, bob, "after", 10)...)
		w.Wait("the near ones are there", 5*time.Minute, func() bool { return len(carol.Heard(alice)) == len(near) })
		line.Delivered = 10
		time.Sleep(30 * time.Minute)
		a.SetClock(0) // forward again
		w.Wait("the far ones are there", 2*time.Hour, func() bool { return len(bob.Heard(alice)) == len(want) })
		line.Late = len(bob.Heard(alice)) - 1 - 10
		line.Ordered = slices.Equal(bob.Heard(alice), want) && slices.Equal(carol.Heard(alice), near)

		// What waits for a peer that is gone, over a step back.
		w.Partition("a.test", "b.test")
		lost := alice.Say(bob, "this one expires")
		w.Wait("it is accepted", time.Minute, func() bool { s, _ := alice.State(lost); return s != core.StateQueued })
		said := time.Now()
		time.Sleep(3 * time.Hour)
		a.SetClock(-time.Hour)
		failed := func() bool { s, _ := alice.State(lost); return s == core.StateFailed }
		time.Sleep(2*time.Hour + 30*time.Minute)
		if failed() {
			t.Errorf("expired %v after it was accepted", time.Since(said))
		}
		w.Wait("it has expired", 3*time.Hour, failed)
		line.Expired = 1
		w.Heal("a.test", "b.test")
		a.SetClock(0)
		line.print(t)
		if !line.Ordered {
			t.Errorf("bob has %q, carol has %q", bob.Heard(alice), carol.Heard(alice))
		}
	})
}
