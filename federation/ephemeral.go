package federation

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
)

// The ephemeral class carries what has no worth a moment later: presence and
// signals such as typing. It is signed like everything between peers, answered
// with nothing, never stored, never sent twice, and dropped wherever it would
// have to wait (federation.md, 13).

// Limits of the ephemeral class.
const (
	MaxEphemeral     = 64 << 10 // bytes of one request
	MaxFleeting      = 256      // items in it
	MaxSignalContent = 1 << 10  // bytes of a signal's envelope
	FleetingLife     = 10 * time.Second

	refusedFor = 10 * time.Minute // a peer that does not know the class is not asked for this long
)

// Fleeting is one item of the ephemeral class: one of Watch, Seen and Signal.
type Fleeting struct {
	At     clearbox.Millis // when it was made, by the clock of its server
	Watch  *PresenceWatch
	Seen   *PresenceSeen
	Signal *Signal
}

// PresenceWatch asks for the presence of somebody at the receiving server, on
// behalf of somebody who shows the token. It ends by itself.
type PresenceWatch struct {
	User  clearbox.UID
	Token []byte        // 16 bytes, as in Item
	For   time.Duration // whole seconds; 0 ends it
}

// PresenceSeen tells the presence of somebody at the speaking server.
type PresenceSeen struct {
	User  clearbox.UID
	Value string // active, recent or away; others are ignored
}

// Signal is a small sealed message for the open sockets of somebody at the
// receiving server.
type Signal struct {
	User      clearbox.UID
	Token     []byte         // 16 bytes, as in Item
	Envelopes []ItemEnvelope // at most clearbox.MaxDevices, sealed, of at most MaxSignalContent bytes
}

// key names what a newer item takes the place of; "" is nothing.
func (f *Fleeting) key() string {
	switch {
	case f.Watch != nil:
		return "watch|" + string(f.Watch.User)
	case f.Seen != nil:
		return "seen|" + string(f.Seen.User)
	}
	return ""
}

type wireFleeting struct {
	At        int64          `cbor:"at"`
	Watch     string         `cbor:"watch,omitempty"`
	Presence  string         `cbor:"presence,omitempty"`
	Signal    string         `cbor:"signal,omitempty"`
	Token     []byte         `cbor:"token,omitempty"`
	For       int64          `cbor:"for,omitempty"` // s
	Value     string         `cbor:"value,omitempty"`
	Envelopes []wireEnvelope `cbor:"envelopes,omitempty"`
}

type wireEphemeral struct {
	Items [][]byte `cbor:"items"`
}

func fleetingToWire(f *Fleeting) wireFleeting {
	w := wireFleeting{At: int64(f.At)}
	switch {
	case f.Watch != nil:
		w.Watch, w.Token, w.For = string(f.Watch.User), f.Watch.Token, int64(f.Watch.For/time.Second)
	case f.Seen != nil:
		w.Presence, w.Value = string(f.Seen.User), f.Seen.Value
	case f.Signal != nil:
		w.Signal, w.Token = string(f.Signal.User), f.Signal.Token
		for _, e := range f.Signal.Envelopes {
			w.Envelopes = append(w.Envelopes, wireEnvelope{Device: int64(e.Device), Registration: e.Registration, Type: uint8(e.Type), Content: e.Content})
		}
	}
	return w
}

// EncodeEphemeral gives the wire form of the first items that fit a request, and
// how many those are. An item that fits none is passed over.
func EncodeEphemeral(items []Fleeting) (body []byte, taken int, err error) {
	var w wireEphemeral
	size := 16 // of what is around the items
	for i := range items {
		b, err := encoder.Marshal(fleetingToWire(&items[i]))
		if err != nil {
			return nil, 0, clearbox.Wrap(clearbox.CodeInternal, "the item could not be encoded", err)
		}
		if len(b)+32 > MaxEphemeral {
			taken++
			continue
		}
		if size+len(b)+5 > MaxEphemeral || len(w.Items) == MaxFleeting {
			break
		}
		w.Items = append(w.Items, b)
		size += len(b) + 5
		taken++
	}
	body, err = encoder.Marshal(w)
	return body, taken, err
}

// DecodeEphemeral reads a request. What cannot be understood is left out. The
// result shares no memory with b.
func DecodeEphemeral(b []byte) ([]Fleeting, error) {
	if len(b) > MaxEphemeral {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "an ephemeral request has at most %d bytes", MaxEphemeral)
	}
	var w wireEphemeral
	if err := decodeBody(b, &w); err != nil {
		return nil, err
	}
	if len(w.Items) > MaxFleeting {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "an ephemeral request has at most %d items", MaxFleeting)
	}
	out := make([]Fleeting, 0, len(w.Items))
	for _, raw := range w.Items {
		var i wireFleeting
		if decoder.Unmarshal(raw, &i) != nil {
			continue
		}
		if f, ok := i.fleeting(); ok {
			out = append(out, f)
		}
	}
	return out, nil
}

// maxWatchSeconds keeps the arithmetic of durations safe; receivers cut it to
// what they allow.
const maxWatchSeconds = 24 * 60 * 60

func (w *wireFleeting) fleeting() (f Fleeting, ok bool) {
	f.At = clearbox.Millis(w.At)
	uid := func(s string) clearbox.UID {
		u, err := clearbox.ParseUID(s)
		ok = err == nil
		return u
	}
	tokened := len(w.Token) == len(clearbox.DeliveryToken{})
	switch {
	case w.Watch != "" && w.Presence == "" && w.Signal == "" && tokened && w.For >= 0 && w.For <= maxWatchSeconds:
		f.Watch = &PresenceWatch{User: uid(w.Watch), Token: w.Token, For: time.Duration(w.For) * time.Second}
	case w.Presence != "" && w.Watch == "" && w.Signal == "":
		f.Seen = &PresenceSeen{User: uid(w.Presence), Value: w.Value}
	case w.Signal != "" && w.Watch == "" && w.Presence == "" && tokened:
		f.Signal = &Signal{User: uid(w.Signal), Token: w.Token}
		envelopes, whole := w.envelopes()
		f.Signal.Envelopes, ok = envelopes, ok && whole
	}
	return f, ok
}

// envelopes reads those of a signal; ok is false when one is not as it must be.
func (w *wireFleeting) envelopes() (out []ItemEnvelope, ok bool) {
	if len(w.Envelopes) == 0 || len(w.Envelopes) > clearbox.MaxDevices {
		return nil, false
	}
	for _, e := range w.Envelopes {
		device, err := clearbox.ParseDeviceID(e.Device)
		if err != nil || e.Registration > 0x3fff || clearbox.ContentType(e.Type) != clearbox.ContentSealed ||
			len(e.Content) > MaxSignalContent || clearbox.SealedSize(len(e.Content)) != len(e.Content) {
			return nil, false
		}
		out = append(out, ItemEnvelope{Device: device, Registration: e.Registration, Type: clearbox.ContentSealed, Content: e.Content})
	}
	return out, true
}

// EphemeraOptions configure Ephemera.
type EphemeraOptions struct {
	Now func() time.Time // default time.Now
	Log *slog.Logger     // default discards
}

// Ephemera sends what is fleeting: to each peer one request at a time, and what
// does not fit beside it is dropped. It is safe for concurrent use.
type Ephemera struct {
	client  *Client
	opts    EphemeraOptions
	dropped atomic.Int64

	mu    sync.Mutex // guards what follows; never held across a call
	ctx   context.Context
	lanes map[clearbox.ServerName]*fleetingLane
	busy  sync.WaitGroup // lanes that are at work; added to under mu while ctx lives
}

// fleetingLane is what waits for one peer.
type fleetingLane struct {
	items  []Fleeting
	busy   bool
	closed time.Time // nothing is sent before this moment
}

// NewEphemera starts nothing; before Run everything is dropped.
func NewEphemera(client *Client, opts EphemeraOptions) *Ephemera {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Ephemera{client: client, opts: opts, lanes: map[clearbox.ServerName]*fleetingLane{}}
}

// Run lets items pass until ctx ends and returns its error.
func (e *Ephemera) Run(ctx context.Context) error {
	e.mu.Lock()
	e.ctx = ctx
	e.mu.Unlock()
	<-ctx.Done()
	e.mu.Lock()
	e.ctx = nil
	e.mu.Unlock()
	e.busy.Wait()
	return ctx.Err()
}

// Dropped counts items that were not sent, or may not have arrived.
func (e *Ephemera) Dropped() int64 { return e.dropped.Load() }

// Send takes an item for an active peer and stamps it. It never blocks and never
// fails: what cannot go at once is dropped. A newer watch, or a newer presence,
// of the same person takes the place of one that waits.
func (e *Ephemera) Send(peer clearbox.ServerName, f Fleeting) {
	f.At = clearbox.Millis(e.opts.Now().UnixMilli())
	away := e.client.away(peer)
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lanes[peer]
	if l == nil {
		l = &fleetingLane{}
		e.lanes[peer] = l
	}
	if e.ctx == nil || away || e.opts.Now().Before(l.closed) {
		e.dropped.Add(1)
		return
	}
	if !l.put(f) {
		e.dropped.Add(1)
	}
	if l.busy {
		return
	}
	l.busy = true
	ctx := e.ctx
	e.busy.Go(func() { e.work(ctx, peer, l) })
}

// put replaces what f takes the place of, or adds f while there is room.
func (l *fleetingLane) put(f Fleeting) bool {
	if key := f.key(); key != "" {
		for i := range l.items {
			if l.items[i].key() == key {
				l.items[i] = f
				return true
			}
		}
	}
	if len(l.items) >= MaxFleeting {
		return false
	}
	l.items = append(l.items, f)
	return true
}

// work sends what waits for a peer until nothing does.
func (e *Ephemera) work(ctx context.Context, peer clearbox.ServerName, l *fleetingLane) {
	for {
		e.mu.Lock()
		items := l.items
		l.items = nil
		if len(items) == 0 || ctx.Err() != nil {
			l.busy = false
			e.mu.Unlock()
			e.dropped.Add(int64(len(items)))
			return
		}
		e.mu.Unlock()
		e.deliver(ctx, peer, l, items)
	}
}

// deliver makes the requests for some items. After one that failed the rest is
// dropped, and what comes in the next moments.
func (e *Ephemera) deliver(ctx context.Context, peer clearbox.ServerName, l *fleetingLane, items []Fleeting) {
	for len(items) > 0 {
		if e.opts.Now().Sub(time.UnixMilli(int64(items[0].At))) > FleetingLife {
			e.dropped.Add(1)
			items = items[1:]
			continue
		}
		body, n, err := EncodeEphemeral(items)
		if err == nil {
			err = e.call(ctx, peer, body)
		}
		if err == nil {
			items = items[n:]
			continue
		}
		e.opts.Log.Debug("ephemeral request failed", "peer", string(peer), "code", string(clearbox.CodeOf(err)))
		e.dropped.Add(int64(len(items)))
		e.mu.Lock()
		l.closed = e.opts.Now().Add(pauseAfter(err))
		e.dropped.Add(int64(len(l.items)))
		l.items = nil
		e.mu.Unlock()
		return
	}
}

func (e *Ephemera) call(ctx context.Context, peer clearbox.ServerName, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, FleetingLife)
	defer cancel()
	_, err := e.client.Call(ctx, peer, PathEphemeral, body, MaxSmallBody)
	e.client.noteAnswer(peer, err)
	return err
}

// pauseAfter is how long a peer gets nothing after it did not take something.
func pauseAfter(err error) time.Duration {
	var refused *RefusedError
	if errors.As(err, &refused) {
		switch {
		case refused.Status == http.StatusNotFound || refused.Status == http.StatusForbidden:
			return refusedFor
		case refused.RetryAfter > 0:
			return min(refused.RetryAfter, refusedFor)
		}
	}
	return probeEvery
}

// ephemeral hands on what came in time. The answer says nothing.
func (in *Inbox) ephemeral(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	items, err := DecodeEphemeral(body)
	if err != nil {
		return nil, err
	}
	now := in.opts.Now().Add(in.client.clockOf(ctx, peer)) // by the peer's clock
	fresh := items[:0]
	for _, f := range items {
		if now.Sub(time.UnixMilli(int64(f.At))).Abs() <= FleetingLife {
			fresh = append(fresh, f)
		}
	}
	if len(fresh) > 0 {
		in.opts.Ephemeral(ctx, peer, fresh)
	}
	return nil, nil
}

// away tells whether the peer is known not to answer at the moment.
func (c *Client) away(server clearbox.ServerName) bool {
	now := c.opts.Now()
	for _, o := range c.Open(server) {
		if (o.Circuit == CircuitTxn || o.Circuit == CircuitClaim) && now.Before(o.Until) {
			return true
		}
	}
	return false
}

// noteClock remembers what time it is at a peer, from a greeting. It may be late
// by the way of the greeting.
func (c *Client) noteClock(server clearbox.ServerName, clock int64) {
	ahead := time.UnixMilli(clock).Sub(c.opts.Now())
	if ahead.Abs() > maxOffset {
		return // nothing that is signed would be accepted
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.entry(server)
	k.ahead, k.greeted = ahead, true
}

// clockOf is how far a peer's clock is ahead of ours.
func (c *Client) clockOf(ctx context.Context, server clearbox.ServerName) time.Duration {
	c.mu.Lock()
	k := c.entry(server)
	ahead, greeted := k.ahead, k.greeted
	c.mu.Unlock()
	if greeted {
		return ahead
	}
	p, err := c.peers.Peer(ctx, server)
	if err != nil {
		return 0
	}
	return p.ClockOffset
}
