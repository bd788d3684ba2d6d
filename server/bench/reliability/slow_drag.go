package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// slowKinds are the ways of being slow, in equal numbers.
var slowKinds = [...]string{
	"handshake", "header", "body", "read",
	"ws-header", "ws-frame", "ws-read",
	"h2-header", "h2-body", "h2-read", "h2-window",
}

// drag is a crowd of slow connections.
type drag struct {
	srv     *rig.Server
	readers []*rig.Account           // have mail that they do not read
	writers []*rig.Account           // do not end a frame
	cut     map[string]time.Duration // the longest life by kind; owned by watch

	mu     sync.Mutex
	all    []*dragged // guarded by mu
	opened bool       // guarded by mu; no more come
}

type dragged struct {
	kind  string
	conn  net.Conn
	tls   *tls.Conn
	local netip.AddrPort
	began time.Time
	drip  string // what is sent, step bytes a second
	step  int
	over  atomic.Bool // the server has ended the request, though perhaps not the connection
	gone  atomic.Bool
}

// open opens n slow connections of all kinds from many addresses.
// Eight at a time, since those that were opened first do not live long.
func (d *drag) open(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n && failed.Load() == nil; i += 8 {
				x, err := d.one(ctx, i)
				if err != nil {
					err = fmt.Errorf("slow connection %d (%s): %w", i, slowKinds[i%len(slowKinds)], err)
					failed.Store(&err)
					return
				}
				d.mu.Lock()
				d.all = append(d.all, x)
				d.mu.Unlock()
			}
		})
	}
	wg.Wait()
	d.mu.Lock()
	d.opened = true
	d.mu.Unlock()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// present gives the connections so far and whether that is all.
func (d *drag) present() ([]*dragged, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.all), d.opened
}

// left is how many the server has not cut.
func (d *drag) left() int {
	all, _ := d.present()
	n := 0
	for _, x := range all {
		if !x.gone.Load() {
			n++
		}
	}
	return n
}

// one opens slow connection i.
func (d *drag) one(ctx context.Context, i int) (*dragged, error) {
	x := &dragged{kind: slowKinds[i%len(slowKinds)], began: time.Now(), step: 1}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: rig.Source(2000 + i)}, Timeout: 5 * time.Second}
	if strings.HasSuffix(x.kind, "read") {
		dialer.Control = rig.SmallWindow // before the connection is made, or it is too late
	}
	conn, err := dialer.DialContext(ctx, "tcp", d.srv.Address)
	if err != nil {
		return nil, err
	}
	x.conn, x.local = conn, conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if x.kind == "handshake" {
		x.drip = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200)
		return x, nil
	}
	cfg := d.srv.ClientTLS()
	cfg.NextProtos = []string{"http/1.1"}
	if strings.HasPrefix(x.kind, "h2") {
		cfg.NextProtos = []string{"h2"}
	}
	x.tls = tls.Client(conn, cfg)
	if err := x.tls.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	x.began = time.Now()
	if err := d.begin(x, i/len(slowKinds)); err != nil {
		conn.Close()
		return nil, err
	}
	return x, nil
}

// begin says what x says first and plans the rest.
func (d *drag) begin(x *dragged, account int) error {
	host := "Host: " + d.srv.Address + "\r\n"
	var first []byte
	switch x.kind {
	case "header":
		x.drip = "GET /livez HTTP/1.1\r\n" + host + "X-Slow: " + strings.Repeat("a", 1000)
	case "body":
		first = []byte("POST /auth/login HTTP/1.1\r\n" + host + "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
		x.drip = strings.Repeat(" ", 1000)
	case "read":
		// Many answers are asked for and none is read, so that the server's
		// writes come to a halt.
		first = []byte(strings.Repeat("GET /openapi.yaml HTTP/1.1\r\n"+host+"\r\n", 20))
	case "ws-header":
		first = upgrade(host, "")
		x.drip = "X-Slow: " + strings.Repeat("a", 1000)
	case "ws-frame":
		if err := x.upgraded(host, d.writers[account].Access); err != nil {
			return err
		}
		first = []byte{0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4} // a frame of 4 KiB begins
		x.drip = strings.Repeat(" ", 1000)
	case "ws-read":
		return x.upgraded(host, d.readers[account].Access)
	case "h2-header":
		first = append(h2Opening(math.MaxInt32), h2Frame(h2Headers, h2EndHeaders, 1, make([]byte, 4000))[:9]...)
		x.drip = string(h2Request(false, d.srv.Address, "/livez")) + strings.Repeat("\x00", 1000)
	case "h2-body":
		first = append(h2Opening(math.MaxInt32), h2Frame(h2Headers, h2EndHeaders, 1, h2Request(true, d.srv.Address, "/auth/login", "content-type", "application/json"))...)
		byteOfBody := string(h2Frame(h2Data, 0, 1, []byte(" ")))
		x.drip, x.step = strings.Repeat(byteOfBody, 1000), len(byteOfBody)
	case "h2-read":
		first = h2Opening(math.MaxInt32)
		for stream := range uint32(20) {
			first = append(first, h2Frame(h2Headers, h2EndHeaders|h2EndStream, 2*stream+1, h2Request(false, d.srv.Address, "/openapi.yaml"))...)
		}
	case "h2-window": // the connection is read from, the answer has no room
		first = append(h2Opening(0), h2Frame(h2Headers, h2EndHeaders|h2EndStream, 1, h2Request(false, d.srv.Address, "/openapi.yaml"))...)
	}
	if _, err := x.tls.Write(first); err != nil {
		return err
	}
	if x.kind == "h2-body" || x.kind == "h2-window" {
		go func() {
			h2Attend(x.tls)
			x.over.Store(true)
		}()
	}
	return nil
}

// upgrade is a request for a WebSocket without its end.
func upgrade(host, token string) []byte {
	return []byte("GET /ws HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		"Sec-WebSocket-Protocol: " + wire.SubprotocolCBOR + "\r\nAuthorization: Bearer " + token + "\r\n")
}

// upgraded opens a WebSocket and reads nothing after the answer's head.
func (x *dragged) upgraded(host, token string) error {
	if _, err := x.tls.Write(append(upgrade(host, token), "\r\n"...)); err != nil {
		return err
	}
	x.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var answer []byte
	for one := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); answer = append(answer, one...) {
		if _, err := x.tls.Read(one); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		return fmt.Errorf("the server does not upgrade: %s", bytes.SplitN(answer, []byte("\r\n"), 2)[0])
	}
	x.began = time.Now()
	return nil
}

// watch feeds the slow ones and notes when the server lets go of each, until
// all are gone or four times the limit has passed.
func (d *drag) watch(ctx context.Context) error {
	end := time.Now().Add(4 * slowLimit)
	const ticks = int(time.Second / slowTick) // each is fed once a second, in turns
	for tick := 0; ; tick++ {
		all, complete := d.present() // before the kernel is asked
		open, err := d.srv.Established()
		if err != nil {
			return err
		}
		for i, x := range all {
			if x.gone.Load() {
				continue
			}
			if x.over.Load() || !open[x.local] {
				d.cut[x.kind] = max(d.cut[x.kind], time.Since(x.began))
				x.gone.Store(true)
				continue
			}
			if i%ticks == tick%ticks {
				x.feed()
			}
		}
		if complete && d.left() == 0 || time.Now().After(end) {
			return nil
		}
		if err := sleep(ctx, slowTick); err != nil {
			return err
		}
	}
}

// feed sends the next piece.
func (x *dragged) feed() {
	if x.drip == "" {
		return
	}
	b := []byte(x.drip[:x.step])
	x.drip = x.drip[x.step:]
	x.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if x.tls != nil {
		x.tls.Write(b)
	} else {
		x.conn.Write(b)
	}
}

func (d *drag) close() {
	all, _ := d.present()
	for _, x := range all {
		x.conn.Close()
	}
}
