package servertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// line is a brain's way to its homeserver over the wires: real TLS, HTTP and
// WebSocket, as in a terminal or a browser.
type line struct {
	base string // https://a.test
	http *http.Client
}

func newLine(w *Wires, host, base string, roots *tls.Config) *line {
	return &line{base: base, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: roots.Clone(),
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return w.Dial(ctx, host, address)
		},
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     30 * time.Second,
	}}}
}

func (l *line) close() { l.http.CloseIdleConnections() }

// Do implements core.Network.
func (l *line) Do(ctx context.Context, req core.Request) (core.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, req.Method, l.base+req.Path, bytes.NewReader(req.Body))
	if err != nil {
		return core.Response{}, err
	}
	req.Headers(r.Header.Set)
	res, err := l.http.Do(r)
	if err != nil {
		return core.Response{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, core.MaxAnswer))
	return core.Response{Status: res.StatusCode, Body: body}, err
}

// Open implements core.Network.
func (l *line) Open(ctx context.Context, token string) (core.Stream, error) {
	dial, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(dial, l.base+"/ws?token="+url.QueryEscape(token), &websocket.DialOptions{
		HTTPClient: l.http, Subprotocols: []string{wire.SubprotocolCBOR},
	})
	if err != nil {
		if res != nil && res.StatusCode == http.StatusUnauthorized {
			return nil, clearbox.Errorf(clearbox.CodeUnauthorized, "refused")
		}
		return nil, err
	}
	c.SetReadLimit(core.MaxAnswer)
	live, stop := context.WithCancel(context.Background())
	st := &stream{c: c, stop: stop}
	go st.keepAlive(live)
	return st, nil
}

// stream is an open WebSocket.
type stream struct {
	c    *websocket.Conn
	stop context.CancelFunc
}

// keepAlive ends a stream on which nothing comes back any more.
func (s *stream) keepAlive(ctx context.Context) {
	tick := time.NewTicker(25 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ping, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := s.c.Ping(ping)
		cancel()
		if err != nil {
			s.c.CloseNow()
			return
		}
	}
}

// Send implements core.Stream.
func (s *stream) Send(ctx context.Context, frame []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return s.c.Write(ctx, websocket.MessageBinary, frame)
}

// Receive implements core.Stream.
func (s *stream) Receive(ctx context.Context) ([]byte, error) {
	_, b, err := s.c.Read(ctx)
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		return nil, &core.ClosedError{Code: wire.CloseCode(closed.Code)}
	}
	return b, err
}

// Close implements core.Stream.
func (s *stream) Close() error {
	s.stop()
	return s.c.CloseNow()
}
