package federation

import (
	"math"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"golang.org/x/time/rate"
)

// Shipped quotas for listed peers (federation.md, 9).
const (
	DefaultEnvelopesPerSecond = 20_000
	DefaultBytesPerSecond     = 40 << 20
	maxConcurrent             = 16 // requests of one peer past the signature at one time
	questionsPerSecond        = 50 // directory questions of one peer
	claimsPerSecond           = 10 // of one peer (federation.md, 11)
	ephemeralPerSecond        = 20 // requests of one peer
	handshakesPerSecond       = 2  // of all strangers together
)

// quotas are the token buckets of the peers. One second of tokens is the
// burst.
type quotas struct {
	envelopes, bytes float64

	mu    sync.Mutex // guards peers and the running counts in them
	peers map[clearbox.ServerName]*quota
}

type quota struct {
	envelopes, bytes, questions, claims, ephemeral *rate.Limiter
	running                                        int
}

func newQuotas(envelopes, bytes int) *quotas {
	envelopes, bytes = orDefault(envelopes, DefaultEnvelopesPerSecond), orDefault(bytes, DefaultBytesPerSecond)
	// A burst below one transaction could never let it pass.
	return &quotas{
		envelopes: float64(max(envelopes, MaxItems*clearbox.MaxDevices)),
		bytes:     float64(max(bytes, MaxTransaction)),
		peers:     map[clearbox.ServerName]*quota{},
	}
}

// orDefault reads a quota of the options: 0 is the default, negative is none.
func orDefault(n, otherwise int) int {
	switch {
	case n == 0:
		return otherwise
	case n < 0:
		return math.MaxInt32
	}
	return n
}

func (q *quotas) of(peer clearbox.ServerName) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.peers[peer]
	if p == nil {
		p = &quota{
			envelopes: rate.NewLimiter(rate.Limit(q.envelopes), int(q.envelopes)),
			bytes:     rate.NewLimiter(rate.Limit(q.bytes), int(q.bytes)),
			questions: rate.NewLimiter(questionsPerSecond, 5*questionsPerSecond),
			claims:    rate.NewLimiter(claimsPerSecond, 5*claimsPerSecond),
			ephemeral: rate.NewLimiter(ephemeralPerSecond, 5*ephemeralPerSecond),
		}
		q.peers[peer] = p
	}
	return p
}

// enter takes one of the peer's places; leave gives it back.
func (q *quotas) enter(p *quota) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.running >= maxConcurrent {
		return false
	}
	p.running++
	return true
}

func (q *quotas) leave(p *quota) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.running--
}

// take asks a bucket for n tokens and returns 0, or how long to wait before
// asking again.
func take(l *rate.Limiter, n int, now time.Time) time.Duration {
	r := l.ReserveN(now, n)
	if !r.OK() {
		return time.Second
	}
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}
