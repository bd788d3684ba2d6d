package transport

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"encoding/json"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"golang.org/x/net/publicsuffix"
)

// Rules of discovery (federation.md, 3).
const (
	discoverBudget = 5 * time.Second
	maxRedirects   = 3
	maxWellKnown   = 64 << 10
	minCache       = 5 * time.Minute
	maxCache       = 24 * time.Hour
	minErrorCache  = time.Minute
	maxErrorCache  = time.Hour
	staleFor       = 7 * 24 * time.Hour // of a pinned peer whose web server is broken
)

// entry is what is known about where one server answers. Its fields are
// guarded by Courier.mu; the holder of the token in busy is the one that looks up.
type entry struct {
	busy    chan struct{} // capacity 1: one lookup at a time
	next    int           // which endpoint is tried next; beyond the last one when all have failed
	base    string        // found by well-known; "" = none yet
	found   time.Time
	until   time.Time // fresh until
	failed  error     // of the last lookup
	retry   time.Time // not looked up again before
	errWait time.Duration
}

func (t *Courier) entry(server clearbox.ServerName) *entry {
	e := t.entries[server]
	if e == nil {
		e = &entry{busy: make(chan struct{}, 1)}
		t.entries[server] = e
	}
	return e
}

// Endpoint gives a known endpoint or, when there is none or all have failed,
// looks the server up.
func (t *Courier) Endpoint(ctx context.Context, target federation.Target) (string, error) {
	t.mu.Lock()
	e := t.entry(target.Server)
	next, n := e.next, len(target.Endpoints)
	t.mu.Unlock()
	if n == 0 {
		return t.discover(ctx, e, target)
	}
	if target.Discover && next >= n {
		if base, err := t.discover(ctx, e, target); err == nil {
			return base, nil
		}
	}
	base := target.Endpoints[next%n]
	_, err := federation.ParseEndpoint(base)
	return base, err
}

// discover answers from the cache or looks the server up.
func (t *Courier) discover(ctx context.Context, e *entry, target federation.Target) (string, error) {
	if base, err, ok := t.cached(e, target); ok {
		return base, err
	}
	select {
	case e.busy <- struct{}{}:
		defer func() { <-e.busy }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if base, err, ok := t.cached(e, target); ok {
		return base, err // somebody else has looked meanwhile
	}
	base, fresh, err := t.lookUp(ctx, target)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.opts.Now()
	if err != nil {
		e.errWait = min(max(2*e.errWait, minErrorCache), maxErrorCache)
		e.failed, e.retry = err, now.Add(e.errWait)
		return e.stale(target, now)
	}
	e.base, e.found, e.until = base, now, now.Add(fresh)
	e.failed, e.errWait = nil, 0
	return base, nil
}

// cached answers from memory when that is allowed.
func (t *Courier) cached(e *entry, target federation.Target) (base string, err error, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.opts.Now()
	if e.base != "" && now.Before(e.until) {
		return e.base, nil, true
	}
	if e.failed != nil && now.Before(e.retry) {
		base, err := e.stale(target, now)
		return base, err, true
	}
	return "", nil, false
}

// stale gives the old base of a pinned peer in place of the last error.
func (e *entry) stale(target federation.Target, now time.Time) (string, error) {
	if target.Pinned && e.base != "" && now.Sub(e.found) < staleFor {
		return e.base, nil
	}
	return "", e.failed
}

// Forget moves on to the next endpoint; a base that was looked up more than
// five minutes ago is looked up again, and an error is forgotten. Of a server
// that is not pinned and has no endpoints everything is.
func (t *Courier) Forget(target federation.Target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !target.Pinned && len(target.Endpoints) == 0 {
		delete(t.entries, target.Server) // a stranger; there are too many to remember
		return
	}
	e := t.entry(target.Server)
	e.next++
	e.failed = nil
	if now := t.opts.Now(); now.Sub(e.found) > minCache {
		e.until = now
	}
}

// lookUp asks the domain's web server and tells how long the answer is fresh.
func (t *Courier) lookUp(ctx context.Context, target federation.Target) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverBudget)
	defer cancel()
	at := "https://" + string(target.Server) + federation.PathWellKnown
	for range maxRedirects + 1 {
		resp, err := t.get(ctx, target, at)
		if err != nil {
			return "", 0, err
		}
		if resp.StatusCode/100 != 3 {
			return readWellKnown(resp)
		}
		resp.Body.Close()
		if at, err = redirect(at, resp.Header.Get("Location"), target.Server); err != nil {
			return "", 0, err
		}
	}
	return "", 0, clearbox.Errorf(clearbox.CodePeerUnreachable, "discovery was redirected more than %d times", maxRedirects)
}

func (t *Courier) get(ctx context.Context, target federation.Target, at string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the redirect is not usable", err)
	}
	return t.through(target.AllowPrivate).RoundTrip(req)
}

// redirect accepts another https address below the same registrable domain.
func redirect(from, location string, server clearbox.ServerName) (string, error) {
	bad := clearbox.Errorf(clearbox.CodeForbidden, "discovery was redirected to a place it may not lead to")
	base, err := url.Parse(from)
	if err != nil || location == "" {
		return "", bad
	}
	to, err := base.Parse(location)
	if err != nil || to.Scheme != "https" || to.User != nil {
		return "", bad
	}
	home, err1 := publicsuffix.EffectiveTLDPlusOne(string(server))
	away, err2 := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(to.Hostname()))
	if err1 != nil || err2 != nil || home != away {
		return "", bad
	}
	return to.String(), nil
}

func readWellKnown(resp *http.Response) (string, time.Duration, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, clearbox.Errorf(clearbox.CodePeerUnreachable, "discovery was answered with status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown+1))
	if err != nil {
		return "", 0, err
	}
	if len(body) > maxWellKnown {
		return "", 0, clearbox.Errorf(clearbox.CodeTooLarge, "the discovery document has at most %d bytes", maxWellKnown)
	}
	base, err := ParseWellKnown(body)
	return base, freshFor(resp.Header.Get("Cache-Control")), err
}

// ParseWellKnown reads a discovery document and returns the base URL.
func ParseWellKnown(body []byte) (string, error) {
	var w federation.WellKnown
	if err := json.Unmarshal(body, &w); err != nil {
		return "", clearbox.Wrap(clearbox.CodeBadRequest, "the discovery document is not readable", err)
	}
	if _, err := federation.ParseEndpoint(w.Base); err != nil {
		return "", err
	}
	return w.Base, nil
}

// freshFor reads max-age (RFC 9111, 5.2.2.1), between 5 minutes and 24 hours.
func freshFor(cacheControl string) time.Duration {
	for _, d := range strings.Split(cacheControl, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if s, err := strconv.ParseUint(value, 10, 31); err == nil {
			return min(max(time.Duration(s)*time.Second, minCache), maxCache)
		}
	}
	return minCache
}
