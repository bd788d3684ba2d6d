package rig

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox/server/wire"
)

// Socket is a WebSocket client (RFC 6455) for the CBOR subprotocol that costs
// next to nothing: frames are queued and written together, and the reader knows
// where a burst of arrived frames ends. Next belongs to one goroutine; the rest
// is safe for concurrent use.
type Socket struct {
	conn *tls.Conn
	gate *gate

	buf        []byte // what was read and not yet handed out: buf[from:to]
	from, to   int
	fragmented []byte

	mu  sync.Mutex
	out []byte // guarded by mu

	// OnPing, when set, is called by Next for every ping of the server.
	OnPing func()
}

// gate is the TCP connection below TLS. When it is shut a read fails at once
// instead of waiting, so that a reader can empty TLS's own buffer and no more.
type gate struct {
	net.Conn
	shut bool // owned by the reader
}

// shutError is temporary to crypto/tls, which therefore reads on next time.
type shutError struct{}

func (shutError) Error() string   { return "rig: nothing is buffered" }
func (shutError) Timeout() bool   { return true }
func (shutError) Temporary() bool { return true }

func (g *gate) Read(p []byte) (int, error) {
	if g.shut {
		return 0, shutError{}
	}
	return g.Conn.Read(p)
}

// CloseError is the close frame of the server.
type CloseError struct {
	Code   wire.CloseCode
	Reason string
}

// Error names the code.
func (e *CloseError) Error() string {
	return fmt.Sprintf("the server closed the socket: %d %s", e.Code, e.Reason)
}

// Via says how a client reaches a server. The zero value dials the server's own
// address from the default source.
type Via struct {
	Address string // host:port instead of the server's own, for example a proxy's
	Source  net.IP // local address
}

// Dial opens the socket of the session that token belongs to. The welcome frame
// is the first that Next gives.
func (s *Server) Dial(ctx context.Context, token string, via Via) (*Socket, error) {
	if via.Address == "" {
		via.Address = s.Address
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if via.Source != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: via.Source}
	}
	raw, err := dialer.DialContext(ctx, "tcp", via.Address)
	if err != nil {
		return nil, err
	}
	cfg := s.ClientTLS()
	cfg.NextProtos = []string{"http/1.1"}
	g := &gate{Conn: raw}
	conn := tls.Client(g, cfg)
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	sock := &Socket{conn: conn, gate: g, buf: make([]byte, 4096)}
	if err := sock.upgrade(s.Address, token); err != nil {
		raw.Close()
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	return sock, nil
}

// upgrade is RFC 6455, 4.1.
func (s *Socket) upgrade(host, token string) error {
	var nonce [16]byte
	binary.LittleEndian.PutUint64(nonce[:], rand.Uint64())
	key := base64.StdEncoding.EncodeToString(nonce[:])
	_, err := fmt.Fprintf(s.conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		host, key, wire.SubprotocolCBOR, token)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(s.conn, 4096)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return fmt.Errorf("open the socket: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 2048))
		return &StatusError{Status: res.StatusCode, Body: body}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if res.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
		return errors.New("rig: the server's handshake answer does not fit")
	}
	if got := res.Header.Get("Sec-WebSocket-Protocol"); got != wire.SubprotocolCBOR {
		return fmt.Errorf("rig: the server chose the subprotocol %q", got)
	}
	left, _ := r.Peek(r.Buffered())
	s.to = copy(s.buf, left)
	return nil
}

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// maxFrame is the largest frame that is read: more than a server may send.
const maxFrame = wire.MaxFrame + 1024

// Next gives the next message; it is valid until the following call. more is
// false when nothing else has arrived yet: the end of a burst, the moment to
// acknowledge and to flush.
func (s *Socket) Next() (message []byte, more bool, err error) {
	for {
		op, fin, payload, err := s.frame()
		if err != nil {
			return nil, false, err
		}
		switch op {
		case opPing, opPong:
			if err := s.control(op, payload); err != nil {
				return nil, false, err
			}
		case opClose:
			e := &CloseError{Code: 1005}
			if len(payload) >= 2 {
				e.Code, e.Reason = wire.CloseCode(binary.BigEndian.Uint16(payload)), string(payload[2:])
			}
			return nil, false, e
		case opText, opBinary, opContinuation:
			if op != opContinuation {
				s.fragmented = s.fragmented[:0]
			}
			if !fin {
				s.fragmented = append(s.fragmented, payload...)
				continue
			}
			if op == opContinuation {
				s.fragmented = append(s.fragmented, payload...)
				payload = s.fragmented
			}
			return payload, s.buffered(), nil
		default:
			return nil, false, fmt.Errorf("rig: unknown WebSocket opcode %d", op)
		}
	}
}

// frame takes one whole frame out of the buffer, reading as needed.
func (s *Socket) frame() (op byte, fin bool, payload []byte, err error) {
	for {
		if n, head, ok := s.whole(); ok {
			b := s.buf[s.from : s.from+n]
			s.from += n
			return b[0] & 0x0f, b[0]&0x80 != 0, b[head:], nil
		}
		if err := s.fill(); err != nil {
			return 0, false, nil, err
		}
	}
}

// whole tells whether the buffer begins with a whole frame, its size and that
// of its head. RFC 6455, 5.2; a server does not mask.
func (s *Socket) whole() (size, head int, ok bool) {
	b := s.buf[s.from:s.to]
	if len(b) < 2 {
		return 0, 0, false
	}
	n := int(b[1] & 0x7f)
	head = 2
	switch n {
	case 126:
		if len(b) < 4 {
			return 0, 0, false
		}
		n, head = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, 0, false
		}
		n, head = int(min(binary.BigEndian.Uint64(b[2:]), maxFrame+1)), 10
	}
	return head + n, head, head+n <= len(b)
}

func (s *Socket) fill() error {
	if s.from == s.to {
		s.from, s.to = 0, 0
	} else if s.to == len(s.buf) {
		if s.from > 0 {
			s.to = copy(s.buf, s.buf[s.from:s.to])
			s.from = 0
		} else if len(s.buf) > 2*maxFrame {
			return errors.New("rig: a frame is larger than announced")
		} else {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
	}
	n, err := s.conn.Read(s.buf[s.to:])
	s.to += n
	if n > 0 {
		return nil
	}
	return err
}

// control answers a ping and passes over a pong.
func (s *Socket) control(op byte, payload []byte) error {
	if op == opPong {
		return nil
	}
	if s.OnPing != nil {
		s.OnPing()
	}
	s.queue(opPong, payload)
	return s.Flush()
}

// buffered tells whether another whole message has arrived, without waiting and
// without moving the bytes of the message just taken, which end at s.from. A
// ping is answered on the way: were it taken for a message, the caller would go
// on to wait for one before it does what it does at the end of a burst. An
// error is left for the next call, which meets it again.
func (s *Socket) buffered() bool {
	s.gate.shut = true
	defer func() { s.gate.shut = false }()
	for {
		if n, head, ok := s.whole(); ok {
			op := s.buf[s.from] & 0x0f
			if op != opPing && op != opPong {
				return true
			}
			payload := s.buf[s.from+head : s.from+n]
			s.from += n
			_ = s.control(op, payload) // a broken connection meets the next call
			continue
		}
		if s.to == len(s.buf) {
			return false // no room without moving
		}
		n, _ := s.conn.Read(s.buf[s.to:])
		if n == 0 {
			return false
		}
		s.to += n
	}
}

// Queue puts a message into the buffer; Flush sends what is there.
func (s *Socket) Queue(message []byte) { s.queue(opBinary, message) }

// queue writes one masked frame. RFC 6455, 5.3.
func (s *Socket) queue(op byte, payload []byte) {
	mask := rand.Uint32()
	var key [8]byte
	binary.LittleEndian.PutUint32(key[:], mask)
	binary.LittleEndian.PutUint32(key[4:], mask)
	wide := binary.LittleEndian.Uint64(key[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(s.out, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		s.out = append(s.out, 0x80|byte(n))
	case n < 1<<16:
		s.out = append(s.out, 0x80|126, byte(n>>8), byte(n))
	default:
		s.out = append(s.out, 0x80|127)
		s.out = binary.BigEndian.AppendUint64(s.out, uint64(n))
	}
	s.out = append(s.out, key[:4]...)
	at := len(s.out)
	s.out = append(s.out, payload...)
	b := s.out[at:]
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i]
	}
}

// Flush sends what is queued. It returns when the kernel has it.
func (s *Socket) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// LocalPort is the port of this end.
func (s *Socket) LocalPort() int { return s.conn.LocalAddr().(*net.TCPAddr).Port }

// SetDeadline bounds what follows; the zero time lifts it.
func (s *Socket) SetDeadline(t time.Time) { s.conn.SetDeadline(t) }

// Close drops the connection without a closing handshake; safe at any time.
func (s *Socket) Close() { s.gate.Conn.Close() }

// SetReadDeadline bounds the reads that follow; the zero time lifts it.
func (s *Socket) SetReadDeadline(t time.Time) { s.conn.SetReadDeadline(t) }
