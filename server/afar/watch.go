package afar

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
)

// watched is somebody elsewhere who is watched from here.
type watched struct {
	watches map[*Watch]struct{}
	token   []byte // the last one that somebody here gave
	value   wire.Presence
	heard   time.Time // when the value was last confirmed
	asked   time.Time // when their server was last asked
}

// Watch is one socket's interest in people elsewhere. Its methods are for one
// goroutine at a time, but for what Consented does.
type Watch struct {
	s    *Service
	who  clearbox.UID
	tell func(u clearbox.UserID, p wire.Presence)

	users map[clearbox.UserID]struct{} // guarded by s.mu
}

// Watch makes a watch of nobody for somebody here. tell is called without locks
// held, possibly from several goroutines at once, and must not block.
func (s *Service) Watch(who clearbox.UID, tell func(u clearbox.UserID, p wire.Presence)) *Watch {
	return &Watch{s: s, who: who, tell: tell}
}

// Set replaces the people watched, and tells of those whose presence is known.
// Who is not seen elsewhere does not see people elsewhere either.
func (w *Watch) Set(ctx context.Context, users []wire.WatchToken) {
	s := w.s
	if len(users) > 0 && !s.person(ctx, w.who).Shown {
		users = nil
	}
	var mine []wire.WatchToken
	for _, u := range users {
		if u.User.Server != s.server && s.o.Allows(ctx, u.User.Server, FeaturePresence) {
			mine = append(mine, u)
		}
	}
	now := s.o.Now()
	known := map[clearbox.UserID]wire.Presence{}
	var ask []wire.WatchToken
	s.mu.Lock()
	w.clear()
	for _, u := range mine {
		p := s.watched[u.User]
		if p == nil {
			p = &watched{watches: map[*Watch]struct{}{}}
			s.watched[u.User] = p
		}
		p.watches[w], p.token = struct{}{}, u.Token
		w.users[u.User] = struct{}{}
		if now.Sub(p.asked) >= renewEvery {
			p.asked = now
			ask = append(ask, u)
		}
		if p.value != "" {
			known[u.User] = p.value
		}
	}
	if len(w.users) > 0 {
		if s.watches[w.who] == nil {
			s.watches[w.who] = map[*Watch]struct{}{}
		}
		s.watches[w.who][w] = struct{}{}
	}
	s.mu.Unlock()
	for u, v := range known {
		w.tell(u, v)
	}
	for _, u := range ask {
		s.ask(u.User, u.Token)
	}
}

// Close ends the watch. What is asked of other servers ends by itself.
func (w *Watch) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.clear()
}

// clear removes w everywhere; mu is held. People whom nobody watches any more
// are kept until they would be asked for again, since a socket often comes back.
func (w *Watch) clear() {
	s := w.s
	for u := range w.users {
		delete(s.watched[u].watches, w)
	}
	w.users = map[clearbox.UserID]struct{}{}
	if delete(s.watches[w.who], w); len(s.watches[w.who]) == 0 {
		delete(s.watches, w.who)
	}
}

func (s *Service) ask(u clearbox.UserID, token []byte) {
	s.o.Send(u.Server, federation.Fleeting{Watch: &federation.PresenceWatch{User: u.UID, Token: token, For: watchFor}})
}

// update takes what a peer says of one of its people. Of people for whom it was
// not asked nothing is kept.
func (s *Service) update(u clearbox.UserID, v wire.Presence) {
	if v != wire.PresenceActive && v != wire.PresenceRecent && v != wire.PresenceAway {
		return
	}
	s.mu.Lock()
	p := s.watched[u]
	var tell []*Watch
	if p != nil {
		p.heard = s.o.Now()
		tell = p.change(v)
	}
	s.mu.Unlock()
	for _, w := range tell {
		w.tell(u, v)
	}
}

// change sets the value and gives who is to be told; mu is held.
func (p *watched) change(v wire.Presence) []*Watch {
	if p.value == v {
		return nil
	}
	p.value = v
	out := make([]*Watch, 0, len(p.watches))
	for w := range p.watches {
		out = append(out, w)
	}
	return out
}

// renewDue asks again for people who are still watched, and shows those away of
// whom nothing was heard for long.
func (s *Service) renewDue(ctx context.Context) {
	now := s.o.Now()
	type lost struct {
		user clearbox.UserID
		tell []*Watch
	}
	var gone []lost
	var ask []wire.WatchToken
	s.mu.Lock()
	for u, p := range s.watched {
		if now.Sub(p.asked) >= renewEvery {
			if len(p.watches) == 0 {
				delete(s.watched, u)
				continue
			}
			p.asked = now
			ask = append(ask, wire.WatchToken{User: u, Token: p.token})
		}
		if p.value != "" && now.Sub(p.heard) >= forget {
			gone = append(gone, lost{u, p.change(wire.PresenceAway)})
		}
	}
	s.mu.Unlock()
	for _, g := range gone {
		for _, w := range g.tell {
			w.tell(g.user, wire.PresenceAway)
		}
	}
	for _, u := range ask {
		if s.o.Allows(ctx, u.User.Server, FeaturePresence) {
			s.ask(u.User, u.Token)
		}
	}
}
