package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
// reading, beside ordinary clients, whose p99 may at most double.
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
	if _, err := talk(ctx, pairs, time.Second); err != nil { // warm
		return v, err
	}
	idle, err := talk(ctx, pairs, slowMeasure)
	if err != nil {
		return v, err
	}
	d := &drag{srv: srv, cut: map[string]time.Duration{}}
	defer d.close()
	watched := make(chan error, 1) // the watcher's result
	go func() { watched <- d.watch(ctx) }()
	if err := d.open(ctx, s.scaled(slowCount)); err != nil {
		return v, err
	}
	beside, err := talk(ctx, pairs, slowMeasure)
	if err != nil {
		return v, err
	}
	if err := <-watched; err != nil {
		return v, err
	}
	line := slowLine{Test: "slow", Slow: len(d.all), Messages: len(idle) + len(beside), CutBy: map[string]float64{}, Uncut: d.uncut}
	line.IdleP50, line.IdleP99 = tidy(at(idle, 50)), tidy(at(idle, 99))
	line.BesideP50, line.BesideP99 = tidy(at(beside, 50)), tidy(at(beside, 99))
	for kind, took := range d.cut {
		line.CutBy[kind] = tidy(took.Seconds())
		line.Cut = max(line.Cut, tidy(took.Seconds()))
	}
	v.line = line
	v.demand(line.BesideP99 <= 2*line.IdleP99, "p99 rose from %.2f to %.2f ms", line.IdleP99, line.BesideP99)
	v.demand(line.Uncut == 0, "%d slow connections were still open after %s", line.Uncut, 4*slowLimit)
	v.demand(line.Cut <= (slowLimit+slowTick).Seconds(), "a slow connection lived for %.1f s", line.Cut)
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

func (t *talker) close() {
	t.from.Close()
	if t.to != nil {
		t.to.Close()
	}
}

// drag is a crowd of slow connections.
type drag struct {
	srv   *rig.Server
	cut   map[string]time.Duration // the longest life by kind; owned by watch
	uncut int                      // owned by watch

	mu     sync.Mutex
	all    []*dragged // guarded by mu
	opened bool       // guarded by mu; no more come
}

type dragged struct {
	kind  string
	conn  net.Conn
	tls   *tls.Conn
	local netip.AddrPort
	began time.Time
	drip  string // what is sent, a byte a second
	gone  bool
}

// open opens n slow connections of all kinds from many addresses.
// Eight at a time, since those that were opened first do not live long.
func (d *drag) open(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n && failed.Load() == nil; i += 8 {
				x, err := d.one(ctx, i)
				if err != nil {
					err = fmt.Errorf("slow connection %d: %w", i, err)
					failed.Store(&err)
					return
				}
				d.mu.Lock()
				d.all = append(d.all, x)
				d.mu.Unlock()
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	d.opened = true
	d.mu.Unlock()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// present gives the connections so far and whether that is all.
func (d *drag) present() ([]*dragged, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.all), d.opened
}

func (d *drag) one(ctx context.Context, i int) (*dragged, error) {
	// Few readers, because each makes the server fill the kernel's buffers
	// first: some MiB, which is work and not slowness.
	kinds := [10]string{"handshake", "header", "body", "handshake", "header", "body", "handshake", "header", "body", "read"}
	x := &dragged{kind: kinds[i%10], began: time.Now()}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: rig.Source(2000 + i)}, Timeout: 5 * time.Second}
	if x.kind == "read" {
		dialer.Control = rig.SmallWindow // before the connection is made, or it is too late
	}
	conn, err := dialer.DialContext(ctx, "tcp", d.srv.Address)
	if err != nil {
		return nil, err
	}
	x.conn, x.local = conn, conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if x.kind == "handshake" {
		x.drip = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200)
		return x, nil
	}
	cfg := d.srv.ClientTLS()
	cfg.NextProtos = []string{"http/1.1"}
	x.tls = tls.Client(conn, cfg)
	if err := x.tls.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	x.began = time.Now()
	host := "Host: " + d.srv.Address + "\r\n"
	switch x.kind {
	case "header":
		x.drip = "GET /livez HTTP/1.1\r\n" + host + "X-Slow: " + strings.Repeat("a", 1000)
	case "body":
		_, err = x.tls.Write([]byte("POST /auth/login HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"))
		x.drip = strings.Repeat(" ", 1000)
	case "read":
		// Many answers are asked for and none is read, so that the server's
		// writes come to a halt.
		_, err = x.tls.Write([]byte(strings.Repeat("GET /openapi.yaml HTTP/1.1\r\n"+host+"\r\n", 120)))
	}
	return x, err
}

// watch feeds the slow ones and notes when the server lets go of each, until
// all are gone or twice the limit has passed.
func (d *drag) watch(ctx context.Context) error {
	end := time.Now().Add(4 * slowLimit)
	for tick := 0; ; tick++ {
		all, complete := d.present() // before the kernel is asked
		open, err := d.srv.Established()
		if err != nil {
			return err
		}
		left := 0
		for _, x := range all {
			if x.gone {
				continue
			}
			if !open[x.local] {
				x.gone = true
				d.cut[x.kind] = max(d.cut[x.kind], time.Since(x.began))
				continue
			}
			left++
			if tick%5 == 0 {
				x.feed()
			}
		}
		if d.uncut = left; complete && left == 0 || time.Now().After(end) {
			return nil
		}
		if err := sleep(ctx, slowTick); err != nil {
			return err
		}
	}
}

// feed sends the next byte.
func (x *dragged) feed() {
	if x.drip == "" {
		return
	}
	b := []byte(x.drip[:1])
	x.drip = x.drip[1:]
	x.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if x.tls != nil {
		x.tls.Write(b)
	} else {
		x.conn.Write(b)
	}
}

func (d *drag) close() {
	for _, x := range d.all {
		x.conn.Close()
	}
}
