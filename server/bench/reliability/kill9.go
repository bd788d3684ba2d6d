package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// kill9Line is what kill9 prints. Keys are only ever added.
type kill9Line struct {
	Test          string  `json:"test"`
	Sent          int     `json:"sent"`
	Kills         int     `json:"kills"`
	Unanswered    int     `json:"unanswered_at_kills"` // the fewest at one kill
	Lost          int     `json:"lost"`                // acknowledged and not shown
	Duplicated    int     `json:"duplicated"`          // shown more than once
	Reordered     int     `json:"reordered"`           // shown before an earlier one of the same sender
	UnansweredSum int     `json:"unanswered_total"`
	Undecryptable int     `json:"undecryptable"`
	Queued        int     `json:"still_queued"` // never accepted until the end
	Failed        int     `json:"failed"`       // reported as failed to the sender
	Both          int     `json:"shown_and_failed"`
	ReadyMax      float64 `json:"ready_max_s"`
	ReadyMedian   float64 `json:"ready_p50_s"`
	Remote        int     `json:"sent_across_servers"`
	CatchUp       float64 `json:"catch_up_s"` // from the last send until everything was shown
}

const (
	killClients  = 50
	killSends    = 10_000
	killKills    = 20
	killContacts = 4
	killPace     = 100 // sends a second, of all clients together
)

// kill9 is R1: real clients write to each other over two servers while either
// server is killed again and again, each time with sends under way.
func (s *suite) kill9(ctx context.Context) (verdict, error) {
	w, err := s.killWorld(ctx)
	if w != nil {
		defer w.close()
	}
	if err != nil {
		return verdict{}, err
	}
	if err := w.run(ctx); err != nil {
		return verdict{}, err
	}
	line, err := w.judge(ctx)
	if err != nil {
		return verdict{}, err
	}
	v := verdict{line: line}
	v.demand(line.Lost == 0, "%d acknowledged messages were lost", line.Lost)
	v.demand(line.Duplicated == 0, "%d messages were shown twice", line.Duplicated)
	v.demand(line.Reordered == 0, "%d messages were shown out of order", line.Reordered)
	v.demand(line.Undecryptable == 0, "%d messages could not be decrypted", line.Undecryptable)
	v.demand(line.Queued == 0 && line.Failed == 0, "%d messages were not accepted and %d failed", line.Queued, line.Failed)
	v.demand(line.Unanswered >= 20, "only %d sends were unanswered at one kill", line.Unanswered)
	v.demand(line.ReadyMax <= 2, "a server needed %.2f s to be ready again", line.ReadyMax)
	return v, nil
}

type killWorld struct {
	servers []*rig.Server
	gates   []*gate
	people  []*person
	random  *rand.Rand
	sends   int
	kills   int
	clients int
	pace    int                         // sends a second, of all clients together
	torment func(context.Context) error // what happens while the clients write

	running  sync.WaitGroup // brains
	stopRun  context.CancelFunc
	runErr   atomic.Pointer[error]
	sent     atomic.Int64
	lastSend time.Time

	ready      []float64
	unanswered []int
	catchUp    time.Duration
}

func (s *suite) killWorld(ctx context.Context) (*killWorld, error) {
	w := &killWorld{random: s.random("kill9"), sends: s.scaled(killSends), kills: s.scaled(killKills), clients: killClients, pace: killPace}
	w.torment = w.killAll
	return w, w.assemble(ctx, s, "kill9", func(name clearbox.ServerName) (*rig.Server, error) {
		return s.server("kill9", rig.Setup{Name: name, Extra: "registration:\n  mode: open\n"})
	})
}

// assemble starts two servers that are peers, and clients of both who know each
// other.
func (w *killWorld) assemble(ctx context.Context, s *suite, test string, server func(clearbox.ServerName) (*rig.Server, error)) error {
	for _, name := range []clearbox.ServerName{"a.test", "b.test"} {
		srv, err := server(name)
		if err != nil {
			return err
		}
		if _, err := srv.StartReady(ctx); err != nil {
			return err
		}
		w.servers, w.gates = append(w.servers, srv), append(w.gates, &gate{})
	}
	if err := rig.Peer(ctx, w.servers[0], w.servers[1]); err != nil {
		return err
	}
	dir := filepath.Join(s.dir, test, "vaults")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for i := range w.clients {
		p, err := join(ctx, dir, i, w.servers[i%2], w.gates[i%2])
		if err != nil {
			return err
		}
		w.people = append(w.people, p)
	}
	return w.meet(ctx)
}

// contacts of person i: neighbours at both servers.
func (w *killWorld) contacts(i int) []*person {
	var out []*person
	for k := 1; k <= killContacts; k++ {
		out = append(out, w.people[(i+k)%len(w.people)])
	}
	return out
}

// meet lets everybody look up their contacts and connect.
func (w *killWorld) meet(ctx context.Context) error {
	for i, p := range w.people {
		for _, c := range w.contacts(i) {
			if _, err := p.brain.Lookup(ctx, c.address); err != nil {
				return fmt.Errorf("person %d looks up %d: %w", i, c.no, err)
			}
		}
	}
	runCtx, stop := context.WithCancel(ctx)
	w.stopRun = stop
	for _, p := range w.people {
		w.running.Go(func() {
			if err := p.brain.Run(runCtx); err != nil && runCtx.Err() == nil {
				err = fmt.Errorf("the brain of person %d gave up: %w", p.no, err)
				w.runErr.CompareAndSwap(nil, &err)
			}
		})
	}
	return nil
}

// run sends at a steady pace and kills meanwhile.
func (w *killWorld) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var senders sync.WaitGroup
	var failed atomic.Pointer[error]
	fail := func(err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
			cancel()
		}
	}
	finished := make(chan struct{})
	for i, p := range w.people {
		r := rand.New(rand.NewPCG(w.random.Uint64(), uint64(i)))
		senders.Go(func() { fail(w.write(ctx, i, p, r)) })
	}
	go func() {
		senders.Wait()
		close(finished)
	}()
	fail(w.torment(ctx))
	<-finished
	w.lastSend = time.Now()
	if err := failed.Load(); err != nil {
		return *err
	}
	return w.settle(ctx)
}

// write is one sender: its share of the messages at its share of the pace, to
// its contacts in turn.
func (w *killWorld) write(ctx context.Context, i int, p *person, r *rand.Rand) error {
	contacts := w.contacts(i)
	share := w.sends / len(w.people)
	pause := time.Second * time.Duration(len(w.people)) / time.Duration(w.pace)
	for n := range share {
		if err := sleep(ctx, time.Duration(float64(pause)*(0.5+r.Float64()))); err != nil {
			return err
		}
		to := contacts[n%len(contacts)]
		if _, err := p.brain.Send(ctx, to.user, fmt.Sprintf("%d %d", i, n)); err != nil {
			return fmt.Errorf("person %d writes: %w", i, err)
		}
		w.sent.Add(1)
	}
	return nil
}

// killAll spreads the kills over the sends.
func (w *killWorld) killAll(ctx context.Context) error {
	for k := range w.kills {
		slot := float64(w.sends) / float64(w.kills+1)
		due := int64(slot * (float64(k) + 0.5 + w.random.Float64()*0.5))
		for w.sent.Load() < due {
			if err := sleep(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		if err := w.kill(ctx, w.random.IntN(len(w.servers))); err != nil {
			return fmt.Errorf("kill %d: %w", k+1, err)
		}
	}
	return nil
}

// kill lets sends to a server pile up before it, releases them at once, kills
// the server within the next milliseconds and starts it again.
func (w *killWorld) kill(ctx context.Context, victim int) error {
	const pile = 40
	srv, g := w.servers[victim], w.gates[victim]
	g.close()
	deadline := time.Now().Add(20 * time.Second)
	for g.waiting() < pile {
		if time.Now().After(deadline) {
			g.open()
			return fmt.Errorf("only %d sends were waiting after 20 seconds", g.waiting())
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			g.open()
			return err
		}
	}
	before := g.unanswered.Load()
	g.open()
	for deadline := time.Now().Add(100 * time.Millisecond); g.flying.Load() < 25 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Microsecond)
	}
	time.Sleep(time.Duration(w.random.Int64N(int64(2 * time.Millisecond))))
	srv.Kill()
	took, err := srv.StartReady(ctx)
	if err != nil {
		return err
	}
	w.ready = append(w.ready, took.Seconds())
	// Every stream of the dead server has ended by now or ends in a moment.
	for range 200 {
		if g.unanswered.Load()-before >= 20 {
			break
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	w.unanswered = append(w.unanswered, int(g.unanswered.Load()-before))
	return nil
}

// settle waits until every message was shown, or nothing has moved for a while.
func (w *killWorld) settle(ctx context.Context) error {
	last, moved := -1, time.Now()
	for {
		n, err := w.shown(ctx)
		if err != nil {
			return err
		}
		if n >= int(w.sent.Load()) {
			break
		}
		if n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > 90*time.Second {
			break // the rest is lost
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
	w.catchUp = time.Since(w.lastSend)
	if err := w.runErr.Load(); err != nil {
		return *err
	}
	// A repeat would come now.
	return sleep(ctx, 3*time.Second)
}

// shown counts the incoming lines of all vaults.
func (w *killWorld) shown(ctx context.Context) (int, error) {
	n := 0
	for _, p := range w.people {
		st, err := p.brain.Status(ctx)
		if err != nil {
			return 0, err
		}
		n += st.Unshown
	}
	return n, nil
}

// judge reads every vault and compares what was sent with what was shown.
func (w *killWorld) judge(ctx context.Context) (kill9Line, error) {
	line := kill9Line{Test: "kill9", Sent: int(w.sent.Load()), Kills: len(w.ready), CatchUp: tidy(w.catchUp.Seconds())}
	for _, r := range w.ready {
		line.ReadyMax = max(line.ReadyMax, tidy(r))
	}
	line.ReadyMedian = tidy(middle(w.ready))
	for i, n := range w.unanswered {
		line.UnansweredSum += n
		if i == 0 || n < line.Unanswered {
			line.Unanswered = n
		}
	}
	for i, p := range w.people {
		for _, c := range w.contacts(i) {
			if err := compare(ctx, p, c, &line); err != nil {
				return line, err
			}
			if p.network.srv != c.network.srv {
				sent, err := p.brain.Messages(ctx, c.user, 0, 0)
				if err != nil {
					return line, err
				}
				line.Remote += len(outgoing(sent))
			}
		}
	}
	return line, nil
}

func outgoing(lines []core.Message) []core.Message {
	var out []core.Message
	for _, m := range lines {
		if m.Outgoing {
			out = append(out, m)
		}
	}
	return out
}

// compare looks at the messages from p to c.
func compare(ctx context.Context, p, c *person, line *kill9Line) error {
	written, err := p.brain.Messages(ctx, c.user, 0, 0)
	if err != nil {
		return err
	}
	read, err := c.brain.Messages(ctx, p.user, 0, 0)
	if err != nil {
		return err
	}
	times := map[string]int{}
	last := -1
	for _, m := range read {
		switch {
		case m.Outgoing:
			continue
		case m.Kind == core.MessageUndecryptable:
			line.Undecryptable++
			continue
		case m.Kind != core.MessageText:
			continue
		}
		times[m.Text]++
		var from, n int
		if _, err := fmt.Sscanf(m.Text, "%d %d", &from, &n); err != nil || from != p.no {
			return fmt.Errorf("person %d shows a text that %d did not write: %s", c.no, p.no, strings.ToValidUTF8(m.Text, "?"))
		}
		if n < last && times[m.Text] == 1 {
			line.Reordered++
		}
		last = max(last, n)
	}
	for _, m := range outgoing(written) {
		switch n := times[m.Text]; {
		case n > 0 && m.State == core.StateFailed:
			line.Both++
		case n > 1:
			line.Duplicated += n - 1
		case n == 0 && m.State == core.StateQueued:
			line.Queued++
		case n == 0 && m.State == core.StateFailed:
			line.Failed++
		case n == 0:
			line.Lost++
		}
	}
	return nil
}

func (w *killWorld) close() {
	if w.stopRun != nil {
		w.stopRun()
	}
	for _, g := range w.gates {
		g.open()
	}
	w.running.Wait()
	for _, p := range w.people {
		p.close()
	}
	for _, srv := range w.servers {
		srv.Stop()
	}
}

func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// tidy rounds to milliseconds.
func tidy(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }
