package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// slowLine is what slow prints. Keys are only ever added.
type slowLine struct {
	Test      string             `json:"test"`
	Slow      int                `json:"slow_connections"`
	IdleP50   float64            `json:"idle_p50_ms"`
	IdleP99   float64            `json:"idle_p99_ms"`
	BesideP50 float64            `json:"beside_p50_ms"`
	BesideP99 float64            `json:"beside_p99_ms"`
	Cut       float64            `json:"cut_max_s"`
	CutBy     map[string]float64 `json:"cut_max_s_by_kind"`
	Uncut     int                `json:"uncut"`
	Messages  int                `json:"messages"`
	Opening   float64            `json:"opening_s"`          // until all slow ones were there
	AtStart   int                `json:"slow_open_at_start"` // of the second measurement
	AtEnd     int                `json:"slow_open_at_end"`
}

const (
	slowCount   = 1000
	slowLimit   = 15 * time.Second
	slowPairs   = 10
	slowPause   = 10 * time.Millisecond // between the messages of a pair
	slowMeasure = 8 * time.Second
	slowTick    = 200 * time.Millisecond // how exactly the end of a connection is seen
)

// slow is R10: 1,000 connections that drag out their handshake, header, body or
// reading, over HTTP/1.1, HTTP/2 and WebSockets, beside ordinary clients, whose
// p99 may at most double.
func (s *suite) slow(ctx context.Context) (verdict, error) {
	v := verdict{}
	srv, err := s.server("slow", rig.Setup{Name: "a.test"})
	if err != nil {
		return v, err
	}
	people, err := srv.Accounts(ctx, "p", 2*slowPairs, true)
	if err != nil {
		return v, err
	}
	n := s.scaled(slowCount)
	each := n/len(slowKinds) + 1
	slackers, err := srv.Accounts(ctx, "s", 2*each, true) // one device has one socket
	if err != nil {
		return v, err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return v, err
	}
	defer srv.Stop()
	pairs, err := talkers(ctx, srv, people)
	defer func() {
		for _, t := range pairs {
			t.close()
		}
	}()
	if err != nil {
		return v, err
	}
	if err := pairs[0].post(slackers[:each]); err != nil {
		return v, err
	}
	if _, err := talk(ctx, pairs, time.Second); err != nil { // warm
		return v, err
	}
	idle, err := talk(ctx, pairs, slowMeasure)
	if err != nil {
		return v, err
	}
	d := &drag{srv: srv, readers: slackers[:each], writers: slackers[each:], cut: map[string]time.Duration{}}
	defer d.close()
	watched := make(chan error, 1) // the watcher's result
	go func() { watched <- d.watch(ctx) }()
	line := slowLine{Test: "slow", CutBy: map[string]float64{}}
	began := time.Now()
	if err := d.open(ctx, n); err != nil {
		return v, err
	}
	line.Opening, line.AtStart = tidy(time.Since(began).Seconds()), d.left()
	beside, err := talk(ctx, pairs, slowMeasure)
	if err != nil {
		return v, err
	}
	line.AtEnd = d.left()
	if err := <-watched; err != nil {
		return v, err
	}
	line.Slow, line.Messages, line.Uncut = len(d.all), len(idle)+len(beside), d.left()
	line.IdleP50, line.IdleP99 = tidy(at(idle, 50)), tidy(at(idle, 99))
	line.BesideP50, line.BesideP99 = tidy(at(beside, 50)), tidy(at(beside, 99))
	for kind, took := range d.cut {
		line.CutBy[kind] = tidy(took.Seconds())
		line.Cut = max(line.Cut, tidy(took.Seconds()))
	}
	v.line = line
	v.demand(line.BesideP99 <= 2*line.IdleP99, "p99 rose from %.2f to %.2f ms", line.IdleP99, line.BesideP99)
	v.demand(line.AtStart >= n*95/100, "only %d of %d slow connections were there at a time", line.AtStart, n)
	v.demand(line.Uncut == 0, "%d slow connections were still open after %s", line.Uncut, 4*slowLimit)
	v.demand(line.Cut <= slowLimit.Seconds(), "a slow connection lived for %.1f s", line.Cut)
	return v, nil
}

// at is a percentile of sorted durations in milliseconds.
func at(d []time.Duration, p int) float64 {
	if len(d) == 0 {
		return 0
	}
	return float64(d[min(len(d)*p/100, len(d)-1)].Microseconds()) / 1000
}

// talker is an ordinary pair: a message, its arrival, a pause.
type talker struct {
	no       int
	from, to *rig.Socket
	template *rig.Template
	next     uint32
}

func talkers(ctx context.Context, srv *rig.Server, people []*rig.Account) ([]*talker, error) {
	var out []*talker
	for i := range len(people) / 2 {
		t := &talker{no: i}
		var err error
		if t.template, err = rig.NewTemplate(people[2*i+1]); err != nil {
			return out, err
		}
		if t.from, err = greeted(ctx, srv, people[2*i], rig.Via{Source: rig.Source(2 * i)}); err != nil {
			return out, err
		}
		out = append(out, t)
		if t.to, err = greeted(ctx, srv, people[2*i+1], rig.Via{Source: rig.Source(2*i + 1)}); err != nil {
			return out, err
		}
	}
	return out, nil
}

// talk lets all pairs talk for a while and gives the times from send to
// arrival, sorted.
func talk(ctx context.Context, pairs []*talker, d time.Duration) ([]time.Duration, error) {
	var (
		mu   sync.Mutex
		all  []time.Duration
		fail error
		wg   sync.WaitGroup
	)
	end := time.Now().Add(d)
	for _, t := range pairs {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				var took time.Duration
				if took, err = t.one(); err == nil {
					mine = append(mine, took)
					err = sleep(ctx, slowPause)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			if fail == nil {
				fail = err
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all, fail
}

// greeted opens a socket and reads the welcome.
func greeted(ctx context.Context, srv *rig.Server, a *rig.Account, via rig.Via) (*rig.Socket, error) {
	sock, err := srv.Dial(ctx, a.Access, via)
	if err != nil {
		return nil, err
	}
	if err := sock.Welcome(); err != nil {
		sock.Close()
		return nil, err
	}
	return sock, nil
}

func (t *talker) one() (time.Duration, error) {
	limit := time.Now().Add(30 * time.Second)
	t.from.SetDeadline(limit)
	t.to.SetDeadline(limit)
	began := time.Now()
	t.from.Queue(t.template.Message(uint32(t.no), t.next))
	t.next++
	if err := t.from.Flush(); err != nil {
		return 0, err
	}
	seq, err := awaitFrame(t.to, wire.FrameReceive)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	t.to.Queue(rig.AppendAck(nil, seq))
	if err := t.to.Flush(); err != nil {
		return 0, err
	}
	_, err = awaitFrame(t.from, wire.FrameSent)
	return took, err
}

// awaitFrame reads up to the next frame of a type.
func awaitFrame(sock *rig.Socket, kind wire.FrameType) (int64, error) {
	for {
		frame, _, err := sock.Next()
		if err != nil {
			return 0, err
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return 0, err
		}
		if e.Type == kind {
			return e.Seq, nil
		}
		if e.Type == wire.FrameError {
			return 0, fmt.Errorf("the server refused: %s", e.Code)
		}
	}
}

// post queues mail that is too much for the kernel's buffers of a connection
// that is not read from.
func (t *talker) post(to []*rig.Account) error {
	t.from.SetDeadline(time.Now().Add(2 * time.Minute))
	for _, a := range to {
		for range 2 {
			id, err := clearbox.NewMessageID(rand.Reader)
			if err != nil {
				return err
			}
			frame, err := wire.AppendClientFrame(nil, wire.CBOR, &wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: &wire.Submission{ID: id, To: []wire.Recipient{{
				User: a.User, Envelopes: []wire.Outgoing{{Device: 1, Registration: a.Registration, Type: clearbox.ContentWhisper, Content: make([]byte, clearbox.MaxContent)}},
			}}}})
			if err != nil {
				return err
			}
			t.from.Queue(frame)
			if err := t.from.Flush(); err != nil {
				return err
			}
			if _, err := awaitFrame(t.from, wire.FrameSent); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *talker) close() {
	t.from.Close()
	if t.to != nil {
		t.to.Close()
	}
}
