package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// halfopenLine is what halfopen prints. Keys are only ever added.
type halfopenLine struct {
	Test       string  `json:"test"`
	Sent       int     `json:"sent"`
	Before     int     `json:"received_before"` // and acknowledged, before the line went dead
	Lost       int     `json:"lost"`
	Duplicated int     `json:"duplicated"` // acknowledged and sent again
	Reordered  int     `json:"reordered"`
	Detection  float64 `json:"detection_max_s"`
	Discarded  float64 `json:"detection_discarded_s"` // the network swallows everything
	Stalled    float64 `json:"detection_stalled_s"`   // the network takes nothing more
}

const halfopenSends = 1000

// halfopen is R3: two recipients whose lines go dead after the handshake, one
// of them swallowing what comes and one taking nothing, while 1,000 messages
// are sent to them. The server must notice within 45 seconds, and nothing may
// be lost after they return.
func (s *suite) halfopen(ctx context.Context) (verdict, error) {
	v := verdict{}
	srv, err := s.server("halfopen", rig.Setup{Name: "a.test"})
	if err != nil {
		return v, err
	}
	people, err := srv.Accounts(ctx, "p", 4, true)
	if err != nil {
		return v, err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return v, err
	}
	defer srv.Stop()
	line := halfopenLine{Test: "halfopen"}
	var dead []*deadEnd
	for i, stall := range []bool{false, true} {
		d, err := newDeadEnd(ctx, srv, people[2*i], people[2*i+1], i, stall)
		if err != nil {
			return v, err
		}
		defer d.close()
		dead = append(dead, d)
	}
	for _, d := range dead {
		if err := d.exchange(ctx, s.scaled(halfopenSends)/2); err != nil {
			return v, err
		}
	}
	if err := detect(ctx, srv, dead); err != nil {
		return v, err
	}
	line.Discarded, line.Stalled = tidy(dead[0].detected.Seconds()), tidy(dead[1].detected.Seconds())
	line.Detection = max(line.Discarded, line.Stalled)
	for _, d := range dead {
		line.Sent += d.sent
		line.Before += d.before
		if err := d.comeBack(ctx, &line); err != nil {
			return v, err
		}
	}
	v.line = line
	v.demand(line.Lost == 0, "%d messages were lost", line.Lost)
	v.demand(line.Duplicated == 0 && line.Reordered == 0, "%d messages came again after their acknowledgement, %d out of order", line.Duplicated, line.Reordered)
	v.demand(line.Detection <= 45, "a dead line was noticed after %.1f s", line.Detection)
	return v, nil
}

// deadEnd is a sender, a recipient behind a proxy, and what happened to them.
type deadEnd struct {
	srv          *rig.Server
	from         *rig.Account
	to           *rig.Account
	no           int
	proxy        *proxy
	sender       *rig.Socket
	recipient    *rig.Socket
	template     *rig.Template
	sent, before int
	cut          time.Time
	detected     time.Duration
}

func newDeadEnd(ctx context.Context, srv *rig.Server, from, to *rig.Account, no int, stall bool) (d *deadEnd, err error) {
	d = &deadEnd{srv: srv, from: from, to: to, no: no}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.template, err = rig.NewTemplate(to); err != nil {
		return d, err
	}
	if d.proxy, err = newProxy(srv.Address, stall); err != nil {
		return d, err
	}
	if d.sender, err = greeted(ctx, srv, from, rig.Via{Source: rig.Source(2 * no)}); err != nil {
		return d, err
	}
	d.recipient, err = greeted(ctx, srv, to, rig.Via{Address: d.proxy.address()})
	return d, err
}

// greeted opens a socket and reads the welcome.
func greeted(ctx context.Context, srv *rig.Server, a *rig.Account, via rig.Via) (*rig.Socket, error) {
	sock, err := srv.Dial(ctx, a.Access, via)
	if err != nil {
		return nil, err
	}
	if err := sock.Welcome(); err != nil {
		sock.Close()
		return nil, err
	}
	return sock, nil
}

// exchange sends n messages. The first tenth is received and acknowledged;
// then the line goes dead.
func (d *deadEnd) exchange(ctx context.Context, n int) error {
	d.before = n / 10
	if err := d.send(ctx, d.before); err != nil {
		return err
	}
	d.recipient.SetDeadline(time.Now().Add(20 * time.Second))
	var seq int64
	for got := 0; got < d.before; {
		frame, _, err := d.recipient.Next()
		if err != nil {
			return err
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return err
		}
		if e.Type == wire.FrameReceive {
			got, seq = got+1, e.Seq
		}
	}
	d.recipient.Queue(rig.AppendAck(nil, seq))
	if err := d.recipient.Flush(); err != nil {
		return err
	}
	if err := d.acknowledged(ctx, seq); err != nil {
		return err
	}
	d.proxy.blackhole()
	d.cut = time.Now()
	return d.send(ctx, n-d.before)
}

// acknowledged waits until the server has taken the acknowledgement, which has
// no answer: the next /sync of the same device tells.
func (d *deadEnd) acknowledged(ctx context.Context, seq int64) error {
	c := d.srv.Client(rig.Via{Source: rig.Source(100 + d.no)})
	defer c.Close()
	var out wire.Sync
	for range 100 {
		if err := c.Do(ctx, "GET", "/sync?timeout=0", d.to.Access, nil, &out); err != nil {
			return fmt.Errorf("ask for the state of the mailbox: %w", err)
		}
		if out.Acked >= seq {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the server has acknowledged %d of %d", out.Acked, seq)
}

func (d *deadEnd) send(ctx context.Context, n int) error {
	d.sender.SetDeadline(time.Now().Add(60 * time.Second))
	for range n {
		d.sender.Queue(d.template.Message(uint32(d.no), uint32(d.sent)))
		if err := d.sender.Flush(); err != nil {
			return err
		}
		for answered := false; !answered; {
			frame, _, err := d.sender.Next()
			if err != nil {
				return err
			}
			e, err := rig.ReadEvent(frame)
			if err != nil {
				return err
			}
			if e.Type == wire.FrameError {
				return fmt.Errorf("message %d was refused: %s", d.sent, e.Code)
			}
			answered = e.Type == wire.FrameSent
		}
		d.sent++
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// detect waits until the server has closed its side of the dead lines.
func detect(ctx context.Context, srv *rig.Server, dead []*deadEnd) error {
	left := len(dead)
	for left > 0 {
		open, err := srv.Established()
		if err != nil {
			return err
		}
		for _, d := range dead {
			since := time.Since(d.cut)
			if d.detected == 0 && !open[d.proxy.local()] {
				d.detected = since
				left--
			}
			if d.detected == 0 && since > 2*time.Minute {
				return errors.New("a dead line was not noticed within two minutes")
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// comeBack reads everything on a new line.
func (d *deadEnd) comeBack(ctx context.Context, line *halfopenLine) error {
	sock, err := greeted(ctx, d.srv, d.to, rig.Via{Source: rig.Source(2*d.no + 1)})
	if err != nil {
		return err
	}
	defer sock.Close()
	var got []int
	for {
		sock.SetDeadline(time.Now().Add(2 * time.Second))
		frame, _, err := sock.Next()
		if err != nil {
			break // quiet
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return err
		}
		if _, n, ok := e.Origin(); ok {
			got = append(got, int(n))
			sock.Queue(rig.AppendAck(nil, e.Seq))
			sock.Flush()
		}
	}
	if !slices.IsSorted(got) {
		line.Reordered++
	}
	seen := map[int]bool{}
	for _, n := range got {
		if n < d.before || seen[n] {
			line.Duplicated++
		}
		seen[n] = true
	}
	for n := d.before; n < d.sent; n++ {
		if !seen[n] {
			line.Lost++
		}
	}
	return nil
}

func (d *deadEnd) close() {
	if d.sender != nil {
		d.sender.Close()
	}
	if d.recipient != nil {
		d.recipient.Close()
	}
	if d.proxy != nil {
		d.proxy.close()
	}
}
