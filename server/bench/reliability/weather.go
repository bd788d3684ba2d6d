package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// weather is what happens on the way to one server and back.
type weather struct {
	name     string
	drop     float64       // share of packets
	double   float64       // share of packets
	delay    time.Duration // of everything
	jitter   time.Duration // at most, more than delay; lets packets overtake each other, on TCP order is kept
	cutThere bool          // nothing reaches the server: packets are lost, on TCP bytes wait as they would be sent again
	cutBack  bool          // nothing comes back
	reset    bool          // TCP connections are broken off when it begins
}

// passed counts what a faultProxy did.
type passed struct {
	Packets   int64 `json:"packets"`
	Dropped   int64 `json:"packets_dropped"`
	Doubled   int64 `json:"packets_doubled"`
	Delayed   int64 `json:"packets_delayed"`
	Bytes     int64 `json:"tcp_bytes"`
	Broken    int64 `json:"tcp_broken"`
	Connected int64 `json:"tcp_connected"`
}

// faultProxy carries TCP connections and UDP packets to one server, at one port,
// through the weather. What it draws comes from a seed; when packets come does
// not.
type faultProxy struct {
	listener net.Listener
	packets  *net.UDPConn
	target   string

	mu      sync.Mutex // guards what follows
	random  *rand.Rand
	now     weather
	changed chan struct{} // closed when now is replaced
	conns   map[net.Conn]struct{}
	flows   map[netip.AddrPort]*net.UDPConn // by who sends; towards the server
	counts  passed
	closed  bool
	wg      sync.WaitGroup
}

// newFaultProxy opens a port for TCP and UDP; aim starts it.
func newFaultProxy(random *rand.Rand) (*faultProxy, error) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		at := l.Addr().(*net.TCPAddr)
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
		if err != nil {
			l.Close() // somebody has that UDP port
			continue
		}
		return &faultProxy{
			listener: l, packets: pc, random: random, changed: make(chan struct{}),
			conns: map[net.Conn]struct{}{}, flows: map[netip.AddrPort]*net.UDPConn{},
		}, nil
	}
	return nil, errors.New("no port is free for TCP and UDP")
}

func (p *faultProxy) address() string { return p.listener.Addr().String() }

// aim begins to carry to the server's address.
func (p *faultProxy) aim(target string) {
	p.target = target
	p.wg.Go(p.accept)
	p.wg.Go(p.receive)
}

// become changes the weather.
func (p *faultProxy) become(w weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = w
	close(p.changed)
	p.changed = make(chan struct{})
	if !w.reset {
		return
	}
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, not an end
		}
		c.Close()
		p.counts.Broken++
	}
}

func (p *faultProxy) passed() passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

func (p *faultProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			client.Close()
			server.Close()
			return
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.counts.Connected++
		p.mu.Unlock()
		p.wg.Go(func() { p.pour(server, client, true) })
		p.wg.Go(func() { p.pour(client, server, false) })
	}
}

// pour carries one direction of a TCP connection until either end is closed.
func (p *faultProxy) pour(to, from net.Conn, there bool) {
	defer func() {
		to.Close()
		from.Close()
		p.mu.Lock()
		delete(p.conns, to)
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.await(there) {
			return
		}
		p.mu.Lock()
		p.counts.Bytes += int64(n)
		p.mu.Unlock()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// await delays one piece of TCP, as long as the way is cut; it is false when
// the proxy is closed.
func (p *faultProxy) await(there bool) bool {
	for {
		p.mu.Lock()
		w, changed, closed := p.now, p.changed, p.closed
		delay := w.delay
		if w.jitter > 0 {
			delay += time.Duration(p.random.Int64N(int64(w.jitter)))
		}
		p.mu.Unlock()
		switch {
		case closed:
			return false
		case there && w.cutThere || !there && w.cutBack:
			<-changed
			continue
		}
		time.Sleep(delay)
		return true
	}
}

// receive carries packets to the server, each sender's from a socket of its own.
func (p *faultProxy) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.packets.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		flow := p.flow(from)
		if flow == nil {
			return
		}
		p.scatter(buf[:n], true, func(b []byte) { _, _ = flow.Write(b) }) // a lost packet is no news here
	}
}

func (p *faultProxy) flow(from netip.AddrPort) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[from]; f != nil || p.closed {
		return f
	}
	at, err := net.ResolveUDPAddr("udp", p.target)
	if err != nil {
		return nil
	}
	f, err := net.DialUDP("udp", nil, at)
	if err != nil {
		return nil
	}
	p.flows[from] = f
	p.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil: // the server is away
				time.Sleep(10 * time.Millisecond)
				continue
			}
			p.scatter(buf[:n], false, func(b []byte) { _, _ = p.packets.WriteToUDPAddrPort(b, from) })
		}
	})
	return f
}

// scatter drops, doubles and delays one packet.
func (p *faultProxy) scatter(packet []byte, there bool, send func([]byte)) {
	p.mu.Lock()
	w := p.now
	p.counts.Packets++
	copies := 1
	if w.double > p.random.Float64() {
		copies = 2
		p.counts.Doubled++
	}
	if w.drop > p.random.Float64() || there && w.cutThere || !there && w.cutBack {
		copies = 0
		p.counts.Dropped++
	}
	delays := make([]time.Duration, copies)
	for i := range delays {
		delays[i] = w.delay
		if w.jitter > 0 {
			delays[i] += time.Duration(p.random.Int64N(int64(w.jitter)))
		}
		if delays[i] > 0 {
			p.counts.Delayed++
		}
	}
	p.mu.Unlock()
	for _, d := range delays {
		if d == 0 {
			send(packet)
			continue
		}
		later := append([]byte(nil), packet...)
		time.AfterFunc(d, func() { send(later) })
	}
}

func (p *faultProxy) close() {
	p.mu.Lock()
	p.closed = true
	close(p.changed)
	p.changed = make(chan struct{})
	for c := range p.conns {
		c.Close()
	}
	for _, f := range p.flows {
		f.Close()
	}
	p.mu.Unlock()
	p.listener.Close()
	p.packets.Close()
	p.wg.Wait()
}
