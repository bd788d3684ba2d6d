package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Defaults of ServerOptions.
const (
	defaultConnections = 4096
	defaultStreams     = 256
	defaultIdle        = 75 * time.Second
)

// ServerOptions limit what strangers may cost. Zero values mean the defaults.
type ServerOptions struct {
	Connections    int           // open and being opened, all sockets together; default 4096
	Streams        int64         // requests under way on one connection; default 256
	MaxHeaderBytes int           // of a request; default 32 KiB
	ReadTimeout    time.Duration // for a request's body, from the end of its headers; default none
	WriteTimeout   time.Duration // for the answer, from the end of the request's headers; default none
	// IdleTimeout closes a connection on which no complete request was under way for that long, whatever
	// streams it has begun; default 75 s.
	IdleTimeout time.Duration
	// ResetKey lets peers notice at once that this server has lost its connections. It is a secret that
	// survives restarts; without it they notice after ten seconds of silence.
	ResetKey *[32]byte
}

// Server answers HTTP/3 requests. The requests carry the TLS state of their
// connection (TLS 1.3, "h3"); 0-RTT is not accepted and nothing is compressed
// or decompressed.
type Server struct {
	handler http.Handler
	tls     *tls.Config
	o       ServerOptions
	open    atomic.Int64 // connections, handshakes included

	mu      sync.Mutex // guards what follows
	serving []*socket
	closed  bool
}

// socket is one PacketConn that is served.
type socket struct {
	h3      *http3.Server
	carrier *quic.Transport
	doors   *quic.Listener
	ended   chan struct{} // closed when the loop that accepts has ended
}

// NewServer opens nothing. Of conf, which is not changed, certificates and
// their getters are used as they are, so that a reload shows at the next
// handshake; TLS is 1.3 at least, and no protocol is offered but HTTP/3.
func NewServer(handler http.Handler, conf *tls.Config, o ServerOptions) *Server {
	if o.Connections <= 0 {
		o.Connections = defaultConnections
	}
	if o.Streams <= 0 {
		o.Streams = defaultStreams
	}
	if o.MaxHeaderBytes <= 0 {
		o.MaxHeaderBytes = maxHeaderBytes
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = defaultIdle
	}
	conf = conf.Clone()
	conf.MinVersion, conf.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	return &Server{handler: handler, tls: http3.ConfigureTLSConfig(conf), o: o}
}

// Serve answers on pc until Shutdown or Close, which close pc, and returns
// http.ErrServerClosed then. It may be called for several sockets.
func (s *Server) Serve(pc net.PacketConn) error {
	carrier := &quic.Transport{
		Conn: pc, ConnContext: s.admit, StatelessResetKey: (*quic.StatelessResetKey)(s.o.ResetKey),
		// From a quarter of the limit on, an address must prove that it can be answered (RFC 9000, 8.1.2).
		VerifySourceAddress: func(net.Addr) bool { return s.open.Load() >= int64(s.o.Connections)/4 },
	}
	doors, err := carrier.Listen(s.tls, &quic.Config{
		Versions:                   []quic.Version{quic.Version1},
		HandshakeIdleTimeout:       handshakeBudget,
		MaxIdleTimeout:             30 * time.Second,
		MaxIncomingStreams:         s.o.Streams,
		MaxIncomingUniStreams:      8,
		MaxStreamReceiveWindow:     2 << 20,
		MaxConnectionReceiveWindow: 8 << 20,
	})
	if err != nil {
		closeCarrier(carrier)
		return err
	}
	k := &socket{carrier: carrier, doors: doors, ended: make(chan struct{})}
	k.h3 = &http3.Server{
		Handler: http.HandlerFunc(s.serve), MaxHeaderBytes: s.o.MaxHeaderBytes, ConnContext: s.watch,
		Logger: slog.New(slog.DiscardHandler), // it names addresses, and nobody can act on it
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		doors.Close()
		closeCarrier(carrier)
		return http.ErrServerClosed
	}
	s.serving = append(s.serving, k)
	s.mu.Unlock()
	err = k.h3.ServeListener(doors)
	close(k.ended)
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return http.ErrServerClosed
	}
	k.h3.Close()
	closeCarrier(carrier)
	return err
}

var errFull = errors.New("too many connections")

// admit counts a connection before its handshake.
func (s *Server) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if s.open.Add(1) > int64(s.o.Connections) {
		s.open.Add(-1)
		return nil, errFull
	}
	context.AfterFunc(ctx, func() { s.open.Add(-1) })
	return ctx, nil
}

// visitKey finds the visit in a request's context.
type visitKey struct{}

// visit is one connection. It is closed when it brings no complete request for
// a while: streams that were begun and never said what they want keep nothing
// open.
type visit struct {
	mu       sync.Mutex // guards the fields below
	requests int
	idle     *time.Timer
}

func (s *Server) watch(ctx context.Context, conn *quic.Conn) context.Context {
	v := &visit{}
	v.mu.Lock()
	v.idle = time.AfterFunc(s.o.IdleTimeout, func() {
		v.mu.Lock()
		quiet := v.requests == 0
		v.mu.Unlock()
		if quiet {
			_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "idle")
		}
	})
	v.mu.Unlock()
	context.AfterFunc(conn.Context(), func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.idle.Stop()
	})
	return context.WithValue(ctx, visitKey{}, v)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if v, ok := r.Context().Value(visitKey{}).(*visit); ok {
		v.mu.Lock()
		v.requests++
		v.idle.Stop()
		v.mu.Unlock()
		defer func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.requests--; v.requests == 0 && r.Context().Err() == nil {
				v.idle.Reset(s.o.IdleTimeout)
			}
		}()
	}
	limits := http.NewResponseController(w)
	if s.o.ReadTimeout > 0 {
		_ = limits.SetReadDeadline(time.Now().Add(s.o.ReadTimeout))
	}
	if s.o.WriteTimeout > 0 {
		_ = limits.SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	}
	s.handler.ServeHTTP(w, r)
}

// Connections tells how many connections are open or being opened.
func (s *Server) Connections() int64 { return s.open.Load() }

// Shutdown accepts nothing new, tells clients to go, waits for the requests
// that are under way until ctx ends, and closes the sockets. It returns ctx's
// error when requests were cut.
func (s *Server) Shutdown(ctx context.Context) error {
	sockets := s.stop()
	errs := make([]error, len(sockets))
	var wg sync.WaitGroup
	for i, k := range sockets {
		wg.Go(func() { errs[i] = k.end(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close closes sockets and connections at once.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Shutdown(ctx)
	return nil
}

// end counts the socket's connections down. The loop that accepts has ended
// first, so that none joins meanwhile. A handler that does not heed its context
// is not waited for.
func (k *socket) end(ctx context.Context) error {
	<-k.ended
	done := make(chan error, 1) // capacity: the result, when nobody waits any more
	go func() { done <- k.h3.Shutdown(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		grace := time.NewTimer(time.Second)
		defer grace.Stop()
		select {
		case err = <-done:
		case <-grace.C:
			err = ctx.Err()
		}
	}
	closeCarrier(k.carrier)
	return err
}

// stop closes the doors and gives the sockets, once.
func (s *Server) stop() []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	serving := s.serving
	s.serving = nil
	for _, k := range serving {
		k.doors.Close()
	}
	return serving
}
