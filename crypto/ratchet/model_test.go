package ratchet_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// flight is a message under way in one direction.
type flight struct {
	letter
	read bool
}

// model is two ends with an unreliable wire between them.
type model struct {
	t      *rapid.T
	ends   [2]*end
	wire   [2][]*flight // towards ends[i]
	opened [2]bool      // ends[i] has a session
	count  int
}

func (m *model) send(i int) {
	if !m.opened[i] {
		return
	}
	m.count++
	from, to := m.ends[i], m.ends[1-i]
	l := from.send(to, fmt.Sprint("message ", m.count))
	m.wire[1-i] = append(m.wire[1-i], &flight{letter: l})
}

// deliver hands a message over, which stays on the wire and may come again.
func (m *model) deliver(i, pick int) {
	if len(m.wire[i]) == 0 {
		return
	}
	f := m.wire[i][pick%len(m.wire[i])]
	to, from := m.ends[i], m.ends[1-i]
	o, err := to.open(from, f.letter)
	switch {
	case err == nil && f.read:
		m.t.Fatalf("%q was read twice", f.text)
	case err == nil && string(o.Plaintext) != f.text:
		m.t.Fatalf("%q became %q", f.text, o.Plaintext)
	case err != nil && !f.read:
		m.t.Fatalf("%q was not read: %v", f.text, err)
	case err != nil && !errors.Is(err, ratchet.ErrDuplicate):
		m.t.Fatalf("%q again: %v", f.text, err)
	}
	f.read = true
	m.opened[i] = true
}

// restart forgets everything but the stored bytes.
func (m *model) restart(i int) {
	e := *m.ends[i]
	device := *e.device
	e.device = &device
	e.store = e.store.Clone()
	m.ends[i] = &e
}

// crash loses a change; the next try must work as if nothing had been.
func (m *model) crash(i, pick int) {
	e := m.ends[i]
	gone := errors.New("power is gone")
	e.store.Fail = func(*ratchet.Change) error { return gone }
	if len(m.wire[i]) > 0 {
		f := m.wire[i][pick%len(m.wire[i])]
		if _, err := e.open(m.ends[1-i], f.letter); err == nil {
			m.t.Fatal("a crash went unnoticed")
		}
	}
	e.store.Fail = nil
}

// clone reads a message on a copy of the store, which must not touch the
// original.
func (m *model) clone(i, pick int) {
	if len(m.wire[i]) == 0 {
		return
	}
	f := m.wire[i][pick%len(m.wire[i])]
	e := *m.ends[i]
	e.store = e.store.Clone()
	o, err := e.open(m.ends[1-i], f.letter)
	if (err == nil) == f.read || err == nil && string(o.Plaintext) != f.text {
		m.t.Fatalf("on a copy, %q (read before: %v): %v", f.text, f.read, err)
	}
}

// Random sending, dropping, reordering, repeating, cloning, crashing and
// restarting of both ends: each message is read exactly once, and never wrong.
// The limit of five receiving chains is lifted, since it forgets by design; so
// are epochs of the post-quantum ratchet, which is why messages on the wire for
// long are dropped.
func TestModelReadsExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t}
		m.ends[0], m.ends[1] = newEnd(t, "alice", 1), newEnd(t, "bob", 1)
		for _, e := range m.ends {
			e.setLimits(ratchet.Limits{ReceivingChains: ratchet.Lifted})
		}
		m.ends[0].initiate(m.ends[1], m.ends[1].bundle(1, rapid.Bool().Draw(t, "one-time"), rapid.Bool().Draw(t, "last resort")))
		m.opened[0] = true
		if rapid.Bool().Draw(t, "both start") {
			m.ends[1].initiate(m.ends[0], m.ends[0].bundle(1, true, false))
			m.opened[1] = true
		}
		steps := rapid.IntRange(10, 400).Draw(t, "steps")
		for range steps {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			pick := rapid.IntRange(0, 11).Draw(t, "pick")
			switch rapid.IntRange(0, 19).Draw(t, "deed") {
			case 0:
				m.restart(i)
			case 1:
				m.crash(i, pick)
			case 2:
				m.clone(i, pick)
			case 3, 4:
				if n := len(m.wire[i]); n > 0 {
					m.wire[i] = slices.Delete(m.wire[i], pick%n, pick%n+1)
				}
			case 5, 6, 7, 8, 9, 10, 11:
				m.send(i)
			default:
				m.deliver(i, pick)
			}
			if len(m.wire[i]) > 12 {
				m.wire[i] = m.wire[i][1:]
			}
		}
		// At rest both can still talk.
		for i := range m.ends {
			m.send(i)
			if m.opened[i] {
				m.deliver(1-i, len(m.wire[1-i])-1)
			}
		}
	})
}
