package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
)

// lone is one homeserver on real sockets of this machine, seen from outside.
type lone struct {
	t     *testing.T
	conf  *config.Config
	roots *x509.CertPool
	srv   *server.Server
	base  string // https://a.test:port
}

// certify writes a certificate of its own authority, which is trusted from then on.
func (l *lone) certify(until time.Time) {
	l.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(until.Unix()), Subject: pkix.Name{CommonName: "a.test"}, DNSNames: []string{"a.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		l.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		l.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{l.conf.TLS.CertFile: {Type: "CERTIFICATE", Bytes: raw}, l.conf.TLS.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		l.t.Fatal(err)
	}
	l.roots.AddCert(cert)
}

// runLone starts a homeserver with that federation.transport; the test's end
// stops it and demands an orderly end.
func runLone(t *testing.T, mode string) *lone {
	t.Helper()
	dir := t.TempDir()
	c := config.Default()
	l := &lone{t: t, conf: c, roots: x509.NewCertPool()}
	// The port of the public address must be known beforehand; nobody else may take it meanwhile by UDP or TCP.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(address)
	l.base = "https://a.test:" + port
	c.Server.Name, c.Server.DataDir, c.Server.PublicURL, c.Server.DrainTimeout = "a.test", filepath.Join(dir, "data"), l.base, 5*time.Second
	c.Listen.Addresses = []string{address}
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c.Keys.RootKeyFile, c.Keys.IdentityKeyFile = filepath.Join(dir, "root.key"), filepath.Join(dir, "identity.key")
	c.Federation.Transport, c.Limits.DiskReserve = mode, 0
	for _, path := range []string{c.Keys.RootKeyFile, c.Keys.IdentityKeyFile} {
		key, err := config.NewKeyFile(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.certify(time.Now().Add(24 * time.Hour))
	started := make(chan struct{})
	if l.srv, err = server.New(t.Context(), c, server.Options{Started: func() { close(started) }}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // capacity: the result of Run
	go func() { ended <- l.srv.Run(ctx) }()
	select {
	case <-started:
	case err := <-ended:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if pc, err := net.ListenPacket("udp", address); err != nil {
			t.Errorf("the UDP port is still taken: %v", err)
		} else {
			pc.Close()
		}
	})
	return l
}

// courier goes to the server as a peer does.
func (l *lone) courier(mode transport.Mode) *transport.Courier {
	tr := transport.New(transport.Options{
		RootCAs: l.roots, Mode: mode, ListenPacket: net.ListenPacket,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, l.conf.Listen.Addresses[0])
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	l.t.Cleanup(tr.Close)
	return tr
}

func (l *lone) get(tr *transport.Courier, path string) *http.Response {
	l.t.Helper()
	resp, err := l.try(tr, path)
	if err != nil {
		l.t.Fatalf("%s: %v", path, err)
	}
	return resp
}

func (l *lone) try(tr *transport.Courier, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, l.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := tr.Do(l.t.Context(), federation.Target{Server: "a.test", AllowPrivate: true}, req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, errors.Join(err, resp.Body.Close())
}

func (l *lone) document(resp *http.Response) *federation.Document {
	l.t.Helper()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	doc, err := federation.ParseDocument(raw)
	if err != nil {
		l.t.Fatal(err)
	}
	return doc
}

// Peers come by HTTP/3 to what peers ask for and to nothing else; the signed
// document and an answer by TCP tell them that they may.
func TestPeersComeByHTTP3(t *testing.T) {
	l := runLone(t, "auto")
	over3, over2 := l.courier(transport.ModeH3), l.courier(transport.ModeH2)
	for _, c := range []struct {
		path   string
		status int
	}{
		{federation.PathServer, 200}, {federation.PathWellKnown, 200}, {federation.PathTxn, 405},
		{"/readyz", 404}, {"/auth/login", 404}, {"/ws", 404}, {"/admin/status", 404}, {"/", 404},
	} {
		resp := l.get(over3, c.path)
		if resp.Proto != "HTTP/3.0" || resp.StatusCode != c.status {
			t.Errorf("%s: %s %d, want %d", c.path, resp.Proto, resp.StatusCode, c.status)
		}
		if h := resp.Header.Get("Alt-Svc"); h != "" {
			t.Errorf("%s offers %q over HTTP/3 itself", c.path, h)
		}
	}
	if doc := l.document(l.get(over3, federation.PathServer)); len(doc.Endpoints) != 1 || !doc.Endpoints[0].H3 {
		t.Errorf("the document says %+v", doc.Endpoints)
	}
	u, err := url.Parse(l.base)
	if err != nil {
		t.Fatal(err)
	}
	resp := l.get(over2, federation.PathServer)
	want := fmt.Sprintf(`h3=":%s"; ma=86400`, u.Port())
	if got := resp.Header.Get("Alt-Svc"); resp.Proto != "HTTP/2.0" || got != want || transport.ParseAltSvc(got, u.Port()) != 24*time.Hour {
		t.Errorf("%s offers %q, want %q", resp.Proto, got, want)
	}
	if h := l.get(over2, "/readyz").Header.Get("Alt-Svc"); h != "" {
		t.Errorf("clients are offered %q", h)
	}
}

// A server that is told to leave HTTP/3 alone has no UDP port, says so and
// offers nothing.
func TestWithoutHTTP3(t *testing.T) {
	l := runLone(t, "h2")
	pc, err := net.ListenPacket("udp", l.conf.Listen.Addresses[0])
	if err != nil {
		t.Fatalf("the UDP port is taken: %v", err)
	}
	pc.Close()
	resp := l.get(l.courier(transport.ModeH2), federation.PathServer)
	if h := resp.Header.Get("Alt-Svc"); h != "" {
		t.Errorf("offered %q", h)
	}
	if doc := l.document(resp); doc.Endpoints[0].H3 {
		t.Error("the document offers HTTP/3")
	}
}

// A reload brings the new certificate to QUIC as well, and a connection that is
// open goes on.
func TestReloadedCertificateOverQUIC(t *testing.T) {
	l := runLone(t, "h3")
	tr := l.courier(transport.ModeH3)
	l.get(tr, federation.PathServer)
	until := func() time.Time {
		t.Helper()
		p, err := tr.HandshakeQUIC(t.Context(), l.base, true)
		if err != nil {
			t.Fatal(err)
		}
		if p.ALPN != "h3" || p.TLS != "TLS 1.3" {
			t.Errorf("%+v", p)
		}
		return p.Expires
	}
	before := until()
	later := time.Now().Add(48 * time.Hour)
	l.certify(later)
	if err := l.srv.Reload(l.conf); err != nil {
		t.Fatal(err)
	}
	if after := until(); after.Equal(before) || !after.Equal(later.Truncate(time.Second)) {
		t.Errorf("certificate until %v, before %v, want %v", after, before, later)
	}
	l.get(tr, federation.PathServer)
	if n := tr.Counts(transport.H3).Connections; n != 1 {
		t.Errorf("%d connections for requests", n)
	}
}
