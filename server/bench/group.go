package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// groupMembers get what one more person sends.
const groupMembers = 100

// groupLine is a line of group. Keys are only ever added.
type groupLine struct {
	Scenario   string  `json:"scenario"`
	Members    int     `json:"members"` // beside the sender
	Window     int     `json:"window"`
	Deliveries float64 `json:"deliveries_per_s"`
	P50        float64 `json:"last_p50_ms"` // from the moment before the frame is written until the last member has read it
	P99        float64 `json:"last_p99_ms"`
	CPU        float64 `json:"srv_cpu_s_per_1k"` // deliveries
	RSS        float64 `json:"srv_rss_mib"`
	Errors     int64   `json:"errors"`

	Count   int       `json:"count"` // measured messages
	Written float64   `json:"written_kib_per_msg"`
	LoadCPU float64   `json:"load_cpu_s_per_1k"`
	Runs    []float64 `json:"runs_deliveries_per_s"`
}

// group measures one sender and a group whose members are online.
func (b *bench) group(ctx context.Context) error {
	if err := uploadLine(); err != nil {
		return err
	}
	srv, err := b.server("group", "a.test")
	if err != nil {
		return err
	}
	defer b.discard(srv)
	// Every run has people of its own, as in local.
	people, err := srv.Accounts(ctx, "g", (groupMembers+1)*2*b.runs, true)
	if err != nil {
		return err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return err
	}
	for _, window := range []int{1, 8} {
		if !b.wanted(fmt.Sprintf("members=%d window=%d", groupMembers, window)) {
			continue
		}
		if err := b.groupLine(ctx, srv, window, func() []*rig.Account {
			out := people[:groupMembers+1]
			people = people[groupMembers+1:]
			return out
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) groupLine(ctx context.Context, srv *rig.Server, window int, take func() []*rig.Account) error {
	var all []figures
	var errs int64
	var rates []float64
	for range b.runs {
		f, err := b.groupRun(ctx, srv, window, take())
		if err != nil {
			return fmt.Errorf("%d members, window %d: %w", groupMembers, window, err)
		}
		all = append(all, f)
		errs += f.errors
		rates = append(rates, round(f.msgPerS*groupMembers, 0))
	}
	slices.SortFunc(all, func(x, y figures) int { return int(x.msgPerS - y.msgPerS) })
	f := all[(len(all)-1)/2]
	return print(groupLine{
		Scenario: "group", Members: groupMembers, Window: window, Deliveries: round(f.msgPerS*groupMembers, 0), P50: round(f.p50, 3), P99: round(f.p99, 3),
		CPU: round(f.cpuPer1k/groupMembers, 4), RSS: round(f.rss, 1), Errors: errs, Count: f.count, Written: round(f.writtenKiB, 2),
		LoadCPU: round(f.loadCPUPer1k/groupMembers, 4), Runs: rates,
	})
}

// groupRun makes a group and measures b.measure of it.
func (b *bench) groupRun(ctx context.Context, srv *rig.Server, window int, people []*rig.Account) (figures, error) {
	group, err := srv.NewGroup(ctx, people)
	if err != nil {
		return figures{}, err
	}
	f, err := newAudience(ctx, srv, group, people, window)
	if err != nil {
		return figures{}, err
	}
	f.read()
	if err := sleep(ctx, time.Second); err != nil { // until everybody knows what became of the group
		return figures{}, err
	}
	f.start()
	err = sleep(ctx, b.measure/3)
	before, costErr := costs([]*rig.Server{srv})
	t0, n0 := int64(time.Since(f.began)), f.done.Load()
	if err == nil {
		err = sleep(ctx, b.measure)
	}
	t1, n1 := int64(time.Since(f.began)), f.done.Load()
	after, costErr2 := costs([]*rig.Server{srv})
	f.stop()
	if err := errors.Join(err, costErr, costErr2); err != nil {
		return figures{}, err
	}
	return f.figures(t0, t1, n1-n0, before, after)
}

// audience drives one sender with a window of messages that have not reached
// everybody.
type audience struct {
	from     *rig.Socket
	to       []*rig.Socket
	template *rig.Template
	window   int

	began   time.Time
	stopped atomic.Bool
	next    uint32         // owned by the sender's reader once it reads
	sentAt  []atomic.Int64 // nanoseconds since began
	open    []atomic.Int32 // who has not got a message yet, the answer included
	lastAt  []atomic.Int64
	flying  atomic.Int64
	done    atomic.Int64
	free    chan struct{} // as many as are complete and not replaced
	errors  atomic.Int64
	first   atomic.Pointer[error]
	drained chan struct{} // closed when stopped and nothing is under way
	once    sync.Once
	readers sync.WaitGroup
}

func newAudience(ctx context.Context, srv *rig.Server, group clearbox.GroupRef, people []*rig.Account, window int) (f *audience, err error) {
	f = &audience{window: window, sentAt: make([]atomic.Int64, maxMessages), open: make([]atomic.Int32, maxMessages), lastAt: make([]atomic.Int64, maxMessages),
		free: make(chan struct{}, window), drained: make(chan struct{})}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.template, err = rig.NewGroupTemplate(group, people[1:]); err != nil {
		return f, err
	}
	if f.from, err = open(ctx, srv, people[0], 0); err != nil {
		return f, err
	}
	for i, a := range people[1:] {
		s, err := open(ctx, srv, a, i+1)
		if err != nil {
			return f, err
		}
		f.to = append(f.to, s)
	}
	return f, nil
}

func (f *audience) close() {
	if f.from != nil {
		f.from.Close()
	}
	for _, s := range f.to {
		s.Close()
	}
}

// read begins to read what comes.
func (f *audience) read() {
	f.began = time.Now()
	f.readers.Go(f.readAnswers)
	for _, s := range f.to {
		f.readers.Go(func() { f.readMail(s) })
	}
}

// start sends the first window.
func (f *audience) start() {
	f.flying.Store(1) // held until the sender ends
	f.readers.Go(f.write)
	for range f.window {
		f.free <- struct{}{}
	}
}

// write sends a message for each one that is complete until it is stopped.
func (f *audience) write() {
	for range f.free {
		if f.stopped.Load() || f.next >= maxMessages {
			break
		}
		i := f.next
		f.next++
		f.open[i].Store(int32(len(f.to) + 1))
		f.flying.Add(1)
		f.sentAt[i].Store(int64(time.Since(f.began)))
		f.from.Queue(f.template.Message(0, i))
		if err := f.from.Flush(); err != nil {
			f.lost("sender's socket", err)
			break
		}
	}
	f.land()
}

func (f *audience) land() {
	if f.flying.Add(-1) == 0 {
		f.once.Do(func() { close(f.drained) })
	}
}

// mark notes that one more has message i; the last one completes it.
func (f *audience) mark(i uint32) {
	if f.open[i].Add(-1) > 0 {
		return
	}
	f.lastAt[i].Store(int64(time.Since(f.began)))
	f.done.Add(1)
	select {
	case f.free <- struct{}{}:
	default: // the sender has ended
	}
	f.land()
}

func (f *audience) fail(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	f.first.CompareAndSwap(nil, &err)
	f.errors.Add(1)
}

func (f *audience) lost(what string, err error) {
	if !f.stopped.Load() {
		f.fail("lost the %s: %w", what, err)
	}
}

func (f *audience) readAnswers() {
	for {
		frame, _, err := f.from.Next()
		if err != nil {
			f.lost("sender's socket", err)
			return
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			f.lost("sender's socket", err)
			return
		}
		switch e.Type {
		case wire.FrameSent:
			f.mark(uint32(e.Ref - rig.FirstRef))
		case wire.FrameError:
			f.fail("message %d: %s", e.Ref-rig.FirstRef, e.Code)
		case wire.FrameReceive: // of the group's making, or a notice
			f.from.Queue(rig.AppendAck(nil, e.Seq))
			f.from.Flush()
		}
	}
}

// readMail reads a member's mail and acknowledges it where a burst ends.
func (f *audience) readMail(s *rig.Socket) {
	var seq int64
	var next uint32
	var ack []byte
	for {
		frame, more, err := s.Next()
		if err != nil {
			f.lost("member's socket", err)
			return
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			f.lost("member's socket", err)
			return
		}
		if e.Type == wire.FrameReceive {
			seq = e.Seq
			if _, i, ok := e.GroupOrigin(); ok {
				if i != next {
					f.fail("message %d in place of %d", i, next)
				}
				next = i + 1
				f.mark(i)
			}
		}
		if !more && seq > 0 {
			ack = rig.AppendAck(ack[:0], seq)
			s.Queue(ack)
			s.Flush()
			seq = 0
		}
	}
}

// stop lets what is under way arrive and closes the sockets.
func (f *audience) stop() {
	f.stopped.Store(true)
	select {
	case f.free <- struct{}{}:
	default:
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-f.drained:
	case <-timer.C:
		f.fail("%d messages did not arrive everywhere", f.flying.Load())
	}
	f.close()
	f.readers.Wait()
}

func (f *audience) figures(t0, t1, n int64, before, after spent) (figures, error) {
	var lat []int64
	for i := range f.next {
		if at := f.lastAt[i].Load(); at >= t0 && at < t1 {
			lat = append(lat, at-f.sentAt[i].Load())
		}
	}
	slices.Sort(lat)
	var first error
	if e := f.first.Load(); e != nil {
		first = *e
	}
	if n == 0 || len(lat) == 0 {
		return figures{}, errors.Join(errNothing, first)
	}
	if f.errors.Load() > n/10 {
		return figures{}, fmt.Errorf("%d errors in %d messages, the first: %w", f.errors.Load(), n, first)
	}
	return figures{
		msgPerS: float64(n) / (float64(t1-t0) / 1e9), count: int(n), p50: percentile(lat, 50) / 1e6, p99: percentile(lat, 99) / 1e6,
		cpuPer1k: (after.cpu - before.cpu) / float64(n) * 1000, rss: after.peak,
		writtenKiB: float64(after.written-before.written) / 1024 / float64(n), loadCPUPer1k: (after.own - before.own) / float64(n) * 1000,
		errors: f.errors.Load(),
	}, nil
}

// uploadLine prints what one upload to 1,000 members on 10 servers costs beside
// its payload.
func uploadLine() error {
	to := make([]*rig.Account, clearbox.MaxGroup)
	for i := range to {
		a, err := rig.Stranger(clearbox.ServerName(fmt.Sprintf("s%d.test", i%10)))
		if err != nil {
			return err
		}
		to[i] = a
	}
	t, err := rig.NewGroupTemplate(clearbox.GroupRef{ID: clearbox.GroupID{1}, Epoch: 1 << 20}, to)
	if err != nil {
		return err
	}
	return print(struct {
		Scenario string  `json:"scenario"`
		Members  int     `json:"members"`
		Servers  int     `json:"servers"`
		Bytes    float64 `json:"bytes_per_device"`
	}{"group-upload", len(to), 10, round(float64(t.Len()-rig.PayloadSize)/float64(len(to)), 2)})
}
