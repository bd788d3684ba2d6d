package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// troubleLine is the line of fed-trouble. Keys are only ever added.
type troubleLine struct {
	Scenario string  `json:"scenario"`
	Healthy  float64 `json:"healthy_msg_per_s"`  // to the healthy peer, the others suspended
	Troubled float64 `json:"troubled_msg_per_s"` // to the same, one other dead and one tarpitting
	Ratio    float64 `json:"ratio"`              // median of the pairs of runs that follow each other
	Errors   int64   `json:"errors"`

	Pairs     int       `json:"pairs"`
	Window    int       `json:"window"`
	Waiting   int       `json:"waiting"` // messages that wait for each of the others at the start
	Healthies []float64 `json:"runs_healthy_msg_per_s"`
	Troubles  []float64 `json:"runs_troubled_msg_per_s"`
	TroubledP float64   `json:"troubled_p95_ms"`
	HealthyP  float64   `json:"healthy_p95_ms"`
}

const (
	troublePairs   = 20
	troubleWindow  = 16
	troubleWaiting = 2000                   // messages for each peer in trouble
	troubleTrickle = 100 * time.Millisecond // between two more for each
	troubleSenders = 4                      // who write to a peer in trouble
)

// fedTrouble measures the way to a healthy peer with and without one dead and
// one tarpitting peer beside it, in turns, so that whatever else changes meets
// both.
func (b *bench) fedTrouble(ctx context.Context) error {
	one, err := b.serverOver("fed-trouble", "a.test", "h2")
	if err != nil {
		return err
	}
	defer b.discard(one)
	runs := 2 * b.runs
	senders, err := one.Accounts(ctx, "s", troublePairs*runs, true)
	if err != nil {
		return err
	}
	troubled, err := one.Accounts(ctx, "t", 2*troubleSenders, true)
	if err != nil {
		return err
	}
	if _, err := one.StartReady(ctx); err != nil {
		return err
	}
	healthy, recipients, err := b.peerOf(ctx, one, "b.test", senders)
	if err != nil {
		return err
	}
	defer b.discard(healthy)
	dead, lost, err := b.peerOf(ctx, one, "dead.test", troubled[:troubleSenders])
	if err != nil {
		return err
	}
	defer b.discard(dead)
	slow, stuck, err := b.peerOf(ctx, one, "tar.test", troubled[troubleSenders:])
	if err != nil {
		return err
	}
	defer b.discard(slow)
	dead.Stop()
	slow.Stop()
	pit, err := tarpit(slow)
	if err != nil {
		return err
	}
	defer pit()
	unreachable := append(append([]*rig.Account{}, lost...), stuck...)
	line := troubleLine{Scenario: "fed-trouble", Pairs: troublePairs, Window: troubleWindow, Waiting: troubleWaiting}
	if line.Errors, err = fillTo(ctx, one, troubled, unreachable, troubleWaiting/troubleSenders, 20*time.Second); err != nil {
		return fmt.Errorf("queue for the peers in trouble: %w", err)
	}
	var healthyP, troubledP []float64
	for i := range runs {
		inTrouble := i%2 == 1
		from, to := senders[:troublePairs], recipients[:troublePairs]
		senders, recipients = senders[troublePairs:], recipients[troublePairs:]
		f, err := b.besideTrouble(ctx, one, healthy, from, to, troubled, unreachable, inTrouble, uint32(i)*maxTrickle)
		if err != nil {
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n--- %s\n%s\n", one.Name, one.LogTail(), healthy.Name, healthy.LogTail())
			return err
		}
		line.Errors += f.errors
		if inTrouble {
			line.Troubles, troubledP = append(line.Troubles, round(f.msgPerS, 0)), append(troubledP, f.p95)
		} else {
			line.Healthies, healthyP = append(line.Healthies, round(f.msgPerS, 0)), append(healthyP, f.p95)
		}
	}
	line.Healthy, line.Troubled = median(line.Healthies), median(line.Troubles)
	var ratios []float64 // of neighbours in time
	for i := range line.Troubles {
		ratios = append(ratios, line.Troubles[i]/line.Healthies[i])
	}
	line.Ratio = round(median(ratios), 3)
	line.HealthyP, line.TroubledP = round(median(healthyP), 3), round(median(troubledP), 3)
	return print(line)
}

// peerOf makes a server that is a peer of one, with a recipient for each sender.
func (b *bench) peerOf(ctx context.Context, one *rig.Server, name clearbox.ServerName, senders []*rig.Account) (*rig.Server, []*rig.Account, error) {
	s, err := b.serverOver("fed-trouble", name, "h2")
	if err != nil {
		return nil, nil, err
	}
	recipients, err := b.join(ctx, one, s, senders)
	if err != nil {
		b.discard(s)
		return nil, nil, err
	}
	return s, recipients, nil
}

// maxTrickle bounds the messages that one sender adds to a queue in one run.
const maxTrickle = 1000

// besideTrouble measures one run. In trouble, the other peers are tried at once
// and more is written to them meanwhile; otherwise they are suspended.
func (b *bench) besideTrouble(ctx context.Context, one, healthy *rig.Server, from, to, troubled, unreachable []*rig.Account, inTrouble bool, first uint32) (figures, error) {
	verb := "suspend"
	if inTrouble {
		verb = "resume"
	}
	admin, err := one.Admin()
	if err != nil {
		return figures{}, err
	}
	defer admin.Close()
	for _, name := range []string{"dead.test", "tar.test"} {
		if err := admin.Do(ctx, http.MethodPost, "/admin/peers/"+name+"/"+verb, "", nil, nil); err != nil {
			return figures{}, fmt.Errorf("%s %s: %w", verb, name, err)
		}
	}
	if !inTrouble {
		pairs, err := connect(ctx, one, healthy, from, to)
		if err != nil {
			return figures{}, err
		}
		return b.timedRun(ctx, pairs, troubleWindow, one, healthy)
	}
	if err := tried(ctx, one); err != nil {
		return figures{}, err
	}
	stop, err := trickle(ctx, one, troubled, unreachable, first)
	if err != nil {
		return figures{}, err
	}
	pairs, err := connect(ctx, one, healthy, from, to)
	if err != nil {
		return figures{}, errors.Join(err, stop())
	}
	f, err := b.timedRun(ctx, pairs, troubleWindow, one, healthy)
	return f, errors.Join(err, stop())
}

// trickle keeps writing to peers in trouble until stop is called.
func trickle(ctx context.Context, s *rig.Server, senders, recipients []*rig.Account, first uint32) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	failed := make(chan error, 2*len(senders)) // capacity: each goroutine ends once
	for i := range senders {
		template, err := rig.NewTemplate(recipients[i])
		if err != nil {
			cancel()
			return nil, err
		}
		sock, err := open(ctx, s, senders[i], 2*i)
		if err != nil {
			cancel()
			return nil, err
		}
		wg.Go(func() { // ends when its socket is closed
			for {
				if _, _, err := sock.Next(); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			defer sock.Close()
			tick := time.NewTicker(troubleTrickle * troubleSenders)
			defer tick.Stop()
			for n := range uint32(maxTrickle) {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				sock.Queue(template.Message(uint32(i), first+n))
				if err := sock.Flush(); err != nil {
					failed <- fmt.Errorf("write to a peer in trouble: %w", err)
					return
				}
			}
		})
	}
	return func() error {
		cancel()
		wg.Wait()
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}, nil
}

// tarpit stands in a server's place: it takes every request over HTTP/2 and
// never answers. stop ends it.
func tarpit(s *rig.Server) (stop func(), err error) {
	ln, err := net.Listen("tcp", s.Address)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			buf := make([]byte, 1)
			for { // a byte now and then, so that the sender's window stays almost shut
				if _, err := r.Body.Read(buf); err != nil && !errors.Is(err, io.EOF) {
					return
				}
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Second):
				}
			}
		}),
		ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		srv.ServeTLS(ln, filepath.Join(s.Dir, "tls", "cert.pem"), filepath.Join(s.Dir, "tls", "key.pem"))
	})
	return func() {
		srv.Close()
		wg.Wait()
	}, nil
}
