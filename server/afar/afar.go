// Package afar is responsible for what people see of each other across servers
// at the moment: presence, coarse and for those alone who agreed to it, and
// signals such as typing, which it cannot read. Everything lies in memory and
// nothing is stored: a restart forgets it all.
//
// It is not responsible for the wire (federation's ephemeral class) nor for
// presence among people of this server (server/presence).
package afar

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/presence"
	"github.com/clearbox-im/clearbox/server/wire"
)

// The features of a peering that it needs.
const (
	FeaturePresence = "presence"
	FeatureTyping   = "typing"
)

// Times of presence (federation.md, 13).
const (
	updateEvery = time.Minute      // at most one update of a person in this time
	renewEvery  = 5 * time.Minute  // a watch is asked for again
	watchFor    = 10 * time.Minute // and ends by itself
	forget      = 12 * time.Minute // what was not confirmed for so long is not known
	tickEvery   = 5 * time.Second
)

// Person is what decides how somebody here is seen from elsewhere.
type Person struct {
	Shown   bool            // they consented to be seen, here and from elsewhere
	LastDay clearbox.Millis // the day on which a device of theirs was last here; 0: not known
}

// Options of a Service. All but Now and Log are required.
type Options struct {
	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // discards if nil

	// Allows tells whether a peer is active and its entry allows a feature. It
	// must be cheap.
	Allows func(ctx context.Context, peer clearbox.ServerName, feature string) bool
	// MayReach tells whether what a peer shows opens the way to somebody here.
	MayReach func(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) (bool, error)
	// Person tells of somebody here; nobody is the zero value.
	Person func(ctx context.Context, uid clearbox.UID) (Person, error)
	// Send sends to a peer, or drops. It never blocks.
	Send func(peer clearbox.ServerName, f federation.Fleeting)
	// Deliver hands a signal to the open socket of a device, if there is one. It
	// never blocks.
	Deliver func(e clearbox.Envelope)
}

// Service carries presence and signals. Run makes it work. It is safe for
// concurrent use.
type Service struct {
	server clearbox.ServerName
	hub    *presence.Hub
	o      Options

	mu       sync.Mutex                           // guards what follows and what it points to; never held across a call
	subjects map[clearbox.UID]*subject            // people here who are watched from elsewhere
	watched  map[clearbox.UserID]*watched         // people elsewhere who are watched from here
	watches  map[clearbox.UID]map[*Watch]struct{} // by who watches
}

// New starts nothing. hub knows who of server is online.
func New(server clearbox.ServerName, hub *presence.Hub, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		server: server, hub: hub, o: o,
		subjects: map[clearbox.UID]*subject{}, watched: map[clearbox.UserID]*watched{}, watches: map[clearbox.UID]map[*Watch]struct{}{},
	}
}

// Run renews, tells and forgets what is due, until ctx ends, and returns its
// error.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.publishDue(ctx)
			s.renewDue(ctx)
		}
	}
}

// Ephemeral takes what a peer sent. Nothing is told to it, whatever becomes of
// it.
func (s *Service) Ephemeral(ctx context.Context, peer clearbox.ServerName, items []federation.Fleeting) {
	seen, typing := s.o.Allows(ctx, peer, FeaturePresence), s.o.Allows(ctx, peer, FeatureTyping)
	for i := range items {
		f := &items[i]
		switch {
		case f.Watch != nil && seen:
			s.subscribe(ctx, peer, f.Watch)
		case f.Seen != nil && seen:
			s.update(clearbox.UserID{UID: f.Seen.User, Server: peer}, wire.Presence(f.Seen.Value))
		case f.Signal != nil && typing:
			s.deliver(ctx, peer, f)
		}
	}
}

// deliver hands a signal that may come to the devices that it is for.
func (s *Service) deliver(ctx context.Context, peer clearbox.ServerName, f *federation.Fleeting) {
	g := f.Signal
	if !s.mayReach(ctx, peer, g.User, g.Token) {
		return
	}
	for _, e := range g.Envelopes {
		s.o.Deliver(clearbox.Envelope{
			Origin: peer, Recipient: clearbox.UserID{UID: g.User, Server: s.server}, Device: e.Device,
			Type: e.Type, AcceptedAt: f.At, Content: e.Content,
		})
	}
}

func (s *Service) mayReach(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID, token []byte) bool {
	ok, err := s.o.MayReach(ctx, peer, uid, token)
	if err != nil {
		s.o.Log.Warn("something fleeting was dropped", "peer", string(peer), "code", string(clearbox.CodeOf(err)))
	}
	return ok && err == nil
}

// Signal sends a small sealed message to somebody elsewhere, who shows up there
// only on open sockets. What is not as it must be, or may not go, is dropped.
func (s *Service) Signal(ctx context.Context, to clearbox.UserID, token []byte, envelopes []wire.Outgoing) {
	if to.Server == s.server || len(token) != len(clearbox.DeliveryToken{}) || !s.o.Allows(ctx, to.Server, FeatureTyping) {
		return
	}
	out := make([]federation.ItemEnvelope, 0, len(envelopes))
	for _, e := range envelopes {
		if e.Type != clearbox.ContentSealed || len(e.Content) > federation.MaxSignalContent {
			return
		}
		out = append(out, federation.ItemEnvelope(e))
	}
	s.o.Send(to.Server, federation.Fleeting{Signal: &federation.Signal{User: to.UID, Token: token, Envelopes: out}})
}

// Consented follows a consent that somebody here gave or withdrew.
func (s *Service) Consented(ctx context.Context, uid clearbox.UID) {
	s.mu.Lock()
	subject := s.subjects[uid]
	mine := make([]*Watch, 0, len(s.watches[uid]))
	for w := range s.watches[uid] {
		mine = append(mine, w)
	}
	s.mu.Unlock()
	if subject == nil && len(mine) == 0 {
		return
	}
	p := s.person(ctx, uid)
	s.mu.Lock()
	if subject != nil {
		subject.shown = p.Shown
	}
	s.mu.Unlock()
	for _, w := range mine {
		if !p.Shown {
			w.Set(ctx, nil)
		}
	}
	s.publishDue(ctx)
}

// person asks for somebody; whoever cannot be asked for is not shown.
func (s *Service) person(ctx context.Context, uid clearbox.UID) Person {
	p, err := s.o.Person(ctx, uid)
	if err != nil {
		s.o.Log.Warn("presence is not shown elsewhere", "code", string(clearbox.CodeOf(err)))
		return Person{}
	}
	return p
}
