package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// idleLine is a line of idle. Keys are only ever added.
type idleLine struct {
	Scenario string  `json:"scenario"`
	Conns    int     `json:"conns"`
	PerConn  float64 `json:"rss_per_conn_kib"`
	RSS      float64 `json:"srv_rss_mib"`
	Errors   int64   `json:"errors"`

	Connect float64   `json:"connect_s"`
	CPU     float64   `json:"srv_cpu_ms_per_conn"` // of connecting
	Pinged  float64   `json:"rss_per_conn_pinged_kib"`
	FanOut  float64   `json:"fanout_s"` // one message to every connection
	Runs    []float64 `json:"runs_rss_per_conn_kib"`
}

// idle measures the memory of connections that say nothing. The last run holds
// them until each was pinged, and then sends one message to all.
func (b *bench) idle(ctx context.Context) error {
	for _, conns := range []int{2000, 10_000} {
		if !b.wanted(fmt.Sprintf("conns=%d", conns)) {
			continue
		}
		line := idleLine{Scenario: "idle", Conns: conns}
		var cpu, connect []float64
		for i := range b.runs {
			r, err := b.idleRun(ctx, conns, i == b.runs-1)
			if err != nil {
				return fmt.Errorf("%d connections: %w", conns, err)
			}
			line.Runs = append(line.Runs, round(r.perConn, 2))
			cpu, connect = append(cpu, r.cpu), append(connect, r.connect)
			line.RSS = max(line.RSS, round(r.rss, 1))
			line.Errors += r.errors
			line.Pinged, line.FanOut = round(r.pinged, 2), round(r.fanOut, 3)
		}
		line.PerConn, line.CPU, line.Connect = median(line.Runs), round(median(cpu), 3), round(median(connect), 2)
		if err := print(line); err != nil {
			return err
		}
	}
	return nil
}

type idleFigures struct {
	perConn, pinged, rss, cpu, connect, fanOut float64
	errors                                     int64
}

func (b *bench) idleRun(ctx context.Context, conns int, last bool) (idleFigures, error) {
	var r idleFigures
	srv, err := b.server("idle", "a.test")
	if err != nil {
		return r, err
	}
	defer b.discard(srv)
	people, err := srv.Accounts(ctx, "p", conns, true)
	if err != nil {
		return r, err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return r, err
	}
	before, err := settled(ctx, srv)
	if err != nil {
		return r, err
	}
	began := time.Now()
	c := &crowd{sockets: make([]*rig.Socket, conns), told: make(chan struct{}, conns)}
	defer c.close()
	if err := c.connect(ctx, srv, people); err != nil {
		return r, err
	}
	r.connect = time.Since(began).Seconds()
	after, err := settled(ctx, srv)
	if err != nil {
		return r, err
	}
	r.perConn = (after.RSS - before.RSS) * 1024 / float64(conns)
	r.cpu = (after.CPU - before.CPU) / float64(conns) * 1000
	r.rss = after.RSS
	if last {
		if err := c.waitPings(ctx); err != nil {
			return r, err
		}
		pinged, err := settled(ctx, srv)
		if err != nil {
			return r, err
		}
		r.pinged = (pinged.RSS - before.RSS) * 1024 / float64(conns)
		if r.fanOut, err = c.fanOut(ctx, people); err != nil {
			return r, err
		}
	}
	r.errors = c.errors.Load()
	return r, nil
}

// settled waits until the server's memory has not grown for a second, at most
// four, and reads its figures.
func settled(ctx context.Context, srv *rig.Server) (rig.Cost, error) {
	best, err := rig.CostOf(srv.PID())
	for quiet, n := 0, 0; err == nil && quiet < 4 && n < 16; n++ {
		if err = sleep(ctx, 250*time.Millisecond); err != nil {
			break
		}
		var now rig.Cost
		now, err = rig.CostOf(srv.PID())
		if now.RSS > best.RSS+0.1 {
			quiet = 0
		} else {
			quiet++
		}
		best = now
	}
	return best, err
}

// crowd is many idle clients.
type crowd struct {
	sockets []*rig.Socket
	pinged  atomic.Int64
	errors  atomic.Int64
	told    chan struct{} // one for each message that arrived; capacity: one message each
	closing atomic.Bool
	readers sync.WaitGroup
}

// connect opens the sockets, a hundred clients to a network address, with as
// many handshakes at a time as the machine can use.
func (c *crowd) connect(ctx context.Context, srv *rig.Server, people []*rig.Account) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(people) {
					return
				}
				sock, err := open(ctx, srv, people[i], i/100)
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				c.sockets[i] = sock
				c.readers.Go(func() { c.read(sock) })
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *crowd) read(sock *rig.Socket) {
	seen := 0
	sock.OnPing = func() {
		if seen++; seen == 1 {
			c.pinged.Add(1)
		}
	}
	for {
		frame, _, err := sock.Next()
		if err != nil {
			if !c.closing.Load() {
				c.errors.Add(1)
			}
			return
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			c.errors.Add(1)
			return
		}
		if e.Type == wire.FrameReceive {
			sock.Queue(rig.AppendAck(nil, e.Seq))
			sock.Flush()
			c.told <- struct{}{}
		}
	}
}

// waitPings waits until the server has pinged everybody once: its interval is
// 20 seconds.
func (c *crowd) waitPings(ctx context.Context) error {
	deadline := time.Now().Add(30 * time.Second)
	for c.pinged.Load() < int64(len(c.sockets)) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d connections were pinged within 30 seconds", c.pinged.Load(), len(c.sockets))
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// fanOut sends one message to every connection, from as many senders as the
// quota of an account asks for, and gives the seconds until the last has it.
func (c *crowd) fanOut(ctx context.Context, people []*rig.Account) (float64, error) {
	const share = 100 // messages of one sender
	for i := 0; i < len(people); i += share {
		for j := i + 1; j <= min(i+share, len(people)); j++ {
			t, err := rig.NewTemplate(people[j%len(people)])
			if err != nil {
				return 0, err
			}
			c.sockets[i].Queue(t.Message(uint32(i), uint32(j)))
		}
	}
	began := time.Now()
	for i := 0; i < len(people); i += share {
		if err := c.sockets[i].Flush(); err != nil {
			return 0, err
		}
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	for n := range people {
		select {
		case <-c.told:
		case <-timer.C:
			return 0, fmt.Errorf("%d of %d connections got their message within 20 seconds", n, len(people))
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return time.Since(began).Seconds(), nil
}

func (c *crowd) close() {
	c.closing.Store(true)
	for _, s := range c.sockets {
		if s != nil {
			s.Close()
		}
	}
	c.readers.Wait()
}
