package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/quic-go/quic-go/testutils/simnet"
)

// world is a network in memory with UDP beside TCP. It lives in a synctest
// bubble: its time is virtual.
type world struct {
	*network
	air *air
}

// air carries packets between simulated endpoints.
type air struct {
	nodes   simnet.PerfectRouter
	latency time.Duration

	mu    sync.Mutex // guards the fields below
	drop  func(p simnet.Packet, nth int) bool
	sent  int
	nodeN int
}

func (a *air) AddNode(addr net.Addr, to simnet.PacketReceiver) { a.nodes.AddNode(addr, to) }

func (a *air) SendPacket(p simnet.Packet) error {
	a.mu.Lock()
	a.sent++
	lost := a.drop != nil && a.drop(p, a.sent)
	a.mu.Unlock()
	if lost {
		return nil
	}
	_ = a.nodes.SendPacket(p) // nobody there: lost
	return nil
}

func (a *air) block(drop func(p simnet.Packet, nth int) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop = drop
}

func (a *air) packets() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent
}

func everything(simnet.Packet, int) bool { return true }

// endpoint is one UDP socket of the simulation.
type endpoint struct {
	*simnet.SimConn
	close func()
}

func (e *endpoint) Close() error { e.close(); return nil }

func (a *air) endpoint(addr netip.AddrPort) net.PacketConn {
	at := net.UDPAddrFromAddrPort(addr)
	link := &simnet.SimulatedLink{Latency: a.latency, UploadPacket: a}
	conn := simnet.NewBlockingSimConn(at, link)
	a.AddNode(at, link)
	link.Start()
	return &endpoint{conn, sync.OnceFunc(func() {
		a.nodes.RemoveNode(at)
		conn.Close()
		link.Close()
	})}
}

// listen opens a socket of this side.
func (a *air) listen(network, addr string) (net.PacketConn, error) {
	if network != "udp" || addr != ":0" {
		return nil, fmt.Errorf("%s %s", network, addr)
	}
	a.mu.Lock()
	a.nodeN++
	n := a.nodeN
	a.mu.Unlock()
	return a.endpoint(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(1024+n))), nil
}

func newWorld(t *testing.T) *world {
	return &world{newNetwork(t), &air{latency: 10 * time.Millisecond}}
}

// host answers for name at the public address, over HTTP/2 and over HTTP/3.
func (w *world) host(name string, h http.Handler) (stop func()) {
	w.mu.Lock()
	w.addrs[name] = []netip.Addr{public}
	w.mu.Unlock()
	stopTCP := w.serve(name, public.String()+":443", 0, h)
	_, stopUDP := w.serveQUIC(name, h, transport.ServerOptions{})
	return func() { stopTCP(); stopUDP() }
}

func (w *world) serveQUIC(name string, h http.Handler, o transport.ServerOptions) (*transport.Server, func()) {
	srv := transport.NewServer(h, &tls.Config{Certificates: []tls.Certificate{w.cert(name)}}, o)
	served := make(chan struct{})
	pc := w.air.endpoint(netip.AddrPortFrom(public, 443))
	go func() {
		defer close(served)
		if err := srv.Serve(pc); !errors.Is(err, http.ErrServerClosed) {
			w.t.Errorf("Serve ended with %v", err)
		}
	}()
	return srv, func() { srv.Close(); <-served }
}

func (w *world) courier(mode transport.Mode, speaks func(clearbox.ServerName) bool) *transport.Courier {
	return transport.New(transport.Options{RootCAs: w.pool, Dial: w.dial, Resolve: w.resolve, Mode: mode, HTTP3: speaks, ListenPacket: w.air.listen})
}

func (w *world) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dials)
}

func yes(clearbox.ServerName) bool { return true }
func no(clearbox.ServerName) bool  { return false }

var peer = federation.Target{Server: "b.test"}

// send posts body and gives the protocol that the answer came over.
func send(t *testing.T, tr *transport.Courier, body []byte) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // what federation gives a call
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://b.test/fed/v1/txn?x=1", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.Do(ctx, peer, req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	return resp.Proto, nil
}

func mustSend(t *testing.T, tr *transport.Courier, want string, body []byte) {
	t.Helper()
	if got, err := send(t, tr, body); err != nil || got != want {
		t.Fatalf("answered over %q (%v), want %s", got, err, want)
	}
}

// reader counts the bodies that a handler has read to their end.
type reader struct {
	mu     sync.Mutex // guards the fields below
	bodies map[string]int
	protos map[string]int
}

func newReader() *reader { return &reader{bodies: map[string]int{}, protos: map[string]int{}} }

func (r *reader) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	name, _, _ := strings.Cut(string(b), " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies[name]++
	r.protos[req.Proto]++
}

func (r *reader) times(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bodies[name]
}
