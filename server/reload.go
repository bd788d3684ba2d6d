package server

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"

	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/config"
)

// running is the configuration in force.
type running struct {
	mu sync.RWMutex // guards c, which is replaced and never changed
	c  *config.Config
}

func (r *running) get() *config.Config {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.c
}

func (r *running) set(c *config.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.c = c
}

// Reload puts the reloadable part of c in force; everything else in c must be
// as it is (config.Applied). After an error nothing has changed.
func (s *Server) Reload(c *config.Config) error {
	text, err := c.PrivacyNotice()
	if err != nil {
		return fmt.Errorf("notice: %w", err)
	}
	var next certificate
	if err := next.load(c.TLS); err != nil {
		return err
	}
	s.certs.current.Store(next.current.Load())
	s.auth.Reconfigure(auth.Mode(c.Registration.Mode), c.Registration.InviteTTL, auth.NewNotice(c.Notice.Version, c.Notice.Language, text))
	s.conf.set(c)
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no IP address or prefix", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func hexPin(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	pin, err := hex.DecodeString(s)
	if err != nil || len(pin) != 32 {
		return nil, fmt.Errorf("pin: 64 hexadecimal digits are expected")
	}
	return pin, nil
}
