// Package transport carries signed requests between homeservers: HTTP/3 raced
// against HTTP/2, both over TLS 1.3, with discovery of where a peer answers and
// the rules about which addresses may be dialled; and it serves HTTP/3. It knows
// nothing of what it carries and decides nothing about trust beyond TLS;
// signatures and pins are package federation's.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/quic-go/quic-go/http3"
)

// Limits of one connection.
const (
	dialBudget      = 5 * time.Second
	handshakeBudget = 5 * time.Second
	connectBudget   = dialBudget + handshakeBudget // finding a peer and becoming connected, by whatever protocol
	idleFor         = 90 * time.Second
	pingAfter       = 10 * time.Second // without a frame; then pingBudget decides, so that a dead connection
	pingBudget      = 5 * time.Second  // is gone before the call on it has given up
	maxHeaderBytes  = 32 << 10
)

// Mode is how the protocol is chosen (federation.md, 6).
type Mode string

// The modes.
const (
	ModeAuto Mode = "auto" // HTTP/3 where the peer speaks it and the path lets it pass, else HTTP/2
	ModeH2   Mode = "h2"   // HTTP/2 only
	ModeH3   Mode = "h3"   // HTTP/3 only; discovery stays with HTTP/2, it asks a web server
)

// Options configure a Courier.
type Options struct {
	// RootCAs are trusted instead of the system's, nil for the system's.
	RootCAs *x509.CertPool
	// Dial opens a connection; default a net.Dialer. For peers that may have private addresses it gets
	// the name as it stands in the endpoint, for all others an address that has passed the filter. Two
	// addresses of one host may be dialled at the same time; it must return when its context ends.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolve finds a host's addresses; default the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Now is the clock of the discovery cache and of the marks; default time.Now.
	Now func() time.Time

	// Mode is ModeAuto when empty.
	Mode Mode
	// HTTP3 tells whether the peer's signed document says that it speaks HTTP/3. In ModeAuto nothing else
	// but a fresh Alt-Svc header of the same authority makes it a candidate. It is called from goroutines
	// of the Courier, up to once a second and peer, and must be quick. Default nobody.
	HTTP3 func(clearbox.ServerName) bool
	// ListenPacket opens the UDP socket of one HTTP/3 connection ("udp", ":0"). Default net.ListenPacket,
	// unless Dial is given: a world of its own is not left by another door, and has no HTTP/3.
	ListenPacket func(network, addr string) (net.PacketConn, error)
	// Network names the local network by which an address is reached. Default the /24 or /64 of the local
	// address that the system would send from, or "" when ListenPacket is given.
	Network func(netip.Addr) string
}

// Courier is a federation.Transport. It is safe for concurrent use.
type Courier struct {
	opts    Options
	public  *http.Transport  // for discovery: dials filtered addresses only
	private *http.Transport  // for discovery: dials what the operator has written
	h3      *http3.Transport // limits of HTTP/3 connections; holds none

	ctx    context.Context // of what is opened without a caller waiting; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // counts the goroutines that open connections; only added to by them or under mu while not closed

	counts [2]counters
	marked atomic.Int64

	mu      sync.Mutex // guards what follows and what it points to; never held across I/O
	entries map[clearbox.ServerName]*entry
	paths   map[place]*path
	sweepAt int // paths at which those that hold nothing are forgotten
	asking  map[*asking]struct{}
	closed  bool
}

var _ federation.Transport = (*Courier)(nil)

// New opens nothing.
func New(opts Options) *Courier {
	if opts.ListenPacket == nil && opts.Dial == nil {
		opts.ListenPacket = net.ListenPacket
		if opts.Network == nil {
			opts.Network = localNetwork
		}
	}
	if opts.Network == nil {
		opts.Network = func(netip.Addr) string { return "" }
	}
	if opts.Dial == nil {
		d := &net.Dialer{Timeout: dialBudget, KeepAlive: 30 * time.Second}
		opts.Dial = d.DialContext
	}
	if opts.Resolve == nil {
		opts.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Mode == "" {
		opts.Mode = ModeAuto
	}
	t := &Courier{
		opts: opts, entries: map[clearbox.ServerName]*entry{}, paths: map[place]*path{}, sweepAt: keptPaths, asking: map[*asking]struct{}{},
		h3: &http3.Transport{MaxResponseHeaderBytes: maxHeaderBytes, DisableCompression: true, Logger: slog.New(slog.DiscardHandler)},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.public = t.http(t.dialPublic)
	t.private = t.http(t.dialPrivate)
	return t
}

// localNetwork asks the system from where it would send. Nothing is sent.
func localNetwork(to netip.Addr) string {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return ""
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return ""
	}
	a := local.AddrPort().Addr().Unmap()
	bits := 64
	if a.Is4() {
		bits = 24
	}
	net, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return ""
	}
	return net.String()
}

func (t *Courier) tlsConfig(host, proto string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: t.opts.RootCAs, ServerName: host, NextProtos: []string{proto}}
}

func (t *Courier) http(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP2(true) // HTTP/1.1 is accepted inbound, never chosen outbound
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        t.tlsConfig("", "h2"),
		TLSHandshakeTimeout:    handshakeBudget,
		Protocols:              &protocols,
		DisableCompression:     true,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxHeaderBytes,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingBudget, WriteByteTimeout: pingBudget},
	}
}

// Close closes idle connections; those in use close when they become idle. It
// waits for connections that are being opened, which it cancels. Requests
// afterwards fail.
func (t *Courier) Close() {
	t.mu.Lock()
	t.closed = true
	var unused []*link
	for _, p := range t.paths {
		for _, l := range p.live {
			unused = append(unused, p.drain(l)...)
		}
	}
	t.mu.Unlock()
	t.cancel()
	shut(unused)
	t.wg.Wait()
	t.public.CloseIdleConnections()
	t.private.CloseIdleConnections()
	// Not idle to net/http is what it still dials and what a request has just left.
	t.mu.Lock()
	var left []*asking
	for c := range t.asking {
		left = append(left, c)
	}
	t.mu.Unlock()
	for _, c := range left {
		c.Close()
	}
}

// asking is a connection of discovery.
type asking struct {
	net.Conn
	t *Courier
}

func (c *asking) Close() error {
	c.t.mu.Lock()
	delete(c.t.asking, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// ask notes a connection of discovery, unless the Courier is closed.
func (t *Courier) ask(conn net.Conn) (net.Conn, error) {
	c := &asking{conn, t}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.asking[c] = struct{}{}
	}
	t.mu.Unlock()
	if closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// through is the way of discovery, which asks web servers.
func (t *Courier) through(allowPrivate bool) *http.Transport {
	if allowPrivate {
		return t.private
	}
	return t.public
}

func (t *Courier) dialPrivate(ctx context.Context, _, addr string) (net.Conn, error) {
	return t.dialHost(ctx, addr, true)
}

// dialPublic resolves the name itself and dials only the addresses that pass
// the filter, so that nothing can change between the check and the use.
func (t *Courier) dialPublic(ctx context.Context, _, addr string) (net.Conn, error) {
	return t.dialHost(ctx, addr, false)
}

func (t *Courier) dialHost(ctx context.Context, addr string, allowPrivate bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the endpoint is not usable", err)
	}
	d, err := t.find(ctx, place{host, port, allowPrivate}, false)
	if err != nil {
		return nil, err
	}
	conn, err := t.dialTCP(ctx, d)
	if err != nil {
		return nil, err
	}
	return t.ask(conn)
}

func (t *Courier) publicAddresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, &AddressError{Host: host}
	}
	addrs, err := t.opts.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var public []netip.Addr
	for _, a := range addrs {
		if Public(a) {
			public = append(public, a.Unmap())
		}
	}
	if len(public) == 0 {
		return nil, &AddressError{Host: host}
	}
	return public, nil
}
