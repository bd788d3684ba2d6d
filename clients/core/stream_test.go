package core_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// stream is a WebSocket in memory.
type stream struct {
	w      *world
	n      *network
	s      *session
	d      *device
	out    chan []byte // to the client; unbuffered
	done   chan struct{}
	once   sync.Once
	reason error // why it ended; set before done is closed
}

// Open implements core.Network.
func (n *network) Open(ctx context.Context, token string) (core.Stream, error) {
	w := n.w
	if n.isAway() || w.strike("OPEN", "/ws") != "" {
		return nil, errNet
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.noSocket {
		return nil, core.ErrNoSocket
	}
	s := w.access[token]
	switch {
	case s == nil || s.revoked:
		return nil, refusal(clearbox.CodeUnauthorized)
	case !time.Now().Before(s.expires):
		return nil, refusal(clearbox.CodeTokenExpired)
	}
	st := &stream{w: w, n: n, s: s, d: w.own(s), out: make(chan []byte), done: make(chan struct{})}
	for old := range st.d.streams {
		old.end(&core.ClosedError{Code: wire.CloseReplaced})
		delete(st.d.streams, old)
	}
	st.d.streams[st] = true
	n.mu.Lock()
	n.streams = append(n.streams, st)
	n.mu.Unlock()
	go st.serve(st.d.acked)
	return st, nil
}

func (s *stream) serve(acked int64) {
	if !s.push(&wire.ServerFrame{Type: wire.FrameWelcome, Device: s.s.device, MaxFrame: wire.MaxFrame, Acked: acked}) {
		return
	}
	next := acked
	for {
		s.w.mu.Lock()
		var frame *wire.ServerFrame
		for i := range s.d.mail {
			if s.d.mail[i].Seq > next {
				f := s.d.mail[i]
				frame = &f
				break
			}
		}
		wake := s.d.wake
		s.w.mu.Unlock()
		if frame == nil {
			select {
			case <-wake:
				continue
			case <-s.done:
				return
			}
		}
		if !s.push(frame) {
			return
		}
		next = frame.Seq
	}
}

func (s *stream) push(f *wire.ServerFrame) bool {
	b, err := wire.AppendServerFrame(nil, wire.CBOR, f)
	if err != nil {
		s.w.t.Error(err)
		return false
	}
	select {
	case s.out <- b:
		return true
	case <-s.done:
		return false
	}
}

// Send implements core.Stream.
func (s *stream) Send(ctx context.Context, frame []byte) error {
	select {
	case <-s.done:
		return s.reason
	default:
	}
	f, err := wire.ParseClientFrame(wire.CBOR, frame)
	if err != nil {
		s.w.t.Errorf("a frame that no server would take: %v", err)
		return err
	}
	fault := s.w.strike("FRAME", string(f.Type))
	if fault == "lost" {
		s.end(errNet)
		return nil // written to a socket that nobody reads
	}
	switch f.Type {
	case wire.FrameAck:
		s.w.mu.Lock()
		s.w.ack(s.d, f.Seq)
		s.w.mu.Unlock()
	case wire.FrameSignal:
		s.w.signal(s.s, f.To)
	case wire.FrameWatch:
		s.w.mu.Lock()
		s.w.watched = append(s.w.watched, f)
		s.w.mu.Unlock()
	case wire.FrameSend:
		answer := &wire.ServerFrame{Type: wire.FrameSent, Ref: f.Ref}
		if answer.Receipt, err = s.w.submit(s.s, f.Submission); err != nil {
			p := &wire.Problem{Code: clearbox.CodeOf(err), Detail: err.Error()}
			var changed *clearbox.GroupChangedError
			if errors.As(err, &changed) {
				p.Epoch = changed.Epoch
			}
			var stale *clearbox.StaleDevicesError
			if errors.As(err, &stale) {
				p.Stale = &wire.StaleDevices{User: stale.User, Version: stale.Version, Missing: stale.Missing, Extra: stale.Extra}
			}
			answer = &wire.ServerFrame{Type: wire.FrameError, Ref: f.Ref, Problem: p}
		}
		if fault == "unheard" {
			s.end(errNet)
			return nil
		}
		go s.push(answer)
	}
	return nil
}

// signal hands a signal to open sockets.
func (w *world) signal(from *session, to *wire.Recipient) {
	w.mu.Lock()
	defer w.mu.Unlock()
	away := to.User.Server != from.user.Server
	if away && !w.allows(to.User, to.Token) {
		w.t.Error("a signal without the token")
		return
	}
	w.signals++
	for _, e := range to.Envelopes {
		env := &wire.Envelope{Recipient: to.User, Device: e.Device, Type: e.Type, AcceptedAt: millis(time.Now()), Content: e.Content}
		if env.Sender, env.SenderDevice = from.user, from.device; away {
			env.Sender, env.SenderDevice, env.Origin = clearbox.UserID{}, 0, from.user.Server
		}
		w.toSockets(to.User, e.Device, &wire.ServerFrame{Type: wire.FrameSignal, Signal: env})
	}
}

// toSockets sends a frame to a device if it is connected; the caller holds mu.
func (w *world) toSockets(user clearbox.UserID, id clearbox.DeviceID, f *wire.ServerFrame) {
	for st := range w.accounts[user].devices[id].streams {
		go st.push(f)
	}
}

// Receive implements core.Stream.
func (s *stream) Receive(ctx context.Context) ([]byte, error) {
	select {
	case b := <-s.out:
		return b, nil
	case <-s.done:
		return nil, s.reason
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *stream) end(reason error) {
	s.once.Do(func() {
		s.reason = reason
		close(s.done)
	})
}

// Close implements core.Stream.
func (s *stream) Close() error {
	s.end(io.EOF)
	return nil
}
