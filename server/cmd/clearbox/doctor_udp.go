package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/config"
)

// quicBuffer is the receive buffer that the QUIC library asks for, in bytes.
const quicBuffer = 7 << 20

// udpBuffer is how much a UDP socket may buffer at most, where the system says
// so.
func udpBuffer() (int64, bool) {
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// udp looks at what HTTP/3 with peers needs. Nothing of it is needed for
// HTTP/2, so nothing of it is worse than a warning.
func (e *examination) udp() finding {
	const name = "udp"
	if e.loaded == nil {
		return unknown(name, "the configuration is broken")
	}
	c := e.loaded.Config
	if c.Federation.Mode == "closed" || c.Federation.Transport == string(transport.ModeH2) {
		return ok(name, "HTTP/3 with peers is off in the configuration")
	}
	if e.down == nil {
		for _, a := range c.Listen.Addresses {
			if err := e.x.knockUDP(c, a); err != nil {
				return warn(name, "let the firewall pass UDP at this port as well, or set federation.transport to h2",
					"peers get no answer by HTTP/3 at %s and use HTTP/2 after a moment: %v", a, plain(err))
			}
		}
	}
	if e.x.UDPBuffer != nil {
		if n, known := e.x.UDPBuffer(); known && n < quicBuffer {
			return warn(name, "sysctl -w net.core.rmem_max="+strconv.Itoa(quicBuffer)+", and the same line in /etc/sysctl.d",
				"the system lets a UDP socket buffer %s only; under load HTTP/3 with peers loses packets and slows down", config.Size(n))
		}
	}
	if e.down != nil {
		return ok(name, "the server is not running; the system's buffer is large enough")
	}
	return ok(name, "peers get an answer by HTTP/3")
}

// knockUDP makes a QUIC handshake with the running server at one of its
// listening addresses, as a peer would. Port 0 was chosen at the start and is
// not known.
func (x *call) knockUDP(c *config.Config, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return nil // checked by config
	}
	at, err := netip.ParseAddr(host)
	if err != nil || at.IsUnspecified() {
		at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
	if err != nil {
		return nil // the check tls tells
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	tr := transport.New(transport.Options{
		RootCAs: roots, Mode: transport.ModeH3, Now: x.Now,
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{at}, nil },
	})
	defer tr.Close()
	base := "https://" + hostOf(c.PublicURL())
	if port != "443" {
		base = "https://" + net.JoinHostPort(hostOf(c.PublicURL()), port)
	}
	ctx, cancel := context.WithTimeout(x.ctx, 2*time.Second)
	defer cancel()
	_, err = tr.HandshakeQUIC(ctx, base, true)
	return err
}
