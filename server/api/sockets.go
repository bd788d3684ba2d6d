package api

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// A socket is pinged every pingSlots seconds; sockets are spread over the slots.
const pingSlots = 20

// sockets are the open ones: one per device.
type sockets struct {
	mu       sync.Mutex                            // guards what follows
	byDevice map[int64]*socket                     // by number of the device
	byName   map[deviceName]*socket                // the same by the name of the device
	slots    [pingSlots]map[*socket]struct{}       // for pings
	polls    map[string]map[chan struct{}]struct{} // long polls by session; closed when it is revoked
	next     int                                   // slot of the next socket
	closed   bool                                  // no more are taken
	open     sync.WaitGroup                        // a socket's reader, until everything of it is released
}

// deviceName is what others call a device.
type deviceName struct {
	user clearbox.UserID
	id   clearbox.DeviceID
}

func (s *socket) name() deviceName { return deviceName{s.who.User, s.who.Device} }

func newSockets() *sockets {
	s := &sockets{byDevice: make(map[int64]*socket), byName: make(map[deviceName]*socket), polls: make(map[string]map[chan struct{}]struct{})}
	for i := range s.slots {
		s.slots[i] = make(map[*socket]struct{})
	}
	return s
}

// add takes s in and gives the older socket of the same device, or nil. ok is
// false when the server is going down.
func (k *sockets) add(s *socket) (older *socket, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, false
	}
	older = k.byDevice[s.who.DeviceNo]
	k.byDevice[s.who.DeviceNo], k.byName[s.name()] = s, s
	s.slot = k.next % pingSlots
	k.next++
	k.slots[s.slot][s] = struct{}{}
	k.open.Add(1)
	return older, true
}

// remove forgets s.
func (k *sockets) remove(s *socket) {
	k.mu.Lock()
	if k.byDevice[s.who.DeviceNo] == s {
		delete(k.byDevice, s.who.DeviceNo)
	}
	if k.byName[s.name()] == s {
		delete(k.byName, s.name())
	}
	delete(k.slots[s.slot], s)
	k.mu.Unlock()
	k.open.Done()
}

// of is the open socket of a device, or nil.
func (k *sockets) of(deviceNo int64) *socket {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byDevice[deviceNo]
}

// keysLow asks a device for one-time keys, if it is there.
func (k *sockets) keysLow(deviceNo int64) {
	if s := k.of(deviceNo); s != nil {
		s.send(&wire.ServerFrame{Type: wire.FrameKeysLow})
	}
}

// count is how many sockets are open.
func (k *sockets) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for i := range k.slots {
		n += len(k.slots[i])
	}
	return n
}

// slot lists the sockets of one slot.
func (k *sockets) inSlot(i int) []*socket {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*socket, 0, len(k.slots[i]))
	for s := range k.slots[i] {
		out = append(out, s)
	}
	return out
}

func (k *sockets) all() []*socket {
	var out []*socket
	for i := range k.slots {
		out = append(out, k.inSlot(i)...)
	}
	return out
}

// revoke closes what the sessions have open. It does not wait.
func (k *sockets) revoke(sessions []string) {
	ended := make(map[string]bool, len(sessions))
	for _, id := range sessions {
		ended[id] = true
	}
	for _, s := range k.all() {
		if ended[s.who.Session] {
			s.close(wire.CloseRevoked)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range ended {
		for poll := range k.polls[id] {
			close(poll)
		}
		delete(k.polls, id)
	}
}

// watch gives a channel that is closed when the session is revoked.
func (k *sockets) watch(session string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	poll := make(chan struct{})
	if k.polls[session] == nil {
		k.polls[session] = make(map[chan struct{}]struct{})
	}
	k.polls[session][poll] = struct{}{}
	return poll
}

func (k *sockets) unwatch(session string, poll chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.polls[session], poll)
	if len(k.polls[session]) == 0 {
		delete(k.polls, session)
	}
}

// closeAll takes no more sockets and closes those that are there.
func (k *sockets) closeAll(code wire.CloseCode) {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	for _, s := range k.all() {
		s.close(code)
	}
}

// wait returns when every socket is gone.
func (k *sockets) wait() { k.open.Wait() }

// drain tells every client to come back after a moment of its own and closes
// the sockets, spread over the time there is.
func (k *sockets) drain(ctx context.Context, a *API) {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	window := 2 * time.Second
	if until, ok := ctx.Deadline(); ok {
		window = time.Until(until) / 2 // the other half is for the answers
	}
	list := k.all()
	var closing sync.WaitGroup
	for i, s := range list {
		closing.Go(func() {
			// Clients come back to the next process, or to another node, over
			// some seconds more than the closing takes.
			s.send(&wire.ServerFrame{Type: wire.FrameDrain, RetryAfter: 500 + rand.Int64N(int64(max(1, window.Milliseconds()))+2_000)})
			pause(ctx, window*time.Duration(i)/time.Duration(max(1, len(list))))
			s.settle(ctx)
			s.close(wire.CloseDraining)
		})
	}
	closing.Wait()
	gone := make(chan struct{})
	go func() { k.wait(); close(gone) }()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

// pause waits for d or ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
