// Package throttle is responsible for limits per key: token buckets by opaque
// keys in bounded memory. It knows neither accounts nor addresses: callers hand
// in hashes or ids, and nothing here is stored or logged.
package throttle

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/clearbox-im/clearbox"
)

// Error refuses something for now. CodeOf gives its code.
type Error struct {
	Code  clearbox.Code // rate_limited, or unavailable when the server is the busy one
	After time.Duration // when to try again
	Text  string        // for the person
}

// Error is the text for the person.
func (e *Error) Error() string { return e.Text }

// Unwrap gives a clearbox.Error, so that CodeOf knows the code.
func (e *Error) Unwrap() error { return &clearbox.Error{Code: e.Code, Text: e.Text} }

// RetryAfter is how long the caller of a refused operation should wait. It is
// false when err carries no such time.
func RetryAfter(err error) (time.Duration, bool) {
	var e *Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.After, true
}

// Limited is a rate_limited error.
func Limited(after time.Duration) error {
	return &Error{Code: clearbox.CodeRateLimited, After: after, Text: "too many requests; try again later"}
}

// Buckets is a set of token buckets of one shape, one per key. Memory is
// bounded: when full, the bucket that was used longest ago is forgotten. Safe
// for concurrent use.
type Buckets struct {
	every time.Duration
	burst int
	max   int

	mu   sync.Mutex // guards all
	all  map[string]*bucket
	head *bucket // most recently used
	tail *bucket // least recently used
}

type bucket struct {
	key        string
	limit      *rate.Limiter
	prev, next *bucket
}

// New makes buckets of burst tokens that gain one token in each time every. At
// most max keys (0 = 10,000) are remembered.
func New(burst int, every time.Duration, max int) *Buckets {
	if max <= 0 {
		max = 10_000
	}
	return &Buckets{every: every, burst: burst, max: max, all: make(map[string]*bucket)}
}

// Allow takes a token for key. Without one it tells how long the next takes and
// takes nothing.
func (b *Buckets) Allow(now time.Time, key string) (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.limiter(key)
	if l.AllowN(now, 1) {
		return 0, true
	}
	return b.wait(now, l), false
}

// Take is Allow as an error: nil or Limited.
func (b *Buckets) Take(now time.Time, key string) error {
	if after, ok := b.Allow(now, key); !ok {
		return Limited(after)
	}
	return nil
}

// Check tells whether key has a token left, and takes none.
func (b *Buckets) Check(now time.Time, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.all[key]
	if !ok || k.limit.TokensAt(now) >= 1 {
		return nil
	}
	return Limited(b.wait(now, k.limit))
}

// Len is how many keys are remembered.
func (b *Buckets) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.all)
}

func (b *Buckets) wait(now time.Time, l *rate.Limiter) time.Duration {
	missing := 1 - l.TokensAt(now)
	return max(time.Duration(missing*float64(b.every)), time.Second)
}

// limiter finds or makes the bucket of key and moves it to the front.
func (b *Buckets) limiter(key string) *rate.Limiter {
	k, ok := b.all[key]
	if ok {
		b.unlink(k)
	} else {
		if len(b.all) >= b.max {
			oldest := b.tail
			b.unlink(oldest)
			delete(b.all, oldest.key)
		}
		k = &bucket{key: key, limit: rate.NewLimiter(rate.Every(b.every), b.burst)}
		b.all[key] = k
	}
	k.next = b.head
	if b.head != nil {
		b.head.prev = k
	}
	b.head = k
	if b.tail == nil {
		b.tail = k
	}
	return k.limit
}

func (b *Buckets) unlink(k *bucket) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		b.head = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		b.tail = k.prev
	}
	k.prev, k.next = nil, nil
}
