package main

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// faultsLine is what faults prints. Keys are only ever added.
type faultsLine struct {
	Test       string  `json:"test"`
	Sent       int     `json:"sent"`
	Remote     int     `json:"sent_across_servers"`
	Steps      int     `json:"steps"` // changes of the weather
	Lost       int     `json:"lost"`  // accepted and neither shown nor reported
	Duplicated int     `json:"duplicated"`
	Reordered  int     `json:"reordered"`
	Both       int     `json:"shown_and_reported"`
	Reported   int     `json:"reported"`
	Unreadable int     `json:"undecryptable"`
	Queued     int     `json:"still_queued"`
	CatchUp    float64 `json:"catch_up_s"`
	passed
}

const (
	faultClients = 12
	faultPace    = 40 // sends a second, of all clients together
	faultTime    = 60 * time.Second
)

// weathers are what is drawn from, each once before any comes again.
var weathers = []weather{
	{name: "clear"},
	{name: "loss", drop: 0.2},
	{name: "heavy loss", drop: 0.6},
	{name: "slow", delay: 200 * time.Millisecond, jitter: 100 * time.Millisecond},
	{name: "overtaking", jitter: 60 * time.Millisecond},
	{name: "doubling", double: 0.4},
	{name: "partition", cutThere: true, cutBack: true},
	{name: "one way, there", cutThere: true},
	{name: "one way, back", cutBack: true},
	{name: "connections broken", reset: true},
	{name: "storm", drop: 0.1, double: 0.1, delay: 20 * time.Millisecond, jitter: 150 * time.Millisecond, reset: true},
}

// faults lets real clients talk over two servers that reach each other through
// bad weather only, drawn from the seed: what was accepted is shown once or
// reported once.
func (s *suite) faults(ctx context.Context) (verdict, error) {
	f := &faultWorld{}
	defer f.close()
	if err := f.assemble(ctx, s); err != nil {
		return verdict{}, err
	}
	if err := f.w.run(ctx); err != nil {
		return verdict{}, err
	}
	told, err := f.w.judge(ctx)
	if err != nil {
		return verdict{}, err
	}
	line := faultsLine{
		Test: "faults", Sent: told.Sent, Remote: told.Remote, Steps: f.steps, Lost: told.Lost, Duplicated: told.Duplicated, Reordered: told.Reordered,
		Both: told.Both, Reported: told.Failed, Unreadable: told.Undecryptable, Queued: told.Queued, CatchUp: told.CatchUp,
	}
	for _, p := range f.proxies {
		c := p.passed()
		line.Packets += c.Packets
		line.Dropped += c.Dropped
		line.Doubled += c.Doubled
		line.Delayed += c.Delayed
		line.Bytes += c.Bytes
		line.Broken += c.Broken
		line.Connected += c.Connected
	}
	v := verdict{line: line}
	v.demand(line.Lost == 0, "%d accepted messages were neither shown nor reported", line.Lost)
	v.demand(line.Duplicated == 0, "%d messages were shown twice", line.Duplicated)
	v.demand(line.Reordered == 0, "%d messages were shown out of order", line.Reordered)
	v.demand(line.Both == 0, "%d messages were shown and reported as failed", line.Both)
	v.demand(line.Unreadable == 0, "%d messages could not be decrypted", line.Unreadable)
	v.demand(line.Queued == 0, "%d messages were not accepted", line.Queued)
	v.demand(line.Packets > 0 && line.Bytes > 0, "the servers did not use both TCP and UDP")
	v.demand(line.Dropped > 0 && line.Doubled > 0 && line.Delayed > 0 && line.Broken > 0, "a kind of fault did not come about")
	return v, nil
}

// faultWorld is the world of kill9, with proxies between its servers instead
// of kills.
type faultWorld struct {
	w       *killWorld
	proxies []*faultProxy // before each server; clients go past them
	steps   int
}

func (f *faultWorld) assemble(ctx context.Context, s *suite) error {
	took := time.Duration(s.scaled(int(faultTime/time.Second))) * time.Second
	f.w = &killWorld{random: s.random("faults"), sends: faultPace * int(took/time.Second), clients: faultClients, pace: faultPace}
	f.w.torment = func(ctx context.Context) error { return f.storm(ctx, took) }
	return f.w.assemble(ctx, s, "faults", func(name clearbox.ServerName) (*rig.Server, error) {
		p, err := newFaultProxy(s.random("weather of " + string(name)))
		if err != nil {
			return nil, err
		}
		f.proxies = append(f.proxies, p)
		srv, err := s.server("faults", rig.Setup{Name: name, Public: p.address(), Extra: "registration:\n  mode: open\n"})
		if err == nil {
			p.aim(srv.Address)
		}
		return srv, err
	})
}

// storm lets the weather change: first over QUIC, then UDP is blocked until the
// servers have turned to TCP, then over TCP. It clears at the end.
func (f *faultWorld) storm(ctx context.Context, took time.Duration) error {
	defer f.everywhere(weather{})
	if err := f.change(ctx, took*2/5, func(weather) bool { return true }); err != nil {
		return err
	}
	f.everywhere(weather{name: "UDP blocked", drop: 1})
	f.steps++
	if err := sleep(ctx, max(took/5, udpGone)); err != nil {
		return err
	}
	return f.change(ctx, took*2/5, func(w weather) bool { return w.drop == 0 && w.double == 0 || w.reset })
}

// udpGone is after how long without packets the servers have turned to TCP.
const udpGone = 12 * time.Second

func (f *faultWorld) everywhere(w weather) {
	for _, p := range f.proxies {
		p.become(w)
	}
}

// change draws weathers of a kind before either server, or before both.
func (f *faultWorld) change(ctx context.Context, took time.Duration, kind func(weather) bool) error {
	r := f.w.random
	var left []weather
	for end := time.Now().Add(took); time.Now().Before(end); f.steps++ {
		if len(left) == 0 {
			for _, i := range r.Perm(len(weathers)) {
				if kind(weathers[i]) {
					left = append(left, weathers[i])
				}
			}
		}
		where := r.IntN(3) // the third: both
		for i, p := range f.proxies {
			if where == 2 || where == i {
				p.become(left[0])
			} else {
				p.become(weather{})
			}
		}
		left = left[1:]
		if err := sleep(ctx, time.Second+time.Duration(r.Int64N(int64(4*time.Second)))); err != nil {
			return err
		}
	}
	return nil
}

func (f *faultWorld) close() {
	if f.w != nil {
		f.w.close()
	}
	for _, p := range f.proxies {
		p.close()
	}
}
