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
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/quic-go/quic-go/testutils/simnet"
)

func TestHTTP3WinsTheRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 3 || r.TLS == nil || r.TLS.Version != tls.VersionTLS13 || r.TLS.NegotiatedProtocol != "h3" || r.TLS.DidResume || !r.TLS.HandshakeComplete {
				t.Errorf("%s %+v", r.Proto, r.TLS)
			}
		}))()
		tr := w.courier(transport.ModeAuto, yes)
		defer tr.Close()
		for range 20 {
			mustSend(t, tr, "HTTP/3.0", []byte("x"))
		}
		if n := w.dialled(); n != 0 {
			t.Errorf("%d TCP connections beside", n)
		}
		if c := tr.Counts(transport.H3); c != (transport.Counts{Requests: 20, Connections: 1, Sent: 20}) {
			t.Errorf("%+v", c)
		}
		if c := tr.Counts(transport.H2); c != (transport.Counts{}) {
			t.Errorf("%+v", c)
		}
	})
}

// The acceptance of federation.md, 6: UDP dropped, 300 ms at most.
func TestBlockedUDPCostsTheFirstRequestAtMost300ms(t *testing.T) {
	for name, drop := range map[string]func(simnet.Packet, int) bool{
		"nothing passes": everything,
		"answers lost":   func(p simnet.Packet, _ int) bool { return p.From.String() == "93.184.216.34:443" },
		"large lost":     func(p simnet.Packet, _ int) bool { return len(p.Data) > 600 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bodies := newReader()
				defer w.host("b.test", bodies)()
				w.air.block(drop)
				only := w.courier(transport.ModeH2, yes)
				defer only.Close()
				from := time.Now()
				mustSend(t, only, "HTTP/2.0", []byte("alone"))
				alone := time.Since(from)

				tr := w.courier(transport.ModeAuto, yes)
				defer tr.Close()
				from = time.Now()
				mustSend(t, tr, "HTTP/2.0", []byte("first"))
				if cost := time.Since(from) - alone; cost > 300*time.Millisecond || cost < 200*time.Millisecond {
					t.Errorf("the first request took %v longer than without HTTP/3", cost)
				}
				from = time.Now()
				mustSend(t, tr, "HTTP/2.0", []byte("second"))
				if cost := time.Since(from); cost > alone {
					t.Errorf("the second request took %v", cost)
				}
				if tr.Marks() != 1 || bodies.times("first") != 1 || bodies.times("second") != 1 {
					t.Errorf("%d marks, bodies %v", tr.Marks(), bodies.bodies)
				}
			})
		})
	}
}

// A mark stands for five minutes, then twice as long after each probe that
// fails, up to a day; no request waits for a probe, and a probe that succeeds
// brings HTTP/3 back.
func TestBrokenMarkDoublesAndIsProbedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", newReader())()
		w.air.block(everything)
		tr := w.courier(transport.ModeAuto, yes)
		defer tr.Close()
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		settle := func() { time.Sleep(5 * time.Second); synctest.Wait() }
		settle()

		for i, want := range []time.Duration{5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute,
			160 * time.Minute, 320 * time.Minute, 640 * time.Minute, 1280 * time.Minute, 24 * time.Hour, 24 * time.Hour} {
			until := tr.Paths()[0].BrokenUntil
			left := time.Until(until)
			if left <= want-10*time.Second || left > want {
				t.Fatalf("mark %d: %v left, want %v", i, left, want)
			}
			quiet := w.air.packets()
			for time.Until(until) > time.Minute { // requests in the meantime try nothing, over old connections and new
				mustSend(t, tr, "HTTP/2.0", []byte("x"))
				time.Sleep(min(time.Until(until)-30*time.Second, time.Hour))
			}
			if n := w.air.packets(); n != quiet {
				t.Fatalf("mark %d: %d packets while the mark stood", i, n-quiet)
			}
			time.Sleep(time.Until(until))
			mustSend(t, tr, "HTTP/2.0", []byte("x")) // opens a connection: the one before was closed when idle
			from := time.Now()
			mustSend(t, tr, "HTTP/2.0", []byte("x"))
			if took := time.Since(from); took != 0 {
				t.Fatalf("mark %d: a request waited %v beside a probe", i, took)
			}
			settle()
			if w.air.packets() == quiet {
				t.Fatalf("mark %d: nothing was probed", i)
			}
		}
		w.air.block(nil)
		time.Sleep(time.Until(tr.Paths()[0].BrokenUntil))
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		settle()
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		if s := tr.Paths()[0]; !s.BrokenUntil.IsZero() || s.Proto != transport.H3 || s.Authority != "b.test:443" || s.Server != "b.test" {
			t.Errorf("%+v", s)
		}

		// It works for a moment only: the next mark is no shorter than the last one was.
		w.air.block(everything)
		time.Sleep(5 * time.Minute)
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		if left := time.Until(tr.Paths()[0].BrokenUntil); left < 23*time.Hour {
			t.Errorf("%v left after a path that worked for five minutes", left)
		}
	})
}

// The mark is of one local network: elsewhere HTTP/3 is tried again.
func TestMarkIsOfOneLocalNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", newReader())()
		w.air.block(everything)
		here := "192.0.2.0/24"
		tr := transport.New(transport.Options{
			RootCAs: w.pool, Dial: w.dial, Resolve: w.resolve, HTTP3: yes, ListenPacket: w.air.listen,
			Network: func(netip.Addr) string { return here },
		})
		defer tr.Close()
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		time.Sleep(2 * time.Minute) // the connection is gone
		w.air.block(nil)
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		here = "198.51.100.0/24"
		time.Sleep(2 * time.Minute)
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		here = "192.0.2.0/24"
		time.Sleep(2 * time.Minute)
		if got, err := send(t, tr, []byte("x")); err != nil || got != "HTTP/2.0" {
			t.Errorf("%s %v: the first network's mark is forgotten", got, err)
		}
	})
}

// UDP that is blocked under a live connection costs one call at most, loses no
// body and doubles none.
func TestUDPBlockedUnderALiveConnection(t *testing.T) {
	for name, c := range map[string]struct {
		drop    func(simnet.Packet, int) bool
		arrives int // bodies of the call that fails
	}{
		"nothing passes": {everything, 0},
		"answers lost":   {func(p simnet.Packet, _ int) bool { return p.From.String() == "93.184.216.34:443" }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bodies := newReader()
				defer w.host("b.test", bodies)()
				tr := w.courier(transport.ModeAuto, yes)
				defer tr.Close()
				mustSend(t, tr, "HTTP/3.0", []byte("before"))
				w.air.block(c.drop)
				from := time.Now()
				if proto, err := send(t, tr, []byte("during")); err == nil {
					t.Fatalf("answered over %s through a wall", proto)
				}
				if took := time.Since(from); took > 12*time.Second {
					t.Errorf("the call took %v", took)
				}
				if n := bodies.times("during"); n != c.arrives {
					t.Errorf("the body came %d times by itself, want %d", n, c.arrives)
				}
				from = time.Now()
				mustSend(t, tr, "HTTP/2.0", []byte("again")) // what the sender does; marked already
				if took := time.Since(from); took > 0 || tr.Marks() != 1 {
					t.Errorf("the next call took %v, %d marks", took, tr.Marks())
				}
				for _, name := range []string{"before", "again"} {
					if n := bodies.times(name); n != 1 {
						t.Errorf("%s came %d times", name, n)
					}
				}
			})
		})
	}
}

// A connection that nothing uses notices by itself that its way is closed.
func TestUDPBlockedUnderAnIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bodies := newReader()
		defer w.host("b.test", bodies)()
		tr := w.courier(transport.ModeAuto, yes)
		defer tr.Close()
		mustSend(t, tr, "HTTP/3.0", []byte("before"))
		w.air.block(everything)
		time.Sleep(20 * time.Second)
		from := time.Now()
		mustSend(t, tr, "HTTP/2.0", []byte("after"))
		if took := time.Since(from); took > 300*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// Over a lossy path requests of a hundred KiB arrive once each.
func TestLossyPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bodies := newReader()
		defer w.host("b.test", bodies)()
		w.air.block(func(_ simnet.Packet, n int) bool { return n%13 == 0 })
		tr := w.courier(transport.ModeH3, no)
		defer tr.Close()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := send(t, tr, append([]byte(fmt.Sprintf("%d ", i)), make([]byte, 100<<10)...)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range 16 {
			if n := bodies.times(fmt.Sprint(i)); n != 1 {
				t.Errorf("body %d came %d times", i, n)
			}
		}
	})
}

func TestForcedProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", newReader())()
		h2 := w.courier(transport.ModeH2, yes)
		defer h2.Close()
		for range 3 {
			mustSend(t, h2, "HTTP/2.0", make([]byte, 100<<10))
			time.Sleep(time.Minute)
		}
		if n := w.air.packets(); n != 0 {
			t.Errorf("%d packets in mode h2", n)
		}
		tcp := w.dialled()
		h3 := w.courier(transport.ModeH3, no)
		defer h3.Close()
		for range 50 {
			mustSend(t, h3, "HTTP/3.0", make([]byte, 100<<10))
		}
		time.Sleep(3 * time.Minute)
		w.air.block(everything)
		if proto, err := send(t, h3, []byte("x")); err == nil {
			t.Errorf("answered over %s", proto)
		}
		if n := w.dialled(); n != tcp || h3.Marks() != 0 {
			t.Errorf("%d TCP connections in mode h3, %d marks", n-tcp, h3.Marks())
		}
	})
}

// Without the word of the signed document and without Alt-Svc no packet is sent.
func TestHTTP3IsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alt := ""
		defer w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			if alt != "" {
				rw.Header().Set("Alt-Svc", alt)
			}
		}))()
		tr := w.courier(transport.ModeAuto, no)
		defer tr.Close()
		round := func() string {
			time.Sleep(2 * time.Second)
			_, _ = send(t, tr, []byte("x"))
			synctest.Wait()
			time.Sleep(2 * time.Second)
			proto, err := send(t, tr, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			return proto
		}
		for _, c := range []string{"", `h3=":8443"; ma=600`, `h3="other.test:443"; ma=600`, `h3-29=":443"`, "clear"} {
			if alt = c; round() != "HTTP/2.0" || w.air.packets() != 0 {
				t.Fatalf("%q led to HTTP/3", c)
			}
		}
		alt = `h2=":443", h3=":443"; ma=60`
		if round(); round() != "HTTP/3.0" { // the connection over HTTP/2 gives way without a pause in the traffic
			t.Error("an offer over HTTP/2 was not taken up")
		}
		alt = ""
		time.Sleep(3 * time.Minute) // the offer is stale and the connection gone
		if round() != "HTTP/2.0" {
			t.Error("a stale offer was used")
		}
	})
}

// The document is fetched before it says that the peer speaks HTTP/3: the
// connection that fetched it gives way.
func TestHTTP3IsTakenUpLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", newReader())()
		var mu sync.Mutex
		known := false
		tr := w.courier(transport.ModeAuto, func(s clearbox.ServerName) bool {
			mu.Lock()
			defer mu.Unlock()
			return known && s == "b.test"
		})
		defer tr.Close()
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		mu.Lock()
		known = true
		mu.Unlock()
		time.Sleep(time.Second)
		mustSend(t, tr, "HTTP/2.0", []byte("x")) // looks, and does not wait
		time.Sleep(time.Second)
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		if c := tr.Counts(transport.H2); c.Connections != 1 || c.Requests != 2 {
			t.Errorf("%+v", c)
		}
	})
}

// Attack 8 over UDP: the filter is the same, and comes after resolution.
func TestAddressesThatGetNoPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, mode := range []transport.Mode{transport.ModeAuto, transport.ModeH3} {
			tr := w.courier(mode, yes)
			defer tr.Close()
			for _, a := range []string{"127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "100.64.0.1", "::1", "fe80::1", "fd12::1",
				"::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "0.0.0.0"} {
				w.mu.Lock()
				w.addrs["evil.test"] = []netip.Addr{netip.MustParseAddr(a)}
				w.mu.Unlock()
				for _, base := range []string{"https://evil.test/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/"} {
					_, err := do(t, tr, federation.Target{Server: "evil.test"}, base)
					var refused *transport.AddressError
					if !errors.As(err, &refused) || clearbox.CodeOf(err) != clearbox.CodeForbidden {
						t.Errorf("%s for %s: %v", base, a, err)
					}
				}
				if _, err := tr.HandshakeQUIC(t.Context(), "https://evil.test", false); clearbox.CodeOf(err) != clearbox.CodeForbidden {
					t.Errorf("%s: %v", a, err)
				}
			}
			if w.air.packets() != 0 || w.dialled() != 0 {
				t.Errorf("mode %s: %d packets, %d connections", mode, w.air.packets(), w.dialled())
			}
		}
		// One private address among public ones gets nothing, also when the others are silent.
		w.mu.Lock()
		w.addrs["b.test"] = []netip.Addr{netip.MustParseAddr("10.0.0.1"), public, netip.MustParseAddr("::1"), netip.MustParseAddr("2606:2800:220:1::1")}
		w.mu.Unlock()
		asked := map[string]bool{}
		w.air.block(func(p simnet.Packet, _ int) bool { asked[p.To.String()] = true; return true })
		tr := w.courier(transport.ModeH3, yes)
		defer tr.Close()
		if _, err := send(t, tr, []byte("x")); err == nil {
			t.Error("somebody answered")
		}
		if len(asked) != 2 || !asked["93.184.216.34:443"] || !asked["[2606:2800:220:1::1]:443"] {
			t.Errorf("packets to %v", asked)
		}
	})
}

// A peer that shuts down says so; the next request goes to a new connection,
// with its body for the first time.
func TestConnectionsThatEndBetweenRequests(t *testing.T) {
	for _, mode := range []transport.Mode{transport.ModeH2, transport.ModeH3} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bodies := newReader()
				tr := w.courier(mode, yes)
				defer tr.Close()
				for i := range 5 {
					stop := w.host("b.test", bodies)
					// A server that went without a word costs one try, whose body it never had.
					_, err := send(t, tr, []byte(fmt.Sprint(i)))
					if err != nil && bodies.times(fmt.Sprint(i)) == 0 {
						_, err = send(t, tr, []byte(fmt.Sprint(i)))
					}
					if err != nil {
						t.Error(err)
					}
					stop()
					time.Sleep(time.Second)
				}
				for i := range 5 {
					if n := bodies.times(fmt.Sprint(i)); n != 1 {
						t.Errorf("body %d came %d times", i, n)
					}
				}
			})
		})
	}
}

// A peer that ends every connection with its first answer, and never ends that
// answer, does not get as many connections as it likes.
func TestConnectionsToOnePeerAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		stop := w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Connection", "close") // HTTP/2: GOAWAY
			rw.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(rw).Flush()
			<-release
		}))
		tr := w.courier(transport.ModeH2, no)
		defer tr.Close()
		var open []*http.Response
		var last error
		for range 20 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://b.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.Do(t.Context(), peer, req)
			if err != nil {
				last = err
				continue
			}
			open = append(open, resp)
			synctest.Wait()
		}
		if len(open) == 20 || w.dialled() > 6 || clearbox.CodeOf(last) != clearbox.CodePeerUnreachable {
			t.Errorf("%d answers under way on %d connections, then %v", len(open), w.dialled(), last)
		}
		close(release)
		for _, r := range open {
			r.Body.Close()
		}
		synctest.Wait()
		if _, err := send(t, tr, []byte("x")); err != nil {
			t.Errorf("when they have ended: %v", err)
		}
		stop()
	})
}

// What is measurably faster on a path is preferred on it, and small requests
// say nothing.
func TestBetterGoodputIsPreferred(t *testing.T) {
	for name, c := range map[string]struct {
		slow int // the major version that is slow
		size int
		want string
	}{
		"HTTP/3 is slower":     {3, 200 << 10, "HTTP/2.0"},
		"HTTP/2 is slower":     {2, 200 << 10, "HTTP/3.0"},
		"equally fast":         {0, 200 << 10, "HTTP/3.0"},
		"slower for small":     {3, 1 << 10, "HTTP/3.0"},
		"slower, medium sizes": {3, 20 << 10, "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				bodies := newReader()
				defer w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					bodies.ServeHTTP(rw, r)
					time.Sleep(200 * time.Millisecond) // hides the simulated latency, which only UDP has
					if r.ProtoMajor == c.slow {
						time.Sleep(400 * time.Millisecond)
					}
				}))()
				tr := w.courier(transport.ModeAuto, yes)
				defer tr.Close()
				for i := range 60 {
					if _, err := send(t, tr, append([]byte(fmt.Sprintf("%d ", i)), make([]byte, c.size)...)); err != nil {
						t.Fatal(err)
					}
				}
				mustSend(t, tr, c.want, []byte("x"))
				time.Sleep(3 * time.Minute)
				mustSend(t, tr, c.want, []byte("x")) // on a new connection too
				for i := range 60 {
					if n := bodies.times(fmt.Sprint(i)); n != 1 {
						t.Errorf("body %d came %d times", i, n)
					}
				}
				if c.size > 16<<10 && (tr.Counts(transport.H2).Requests < 8 || tr.Paths()[0].H2 == 0 || tr.Paths()[0].H3 == 0) {
					t.Errorf("%+v", tr.Paths())
				}
			})
		})
	}
}

// A peer whose TCP port is closed is reached all the same, and one whose HTTP/3
// has a certificate of somebody else costs no wait.
func TestOneOfTwoWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.addrs["b.test"] = []netip.Addr{public}
		_, stop := w.serveQUIC("b.test", newReader(), transport.ServerOptions{})
		tr := w.courier(transport.ModeAuto, yes)
		mustSend(t, tr, "HTTP/3.0", []byte("x"))
		tr.Close()
		stop()

		_, stop = w.serveQUIC("evil.test", newReader(), transport.ServerOptions{})
		defer stop()
		tr = w.courier(transport.ModeAuto, yes)
		defer tr.Close()
		if _, err := send(t, tr, []byte("x")); err == nil {
			t.Error("a certificate of somebody else was taken")
		}
		defer w.serve("b.test", public.String()+":443", 0, newReader())()
		from := time.Now()
		mustSend(t, tr, "HTTP/2.0", []byte("x"))
		if took := time.Since(from); took > 100*time.Millisecond || tr.Marks() != 1 {
			t.Errorf("took %v, %d marks", took, tr.Marks())
		}
	})
}

// What a handler sees of a request does not depend on the protocol; signatures
// cover it.
func TestRequestsLookAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var seen []string
		defer w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			h := r.Header.Clone()
			h.Del("User-Agent")
			seen = append(seen, fmt.Sprint(r.Method, r.Host, r.URL.Path, r.URL.RawQuery, r.RequestURI, r.ContentLength, h, len(b), r.TLS.ServerName, r.TLS.Version))
			rw.Header().Set("Signature", `sig=:AAA=:`)
			rw.WriteHeader(http.StatusConflict)
			fmt.Fprint(rw, "no")
		}))()
		for _, mode := range []transport.Mode{transport.ModeH2, transport.ModeH3} {
			tr := w.courier(mode, yes)
			defer tr.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://b.test/fed/v1/txn?a=b%20c&d", bytes.NewReader(make([]byte, 70_000)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/cbor")
			req.Header.Set("Signature-Input", `sig=("@method");created=1`)
			resp, err := tr.Do(t.Context(), peer, req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusConflict || string(b) != "no" || resp.Header.Get("Signature") != `sig=:AAA=:` || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: %v %v %q %v", mode, resp.StatusCode, resp.Header, b, err)
			}
		}
		if len(seen) != 2 || seen[0] != seen[1] || strings.Contains(seen[0], "Encoding") {
			t.Errorf("%q", seen)
		}
	})
}

// Attack 9 over HTTP/3: headers without end are cut, and a silent peer costs its
// caller the caller's own time.
func TestHostileAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/silent" {
				<-r.Context().Done()
				return
			}
			for i := range 64 {
				rw.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
		}))()
		tr := w.courier(transport.ModeH3, yes)
		defer tr.Close()
		if _, err := do(t, tr, peer, "https://b.test/headers"); err == nil {
			t.Error("64 KiB of headers were taken")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://b.test/silent", nil)
		if err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if _, err := tr.Do(ctx, peer, req); !errors.Is(err, context.DeadlineExceeded) || time.Since(from) != 15*time.Second {
			t.Errorf("%v after %v", err, time.Since(from))
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hold := make(chan struct{})
		stop := w.host("b.test", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { <-hold }))
		tr := w.courier(transport.ModeAuto, yes)
		answered := make(chan error, 1)
		go func() { _, err := send(t, tr, []byte("x")); answered <- err }()
		time.Sleep(time.Second)
		tr.Close() // the request that is under way ends by itself
		close(hold)
		if err := <-answered; err != nil {
			t.Errorf("a request under way: %v", err)
		}
		if _, err := send(t, tr, []byte("x")); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
			t.Errorf("after the end: %v", err)
		}
		stop()

		w.air.block(everything)
		w.mu.Lock()
		w.hosts[public.String()+":443"] = make(chan net.Conn, 8) // accepts, never answers
		w.mu.Unlock()
		tr = w.courier(transport.ModeAuto, yes)
		go func() { _, err := send(t, tr, []byte("x")); answered <- err }()
		time.Sleep(time.Second)
		from := time.Now()
		tr.Close()
		if err := <-answered; err == nil || time.Since(from) > time.Second {
			t.Errorf("%v after %v", err, time.Since(from))
		}
	})
}

func TestHandshakeQUIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.host("b.test", newReader())()
		tr := w.courier(transport.ModeAuto, no)
		defer tr.Close()
		p, err := tr.HandshakeQUIC(t.Context(), "https://b.test", false)
		if err != nil || p.TLS != "TLS 1.3" || p.ALPN != "h3" || p.Expires.IsZero() {
			t.Errorf("%+v %v", p, err)
		}
		w.air.block(everything)
		if p, err := tr.HandshakeQUIC(t.Context(), "https://b.test", false); err == nil || tr.Marks() != 0 {
			t.Errorf("%+v %d", p, tr.Marks())
		}
	})
}

func FuzzAltSvc(f *testing.F) {
	for _, s := range []string{`h3=":443"; ma=60`, `clear`, `h3=":443";ma="5", h2=":1"`, `h3=`, `=;=,;`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := transport.ParseAltSvc(s, "443")
		if d < 0 || d > 7*24*time.Hour || d > 0 && !(strings.Contains(s, "h3") && strings.Contains(s, ":443")) {
			t.Errorf("%q: %v", s, d)
		}
	})
}
