// Package network carries the brain's requests and frames to a homeserver over
// TLS: HTTP for requests, a WebSocket in the CBOR subprotocol for frames. It
// retries nothing and understands no message.
package network

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Timeouts.
const (
	dialTimeout  = 10 * time.Second
	answerWithin = (wire.MaxSyncSeconds + 15) * time.Second // a long poll and then some
	writeWithin  = 20 * time.Second
	quietFor     = 42 * time.Second // two of the server's pings, which come every 20 seconds, and a little; noticed and closed within 45
	pingAfter    = 15 * time.Second // without a frame on an HTTP/2 connection that is in use
	pingWithin   = 10 * time.Second // or that connection is not used again
)

// Options of New; all may be zero.
type Options struct {
	// CA holds PEM certificates that are trusted instead of the system's: the
	// development CA of clearbox demo, or an organisation's own.
	CA []byte
	// Dial connects; nil is the operating system's TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// UserAgent names the program.
	UserAgent string
}

// Client is a core.Network. Safe for concurrent use.
type Client struct {
	base   *url.URL
	http   *http.Client // HTTP/2 where the server has it
	socket *http.Client // HTTP/1.1 only: the WebSocket handshake needs it
	agent  string

	failures atomic.Int32 // handshakes in a row that ended without an answer
}

var _ core.Network = (*Client)(nil)

// ParseServerURL accepts https://host[:port], and http for loopback addresses
// only, where nobody else can listen.
func ParseServerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a server's URL has the form https://chat.example.org")
	}
	ip, ipErr := netip.ParseAddr(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || ipErr != nil || !ip.IsLoopback()) {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a server is reached by https only")
	}
	u.Path = ""
	return u, nil
}

// New gives a client of the homeserver at base, which ParseServerURL made.
func New(base *url.URL, opts Options) (*Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if len(opts.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(opts.CA) {
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the CA file holds no PEM certificate")
		}
	}
	dial := opts.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	transport := func(http2 bool) *http.Transport {
		return &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dial, TLSClientConfig: config.Clone(), ForceAttemptHTTP2: http2,
			TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute, MaxIdleConns: 4,
			// A request that is given up leaves its connection in use: on one that
			// went dead without a word the next would wait in vain as well.
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWithin},
		}
	}
	// A redirect would carry the token elsewhere.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		base:   base,
		http:   &http.Client{Transport: transport(true), CheckRedirect: stay, Timeout: answerWithin},
		socket: &http.Client{Transport: transport(false), CheckRedirect: stay},
		agent:  opts.UserAgent,
	}, nil
}

// Close lets idle connections go.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.socket.CloseIdleConnections()
}

// Do implements core.Network.
func (c *Client) Do(ctx context.Context, req core.Request) (core.Response, error) {
	var body io.Reader
	if req.Body != nil {
		body = bytes.NewReader(req.Body)
	}
	r, err := http.NewRequestWithContext(ctx, req.Method, c.base.String()+req.Path, body)
	if err != nil {
		return core.Response{}, fmt.Errorf("make the request: %w", err)
	}
	c.header(r.Header, req.Token)
	r.Header.Set("Accept", "application/json, application/octet-stream")
	req.Headers(r.Header.Set)
	res, err := c.http.Do(r)
	if err != nil {
		return core.Response{}, explain(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, core.MaxAnswer+1))
	if err != nil {
		return core.Response{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(b) > core.MaxAnswer {
		return core.Response{}, errors.New("the answer is too long")
	}
	return core.Response{Status: res.StatusCode, Body: b}, nil
}

func (c *Client) header(h http.Header, token string) {
	if c.agent != "" {
		h.Set("User-Agent", c.agent)
	}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
}

// explain keeps paths and tokens out of an error; a certificate that is not
// trusted is said in words.
func explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return clearbox.Wrap(clearbox.CodeUnavailable, "the server's certificate is not trusted; --ca names a CA file", err)
	case errors.As(err, &host):
		return clearbox.Wrap(clearbox.CodeUnavailable, "the server's certificate is for another name", err)
	}
	return err
}

// Open implements core.Network.
func (c *Client) Open(ctx context.Context, token string) (core.Stream, error) {
	s := &stream{}
	s.quiet = time.AfterFunc(dialTimeout+quietFor, s.wentQuiet)
	h := http.Header{}
	c.header(h, token)
	dialCtx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	conn, res, err := websocket.Dial(dialCtx, c.base.String()+"/ws", &websocket.DialOptions{
		HTTPClient: c.socket, HTTPHeader: h, Subprotocols: []string{wire.SubprotocolCBOR},
		OnPingReceived: func(context.Context, []byte) bool { s.heard(); return true },
	})
	if err != nil {
		s.quiet.Stop()
		return nil, c.refused(ctx, res, err)
	}
	c.failures.Store(0)
	if conn.Subprotocol() != wire.SubprotocolCBOR {
		s.quiet.Stop()
		_ = conn.CloseNow() // nothing was said yet
		return nil, core.ErrNoSocket
	}
	conn.SetReadLimit(wire.MaxFrame)
	s.conn.Store(conn)
	s.heard()
	return s, nil
}

// refused gives the reason why there is no socket. Answers that are not the
// homeserver's own come from something on the way; and where handshakes end
// without any answer while other requests get through, so it is too.
func (c *Client) refused(ctx context.Context, res *http.Response, err error) error {
	if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
		c.failures.Store(0)
		var p wire.Problem
		body, readErr := io.ReadAll(io.LimitReader(res.Body, wire.MaxBody))
		if readErr == nil && wire.DecodeAnswer(wire.JSON, body, &p) == nil && p.Code != "" && p.Code != clearbox.CodeNotFound && p.Code != clearbox.CodeMethod {
			return p.Err()
		}
		return core.ErrNoSocket
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.failures.Add(1) >= 3 {
		if live, liveErr := c.Do(ctx, core.Request{Method: "GET", Path: "/livez"}); liveErr == nil && live.Status == http.StatusOK {
			c.failures.Store(0)
			return core.ErrNoSocket
		}
	}
	return explain(err)
}

// stream is a core.Stream on a WebSocket.
type stream struct {
	conn  atomic.Pointer[websocket.Conn]
	quiet *time.Timer // closes the connection when nothing is heard any more
}

func (s *stream) heard() { s.quiet.Reset(quietFor) }

func (s *stream) wentQuiet() {
	if conn := s.conn.Load(); conn != nil {
		_ = conn.CloseNow() // the reader gets the error
	}
}

// Send implements core.Stream.
func (s *stream) Send(ctx context.Context, frame []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	return closed(s.conn.Load().Write(ctx, websocket.MessageBinary, frame))
}

// Receive implements core.Stream.
func (s *stream) Receive(ctx context.Context) ([]byte, error) {
	kind, frame, err := s.conn.Load().Read(ctx)
	if err != nil {
		return nil, closed(err)
	}
	s.heard()
	if kind != websocket.MessageBinary {
		return nil, errors.New("the server sent text on a binary socket")
	}
	return frame, nil
}

// closed turns the server's close code into a core.ClosedError.
func closed(err error) error {
	if code := websocket.CloseStatus(err); code != -1 {
		return &core.ClosedError{Code: wire.CloseCode(code)}
	}
	return err
}

// Close implements core.Stream. It does not wait for the server.
func (s *stream) Close() error {
	s.quiet.Stop()
	return s.conn.Load().CloseNow()
}
