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
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
)

// loopback serves h on one port of this machine, over TCP and UDP; without
// quic, what comes by UDP is not read.
func loopback(t testing.TB, n *network, h http.Handler, quic bool) (port int, stop func()) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close() // somebody has that UDP port
			continue
		}
		conf := &tls.Config{Certificates: []tls.Certificate{n.cert("b.test")}}
		var wg sync.WaitGroup
		over2 := &http.Server{Handler: h, TLSConfig: conf.Clone()}
		wg.Go(func() { _ = over2.ServeTLS(l, "", "") })
		over3 := transport.NewServer(h, conf, transport.ServerOptions{})
		if quic {
			wg.Go(func() {
				if err := over3.Serve(pc); !errors.Is(err, http.ErrServerClosed) {
					t.Errorf("Serve: %v", err)
				}
			})
		}
		return port, func() {
			over2.Close()
			over3.Close()
			pc.Close()
			wg.Wait()
		}
	}
	t.Fatal("no port is free for TCP and UDP")
	return 0, nil
}

func loopbackCourier(n *network, mode transport.Mode, port int) *transport.Courier {
	return transport.New(transport.Options{
		RootCAs: n.pool, Mode: mode, HTTP3: yes, ListenPacket: net.ListenPacket,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
}

var neighbour = federation.Target{Server: "b.test", AllowPrivate: true}

func post(ctx context.Context, tr *transport.Courier, port int, body []byte) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("https://b.test:%d/fed/v1/txn", port), bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := tr.Do(ctx, neighbour, req)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.Proto, err
}

// Real sockets: every body arrives once, over the protocol that was asked for.
func TestRealSockets(t *testing.T) {
	for _, c := range []struct {
		mode transport.Mode
		quic bool
		want string
	}{
		{transport.ModeH2, true, "HTTP/2.0"}, {transport.ModeH3, true, "HTTP/3.0"},
		{transport.ModeAuto, true, "HTTP/3.0"}, {transport.ModeAuto, false, "HTTP/2.0"},
	} {
		t.Run(fmt.Sprintf("%s, UDP %v", c.mode, c.quic), func(t *testing.T) {
			n := newNetwork(t)
			bodies := newReader()
			port, stop := loopback(t, n, bodies, c.quic)
			defer stop()
			tr := loopbackCourier(n, c.mode, port)
			defer tr.Close()
			if got, err := post(t.Context(), tr, port, []byte("first")); err != nil || got != c.want {
				t.Fatalf("%s %v", got, err)
			}
			var wg sync.WaitGroup
			for i := range 24 { // fewer big ones than a trial of the other protocol needs
				wg.Go(func() {
					body := append([]byte(fmt.Sprintf("%d ", i)), make([]byte, 1<<(i%12+8))...)
					if got, err := post(t.Context(), tr, port, body); err != nil || got != c.want {
						t.Errorf("%s %v", got, err)
					}
				})
			}
			wg.Wait()
			for i := range 24 {
				if times := bodies.times(fmt.Sprint(i)); times != 1 {
					t.Errorf("body %d came %d times", i, times)
				}
			}
			proto := transport.H2
			if c.want == "HTTP/3.0" {
				proto = transport.H3
			}
			sent := int64(len("first"))
			for i := range 24 {
				sent += int64(len(fmt.Sprint(i))) + 1 + 1<<(i%12+8)
			}
			if got := tr.Counts(proto); got != (transport.Counts{Requests: 25, Connections: 1, Sent: sent}) {
				t.Errorf("%+v", got)
			}
			if !c.quic && tr.Marks() != 1 {
				t.Errorf("%d marks", tr.Marks())
			}
		})
	}
}

// BenchmarkRequest is one request after the other over one connection, both
// ends on this machine.
func BenchmarkRequest(b *testing.B) {
	for _, mode := range []transport.Mode{transport.ModeH2, transport.ModeH3} {
		for _, size := range []int{1 << 10, 100 << 10} {
			b.Run(fmt.Sprintf("%s/%dKiB", mode, size>>10), func(b *testing.B) {
				n := newNetwork(b)
				port, stop := loopback(b, n, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
				}), true)
				defer stop()
				tr := loopbackCourier(n, mode, port)
				defer tr.Close()
				body := make([]byte, size)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := post(b.Context(), tr, port, body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
