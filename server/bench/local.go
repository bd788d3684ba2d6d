package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// flowLine is a line of local or fed. Keys are only ever added.
type flowLine struct {
	Scenario string  `json:"scenario"`
	Pairs    int     `json:"pairs"`
	Window   int     `json:"window"`
	MsgPerS  float64 `json:"msg_per_s"`
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`
	P99      float64 `json:"p99_ms"`
	CPU      float64 `json:"srv_cpu_s_per_1k"` // all servers
	RSS      float64 `json:"srv_rss_mib"`      // peak of the largest server
	Errors   int64   `json:"errors"`           // of all runs

	Count   int       `json:"count"`               // measured messages
	Written float64   `json:"written_kib_per_msg"` // kernel's count, all servers
	LoadCPU float64   `json:"load_cpu_s_per_1k"`   // this process
	Runs    []float64 `json:"runs_msg_per_s"`
}

// local measures messages between accounts of one server.
func (b *bench) local(ctx context.Context) error {
	srv, err := b.server("local", "a.test")
	if err != nil {
		return err
	}
	defer b.discard(srv)
	const busy = 50
	// Every run has senders of its own: the quota of an account is a burst of
	// 1,000 messages and 200 a second after it.
	people, err := srv.Accounts(ctx, "p", 2*(busy*2*b.runs+lonePairs*b.runs), true)
	if err != nil {
		return err
	}
	if _, err := srv.StartReady(ctx); err != nil {
		return err
	}
	take := func(n int) []*rig.Account {
		out := people[:n]
		people = people[n:]
		return out
	}
	if b.wanted("pairs=1 window=1") {
		if err := b.lone(ctx, srv, take); err != nil {
			return err
		}
	}
	for _, window := range []int{1, 16} {
		if !b.wanted(fmt.Sprintf("pairs=%d window=%d", busy, window)) {
			continue
		}
		err := b.flowLine("local", busy, window, func() (figures, error) {
			pairs, err := connect(ctx, srv, srv, take(busy), take(busy))
			if err != nil {
				return figures{}, err
			}
			return b.timedRun(ctx, pairs, window, srv)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// flowLine runs one load b.runs times and prints the median run by throughput.
func (b *bench) flowLine(scenario string, pairs, window int, run func() (figures, error)) error {
	var all []figures
	var errs int64
	var rates []float64
	for range b.runs {
		f, err := run()
		if err != nil {
			return fmt.Errorf("%d pairs, window %d: %w", pairs, window, err)
		}
		all = append(all, f)
		errs += f.errors
		rates = append(rates, round(f.msgPerS, 0))
	}
	slices.SortFunc(all, func(x, y figures) int { return int(x.msgPerS - y.msgPerS) })
	f := all[(len(all)-1)/2]
	return print(flowLine{
		Scenario: scenario, Pairs: pairs, Window: window, MsgPerS: round(f.msgPerS, 0), P50: round(f.p50, 3), P95: round(f.p95, 3), P99: round(f.p99, 3),
		CPU: round(f.cpuPer1k, 4), RSS: round(f.rss, 1), Errors: errs, Count: f.count, Written: round(f.writtenKiB, 2), LoadCPU: round(f.loadCPUPer1k, 4), Runs: rates,
	})
}

const (
	lonePairs = 5   // one after the other, because of the quota of one account
	loneWarm  = 100 // messages of a pair before it counts
	loneCount = 800 // messages of a pair that count
	loneLimit = 20 * time.Second
)

// lone measures single pairs with one message under way.
func (b *bench) lone(ctx context.Context, srv *rig.Server, take func(int) []*rig.Account) error {
	return b.flowLine("local", 1, 1, func() (figures, error) {
		var (
			lat     []int64
			seconds float64
			sum     figures
			total   spent
		)
		for range lonePairs {
			pairs, err := connect(ctx, srv, srv, take(1), take(1))
			if err != nil {
				return figures{}, err
			}
			f := newFlow(pairs, 1, loneWarm+loneCount)
			before, err := costs([]*rig.Server{srv})
			if err != nil {
				return figures{}, err
			}
			f.start()
			timer := time.NewTimer(loneLimit)
			select {
			case <-f.drained: // the limit was reached and everything arrived
			case <-timer.C:
				f.fail("the pair did not end within %s, at message %d", loneLimit, f.done.Load())
			case <-ctx.Done():
			}
			timer.Stop()
			after, err := costs([]*rig.Server{srv})
			f.stop()
			if err := errors.Join(err, ctx.Err()); err != nil {
				return figures{}, err
			}
			times := pairs[0].times
			if len(times) < loneWarm+loneCount {
				return figures{}, errors.Join(errNothing, f.err())
			}
			for _, t := range times[loneWarm:] {
				lat = append(lat, t.took)
			}
			seconds += float64(times[len(times)-1].at-times[loneWarm-1].at) / 1e9
			share := float64(loneCount) / float64(loneWarm+loneCount)
			total.cpu += (after.cpu - before.cpu) * share
			total.own += (after.own - before.own) * share
			total.written += int64(float64(after.written-before.written) * share)
			total.peak = max(total.peak, after.peak)
			sum.errors += f.errors.Load()
		}
		slices.Sort(lat)
		n := float64(len(lat))
		sum.count, sum.msgPerS = len(lat), n/seconds
		sum.p50, sum.p95, sum.p99 = percentile(lat, 50)/1e6, percentile(lat, 95)/1e6, percentile(lat, 99)/1e6
		sum.cpuPer1k, sum.loadCPUPer1k, sum.rss = total.cpu/n*1000, total.own/n*1000, total.peak
		sum.writtenKiB = float64(total.written) / 1024 / n
		return sum, nil
	})
}

// fed measures messages between accounts of two servers that speak HTTP/2 with
// each other.
func (b *bench) fed(ctx context.Context) error { return b.between(ctx, "fed", "h2") }

// fedH3 is the same over HTTP/3.
func (b *bench) fedH3(ctx context.Context) error { return b.between(ctx, "fed-h3", "h3") }

// between measures sealed messages between accounts of two servers.
func (b *bench) between(ctx context.Context, scenario, transport string) error {
	const pairCount = 20
	one, err := b.serverOver(scenario, "a.test", transport)
	if err != nil {
		return err
	}
	defer b.discard(one)
	two, err := b.serverOver(scenario, "b.test", transport)
	if err != nil {
		return err
	}
	defer b.discard(two)
	runs := 2 * b.runs
	senders, err := one.Accounts(ctx, "s", pairCount*runs, true)
	if err != nil {
		return err
	}
	recipients, err := two.Accounts(ctx, "r", pairCount*runs, true)
	if err != nil {
		return err
	}
	if err := two.Tokens(ctx, recipients); err != nil {
		return err
	}
	for _, s := range []*rig.Server{one, two} {
		if _, err := s.StartReady(ctx); err != nil {
			return err
		}
	}
	if err := rig.Peer(ctx, one, two); err != nil {
		return err
	}
	for _, window := range []int{1, 16} {
		if !b.wanted(fmt.Sprintf("pairs=%d window=%d", pairCount, window)) {
			continue
		}
		err := b.flowLine(scenario, pairCount, window, func() (figures, error) {
			from, to := senders[:pairCount], recipients[:pairCount]
			senders, recipients = senders[pairCount:], recipients[pairCount:]
			if err := lookUp(ctx, one, from, to); err != nil {
				return figures{}, err
			}
			pairs, err := connect(ctx, one, two, from, to)
			if err != nil {
				return figures{}, err
			}
			return b.timedRun(ctx, pairs, window, one, two)
		})
		if err != nil {
			fmt.Fprintf(os.Stderr, "--- %s\n%s\n--- %s\n%s\n", one.Name, one.LogTail(), two.Name, two.LogTail())
			return err
		}
	}
	return spoke(ctx, transport, one, two)
}

// spoke demands that two servers used the protocol that they were told.
func spoke(ctx context.Context, proto string, one, two *rig.Server) error {
	for _, way := range [][2]*rig.Server{{one, two}, {two, one}} {
		admin, err := way[0].Admin()
		if err != nil {
			return err
		}
		var st wire.AdminFedStatus
		err = admin.Do(ctx, http.MethodGet, "/admin/fed/status", "", nil, &st)
		admin.Close()
		if err != nil {
			return err
		}
		for _, p := range st.Peers {
			if p.Server == way[1].Name && p.Protocol != proto {
				return fmt.Errorf("%s speaks %q with %s instead of %s", way[0].Name, p.Protocol, p.Server, proto)
			}
		}
	}
	return nil
}

// lookUp does what clients do before the first message: ask their server for
// the recipient, which fetches the device list from the other one.
func lookUp(ctx context.Context, s *rig.Server, from, to []*rig.Account) error {
	for i := range from {
		c := s.Client(rig.Via{Source: rig.Source(2 * i)})
		_, err := c.Lookup(ctx, from[i], to[i].User)
		c.Close()
		if err != nil {
			return fmt.Errorf("look up a recipient: %w", err)
		}
	}
	return nil
}
