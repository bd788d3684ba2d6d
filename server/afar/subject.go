package afar

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
)

// subject is somebody here who is watched from elsewhere.
type subject struct {
	peers map[clearbox.ServerName]*subscription
	shown bool
	day   clearbox.Millis // begin of the last day on which they were here
	told  wire.Presence   // what is published
	at    time.Time       // when that was last changed
}

// subscription is one peer's interest in a subject.
type subscription struct {
	until time.Time
	sent  time.Time // the last update to this peer
}

const dayMillis = 24 * 60 * 60 * 1000

// value is how the subject is seen at the moment: to the day, if not here.
func (p *subject) value(online bool, now time.Time) wire.Presence {
	today := clearbox.Millis(now.UnixMilli() / dayMillis * dayMillis)
	switch {
	case !p.shown:
		return wire.PresenceAway
	case online:
		p.day = today
		return wire.PresenceActive
	case p.day >= today-dayMillis:
		return wire.PresenceRecent
	}
	return wire.PresenceAway
}

// subscribe lets a peer watch somebody here who may be seen, if it shows what
// their contacts have. It answers with what is published, at most once a minute.
func (s *Service) subscribe(ctx context.Context, peer clearbox.ServerName, q *federation.PresenceWatch) {
	if !s.mayReach(ctx, peer, q.User, q.Token) {
		return
	}
	if q.For == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p := s.subjects[q.User]; p != nil {
			delete(p.peers, peer)
		}
		return
	}
	person := s.person(ctx, q.User)
	if !person.Shown {
		return // away to the other side, which was told so if it saw them before
	}
	now, online := s.o.Now(), s.online(q.User)
	s.mu.Lock()
	p := s.subjects[q.User]
	if p == nil {
		p = &subject{peers: map[clearbox.ServerName]*subscription{}}
		s.subjects[q.User] = p
	}
	p.shown, p.day = true, max(p.day, person.LastDay)
	if p.told == "" {
		p.told, p.at = p.value(online, now), now
	}
	sub := p.peers[peer]
	if sub == nil {
		sub = &subscription{}
		p.peers[peer] = sub
	}
	sub.until = now.Add(min(q.For, watchFor))
	due, told := now.Sub(sub.sent) >= updateEvery, p.told
	if due {
		sub.sent = now
	}
	s.mu.Unlock()
	if due {
		s.tell(peer, q.User, told)
	}
}

func (s *Service) online(uid clearbox.UID) bool {
	return s.hub.Online(clearbox.UserID{UID: uid, Server: s.server})
}

func (s *Service) tell(peer clearbox.ServerName, uid clearbox.UID, v wire.Presence) {
	s.o.Send(peer, federation.Fleeting{Seen: &federation.PresenceSeen{User: uid, Value: string(v)}})
}

// update is one that goes out.
type update struct {
	peer  clearbox.ServerName
	uid   clearbox.UID
	value wire.Presence
}

// publishDue tells what changed, of each person at most once a minute, and
// forgets people whom nobody watches any more.
func (s *Service) publishDue(ctx context.Context) {
	now := s.o.Now()
	s.mu.Lock()
	people := make([]clearbox.UID, 0, len(s.subjects))
	for uid := range s.subjects {
		people = append(people, uid)
	}
	s.mu.Unlock()
	var out []update
	for _, uid := range people {
		online := s.online(uid)
		s.mu.Lock()
		if p := s.subjects[uid]; p != nil {
			out = append(out, s.publish(uid, p, online, now)...)
		}
		s.mu.Unlock()
	}
	for _, u := range out {
		if s.o.Allows(ctx, u.peer, FeaturePresence) {
			s.tell(u.peer, u.uid, u.value)
		}
	}
}

// publish gives the updates that are due; mu is held.
func (s *Service) publish(uid clearbox.UID, p *subject, online bool, now time.Time) []update {
	for peer, sub := range p.peers {
		if !now.Before(sub.until) {
			delete(p.peers, peer)
		}
	}
	v := p.value(online, now)
	if now.Sub(p.at) < updateEvery {
		return nil // also the next subscription of somebody who was just watched comes after it
	}
	if len(p.peers) == 0 || !p.shown && p.told == wire.PresenceAway {
		delete(s.subjects, uid)
		return nil
	}
	if v == p.told {
		return nil
	}
	p.told, p.at = v, now
	var out []update
	for peer, sub := range p.peers {
		sub.sent = now
		out = append(out, update{peer, uid, v})
	}
	return out
}
