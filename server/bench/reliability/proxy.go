package main

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// proxy carries one TCP connection to a server until it is told to become a
// black hole: then the two ends keep their connections and nothing passes.
type proxy struct {
	listener net.Listener
	target   string
	stall    bool // as a black hole, stop reading instead of throwing away

	mu       sync.Mutex
	black    bool     // guarded by mu
	upstream net.Conn // guarded by mu
	client   net.Conn // guarded by mu
	wg       sync.WaitGroup
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

// local is the proxy's end of the connection to the server.
func (p *proxy) local() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upstream.LocalAddr().(*net.TCPAddr).AddrPort()
}

func (p *proxy) serve() {
	client, err := p.listener.Accept()
	if err != nil {
		return
	}
	upstream, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.client, p.upstream = client, upstream
	p.mu.Unlock()
	p.wg.Go(func() { p.copy(upstream, client) })
	p.copy(client, upstream)
}

// copy passes bytes until the hole opens; then it throws them away, or reads
// no more.
func (p *proxy) copy(to io.Writer, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		black := p.black
		p.mu.Unlock()
		switch {
		case !black:
			to.Write(buf[:n])
		case p.stall:
			return
		}
	}
}

// blackhole lets nothing pass from now on.
func (p *proxy) blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.black = true
	if p.stall { // wake the readers, so that they stop
		p.client.SetReadDeadline(time.Now())
		p.upstream.SetReadDeadline(time.Now())
	}
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	if p.client != nil {
		p.client.Close()
		p.upstream.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
