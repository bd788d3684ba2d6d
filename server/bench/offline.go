package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// offlineLine is a line of offline. Keys are only ever added.
type offlineLine struct {
	Scenario string  `json:"scenario"`
	Queued   int     `json:"queued"`
	Fill     float64 `json:"fill_msg_per_s"`
	Drain    float64 `json:"drain_s"` // login, socket and all messages
	Login    float64 `json:"login_s"` // the part of drain_s that is the login
	CPU      float64 `json:"srv_cpu_s_per_1k"`
	RSS      float64 `json:"srv_rss_mib"`
	Errors   int64   `json:"errors"`

	Senders int       `json:"senders"`
	Window  int       `json:"window"`
	Written float64   `json:"written_kib_per_msg"`
	Runs    []float64 `json:"runs_drain_s"`
	Fills   []float64 `json:"runs_fill_msg_per_s"`
}

const (
	queued         = 10_000
	offlineSenders = 50 // 200 messages each: below the burst of one account
	offlineWindow  = 16
)

// offline fills the mailbox of a device that is away, lets it log in with its
// password at the shipped cost, and times until it has the last message.
func (b *bench) offline(ctx context.Context) error {
	srv, err := b.server("offline", "a.test")
	if err != nil {
		return err
	}
	defer b.discard(srv)
	senders, err := srv.Accounts(ctx, "s", offlineSenders*b.runs, true)
	if err != nil {
		return err
	}
	recipients, err := srv.Accounts(ctx, "r", b.runs, false)
	if err != nil {
		return err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return err
	}
	line := offlineLine{Scenario: "offline", Queued: queued, Senders: offlineSenders, Window: offlineWindow}
	var logins, cpu, written []float64
	for i := range b.runs {
		r, err := offlineRun(ctx, srv, senders[i*offlineSenders:(i+1)*offlineSenders], recipients[i], i)
		if err != nil {
			return err
		}
		line.Fills = append(line.Fills, round(r.fill, 0))
		line.Runs = append(line.Runs, round(r.drain, 3))
		logins, cpu, written = append(logins, r.login), append(cpu, r.cpu), append(written, r.written)
		line.Errors += r.errors
		line.RSS = max(line.RSS, round(r.rss, 1))
	}
	line.Fill, line.Drain, line.Login = median(line.Fills), median(line.Runs), round(median(logins), 3)
	line.CPU, line.Written = round(median(cpu), 4), round(median(written), 2)
	return print(line)
}

type offlineFigures struct {
	fill, drain, login, cpu, rss, written float64
	errors                                int64
}

func offlineRun(ctx context.Context, srv *rig.Server, senders []*rig.Account, to *rig.Account, run int) (offlineFigures, error) {
	var r offlineFigures
	before, err := costs([]*rig.Server{srv})
	if err != nil {
		return r, err
	}
	took, errs, err := fill(ctx, srv, senders, to)
	if err != nil {
		return r, fmt.Errorf("fill the queue: %w", err)
	}
	r.fill, r.errors = queued/took.Seconds(), errs

	began := time.Now()
	c := srv.Client(rig.Via{Source: rig.Source(1000 + run)})
	defer c.Close()
	if err := c.Login(ctx, to); err != nil {
		return r, err
	}
	r.login = time.Since(began).Seconds()
	sock, err := srv.Dial(ctx, to.Access, rig.Via{Source: rig.Source(1000 + run)})
	if err != nil {
		return r, err
	}
	defer sock.Close()
	if err := drain(sock, queued-int(errs)); err != nil {
		return r, err
	}
	r.drain = time.Since(began).Seconds()
	after, err := costs([]*rig.Server{srv})
	r.cpu, r.rss = (after.cpu-before.cpu)/queued*1000, after.peak
	r.written = float64(after.written-before.written) / 1024 / queued
	return r, err
}

// fill sends until every message was answered; the time is from the first send
// to the last answer.
func fill(ctx context.Context, srv *rig.Server, senders []*rig.Account, to *rig.Account) (time.Duration, int64, error) {
	share := uint32(queued / len(senders))
	var pairs []*pair
	defer func() {
		for _, p := range pairs {
			p.from.Close()
		}
	}()
	for i, a := range senders {
		sock, err := open(ctx, srv, a, i)
		if err != nil {
			return 0, 0, err
		}
		p := &pair{no: uint32(i), from: sock, state: make([]uint8, share), sentAt: make([]int64, share)}
		pairs = append(pairs, p)
		if p.template, err = rig.NewTemplate(to); err != nil {
			return 0, 0, err
		}
	}
	f := newFlow(pairs, offlineWindow, share)
	f.away = true
	f.start()
	select {
	case <-f.drained:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-time.After(30 * time.Second):
		return 0, 0, errors.Join(errors.New("the queue was not filled within 30 seconds"), f.err())
	}
	took := time.Since(f.began)
	f.stopped.Store(true)
	for _, p := range pairs {
		p.from.Close()
	}
	f.readers.Wait()
	return took, f.errors.Load(), f.errorsAreFatal(queued)
}

// drain reads until n messages are there, acknowledging at the end of each burst.
func drain(sock *rig.Socket, n int) error {
	sock.SetDeadline(time.Now().Add(30 * time.Second))
	seen := make(map[uint64]bool, n)
	var seq int64
	var ack []byte
	for len(seen) < n {
		frame, more, err := sock.Next()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", len(seen), err)
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return err
		}
		if e.Type == wire.FrameReceive {
			sender, i, ok := e.Origin()
			key := uint64(sender)<<32 | uint64(i)
			if !ok || seen[key] || e.Seq <= seq {
				return fmt.Errorf("message %d is wrong: known %t, again %t, sequence %d after %d", len(seen), ok, seen[key], e.Seq, seq)
			}
			seen[key] = true
			seq = e.Seq
		}
		if seq > 0 && (!more || len(seen) == n) {
			ack = rig.AppendAck(ack[:0], seq)
			sock.Queue(ack)
			if err := sock.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
