package transport

import (
	"time"

	"github.com/clearbox-im/clearbox"
)

// Rules of how one protocol is preferred to the other.
const (
	headStart  = 250 * time.Millisecond // of the preferred protocol in a race
	beforeTry  = 32                     // big requests over one protocol before the other is tried
	trialSize  = 8                      // big requests of a trial
	trialEvery = 6 * time.Hour
	lookEvery  = time.Second // how often a connection over HTTP/2 asks whether the peer speaks HTTP/3
	maxLinks   = 6           // connections to one peer, those that end included
	keptPaths  = 256         // paths without a connection that are remembered before any is swept
)

// place is an endpoint as it is connected to.
type place struct {
	host, port   string
	allowPrivate bool
}

// path is what is known of the way to one endpoint. Courier.mu guards it.
type path struct {
	place    place
	server   clearbox.ServerName
	links    int                // open, ending or being opened
	live     map[Proto]*link    // take new requests
	dialing  *dialling          // the race that is under way
	aside    bool               // a connection is being opened beside the requests
	offered  time.Time          // HTTP/3, by Alt-Svc, until
	network  string             // the local network of the newest connection
	marks    map[string]*mark   // by local network
	speed    map[Proto]*goodput // in this network
	prefer   Proto              // measurably better, "" for neither
	trial    Proto              // gets the next left big requests, "" when none is under way
	left     int
	nextTry  time.Time
	nextLook time.Time
}

// dialling is a race that callers wait for.
type dialling struct {
	done chan struct{} // closed when err is set
	err  error
}

func newPath(at place, server clearbox.ServerName) *path {
	return &path{place: at, server: server, live: map[Proto]*link{}, marks: map[string]*mark{}, speed: map[Proto]*goodput{H2: {}, H3: {}}}
}

// pick gives the connection for a request with a body of size bytes, nil when
// there is none.
func (p *path) pick(size int64) *link {
	for proto, l := range p.live {
		if l.dead() {
			delete(p.live, proto)
			l.draining = true // its own notice counts it out
		}
	}
	if p.trial != "" && p.left > 0 && size >= bigRequest && p.live[p.trial] != nil && p.live[p.trial.other()] != nil {
		p.left--
		return p.live[p.trial]
	}
	order := []Proto{H3, H2}
	switch {
	case p.trial != "":
		order = []Proto{p.trial.other(), p.trial}
	case p.prefer != "":
		order = []Proto{p.prefer, p.prefer.other()}
	}
	for _, proto := range order {
		if l := p.live[proto]; l != nil {
			return l
		}
	}
	return nil
}

// join makes l the connection for new requests of its protocol and gives those
// that nothing uses any more, for the caller to shut.
func (p *path) join(l *link, beside bool) (unused []*link) {
	l.path = p
	if old := p.live[l.proto]; old != nil {
		unused = append(unused, p.drain(old)...)
	}
	p.live[l.proto] = l
	if old := p.live[l.proto.other()]; old != nil && !beside {
		unused = append(unused, p.drain(old)...)
	}
	return unused
}

// drain takes l out of use.
func (p *path) drain(l *link) (unused []*link) {
	if p.live[l.proto] == l {
		delete(p.live, l.proto)
	}
	l.draining = true
	if l.idle != nil {
		l.idle.Stop()
	}
	if l.inFlight == 0 {
		return []*link{l}
	}
	return nil
}

// moveTo notes the local network of a new connection. What was measured in
// another one says nothing about it.
func (p *path) moveTo(network string) {
	if p.network == network {
		return
	}
	p.network = network
	p.speed = map[Proto]*goodput{H2: {}, H3: {}}
	p.prefer, p.trial, p.nextTry = "", "", time.Time{}
}

func (p *path) mark(network string, now time.Time) {
	m := p.marks[network]
	if m == nil {
		m = &mark{}
		p.marks[network] = m
	}
	m.set(now)
}

// measured takes one answered request and ends a trial that has seen enough.
func (p *path) measured(proto Proto, size int64, took time.Duration) (unused []*link) {
	p.speed[proto].add(size, took)
	if p.trial == "" || p.left > 0 || p.speed[p.trial].samples() < trialSize {
		return nil
	}
	p.trial = ""
	p.prefer = ""
	switch ratio := p.speed[H3].against(p.speed[H2]); {
	case ratio >= better:
		p.prefer = H3
	case ratio <= 1/better:
		p.prefer = H2
	}
	slower := H2
	if p.prefer == H2 {
		slower = H3
	}
	if l := p.live[slower]; l != nil && p.live[slower.other()] != nil {
		return p.drain(l)
	}
	return nil
}

// wantsTrial tells which protocol is to be tried beside the one in use, "" for
// none.
func (p *path) wantsTrial(now time.Time) Proto {
	if p.trial != "" || len(p.live) != 1 || now.Before(p.nextTry) && p.nextTry.Sub(now) <= trialEvery {
		return ""
	}
	for proto := range p.live {
		if p.speed[proto].samples() >= beforeTry {
			return proto.other()
		}
	}
	return ""
}

// forgettable tells whether nothing would be lost with p.
func (p *path) forgettable(now time.Time) bool {
	for _, m := range p.marks {
		if m.standing() && !m.due(now) {
			return false
		}
	}
	return p.links == 0 && p.dialing == nil && !p.aside
}
