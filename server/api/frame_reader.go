package api

import (
	"encoding/binary"
	"net"
	"os"
	"time"
)

// A message that has begun must end: its client has frameTimeout for all
// pauses in it together, and more as its bytes come, so that a poor line with
// frameRate is good enough for a message of any size.
const (
	frameTimeout = 13 * time.Second
	frameRate    = 16 << 10 // bytes a second
)

// frameReader is the connection as the WebSocket library reads it. It knows
// whether a message is under way, and bounds how long one takes; between
// messages it waits for ever. Only time spent on waiting for the client
// counts. One goroutine at a time reads.
type frameReader struct {
	net.Conn
	heard func() // is told when bytes come: a client that is busy with a long message may be late with its pong

	left    time.Duration // for the message under way
	limited bool          // Conn has a deadline

	head    [14]byte // of the frame that has begun (RFC 6455, 5.2)
	got     int      // bytes in head; 0: no header is under way
	payload uint64   // bytes of the frame that have not come
	parts   bool     // a message in several frames has not ended
}

// newFrameReader gives a reader of conn, from which early was read already.
func newFrameReader(conn net.Conn, early []byte, heard func()) *frameReader {
	r := &frameReader{Conn: conn, heard: heard, left: frameTimeout}
	r.see(early)
	return r
}

// underWay tells whether a message has begun and not ended.
func (r *frameReader) underWay() bool { return r.got > 0 || r.payload > 0 || r.parts }

// Read implements net.Conn. Its error is os.ErrDeadlineExceeded, or one that
// is a timeout, when a message took too long.
func (r *frameReader) Read(p []byte) (int, error) {
	var began time.Time
	switch {
	case r.underWay():
		if r.left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		began = time.Now() // the connection's clock, not the server's
		if err := r.Conn.SetReadDeadline(began.Add(r.left)); err != nil {
			return 0, err
		}
		r.limited = true
	case r.limited:
		if err := r.Conn.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		r.limited = false
	}
	n, err := r.Conn.Read(p)
	if !began.IsZero() {
		r.left -= time.Since(began)
	}
	if n > 0 {
		r.heard()
		r.left += time.Duration(n) * time.Second / frameRate
	}
	r.see(p[:n])
	return n, err
}

// see follows the frames in b. What is against the protocol is the library's
// to refuse.
func (r *frameReader) see(b []byte) {
	for len(b) > 0 {
		if r.payload > 0 {
			n := min(uint64(len(b)), r.payload)
			r.payload -= n
			b = b[n:]
		} else {
			n := copy(r.head[r.got:r.want()], b)
			r.got += n
			b = b[n:]
			if r.got == r.want() {
				r.header()
			}
		}
		if !r.underWay() {
			r.left = frameTimeout
		}
	}
}

// want is how long the header is, as far as its first two bytes tell.
func (r *frameReader) want() int {
	if r.got < 2 {
		return 2
	}
	n := 2
	switch r.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if r.head[1]&0x80 != 0 {
		n += 4 // the mask
	}
	return n
}

// header takes a complete header in.
func (r *frameReader) header() {
	switch n := r.head[1] & 0x7f; n {
	case 126:
		r.payload = uint64(binary.BigEndian.Uint16(r.head[2:]))
	case 127:
		r.payload = binary.BigEndian.Uint64(r.head[2:])
	default:
		r.payload = uint64(n)
	}
	const control = 0x08 // control frames may stand between the parts of a message
	if r.head[0]&control == 0 {
		r.parts = r.head[0]&0x80 == 0
	}
	r.got = 0
}
