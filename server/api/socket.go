package api

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/afar"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/wire"
)

// socket is one open WebSocket of one device. One goroutine reads; whoever has
// something for the client marks it and lets a worker write, one at a time.
type socket struct {
	api    *API
	who    auth.Principal
	format wire.Format
	ws     *websocket.Conn
	out    *frameWriter
	mail   Mailbox
	slot   int
	done   chan struct{} // closed when the reader has ended

	heard atomic.Int64 // when the last bytes came, Unix nanoseconds
	acked atomic.Int64 // when mail was last acknowledged, or the window opened

	mu       sync.Mutex // guards what follows
	answers  []*wire.ServerFrame
	dirty    bool // there may be mail
	flushing bool // a worker writes
	ended    bool // nothing is written any more
	closing  bool // close says why
	users    int  // the reader, a worker, and answers that are due: who comes last releases
	sent     int64
	window   window
	pending  int           // submissions without an answer
	settled  chan struct{} // closed when pending is 0, if somebody waits
	watch    *presence.Watch
	far      *afar.Watch // of people of other servers
	stopNews func()

	room chan struct{} // capacity wire.WindowSends: submissions without an answer
}

// Batches of mail: enough to fill a few TLS records, small enough to be fair.
const (
	batchFrames = 64
	batchBytes  = 512 << 10
)

// maxAnswers bounds news that wait behind a slow reader; they are dropped then.
const maxAnswers = 256

// send queues a frame. Frames that are news, not answers, are dropped when
// many wait.
func (s *socket) send(f *wire.ServerFrame) {
	s.mu.Lock()
	if s.ended || len(s.answers) >= maxAnswers && isNews(f.Type) {
		s.mu.Unlock()
		return
	}
	s.answers = append(s.answers, f)
	s.start()
}

// isNews tells a frame that nobody waits for.
func isNews(t wire.FrameType) bool {
	return t == wire.FrameOnline || t == wire.FrameStatus || t == wire.FrameSignal || t == wire.FrameKeysLow
}

// wake looks for mail.
func (s *socket) wake() {
	s.mu.Lock()
	s.dirty = true
	s.start()
}

// start lets a worker write unless one does; it takes mu over and unlocks it.
func (s *socket) start() {
	run := !s.flushing && !s.ended
	if run {
		s.flushing = true
		s.users++
	}
	s.mu.Unlock()
	if run {
		s.api.workers.run(s.flush)
	}
}

// flush writes answers and mail until there is nothing left or the window is full.
func (s *socket) flush() {
	defer s.leave()
	defer s.caught("/ws flush")
	for {
		s.mu.Lock()
		answers := s.answers
		s.answers = nil
		after, frames, bytes := s.sent, 0, 0
		if s.dirty {
			frames, bytes = s.window.room()
		}
		if s.ended || len(answers) == 0 && frames == 0 {
			s.flushing = false
			s.quiet()
			s.mu.Unlock()
			return
		}
		if frames > 0 {
			s.dirty = false
		}
		s.mu.Unlock()
		if !s.write(answers) {
			return
		}
		if frames > 0 && !s.deliver(after, min(frames, batchFrames), min(bytes, batchBytes)) {
			return
		}
	}
}

// write sends frames at once. It tells whether the socket goes on.
func (s *socket) write(frames []*wire.ServerFrame) bool {
	if len(frames) == 0 {
		return true
	}
	s.out.hold()
	for _, f := range frames {
		if !s.frame(f) {
			break
		}
	}
	return s.released()
}

// released lets go what was gathered, also after a failure: a close frame may
// be among it.
func (s *socket) released() bool {
	if err := s.out.release(); err != nil {
		s.failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

// frame writes one frame into the gathered ones.
func (s *socket) frame(f *wire.ServerFrame) bool {
	buf := lend()
	defer giveBack(buf)
	b, err := wire.AppendServerFrame((*buf)[:0], s.format, f)
	if err != nil {
		s.api.o.Log.Error("a frame could not be encoded", "type", string(f.Type), "error", err.Error())
		s.close(closeInternal)
		return false
	}
	*buf = b
	// The writer has its own deadline; a context would cost a hook per frame.
	if err := s.ws.Write(context.Background(), kindOf(s.format), b); err != nil {
		s.failed(err)
		return false
	}
	return true
}

// kindOf is the WebSocket message type that a format travels in.
func kindOf(f wire.Format) websocket.MessageType {
	if f == wire.JSON {
		return websocket.MessageText
	}
	return websocket.MessageBinary
}

// failed ends a socket that cannot be written to.
func (s *socket) failed(err error) {
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		s.api.o.Log.Debug("socket closed", "reason", "slow", "session", s.who.Session)
	}
	s.hangUp()
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// readTimeout bounds one look into the mailbox.
const readTimeout = 30 * time.Second

// deliver sends the next batch of mail. It tells whether the socket goes on.
func (s *socket) deliver(after int64, limit, maxBytes int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	mails, err := s.mail.Read(ctx, after, limit, maxBytes)
	cancel()
	if err != nil {
		s.api.o.Log.Error("mail could not be read", "session", s.who.Session, "code", string(codeOf(err)), "error", err.Error())
		s.close(closeInternal)
		return false
	}
	if len(mails) == 0 {
		return true
	}
	size := 0
	s.mu.Lock()
	for i := range mails {
		size += s.window.add(&mails[i])
	}
	s.sent = mails[len(mails)-1].Seq
	// A full batch may not have been all. Anything newer wakes again.
	if len(mails) == limit || size+clearbox.MaxContent > maxBytes {
		s.dirty = true
	}
	s.mu.Unlock()
	s.out.hold()
	for i := range mails {
		f := event(&mails[i], &s.who)
		if !s.frame(&f) {
			break
		}
	}
	return s.released()
}

// window is what was sent and not acknowledged.
type window struct {
	items []inFlight // in order of sequence
	bytes int
}

type inFlight struct {
	seq  int64
	size int
}

// room tells how many frames and bytes may be sent.
func (w *window) room() (frames, bytes int) {
	frames, bytes = wire.WindowFrames-len(w.items), wire.WindowBytes-w.bytes
	if frames <= 0 || bytes <= 0 {
		return 0, 0
	}
	return frames, bytes
}

// add notes a mail and gives its size.
func (w *window) add(d *delivery.Delivery) int {
	size := 0
	if d.Envelope != nil {
		size = len(d.Envelope.Content)
	}
	w.items = append(w.items, inFlight{d.Seq, size})
	w.bytes += size
	return size
}

// ack forgets everything up to seq.
func (w *window) ack(seq int64) {
	n := 0
	for n < len(w.items) && w.items[n].seq <= seq {
		w.bytes -= w.items[n].size
		n++
	}
	if n == len(w.items) {
		w.items = nil // an idle socket holds nothing
		return
	}
	w.items = w.items[n:]
}

// close says why and ends the socket, without waiting for the client.
func (s *socket) close(code wire.CloseCode) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.closing = true, true
	s.users++
	s.mu.Unlock()
	s.api.workers.run(func() {
		defer s.leave()
		_ = s.ws.Close(websocket.StatusCode(code), reasons[code]) // waits for the client's answer, 5 seconds at most
	})
}

// hangUp ends the socket without a word. The reader sees it.
func (s *socket) hangUp() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.out.cut()
}

// closeInternal is RFC 6455's 1011.
const closeInternal wire.CloseCode = 1011

// reasons are sent with the codes, for people who watch the wire.
var reasons = map[wire.CloseCode]string{
	wire.CloseBadFrame:  "bad_frame",
	wire.CloseRevoked:   "session_ended",
	wire.CloseReplaced:  "replaced",
	wire.CloseSlow:      "slow",
	wire.CloseDraining:  "draining",
	wire.CloseTimeout:   "timeout",
	wire.CloseRateLimit: "rate_limited",
	closeInternal:       "internal",
	1003:                "wrong_message_type",
}

// quiet tells whoever settles when nothing is due any more; mu is held.
func (s *socket) quiet() bool {
	if s.pending > 0 || s.flushing || len(s.answers) > 0 {
		return false
	}
	if s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
	return true
}

// settle waits until every submission has its answer, and it is written.
func (s *socket) settle(ctx context.Context) {
	s.mu.Lock()
	if s.ended || s.quiet() {
		s.mu.Unlock()
		return
	}
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	settled := s.settled
	s.mu.Unlock()
	select {
	case <-settled:
	case <-s.done:
	case <-ctx.Done():
	}
}

// leave is called by each user of the socket when it is done; the last one
// releases what the socket holds.
func (s *socket) leave() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if !last {
		return
	}
	if s.watch != nil {
		s.watch.Close()
	}
	if s.far != nil {
		s.far.Close()
	}
	if s.stopNews != nil {
		s.stopNews()
	}
	s.mail.Close()
	s.api.parts.Presence.Leave(s.who.User)
	s.api.sockets.remove(s)
}

// caught counts a panic of a socket's goroutine and ends the socket.
func (s *socket) caught(where string) {
	if v := recover(); v != nil {
		s.api.panicked(v, "", where)
		s.hangUp()
	}
}

// readAll reads a frame into borrowed memory.
func readAll(buf *[]byte, r io.Reader) ([]byte, error) {
	b := (*buf)[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			*buf = b
			return b, nil
		}
		if err != nil {
			*buf = b
			return nil, err
		}
	}
}
