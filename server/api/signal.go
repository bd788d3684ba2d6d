package api

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
)

// signal passes something fleeting on. It reaches open sockets or nobody; what
// is too much, or not as it must be, is dropped without a word, since nobody
// waits for it.
func (a *API) signal(p auth.Principal, to *wire.Recipient) {
	if _, ok := a.signals.Allow(a.o.Now(), string(p.User.UID)); !ok || a.draining.Load() {
		return
	}
	if to.User.Server != a.server {
		if a.parts.Afar != nil {
			ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
			defer cancel()
			a.parts.Afar.Signal(ctx, to.User, to.Token, to.Envelopes)
		}
		return
	}
	now := clearbox.Millis(a.o.Now().UnixMilli())
	for i := range to.Envelopes {
		e := &to.Envelopes[i]
		if e.Type == clearbox.ContentSealed {
			continue // people here are named
		}
		a.Signal(clearbox.Envelope{
			Sender: p.User, SenderDevice: p.Device, Recipient: to.User, Device: e.Device,
			Type: e.Type, AcceptedAt: now, Content: e.Content,
		})
	}
}

// Signal hands an envelope without an id to the open socket of its device, if
// there is one. It never blocks.
func (a *API) Signal(e clearbox.Envelope) {
	a.sockets.mu.Lock()
	s := a.sockets.byName[deviceName{e.Recipient, e.Device}]
	a.sockets.mu.Unlock()
	if s == nil {
		return
	}
	signal := wire.Envelope(e)
	s.send(&wire.ServerFrame{Type: wire.FrameSignal, Signal: &signal})
}
