// Package linking is responsible for the rooms in which a new device and one of
// an account's own meet: bounded mailboxes in memory, one for each direction, in
// which they leave what the server cannot read. Whoever knows a room's id, 128
// random bits that the new device shows, may use the new device's side; the other
// side takes a session, whose account the room then belongs to.
//
// It is not responsible for what the devices agree on (crypto/vault), nor for the
// device list (server/directory). Nothing of it is stored: who restarts the server
// has people begin again.
package linking

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

// Limits of rooms.
const (
	Life       = 10 * time.Minute // of a room in which nothing is handed over
	LifeBusy   = 2 * time.Minute  // after the last message of the account's device
	LifeMost   = time.Hour        // of any room
	NewMost    = 8                // messages of the new device in a room
	Window     = 4                // messages of the account's device that wait to be fetched
	perAccount = 4                // rooms at a time
)

// Side is who wrote a message.
type Side int

// The sides.
const (
	Newcomer Side = iota // the device that wants to be linked
	Owner                // a device of the account
)

// Options of a Service. Zero values mean the defaults named beside them.
type Options struct {
	Now        func() time.Time // time.Now
	Rooms      int              // at a time: 1,024
	PerAddress int              // rooms that one address has open: 8
	MaxBytes   int              // of all messages together: 64 MiB
}

// Message is one message of a room. N counts from 1, in each direction.
type Message struct {
	N    int64
	Body []byte
}

// Service keeps rooms. It is safe for concurrent use.
type Service struct {
	o       Options
	openers *throttle.Buckets // rooms opened, by address

	mu    sync.Mutex // guards all below
	rooms map[clearbox.MessageID]*room
	bytes int
}

// room is what two devices share. Its fields are guarded by Service.mu.
type room struct {
	client  string
	account int64 // 0 until a device of an account has spoken
	opened  time.Time
	expires time.Time
	sides   [2]queue
	changed chan struct{} // closed, and replaced, by each change
}

// queue is the messages of one side that were not fetched yet.
type queue struct {
	last    int64 // number of the newest message
	newest  []byte
	waiting []Message
}

// New makes a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rooms == 0 {
		o.Rooms = 1024
	}
	if o.PerAddress == 0 {
		o.PerAddress = 8
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
	return &Service{o: o, rooms: map[clearbox.MessageID]*room{}, openers: throttle.New(10, time.Minute, 10_000)}
}

func absent() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no such link, or no longer: begin again on the new device")
}

// Open makes a room with the first message of the new device, and tells until
// when it is there. client is the opaque key of its address. The same again is no
// error; conflict if the id is taken; rate_limited for an address that has too
// many, unavailable when the server has.
func (s *Service) Open(id clearbox.MessageID, client string, body []byte) (clearbox.Millis, error) {
	now := s.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	if r := s.rooms[id]; r != nil {
		if r.client != client || r.sides[Newcomer].last != 1 || !bytes.Equal(r.sides[Newcomer].newest, body) {
			return 0, clearbox.Errorf(clearbox.CodeConflict, "this link is in use already")
		}
		return clearbox.Millis(r.expires.UnixMilli()), nil
	}
	if err := s.openers.Take(now, client); err != nil {
		return 0, err
	}
	mine := 0
	for _, r := range s.rooms {
		if r.client == client {
			mine++
		}
	}
	if mine >= s.o.PerAddress {
		return 0, throttle.Limited(LifeBusy)
	}
	if len(s.rooms) >= s.o.Rooms || s.bytes+len(body) > s.o.MaxBytes {
		return 0, &throttle.Error{Code: clearbox.CodeUnavailable, After: LifeBusy, Text: "too many devices are being linked; try again later"}
	}
	r := &room{client: client, opened: now, expires: now.Add(Life), changed: make(chan struct{})}
	s.rooms[id] = r
	s.add(r, Newcomer, body)
	return clearbox.Millis(r.expires.UnixMilli()), nil
}

// Put adds message n of a side. Account is whose session speaks for Owner, and 0 for
// Newcomer. The first one of Owner takes the room for its account. Message n again is no
// error while it is the newest. Where Window messages wait to be fetched, it waits
// until ctx ends, and is rate_limited then. not_found for rooms that are not
// there, or are another account's; conflict for a number out of turn.
func (s *Service) Put(ctx context.Context, id clearbox.MessageID, side Side, account, n int64, body []byte) error {
	for {
		wait, err := s.put(id, side, account, n, body)
		if wait == nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return throttle.Limited(time.Second)
		}
	}
}

func (s *Service) put(id clearbox.MessageID, side Side, account, n int64, body []byte) (wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	s.sweep(now)
	r, err := s.enter(id, side, account)
	if err != nil {
		return nil, err
	}
	q := &r.sides[side]
	switch {
	case n == q.last && bytes.Equal(q.newest, body):
		return nil, nil
	case n != q.last+1:
		return nil, clearbox.Errorf(clearbox.CodeConflict, "that is message %d, and %d is next", n, q.last+1)
	case side == Newcomer && n > NewMost:
		return nil, clearbox.Errorf(clearbox.CodeQuota, "the new device has said enough: begin again")
	case side == Owner && len(q.waiting) >= Window:
		return r.changed, nil
	case s.bytes+len(body) > s.o.MaxBytes:
		return nil, &throttle.Error{Code: clearbox.CodeUnavailable, After: time.Second, Text: "too many devices are being linked; try again later"}
	}
	if side == Owner {
		if r.account == 0 && s.has(account) >= perAccount {
			return nil, throttle.Limited(LifeBusy)
		}
		r.account = account
		if until := now.Add(LifeBusy); until.After(r.expires) {
			r.expires = until
		}
		if most := r.opened.Add(LifeMost); r.expires.After(most) {
			r.expires = most
		}
	}
	s.add(r, side, body)
	return nil, nil
}

// Get gives the messages of a side that come after number after, and forgets those
// up to it. It waits for one until ctx ends, and gives none then.
func (s *Service) Get(ctx context.Context, id clearbox.MessageID, side Side, account, after int64) ([]Message, error) {
	for {
		got, wait, err := s.get(id, side, account, after)
		if err != nil || len(got) > 0 {
			return got, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

func (s *Service) get(id clearbox.MessageID, side Side, account, after int64) ([]Message, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(s.o.Now())
	reader := Owner
	if side == Owner {
		reader = Newcomer
	}
	r, err := s.enter(id, reader, account)
	if err != nil {
		return nil, nil, err
	}
	q := &r.sides[side]
	dropped := false
	for len(q.waiting) > 0 && q.waiting[0].N <= after {
		s.bytes -= len(q.waiting[0].Body)
		q.waiting, dropped = q.waiting[1:], true
	}
	if dropped {
		r.change()
	}
	return append([]Message(nil), q.waiting...), r.changed, nil
}

// Account is whose the room is: who knows its id and the key of a device that the
// account has gets a session of it. not_found while it is nobody's.
func (s *Service) Account(id clearbox.MessageID) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(s.o.Now())
	r := s.rooms[id]
	if r == nil || r.account == 0 {
		return 0, absent()
	}
	return r.account, nil
}

// enter finds a room for somebody who speaks for a side of it.
func (s *Service) enter(id clearbox.MessageID, side Side, account int64) (*room, error) {
	r := s.rooms[id]
	if r == nil || side == Owner && r.account != 0 && r.account != account {
		return nil, absent()
	}
	return r, nil
}

// has counts the rooms of an account.
func (s *Service) has(account int64) (n int) {
	for _, r := range s.rooms {
		if r.account == account {
			n++
		}
	}
	return n
}

func (s *Service) add(r *room, side Side, body []byte) {
	q := &r.sides[side]
	q.last++
	q.newest = body
	q.waiting = append(q.waiting, Message{q.last, body})
	s.bytes += len(body)
	r.change()
}

func (r *room) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// sweep forgets rooms whose time is over.
func (s *Service) sweep(now time.Time) {
	for id, r := range s.rooms {
		if now.Before(r.expires) {
			continue
		}
		for side := range r.sides {
			for _, m := range r.sides[side].waiting {
				s.bytes -= len(m.Body)
			}
		}
		delete(s.rooms, id)
		r.change()
	}
}
