package core

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How the brain reconnects.
const (
	backoffFirst = 500 * time.Millisecond
	backoffMost  = time.Minute
	steadyAfter  = 10 * time.Second // a connection that lasted so long starts the backoff anew
	pollFor      = 10 * time.Minute // after which a polling brain tries the socket again
)

// Run keeps the brain connected until ctx ends: it receives, sends what is
// queued, and tends keys. It reconnects by itself, with growing and jittered
// pauses. It returns ctx's error, or one that waiting does not mend:
// ErrNoAccount, ErrLoginRequired, ErrRemoved, ErrReplaced, ErrRunning, or
// one that wraps ErrVaultBroken. All its goroutines have ended then.
func (b *Brain) Run(ctx context.Context) error {
	if err := b.begin(); err != nil {
		return err
	}
	defer b.end()
	defer b.beside(ctx, b.expire)()
	wait := backoffFirst
	for {
		start := b.opts.Now()
		moved, err := b.connect(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.setOnline(false, err)
		if lasting(err) {
			return err
		}
		if moved || b.opts.Now().Sub(start) >= steadyAfter {
			wait = backoffFirst
		}
		pause := b.spread(wait/2, wait)
		wait = min(2*wait, backoffMost)
		var draining *drainError
		if errors.As(err, &draining) {
			pause = draining.after + b.spread(0, time.Second)
		}
		if errors.Is(err, errTrySocket) {
			pause = 0
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// beside runs fn until the function that it gives is called, which waits for fn's
// end.
func (b *Brain) beside(ctx context.Context, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { fn(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// lasting tells errors that trying again does not mend.
func lasting(err error) bool {
	for _, e := range []error{ErrNoAccount, ErrLoginRequired, ErrRemoved, ErrReplaced, ErrVaultBroken} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (b *Brain) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running {
		return ErrRunning
	}
	b.running = true
	return nil
}

func (b *Brain) end() {
	b.mu.Lock()
	b.running, b.online = false, false
	b.mu.Unlock()
	b.changed()
}

func (b *Brain) setOnline(online bool, err error) {
	b.mu.Lock()
	b.online, b.lastErr = online, err
	b.mu.Unlock()
	b.changed()
}

// drainError: the server restarts.
type drainError struct{ after time.Duration }

func (e *drainError) Error() string { return "the server is restarting" }

// errTrySocket ends a polling connection that has lasted long enough.
var errTrySocket = errors.New("core: time to try the socket again")

// open gives a link: the socket, or polling where there is none to be had.
func (b *Brain) open(ctx context.Context, s *self) (link, bool, error) {
	if b.opts.SyncOnly {
		return b.poll(ctx, s.Device), true, nil
	}
	token, err := b.accessToken(ctx)
	if err != nil {
		return nil, false, err
	}
	stream, err := b.network.Open(ctx, token)
	if code := clearbox.CodeOf(err); code == clearbox.CodeTokenExpired || code == clearbox.CodeUnauthorized {
		if token, err = b.refreshToken(ctx, token); err != nil {
			return nil, false, err
		}
		stream, err = b.network.Open(ctx, token)
	}
	switch {
	case errors.Is(err, ErrNoSocket):
		return b.poll(ctx, s.Device), true, nil
	case err != nil:
		return nil, false, err
	}
	return &socketLink{stream: stream}, false, nil
}

// Limits of one batch of received mail.
const (
	batchFrames = 256
	batchBytes  = 2 << 20
)

// connect runs one connection until it ends; the error says why. moved tells
// whether a message was sent or received over it.
func (b *Brain) connect(ctx context.Context) (moved bool, err error) {
	s, err := b.me()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l, polling, err := b.open(ctx, s)
	if err != nil {
		cancel()
		return false, err
	}
	c := newConnection(b, l)
	defer func() {
		cancel()
		b.attach(nil)
		l.close()
		c.abandon()
		c.wg.Wait()
		moved = c.moved.Load()
	}()
	frames := make(chan []*wire.ServerFrame, 64) // lets a batch gather while the last one is stored
	ended := make(chan error, 1)
	c.wg.Go(func() {
		for {
			got, err := l.receive(ctx)
			if err != nil {
				ended <- err
				close(frames)
				return
			}
			select {
			case frames <- got:
			case <-ctx.Done():
				ended <- ctx.Err()
				close(frames)
				return
			}
		}
	})
	var enough <-chan time.Time
	if polling && !b.opts.SyncOnly {
		timer := time.NewTimer(pollFor)
		defer timer.Stop()
		enough = timer.C
	}
	for {
		select {
		case got, ok := <-frames:
			if !ok {
				return false, closedReason(<-ended)
			}
			if err := c.take(ctx, got, frames); err != nil {
				return false, err
			}
		case err := <-c.failed:
			return false, err
		case <-enough:
			return false, errTrySocket
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// closedReason gives close codes that waiting does not mend their meaning.
func closedReason(err error) error {
	var closed *ClosedError
	if errors.As(err, &closed) && closed.Code == wire.CloseReplaced {
		return ErrReplaced
	}
	return err
}

// take handles frames in their order; mail that has come meanwhile joins the
// batch, so that one sync to disk serves all of it.
func (c *connection) take(ctx context.Context, got []*wire.ServerFrame, more <-chan []*wire.ServerFrame) error {
	var mail []*wire.ServerFrame
	size := 0
	for {
		for _, f := range got {
			if f.Type != wire.FrameReceive {
				if err := c.frame(ctx, f); err != nil {
					return err
				}
				continue
			}
			if !c.welcomed {
				return errors.New("the server sent mail before its welcome")
			}
			mail = append(mail, f)
			if f.Envelope != nil {
				size += len(f.Envelope.Content)
			}
		}
		if len(mail) == 0 || len(mail) >= batchFrames || size >= batchBytes {
			break
		}
		var ok bool
		select {
		case got, ok = <-more:
			if ok {
				continue
			}
		default:
		}
		break
	}
	if len(mail) == 0 {
		return nil
	}
	stored, err := c.b.receive(ctx, mail)
	if err != nil {
		return err
	}
	c.moved.Store(true)
	// Only now that it is stored.
	return c.link.send(ctx, &wire.ClientFrame{Type: wire.FrameAck, Seq: stored.upTo})
}

// frame handles everything but mail.
func (c *connection) frame(ctx context.Context, f *wire.ServerFrame) error {
	switch f.Type {
	case wire.FrameWelcome:
		return c.welcome(ctx, f)
	case wire.FrameSent, wire.FrameError:
		c.answer(f)
	case wire.FrameStatus:
		return c.b.status(ctx, f.ID, f.State)
	case wire.FrameSignal:
		return c.b.takeSignal(ctx, (*clearbox.Envelope)(f.Signal))
	case wire.FrameOnline:
		c.b.seen(f)
	case wire.FrameKeysLow:
		c.b.keysLow.Store(true)
		wake(c.b.tasksWake)
	case wire.FrameDrain:
		return &drainError{time.Duration(f.RetryAfter) * time.Millisecond}
	}
	return nil
}

// welcome mends a vault that is older than what the server has seen of it, and
// begins to send.
func (c *connection) welcome(ctx context.Context, f *wire.ServerFrame) error {
	if c.welcomed {
		return errors.New("the server said welcome twice")
	}
	if err := c.b.checkAcked(ctx, f.Acked); err != nil {
		return err
	}
	c.welcomed = true
	c.b.attach(c)
	if err := c.b.observeAgain(ctx, c); err != nil {
		return err
	}
	c.b.setOnline(true, nil)
	c.wg.Go(func() { c.dispatch(ctx) })
	c.wg.Go(func() { c.receipts(ctx) })
	c.wg.Go(func() { c.tasks(ctx) })
	return nil
}

// checkAcked finds out whether the server remembers an acknowledgement of mail
// that this vault never stored: then the vault is an older copy, and is mended.
func (b *Brain) checkAcked(ctx context.Context, acked int64) error {
	older := false
	err := b.vault.View(ctx, func(r Reader) error {
		seq, err := count(r, keySeq)
		older = err == nil && acked > int64(seq)
		return err
	})
	if err != nil || !older {
		return err
	}
	return b.rewind(ctx, acked)
}

// Drain fetches and stores everything that is in the mailbox now, without
// staying connected, and returns when it was empty. It sends nothing.
func (b *Brain) Drain(ctx context.Context) error {
	if err := b.begin(); err != nil {
		return err
	}
	defer b.end()
	checked := false
	for {
		var seq uint64
		err := b.vault.View(ctx, func(r Reader) (err error) {
			seq, err = count(r, keySeq)
			return err
		})
		if err != nil {
			return err
		}
		var out wire.Sync
		if err := b.call(ctx, "GET", syncPath(int64(seq), 0), nil, &out); err != nil {
			return err
		}
		if !checked {
			if err := b.checkAcked(ctx, out.Acked); err != nil {
				return err
			}
			checked = true
		}
		var mail []*wire.ServerFrame
		for i := range out.Events {
			f := &out.Events[i]
			switch f.Type {
			case wire.FrameReceive:
				mail = append(mail, f)
			case wire.FrameStatus:
				if err := b.status(ctx, f.ID, f.State); err != nil {
					return err
				}
			}
		}
		if len(mail) == 0 && !out.More {
			if err := b.tendRoots(ctx); err != nil {
				return err
			}
			if err := b.tendDoubts(ctx); lasting(err) || ctx.Err() != nil {
				return err
			}
			if err := b.tendGroups(ctx); lasting(err) || ctx.Err() != nil {
				return err
			}
			return nil // what a server did not tell is asked for again
		}
		got, err := b.receive(ctx, mail)
		if err != nil {
			return err
		}
		if got.upTo <= int64(seq) && len(mail) > 0 {
			return fmt.Errorf("the server repeats mail that was acknowledged")
		}
	}
}
