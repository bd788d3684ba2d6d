package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox/server/api"
)

// Run opens the listeners, serves until ctx ends, and then stops in reverse:
// doors, sockets, senders, delivery, store. Requests that are under way get
// server.drain_timeout to end. It returns nil after an orderly stop.
func (s *Server) Run(ctx context.Context) error {
	c := s.conf.get()
	at, err := s.listen()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	var peers http.Handler
	if s.inbox != nil {
		peers = s.shown(s.visits.counted(s.inbox))
	}
	quic := s.quicServer(c, peers)
	if len(at.packets) > 0 {
		peers = offerQUIC(c.PublicURL(), peers)
	}
	clients := &http.Server{Handler: doors(s.api.Handler(), peers), TLSConfig: s.certs.tlsConfig(c.TLS.Min), ErrorLog: quiet()}
	api.ConfigureServer(clients)
	admins := &http.Server{Handler: s.api.AdminHandler(), ErrorLog: quiet()}
	api.ConfigureServer(admins)
	figures := &http.Server{}
	if at.figures != nil {
		figures = s.figures(quic)
	}

	failed := make(chan error, len(at.public)+len(at.packets)+16) // capacity: one for each goroutine below
	var doors, federating, delivering group
	report := func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}
	delivering.start(report, s.delivery.Run, s.directory.Run, s.disk.run, s.media.Run)
	federating.start(report, s.auth.Run, s.groups.Run)
	if s.sender != nil {
		federating.start(report, s.self.Run, s.client.Run, s.sender.Run, s.peering.Run, s.ephemera.Run, s.afar.Run)
	}
	doors.start(report, s.api.Run)
	var serving sync.WaitGroup
	for _, l := range at.public {
		s.log.Info("listening", "port", portOf(l.Addr()))
		serving.Go(func() { report(clients.ServeTLS(l, "", "")) })
	}
	for _, pc := range at.packets {
		serving.Go(func() { report(quic.Serve(pc)) })
	}
	serving.Go(func() { report(admins.Serve(at.socket)) })
	if at.figures != nil {
		serving.Go(func() { report(figures.Serve(at.figures)) })
	}
	s.log.Info("ready", "server", string(c.Server.Name), "version", s.o.Version.Version)
	if s.o.Started != nil {
		s.o.Started()
	}

	var cause error
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case cause = <-failed:
		s.log.Error("stopping after a failure", "error", cause)
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.conf.get().Server.DrainTimeout)
	defer cancel()
	s.api.Drain(drain)
	_ = quic.Shutdown(drain) // what had to be cut, peers send again
	for _, h := range []*http.Server{clients, admins, figures} {
		if err := h.Shutdown(drain); err != nil {
			h.Close()
		}
	}
	serving.Wait()
	doors.stop()
	federating.stop()
	delivering.stop()
	if err := s.Close(); err != nil && cause == nil {
		cause = fmt.Errorf("close the store: %w", err)
	}
	s.log.Info("stopped")
	return cause
}

// portOf is all that the log may show of an address.
func portOf(a net.Addr) string {
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return ""
	}
	return port
}

// group is goroutines that end together.
type group struct {
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
}

func (g *group) start(report func(error), runs ...func(context.Context) error) {
	if g.ctx == nil {
		g.ctx, g.cancel = context.WithCancel(context.Background())
	}
	for _, run := range runs {
		g.wg.Go(func() { report(run(g.ctx)) })
	}
}

func (g *group) stop() {
	if g.cancel != nil {
		g.cancel()
	}
	g.wg.Wait()
}

// quiet drops what net/http says about single connections: it names addresses
// and nobody can act on it.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// listeners are the open doors.
type listeners struct {
	public  []net.Listener
	packets []net.PacketConn // beside each of public, or none
	socket  net.Listener     // for admin commands
	figures net.Listener     // nil when it is off
}

func (at *listeners) close() {
	for _, l := range append(at.public, at.socket, at.figures) {
		if l != nil {
			l.Close()
		}
	}
	closeAll(at.packets)
}

// listen opens all of them or none.
func (s *Server) listen() (_ *listeners, err error) {
	c := s.conf.get()
	at := &listeners{}
	defer func() {
		if err != nil {
			at.close()
		}
	}()
	for _, address := range c.Listen.Addresses {
		l, err := s.o.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen.addresses: cannot listen on %s: %w", address, err)
		}
		at.public = append(at.public, l)
	}
	if at.packets, err = s.listenPackets(at.public); err != nil {
		return nil, err
	}
	if at.figures, err = s.listenMetrics(); err != nil {
		return nil, err
	}
	path := c.AdminSocket()
	if err := freeSocket(path); err != nil {
		return nil, err
	}
	if at.socket, err = s.o.Listen("unix", path); err != nil {
		return nil, fmt.Errorf("listen.admin_socket: cannot listen on %s: %w", path, err)
	}
	if _, isUnix := at.socket.(*net.UnixListener); isUnix {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, fmt.Errorf("listen.admin_socket: %w", err)
		}
	}
	return at, nil
}

// freeSocket removes a socket that a killed process left behind. One that
// somebody answers is left alone.
func freeSocket(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("listen.admin_socket: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return nil
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("listen.admin_socket: %s is in use by another process", path)
	}
	return os.Remove(path)
}
