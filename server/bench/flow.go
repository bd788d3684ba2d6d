package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// A message is under way until its sender has the server's answer and its
// recipient's socket has the message: both, so that a window of one means one
// message at a time from end to end. Latency is from the moment before the
// frame is written to the moment after it was read.

const (
	answered uint8 = 1 << iota
	received
	finished = answered | received
)

// maxMessages bounds one pair; the quota of an account is reached before.
const maxMessages = 1 << 14

// pair is one sender and one recipient.
type pair struct {
	no       uint32
	from, to *rig.Socket

	mu       sync.Mutex
	template *rig.Template // guarded by mu
	next     uint32        // guarded by mu; number of the next message
	state    []uint8       // guarded by mu
	sentAt   []int64       // guarded by mu; nanoseconds since flow.began

	times []timed // owned by the recipient's reader until the flow has ended
}

// timed is one arrival.
type timed struct{ at, took int64 } // nanoseconds

// flow drives pairs with a fixed window each.
type flow struct {
	pairs  []*pair
	window int
	limit  uint32 // messages of one pair; 0: until stopped
	away   bool   // the recipients are offline: an answer completes a message

	began     time.Time
	stopped   atomic.Bool
	flying    atomic.Int64
	done      atomic.Int64
	errors    atomic.Int64
	firstErr  atomic.Pointer[error]
	drained   chan struct{} // closed when stopped and nothing is under way
	drainOnce sync.Once
	readers   sync.WaitGroup
}

func newFlow(pairs []*pair, window int, limit uint32) *flow {
	return &flow{pairs: pairs, window: window, limit: limit, drained: make(chan struct{})}
}

// start sends the first windows and begins to read.
func (f *flow) start() {
	f.began = time.Now()
	f.flying.Store(1) // held until every pair has begun
	for _, p := range f.pairs {
		f.readers.Add(1)
		go f.readAnswers(p)
		if !f.away {
			f.readers.Add(1)
			go f.readMail(p)
		}
	}
	for _, p := range f.pairs {
		f.send(p, f.window)
		p.from.Flush()
	}
	f.land(1)
}

// send queues up to n more messages of p; the caller flushes.
func (f *flow) send(p *pair, n int) {
	if f.stopped.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range n {
		if p.next >= maxMessages || f.limit > 0 && p.next >= f.limit {
			return
		}
		i := p.next
		p.next++
		f.flying.Add(1)
		p.sentAt[i] = int64(time.Since(f.began))
		if f.away {
			p.state[i] = received
		}
		p.from.Queue(p.template.Message(p.no, i))
	}
}

// mark notes one half of message i and tells whether that completed it; fresh
// is false for a repeat.
func (p *pair) mark(i uint32, half uint8) (sentAt int64, complete, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= p.next || p.state[i]&half != 0 {
		return 0, false, false
	}
	p.state[i] |= half
	return p.sentAt[i], p.state[i] == finished, true
}

func (f *flow) land(n int64) {
	if f.flying.Add(-n) == 0 {
		f.drainOnce.Do(func() { close(f.drained) })
	}
}

func (f *flow) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	f.firstErr.CompareAndSwap(nil, &err)
	f.errors.Add(1)
}

// lost reports a socket that ended before the flow was stopped.
func (f *flow) lost(p *pair, what string, err error) {
	if !f.stopped.Load() {
		f.fail("pair %d lost its %s: %w", p.no, what, err)
	}
}

// readAnswers handles what the server tells the sender.
func (f *flow) readAnswers(p *pair) {
	defer f.readers.Done()
	free := 0
	for {
		frame, more, err := p.from.Next()
		if err != nil {
			f.lost(p, "sender's socket", err)
			return
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			f.lost(p, "sender's socket", err)
			return
		}
		switch e.Type {
		case wire.FrameSent:
			if _, complete, fresh := p.mark(uint32(e.Ref-rig.FirstRef), answered); complete {
				free++
			} else if !fresh {
				f.fail("pair %d: a second answer to message %d", p.no, e.Ref-rig.FirstRef)
			}
		case wire.FrameError:
			f.fail("pair %d: %s", p.no, e.Code)
			i := uint32(e.Ref - rig.FirstRef)
			p.mark(i, received)
			if _, complete, _ := p.mark(i, answered); complete {
				free++
			}
		case wire.FrameReceive: // a notice
			f.fail("pair %d: a notice instead of a delivery", p.no)
			p.from.Queue(rig.AppendAck(nil, e.Seq))
		}
		if !more {
			f.refill(p, free)
			free = 0
		}
	}
}

// refill replaces free messages that are complete.
func (f *flow) refill(p *pair, free int) {
	if free > 0 {
		f.send(p, free)
		f.done.Add(int64(free))
	}
	p.from.Flush()
	if free > 0 {
		f.land(int64(free))
	}
}

// readMail handles the recipient's mail. It acknowledges cumulatively where a
// burst of arrived frames ends.
func (f *flow) readMail(p *pair) {
	defer f.readers.Done()
	var (
		seq  int64
		free int
		ack  []byte
	)
	for {
		frame, more, err := p.to.Next()
		if err != nil {
			f.lost(p, "recipient's socket", err)
			return
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			f.lost(p, "recipient's socket", err)
			return
		}
		if e.Type == wire.FrameReceive {
			now := int64(time.Since(f.began))
			if e.Seq <= seq {
				f.fail("pair %d: sequence %d after %d", p.no, e.Seq, seq)
			}
			seq = e.Seq
			sender, i, ok := e.Origin()
			switch {
			case !ok || sender != p.no:
				f.fail("pair %d: mail that nobody here sent", p.no)
			default:
				at, complete, fresh := p.mark(i, received)
				if !fresh {
					f.fail("pair %d: message %d came twice", p.no, i)
				} else {
					p.times = append(p.times, timed{now, now - at})
				}
				if complete {
					free++
				}
			}
		}
		if !more {
			if seq > 0 {
				ack = rig.AppendAck(ack[:0], seq)
				p.to.Queue(ack)
				p.to.Flush()
			}
			if free > 0 {
				f.refill(p, free)
				free = 0
			}
		}
	}
}

// stop lets what is under way arrive, closes the sockets and waits for the
// readers. What did not arrive within 10 seconds counts as errors.
func (f *flow) stop() {
	f.stopped.Store(true)
	if f.flying.Load() == 0 {
		f.drainOnce.Do(func() { close(f.drained) })
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-f.drained:
	case <-timer.C:
		f.fail("%d messages did not arrive", f.flying.Load())
		f.errors.Add(f.flying.Load() - 1)
	}
	for _, p := range f.pairs {
		p.from.Close()
		p.to.Close()
	}
	f.readers.Wait()
}

// err is the first thing that went wrong.
func (f *flow) err() error {
	if e := f.firstErr.Load(); e != nil {
		return *e
	}
	return nil
}

// latencies of the arrivals in a stretch of time, sorted.
func (f *flow) latencies(from, to int64) []int64 {
	var out []int64
	for _, p := range f.pairs {
		for _, t := range p.times {
			if t.at >= from && t.at < to {
				out = append(out, t.took)
			}
		}
	}
	slices.Sort(out)
	return out
}

// connect opens the sockets of pairs: sender i at one server writes to
// recipient i at the other (which may be the same).
func connect(ctx context.Context, from, to *rig.Server, senders, recipients []*rig.Account) (pairs []*pair, err error) {
	defer func() {
		if err != nil {
			for _, p := range pairs {
				p.from.Close()
				if p.to != nil {
					p.to.Close()
				}
			}
		}
	}()
	for i := range senders {
		p := &pair{no: uint32(i), state: make([]uint8, maxMessages), sentAt: make([]int64, maxMessages), times: make([]timed, 0, 2048)}
		if p.template, err = rig.NewTemplate(recipients[i]); err != nil {
			return pairs, err
		}
		if p.from, err = open(ctx, from, senders[i], 2*i); err != nil {
			return pairs, err
		}
		pairs = append(pairs, p)
		if p.to, err = open(ctx, to, recipients[i], 2*i+1); err != nil {
			return pairs, err
		}
	}
	return pairs, nil
}

func open(ctx context.Context, s *rig.Server, a *rig.Account, source int) (*rig.Socket, error) {
	sock, err := s.Dial(ctx, a.Access, rig.Via{Source: rig.Source(source)})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.Name, err)
	}
	if err := sock.Welcome(); err != nil {
		sock.Close()
		return nil, err
	}
	return sock, nil
}

// figures of one run.
type figures struct {
	msgPerS, p50, p95, p99, cpuPer1k, rss, writtenKiB, loadCPUPer1k float64
	count                                                           int
	errors                                                          int64
}

var errNothing = errors.New("no message arrived in the measured time")

// timedRun warms up, measures for b.measure and gives the figures. The servers'
// CPU and written bytes are added up, the memory is the largest one's.
func (b *bench) timedRun(ctx context.Context, pairs []*pair, window int, servers ...*rig.Server) (figures, error) {
	f := newFlow(pairs, window, 0)
	f.start()
	err := sleep(ctx, b.measure/3)
	before, costErr := costs(servers)
	t0, n0 := int64(time.Since(f.began)), f.done.Load()
	if err == nil {
		err = sleep(ctx, b.measure)
	}
	t1, n1 := int64(time.Since(f.began)), f.done.Load()
	after, costErr2 := costs(servers)
	f.stop()
	if err := errors.Join(err, costErr, costErr2); err != nil {
		return figures{}, errors.Join(err, f.err())
	}
	return f.figures(t0, t1, n1-n0, before, after)
}

func (f *flow) figures(t0, t1, n int64, before, after spent) (figures, error) {
	lat := f.latencies(t0, t1)
	if n == 0 || len(lat) == 0 {
		return figures{}, errors.Join(errNothing, f.err())
	}
	const ms = 1e6
	return figures{
		msgPerS: float64(n) / (float64(t1-t0) / 1e9), count: int(n),
		p50: percentile(lat, 50) / ms, p95: percentile(lat, 95) / ms, p99: percentile(lat, 99) / ms,
		cpuPer1k: (after.cpu - before.cpu) / float64(n) * 1000, rss: after.peak,
		writtenKiB: float64(after.written-before.written) / 1024 / float64(n), loadCPUPer1k: (after.own - before.own) / float64(n) * 1000,
		errors: f.errors.Load(),
	}, f.errorsAreFatal(n)
}

// errorsAreFatal tells of a run that is more failure than load.
func (f *flow) errorsAreFatal(n int64) error {
	if f.errors.Load() > n/10 {
		return fmt.Errorf("%d errors in %d messages, the first: %w", f.errors.Load(), n, f.err())
	}
	return nil
}

// spent is what servers and this process used so far.
type spent struct {
	cpu, peak, own float64
	written        int64
}

func costs(servers []*rig.Server) (spent, error) {
	var s spent
	for _, srv := range servers {
		c, err := rig.CostOf(srv.PID())
		if err != nil {
			return s, err
		}
		s.cpu += c.CPU
		s.peak = max(s.peak, c.Peak)
		s.written += c.Written
	}
	own, err := rig.OwnCPU()
	s.own = own
	return s, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
