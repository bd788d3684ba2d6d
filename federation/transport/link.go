package transport

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Proto is a protocol between homeservers, named as in ALPN.
type Proto string

// The protocols that are chosen outbound.
const (
	H2 Proto = "h2" // HTTP/2 over TCP and TLS 1.3
	H3 Proto = "h3" // HTTP/3 over QUIC v1
)

func (p Proto) other() Proto {
	if p == H2 {
		return H3
	}
	return H2
}

// Limits of QUIC connections to peers. A connection that is silent dies before
// the calls on it give up, and so does one on which nothing is under way.
const (
	quicHandshake = 3 * time.Second
	quicKeepAlive = 5 * time.Second
	quicIdle      = 10 * time.Second
	quicStagger   = 100 * time.Millisecond // between the addresses of one host (RFC 8305, 5)
	tcpStagger    = 250 * time.Millisecond
	maxAddresses  = 4 // of one host that are tried
)

// link is one connection to a peer.
type link struct {
	proto Proto
	rt    func(*http.Request) (*http.Response, error)
	shut  func() // closes the connection and what carries it, once; not under Courier.mu
	dead  func() bool

	// Guarded by Courier.mu.
	path     *path
	inFlight int
	draining bool // takes no new requests
	gone     bool // counted out
	idle     *time.Timer
}

// destination is a host as it was found once, for every protocol and attempt.
type destination struct {
	place
	addrs []netip.Addr // the ones that passed the filter, at most maxAddresses
}

func (d *destination) authority() string { return net.JoinHostPort(d.host, d.port) }

// find resolves a host for dialling. Addresses that the filter refuses are
// left out, for UDP and TCP alike (attack 8). A name that may be private is
// dialled by TCP as it stands; only UDP needs its addresses, and that there are
// none says nothing about TCP.
func (t *Courier) find(ctx context.Context, at place, udp bool) (*destination, error) {
	d := &destination{place: at}
	if !at.allowPrivate {
		addrs, err := t.publicAddresses(ctx, at.host)
		if err != nil {
			return nil, err
		}
		d.addrs = interleave(addrs, maxAddresses)
		return d, nil
	}
	if !udp {
		return d, nil
	}
	if a, err := netip.ParseAddr(at.host); err == nil {
		d.addrs = []netip.Addr{a.Unmap()}
		return d, nil
	}
	if addrs, err := t.opts.Resolve(ctx, at.host); err == nil {
		d.addrs = interleave(addrs, maxAddresses)
	}
	return d, nil
}

// interleave takes at most n addresses and lets families take turns, beginning
// with the first one's (RFC 8305, 4).
func interleave(addrs []netip.Addr, n int) []netip.Addr {
	var turns [2][]netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		family := 0
		if a.Is4() != addrs[0].Unmap().Is4() {
			family = 1
		}
		turns[family] = append(turns[family], a)
	}
	var out []netip.Addr
	for i := 0; len(out) < n && (i < len(turns[0]) || i < len(turns[1])); i++ {
		for f := range turns {
			if i < len(turns[f]) && len(out) < n {
				out = append(out, turns[f][i])
			}
		}
	}
	return out
}

// dialTCP connects to the first address that answers.
func (t *Courier) dialTCP(ctx context.Context, d *destination) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBudget)
	defer cancel()
	if d.allowPrivate {
		return t.opts.Dial(ctx, "tcp", d.authority())
	}
	var ways []attempt[net.Conn]
	for _, a := range d.addrs {
		ways = append(ways, attempt[net.Conn]{tcpStagger, func(ctx context.Context) (net.Conn, error) {
			return t.opts.Dial(ctx, "tcp", net.JoinHostPort(a.String(), d.port))
		}})
	}
	return first(ctx, ways, func(c net.Conn) { c.Close() })
}

// first is a race whose losers are waited for: each has its own deadline and
// ends with ctx.
func first[T any](ctx context.Context, ways []attempt[T], drop func(T)) (T, error) {
	var wg sync.WaitGroup
	out := race(ctx, &wg, ways, drop)
	wg.Wait()
	if out.winner < 0 {
		return out.value, out.err()
	}
	return out.value, nil
}

// dialTLS connects and completes TLS 1.3 with HTTP/2 agreed on.
func (t *Courier) dialTLS(ctx context.Context, d *destination) (*tls.Conn, error) {
	conn, err := t.dialTCP(ctx, d)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeBudget)
	defer cancel()
	tc := tls.Client(conn, t.tlsConfig(d.host, "h2"))
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}

// dialH2 opens an HTTP/2 connection. HTTP/1.1 is accepted inbound, never chosen
// outbound.
func (t *Courier) dialH2(ctx context.Context, d *destination) (*link, error) {
	tc, err := t.dialTLS(ctx, d)
	if err != nil {
		return nil, err
	}
	if tc.ConnectionState().NegotiatedProtocol != "h2" {
		tc.Close()
		return nil, noHTTP2()
	}
	// A connection of its own, so that it is known when it is used and when not.
	tr := t.http(nil)
	tr.DialTLSContext = func(context.Context, string, string) (net.Conn, error) { return tc, nil }
	cc, err := tr.NewClientConn(ctx, "https", d.authority())
	if err != nil {
		tc.Close()
		return nil, err
	}
	l := &link{proto: H2, rt: cc.RoundTrip, dead: func() bool { return cc.Err() != nil }, shut: sync.OnceFunc(func() { cc.Close() })}
	cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.Err() != nil {
			t.ended(l)
		}
	})
	return l, nil
}

func noHTTP2() error {
	return clearbox.Errorf(clearbox.CodeBadRequest, "the endpoint does not speak HTTP/2")
}

// dialQUIC completes a handshake with the first address that answers; no 0-RTT,
// which can be replayed by design. The connection has a socket of its own,
// which carrier closes.
func (t *Courier) dialQUIC(ctx context.Context, d *destination) (*quic.Conn, *quic.Transport, error) {
	type dialled struct {
		conn *quic.Conn
		tr   *quic.Transport
	}
	port, err := strconv.ParseUint(d.port, 10, 16)
	if err != nil {
		return nil, nil, clearbox.Wrap(clearbox.CodeBadRequest, "the endpoint is not usable", err)
	}
	if t.opts.ListenPacket == nil {
		return nil, nil, clearbox.Errorf(clearbox.CodeUnavailable, "there is no UDP here")
	}
	var ways []attempt[dialled]
	for _, a := range d.addrs {
		ways = append(ways, attempt[dialled]{quicStagger, func(ctx context.Context) (dialled, error) {
			pc, err := t.opts.ListenPacket("udp", ":0")
			if err != nil {
				return dialled{}, err
			}
			tr := &quic.Transport{Conn: pc}
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port)))
			conn, err := tr.Dial(ctx, to, t.tlsConfig(d.host, http3.NextProtoH3), quicConfig())
			if err != nil {
				closeCarrier(tr)
				return dialled{}, err
			}
			return dialled{conn, tr}, nil
		}})
	}
	won, err := first(ctx, ways, func(l dialled) {
		_ = l.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		closeCarrier(l.tr)
	})
	return won.conn, won.tr, err
}

func closeCarrier(tr *quic.Transport) {
	tr.Close()
	tr.Conn.Close()
}

func quicConfig() *quic.Config {
	return &quic.Config{
		Versions:              []quic.Version{quic.Version1},
		HandshakeIdleTimeout:  quicHandshake,
		MaxIdleTimeout:        quicIdle,
		KeepAlivePeriod:       quicKeepAlive,
		MaxIncomingStreams:    -1, // servers open no requests
		MaxIncomingUniStreams: 8,  // control and the two of QPACK
		// What a peer may make this side hold for it at once.
		MaxStreamReceiveWindow:     2 << 20,
		MaxConnectionReceiveWindow: 8 << 20,
	}
}

// dialH3 opens an HTTP/3 connection.
func (t *Courier) dialH3(ctx context.Context, d *destination) (*link, error) {
	conn, tr, err := t.dialQUIC(ctx, d)
	if err != nil {
		return nil, err
	}
	cc := t.h3.NewClientConn(conn)
	l := &link{proto: H3, rt: cc.RoundTrip, dead: func() bool { return conn.Context().Err() != nil }}
	l.shut = sync.OnceFunc(func() {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		closeCarrier(tr)
	})
	context.AfterFunc(conn.Context(), func() {
		l.shut()
		t.ended(l)
	})
	return l, nil
}
