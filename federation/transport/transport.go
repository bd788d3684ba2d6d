// Package transport carries signed requests between homeservers: HTTP/2 over
// TLS 1.3, with discovery of where a peer answers and the rules about which
// addresses may be dialled. It knows nothing of what it carries and decides
// nothing about trust beyond TLS; signatures and pins are package federation's.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// Limits of one connection.
const (
	dialBudget      = 5 * time.Second
	handshakeBudget = 5 * time.Second
	idleFor         = 90 * time.Second
	pingAfter       = 10 * time.Second // without a frame; then pingBudget decides, so that a dead connection
	pingBudget      = 5 * time.Second  // is gone before the call on it has given up
	maxHeaderBytes  = 32 << 10
)

// Options configure an HTTP2.
type Options struct {
	// RootCAs are trusted instead of the system's, nil for the system's.
	RootCAs *x509.CertPool
	// Dial opens a connection; default a net.Dialer. For peers that may have private addresses it gets
	// the name as it stands in the endpoint, for all others an address that has passed the filter.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolve finds a host's addresses; default the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Now is the clock of the discovery cache; default time.Now.
	Now func() time.Time
}

// HTTP2 is a federation.Transport. It is safe for concurrent use.
type HTTP2 struct {
	opts    Options
	public  *http.Transport // dials filtered addresses only
	private *http.Transport // dials what the operator has written

	mu      sync.Mutex // guards the map and what its entries hold; never held across I/O
	entries map[clearbox.ServerName]*entry
}

var _ federation.Transport = (*HTTP2)(nil)

// New opens nothing.
func New(opts Options) *HTTP2 {
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
	t := &HTTP2{opts: opts, entries: map[clearbox.ServerName]*entry{}}
	t.public = t.http(t.dialPublic)
	t.private = t.http(t.dialPrivate)
	return t
}

func (t *HTTP2) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: t.opts.RootCAs, NextProtos: []string{"h2"}}
}

func (t *HTTP2) http(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP2(true) // HTTP/1.1 is accepted inbound, never chosen outbound
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        t.tlsConfig(),
		TLSHandshakeTimeout:    handshakeBudget,
		Protocols:              &protocols,
		DisableCompression:     true,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxHeaderBytes,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingBudget, WriteByteTimeout: pingBudget},
	}
}

// Close closes idle connections; those in use close when they become idle.
func (t *HTTP2) Close() {
	t.public.CloseIdleConnections()
	t.private.CloseIdleConnections()
}

// Do sends the request to the host in its URL and follows no redirects.
func (t *HTTP2) Do(_ context.Context, target federation.Target, req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, clearbox.Errorf(clearbox.CodeForbidden, "servers speak https only")
	}
	return t.through(target.AllowPrivate).RoundTrip(req)
}

func (t *HTTP2) through(allowPrivate bool) *http.Transport {
	if allowPrivate {
		return t.private
	}
	return t.public
}

func (t *HTTP2) dialPrivate(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	return t.opts.Dial(ctx, network, addr)
}

// dialPublic resolves the name itself and dials only the addresses that pass
// the filter, so that nothing can change between the check and the use.
func (t *HTTP2) dialPublic(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the endpoint is not usable", err)
	}
	addrs, err := t.publicAddresses(ctx, host)
	if err != nil {
		return nil, err
	}
	var last error
	for _, a := range addrs {
		conn, err := t.opts.Dial(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

func (t *HTTP2) publicAddresses(ctx context.Context, host string) ([]netip.Addr, error) {
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

// Probe is what can be seen of an endpoint without a signature.
type Probe struct {
	Addresses []string // empty when the operator allows private addresses: the name is dialled as it is
	TLS       string   // such as "TLS 1.3"
	ALPN      string
	Expires   time.Time // of the certificate
}

// Resolve gives the addresses that would be dialled for an endpoint.
func (t *HTTP2) Resolve(ctx context.Context, base string, allowPrivate bool) ([]string, error) {
	u, err := federation.ParseEndpoint(base)
	if err != nil {
		return nil, err
	}
	if allowPrivate {
		return nil, nil
	}
	addrs, err := t.publicAddresses(ctx, u.Hostname())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out, nil
}

// Handshake opens one connection to an endpoint, completes TLS and closes it.
func (t *HTTP2) Handshake(ctx context.Context, base string, allowPrivate bool) (*Probe, error) {
	u, err := federation.ParseEndpoint(base)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	dial := t.dialPublic
	if allowPrivate {
		dial = t.dialPrivate
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cfg := t.tlsConfig()
	cfg.ServerName = u.Hostname()
	tc := tls.Client(conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeBudget)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := tc.ConnectionState()
	p := &Probe{TLS: tls.VersionName(state.Version), ALPN: state.NegotiatedProtocol, Expires: state.PeerCertificates[0].NotAfter}
	if p.ALPN != "h2" {
		return p, clearbox.Errorf(clearbox.CodeBadRequest, "the endpoint does not speak HTTP/2")
	}
	return p, nil
}
