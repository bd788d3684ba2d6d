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
	DefaultMediaPerSecond     = 20 << 20
	maxMediaConcurrent        = 16 // pieces of attachments for one peer at one time, beside maxConcurrent
	ephemeralPerSecond        = 20 // requests of one peer
	handshakesPerSecond       = 2  // of all strangers together
)

// burstSeconds is how many seconds of a quota may come at once.
const burstSeconds = 5

// quotas are the token buckets of the peers.
type quotas struct {
	envelopes, bytes float64 // of a peer that has none of its own
	media            float64 // of every peer

	mu    sync.Mutex // guards peers and the running counts in them
	peers map[clearbox.ServerName]*quota
}

type quota struct {
	envelopes, bytes, questions, claims, ephemeral *rate.Limiter
	media                                          *rate.Limiter // bytes that go out
	running, reading                               int
}

func newQuotas(envelopes, bytes, media int) *quotas {
	return &quotas{
		envelopes: float64(orDefault(envelopes, DefaultEnvelopesPerSecond)), bytes: float64(orDefault(bytes, DefaultBytesPerSecond)),
		media: float64(orDefault(media, DefaultMediaPerSecond)), peers: map[clearbox.ServerName]*quota{},
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

// of gives the peer's buckets, as large as its quota is now.
func (q *quotas) of(peer *Peer, now time.Time) *quota {
	envelopes, bytes := q.envelopes, q.bytes
	if peer.Envelopes > 0 {
		envelopes = float64(peer.Envelopes)
	}
	if peer.Bytes > 0 {
		bytes = float64(peer.Bytes)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.peers[peer.Server]
	if p == nil {
		p = &quota{
			envelopes: bucket(envelopes), bytes: bucket(bytes), media: bucket(q.media),
			questions: rate.NewLimiter(questionsPerSecond, 5*questionsPerSecond),
			claims:    rate.NewLimiter(claimsPerSecond, 5*claimsPerSecond),
			ephemeral: rate.NewLimiter(ephemeralPerSecond, 5*ephemeralPerSecond),
		}
		q.peers[peer.Server] = p
	}
	resize(p.envelopes, envelopes, now)
	resize(p.bytes, bytes, now)
	return p
}

// known gives the buckets that of made.
func (q *quotas) known(peer clearbox.ServerName) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.peers[peer]
}

func bucket(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), burstOf(perSecond))
}

func burstOf(perSecond float64) int { return int(min(max(burstSeconds*perSecond, 1), math.MaxInt32)) }

func resize(l *rate.Limiter, perSecond float64, now time.Time) {
	if float64(l.Limit()) != perSecond {
		l.SetLimitAt(now, rate.Limit(perSecond))
		l.SetBurstAt(now, burstOf(perSecond))
	}
}

// enter takes one of the peer's places; leave gives it back. Attachments have
// places of their own, so that messages do not wait for them.
func (q *quotas) enter(p *quota, media bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, most := p.places(media)
	if *n >= most {
		return false
	}
	*n++
	return true
}

func (q *quotas) leave(p *quota, media bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, _ := p.places(media)
	*n--
}

func (p *quota) places(media bool) (n *int, most int) {
	if media {
		return &p.reading, maxMediaConcurrent
	}
	return &p.running, maxConcurrent
}

// take asks a bucket for n tokens and returns 0, or how long to wait before
// asking again. More than the bucket holds is given when it is full, and the rest
// is owed: a large transaction passes a small quota, and then nothing does for
// as long as it was worth.
func take(l *rate.Limiter, n int, now time.Time) time.Duration {
	first := min(n, l.Burst())
	r := l.ReserveN(now, first)
	if !r.OK() {
		return time.Second
	}
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return wait
	}
	for n -= first; n > 0; n -= first {
		first = min(n, l.Burst())
		l.ReserveN(now, first)
	}
	return 0
}
