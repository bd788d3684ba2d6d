package transport_test

import (
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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// visitor dials the server by hand, as a stranger may.
func (w *world) visitor(conf *tls.Config, early bool) (*quic.Conn, func(), error) {
	pc, err := w.air.listen("udp", ":0")
	if err != nil {
		w.t.Fatal(err)
	}
	tr := &quic.Transport{Conn: pc}
	conf.RootCAs, conf.ServerName = w.pool, "b.test"
	if conf.NextProtos == nil {
		conf.NextProtos = []string{"h3"}
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	dial := tr.Dial
	if early {
		dial = tr.DialEarly
	}
	conn, err := dial(ctx, net.UDPAddrFromAddrPort(netip.AddrPortFrom(public, 443)), conf, &quic.Config{KeepAlivePeriod: 5 * time.Second})
	if err != nil {
		tr.Close()
		pc.Close()
		return nil, nil, err
	}
	return conn, func() {
		_ = conn.CloseWithError(0x100, "")
		tr.Close()
		pc.Close()
	}, nil
}

func TestShutdownWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.addrs["b.test"] = []netip.Addr{public}
		srv, stop := w.serveQUIC("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if b, err := io.ReadAll(r.Body); err == nil && string(b) == "long" {
				time.Sleep(5 * time.Second)
			}
			fmt.Fprint(rw, "done")
		}), transport.ServerOptions{})
		defer stop()
		tr := w.courier(transport.ModeH3, yes)
		defer tr.Close()
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		long := make(chan error, 1)
		go func() { _, err := send(t, tr, []byte("long")); long <- err }()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- srv.Shutdown(ctx) }()
		time.Sleep(time.Second)
		if _, err := send(t, tr, []byte("x")); err == nil {
			t.Error("a request was taken after the end began")
		}
		if err := <-long; err != nil {
			t.Errorf("the request under way: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		time.Sleep(time.Second)
		if n := srv.Connections(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	for name, wait := range map[string]func(*http.Request){
		"heeds its context": func(r *http.Request) { <-r.Context().Done() },
		"does not":          func(*http.Request) { time.Sleep(30 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.addrs["b.test"] = []netip.Addr{public}
				srv, stop := w.serveQUIC("b.test", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { wait(r) }), transport.ServerOptions{})
				defer stop()
				tr := w.courier(transport.ModeH3, yes)
				defer tr.Close()
				go func() { _, _ = send(t, tr, []byte("x")) }()
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				from := time.Now()
				if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(from) > 4*time.Second {
					t.Errorf("%v after %v", err, time.Since(from))
				}
				time.Sleep(time.Minute) // the handler that was not waited for ends on its own
			})
		})
	}
}

// Strangers open a bounded number of connections, and prove their address when
// there are many.
func TestConnectionsToTheServerAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		srv, stop := w.serveQUIC("b.test", newReader(), transport.ServerOptions{Connections: 8})
		defer stop()
		var trips []time.Duration
		for i := range 8 {
			from := time.Now()
			_, leave, err := w.visitor(&tls.Config{}, false)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			defer leave()
			trips = append(trips, time.Since(from))
		}
		if trips[7] < trips[0]+20*time.Millisecond {
			t.Errorf("no address was verified: %v", trips)
		}
		_, _, err := w.visitor(&tls.Config{}, false)
		var refused *quic.TransportError
		if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
			t.Errorf("the ninth: %v", err)
		}
		if n := srv.Connections(); n != 8 {
			t.Errorf("%d connections", n)
		}
	})
}

// A connection that only begins streams, and keeps itself alive below them, is
// closed like an idle one; one that brings requests is not.
func TestStreamsWithoutRequestsKeepNothingOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.serveQUIC("b.test", newReader(), transport.ServerOptions{IdleTimeout: time.Minute})
		defer stop()
		slow, leave, err := w.visitor(&tls.Config{}, false)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		good, leave, err := w.visitor(&tls.Config{}, false)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		cc := (&http3.Transport{}).NewClientConn(good)
		for range 10 {
			str, err := slow.OpenStream()
			if err != nil {
				break // closed
			}
			_, _ = str.Write([]byte{1, 0x40}) // HEADERS, half a length
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://b.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			time.Sleep(10 * time.Second)
		}
		if slow.Context().Err() == nil {
			t.Error("streams without requests held a connection")
		}
		if good.Context().Err() != nil {
			t.Error("a connection with requests was closed")
		}
		time.Sleep(time.Minute + time.Second)
		if good.Context().Err() == nil {
			t.Error("an idle connection was kept")
		}
	})
}

func TestServerLimitsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cut := make(chan time.Duration, 2)
		_, stop := w.serveQUIC("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			from := time.Now()
			_, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				cut <- time.Since(from)
			}
		}), transport.ServerOptions{MaxHeaderBytes: 8 << 10, ReadTimeout: 7 * time.Second, Streams: 4})
		defer stop()
		conn, leave, err := w.visitor(&tls.Config{}, false)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		cc := (&http3.Transport{}).NewClientConn(conn)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://b.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", strings.Repeat("x", 20<<10))
		resp, err := cc.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Fatalf("%v %v", resp, err)
		}
		resp.Body.Close()

		slow, drip := io.Pipe()
		if req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, "https://b.test/", slow); err != nil {
			t.Fatal(err)
		}
		var dripping sync.WaitGroup
		defer dripping.Wait()
		dripping.Go(func() {
			defer drip.Close()
			for range 20 {
				time.Sleep(time.Second)
				if _, err := drip.Write([]byte("x")); err != nil {
					return
				}
			}
		})
		if resp, err := cc.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		if d := <-cut; d != 7*time.Second {
			t.Errorf("a dripping body was read for %v", d)
		}
		slow.Close()

		for range 4 {
			str, err := conn.OpenStream()
			if err != nil {
				break
			}
			_, _ = str.Write([]byte{1, 0x40})
		}
		if _, err := conn.OpenStream(); err == nil {
			t.Error("a fifth stream was opened")
		}
	})
}

// 0-RTT can be replayed; a resumed session gets none. The certificate is asked
// for at each handshake, and other protocols are not spoken.
func TestServerTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var current atomic.Pointer[tls.Certificate]
		first, second := w.cert("b.test"), w.cert("b.test")
		current.Store(&first)
		conf := &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
			NextProtos:     []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12,
		}
		srv := transport.NewServer(newReader(), conf, transport.ServerOptions{})
		pc := w.air.endpoint(netip.AddrPortFrom(public, 443))
		served := make(chan error, 1)
		go func() { served <- srv.Serve(pc) }()
		defer func() {
			srv.Close()
			if err := <-served; !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("Serve: %v", err)
			}
			if err := srv.Serve(w.air.endpoint(netip.AddrPortFrom(public, 443))); !errors.Is(err, http.ErrServerClosed) {
				t.Errorf("Serve after the end: %v", err)
			}
		}()
		cache := tls.NewLRUClientSessionCache(4)
		for i := range 3 {
			conn, leave, err := w.visitor(&tls.Config{ClientSessionCache: cache}, true)
			if err != nil {
				t.Fatal(err)
			}
			<-conn.HandshakeComplete()
			state := conn.ConnectionState()
			if state.Used0RTT || state.TLS.Version != tls.VersionTLS13 || state.TLS.NegotiatedProtocol != "h3" || i > 0 && !state.TLS.DidResume {
				t.Errorf("connection %d: %+v", i, state)
			}
			time.Sleep(time.Second) // tickets arrive
			leave()
		}
		current.Store(&second)
		conn, leave, err := w.visitor(&tls.Config{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().TLS.PeerCertificates[0].Raw; string(got) != string(second.Certificate[0]) {
			t.Error("the former certificate is served")
		}
		leave()
		if _, _, err := w.visitor(&tls.Config{NextProtos: []string{"h2"}}, false); err == nil {
			t.Error("HTTP/2 over QUIC")
		}
		if len(conf.NextProtos) != 2 || conf.MinVersion != tls.VersionTLS12 {
			t.Error("the configuration that was given was changed")
		}
	})
}

// A server that lost its connections says so, and the call fails at once
// instead of after ten seconds.
func TestResetKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.addrs["b.test"] = []netip.Addr{public}
		_, stop := w.serveQUIC("b.test", newReader(), transport.ServerOptions{ResetKey: &[32]byte{1}})
		tr := w.courier(transport.ModeH3, yes)
		defer tr.Close()
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		w.air.block(everything) // the goodbye is lost, as in a crash
		stop()
		w.air.block(nil)
		_, stop = w.serveQUIC("b.test", newReader(), transport.ServerOptions{ResetKey: &[32]byte{1}})
		defer stop()
		from := time.Now()
		_, err := send(t, tr, []byte("x"))
		if took := time.Since(from); err == nil || took > time.Second {
			t.Errorf("%v after %v", err, took)
		}
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
	})
}
