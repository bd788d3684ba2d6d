// Package servertest is responsible for worlds in which tests live: several
// homeservers and brains in one process, with real stores and real TLS on wires
// in memory, inside a testing/synctest bubble whose time flies.
//
// At the end of every world its invariants are checked: what was accepted was
// shown once or reported once, no log line holds what it should not, no handler
// panicked, and the bubble itself demands that no goroutine is left.
package servertest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/logging"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

// World is a few homeservers that are peers of each other, and people.
type World struct {
	T     testing.TB
	Wires *Wires
	Air   *Air // nil without UDP

	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
	roots   *x509.CertPool
	houses  map[clearbox.ServerName]*House
	open    bool // new houses are in mode open
	people  []*Person
	further []*Person // devices of people who are in people
	log     buffer
	spoken  []string // texts, names and tokens that no log line may hold
}

// Run runs fn in a bubble with the named homeservers, each a peer of the
// others, and checks the invariants at the end.
func Run(t *testing.T, names []clearbox.ServerName, fn func(w *World)) {
	t.Helper()
	run(t, names, nil, fn)
}

// RunInAir is Run with UDP between the homeservers, so that they may speak
// HTTP/3; what happens to packets is drawn from the seed.
func RunInAir(t *testing.T, names []clearbox.ServerName, seed uint64, fn func(w *World)) {
	t.Helper()
	run(t, names, newAir(seed), fn)
}

// RunOpen is Run with homeservers in mode open that know nothing of each other.
func RunOpen(t *testing.T, names []clearbox.ServerName, fn func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.open = true
		for _, n := range names {
			w.addHouse(n)
		}
		defer w.close()
		fn(w)
		if !t.Failed() {
			w.settle()
			w.check()
		}
	})
}

func run(t *testing.T, names []clearbox.ServerName, air *Air, fn func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Air = air
		for _, n := range names {
			w.addHouse(n)
		}
		for i, a := range names {
			for _, b := range names[i+1:] {
				w.peer(w.House(a), w.House(b))
			}
		}
		defer w.close()
		fn(w)
		if !t.Failed() {
			w.settle()
			w.check()
		}
	})
}

func newWorld(t testing.TB) *World {
	w := &World{T: t, Wires: newWires(), houses: map[clearbox.ServerName]*House{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(2, 0, 0),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	w.must(err)
	w.ca, err = x509.ParseCertificate(raw)
	w.must(err)
	w.caKey, w.roots = key, x509.NewCertPool()
	w.roots.AddCert(w.ca)
	return w
}

func (w *World) must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// House gives the homeserver of that name.
func (w *World) House(name clearbox.ServerName) *House {
	w.T.Helper()
	h := w.houses[name]
	if h == nil {
		w.T.Fatalf("there is no homeserver %s", name)
	}
	return h
}

// Partition cuts the wire between two hosts: server names, or people's
// addresses. Nobody is told.
func (w *World) Partition(a, b string) {
	w.Wires.Cut(a, b)
	if w.Air != nil {
		w.Air.setCut(a, b, true)
		w.Air.setCut(b, a, true)
	}
}

// CutWay lets everything from one host to another vanish; what the other sends
// arrives.
func (w *World) CutWay(from, to string) {
	w.Wires.CutWay(from, to)
	if w.Air != nil {
		w.Air.setCut(from, to, true)
	}
}

// Heal mends what Partition or CutWay did to two hosts.
func (w *World) Heal(a, b string) {
	w.Wires.Mend(a, b)
	if w.Air != nil {
		w.Air.setCut(a, b, false)
		w.Air.setCut(b, a, false)
	}
}

// Secret names a text that no log line may hold.
//
// A text below 8 bytes is not looked for: a random id may hold it by chance.
func (w *World) Secret(texts ...string) {
	for _, text := range texts {
		if len(text) >= 8 {
			w.spoken = append(w.spoken, text)
		}
	}
}

// House is one homeserver.
type House struct {
	w    *World
	Name clearbox.ServerName
	Conf *config.Config
	dir  string
	// SweepEvery holds from the next Start on; 0 is what servers do.
	SweepEvery time.Duration

	ahead  atomic.Int64 // of its clock, in nanoseconds
	watch  atomic.Pointer[func(*http.Request)]
	server *server.Server
	cancel context.CancelFunc
	ended  chan error // capacity 1
}

func (w *World) addHouse(name clearbox.ServerName) *House {
	w.T.Helper()
	h := &House{w: w, Name: name, dir: w.T.TempDir()}
	c := config.Default()
	c.Server.Name, c.Server.DataDir = name, filepath.Join(h.dir, "data")
	c.Organisation.Country = "AT"
	if w.open {
		c.Federation.Mode, c.Federation.Open.LegalBasis = config.ModeOpen, "test"
	}
	c.Listen.Addresses, c.Listen.Metrics = []string{string(name) + ":443"}, string(name)+":9464"
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem")
	c.Keys.RootKeyFile, c.Keys.IdentityKeyFile = filepath.Join(h.dir, "root.key"), filepath.Join(h.dir, "identity.key")
	c.Federation.CAFile = filepath.Join(h.dir, "ca.pem")
	c.Passwords.Memory, c.Passwords.Iterations = config.MiB, 1 // not what is tested here
	c.Registration.Mode = "open"
	c.Notice.Text = "Test notice."
	c.Limits.DiskReserve = 0
	c.Limits.AddressLoginsPerMinute, c.Limits.AddressRequestsPerSecond = 0, 0
	h.Conf = c
	same := bytes.NewReader(bytes.Repeat([]byte("root"), 8)) // of all houses: their first files are made once
	for path, random := range map[string]io.Reader{c.Keys.RootKeyFile: same, c.Keys.IdentityKeyFile: rand.Reader} {
		key, err := config.NewKeyFile(random)
		w.must(err)
		w.must(os.WriteFile(path, key, 0o600))
	}
	root, err := config.ReadKey(c.Keys.RootKeyFile)
	w.must(err)
	w.must(os.MkdirAll(c.Server.DataDir, 0o700))
	storagetest.Files(w.T, c.DatabasePath(), c.KeystorePath(), root[:])
	w.certify(h)
	w.houses[name] = h
	h.Start()
	return h
}

// certify makes the house's certificate.
func (w *World) certify(h *House) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: string(h.Name)}, DNSNames: []string{string(h.Name)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, w.ca, &key.PublicKey, w.caKey)
	w.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	write := func(path, kind string, der []byte) {
		w.must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(h.Conf.TLS.CertFile, "CERTIFICATE", raw)
	write(h.Conf.TLS.KeyFile, "PRIVATE KEY", private)
	write(h.Conf.Federation.CAFile, "CERTIFICATE", w.ca.Raw)
}

// SetClock puts the homeserver's clock ahead of the world's, or behind it.
func (h *House) SetClock(ahead time.Duration) { h.ahead.Store(int64(ahead)) }

func (h *House) now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

// Watch shows fn the head of each request that a peer makes from now on.
func (h *House) Watch(fn func(*http.Request)) { h.watch.Store(&fn) }

func (h *House) incoming(r *http.Request) {
	if fn := h.watch.Load(); fn != nil {
		(*fn)(r)
	}
}

// Start runs the homeserver; it is ready when Start returns.
func (h *House) Start() {
	w := h.w
	w.T.Helper()
	logs, err := logging.New(&w.log, logging.Options{Format: "json", Level: "debug", Privacy: true, Now: time.Now, Random: rand.Reader})
	w.must(err)
	ready := make(chan struct{})
	var packets func(network, address string) (net.PacketConn, error)
	if w.Air != nil {
		packets = func(_, address string) (net.PacketConn, error) {
			at, err := w.resolve(string(h.Name))
			if err != nil {
				return nil, err
			}
			return w.Air.listen(string(h.Name), at[0], address)
		}
	}
	h.server, err = server.New(context.Background(), h.Conf, server.Options{
		Now:          h.now,
		Logs:         logs,
		ListenPacket: packets,
		Listen:       func(_, address string) (net.Listener, error) { return w.Wires.Listen(string(h.Name), address) },
		Dial:         func(ctx context.Context, _, address string) (net.Conn, error) { return w.dialPeer(ctx, h, address) },
		Resolve:      func(_ context.Context, host string) ([]netip.Addr, error) { return w.resolve(host) },
		Started:      func() { close(ready) },
		Incoming:     h.incoming,
		SweepEvery:   h.SweepEvery,
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.ended = cancel, make(chan error, 1)
	go func() { h.ended <- h.server.Run(ctx) }()
	select {
	case <-ready:
	case err := <-h.ended:
		w.T.Fatalf("%s does not start: %v", h.Name, err)
	}
}

// Stop ends the homeserver as SIGTERM does.
func (h *House) Stop() {
	if h.server == nil {
		return
	}
	h.cancel()
	if err := <-h.ended; err != nil {
		h.w.T.Errorf("%s: %v", h.Name, err)
	}
	h.server = nil
}

// Restart stops and starts it on the same data.
func (h *House) Restart() {
	h.Stop()
	h.Start()
}

// resolve gives each house a public address of its own, from TEST-NET-like
// numbers that the address filter lets pass.
func (w *World) resolve(host string) ([]netip.Addr, error) {
	if _, ok := w.houses[clearbox.ServerName(host)]; !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	sum := byte(0)
	for i := range len(host) {
		sum = sum*31 + host[i]
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{9, 9, 9, sum})}, nil
}

// dialPeer finds the house behind an address that resolve gave.
func (w *World) dialPeer(ctx context.Context, from *House, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for name := range w.houses {
		if a, _ := w.resolve(string(name)); a[0].String() == host || string(name) == host {
			return w.Wires.Dial(ctx, string(from.Name), string(name)+":"+port)
		}
	}
	return nil, &net.OpError{Op: "dial", Err: os.ErrNotExist}
}

func (w *World) clientTLS() *tls.Config {
	return &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13}
}

// check holds the invariants that concern the whole world.
func (w *World) check() {
	w.T.Helper()
	w.checkMessages()
	for name, h := range w.houses {
		if h.server != nil && h.server.Panics() != 0 {
			w.T.Errorf("%s: a handler panicked", name)
		}
	}
	w.checkSilence("a log line", w.log.String())
	for _, h := range w.houses {
		if h.server != nil {
			w.checkSilence("a figure", h.Figures())
		}
	}
}

// checkSilence looks for what was said in a text of lines.
func (w *World) checkSilence(what, text string) {
	w.T.Helper()
	for _, secret := range w.spoken {
		if i := strings.Index(text, secret); i >= 0 {
			begin := strings.LastIndexByte(text[:i], '\n') + 1
			end := i + strings.IndexByte(text[i:], '\n')
			w.T.Errorf("%s holds a secret: %s", what, text[begin:end])
		}
	}
}

// Figures gives the text that a monitoring system reads.
func (h *House) Figures() string {
	w := h.w
	w.T.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return w.Wires.Dial(ctx, "monitoring", address)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get("http://" + h.Conf.Listen.Metrics + "/metrics")
	w.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	w.must(err)
	if resp.StatusCode != http.StatusOK {
		w.T.Errorf("%s: the figures are answered with status %d", h.Name, resp.StatusCode)
	}
	return string(text)
}

func (w *World) close() {
	for _, p := range append(w.people, w.further...) {
		p.Offline()
		p.line.close()
	}
	for _, h := range w.houses {
		h.Stop()
	}
	if w.T.Failed() {
		w.T.Logf("the homeservers' log:\n%s", w.log.String())
	}
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
