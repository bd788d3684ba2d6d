package server

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/wire"
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

// Reload puts the reloadable part of c in force and tells what changed and
// what waits for a restart. On an error nothing has changed.
func (s *Server) Reload(c *config.Config) (applied, restart []string, err error) {
	old := s.conf.get()
	for _, d := range config.Diff(old, c) {
		if d.Reload {
			applied = append(applied, d.Key)
		} else {
			restart = append(restart, d.Key)
		}
	}
	merged := config.Applied(old, c)
	text, err := merged.PrivacyNotice()
	if err != nil {
		return nil, nil, fmt.Errorf("notice: %w", err)
	}
	var next certificate
	if err := next.load(merged.TLS); err != nil {
		return nil, nil, err
	}
	if s.o.Logs != nil {
		if err := s.o.Logs.Set(merged.Log.Level, merged.Log.Privacy); err != nil {
			return nil, nil, fmt.Errorf("log.level: %w", err)
		}
	}
	s.certs.current.Store(next.current.Load())
	s.auth.Reconfigure(auth.Mode(merged.Registration.Mode), merged.Registration.InviteTTL, auth.NewNotice(merged.Notice.Version, merged.Notice.Language, text))
	s.conf.set(merged)
	s.log.Info("configuration reloaded", "applied", len(applied), "restart", len(restart))
	return applied, restart, nil
}

// reloadFile is Reload for the admin socket.
func (s *Server) reloadFile() (wire.AdminReload, error) {
	c, err := s.o.Load()
	if err != nil {
		return wire.AdminReload{}, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: err.Error(), Cause: err}
	}
	applied, restart, err := s.Reload(c)
	if err != nil {
		return wire.AdminReload{}, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: err.Error(), Cause: err}
	}
	return wire.AdminReload{Applied: notNil(applied), Restart: notNil(restart)}, nil
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
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
