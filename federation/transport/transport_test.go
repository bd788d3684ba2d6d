package transport_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is listeners in memory, found by address.
type network struct {
	t     testing.TB
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	pool  *x509.CertPool
	mu    sync.Mutex // guards the fields below
	hosts map[string]chan net.Conn
	addrs map[string][]netip.Addr
	dials []string
	asked int // names resolved
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &network{t: t, ca: ca, key: key, pool: pool, hosts: map[string]chan net.Conn{}, addrs: map[string][]netip.Addr{}}
}

func (n *network) cert(host string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(500 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, n.ca, key.Public(), n.key)
	if err != nil {
		n.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve answers for host at addr ("ip:port" or "host:port") until the test ends.
func (n *network) serve(host, addr string, maxTLS uint16, h http.Handler) (stop func()) {
	conns := make(chan net.Conn)
	n.mu.Lock()
	n.hosts[addr] = conns
	n.mu.Unlock()
	l := &listener{conns: conns, done: make(chan struct{})}
	cfg := &tls.Config{Certificates: []tls.Certificate{n.cert(host)}, NextProtos: []string{"h2", "http/1.1"}, MaxVersion: maxTLS}
	srv := &http.Server{Handler: h, TLSConfig: cfg}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.ServeTLS(l, "", "") // ends with Close
	}()
	return func() { srv.Close(); <-served }
}

type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, addr)
	conns := n.hosts[addr]
	n.mu.Unlock()
	if conns == nil {
		return nil, fmt.Errorf("connection to %s refused", addr)
	}
	ours, theirs := net.Pipe()
	select {
	case conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *network) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if a, ok := n.addrs[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (n *network) transport() *transport.Courier {
	return transport.New(transport.Options{RootCAs: n.pool, Dial: n.dial, Resolve: n.resolve})
}

func do(t *testing.T, tr *transport.Courier, target federation.Target, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.Do(t.Context(), target, req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return resp, err
}

var public = netip.MustParseAddr("93.184.216.34")

func TestOneConnectionForManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.addrs["chat.b.test"] = []netip.Addr{public}
		stop := n.serve("chat.b.test", "93.184.216.34:443", 0, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 || r.TLS.Version != tls.VersionTLS13 {
				t.Errorf("%s over %s", r.Proto, tls.VersionName(r.TLS.Version))
			}
			http.Redirect(w, r, "https://elsewhere.test/", http.StatusFound)
		}))
		defer stop()
		tr := n.transport()
		defer tr.Close()
		for range 20 {
			resp, err := do(t, tr, federation.Target{Server: "b.test"}, "https://chat.b.test/x")
			if err != nil || resp.StatusCode != http.StatusFound {
				t.Fatalf("a redirect must come back as it is: %v", err)
			}
		}
		if len(n.dials) != 1 {
			t.Errorf("%d connections", len(n.dials))
		}
		p, err := tr.Handshake(t.Context(), "https://chat.b.test", false)
		if err != nil || p.TLS != "TLS 1.3" || p.ALPN != "h2" {
			t.Errorf("%+v %v", p, err)
		}
	})
}

func TestTLS12IsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		stop := n.serve("b.test", "b.test:443", tls.VersionTLS12, http.NotFoundHandler())
		defer stop()
		tr := n.transport()
		defer tr.Close()
		if _, err := do(t, tr, federation.Target{Server: "b.test", AllowPrivate: true}, "https://b.test/"); err == nil {
			t.Error("TLS 1.2 was spoken")
		}
	})
}

// Attack 8: private, loopback, link-local and metadata addresses are not
// dialled for a peer that is not marked so, however they are written.
func TestThreat08AddressesThatAreNotDialled(t *testing.T) {
	n := newNetwork(t)
	tr := n.transport()
	defer tr.Close()
	for _, a := range []string{
		"127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "192.0.0.8",
		"198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1", "::ffff:0.1.2.3", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2002:a00:1::",
		"2001::1", "fec0::1", "100::1",
	} {
		addr := netip.MustParseAddr(a)
		if transport.Public(addr) {
			t.Errorf("%s passes as public", a)
		}
		n.addrs["evil.test"] = []netip.Addr{addr}
		_, err := do(t, tr, federation.Target{Server: "evil.test"}, "https://evil.test/")
		var refused *transport.AddressError
		if !errors.As(err, &refused) || clearbox.CodeOf(err) != clearbox.CodeForbidden {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, literal := range []string{"https://127.0.0.1/", "https://[::1]:8443/", "https://93.184.216.34/"} {
		var refused *transport.AddressError
		if _, err := do(t, tr, federation.Target{Server: "evil.test"}, literal); !errors.As(err, &refused) {
			t.Errorf("%s: %v", literal, err)
		}
	}
	if len(n.dials) != 0 {
		t.Errorf("dialled %v", n.dials)
	}
	for _, a := range []string{"93.184.216.34", "2606:2800:220:1::1", "64:ff9b::8.8.8.8"} {
		if !transport.Public(netip.MustParseAddr(a)) {
			t.Errorf("%s does not pass", a)
		}
	}
	// One private address among public ones is left out, not dialled.
	n.addrs["mixed.test"] = []netip.Addr{netip.MustParseAddr("10.0.0.1"), public}
	_, _ = do(t, tr, federation.Target{Server: "mixed.test"}, "https://mixed.test/")
	for _, d := range n.dials {
		if d != "93.184.216.34:443" {
			t.Errorf("dialled %s", d)
		}
	}
}

func wellKnown(base string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"base":%q}`, base)
	})
}

func TestDiscovery(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		want string // or the code
	}{
		{"found", func(w http.ResponseWriter, r *http.Request) { wellKnown("https://chat.b.test:8443").ServeHTTP(w, r) }, "https://chat.b.test:8443"},
		{"three redirects", func(w http.ResponseWriter, r *http.Request) {
			if len(r.URL.Path) < 40 {
				http.Redirect(w, r, r.URL.Path+"/xxxx", http.StatusFound)
				return
			}
			wellKnown("https://chat.b.test").ServeHTTP(w, r)
		}, "https://chat.b.test"},
		{"a fourth", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"/x", http.StatusFound) }, "peer_unreachable"},
		{"to another domain", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.test/", http.StatusFound)
		}, "forbidden"},
		{"to a suffix twin", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://notb.test/", http.StatusFound)
		}, "forbidden"},
		{"to plain http", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://b.test/", http.StatusFound) }, "forbidden"},
		{"to an address", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/", http.StatusFound)
		}, "forbidden"},
		{"not found", http.NotFound, "peer_unreachable"},
		{"no JSON", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }, "bad_request"},
		{"a path in the base", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"base":"https://b.test/x"}`) }, "bad_request"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat(" ", 65<<10)+`{"base":"https://b.test"}`)
		}, "too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.addrs["b.test"] = []netip.Addr{public}
				defer n.serve("b.test", "93.184.216.34:443", 0, c.h)()
				tr := n.transport()
				defer tr.Close()
				base, err := tr.Endpoint(t.Context(), federation.Target{Server: "b.test"})
				if got := base + string(clearbox.CodeOf(err)); got != c.want {
					t.Errorf("%q (%v), want %q", got, err, c.want)
				}
			})
		})
	}
}

func TestDiscoveryIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.addrs["b.test"] = []netip.Addr{public}
		asked, broken := 0, false
		defer n.serve("b.test", "93.184.216.34:443", 0, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if broken {
				http.Error(w, "on fire", 500)
				return
			}
			w.Header().Set("Cache-Control", "public, max-age=7200")
			wellKnown("https://chat.b.test").ServeHTTP(w, r)
		}))()
		tr := n.transport()
		defer tr.Close()
		ask := func(pinned bool) error {
			_, err := tr.Endpoint(t.Context(), federation.Target{Server: "b.test", Pinned: pinned})
			return err
		}
		for range 10 {
			if err := ask(false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
		}
		if asked != 1 {
			t.Errorf("asked %d times within the time of the answer", asked)
		}
		broken = true
		time.Sleep(time.Hour)
		if err := ask(true); err != nil {
			t.Errorf("a pinned peer with a broken web server: %v", err)
		}
		if err := ask(false); err == nil {
			t.Error("an old answer served for a peer that is not pinned")
		}
		asked = 0
		for range 24 * 60 {
			_ = ask(true)
			time.Sleep(time.Minute)
		}
		if asked < 20 || asked > 32 {
			t.Errorf("a broken web server was asked %d times a day", asked)
		}
		time.Sleep(7 * 24 * time.Hour)
		if err := ask(true); err == nil {
			t.Error("an answer of more than a week ago was used")
		}
	})
}

func TestOperatorsEndpointsTakeTurns(t *testing.T) {
	n := newNetwork(t)
	tr := n.transport()
	defer tr.Close()
	target := federation.Target{Server: "b.test", Endpoints: []string{"https://one.b.test", "https://two.b.test"}}
	var got []string
	for range 3 {
		base, err := tr.Endpoint(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, base)
		tr.Forget(target)
	}
	if strings.Join(got, " ") != "https://one.b.test https://two.b.test https://one.b.test" || n.asked != 0 {
		t.Errorf("%v, %d names looked up", got, n.asked)
	}
	target.Discover = true // all have failed: the domain is asked
	if _, err := tr.Endpoint(t.Context(), target); err != nil || n.asked != 1 {
		t.Errorf("%v, %d names looked up", err, n.asked)
	}
}

// Attack 9: a peer that accepts and says nothing costs its own caller time and
// nobody else.
func TestTarpit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.mu.Lock()
		n.hosts["b.test:443"] = make(chan net.Conn, 8) // accepts, never answers
		n.mu.Unlock()
		tr := n.transport()
		defer tr.Close()
		from := time.Now()
		_, err := do(t, tr, federation.Target{Server: "b.test", AllowPrivate: true}, "https://b.test/")
		if took := time.Since(from); err == nil || took > 10*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// R3: a connection that is black-holed after its handshake costs one call; the
// next one finds the way over a new connection.
func TestBlackHoleAfterTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		stop := n.serve("b.test", "b.test:443", 0, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		defer stop()
		hole := &hole{}
		tr := transport.New(transport.Options{RootCAs: n.pool, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := n.dial(ctx, network, addr)
			if err == nil && len(n.dials) == 1 {
				hole.Conn, c = c, hole
			}
			return c, err
		}})
		defer tr.Close()
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 14*time.Second) // a second before the connection is given up
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://b.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.Do(ctx, federation.Target{Server: "b.test", AllowPrivate: true}, req)
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		if err := call(); err != nil {
			t.Fatal(err)
		}
		hole.mu.Lock()
		hole.on = true
		hole.mu.Unlock()
		from := time.Now()
		if err := call(); err == nil || time.Since(from) > 16*time.Second {
			t.Errorf("%v after %v", err, time.Since(from))
		}
		time.Sleep(5 * time.Second) // the shortest wait of a sender
		if err := call(); err != nil || time.Since(from) > 25*time.Second {
			t.Errorf("%v after %v", err, time.Since(from))
		}
	})
}

// hole swallows what is written, once it is on.
type hole struct {
	net.Conn
	mu sync.Mutex
	on bool
}

func (h *hole) Write(b []byte) (int, error) {
	h.mu.Lock()
	on := h.on
	h.mu.Unlock()
	if on {
		return len(b), nil
	}
	return h.Conn.Write(b)
}

// What discovery still waits for ends with the Courier, and no connection of it
// is left, though net/http does not count it among the idle ones.
func TestCloseEndsDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		hold := make(chan struct{})
		stop := n.serve("b.test", "b.test:443", 0, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
		tr := n.transport()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = tr.Endpoint(context.Background(), federation.Target{Server: "b.test", AllowPrivate: true})
		}()
		synctest.Wait()
		tr.Close()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("discovery goes on")
		}
		close(hold)
		stop()
	})
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"base":"https://chat.b.test:8443"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		base, err := transport.ParseWellKnown(b)
		if err != nil {
			return
		}
		if u, err := federation.ParseEndpoint(base); err != nil || u.String() != base {
			t.Errorf("%q %v", base, err)
		}
	})
}
