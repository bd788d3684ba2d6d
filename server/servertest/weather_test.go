package servertest_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/servertest"
)

// stormLine is the line of figures that TestThreeHousesInBadWeather prints for
// each seed. That nothing was lost, doubled or reordered, and nothing both shown
// and reported, is checked at the end of every world.
type stormLine struct {
	Test    string         `json:"test"`
	Seed    uint64         `json:"weather_seed"`
	Minutes float64        `json:"minutes"` // simulated
	Sent    int            `json:"sent"`
	Steps   map[string]int `json:"steps"`
	servertest.Packets
	Settled float64 `json:"settled_s"` // after the storm
}

// storm is one seeded run.
type storm struct {
	w      *servertest.World
	r      *rand.Rand
	names  []clearbox.ServerName
	people []*servertest.Person
	line   stormLine
}

// Three organisations talk while packets are lost, delayed, doubled and overtake
// each other, ways are cut on both sides or on one, clocks go wrong, connections
// break and servers restart. With CLEARBOX_LONG set there are twenty seeds.
func TestThreeHousesInBadWeather(t *testing.T) {
	seeds, lasts := uint64(1), time.Minute
	if os.Getenv("CLEARBOX_LONG") != "" {
		seeds, lasts = 20, 10*time.Minute
	}
	names := []clearbox.ServerName{"a.test", "b.test", "c.test"}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			servertest.RunInAir(t, names, seed, func(w *servertest.World) {
				s := &storm{w: w, r: rand.New(rand.NewPCG(seed, 7)), names: names}
				s.line = stormLine{Test: "weather", Seed: seed, Minutes: lasts.Minutes(), Steps: map[string]int{}}
				s.meet()
				s.rage(lasts)
				s.end(t)
			})
		})
	}
}

// meet lets everybody say something to everybody else in fine weather.
func (s *storm) meet() {
	for _, n := range s.names {
		s.people = append(s.people, s.w.Join("person@"+string(n)))
	}
	for _, from := range s.people {
		for _, to := range s.people {
			if from != to {
				from.Say(to, "hello from "+from.Name+" to "+to.Name)
			}
		}
	}
	s.w.Wait("all have met", 10*time.Minute, func() bool { return s.heard() == len(s.people)*(len(s.people)-1) })
}

func (s *storm) heard() (n int) {
	for _, from := range s.people {
		for _, to := range s.people {
			if from != to {
				n += len(to.Heard(from))
			}
		}
	}
	return n
}

// rage changes something every few seconds while everybody writes.
func (s *storm) rage(lasts time.Duration) {
	next := time.Now()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		if !time.Now().Before(next) {
			s.step()
			next = time.Now().Add(time.Second + time.Duration(s.r.Int64N(int64(15*time.Second))))
		}
		from, to := s.r.IntN(len(s.people)), s.r.IntN(len(s.people))
		if from != to {
			s.people[from].Say(s.people[to], fmt.Sprintf("message %d in the storm", s.line.Sent))
			s.line.Sent++
		}
		time.Sleep(50*time.Millisecond + time.Duration(s.r.Int64N(int64(time.Second))))
	}
}

// step draws what happens next, to which two of the three.
func (s *storm) step() {
	i := s.r.IntN(len(s.names))
	from, to := string(s.names[i]), string(s.names[(i+1+s.r.IntN(2))%3])
	share := 0.05 + s.r.Float64()/2
	wait := time.Duration(s.r.Int64N(int64(400 * time.Millisecond)))
	kinds := []struct {
		name string
		do   func()
	}{
		{"loss", func() { s.w.Air.Set(from, to, servertest.Weather{Drop: share}) }},
		{"delay", func() { s.w.Air.Set(from, to, servertest.Weather{Delay: wait}) }},
		{"overtaking", func() { s.w.Air.Set(from, to, servertest.Weather{Jitter: wait + 1}) }},
		{"doubling", func() { s.w.Air.Set(from, to, servertest.Weather{Double: share}) }},
		{"udp_blocked", func() { s.w.Air.Set(from, to, servertest.Weather{Drop: 1}) }},
		{"partition", func() { s.w.Partition(from, to) }},
		{"one_way", func() { s.w.CutWay(from, to) }},
		{"clock", func() {
			s.w.House(s.names[i]).SetClock(time.Duration(s.r.Int64N(int64(14*time.Minute))) - 7*time.Minute)
		}},
		{"broken", func() { s.w.Wires.Break(from, to) }},
		{"restart", func() { s.w.House(s.names[i]).Restart() }},
		{"heal", func() { s.w.Heal(from, to); s.w.Air.Clear() }},
		{"heal", func() { s.w.Heal(from, to); s.w.Heal(string(s.names[0]), string(s.names[2])) }},
	}
	k := kinds[s.r.IntN(len(kinds))]
	k.do()
	s.line.Steps[k.name]++
}

// end clears the sky, waits for what is under way and prints the line.
func (s *storm) end(t *testing.T) {
	s.w.Air.Clear()
	for i, a := range s.names {
		s.w.House(a).SetClock(0)
		for _, b := range s.names[i+1:] {
			s.w.Heal(string(a), string(b))
		}
	}
	all := s.line.Sent + len(s.people)*(len(s.people)-1)
	s.line.Settled = s.w.Wait("everything is shown", time.Hour, func() bool { return s.heard() >= all }).Seconds()
	s.line.Packets = s.w.Air.Passed()
	raw, err := json.Marshal(&s.line)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(raw))
	if s.line.Sent == 0 || s.line.Packets.Sent == 0 {
		t.Error("nothing was tried")
	}
}
