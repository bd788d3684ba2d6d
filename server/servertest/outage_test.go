package servertest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

var outageMessages = flag.Int("outage.messages", 0, "messages that wait during an outage; R2 wants 10000, the default is a few")

// outage is the line of figures that TestOutage prints.
type outage struct {
	Test       string  `json:"test"`
	Away       float64 `json:"away_h"`
	Sent       int     `json:"sent"`
	Lost       int     `json:"lost"`
	Duplicated int     `json:"duplicated"`
	First      float64 `json:"first_attempt_s"` // after the peer was back, without a word from it
	Drained    float64 `json:"drained_s"`       // after that attempt, simulated
	Wall       float64 `json:"drain_wall_s"`
	PerDay     int     `json:"attempts_per_day"`
	Growth     float64 `json:"heap_growth_mib"` // from the beginning of the outage to its end
	Total      float64 `json:"wall_s"`
}

// TestOutage is R2 of the reliability tests: a peer is down for a day and for a
// week, everything that was sent meanwhile waits, and arrives when it is back.
// It prints one JSON line an outage. With CLEARBOX_LONG set 10,000 messages
// wait and the week is a whole one.
func TestOutage(t *testing.T) {
	messages, pairs, week := *outageMessages, 10, 7*24*time.Hour
	switch {
	case messages > 0:
	case os.Getenv("CLEARBOX_LONG") != "":
		messages = 10_000
	default: // thirty hours are behind the first day as a week is; six people's keys are fetched ahead
		messages, pairs, week = 100, 6, 30*time.Hour
	}
	for _, c := range []struct {
		name  string
		away  time.Duration
		first time.Duration // longest wait for the first attempt afterwards
	}{{"day", 24 * time.Hour, 15 * time.Minute}, {"week", week, time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			line := outage{Test: "outage", Away: c.away.Hours(), Sent: messages}
			began := wall()
			servertest.Run(t, two, func(w *servertest.World) { sitOut(t, w, c.away, c.first, pairs, &line) })
			line.Total = (wall() - began).Seconds()
			raw, err := json.Marshal(&line)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println(string(raw))
			for name, broken := range map[string]bool{
				"messages were lost or shown twice": line.Lost != 0 || line.Duplicated != 0,
				"the first attempt came late":       line.First > c.first.Seconds(),
				"the backlog took long":             line.Drained > 60,
				"the backlog took long to compute":  line.Wall > 30,
				"there were too many attempts":      line.PerDay > 200,
				"there was hardly any attempt":      line.PerDay < 24,
				"memory grew":                       line.Growth > 16,
			} {
				if broken {
					t.Error(name)
				}
			}
		})
	}
}

func sitOut(t *testing.T, w *servertest.World, away, within time.Duration, pairs int, line *outage) {
	for _, name := range two { // what is late or expired is not what is tested
		h := w.House(name)
		h.SweepEvery = time.Hour
		h.Restart()
	}
	w.Wires.SetLatency(25 * time.Millisecond) // 50 ms there and back
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
	for n := range line.Sent {
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
	w.House("b.test").Stop()
	time.Sleep(time.Hour) // what the sending left behind is gone
	before := heap()
	time.Sleep(away - time.Since(cut))
	line.Growth = float64(int64(heap())-int64(before)) / (1 << 20)

	// The peer is back and says nothing to us before we have tried.
	w.Wires.Mute("b.test", "a.test", true)
	w.Heal("a.test", "b.test")
	w.House("b.test").Start()
	mended, attempts := time.Now(), len(w.Wires.Dials("a.test", "b.test"))
	for i := range to {
		to[i].Online()
	}
	var first time.Time
	w.Wait("the first attempt", 2*within, func() bool {
		d := w.Wires.Dials("a.test", "b.test")
		if len(d) > attempts {
			first = d[attempts]
		}
		return len(d) > attempts
	})
	w.Wires.Mute("b.test", "a.test", false)
	line.First, line.PerDay = first.Sub(mended).Seconds(), attemptsPerDay(w.Wires.Dials("a.test", "b.test"), cut, mended)
	begin := wall()
	count := func() (n int) {
		for i := range to {
			n += len(to[i].Heard(from[i])) - 1
		}
		return n
	}
	w.Wait("the backlog has arrived", 5*time.Minute, func() bool { return count() >= line.Sent })
	line.Drained, line.Wall = time.Since(first).Seconds(), (wall() - begin).Seconds()

	time.Sleep(time.Minute) // for what would come twice
	for i := range to {
		seen := map[string]int{}
		for _, text := range to[i].Heard(from[i]) {
			seen[text]++
		}
		for n := i; n < line.Sent; n += pairs {
			switch k := seen[fmt.Sprintf("waiting %d", n)]; {
			case k == 0:
				line.Lost++
			case k > 1:
				line.Duplicated++
			}
		}
		for _, m := range states(t, from[i], to[i]) {
			if m == core.StateFailed {
				t.Error("a message was reported as failed")
			}
		}
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
		if n := len(attempts); n == 0 || d.Sub(attempts[n-1]) > 3*time.Second {
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

// wall is the real clock: time flies in a bubble, system calls do not.
func wall() time.Duration {
	var tv syscall.Timeval
	if err := syscall.Gettimeofday(&tv); err != nil {
		return 0
	}
	return time.Duration(tv.Nano())
}
