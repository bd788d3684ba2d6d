package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/wire"
)

// pipes is a listener in memory, so that time in a bubble can fly.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// fromLoopback gives a pipe an address as a request has one.
type fromLoopback struct{ net.Conn }

func (fromLoopback) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- fromLoopback{server}
	return client
}

// inBubble runs fn against the API in a bubble with its own time.
func inBubble(t *testing.T, fn func(t *testing.T, w *world, p *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{bubble: true})
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: w.api.Handler()}
		api.ConfigureServer(server)
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(p) }()
		fn(t, w, p)
		w.stop()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// openPipe opens a socket over a pipe; the connection is in the caller's hands.
func (s *someone) openPipe(t *testing.T, p *pipes) (*peer, net.Conn) {
	t.Helper()
	return s.dialPipe(t, p, nil)
}

// dialPipe is openPipe with a say about pings.
func (s *someone) dialPipe(t *testing.T, p *pipes, onPing func(context.Context, []byte) bool) (*peer, net.Conn) {
	t.Helper()
	conn := p.dial()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	ws, _, err := websocket.Dial(t.Context(), "http://a.test/ws", &websocket.DialOptions{HTTPClient: client,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + s.tokens.Access}}, Subprotocols: []string{wire.SubprotocolCBOR}, OnPingReceived: onPing})
	if err != nil {
		t.Fatal(err)
	}
	peer := &peer{t: t, ws: ws, format: wire.CBOR}
	if f := peer.next(); f.Type != wire.FrameWelcome {
		t.Fatalf("%+v", f)
	}
	return peer, conn
}

// R3: a receiver that vanished without a word is found within 45 seconds, and
// nothing that was sent to it is lost.
func TestHalfOpenReceiver(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, p *pipes) {
		alice, bob := w.join("alice"), w.join("bob")
		_, conn := bob.openPipe(t, p)
		vanished := make(chan struct{})
		go func() { io.Copy(io.Discard, conn); close(vanished) }() // the network takes everything and answers nothing
		time.Sleep(19 * time.Second)
		const n = 20
		for i := range n {
			if _, err := w.router.Submit(t.Context(), w.Principal(alice.tokens.Access), submission(bob.message(fmt.Sprint(i)))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if w.api.Sockets() != 1 {
			t.Fatal("closed too early")
		}
		lost := time.Now()
		<-vanished
		if d := time.Since(lost); d > 45*time.Second {
			t.Errorf("found after %v", d)
		}
		synctest.Wait()
		if w.api.Sockets() != 0 {
			t.Error("the socket is still there")
		}
		again, conn := bob.openPipe(t, p)
		for i := range n {
			if f := again.next(); string(f.Envelope.Content) != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, f.Envelope.Content)
			}
		}
		conn.Close()
	})
}

// A client that answers pings stays, however long it says nothing.
func TestIdleSocketStays(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, p *pipes) {
		alice, bob := w.join("alice"), w.join("bob")
		b, conn := bob.openPipe(t, p)
		got := make(chan *wire.ServerFrame)
		go func() { got <- b.patient() }()
		time.Sleep(10 * time.Minute)
		if _, err := w.router.Submit(t.Context(), w.Principal(alice.tokens.Access), submission(bob.message("late"))); err != nil {
			t.Fatal(err)
		}
		if f := <-got; f == nil || string(f.Envelope.Content) != "late" {
			t.Errorf("%+v", f)
		}
		conn.Close()
	})
}

// patient reads without a limit of its own.
func (p *peer) patient() *wire.ServerFrame {
	_, data, err := p.ws.Read(context.Background())
	if err != nil {
		return nil
	}
	f, err := wire.ParseServerFrame(p.format, data)
	if err != nil {
		return nil
	}
	return f
}

// A client that never acknowledges and one that stops reading are let go.
func TestSlowSocketsAreCut(t *testing.T) {
	t.Run("no acknowledgement", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world, p *pipes) {
			alice, bob := w.join("alice"), w.join("bob")
			for range wire.WindowFrames + 1 {
				if _, err := w.router.Submit(t.Context(), w.Principal(alice.tokens.Access), submission(bob.message("x"))); err != nil {
					t.Fatal(err)
				}
			}
			b, _ := bob.openPipe(t, p)
			started := time.Now()
			for b.patient() != nil {
			}
			if d := time.Since(started); d < 5*time.Minute || d > 6*time.Minute {
				t.Errorf("closed after %v", d)
			}
		})
	})
	t.Run("no reading", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *world, p *pipes) {
			alice, bob := w.join("alice"), w.join("bob")
			for range 10 { // so that the next socket is not pinged soon
				_, conn := bob.openPipe(t, p)
				conn.Close()
			}
			_, conn := bob.openPipe(t, p)
			if _, err := w.router.Submit(t.Context(), w.Principal(alice.tokens.Access), submission(bob.message("x"))); err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			for w.api.Sockets() > 0 {
				time.Sleep(time.Second)
			}
			if d := time.Since(started); d > 15*time.Second {
				t.Errorf("closed after %v", d)
			}
			conn.Close()
		})
	})
}

// R10: whoever begins a message and does not end it is cut within 15 seconds,
// however the pieces are cut.
func TestUnendedMessagesAreCut(t *testing.T) {
	for name, c := range map[string]struct{ first, then []byte }{
		"part of a header":   {first: []byte{0x82}},
		"part of a frame":    {first: []byte{0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5}}, // 4 KiB are announced
		"a byte at a time":   {first: []byte{0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4}, then: []byte{5}},
		"a frame at a time":  {first: []byte{0x02, 0x81, 0, 0, 0, 0, 1}, then: []byte{0x00, 0x81, 0, 0, 0, 0, 1}}, // none is the last
		"pings in a message": {first: []byte{0x02, 0x81, 0, 0, 0, 0, 1}, then: []byte{0x89, 0x80, 0, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world, p *pipes) {
				_, conn := w.join("bob").openPipe(t, p)
				started := time.Now()
				go func() {
					_, err := conn.Write(c.first)
					for err == nil && c.then != nil {
						time.Sleep(500 * time.Millisecond)
						_, err = conn.Write(c.then)
					}
				}()
				told, err := io.ReadAll(conn)
				if d := time.Since(started); d < 10*time.Second || d > 15*time.Second {
					t.Errorf("closed after %v", d)
				}
				if err != nil || !bytes.HasSuffix(told, []byte("\x88\x06\x0f\xa3slow")) {
					t.Errorf("the last words were %q, %v", told[max(0, len(told)-10):], err)
				}
				conn.Close()
				time.Sleep(time.Second) // the writer ends
			})
		})
	}
}

// masked is a client's frame with a mask of zeros.
func masked(t *testing.T, f *wire.ClientFrame) []byte {
	data, err := wire.AppendClientFrame(nil, wire.CBOR, f)
	if err != nil {
		t.Fatal(err)
	}
	return append(append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, uint64(len(data))), 0, 0, 0, 0), data...)
}

// A poor line is not a slow client: a large message may take longer than a
// small one, and pongs may be late behind it; and one message after the other
// may be under way for ever.
func TestPoorLinesAreNotCut(t *testing.T) {
	large := func(t *testing.T, bob *someone) *wire.Submission {
		sub := bob.message("")
		for i := range 5 {
			e := sub.To[0].Envelopes[0]
			e.Device, e.Content = clearbox.DeviceID(i+1), bytes.Repeat([]byte{1}, clearbox.MaxContent)
			sub.To[0].Envelopes = append(sub.To[0].Envelopes[:i], e)
		}
		return sub
	}
	small := func(t *testing.T, bob *someone) *wire.Submission { return bob.message(strings.Repeat("x", 1000)) }
	for name, c := range map[string]struct {
		message  func(*testing.T, *someone) *wire.Submission
		messages int
		every    int // bytes a second
	}{
		"a large message": {large, 1, 17 << 10},
		"no pause":        {small, 60, 999},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world, p *pipes) {
				alice, bob := w.join("alice"), w.join("bob")
				a, conn := alice.dialPipe(t, p, func(context.Context, []byte) bool { return false }) // its pongs would stand within the frames
				var out []byte
				for i := range c.messages {
					out = append(out, masked(t, &wire.ClientFrame{Type: wire.FrameSend, Ref: uint64(i + 1), Submission: c.message(t, bob)})...)
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for rest := out; len(rest) > 0; time.Sleep(time.Second) {
						n := min(len(rest), c.every)
						if _, err := conn.Write(rest[:n]); err != nil {
							return
						}
						rest = rest[n:]
					}
				}()
				for answered := range c.messages {
					if f := a.patient(); f == nil || f.Ref != uint64(answered+1) {
						t.Errorf("after %d of %d messages: %+v", answered, c.messages, f)
						break
					}
				}
				conn.Close()
				<-ended
			})
		})
	}
}

// Between messages there is all the time again, also after one in pieces.
func TestIdleAfterAMessageInPieces(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, p *pipes) {
		b, conn := w.join("bob").openPipe(t, p)
		go func() { // answers pings
			for b.patient() != nil {
			}
		}()
		ack := masked(t, &wire.ClientFrame{Type: wire.FrameAck, Seq: 1})
		for i := range ack {
			conn.Write(ack[i : i+1])
		}
		time.Sleep(5 * time.Minute)
		if n := w.api.Sockets(); n != 1 {
			t.Errorf("%d sockets", n)
		}
		conn.Close()
	})
}

// R10: clients that are slow with headers, body or reading are cut within 15
// seconds.
func TestSlowHTTPClientsAreCut(t *testing.T) {
	drip := func(conn net.Conn, text string) {
		for i := range len(text) {
			if _, err := conn.Write([]byte{text[i]}); err != nil {
				return
			}
			time.Sleep(500 * time.Millisecond)
		}
	}
	for name, client := range map[string]func(conn net.Conn){
		"slow header": func(conn net.Conn) {
			drip(conn, "GET /livez HTTP/1.1\r\nHost: a.test\r\nX: "+strings.Repeat("x", 1000))
		},
		"slow body": func(conn net.Conn) {
			io.WriteString(conn, "POST /auth/login HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
			drip(conn, strings.Repeat(" ", 1000))
		},
		"silence": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *world, p *pipes) {
				conn := p.dial()
				started := time.Now()
				go client(conn)
				io.Copy(io.Discard, conn)
				if d := time.Since(started); d > 15*time.Second {
					t.Errorf("cut after %v", d)
				}
				conn.Close()
				time.Sleep(2 * time.Second) // the dripping ends
			})
		})
	}
	t.Run("slow read", func(t *testing.T) {
		inBubble(t, func(t *testing.T, _ *world, p *pipes) {
			conn := p.dial()
			started := time.Now()
			io.WriteString(conn, "GET /openapi.yaml HTTP/1.1\r\nHost: a.test\r\n\r\n")
			var err error
			for err == nil {
				time.Sleep(time.Second)
				_, err = conn.Read(make([]byte, 512))
			}
			if d := time.Since(started); d > 11*time.Second { // over TLS saying goodbye adds 5
				t.Errorf("cut after %v", d)
			}
			conn.Close()
		})
	})
}

// A long poll is answered in time though it outlasts the limit for answers.
func TestLongPollWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world, p *pipes) {
		bob := w.join("bob")
		conn := p.dial()
		started := time.Now()
		fmt.Fprintf(conn, "GET /sync?timeout=25 HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer %s\r\n\r\n", bob.tokens.Access)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || string(body) != `{"events":[],"acked":0,"more":false}` {
			t.Errorf("%d %s %v", res.StatusCode, body, err)
		}
		if d := time.Since(started); d != 25*time.Second {
			t.Errorf("after %v", d)
		}
		conn.Close()
	})
}
