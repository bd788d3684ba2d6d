package api

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// A peer that does not take writePiece bytes within writeDeadline, while the
// kernel's buffers are full, is cut.
const (
	writeDeadline = 13 * time.Second
	writePiece    = 16 << 10 // what fits one TLS record
)

// frameWriter stands between the WebSocket library and the connection. The
// library writes a frame in pieces; this gathers whole frames, several while
// it is held, and writes them at once. Its buffer is borrowed while there is
// something in it, so that an idle socket has none.
type frameWriter struct {
	conn net.Conn

	// turn holds one token: who takes it may touch what follows, also during a
	// write, so that order is kept. A mutex would stop the clock of a test bubble
	// while a connection is stuck.
	turn  chan struct{}
	buf   *[]byte // borrowed; nil when empty
	whole int     // bytes at the front of buf that are whole frames
	held  bool
	err   error // of the first failed write: a connection is not written to again
}

// flushAt is how much gathers at most while held, in bytes. It is also what
// the pool keeps.
const flushAt = 64 << 10

// buffers lend memory for frames, in and out.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func lend() *[]byte { return buffers.Get().(*[]byte) }

func giveBack(b *[]byte) {
	if cap(*b) > flushAt {
		return // one large frame must not stay for ever
	}
	*b = (*b)[:0]
	buffers.Put(b)
}

func newFrameWriter() *frameWriter {
	return &frameWriter{turn: make(chan struct{}, 1)}
}

// Write takes a piece of a frame.
func (w *frameWriter) Write(p []byte) (int, error) {
	w.turn <- struct{}{}
	defer w.next()
	if w.err != nil {
		return 0, w.err
	}
	if w.buf == nil {
		w.buf = lend()
	}
	*w.buf = append(*w.buf, p...)
	for {
		n := frameLen((*w.buf)[w.whole:])
		if n == 0 || w.whole+n > len(*w.buf) {
			break
		}
		w.whole += n
	}
	if w.whole == len(*w.buf) && (!w.held || w.whole >= flushAt) {
		w.flush()
	}
	return len(p), w.err
}

// hold gathers frames until release.
func (w *frameWriter) hold() {
	w.turn <- struct{}{}
	w.held = true
	w.next()
}

func (w *frameWriter) next() { <-w.turn }

// release writes what was gathered.
func (w *frameWriter) release() error {
	w.turn <- struct{}{}
	defer w.next()
	w.held = false
	if w.buf != nil && w.whole == len(*w.buf) {
		w.flush()
	}
	return w.err
}

// flush writes all; it is the caller's turn and only whole frames are there.
func (w *frameWriter) flush() {
	for rest := *w.buf; w.err == nil && len(rest) > 0; {
		piece := rest[:min(len(rest), writePiece)]
		rest = rest[len(piece):]
		if w.err = w.conn.SetWriteDeadline(time.Now().Add(writeDeadline)); w.err == nil {
			_, w.err = w.conn.Write(piece)
		}
	}
	giveBack(w.buf)
	w.buf, w.whole = nil, 0
}

// cut closes the connection at once. Over TLS it passes the goodbye over, for
// which crypto/tls waits 5 seconds more where the peer does not read.
func (w *frameWriter) cut() {
	conn := w.conn
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = over.NetConn()
	}
	_ = conn.Close()
}

// frameLen is the length of the frame that b begins with, or 0 when b is too
// short to tell. A server's frames are not masked (RFC 6455, 5.1 and 5.2).
func frameLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch n := int(b[1] & 0x7f); n {
	case 126:
		if len(b) < 4 {
			return 0
		}
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if len(b) < 10 {
			return 0
		}
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + n
	}
}
