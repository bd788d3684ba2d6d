package transport

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/quic-go/quic-go"
)

// Counts are what happened over one protocol since the Courier was made.
type Counts struct {
	Requests    int64 // answered, whatever the status
	Failures    int64 // sent on a connection and not answered
	Connections int64 // opened
	Sent        int64 // bytes of the bodies of answered requests
	Received    int64 // bytes of the answers' bodies
}

type counters struct{ requests, failures, connections, sent, received atomic.Int64 }

func (t *Courier) of(p Proto) *counters {
	if p == H3 {
		return &t.counts[1]
	}
	return &t.counts[0]
}

// Counts gives the counters of a protocol, for metrics.
func (t *Courier) Counts(p Proto) Counts {
	c := t.of(p)
	return Counts{
		Requests: c.requests.Load(), Failures: c.failures.Load(), Connections: c.connections.Load(),
		Sent: c.sent.Load(), Received: c.received.Load(),
	}
}

// Marks tells how many times a path was marked as broken for HTTP/3.
func (t *Courier) Marks() int64 { return t.marked.Load() }

// PathState is how one endpoint is reached, for operators.
type PathState struct {
	Server      clearbox.ServerName
	Authority   string    // host:port
	Proto       Proto     // of the connection that takes requests, "" for none
	BrokenUntil time.Time // HTTP/3 is not tried before; zero when the path is not marked
	Preferred   Proto     // measurably better, "" for neither
	H2, H3      float64   // goodput of big requests in bytes a second, 0 when not measured
}

// Paths gives the state of every endpoint that is remembered, in order of
// authority.
func (t *Courier) Paths() []PathState {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []PathState
	for at, p := range t.paths {
		s := PathState{Server: p.server, Authority: net.JoinHostPort(at.host, at.port), Preferred: p.prefer, H2: p.speed[H2].mean(), H3: p.speed[H3].mean()}
		if l := p.pick(0); l != nil {
			s.Proto = l.proto
		}
		if m := p.marks[p.network]; m.standing() {
			s.BrokenUntil = m.until
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b PathState) int { return cmp.Compare(a.Authority, b.Authority) })
	return out
}

// isSilence tells whether a QUIC connection ended because nothing came any more.
func isSilence(err error) bool {
	var idle *quic.IdleTimeoutError
	return errors.As(err, &idle)
}
