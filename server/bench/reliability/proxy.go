package main

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// proxy carries TCP connections to a server until it is told to become a black
// hole: then the two ends keep their connections and nothing passes any more,
// not even the news that one of them has closed.
type proxy struct {
	listener net.Listener
	target   string
	stall    bool // as a black hole, stop reading instead of throwing away

	mu    sync.Mutex
	hole  bool    // guarded by mu: also connections that come now are dead
	links []*link // guarded by mu
	wg    sync.WaitGroup
}

// link is one connection of a client and, unless it began in the hole, one to
// the server.
type link struct {
	client, server net.Conn // server is nil in the hole
	dead           bool     // guarded by the proxy's mu
	http2          bool     // guarded by the proxy's mu: the client offered HTTP/2, so this is no WebSocket
}

func newProxy(target string, stall bool) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, stall: stall}
	p.wg.Go(p.serve)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{client: client}
		p.mu.Lock()
		l.dead = p.hole
		p.mu.Unlock()
		if !l.dead {
			if l.server, err = net.Dial("tcp", p.target); err != nil {
				client.Close()
				continue
			}
		}
		p.mu.Lock()
		p.links = append(p.links, l)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(l, l.server, l.client) })
		if l.server != nil {
			p.wg.Go(func() { p.copy(l, l.client, l.server) })
		}
	}
}

// copy passes bytes, and the end of them, until the link is dead; then it
// throws them away, or reads no more.
func (p *proxy) copy(l *link, to io.Writer, from net.Conn) {
	buf := make([]byte, 32<<10)
	for first := from == l.client; ; first = false {
		n, err := from.Read(buf)
		p.mu.Lock()
		dead := l.dead
		// The names of protocols stand in the clear in a ClientHello (RFC 7301).
		l.http2 = l.http2 || first && bytes.Contains(buf[:n], []byte("\x02h2"))
		p.mu.Unlock()
		if dead {
			if p.stall || err != nil {
				return
			}
			continue
		}
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			p.end(l)
			return
		}
	}
}

// end passes on that a living connection is over.
func (p *proxy) end(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.dead {
		l.client.Close()
		l.server.Close()
	}
}

// blackhole lets nothing pass any more on the connections that are there; with
// all, on those that come neither. It gives the WebSocket connections that it
// cut: as the server sees them, and as the client does.
func (p *proxy) blackhole(all bool) (atServer, atClient []netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = all
	for _, l := range p.links {
		if l.dead {
			continue
		}
		l.dead = true
		if p.stall { // wake the readers, so that they stop
			l.client.SetReadDeadline(time.Now())
			l.server.SetReadDeadline(time.Now())
		}
		if !l.http2 {
			atServer = append(atServer, l.server.LocalAddr().(*net.TCPAddr).AddrPort())
			atClient = append(atClient, l.client.RemoteAddr().(*net.TCPAddr).AddrPort())
		}
	}
	return atServer, atClient
}

// heal lets new connections pass. The old ones stay dead.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, l := range p.links {
		l.client.Close()
		if l.server != nil {
			l.server.Close()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
