package servertest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

var outageMessages = flag.Int("outage.messages", 300, "messages that wait during an outage; R2 wants 10000")

// TestPeerOutage is R2 of the reliability tests: a peer is away for a day and
// for a week, everything that was sent meanwhile waits, and arrives when it is
// back. It prints one JSON line an outage.
func TestPeerOutage(t *testing.T) {
	for _, c := range []struct {
		name  string
		away  time.Duration
		first time.Duration // longest wait for the first attempt afterwards
	}{{"day", 24 * time.Hour, 15 * time.Minute}, {"week", 7 * 24 * time.Hour, time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			wall := time.Now()
			servertest.Run(t, two, func(w *servertest.World) {
				w.Wires.SetLatency(25 * time.Millisecond) // 50 ms there and back
				const pairs = 10
				var from, to []*servertest.Person
				for i := range pairs {
					from = append(from, w.Join(fmt.Sprintf("from%d@a.test", i)))
					to = append(to, w.Join(fmt.Sprintf("to%d@b.test", i)))
					from[i].Say(to[i], fmt.Sprintf("begin of %d", i))
				}
				w.Wait("the conversations have begun", time.Minute, func() bool {
					for i := range to {
						if len(to[i].Heard(from[i])) != 1 {
							return false
						}
					}
					return true
				})
				w.Partition("a.test", "b.test")
				cut := time.Now()
				for n := range *outageMessages {
					from[n%pairs].Say(to[n%pairs], fmt.Sprintf("waiting %d", n))
				}
				w.Wait("everything is accepted at home", 10*time.Minute, func() bool {
					for i := range from {
						for _, st := range states(t, from[i], to[i]) {
							if st == core.StateQueued {
								return false
							}
						}
					}
					return true
				})
				// Nobody is online meanwhile: days of pings are not what is tested.
				for i := range from {
					from[i].Offline()
					to[i].Offline()
				}
				time.Sleep(c.away - time.Since(cut))
				for i := range from {
					to[i].Online()
				}
				before := heap()
				attempts := len(w.Wires.Dials("a.test", "b.test"))
				w.Heal("a.test", "b.test")
				mended := time.Now()
				var first time.Time
				w.Wait("the first attempt", c.first, func() bool {
					d := w.Wires.Dials("a.test", "b.test")
					if len(d) > attempts {
						first = d[attempts]
					}
					return len(d) > attempts
				})
				drained := w.Wait("the backlog has arrived", 5*time.Minute, func() bool {
					for i := range to {
						if len(to[i].Heard(from[i])) != 1+(*outageMessages+pairs-1-i)/pairs {
							return false
						}
					}
					return true
				})
				perDay := attemptsPerDay(w.Wires.Dials("a.test", "b.test"), cut, mended)
				line := map[string]any{
					"test": "outage", "away_h": c.away.Hours(), "sent": *outageMessages, "lost": 0, "first_attempt_s": first.Sub(mended).Seconds(),
					"drained_s": drained.Seconds(), "attempts_per_day": perDay, "heap_growth_mib": float64(int64(heap())-int64(before)) / (1 << 20),
				}
				raw, err := json.Marshal(line)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Println(string(raw))
				if drained > time.Minute {
					t.Errorf("the backlog took %v", drained)
				}
				if perDay > 200 {
					t.Errorf("%d attempts in a day", perDay)
				}
				for i := range from {
					for _, m := range states(t, from[i], to[i]) {
						if m == core.StateFailed {
							t.Error("a message was reported as failed")
						}
					}
				}
			})
			t.Logf("%v of wall time", time.Since(wall))
		})
	}
}

// states gives the states of what from sent to to.
func states(t *testing.T, from, to *servertest.Person) []core.State {
	t.Helper()
	page, err := from.Brain.Messages(t.Context(), to.User, 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	var out []core.State
	for _, m := range page {
		if m.Outgoing {
			out = append(out, m.State)
		}
	}
	return out
}

// attemptsPerDay is the largest number of attempts in any 24 hours of an
// outage. An attempt may dial twice: the transport tries once more at once.
func attemptsPerDay(dials []time.Time, begin, end time.Time) int {
	var attempts []time.Time
	for _, d := range dials {
		if d.Before(begin) || d.After(end) {
			continue
		}
		if n := len(attempts); n == 0 || d.Sub(attempts[n-1]) > 10*time.Second {
			attempts = append(attempts, d)
		}
	}
	most := 0
	for i, from := range attempts {
		n := 0
		for _, d := range attempts[i:] {
			if d.Before(from.Add(24 * time.Hour)) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
