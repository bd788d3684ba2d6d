package federation

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Position says how far a stream has come. Its sender says so in a greeting
// before it sends anything under a new lease, and the receiver's answer tells
// what was accepted: a homeserver that was restored from a backup learns that
// it has given the next positions out before, and opens a new stream. Without
// that the receiver would take new messages for repeats of old ones.
type Position struct {
	Class  Class  `cbor:"class"`
	Stream []byte `cbor:"stream"` // empty in an answer: nothing was accepted yet
	Fence  int64  `cbor:"lease"`  // in an answer: the highest that was seen
	Last   int64  `cbor:"last"`   // given out, or in an answer: accepted
}

func (p *Position) valid() bool {
	return p.Class.Valid() && (len(p.Stream) == 16 || len(p.Stream) == 0) && p.Fence >= 0 && p.Last >= 0 && p.Last <= maxPosition
}

// maxStreams bounds the positions in one greeting: one for each class.
const maxStreams = 2

// aheadError says that the peer has accepted positions that this server does
// not know to have given out.
type aheadError struct{ through int64 }

func (e *aheadError) Error() string {
	return fmt.Sprintf("the peer has accepted everything up to position %d", e.through)
}

// Unwrap gives the error its code.
func (e *aheadError) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeGap} }

// agree asks the peer how far the stream has come, when there is something to
// send. After it nothing of an older lease is accepted any more.
func (l *senderLane) agree(ctx context.Context) (something bool, err error) {
	if len(l.pending) == 0 {
		due, err := l.s.outbox.Due(ctx, l.name.class)
		if err != nil {
			return false, &outboxError{err}
		}
		if !slices.Contains(due, l.name.peer) {
			return false, nil
		}
	}
	l.lastTry = l.s.opts.Now()
	own := Position{Class: l.name.class, Stream: l.lease.Stream, Fence: l.lease.Fence, Last: l.lease.Next - 1}
	hello, err := l.s.client.Hello(ctx, l.name.peer, own)
	if err != nil {
		return false, &attemptError{err: err, took: l.s.opts.Now().Sub(l.lastTry)}
	}
	for i := range hello.Streams {
		p := &hello.Streams[i]
		if p.valid() && p.Class == own.Class && bytes.Equal(p.Stream, own.Stream) && p.Last > own.Last {
			return false, &attemptError{err: &aheadError{through: p.Last}}
		}
	}
	l.agreed = true
	return true, nil
}

// rewind follows a gap. Most are stale: the transaction before was slow, and
// this one was not parked for long enough. So what is pending is sent again, one
// transaction at a time. Only when a lone one gets a gap as well the peer
// expects what nobody holds any more, since it was restored from a backup: a new
// stream begins.
func (l *senderLane) rewind(ctx context.Context, failed *attemptError, expected int64) time.Duration {
	l.gaps++
	l.pace.overtaken()
	if l.gaps < 2 {
		return 0
	}
	pending, err := l.s.outbox.Pending(ctx, l.name.peer, l.name.class, *l.lease)
	if err != nil {
		l.lease = nil
		return time.Second
	}
	if len(pending) > 0 && (expected < pending[0].FirstPos || expected > pending[len(pending)-1].LastPos()+1) {
		l.s.opts.Log.Warn("the peer seems to be restored from a backup: it expects a position that is not pending",
			"peer", string(l.name.peer), "expected", expected, "first_pos", pending[0].FirstPos)
		if err := l.restart(ctx, expected); err != nil {
			return time.Second
		}
	}
	if l.gaps > 2 { // sending again did not help
		return l.grow(ctx, failed)
	}
	return 0
}

// restored follows the peer's word that it has accepted more than was sent as
// far as this server remembers: it was itself restored from a backup.
func (l *senderLane) restored(ctx context.Context, failed *attemptError, through int64) time.Duration {
	l.s.opts.Log.Warn("this server seems to be restored from a backup: the peer has accepted more than was sent",
		"peer", string(l.name.peer), "accepted_through", through, "sent_through", l.highest)
	l.gaps++
	if err := l.restart(ctx, through+1); err != nil {
		return time.Second
	}
	if l.gaps > 2 { // a peer that says so of a new stream too
		return l.grow(ctx, failed)
	}
	return 0
}

// restart opens a new stream; the next greeting says so.
func (l *senderLane) restart(ctx context.Context, expected int64) error {
	lease, err := l.s.outbox.Rewind(ctx, l.name.peer, l.name.class, *l.lease, expected)
	if err != nil {
		l.s.opts.Log.Error("stream not restarted", "peer", string(l.name.peer), "error", err.Error())
		l.lease = nil
		return err
	}
	l.lease, l.agreed, l.highest = &lease, false, lease.Next-1
	return nil
}
