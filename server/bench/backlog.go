package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// backlogLine is the line of fed-backlog. Keys are only ever added.
type backlogLine struct {
	Scenario  string  `json:"scenario"`
	Queued    int     `json:"queued"`
	Drain     float64 `json:"drain_s"` // from the peer's readiness to the last message at its recipient
	PerS      float64 `json:"drain_msg_per_s"`
	Growth    float64 `json:"rss_growth_mib"` // of the sending server, from before the peer's return to its highest
	Reordered int64   `json:"reordered"`      // messages that came before an earlier one of the same pair
	Errors    int64   `json:"errors"`

	Pairs    int     `json:"pairs"`
	Fill     float64 `json:"fill_msg_per_s"`
	RSS      float64 `json:"rss_before_mib"` // of the sending server, with everything queued
	Receiver float64 `json:"receiver_rss_mib"`
	First    float64 `json:"first_s"` // from the peer's readiness to the first message
}

const (
	backlogPairs  = 100
	backlogShare  = 1000 // messages of one pair: the burst of one account
	backlogWindow = 16
	backlogLimit  = 50 * time.Second
)

// fedBacklog queues 100,000 envelopes for a peer that is away, lets it come back
// and times until each recipient's socket has the last one.
func (b *bench) fedBacklog(ctx context.Context) error {
	one, two, senders, recipients, err := b.houses(ctx, "fed-backlog", backlogPairs)
	if err != nil {
		return err
	}
	defer b.discard(one)
	defer b.discard(two)
	two.Stop()
	line := backlogLine{Scenario: "fed-backlog", Pairs: backlogPairs, Queued: backlogPairs * backlogShare}
	began := time.Now()
	if line.Errors, err = fillTo(ctx, one, senders, recipients, backlogShare, backlogLimit); err != nil {
		return fmt.Errorf("fill the queue: %w", err)
	}
	line.Fill = round(float64(line.Queued)/time.Since(began).Seconds(), 0)
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	before, err := rig.CostOf(one.PID())
	if err != nil {
		return err
	}
	line.RSS = round(before.RSS, 1)
	if _, err := two.StartReady(ctx); err != nil {
		return err
	}
	watch := watchRSS(one)
	defer watch.stop()
	came, err := arrivals(ctx, two, recipients, backlogShare)
	if err != nil {
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n--- %s\n%s\n", one.Name, one.LogTail(), two.Name, two.LogTail())
		return err
	}
	line.Drain, line.First = round(came.last.Seconds(), 2), round(came.first.Seconds(), 2)
	line.PerS = round(float64(line.Queued)/came.last.Seconds(), 0)
	line.Reordered, line.Errors = came.reordered, line.Errors+came.errors
	line.Growth = round(max(0, watch.stop()-before.RSS), 1)
	after, err := rig.CostOf(two.PID())
	if err != nil {
		return err
	}
	line.Receiver = round(after.Peak, 1)
	return print(line)
}

// houses makes two servers that are peers, and pairs who know each other.
func (b *bench) houses(ctx context.Context, scenario string, pairs int) (one, two *rig.Server, senders, recipients []*rig.Account, err error) {
	if one, err = b.serverOver(scenario, "a.test", "h2"); err != nil {
		return nil, nil, nil, nil, err
	}
	if two, err = b.serverOver(scenario, "b.test", "h2"); err != nil {
		return nil, nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			b.discard(one)
			b.discard(two)
		}
	}()
	if senders, err = one.Accounts(ctx, "s", pairs, true); err != nil {
		return nil, nil, nil, nil, err
	}
	if _, err = one.StartReady(ctx); err != nil {
		return nil, nil, nil, nil, err
	}
	if recipients, err = b.join(ctx, one, two, senders); err != nil {
		return nil, nil, nil, nil, err
	}
	return one, two, senders, recipients, nil
}

// join starts a server with a recipient for each sender of one, lets both
// become peers and looks the recipients up.
func (b *bench) join(ctx context.Context, one, peer *rig.Server, senders []*rig.Account) ([]*rig.Account, error) {
	recipients, err := peer.Accounts(ctx, "r", len(senders), true)
	if err != nil {
		return nil, err
	}
	if err := peer.Tokens(ctx, recipients); err != nil {
		return nil, err
	}
	if _, err := peer.StartReady(ctx); err != nil {
		return nil, err
	}
	if err := rig.Peer(ctx, one, peer); err != nil {
		return nil, err
	}
	return recipients, lookUp(ctx, one, senders, recipients)
}

// fillTo hands in share messages of each sender for its recipient and waits for
// the answers, not for the deliveries.
func fillTo(ctx context.Context, srv *rig.Server, senders, recipients []*rig.Account, share uint32, limit time.Duration) (int64, error) {
	var pairs []*pair
	defer func() {
		for _, p := range pairs {
			p.from.Close()
		}
	}()
	for i, a := range senders {
		sock, err := open(ctx, srv, a, 2*i)
		if err != nil {
			return 0, err
		}
		p := &pair{no: uint32(i), from: sock, state: make([]uint8, share), sentAt: make([]int64, share)}
		pairs = append(pairs, p)
		if p.template, err = rig.NewTemplate(recipients[i]); err != nil {
			return 0, err
		}
	}
	f := newFlow(pairs, backlogWindow, share)
	f.away = true
	f.start()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-f.drained:
	case <-ctx.Done():
	case <-timer.C:
		f.fail("%d messages were answered within %s", f.done.Load(), limit)
	}
	f.stopped.Store(true)
	for _, p := range pairs {
		p.from.Close()
	}
	f.readers.Wait()
	return f.errors.Load(), errors.Join(ctx.Err(), f.errorsAreFatal(int64(len(senders))*int64(share)))
}

// came is what arrived at the recipients of a backlog.
type came struct {
	first, last       time.Duration
	reordered, errors int64
}

// arrivals reads what each recipient gets until all have share messages.
func arrivals(ctx context.Context, srv *rig.Server, recipients []*rig.Account, share int) (came, error) {
	var out came
	var first atomic.Int64
	began := time.Now()
	failed := make(chan error, len(recipients)) // capacity: each ends once
	var mu sync.Mutex
	var readers sync.WaitGroup
	for i, r := range recipients {
		sock, err := open(ctx, srv, r, 2*i+1)
		if err != nil {
			return out, err
		}
		readers.Go(func() {
			defer sock.Close()
			sock.SetDeadline(began.Add(backlogLimit))
			reordered, errs, err := receive(sock, uint32(i), share, func() { first.CompareAndSwap(0, int64(time.Since(began))) })
			mu.Lock()
			out.reordered, out.errors = out.reordered+reordered, out.errors+errs
			mu.Unlock()
			failed <- err
		})
	}
	readers.Wait()
	out.last, out.first = time.Since(began), time.Duration(first.Load())
	for range recipients {
		if err := <-failed; err != nil {
			return out, err
		}
	}
	return out, nil
}

// receive reads share messages of one pair.
func receive(sock *rig.Socket, no uint32, share int, got func()) (reordered, errs int64, err error) {
	seen := make([]bool, share)
	var ack []byte
	var seq int64
	next := uint32(0)
	for n := 0; n < share; {
		frame, more, err := sock.Next()
		if err != nil {
			return reordered, errs, fmt.Errorf("recipient %d after %d messages: %w", no, n, err)
		}
		e, err := rig.ReadEvent(frame)
		if err != nil {
			return reordered, errs, err
		}
		if e.Type == wire.FrameReceive {
			got()
			sender, i, ok := e.Origin()
			switch {
			case !ok || sender != no || int(i) >= share || seen[i]:
				errs++
			default:
				if i < next {
					reordered++
				}
				next = max(next, i+1)
				seen[i] = true
				n++
			}
			seq = e.Seq
		}
		if seq > 0 && (!more || n == share) {
			ack = rig.AppendAck(ack[:0], seq)
			sock.Queue(ack)
			if err := sock.Flush(); err != nil {
				return reordered, errs, err
			}
		}
	}
	return reordered, errs, nil
}

// rssWatch keeps the highest memory of a server that it saw.
type rssWatch struct {
	end     chan struct{}
	done    chan struct{}
	once    sync.Once
	highest float64 // MiB; read after done
}

func watchRSS(s *rig.Server) *rssWatch {
	w := &rssWatch{end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if c, err := rig.CostOf(s.PID()); err == nil {
				w.highest = max(w.highest, c.RSS)
			}
			select {
			case <-w.end:
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

// stop ends the watch and gives the highest value.
func (w *rssWatch) stop() float64 {
	w.once.Do(func() { close(w.end) })
	<-w.done
	return w.highest
}

// tried has a server try its peers now.
func tried(ctx context.Context, s *rig.Server) error {
	admin, err := s.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	return admin.Do(ctx, http.MethodPost, "/admin/fed/retry", "", &wire.AdminFedRetry{}, nil)
}
