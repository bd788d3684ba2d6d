// Package presence is responsible for knowing, in memory, which people of this
// server have a socket open, and for telling those who watch them. Nothing is
// stored: a restart forgets everything, and nobody learns when somebody was
// last here.
//
// It is not responsible for consent: callers say whether a person may be seen,
// and a person who may not is never online to anyone.
package presence

import (
	"sync"

	"github.com/clearbox-im/clearbox"
)

// Hub knows who is online. The zero value is not usable; New makes one. Safe
// for concurrent use.
type Hub struct {
	mu     sync.Mutex // guards people and everything they hold
	people map[clearbox.UserID]*person
}

// person is kept while a socket is open or somebody watches.
type person struct {
	sockets  int
	visible  bool
	watchers map[*Watch]struct{}
}

// online is what others see.
func (p *person) online() bool { return p.visible && p.sockets > 0 }

// New makes an empty hub.
func New() *Hub { return &Hub{people: make(map[clearbox.UserID]*person)} }

// Online tells whether u is seen to be online.
func (h *Hub) Online(u clearbox.UserID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.people[u]
	return p != nil && p.online()
}

// Arrive notes an open socket of u. visible is u's consent at this moment and
// holds for all of u's sockets. Each Arrive is followed by one Leave.
func (h *Hub) Arrive(u clearbox.UserID, visible bool) {
	h.change(u, func(p *person) { p.sockets++; p.visible = visible })
}

// Leave notes that one of u's sockets closed.
func (h *Hub) Leave(u clearbox.UserID) {
	h.change(u, func(p *person) {
		if p.sockets > 0 {
			p.sockets--
		}
	})
}

// SetVisible follows a consent that is given or withdrawn while u is online.
// It does nothing for a person without a socket.
func (h *Hub) SetVisible(u clearbox.UserID, visible bool) {
	h.change(u, func(p *person) { p.visible = visible && p.sockets > 0 })
}

// change applies fn to u and tells the watchers, outside the lock, when that
// changed what they see.
func (h *Hub) change(u clearbox.UserID, fn func(*person)) {
	h.mu.Lock()
	p := h.person(u)
	before := p.online()
	fn(p)
	after := p.online()
	var tell []*Watch
	if before != after {
		tell = make([]*Watch, 0, len(p.watchers))
		for w := range p.watchers {
			tell = append(tell, w)
		}
	}
	h.forget(u, p)
	h.mu.Unlock()
	for _, w := range tell {
		w.tell(u, after)
	}
}

// person finds or makes the entry of u; mu is held.
func (h *Hub) person(u clearbox.UserID) *person {
	p := h.people[u]
	if p == nil {
		p = &person{}
		h.people[u] = p
	}
	return p
}

// forget drops an entry that holds nothing; mu is held.
func (h *Hub) forget(u clearbox.UserID, p *person) {
	if p.sockets == 0 && len(p.watchers) == 0 {
		delete(h.people, u)
	}
}

// Watch is one socket's interest in other people. Its methods are for one
// goroutine at a time.
type Watch struct {
	hub   *Hub
	tell  func(u clearbox.UserID, online bool)
	users []clearbox.UserID
}

// Watch makes a watch of nobody. tell is called without locks held, possibly
// from several goroutines at once, and must not block. Two changes of one
// person that follow closely may be told in either order: Online is the truth.
func (h *Hub) Watch(tell func(u clearbox.UserID, online bool)) *Watch {
	return &Watch{hub: h, tell: tell}
}

// Set replaces the people watched and tells which of them are online now.
func (w *Watch) Set(users []clearbox.UserID) {
	w.hub.mu.Lock()
	w.clear()
	var online []clearbox.UserID
	for _, u := range users {
		p := w.hub.person(u)
		if _, twice := p.watchers[w]; twice {
			continue
		}
		if p.watchers == nil {
			p.watchers = make(map[*Watch]struct{})
		}
		p.watchers[w] = struct{}{}
		w.users = append(w.users, u)
		if p.online() {
			online = append(online, u)
		}
	}
	w.hub.mu.Unlock()
	for _, u := range online {
		w.tell(u, true)
	}
}

// Close ends the watch. tell may still be running in other goroutines.
func (w *Watch) Close() {
	w.hub.mu.Lock()
	w.clear()
	w.hub.mu.Unlock()
}

// clear removes w everywhere; mu is held.
func (w *Watch) clear() {
	for _, u := range w.users {
		p := w.hub.people[u]
		delete(p.watchers, w)
		w.hub.forget(u, p)
	}
	w.users = nil
}
