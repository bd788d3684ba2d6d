package federation

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// senderLane is the loop of one (peer, class). Everything below the channels
// belongs to its goroutine, but for status.
type senderLane struct {
	s    *Sender
	name laneName

	nudge chan struct{} // capacity 1: something may be due
	wake  chan bool     // capacity 1: the peer was heard of; true: an operator asks

	lease   *Lease
	agreed  bool     // the peer has told how far the lease's stream has come
	highest int64    // position given out on it
	known   bool     // pending has been read since the last failure
	pending []*Batch // dispatched before, to be sent again, in order
	waiting []*flight
	backoff backoff
	pace    pace
	due     time.Time // when the earliest deferred item becomes due; zero = none
	full    bool      // the newest batch was about as big as a batch may be
	sentAt  time.Time // when the newest batch was dispatched
	near    bool      // the newest answer came within nearPace
	gaps    int       // in a row
	stumble int       // errors of the outbox in a row
	lastTry time.Time

	mu     sync.Mutex // guards the fields below
	status Status
	saved  time.Time
}

// flight is a batch under way.
type flight struct {
	batch  *Batch
	cancel context.CancelFunc
	done   chan struct{} // closed when answer or err is set
	answer *Answer
	err    error
	took   time.Duration // until done was closed
}

func newSenderLane(s *Sender, n laneName) *senderLane {
	return &senderLane{
		s: s, name: n, nudge: make(chan struct{}, 1), wake: make(chan bool, 1), backoff: backoff{random: s.random}, pace: newPace(s.opts.Window),
	}
}

func (l *senderLane) nudgeNow() {
	select {
	case l.nudge <- struct{}{}:
	default: // one is waiting, and one is enough
	}
}

func (l *senderLane) wakeNow(force bool) {
	if !force {
		select {
		case l.wake <- false:
		default:
		}
		return
	}
	for { // an operator's wish replaces a weaker one
		select {
		case l.wake <- true:
			return
		default:
		}
		select {
		case <-l.wake:
		default:
		}
	}
}

func (l *senderLane) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.drain(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			l.idle(ctx)
			continue
		}
		l.known = false
		if wait, hold := l.react(ctx, err); wait > 0 {
			l.pause(ctx, wait, hold)
		}
	}
}

// idle waits for work.
func (l *senderLane) idle(ctx context.Context) {
	var due <-chan time.Time
	if !l.due.IsZero() {
		t := time.NewTimer(max(0, l.due.Sub(l.s.opts.Now())))
		defer t.Stop()
		due = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.nudge:
			return
		case force := <-l.wake:
			if force {
				return
			}
		case <-due:
			l.due = time.Time{}
			return
		}
	}
}

// pause waits after a failure. hold is a wait that the peer asked for: only an
// operator shortens it. A peer that speaks to us but does not answer is tried
// every five seconds at most.
func (l *senderLane) pause(ctx context.Context, wait time.Duration, hold bool) {
	l.setNext(ctx, l.s.opts.Now().Add(wait))
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case force := <-l.wake:
			if force {
				l.backoff.contact()
				return
			}
			if hold {
				continue
			}
			l.backoff.contact()
			rest := backoffFloor - l.s.opts.Now().Sub(l.lastTry)
			if rest <= 0 {
				return
			}
			t.Reset(min(rest, backoffFloor))
		}
	}
}

// outboxError is a failure of our own storage, not of the peer.
type outboxError struct{ err error }

func (e *outboxError) Error() string { return "outbox: " + e.err.Error() }
func (e *outboxError) Unwrap() error { return e.err }

// drain sends until nothing is due and nothing is under way, or until
// something fails. After a failure nothing is under way.
func (l *senderLane) drain(ctx context.Context) error {
	defer l.abandon()
	if err := l.open(ctx); err != nil {
		return &outboxError{err}
	}
	for {
		if err := l.fill(ctx); err != nil {
			return err
		}
		if len(l.waiting) == 0 {
			return nil
		}
		if err := l.await(ctx); err != nil {
			return err
		}
		for len(l.waiting) > 0 && l.waiting[0].finished() {
			if err := l.land(ctx); err != nil {
				return err
			}
		}
	}
}

func (l *senderLane) open(ctx context.Context) error {
	peer, class := l.name.peer, l.name.class
	if l.lease == nil {
		lease, err := l.s.outbox.Lease(ctx, peer, class)
		if err != nil {
			return err
		}
		l.lease, l.known, l.agreed, l.highest = &lease, false, false, lease.Next-1
	}
	if !l.known {
		pending, err := l.s.outbox.Pending(ctx, peer, class, *l.lease)
		if err != nil {
			return err
		}
		l.pending, l.known = pending, true
	}
	return nil
}

// fill dispatches as much as the window allows: first what was dispatched
// before, then what is new. While a small batch is under way the next one is
// given some time to grow, so that a near peer gets one after the other, each
// with all that came meanwhile, and a far one still gets several at a time.
func (l *senderLane) fill(ctx context.Context) error {
	for len(l.waiting) < l.window() {
		if !l.agreed {
			if something, err := l.agree(ctx); err != nil || !something {
				return err
			}
		}
		var b *Batch
		if len(l.pending) > 0 {
			var rest *Batch
			if b, rest = l.pending[0].cut(l.pace.bytes); rest != nil {
				l.pending[0] = rest
			} else {
				l.pending = l.pending[1:]
			}
			if err := l.s.outbox.Repeat(ctx, l.name.peer, l.name.class, *l.lease, b); err != nil {
				return &outboxError{err}
			}
		} else {
			if len(l.waiting) > 0 && !l.full && l.s.opts.Now().Sub(l.sentAt) < l.growth() {
				return nil
			}
			var err error
			if d := l.s.opts.BatchDelay; d > 0 && !sleep(ctx, between(l.s.random, 0, d)) {
				return ctx.Err()
			}
			b, err = l.s.outbox.Take(ctx, l.name.peer, l.name.class, *l.lease, MaxItems, l.pace.bytes)
			if err != nil {
				return &outboxError{err}
			}
			l.full = b != nil && (len(b.Items) >= MaxItems/2 || b.size() >= l.pace.bytes/2)
			if b == nil {
				return nil
			}
		}
		l.launch(ctx, b)
	}
	return nil
}

// growth is how long the next batch may grow after a small one was dispatched.
func (l *senderLane) growth() time.Duration {
	if l.near {
		return nearPace
	}
	return pipelinePace
}

// window is how many batches may be under way: one while the peer is only
// being tried.
func (l *senderLane) window() int {
	if l.backoff.failures > 0 {
		return 1
	}
	return l.pace.window
}

func (l *senderLane) launch(ctx context.Context, b *Batch) {
	ctx, cancel := context.WithCancel(ctx)
	f := &flight{batch: b, cancel: cancel, done: make(chan struct{})}
	l.waiting = append(l.waiting, f)
	l.sentAt = l.s.opts.Now()
	l.lastTry, l.highest = l.sentAt, max(l.highest, b.LastPos())
	lease, began := *l.lease, l.sentAt
	go func() { // ends with its context; abandon and land wait for it
		defer close(f.done)
		f.answer, f.err = l.s.send(ctx, l.name, lease, b)
		f.took = l.s.opts.Now().Sub(began)
	}()
}

// abandon ends what is under way: it will be sent again, and the peer knows
// repeats.
func (l *senderLane) abandon() {
	for _, f := range l.waiting {
		f.cancel()
	}
	for _, f := range l.waiting {
		<-f.done
	}
	l.waiting = nil
}

func (f *flight) finished() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// await waits until the oldest flight ended or there may be more to dispatch.
func (l *senderLane) await(ctx context.Context) error {
	var nudge chan struct{}
	var pace <-chan time.Time
	if len(l.waiting) < l.window() {
		nudge = l.nudge
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.waiting[0].done:
			return nil
		case <-nudge:
			most := l.growth()
			rest := most - l.s.opts.Now().Sub(l.sentAt)
			if rest <= 0 || l.full {
				return nil
			}
			t := time.NewTimer(min(rest, most))
			defer t.Stop()
			pace, nudge = t.C, nil
		case <-pace:
			return nil
		}
	}
}

// land takes the oldest flight and settles it.
func (l *senderLane) land(ctx context.Context) error {
	f := l.waiting[0]
	f.cancel()
	if f.err != nil {
		return &attemptError{batch: f.batch, err: f.err, took: f.took}
	}
	if f.answer.AcceptedThrough > l.highest {
		return &attemptError{batch: f.batch, err: &aheadError{through: f.answer.AcceptedThrough}}
	}
	if err := l.settle(ctx, f.batch, f.answer.Verdicts); err != nil {
		return &outboxError{err}
	}
	l.waiting = l.waiting[1:]
	l.near = f.took <= nearPace
	l.pace.landed(f.took)
	l.succeeded(ctx)
	return nil
}

func (l *senderLane) settle(ctx context.Context, b *Batch, verdicts []Verdict) error {
	// What the peer has answered is settled even while we shut down.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	now, busy := l.s.opts.Now(), false
	for i := range verdicts {
		if v := &verdicts[i]; v.Code == VerdictDeferred {
			busy = busy || v.Reason == clearbox.CodeRateLimited
			v.RetryAfter = max(v.RetryAfter, time.Second)
			if at := now.Add(v.RetryAfter); l.due.IsZero() || at.Before(l.due) {
				l.due = at
			}
		}
	}
	if busy {
		l.pace.limited() // of items, not of requests: less at a time all the same
	}
	return l.s.outbox.Settle(ctx, l.name.peer, l.name.class, *l.lease, b, verdicts)
}

// attemptError is a batch, or a question about the stream, that got no answer.
type attemptError struct {
	batch *Batch // nil for a question
	err   error
	took  time.Duration
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

// send makes one attempt for one batch.
func (s *Sender) send(ctx context.Context, n laneName, lease Lease, b *Batch) (*Answer, error) {
	body, err := EncodeTransaction(&Transaction{Stream: lease.Stream, Class: n.class, Fence: lease.Fence, FirstPos: b.FirstPos, Items: b.Items})
	if err != nil {
		return nil, err
	}
	raw, err := s.client.Call(ctx, n.peer, PathTxn, body, MaxAnswer)
	if err != nil {
		return nil, err
	}
	answer, err := DecodeAnswer(raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(answer.Stream, lease.Stream) || answer.FirstPos != b.FirstPos || len(answer.Verdicts) != len(b.Items) || answer.AcceptedThrough < b.LastPos() {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the answer does not fit the transaction")
	}
	return answer, nil
}
