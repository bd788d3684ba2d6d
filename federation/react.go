package federation

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// react decides what follows a failed drain and how long to wait. hold means
// that the wait was the peer's wish.
func (l *senderLane) react(ctx context.Context, err error) (wait time.Duration, hold bool) {
	var own *outboxError
	if errors.As(err, &own) {
		l.s.opts.Log.Error("outbox failed", "peer", string(l.name.peer), "code", string(clearbox.CodeOf(err)), "error", err.Error())
		l.lease = nil
		l.stumble = min(l.stumble+1, 6)
		return min(30*time.Second, time.Second<<(l.stumble-1)), false
	}
	l.stumble = 0
	var failed *attemptError
	if !errors.As(err, &failed) {
		return time.Second, false // the context ended
	}
	var ahead *aheadError
	if errors.As(failed.err, &ahead) {
		return l.restored(ctx, failed, ahead.through), false
	}
	what, refused := classify(failed.err)
	if failed.batch == nil && (what == reactSplit || what == reactRewind) {
		what = reactGrow // nothing was sent that could be halved or sent again
	}
	switch what {
	case reactRewind:
		l.count(ctx, failed)
		return l.rewind(ctx, failed, refused.Expected), false
	case reactSplit:
		return l.split(ctx, failed), false
	case reactFenced:
		l.lease = nil
		return l.grow(ctx, failed), false
	case reactWait:
		l.pace.limited()
		l.failedAttempt(ctx, failed, true)
		return min(refused.RetryAfter, backoffCap) + between(l.s.random, 0, 200*time.Millisecond), true
	case reactQuick:
		if l.backoff.quick++; l.backoff.quick <= maxQuick {
			l.count(ctx, failed)
			return unknownKeyGap, true
		}
	case reactPark:
		l.s.opts.Log.Error("queue parked: the peering does not allow it", "peer", string(l.name.peer), "code", string(clearbox.CodeOf(failed.err)))
		if refused != nil {
			l.s.client.alert(l.name.peer, AlertParked)
		}
		l.failedAttempt(ctx, failed, false)
		return parkedProbe, false
	}
	return l.grow(ctx, failed), false
}

// grow waits longer each time, unless it is us who are cut off.
func (l *senderLane) grow(ctx context.Context, failed *attemptError) time.Duration {
	now := l.s.opts.Now()
	if failed.took >= callBudget {
		l.pace.slow()
	}
	outage, changed := l.s.health.note(l.name.peer, now, false)
	if outage && changed {
		l.s.opts.Log.Error("most peers fail at once: this server seems to be cut off")
	}
	wait := l.backoff.next(now, outage)
	l.failedAttempt(ctx, failed, false)
	if l.backoff.failures == 1 || wait == dormantProbe {
		l.s.opts.Log.Warn("peer does not answer", "peer", string(l.name.peer), "code", string(clearbox.CodeOf(failed.err)), "wait_ms", wait.Milliseconds())
	}
	return wait
}

// count writes the attempt down in the outbox. A failure to do so loses a count,
// and leaves the attempt one that may have arrived.
func (l *senderLane) count(ctx context.Context, failed *attemptError) {
	if failed.batch == nil {
		return
	}
	err := l.s.outbox.Failed(ctx, l.name.peer, l.name.class, failed.batch, outcomeOf(failed.err))
	if err != nil && ctx.Err() == nil {
		l.s.opts.Log.Warn("attempt not counted", "peer", string(l.name.peer), "error", err.Error())
	}
}

// failedAttempt writes the attempt down.
func (l *senderLane) failedAttempt(ctx context.Context, failed *attemptError, alive bool) {
	l.count(ctx, failed)
	code := clearbox.CodeOf(failed.err)
	now := clearbox.Millis(l.s.opts.Now().UnixMilli())
	l.mu.Lock()
	l.status.LastTry, l.status.LastError, l.status.Failures, l.status.Kind = now, code, l.backoff.failures, TroubleOf(failed.err)
	if l.status.Since == 0 {
		l.status.Since = now
	}
	if alive {
		l.status.LastSeen = now
	}
	l.mu.Unlock()
}

// setNext publishes when the next attempt will be.
func (l *senderLane) setNext(ctx context.Context, at time.Time) {
	l.mu.Lock()
	l.status.NextTry = clearbox.Millis(at.UnixMilli())
	status := l.status
	l.mu.Unlock()
	l.s.client.noteCircuit(l.name.peer, CircuitTxn, at.Sub(l.s.opts.Now()))
	l.save(ctx, status)
}

// save keeps the status for operators; losing it is harmless.
func (l *senderLane) save(ctx context.Context, status Status) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.s.client.peers.SaveStatus(ctx, l.name.peer, status); err != nil {
		l.s.opts.Log.Warn("peer status not saved", "peer", string(l.name.peer), "error", err.Error())
	}
}

func (l *senderLane) currentStatus() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// succeeded notes an answer.
func (l *senderLane) succeeded(ctx context.Context) {
	now := l.s.opts.Now()
	if _, changed := l.s.health.note(l.name.peer, now, true); changed {
		l.s.opts.Log.Info("peers answer again")
		l.s.Greet() // the others get a reason to speak to us, and wake our queues to them
	}
	l.s.answers(l.name)
	recovered := l.backoff.failures > 0
	l.backoff.reset()
	l.gaps, l.stumble = 0, 0
	l.mu.Lock()
	ms := clearbox.Millis(now.UnixMilli())
	recovered = recovered || l.status.LastError != ""
	l.status = Status{LastSeen: ms, LastTry: ms}
	write := recovered || now.Sub(l.saved) >= statusEvery || now.Before(l.saved)
	if write {
		l.saved = now
	}
	status := l.status
	l.mu.Unlock()
	if recovered {
		l.s.opts.Log.Info("peer answers again", "peer", string(l.name.peer))
		l.s.client.noteCircuit(l.name.peer, CircuitTxn, 0)
		l.s.client.Contact(l.name.peer)
	}
	if write {
		l.save(ctx, status)
	}
}

// split halves a batch that is too large as a whole, or that the peer cannot
// read as a whole, and sends the halves one after the other; a single item
// that is too much is sent as void and bounced. It sends by itself, with
// nothing else under way, and returns how long to wait.
func (l *senderLane) split(ctx context.Context, failed *attemptError) time.Duration {
	todo := []*Batch{failed.batch}
	code := clearbox.CodeOf(failed.err)
	again := true // the batch at the front was refused as a whole
	for len(todo) > 0 {
		b := todo[0]
		send := b
		var verdict *Verdict
		if again && len(b.Items) > 1 {
			half := len(b.Items) / 2
			todo = append([]*Batch{b.part(0, half), b.part(half, len(b.Items))}, todo[1:]...)
			again = false
			continue
		}
		if again {
			send = &Batch{FirstPos: b.FirstPos, Items: []Item{{Void: true}}, Rows: b.Rows}
			verdict = &Verdict{Code: VerdictRejected, Reason: code}
		}
		l.lastTry = l.s.opts.Now()
		answer, err := l.s.send(ctx, l.name, *l.lease, send)
		if err != nil {
			if what, _ := classify(err); what == reactSplit && verdict == nil {
				again, code = true, clearbox.CodeOf(err)
				continue
			}
			return l.grow(ctx, &attemptError{batch: b, err: err})
		}
		verdicts := answer.Verdicts
		if verdict != nil {
			verdicts = []Verdict{*verdict}
		}
		if err := l.settle(ctx, b, verdicts); err != nil {
			l.lease = nil
			return time.Second
		}
		l.succeeded(ctx)
		todo, again = todo[1:], false
	}
	return 0
}
