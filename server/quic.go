package server

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/config"
)

// altSvcFor is how long peers may remember that HTTP/3 is served here, in seconds.
const altSvcFor = 24 * 60 * 60

// servesQUIC tells whether peers may come by HTTP/3. Without a way to open UDP
// sockets, as in a world on wires in memory, they may not.
func (s *Server) servesQUIC(c *config.Config) bool {
	return s.o.ListenPacket != nil && c.Federation.Mode != "closed" && c.Federation.Transport != string(transport.ModeH2)
}

// listenPackets opens a UDP socket beside every TCP listener, at the port that
// it got.
func (s *Server) listenPackets(public []net.Listener) ([]net.PacketConn, error) {
	if !s.servesQUIC(s.conf.get()) {
		return nil, nil
	}
	var open []net.PacketConn
	for _, l := range public {
		pc, err := s.o.ListenPacket("udp", l.Addr().String())
		if err != nil {
			closeAll(open)
			return nil, fmt.Errorf("listen.addresses: cannot listen on UDP port %s for HTTP/3: %w; federation.transport: h2 does without it", portOf(l.Addr()), err)
		}
		open = append(open, pc)
	}
	return open, nil
}

func closeAll(open []net.PacketConn) {
	for _, pc := range open {
		pc.Close()
	}
}

// quicServer answers peers, and nobody else, over HTTP/3.
func (s *Server) quicServer(c *config.Config, peers http.Handler) *transport.Server {
	return transport.NewServer(quicDoors(peers), s.certs.tlsConfig(c.TLS.Min), transport.ServerOptions{
		MaxHeaderBytes: api.MaxHeaderBytes, ReadTimeout: api.ReadTimeout, WriteTimeout: api.WriteTimeout, IdleTimeout: api.IdleTimeout,
		ResetKey: s.resetKey,
	})
}

// quicDoors lets requests of peers pass; clients have no HTTP/3.
func quicDoors(peers http.Handler) http.Handler {
	return doors(http.NotFoundHandler(), peers)
}

// resetKey derives what lets peers notice at once that this server has lost
// its connections (RFC 9000, 10.3.2).
func resetKey(root []byte) (*[32]byte, error) {
	key, err := hkdf.Key(sha256.New, root, nil, "clearbox quic stateless reset v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the reset key: %w", err)
	}
	return (*[32]byte)(key), nil
}

// offerQUIC names HTTP/3 in answers to peers that came by TCP (RFC 7838, 3), at
// the port of the public address: nothing else is believed by peers.
func offerQUIC(publicURL string, peers http.Handler) http.Handler {
	port := "443"
	if u, err := url.Parse(publicURL); err == nil && u.Port() != "" {
		port = u.Port()
	}
	value := fmt.Sprintf(`h3=":%s"; ma=%d`, port, altSvcFor)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/fed/") {
			w.Header().Set("Alt-Svc", value)
		}
		peers.ServeHTTP(w, r)
	})
}

// speaksHTTP3 tells what a peer's signed document says.
func (s *Server) speaksHTTP3(peer clearbox.ServerName) bool {
	doc := s.client.Document(context.Background(), peer)
	return doc != nil && offersHTTP3(doc.Endpoints)
}

func offersHTTP3(endpoints []federation.Endpoint) bool {
	for _, e := range endpoints {
		if e.H3 {
			return true
		}
	}
	return false
}
