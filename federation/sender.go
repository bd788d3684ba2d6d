package federation

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

const (
	duePoll      = 30 * time.Second      // readers also look on a timer: a lost nudge costs time only
	pipelinePace = 5 * time.Millisecond  // between small batches that are under way to a far peer at one time
	nearPace     = 25 * time.Millisecond // the same for a peer that answers sooner
	helloPerPeer = 50 * time.Millisecond // jitter of greetings: min(30 s, 50 ms x peers)
	helloSpread  = 30 * time.Second
	helloAtOnce  = 16
	statusEvery  = 10 * time.Minute // how often an undisturbed contact is written down
)

// MaxBatchDelay bounds SenderOptions.BatchDelay.
const MaxBatchDelay = 2 * time.Second

// SenderOptions configure a Sender.
type SenderOptions struct {
	Window int     // transactions under way per (peer, class), 1 to MaxInFlight; default MaxInFlight
	Class  []Class // default ClassMessage
	// BatchDelay is the most that a batch waits, for a random time, before it is
	// taken, so that who watches the wire cannot match what leaves with what came
	// in. 0 is off; at most MaxBatchDelay.
	BatchDelay time.Duration
	Now        func() time.Time
	Random     io.Reader
	Log        *slog.Logger
}

// Sender empties the outbox: one loop per (peer, class) sends batches in order
// under a lease until each is answered. It is safe for concurrent use.
type Sender struct {
	client *Client
	outbox Outbox
	opts   SenderOptions
	random *lockedReader
	health *health

	mu      sync.Mutex // guards lanes, ctx and wg.Go against Run's end
	lanes   map[laneName]*senderLane
	ctx     context.Context // of Run; nil before it and after it
	wg      sync.WaitGroup
	greeter chan struct{} // capacity 1: greet all peers
}

// lockedReader lets the lanes share one source of randomness.
type lockedReader struct {
	mu sync.Mutex // held during a read
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

// NewSender starts nothing.
func NewSender(client *Client, outbox Outbox, opts SenderOptions) *Sender {
	if opts.Window <= 0 || opts.Window > MaxInFlight {
		opts.Window = MaxInFlight
	}
	if len(opts.Class) == 0 {
		opts.Class = []Class{ClassMessage}
	}
	opts.BatchDelay = max(0, min(opts.BatchDelay, MaxBatchDelay))
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Random == nil {
		opts.Random = rand.Reader
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{
		client: client, outbox: outbox, opts: opts, random: &lockedReader{r: opts.Random}, health: newHealth(),
		lanes: map[laneName]*senderLane{}, greeter: make(chan struct{}, 1),
	}
}

// Run sends until ctx ends and all loops have stopped. It greets every active
// peer at the start.
func (s *Sender) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	for _, l := range s.lanes {
		s.start(l)
	}
	s.mu.Unlock()
	s.Greet()
	s.wg.Go(func() { s.greet(ctx) })

	tick := time.NewTicker(duePoll)
	defer tick.Stop()
	for {
		s.lookAround(ctx)
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.wg.Wait()
	return ctx.Err()
}

// start needs mu and a running Run.
func (s *Sender) start(l *senderLane) {
	ctx := s.ctx
	if ctx == nil || ctx.Err() != nil {
		return
	}
	s.wg.Go(func() { l.run(ctx) })
}

func (s *Sender) lane(peer clearbox.ServerName, class Class, create bool) *senderLane {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := laneName{peer, class}
	l := s.lanes[n]
	if l == nil && create {
		l = newSenderLane(s, n)
		s.lanes[n] = l
		s.start(l)
	}
	return l
}

func (s *Sender) lookAround(ctx context.Context) {
	for _, class := range s.opts.Class {
		peers, err := s.outbox.Due(ctx, class)
		if err != nil {
			if ctx.Err() == nil {
				s.opts.Log.Error("outbox not readable", "error", err.Error())
			}
			continue
		}
		for _, p := range peers {
			s.lane(p, class, true).nudgeNow()
		}
	}
}

// Nudge says that something is due for the peer, in the classes that are named
// or in any. It never blocks and does not shorten a wait for a peer that is
// away.
func (s *Sender) Nudge(peer clearbox.ServerName, classes ...Class) {
	if len(classes) == 0 {
		classes = s.opts.Class
	}
	for _, class := range classes {
		s.lane(peer, class, true).nudgeNow()
	}
}

// Wake says that the peer was heard of: a wait for it ends now. It never blocks.
func (s *Sender) Wake(peer clearbox.ServerName) {
	for _, class := range s.opts.Class {
		if l := s.lane(peer, class, false); l != nil {
			l.wakeNow(false)
		}
	}
}

// answers wakes the peer's other queues that could not reach it. One that the
// peer refused, or has asked to wait, stays as it is.
func (s *Sender) answers(n laneName) {
	for _, class := range s.opts.Class {
		if class == n.class {
			continue
		}
		if l := s.lane(n.peer, class, false); l != nil && l.currentStatus().Kind.away() {
			l.wakeNow(false)
		}
	}
}

// Retry is Wake by an operator: it also ends a wait that the peer asked for
// and the pause of a queue that the peer refused.
func (s *Sender) Retry(peer clearbox.ServerName) {
	s.client.Contact(peer)
	for _, class := range s.opts.Class {
		s.lane(peer, class, true).wakeNow(true)
	}
}

// Status is the sender's view of the peer since the start.
func (s *Sender) Status(peer clearbox.ServerName) Status {
	if l := s.lane(peer, s.opts.Class[0], false); l != nil {
		return l.currentStatus()
	}
	return Status{}
}

// Greet has every active peer greeted soon, as after an outage of our own.
func (s *Sender) Greet() {
	select {
	case s.greeter <- struct{}{}:
	default: // one round is waiting already
	}
}

// greet sends hello rounds, jittered so that the peers' answers do not come
// all at once.
func (s *Sender) greet(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.greeter:
		}
		peers, err := s.client.peers.Active(ctx)
		if err != nil {
			continue // the next round or any message will do
		}
		spread := min(helloSpread, time.Duration(len(peers))*helloPerPeer)
		places := make(chan struct{}, helloAtOnce) // bounds the greetings under way
		var round sync.WaitGroup
		for _, p := range peers {
			delay := between(s.random, 0, spread)
			round.Go(func() {
				if !sleep(ctx, delay) {
					return
				}
				places <- struct{}{}
				defer func() { <-places }()
				s.greetOne(ctx, p)
			})
		}
		round.Wait()
	}
}

func (s *Sender) greetOne(ctx context.Context, peer clearbox.ServerName) {
	if _, err := s.client.Hello(ctx, peer); err != nil {
		s.opts.Log.Debug("peer not greeted", "peer", string(peer), "code", string(clearbox.CodeOf(err)))
		return
	}
	s.client.Contact(peer)
	s.Wake(peer)
}

// sleep waits and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// health notices an outage of our own: more than 80 % of at least five peers
// failing within a minute (federation.md, 8).
type health struct {
	mu     sync.Mutex // guards the fields below
	last   map[clearbox.ServerName]attempt
	outage bool
}

type attempt struct {
	at time.Time
	ok bool
}

const (
	healthWindow = time.Minute
	healthPeers  = 5
)

func newHealth() *health { return &health{last: map[clearbox.ServerName]attempt{}} }

// note records an attempt and tells whether we seem to be the ones cut off,
// and whether that has just begun or just ended.
func (h *health) note(peer clearbox.ServerName, now time.Time, ok bool) (outage, changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[peer] = attempt{now, ok}
	tried, failed := 0, 0
	for p, a := range h.last {
		switch {
		case now.Sub(a.at) > healthWindow:
			delete(h.last, p)
		case a.ok:
			tried++
		default:
			tried, failed = tried+1, failed+1
		}
	}
	before := h.outage
	if ok {
		h.outage = false
	} else if tried >= healthPeers && failed*5 > tried*4 {
		h.outage = true
	}
	return h.outage, h.outage != before
}
