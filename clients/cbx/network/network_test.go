package network_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/network"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

var ctx = context.Background()

// pipes is a listener whose connections are pipes in memory.
type pipes struct {
	conns chan net.Conn // unbuffered
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.IPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// serve runs handler over TLS in the bubble and gives a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *network.Client {
	t.Helper()
	return serveOver(t, handler, func(p *pipes) func(context.Context, string, string) (net.Conn, error) { return p.dial })
}

// serveOver is serve with a line of the test's own.
func serveOver(t *testing.T, handler http.HandlerFunc, line func(*pipes) func(context.Context, string, string) (net.Conn, error)) *network.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.test"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, ErrorLog: quietLog()}
	go srv.ServeTLS(p, "", "")
	base, err := network.ParseServerURL("https://a.test")
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c, err := network.New(base, network.Options{CA: ca, Dial: line(p), UserAgent: "test/1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

func problem(w http.ResponseWriter, status int, code clearbox.Code) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"about:blank","title":"no","status":%d,"code":%q}`, status, code)
}

func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/echo":
				b, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.UserAgent(), b)
			case "/elsewhere":
				http.Redirect(w, r, "https://b.test/", http.StatusFound)
			case "/long":
				io.Copy(w, io.LimitReader(zeros{}, core.MaxAnswer+1))
			}
		})
		res, err := c.Do(ctx, core.Request{Method: "POST", Path: "/echo?x=1", Token: "t", Body: []byte(`{}`)})
		if err != nil || string(res.Body) != "POST Bearer t application/json test/1 {}" {
			t.Errorf("%s, %v", res.Body, err)
		}
		if res, err := c.Do(ctx, core.Request{Method: "GET", Path: "/elsewhere", Token: "t"}); err != nil || res.Status != http.StatusFound {
			t.Errorf("a redirect was followed: %d, %v", res.Status, err)
		}
		if _, err := c.Do(ctx, core.Request{Method: "GET", Path: "/long"}); err == nil {
			t.Error("an endless answer was taken")
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer good" || r.URL.RawQuery != "" {
				problem(w, 401, clearbox.CodeTokenExpired)
				return
			}
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolCBOR}})
			if err != nil {
				t.Error(err)
				return
			}
			kind, b, err := conn.Read(r.Context())
			if err != nil || kind != websocket.MessageBinary {
				t.Error(kind, err)
			}
			_ = conn.Write(r.Context(), kind, append(b, '!'))
			conn.Close(websocket.StatusCode(wire.CloseReplaced), "")
		})
		if _, err := c.Open(ctx, "bad"); clearbox.CodeOf(err) != clearbox.CodeTokenExpired {
			t.Errorf("Open = %v", err)
		}
		s, err := c.Open(ctx, "good")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Send(ctx, []byte("frame")); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Receive(ctx); err != nil || string(b) != "frame!" {
			t.Errorf("%q, %v", b, err)
		}
		var closed *core.ClosedError
		if _, err := s.Receive(ctx); !errors.As(err, &closed) || closed.Code != wire.CloseReplaced {
			t.Errorf("Receive = %v", err)
		}
	})
}

// TestNoSocket: whatever on the way does not know WebSockets.
func TestNoSocket(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"not found":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "what?", 404) },
		"a login box": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"bad gateway": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusBadGateway) },
		"another subprotocol": func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, nil)
			if err == nil {
				conn.CloseNow()
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			if _, err := serve(t, answer).Open(ctx, "t"); !errors.Is(err, core.ErrNoSocket) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ws" {
				panic(http.ErrAbortHandler) // cut off without an answer
			}
		})
		for i := range 3 {
			_, err := c.Open(ctx, "t")
			if err == nil || errors.Is(err, core.ErrNoSocket) != (i == 2) {
				t.Errorf("attempt %d: %v", i, err)
			}
		}
	})
}

// TestQuietConnection: a server that says nothing any more is found out within
// 45 seconds; one that only pings is not.
func TestQuietConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pingFor := 5 * time.Minute
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolCBOR}})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.CloseNow()
			read := conn.CloseRead(r.Context())
			for range pingFor / (20 * time.Second) {
				time.Sleep(20 * time.Second)
				if err := conn.Ping(read); err != nil {
					return
				}
			}
			<-read.Done() // silence
		})
		s, err := c.Open(ctx, "t")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := s.Receive(ctx); err == nil {
			t.Error("something was received")
		}
		if took := time.Since(start); took < pingFor || took >= pingFor+45*time.Second {
			t.Errorf("noticed after %s", took)
		}
		s.Close()
	})
}

// dying is a connection whose line can go dead without a word.
type dying struct {
	net.Conn
	dead <-chan struct{} // closed when it does
	gone chan struct{}   // closed with the connection
	once sync.Once
}

func (d *dying) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	select {
	case <-d.dead:
		<-d.gone
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (d *dying) Write(b []byte) (int, error) {
	select {
	case <-d.dead:
		return len(b), nil // the network takes everything
	default:
		return d.Conn.Write(b)
	}
}

func (d *dying) Close() error {
	d.once.Do(func() { close(d.gone) })
	return d.Conn.Close()
}

// TestDeadLine: requests find out that their connection went dead, and the
// next one takes another.
func TestDeadLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := make(chan struct{})
		dials := 0
		c := serveOver(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 {
				t.Error(r.Proto)
			}
		}, func(p *pipes) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := p.dial(ctx, network, address)
				if dials++; dials == 1 && err == nil {
					conn = &dying{Conn: conn, dead: dead, gone: make(chan struct{})}
				}
				return conn, err
			}
		})
		if _, err := c.Do(ctx, core.Request{Method: "GET", Path: "/"}); err != nil {
			t.Fatal(err)
		}
		close(dead)
		start := time.Now()
		for range 2 { // the first may fail: nobody knows what became of it
			if _, err := c.Do(ctx, core.Request{Method: "POST", Path: "/", Body: []byte("{}")}); err != nil {
				t.Log(err)
			}
		}
		if took := time.Since(start); dials != 2 || took > 30*time.Second {
			t.Errorf("%d connections, %s", dials, took)
		}
	})
}

func TestParseServerURL(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://a.test": true, "https://a.test:8443/": true, "http://127.0.0.1:80": true, "http://[::1]:80": true,
		"http://a.test": false, "http://10.0.0.1": false, "http://localhost": false, "ftp://a.test": false, "https://u@a.test": false,
		"https://a.test/path": false, "https://a.test?x": false, "https://a.test#x": false, "a.test": false, "": false,
	} {
		u, err := network.ParseServerURL(s)
		if (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
		if err == nil && strings.HasSuffix(u.String(), "/") {
			t.Errorf("%q became %s", s, u)
		}
	}
}
