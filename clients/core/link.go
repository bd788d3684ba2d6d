package core

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// link carries frames to and from the homeserver, over the socket or by
// polling; the brain does not see which.
type link interface {
	// send may be used by several goroutines.
	send(ctx context.Context, f *wire.ClientFrame) error
	// receive is for one goroutine; it gives at least one frame, the first of
	// all is welcome.
	receive(ctx context.Context) ([]*wire.ServerFrame, error)
	close()
}

// socketLink is frames on a WebSocket.
type socketLink struct {
	mu     sync.Mutex // one writer at a time, as Stream asks
	stream Stream
}

func (l *socketLink) send(ctx context.Context, f *wire.ClientFrame) error {
	b, err := wire.AppendClientFrame(nil, wire.CBOR, f)
	if err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Send(ctx, b)
}

func (l *socketLink) receive(ctx context.Context) ([]*wire.ServerFrame, error) {
	b, err := l.stream.Receive(ctx)
	if err != nil {
		return nil, err
	}
	f, err := wire.ParseServerFrame(wire.CBOR, b)
	if err != nil {
		return nil, fmt.Errorf("read a frame: %w", err)
	}
	return []*wire.ServerFrame{f}, nil
}

func (l *socketLink) close() { _ = l.stream.Close() } // it is of no use any more, whatever Close says

// pollLink is the same frames over GET /sync and POST /messages/send, for
// networks that do not let WebSockets through.
type pollLink struct {
	brain  *Brain
	device clearbox.DeviceID
	stop   context.CancelFunc
	done   <-chan struct{}

	answers chan *wire.ServerFrame // capacity WindowSends: there are never more unanswered sends
	pages   chan page              // unbuffered: mail waits at the server, not here
	acked   chan struct{}          // capacity 1: ack moved

	mu  sync.Mutex // guards ack
	ack int64
}

type page struct {
	frames []*wire.ServerFrame
	err    error
}

// poll begins polling; it ends with ctx or close.
func (b *Brain) poll(ctx context.Context, device clearbox.DeviceID) *pollLink {
	ctx, stop := context.WithCancel(ctx)
	l := &pollLink{
		brain: b, device: device, stop: stop, done: ctx.Done(),
		answers: make(chan *wire.ServerFrame, wire.WindowSends),
		pages:   make(chan page),
		acked:   make(chan struct{}, 1),
	}
	go l.loop(ctx)
	return l
}

// loop asks for page after page; the next one only when all mail of the last
// one was acknowledged, else the server would send it again.
func (l *pollLink) loop(ctx context.Context) {
	timeout := 0 // the welcome must not wait for mail
	for {
		l.mu.Lock()
		ack := l.ack
		l.mu.Unlock()
		var out wire.Sync
		err := l.brain.call(ctx, "GET", syncPath(ack, timeout), nil, &out)
		var frames []*wire.ServerFrame
		if timeout == 0 {
			frames = append(frames, &wire.ServerFrame{Type: wire.FrameWelcome, Device: l.device, Acked: out.Acked, MaxFrame: wire.MaxFrame})
			timeout = wire.MaxSyncSeconds
		}
		var last int64
		for i := range out.Events {
			frames = append(frames, &out.Events[i])
			last = max(last, out.Events[i].Seq)
		}
		if len(frames) > 0 || err != nil {
			select {
			case l.pages <- page{frames, err}:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
		for l.behind(last) {
			select {
			case <-l.acked:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (l *pollLink) behind(seq int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ack < seq
}

func syncPath(ack int64, timeout int) string {
	return fmt.Sprintf("/sync?ack=%d&timeout=%d", ack, timeout)
}

func (l *pollLink) send(ctx context.Context, f *wire.ClientFrame) error {
	switch f.Type {
	case wire.FrameAck:
		l.mu.Lock()
		l.ack = max(l.ack, f.Seq)
		l.mu.Unlock()
		wake(l.acked)
		return nil
	case wire.FrameSend:
		answer := &wire.ServerFrame{Type: wire.FrameSent, Ref: f.Ref, Receipt: new(wire.Receipt)}
		if err := l.brain.call(ctx, "POST", "/messages/send", f.Submission, answer.Receipt); err != nil {
			if answer = problemFrame(f.Ref, err); answer == nil {
				return err
			}
		}
		select {
		case l.answers <- answer:
			return nil
		case <-l.done:
			return errors.New("the connection was closed")
		}
	}
	return nil // watching somebody's presence needs a socket
}

// problemFrame gives a server's refusal the form it has on the socket; nil for
// errors that are not the server's word on this message.
func problemFrame(ref uint64, err error) *wire.ServerFrame {
	f := &wire.ServerFrame{Type: wire.FrameError, Ref: ref, Problem: &wire.Problem{Code: clearbox.CodeOf(err), Detail: err.Error()}}
	var stale *clearbox.StaleDevicesError
	if errors.As(err, &stale) {
		f.Problem.Stale = &wire.StaleDevices{User: stale.User, Version: stale.Version, Missing: stale.Missing, Extra: stale.Extra}
		return f
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		return nil
	}
	f.Problem.RetryAfter = refused.retryAfter
	return f
}

func (l *pollLink) receive(ctx context.Context) ([]*wire.ServerFrame, error) {
	select {
	case p := <-l.pages:
		return p.frames, p.err
	case f := <-l.answers:
		return []*wire.ServerFrame{f}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pollLink) close() { l.stop() }
