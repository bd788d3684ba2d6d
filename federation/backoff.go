package federation

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Waiting for a peer that does not answer (federation.md, 8).
const (
	backoffFloor  = 5 * time.Second
	backoffFirst  = 2500 * time.Millisecond // as if the wait before the first one
	backoffCap    = 15 * time.Minute        // during the first day
	backoffLong   = 24 * time.Hour
	backoffCapDay = time.Hour // afterwards
	dormantAfter  = 14 * 24 * time.Hour
	dormantProbe  = 6 * time.Hour
	parkedProbe   = time.Hour       // a queue the peer refuses
	unknownKeyGap = 2 * time.Second // gives the peer time to fetch our document
	maxQuick      = 5               // quick retries in a row before backoff grows after all
)

// backoff is decorrelated jitter: next = min(cap, random(5 s, 3 x previous)),
// where previous is the longest wait so far: a short draw late in an outage
// does not begin the climb again, which keeps a day below 200 attempts.
type backoff struct {
	random   io.Reader
	prev     time.Duration
	since    time.Time // first failure in a row; zero after a success
	failures int
	quick    int // quick retries in a row
}

func (b *backoff) reset() { b.prev, b.since, b.failures, b.quick = 0, time.Time{}, 0, 0 }

// contact forgets how long the waits had become, not how long the peer is away.
func (b *backoff) contact() { b.prev, b.quick = 0, 0 }

// next is the wait after a failure at now. While frozen is set the waits do
// not grow beyond half a minute: the trouble is on our side.
func (b *backoff) next(now time.Time, frozen bool) time.Duration {
	b.failures++
	if b.since.IsZero() || now.Before(b.since) {
		b.since = now
	}
	limit := backoffCap
	switch away := now.Sub(b.since); {
	case away >= dormantAfter:
		return dormantProbe
	case away >= backoffLong:
		limit = backoffCapDay
	}
	if frozen {
		limit = 30 * time.Second
	}
	prev := b.prev
	if prev == 0 {
		prev = backoffFirst
	}
	wait := min(limit, between(b.random, backoffFloor, 3*prev))
	if !frozen {
		b.prev = max(b.prev, wait)
	}
	return wait
}

// between draws a duration from [low, high). Without randomness it gives high.
func between(random io.Reader, low, high time.Duration) time.Duration {
	var raw [8]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil || high <= low {
		return high
	}
	// The bias of the remainder is below one part in a million for a day's range.
	return low + time.Duration(binary.LittleEndian.Uint64(raw[:])>>1)%(high-low)
}

// reaction is what the sender does about a failed attempt.
type reaction int

const (
	reactGrow   reaction = iota // wait longer each time
	reactWait                   // wait as long as the peer said
	reactQuick                  // try again in a moment, a few times
	reactPark                   // stop until somebody does something
	reactRewind                 // the peer expects another position
	reactFenced                 // another lease exists
	reactSplit                  // the batch as a whole is too much
)

// outcomeOf tells what is known of a batch whose attempt ended with err.
func outcomeOf(err error) Outcome {
	what, refused := classify(err)
	switch {
	case what == reactPark:
		return OutcomeRefused
	case refused != nil && refused.Signed && refused.Status >= 400 && refused.Status < 500 && refused.Code != clearbox.CodeReplay:
		return OutcomeNotTaken // a replay's first copy may have been taken
	}
	return OutcomeUnknown
}

// classify maps an error of Client.Call (federation.md, 8). What may stop or
// reshape a queue must be signed by the peer; a proxy on the way may only slow
// it down.
func classify(err error) (reaction, *RefusedError) {
	var r *RefusedError
	if !errors.As(err, &r) {
		switch clearbox.CodeOf(err) {
		case clearbox.CodePeerBlocked, clearbox.CodeUnknownPeer, clearbox.CodeUnsupportedVersion:
			return reactPark, nil // by our own table
		case clearbox.CodeTooLarge:
			var p *ProfileError
			if !errors.As(err, &p) {
				return reactSplit, nil // our own encoder
			}
		}
		return reactGrow, nil
	}
	if r.Code == clearbox.CodeUnknownKey || r.Code == clearbox.CodeReplay {
		return reactQuick, r
	}
	if r.RetryAfter > 0 && (r.Status == 429 || r.Status == 503) {
		return reactWait, r
	}
	if r.RetryAfter > 0 && r.Code == clearbox.CodeUnknownPeer {
		return reactWait, r // it is about to know us
	}
	if !r.Signed {
		return reactGrow, r
	}
	switch {
	case r.Code == clearbox.CodeGap:
		return reactRewind, r
	case r.Code == clearbox.CodeFenced:
		return reactFenced, r
	case r.Status == 403:
		return reactPark, r
	case r.Status == 413 || r.Status == 400:
		return reactSplit, r
	}
	return reactGrow, r
}
