package auth

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

// Bounds of tickets. They live in memory only: a restart ends them, and clients
// fetch a new one with each connection anyway.
const (
	maxTickets           = 20_000
	maxTicketsPerSession = 8
)

// ticketBox keeps tickets, used ones as well until they would have expired, so
// that a replay is told apart from nonsense.
type ticketBox struct {
	ttl time.Duration

	mu      sync.Mutex // guards all below
	tickets map[[32]byte]*ticket
	order   [][32]byte // by expiry, which is the order of issue
	open    map[string]int
}

type ticket struct {
	who     Principal
	expires time.Time
	used    bool
}

func newTicketBox(ttl time.Duration) *ticketBox {
	return &ticketBox{ttl: ttl, tickets: make(map[[32]byte]*ticket), open: make(map[string]int)}
}

// put keeps a ticket for who. The limits count what neither was used nor expired.
func (b *ticketBox) put(now time.Time, secret string, who Principal) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now)
	if b.open[who.Session] >= maxTicketsPerSession || len(b.tickets) >= maxTickets {
		return time.Time{}, throttle.Limited(b.ttl)
	}
	id := sha256.Sum256([]byte(secret))
	t := &ticket{who: who, expires: now.Add(b.ttl)}
	b.tickets[id] = t
	b.order = append(b.order, id)
	b.open[who.Session]++
	return t.expires, nil
}

// The ways a ticket is refused. errors.Is finds them.
var (
	ErrTicketUnknown = errors.New("auth: unknown ticket")
	ErrTicketExpired = errors.New("auth: ticket expired")
	ErrTicketUsed    = errors.New("auth: ticket used before")
)

// take uses a ticket up.
func (b *ticketBox) take(now time.Time, secret string) (Principal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.tickets[sha256.Sum256([]byte(secret))]
	switch {
	case !ok:
		return Principal{}, clearbox.Wrap(clearbox.CodeUnauthorized, "this ticket is not valid", ErrTicketUnknown)
	case t.used:
		return Principal{}, clearbox.Wrap(clearbox.CodeTokenReused, "this ticket was used before", ErrTicketUsed)
	case !now.Before(t.expires):
		return Principal{}, clearbox.Wrap(clearbox.CodeTokenExpired, "this ticket has expired", ErrTicketExpired)
	}
	t.used = true
	b.closed(t.who.Session)
	return t.who, nil
}

// revoke uses up every ticket of the sessions.
func (b *ticketBox) revoke(sessions map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.tickets {
		if sessions[t.who.Session] && !t.used {
			t.used = true
			b.closed(t.who.Session)
		}
	}
}

// sweep forgets what expired more than a ttl ago: until then a late client is
// told that its ticket expired.
func (b *ticketBox) sweep(now time.Time) {
	n := 0
	for _, id := range b.order {
		t := b.tickets[id]
		if now.Sub(t.expires) < b.ttl {
			break
		}
		if !t.used {
			b.closed(t.who.Session)
		}
		delete(b.tickets, id)
		n++
	}
	b.order = b.order[n:]
}

func (b *ticketBox) closed(session string) {
	if b.open[session]--; b.open[session] <= 0 {
		delete(b.open, session)
	}
}
