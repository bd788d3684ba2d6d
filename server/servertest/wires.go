package servertest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Wires is a network in memory. Every host has a name; connections between two
// hosts can be cut without either end being told, as a dead link does it.
type Wires struct {
	mu        sync.Mutex // guards what follows
	latency   time.Duration
	listeners map[string]*listener // by address
	cut       map[[2]string]bool   // pairs of hosts, in order
	oneWay    map[[2]string]bool   // from one host to another
	open      map[*conn]struct{}
	mute      map[[2]string]bool        // who does not reach whom with new connections
	dials     map[[2]string][]time.Time // from one host to another, also those that failed
}

func newWires() *Wires {
	return &Wires{listeners: map[string]*listener{}, cut: map[[2]string]bool{}, oneWay: map[[2]string]bool{}, open: map[*conn]struct{}{}, mute: map[[2]string]bool{}, dials: map[[2]string][]time.Time{}}
}

// SetLatency delays what is written from now on, in each direction.
func (w *Wires) SetLatency(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency = d
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// Cut makes everything between two hosts vanish, on open connections too.
func (w *Wires) Cut(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[pair(a, b)] = true
	for c := range w.open {
		if pair(c.from, c.to) == pair(a, b) {
			c.out.blackhole()
			c.in.blackhole()
		}
	}
}

// CutWay makes everything from one host to another vanish, on open connections
// too. No new connection comes about: both ways are needed for that.
func (w *Wires) CutWay(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.oneWay[[2]string{from, to}] = true
	for c := range w.open {
		if c.from == from && c.to == to {
			c.out.blackhole()
		}
	}
}

// Break ends the open connections between two hosts; both ends are told.
func (w *Wires) Break(a, b string) {
	w.mu.Lock()
	var broken []*conn
	for c := range w.open {
		if pair(c.from, c.to) == pair(a, b) {
			broken = append(broken, c)
		}
	}
	w.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

// Mend lets new connections through. Those that were open stay dead.
func (w *Wires) Mend(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cut, pair(a, b))
	delete(w.oneWay, [2]string{a, b})
	delete(w.oneWay, [2]string{b, a})
}

func (w *Wires) mendAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.oneWay)
}

// dead tells whether no connection comes about; w.mu is held.
func (w *Wires) dead(from, to string) bool {
	return w.cut[pair(from, to)] || w.oneWay[[2]string{from, to}] || w.oneWay[[2]string{to, from}] || w.mute[[2]string{from, to}]
}

// Mute lets what one host dials at another vanish, or not any more; the other way
// stays open.
func (w *Wires) Mute(from, to string, mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute[[2]string{from, to}] = mute
}

// Dials tells when one host tried to connect with another.
func (w *Wires) Dials(from, to string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.dials[[2]string{from, to}]...)
}

// Listen opens an address of host.
func (w *Wires) Listen(host, address string) (net.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listeners[address] != nil {
		return nil, errors.New("the address is in use")
	}
	l := &listener{w: w, host: host, address: address, accept: make(chan net.Conn, 128), closed: make(chan struct{})}
	w.listeners[address] = l
	return l, nil
}

// Dial connects host with an address. A cut wire gives no answer until ctx ends.
func (w *Wires) Dial(ctx context.Context, host, address string) (net.Conn, error) {
	w.mu.Lock()
	l := w.listeners[address]
	gone := l != nil && w.dead(host, l.host)
	to, _, _ := strings.Cut(address, ":")
	way := [2]string{host, to}
	w.dials[way] = append(w.dials[way], time.Now()) // also when nobody listens
	if l == nil || gone {
		w.mu.Unlock()
		if gone {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, errors.New("connection refused")
	}
	there, back := newHalf(w.latency), newHalf(w.latency)
	client := &conn{w: w, from: host, to: l.host, in: back, out: there}
	server := &conn{w: w, from: l.host, to: host, in: there, out: back}
	w.open[client], w.open[server] = struct{}{}, struct{}{}
	w.mu.Unlock()
	select {
	case l.accept <- server:
		return client, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	client.Close()
	server.Close()
	return nil, errors.New("connection refused")
}

type listener struct {
	w             *Wires
	host, address string
	accept        chan net.Conn // capacity 128: a backlog
	closed        chan struct{}
	once          sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.w.mu.Lock()
		if l.w.listeners[l.address] == l {
			delete(l.w.listeners, l.address)
		}
		l.w.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.accept:
				c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.address) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// conn is one end of a connection.
type conn struct {
	w        *Wires
	from, to string
	in, out  *half
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *conn) Close() error {
	c.w.mu.Lock()
	delete(c.w.open, c)
	c.w.mu.Unlock()
	c.in.stop()
	c.out.end()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address("192.0.2.1:1") }
func (c *conn) RemoteAddr() net.Addr { return address("192.0.2.2:2") }

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(&c.in.readBy, t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(&c.out.writeBy, t); return nil }

// half is one direction: what one end writes the other reads, later.
type half struct {
	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	latency time.Duration
	queue   []chunk
	size    int
	ended   bool // the writer closed: io.EOF behind the queue
	stopped bool // the reader closed
	dead    bool // cut: nothing arrives, writes vanish
	readBy  time.Time
	writeBy time.Time
	timer   *time.Timer // wakes waiters at next
	next    time.Time
}

type chunk struct {
	data []byte
	at   time.Time
}

// window is how much may be under way. It is so large that writes do not wait
// in practice: net/http holds a mutex while it writes, and a bubble's time
// stands still while somebody waits for a mutex.
const window = 64 << 20

func newHalf(latency time.Duration) *half {
	h := &half{latency: latency}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// wakeAt has waiters look again at t, or earlier. The caller holds mu.
func (h *half) wakeAt(t time.Time) {
	if t.IsZero() || !h.next.IsZero() && !t.Before(h.next) {
		return
	}
	h.next = t
	if h.timer != nil {
		h.timer.Reset(time.Until(t))
		return
	}
	h.timer = time.AfterFunc(time.Until(t), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.next = time.Time{}
		h.changed.Broadcast()
	})
}

func (h *half) setDeadline(which *time.Time, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*which = t
	h.changed.Broadcast()
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case h.stopped:
			return 0, net.ErrClosed
		case !h.readBy.IsZero() && !now.Before(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(h.queue) > 0 && !h.dead:
			first := &h.queue[0]
			if now.Before(first.at) {
				h.wakeAt(first.at)
				break
			}
			n := copy(b, first.data)
			if first.data = first.data[n:]; len(first.data) == 0 {
				h.queue = h.queue[1:]
			}
			h.size -= n
			h.changed.Broadcast()
			return n, nil
		case h.ended && !h.dead:
			return 0, io.EOF
		}
		h.wakeAt(h.readBy)
		h.changed.Wait()
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.ended:
			return 0, net.ErrClosed
		case !h.writeBy.IsZero() && !time.Now().Before(h.writeBy):
			return 0, os.ErrDeadlineExceeded
		case h.stopped:
			return 0, errors.New("connection reset")
		case h.dead:
			return len(b), nil
		case h.size < window:
			h.queue = append(h.queue, chunk{append([]byte(nil), b...), time.Now().Add(h.latency)})
			h.size += len(b)
			h.changed.Broadcast()
			return len(b), nil
		}
		h.wakeAt(h.writeBy)
		h.changed.Wait()
	}
}

func (h *half) blackhole() { h.set(func() { h.dead = true }) }
func (h *half) end()       { h.set(func() { h.ended = true }) }

// stop ends the reading side and its timers: a bubble must not outlive them.
func (h *half) stop() {
	h.set(func() {
		h.stopped = true
		if h.timer != nil {
			h.timer.Stop()
		}
	})
}

func (h *half) set(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
	h.changed.Broadcast()
}
