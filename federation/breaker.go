package federation

import (
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Circuit is a kind of traffic to a peer that fails and waits by itself: what
// one of them meets says nothing to the others (federation.md, 8).
type Circuit string

// The circuits. Attachments and rights requests have theirs as soon as they are
// sent.
const (
	CircuitTxn    Circuit = "txn"    // the queues; their waits are those of the sender
	CircuitClaim  Circuit = "claim"  // questions that a person waits for: who somebody is, devices, prekeys
	CircuitMedia  Circuit = "media"  // attachments
	CircuitRights Circuit = "rights" // requests under data protection law
)

// probeEvery is how often a circuit that is open lets one question through.
const probeEvery = 10 * time.Second

// OpenCircuit is a circuit that does not let everything through.
type OpenCircuit struct {
	Circuit Circuit
	Since   time.Time // of its first failure in a row
	Until   time.Time // when the next attempt may be made
}

// breaker is the state of one circuit. The zero value is closed: everything
// passes. Its owner guards it.
type breaker struct {
	since time.Time // zero while closed
	until time.Time
}

// allow tells whether an attempt may be made now. Of an open circuit each wait's
// end lets one through, which is the probe.
func (b *breaker) allow(now time.Time, wait time.Duration) bool {
	if b.since.IsZero() {
		return true
	}
	if now.Before(b.until) && b.until.Sub(now) <= wait { // a clock that was set back opens it
		return false
	}
	b.until = now.Add(wait)
	return true
}

// failed opens the circuit for a wait.
func (b *breaker) failed(now time.Time, wait time.Duration) {
	if b.since.IsZero() {
		b.since = now
	}
	b.until = now.Add(wait)
}

// closed lets everything through.
func (b *breaker) closed() { *b = breaker{} }

// breaker gives a peer's circuit; c.mu is held.
func (c *Client) breaker(server clearbox.ServerName, circuit Circuit) *breaker {
	k := c.entry(server)
	b := k.circuits[circuit]
	if b == nil {
		if k.circuits == nil {
			k.circuits = map[Circuit]*breaker{}
		}
		b = &breaker{}
		k.circuits[circuit] = b
	}
	return b
}

// mayProbe takes the right to one attempt on a circuit.
func (c *Client) mayProbe(server clearbox.ServerName, circuit Circuit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.breaker(server, circuit).allow(c.opts.Now(), probeEvery)
}

// noteCircuit notes the end of an attempt; wait is until the next one, 0 after
// a success.
func (c *Client) noteCircuit(server clearbox.ServerName, circuit Circuit, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.breaker(server, circuit); wait > 0 {
		b.failed(c.opts.Now(), wait)
	} else {
		b.closed()
	}
}

// Contact notes that the peer is there: whoever waits for an answer may ask
// again. The queues are woken by Sender.Wake.
func (c *Client) Contact(server clearbox.ServerName) {
	for _, circuit := range [...]Circuit{CircuitClaim, CircuitMedia, CircuitRights} {
		c.noteCircuit(server, circuit, 0)
	}
}

// noteAnswer notes what came of a request that no queue made: a peer that
// answered is there, and what waits for it need not. Its signed word that it does
// not give somebody is such an answer. A refusal of this server is none: what it
// stopped would be tried again at once.
func (c *Client) noteAnswer(server clearbox.ServerName, err error) {
	var r *RefusedError
	switch {
	case err == nil:
	case errors.As(err, &r) && r.Signed && (r.Code == clearbox.CodeRecipientUnavailable || r.Code == clearbox.CodeConsentRequired):
	default:
		return
	}
	c.Contact(server)
	if c.opts.Answered != nil {
		c.opts.Answered(server)
	}
}

// Open lists the peer's circuits that do not let everything through, by name.
func (c *Client) Open(server clearbox.ServerName) []OpenCircuit {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[server]
	if k == nil {
		return nil
	}
	var out []OpenCircuit
	for _, circuit := range [...]Circuit{CircuitClaim, CircuitMedia, CircuitRights, CircuitTxn} {
		if b := k.circuits[circuit]; b != nil && !b.since.IsZero() {
			out = append(out, OpenCircuit{circuit, b.since, b.until})
		}
	}
	return out
}
