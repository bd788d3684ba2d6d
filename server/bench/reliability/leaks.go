package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// leaksLine is what leaks prints. Keys are only ever added.
type leaksLine struct {
	Test             string  `json:"test"`
	Connections      int64   `json:"connections"`
	GoroutinesBefore int     `json:"goroutines_before"`
	GoroutinesAfter  int     `json:"goroutines_after"`
	FilesBefore      int     `json:"open_files_before"`
	FilesAfter       int     `json:"open_files_after"`
	RSSBefore        float64 `json:"rss_before_mib"`
	RSSAfter         float64 `json:"rss_after_mib"`
	Settled          float64 `json:"settled_s"`
}

const (
	leakCycles   = 10_000
	leakAccounts = 50
	leakSlack    = 5
)

// leaks is R13 from outside: after 10,000 connections that ended in every way,
// the server's goroutines and descriptors are back where they were.
func (s *suite) leaks(ctx context.Context) (verdict, error) {
	v := verdict{}
	srv, err := s.server("leaks", rig.Setup{Name: "a.test"})
	if err != nil {
		return v, err
	}
	people, err := srv.Accounts(ctx, "p", leakAccounts, true)
	if err != nil {
		return v, err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return v, err
	}
	defer srv.Stop()
	line := leaksLine{Test: "leaks"}
	var n atomic.Int64
	if err := connectAndGo(ctx, srv, people, s.scaled(leakCycles)/20, &n); err != nil { // warm
		return v, err
	}
	if err := sleep(ctx, 3*time.Second); err != nil {
		return v, err
	}
	before, err := inside(ctx, srv)
	if err != nil {
		return v, err
	}
	n.Store(0)
	if err := connectAndGo(ctx, srv, people, s.scaled(leakCycles), &n); err != nil {
		return v, err
	}
	began := time.Now()
	after, err := inside(ctx, srv)
	for err == nil && !near(before, after) && time.Since(began) < 45*time.Second {
		if err = sleep(ctx, 500*time.Millisecond); err == nil {
			after, err = inside(ctx, srv)
		}
	}
	if err != nil {
		return v, err
	}
	line.Connections, line.Settled = n.Load(), tidy(time.Since(began).Seconds())
	line.GoroutinesBefore, line.GoroutinesAfter = before.goroutines, after.goroutines
	line.FilesBefore, line.FilesAfter = before.files, after.files
	line.RSSBefore, line.RSSAfter = tidy(before.rss), tidy(after.rss)
	v.line = line
	v.demand(before.goroutines > 0, "the server does not tell its goroutines (GET /admin/status)")
	v.demand(near(before, after), "goroutines %d -> %d, descriptors %d -> %d", before.goroutines, after.goroutines, before.files, after.files)
	return v, nil
}

type insides struct {
	goroutines, files int
	rss               float64
}

func near(a, b insides) bool {
	return abs(a.goroutines-b.goroutines) <= leakSlack && abs(a.files-b.files) <= leakSlack
}

func abs(n int) int { return max(n, -n) }

// inside asks the server for its goroutines, and the kernel for the rest.
func inside(ctx context.Context, srv *rig.Server) (insides, error) {
	var in insides
	admin, err := srv.Admin()
	if err != nil {
		return in, err
	}
	status, body, err := admin.Raw(ctx, "GET", "/admin/status", "", nil)
	admin.Close()
	if err != nil || status != 200 {
		return in, fmt.Errorf("ask for the server's state: status %d, %w", status, err)
	}
	var told struct {
		Goroutines int `json:"goroutines"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return in, err
	}
	c, err := rig.CostOf(srv.PID())
	return insides{goroutines: told.Goroutines, files: c.Files, rss: c.RSS}, err
}

// connectAndGo makes n connections that end in different ways: after the
// welcome, before it, without a word, in the middle of a frame, by a wrong
// token, after an ordinary request.
func connectAndGo(ctx context.Context, srv *rig.Server, people []*rig.Account, n int, done *atomic.Int64) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for failed.Load() == nil && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := comeAndGo(ctx, srv, people[i%len(people)], i); err != nil {
					err = fmt.Errorf("connection %d: %w", i, err)
					failed.CompareAndSwap(nil, &err)
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

func comeAndGo(ctx context.Context, srv *rig.Server, a *rig.Account, i int) error {
	via := rig.Via{Source: rig.Source(i % 1000)}
	switch i % 6 {
	case 0, 1:
		sock, err := srv.Dial(ctx, a.Access, via)
		if err != nil {
			return err
		}
		sock.Welcome() // a newer socket of the same device may have closed this one
		if i%6 == 1 {
			sock.Queue(rig.AppendAck(nil, 1))
			sock.Flush()
		}
		sock.Close()
	case 2:
		sock, err := srv.Dial(ctx, a.Access, via)
		if err != nil {
			return err
		}
		sock.Close()
	case 3:
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: via.Source}}
		c, err := d.DialContext(ctx, "tcp", srv.Address)
		if err != nil {
			return err
		}
		c.Write([]byte{0x16, 3, 1}) // the beginning of a TLS record
		c.Close()
	case 4:
		if sock, err := srv.Dial(ctx, "not a token", via); err == nil {
			sock.Close()
			return fmt.Errorf("a wrong token opened a socket")
		}
	case 5:
		c := srv.Client(via)
		defer c.Close()
		return c.Do(ctx, "GET", "/me", a.Access, nil, nil)
	}
	return nil
}
