package transport

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// Do sends the request to the host in its URL and follows no redirects. It is
// over when the request's own context ends. The body is sent at most once: only
// a request of whose body nothing was read is repeated, once, on another
// connection. The caller closes the answer's body.
func (t *Courier) Do(_ context.Context, target federation.Target, req *http.Request) (*http.Response, error) {
	body := newOnce(req.Body)
	resp, err := t.do(target, req, body)
	if err != nil {
		body.close()
	}
	return resp, err
}

func (t *Courier) do(target federation.Target, req *http.Request, body *onceBody) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, clearbox.Errorf(clearbox.CodeForbidden, "servers speak https only")
	}
	at := placeOf(req.URL, target.AllowPrivate)
	for again := false; ; again = true {
		l, err := t.acquire(req.Context(), at, target.Server, req.ContentLength)
		if err != nil {
			return nil, err
		}
		sent := body.forOne(req)
		from := time.Now()
		resp, err := l.rt(sent)
		if err == nil {
			body.commit(sent)
			t.answered(l, req.ContentLength, time.Since(from), resp.Header)
			resp.Request = req
			resp.Body = t.counted(resp.Body, l)
			return resp, nil
		}
		safe := body.takeBack(sent) || sent.Body == nil && (req.Method == http.MethodGet || req.Method == http.MethodHead)
		safe = safe && req.Context().Err() == nil
		t.failed(l, safe || l.dead(), isSilence(err)) // a connection that took nothing is at its end
		if again || !safe {
			return nil, err
		}
	}
}

func placeOf(u *url.URL, allowPrivate bool) place {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return place{host: u.Hostname(), port: port, allowPrivate: allowPrivate}
}

// acquire gives a connection for one request, which must end with answered and
// the closing of its body, or with failed. Without a live connection it waits
// for the race, which is shared with everybody who waits and outlives them.
func (t *Courier) acquire(ctx context.Context, at place, server clearbox.ServerName, size int64) (*link, error) {
	for range 3 { // a connection that was won may end before it is used
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			return nil, errClosed()
		}
		p := t.path(at, server)
		if l := p.pick(size); l != nil {
			l.inFlight++
			if l.idle != nil {
				l.idle.Stop()
			}
			t.beside(p, l)
			t.mu.Unlock()
			return l, nil
		}
		if p.dialing == nil {
			p.dialing = &dialling{done: make(chan struct{})}
			d := p.dialing
			t.wg.Go(func() { t.connect(p, d) })
		}
		d := p.dialing
		t.mu.Unlock()
		select {
		case <-d.done:
			if d.err != nil {
				return nil, d.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, clearbox.Errorf(clearbox.CodePeerUnreachable, "connections to the peer end as soon as they are opened")
}

func errClosed() error {
	return clearbox.Errorf(clearbox.CodeUnavailable, "the transport is closed")
}

// path gives what is known of an endpoint; t.mu is held.
func (t *Courier) path(at place, server clearbox.ServerName) *path {
	p := t.paths[at]
	if p != nil {
		return p
	}
	if len(t.paths) >= t.sweepAt {
		now := t.opts.Now()
		for k, p := range t.paths {
			if p.forgettable(now) {
				delete(t.paths, k)
			}
		}
		t.sweepAt = max(keptPaths, 2*len(t.paths))
	}
	p = newPath(at, server)
	t.paths[at] = p
	return p
}

// speaks tells whether a path may be tried over HTTP/3; t.mu is not held.
func (t *Courier) speaks(server clearbox.ServerName, offered time.Time) bool {
	switch {
	case t.opts.ListenPacket == nil || t.opts.Mode == ModeH2:
		return false
	case t.opts.Mode == ModeH3:
		return true
	case t.opts.Now().Before(offered):
		return true
	}
	return t.opts.HTTP3 != nil && t.opts.HTTP3(server)
}

// connect finds the peer, races the protocols and tells the waiting.
func (t *Courier) connect(p *path, d *dialling) {
	ctx, cancel := context.WithTimeout(t.ctx, connectBudget)
	defer cancel()
	l, err := t.contest(ctx, p)
	t.mu.Lock()
	var unused []*link
	switch {
	case err != nil:
		d.err = err
	case t.closed:
		d.err = errClosed()
		unused = []*link{l}
	default:
		unused = p.join(l, false)
		t.rest(l)
	}
	p.dialing = nil
	t.mu.Unlock()
	close(d.done)
	shut(unused)
}

// contest opens one connection: HTTP/3 with a head start where it is possible
// and not marked as broken, else HTTP/2.
func (t *Courier) contest(ctx context.Context, p *path) (*link, error) {
	t.mu.Lock()
	offered := p.offered
	t.mu.Unlock()
	quic := t.speaks(p.server, offered)
	dest, err := t.find(ctx, p.place, quic)
	if err != nil {
		return nil, err
	}
	network := ""
	if quic {
		network = t.network(dest)
	}
	t.mu.Lock()
	if quic {
		p.moveTo(network)
	}
	order := t.order(p, quic)
	t.mu.Unlock()
	var ways []attempt[*link]
	for _, proto := range order {
		ways = append(ways, attempt[*link]{headStart, func(ctx context.Context) (*link, error) { return t.open(ctx, p, proto, dest) }})
	}
	out := race(ctx, &t.wg, ways, func(l *link) { l.shut() })
	if out.winner < 0 {
		return nil, out.err()
	}
	if out.value.proto == H2 && len(order) > 1 && order[0] == H3 {
		// HTTP/3 had its head start and was not there: it costs nobody else any time.
		t.mu.Lock()
		t.mark(p, network)
		t.mu.Unlock()
	}
	return out.value, nil
}

// order is how the protocols start; t.mu is held.
func (t *Courier) order(p *path, quic bool) []Proto {
	switch {
	case t.opts.Mode == ModeH3:
		return []Proto{H3}
	case !quic || p.marks[p.network].standing():
		return []Proto{H2}
	case p.prefer == H2:
		return []Proto{H2, H3}
	}
	return []Proto{H3, H2}
}

// open makes one connection, within the number that one peer may cost.
func (t *Courier) open(ctx context.Context, p *path, proto Proto, dest *destination) (*link, error) {
	t.mu.Lock()
	if p.links >= maxLinks {
		t.mu.Unlock()
		return nil, clearbox.Errorf(clearbox.CodePeerUnreachable, "the peer keeps too many connections from ending")
	}
	p.links++
	t.mu.Unlock()
	dial := t.dialH2
	if proto == H3 {
		dial = t.dialH3
	}
	l, err := dial(ctx, dest)
	if err != nil {
		t.mu.Lock()
		p.links--
		t.mu.Unlock()
		return nil, err
	}
	t.mu.Lock()
	l.path = p
	t.mu.Unlock()
	t.of(proto).connections.Add(1)
	if l.dead() {
		t.ended(l) // the notice may have come before the path was known
	}
	return l, nil
}

// beside starts what is due next to the requests: HTTP/3 towards a peer that
// has begun to speak it or whose mark has run out, or a trial of the other
// protocol. No request waits for it. t.mu is held; l is in use.
func (t *Courier) beside(p *path, l *link) {
	if t.opts.Mode != ModeAuto || t.opts.ListenPacket == nil || p.aside || p.dialing != nil {
		return
	}
	now := t.opts.Now()
	m := p.marks[p.network]
	if try := p.wantsTrial(now); try != "" && !m.standing() {
		p.aside, p.nextTry = true, now.Add(trialEvery)
		t.wg.Go(func() { t.openBeside(p, try, true) })
		return
	}
	looked := now.Before(p.nextLook) && p.nextLook.Sub(now) <= lookEvery
	if l.proto == H3 || p.trial != "" || p.prefer == H2 || looked || m.standing() && !m.due(now) {
		return
	}
	p.aside, p.nextLook = true, now.Add(lookEvery)
	t.wg.Go(func() { t.openBeside(p, H3, false) })
}

// openBeside opens a connection without a request waiting for it. In a trial
// it stands beside the one in use, else it takes its place.
func (t *Courier) openBeside(p *path, proto Proto, trial bool) {
	ctx, cancel := context.WithTimeout(t.ctx, connectBudget)
	defer cancel()
	l, network, err := t.second(ctx, p, proto)
	t.mu.Lock()
	p.aside = false
	now := t.opts.Now()
	var unused []*link
	switch {
	case t.closed && l != nil:
		unused = []*link{l}
	case err != nil && proto == H3 && ctx.Err() == nil:
		t.mark(p, network)
	case l == nil:
	case trial:
		*p.speed[proto] = goodput{}
		p.trial, p.left = proto, trialSize
		unused = p.join(l, true)
		t.rest(l)
	default:
		if m := p.marks[network]; m.standing() {
			m.clear(now)
		}
		unused = p.join(l, false)
		t.rest(l)
	}
	t.mu.Unlock()
	shut(unused)
}

// second opens a connection beside another one. It gives none and no error
// when the peer does not speak the protocol or must be left alone for now.
func (t *Courier) second(ctx context.Context, p *path, proto Proto) (*link, string, error) {
	t.mu.Lock()
	offered := p.offered
	t.mu.Unlock()
	if proto == H3 && !t.speaks(p.server, offered) {
		return nil, "", nil
	}
	dest, err := t.find(ctx, p.place, true)
	if err != nil {
		return nil, "", nil // nothing about the protocol
	}
	network := t.network(dest)
	t.mu.Lock()
	p.moveTo(network)
	m := p.marks[network]
	alone := proto == H3 && m.standing() && !m.due(t.opts.Now())
	t.mu.Unlock()
	if alone {
		return nil, network, nil
	}
	l, err := t.open(ctx, p, proto, dest)
	return l, network, err
}

// network names the local network by which a host is reached.
func (t *Courier) network(d *destination) string {
	if len(d.addrs) == 0 {
		return ""
	}
	return t.opts.Network(d.addrs[0])
}

// mark notes that HTTP/3 does not work on a path; t.mu is held.
func (t *Courier) mark(p *path, network string) {
	p.mark(network, t.opts.Now())
	t.marked.Add(1)
}

// rest closes l when nothing has used it for idleFor; t.mu is held.
func (t *Courier) rest(l *link) {
	if l.idle != nil {
		l.idle.Reset(idleFor)
		return
	}
	l.idle = time.AfterFunc(idleFor, func() {
		t.mu.Lock()
		var unused []*link
		if l.inFlight == 0 && !l.draining {
			unused = l.path.drain(l)
		}
		t.mu.Unlock()
		shut(unused)
	})
}

// answered counts an answer whose body is still to be read.
func (t *Courier) answered(l *link, size int64, took time.Duration, h http.Header) {
	c := t.of(l.proto)
	c.requests.Add(1)
	c.sent.Add(max(size, 0))
	alt := h.Get("Alt-Svc")
	t.mu.Lock()
	p := l.path
	if alt != "" {
		p.offered = time.Time{}
		if fresh := ParseAltSvc(alt, p.place.port); fresh > 0 {
			p.offered = t.opts.Now().Add(fresh)
		}
	}
	unused := p.measured(l.proto, size, took)
	t.mu.Unlock()
	shut(unused)
}

// failed ends one use of l without an answer; a useless one takes no more
// requests, and one that failed of silence has its path marked: the next
// request does not hope again.
func (t *Courier) failed(l *link, useless, silent bool) {
	t.of(l.proto).failures.Add(1)
	t.mu.Lock()
	p := l.path
	if silent && t.opts.Mode == ModeAuto && !p.marks[p.network].standing() {
		t.mark(p, p.network)
	}
	if p.trial == l.proto {
		p.trial, useless = "", true // it is not better
	}
	if useless && !l.draining {
		p.drain(l) // is in use: release closes it
	}
	t.mu.Unlock()
	t.release(l)
}

// release ends one use of l.
func (t *Courier) release(l *link) {
	t.mu.Lock()
	l.inFlight--
	over := l.inFlight == 0 && (l.draining || t.closed)
	if l.inFlight == 0 && !over {
		t.rest(l)
	}
	t.mu.Unlock()
	if over {
		l.shut()
	}
}

// ended counts a connection out that is closed.
func (t *Courier) ended(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := l.path
	if p == nil || l.gone {
		return
	}
	l.gone = true
	p.links--
	if p.trial == l.proto {
		p.trial = ""
	}
	p.drain(l)
}

func shut(links []*link) {
	for _, l := range links {
		l.shut()
	}
}
