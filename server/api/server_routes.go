package api

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
)

//go:embed openapi.yaml
var openAPIFile []byte

// OpenAPI is the description of the client API (OpenAPI 3.1, YAML) that the
// server publishes. The caller must not change it.
func OpenAPI() []byte { return openAPIFile }

func openAPI(c *call) error {
	sum := sha256.Sum256(openAPIFile)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	h := c.w.Header()
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("ETag", tag)
	if c.r.Header.Get("If-None-Match") == tag {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.answerWithin(WriteTimeout)
	h.Set("Content-Type", "application/yaml") // RFC 9512
	h.Set("Content-Length", strconv.Itoa(len(openAPIFile)))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(openAPIFile)
	return nil
}

func live(c *call) error { return c.reply(http.StatusOK, wire.Live{Live: true}) }

// probeTimeout bounds each dependency's probe.
const probeTimeout = 2 * time.Second

func ready(c *call) error {
	out := c.api.Ready(c.ctx())
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
		c.w.Header().Set("Retry-After", strconv.Itoa(retryDefault))
	}
	return c.reply(status, out)
}

// Ready probes every dependency. While draining it is false, whatever they say.
func (a *API) Ready(ctx context.Context) wire.Ready {
	out := wire.Ready{Ready: true, Checks: make([]wire.ReadyCheck, 0, len(a.o.Checks))}
	for _, k := range a.o.Checks {
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		err := k.Probe(probe)
		cancel()
		check := wire.ReadyCheck{Name: k.Name, OK: err == nil}
		if err != nil {
			check.Code = codeOf(err)
			out.Ready = false
		}
		if k.Until != nil {
			check.Until = k.Until()
		}
		out.Checks = append(out.Checks, check)
	}
	if a.draining.Load() {
		out.Ready, out.Draining = false, true
	}
	return out
}

func version(c *call) error { return c.reply(http.StatusOK, c.api.o.Version) }

func wellKnown(c *call) error {
	c.w.Header().Set("Cache-Control", "public, max-age=300")
	a := c.api
	return c.reply(http.StatusOK, wire.WellKnown{
		Server: a.server, Version: a.o.Version.Version, Registration: string(a.parts.Auth.Mode()),
		Subprotocols: []string{wire.SubprotocolCBOR, wire.SubprotocolJSON}, MaxFrame: wire.MaxFrame,
		Features: []string{"messages", "sync", "history", "presence"}, Notice: a.parts.Auth.Notice().Version,
	})
}

func jwks(c *call) error {
	set, err := c.api.parts.Auth.JWKS(c.ctx())
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Content-Type", "application/jwk-set+json") // RFC 7517, 8.5.2
	h.Set("Content-Length", strconv.Itoa(len(set)))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(set)
	return nil
}

func notice(c *call) error {
	n := c.api.parts.Auth.Notice()
	out := wire.PrivacyNotice{Version: n.Version, Hash: n.Hash, Language: n.Language, Text: n.Text}
	for _, p := range auth.Purposes() {
		out.Purposes = append(out.Purposes, wire.Purpose{Name: string(p), Text: p.Text(n.Language)})
	}
	c.w.Header().Set("Cache-Control", "public, max-age=300")
	return c.reply(http.StatusOK, out)
}

func notYet(*call) error {
	return clearbox.Errorf(clearbox.CodeNotImplemented, "this comes with a later release")
}
