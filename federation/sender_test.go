package federation_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func two(t *testing.T, setup func(w *world, a, b *node), body func(w *world, a, b *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.test", "b.test")
		a, b := w.nodes["a.test"], w.nodes["b.test"]
		if setup != nil {
			setup(w, a, b)
		}
		w.start()
		defer w.stop()
		wait(t, time.Second)
		body(w, a, b)
		w.check("a.test", "b.test")
	})
}

func TestBatchesArriveInOrder(t *testing.T) {
	two(t, func(w *world, a, b *node) { w.wire.latency = 50 * time.Millisecond }, func(w *world, a, b *node) {
		a.send("b.test", 10_000)
		wait(t, 5*time.Second)
		if n := b.acceptor.count(); n != 10_000 {
			t.Fatalf("delivered %d", n)
		}
		if a.outbox.batches[0] != federation.MaxItems {
			t.Errorf("the first batch held %d items of a long queue", a.outbox.batches[0])
		}
	})
}

func TestEveryFaultOfTheWire(t *testing.T) {
	for _, window := range []int{1, 4} {
		two(t, func(w *world, a, b *node) {
			a.window, b.window = window, window
			w.wire = wire{latency: 20 * time.Millisecond, jitter: 300 * time.Millisecond, dropAsk: 0.1, dropAnswer: 0.2, duplicate: 0.2}
		}, func(w *world, a, b *node) {
			for range 100 {
				a.send("b.test", 20)
				wait(t, 200*time.Millisecond)
			}
			wait(t, 2*time.Hour)
			if b.acceptor.repeats == 0 {
				t.Error("no answer was ever lost: the test does not test")
			}
			if n := a.outbox.unsettled(); n != 0 {
				t.Errorf("%d unsettled", n)
			}
		})
	}
}

// A batch that overtook its predecessor waits for it instead of being refused.
func TestOvertakingIsParked(t *testing.T) {
	two(t, func(w *world, a, b *node) {
		w.wire = wire{latency: 10 * time.Millisecond, jitter: 500 * time.Millisecond}
	}, func(w *world, a, b *node) {
		before := w.attempts()
		a.send("b.test", 4000)
		wait(t, 30*time.Second)
		if n := w.attempts() - before; n > 4000/federation.MaxItems+2 {
			t.Errorf("%d requests for %d transactions", n, 4000/federation.MaxItems+1)
		}
		if b.acceptor.gaps == 0 {
			t.Error("nothing overtook")
		}
		if a.outbox.failed != 0 {
			t.Errorf("%d attempts failed", a.outbox.failed)
		}
		if a.outbox.unsettled() != 0 {
			t.Error("unsettled")
		}
	})
}

// A near peer gets one small batch after the other, each with all that came
// meanwhile; to a far one several are under way at a time.
func TestBatchesGrow(t *testing.T) {
	for _, c := range []struct {
		latency     time.Duration
		least, most int
	}{{10 * time.Millisecond, 10, 40}, {50 * time.Millisecond, 20, 40}} {
		two(t, func(w *world, a, b *node) { w.wire.latency = c.latency }, func(w *world, a, b *node) {
			a.send("b.test", 1)
			wait(t, time.Second)
			for range 300 {
				a.send("b.test", 1)
				wait(t, time.Millisecond)
			}
			wait(t, time.Second)
			if n := len(a.outbox.batches); n < c.least || n > c.most {
				t.Errorf("%s away: %d batches for 300 messages in 300 ms", c.latency, n)
			}
			if n := b.acceptor.count(); n != 301 {
				t.Errorf("delivered %d", n)
			}
		})
	}
}

// R2: the first attempt after a day comes within 15 minutes, after a week
// within an hour; at most 200 attempts a day.
func TestOutagesOfDays(t *testing.T) {
	for _, c := range []struct{ away, back time.Duration }{{24 * time.Hour, 15 * time.Minute}, {7 * 24 * time.Hour, time.Hour}} {
		for _, hole := range []bool{false, true} {
			two(t, nil, func(w *world, a, b *node) {
				w.set(func(x *wire) { x.cut, x.hole = !hole, hole })
				messages := 10_000
				if hole { // what is new here are the attempts
					messages = 300
				}
				a.send("b.test", messages)
				before := w.attempts()
				wait(t, c.away)
				if n, days := w.attempts()-before, int(c.away.Hours()/24); n > 200*days {
					t.Errorf("%d attempts in %d days", n, days)
				}
				w.set(func(x *wire) { x.cut, x.hole, x.latency = false, false, 50*time.Millisecond })
				wait(t, c.back+time.Minute)
				if n := b.acceptor.count(); n != messages {
					t.Errorf("%v: delivered %d", c.away, n)
				}
			})
		}
	}
}

func TestContactWakesTheQueue(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.cut = true })
		a.send("b.test", 10)
		wait(t, 48*time.Hour)
		w.set(func(x *wire) { x.cut = false })
		b.restart() // says hello
		wait(t, time.Second)
		if n := b.acceptor.count(); n != 10 {
			t.Errorf("delivered %d a second after the peer's greeting", n)
		}
	})
}

func TestRetryByAnOperator(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.cut = true })
		a.send("b.test", 3)
		wait(t, 30*time.Hour)
		w.set(func(x *wire) { x.cut = false })
		if s := a.sender.Status("b.test"); s.LastError != clearbox.CodePeerUnreachable || s.Failures < 10 || s.NextTry == 0 || s.Kind == "" ||
			s.LastTry-s.Since < 24*3600_000 {
			t.Errorf("status %+v", s)
		}
		a.sender.Retry("b.test")
		wait(t, time.Second)
		if n := b.acceptor.count(); n != 3 {
			t.Errorf("delivered %d", n)
		}
		if s := a.sender.Status("b.test"); s.LastError != "" || s.Failures != 0 || s.Kind != "" || s.Since != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRestartsWithPendingBatches(t *testing.T) {
	two(t, func(w *world, a, b *node) {
		w.wire = wire{latency: 40 * time.Millisecond, dropAnswer: 0.5}
	}, func(w *world, a, b *node) {
		for range 30 {
			a.send("b.test", 50)
			wait(t, 70*time.Millisecond)
			a.restart()
		}
		w.set(func(x *wire) { x.dropAnswer = 0 })
		wait(t, time.Hour)
		if a.outbox.unsettled() != 0 {
			t.Error("unsettled")
		}
	})
}

// Storage that fails at any step costs time only.
func TestOutboxFailures(t *testing.T) {
	for _, method := range []string{"lease", "pending", "take", "settle"} {
		two(t, nil, func(w *world, a, b *node) {
			n := 0
			a.outbox.mu.Lock()
			a.outbox.fail = func(m string) error {
				if m == method {
					if n++; n%3 != 0 {
						return errors.New("disk on fire")
					}
				}
				return nil
			}
			a.outbox.mu.Unlock()
			a.restart()
			a.send("b.test", 1000)
			wait(t, 30*time.Minute)
			if a.outbox.unsettled() != 0 || n == 0 {
				t.Errorf("%s: %d unsettled after %d calls", method, a.outbox.unsettled(), n)
			}
		})
	}
}

// Row 10: what cannot be read is rejected alone in the middle of a batch.
func TestThreat10PoisonItem(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.cut = true })
		for i := range 256 {
			r := a.outbox.add("a.test", "b.test")
			switch i {
			case 127:
				r.item.Envelopes[0].Registration = 1 << 15 // refused by the decoder
			case 128:
				r.item.Crit = []string{"time_travel"}
			}
		}
		w.set(func(x *wire) { x.cut = false })
		a.sender.Nudge("b.test")
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 254 {
			t.Errorf("delivered %d", n)
		}
		if r := a.outbox.rows[127]; r.verdict != federation.VerdictRejected || r.reason != clearbox.CodeBadRequest {
			t.Errorf("poison: %s %s", r.verdict, r.reason)
		}
		if r := a.outbox.rows[128]; r.verdict != federation.VerdictRejected || r.reason != clearbox.CodeUnsupportedCritical {
			t.Errorf("critical: %s %s", r.verdict, r.reason)
		}
	})
}

func TestTooLargeIsHalvedDownToTheItem(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		for i := range 64 {
			r := a.outbox.add("a.test", "b.test")
			if i == 20 { // larger than any transaction: cannot be sent at all
				r.item.Envelopes = nil
				for d := range 12 {
					r.item.Envelopes = append(r.item.Envelopes, federation.ItemEnvelope{Device: clearbox.DeviceID(d + 1), Type: 2, Content: make([]byte, clearbox.MaxContent)})
				}
			}
		}
		a.sender.Nudge("b.test")
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 63 {
			t.Errorf("delivered %d", n)
		}
		if r := a.outbox.rows[20]; r.verdict != federation.VerdictRejected || r.reason != clearbox.CodeTooLarge {
			t.Errorf("%s %s", r.verdict, r.reason)
		}
	})
}

func TestPeerThatFindsBatchesTooLarge(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		b.stop()
		b.openWith(&limited{acceptor: b.acceptor, max: 10})
		b.run()
		a.send("b.test", 200)
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 200 {
			t.Errorf("delivered %d", n)
		}
	})
}

func TestDeferredItemsComeAgain(t *testing.T) {
	two(t, func(w *world, a, b *node) { a.outbox.reordersAllowed = true }, func(w *world, a, b *node) {
		full := true
		b.acceptor.verdict = func(it *federation.Item) *federation.Verdict {
			if full && it.ID[15]%2 == 0 {
				return &federation.Verdict{Code: federation.VerdictDeferred, Reason: clearbox.CodeMailboxFull, RetryAfter: 7 * time.Second}
			}
			return nil
		}
		a.send("b.test", 10)
		wait(t, time.Second)
		if n := b.acceptor.count(); n != 5 {
			t.Fatalf("delivered %d", n)
		}
		b.acceptor.mu.Lock()
		full = false
		b.acceptor.mu.Unlock()
		wait(t, 7*time.Second)
		if n := b.acceptor.count(); n != 10 {
			t.Errorf("delivered %d", n)
		}
	})
}

// Two senders on one outbox: the older one is refused and nothing is sent
// twice.
func TestFencing(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		a.send("b.test", 5)
		wait(t, time.Second)
		b.acceptor.mu.Lock()
		b.acceptor.streams["a.test"].fence += 2 // somebody else held two leases meanwhile
		b.acceptor.mu.Unlock()
		a.send("b.test", 5)
		wait(t, 100*time.Millisecond)
		if n := b.acceptor.count(); n != 5 {
			t.Errorf("%d delivered under an old lease", n)
		}
		wait(t, 5*time.Minute)
		if n := b.acceptor.count(); n != 10 {
			t.Errorf("delivered %d", n)
		}
	})
}

// Row 26: the receiver was restored from a backup and expects a position that nobody
// holds any more: a new stream begins and nothing stalls.
func TestThreat26RestoredReceiver(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		a.send("b.test", 50)
		wait(t, time.Second)
		b.acceptor.mu.Lock()
		b.acceptor.streams["a.test"].last = 30
		b.acceptor.mu.Unlock()
		a.send("b.test", 50)
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 100 {
			t.Errorf("delivered %d", n)
		}
		if a.outbox.stream[15] != 2 {
			t.Error("the stream was not restarted")
		}
	})
}

func TestWithdrawnItemLeavesNoHole(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.dropAsk = 1 })
		a.send("b.test", 10)
		wait(t, time.Second)
		a.outbox.mu.Lock()
		a.outbox.rows[4].void = true
		a.outbox.mu.Unlock()
		w.set(func(x *wire) { x.dropAsk = 0 })
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 9 {
			t.Errorf("delivered %d", n)
		}
		a.outbox.rows[4].verdict = ""
	})
}

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse error // what the peer's acceptor says
		within time.Duration
		not    time.Duration
		known  federation.Outcome
	}{
		{"blocked parks until somebody speaks", clearbox.Errorf(clearbox.CodePeerBlocked, ""), 61 * time.Minute, 50 * time.Minute, federation.OutcomeRefused},
		{"full waits as told", clearbox.Errorf(clearbox.CodeStoreFull, ""), 6 * time.Second, 3 * time.Second, federation.OutcomeUnknown},
		{"internal backs off", errors.New("boom"), 10 * time.Second, 4 * time.Second, federation.OutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			two(t, nil, func(w *world, a, b *node) {
				calls := 0
				b.acceptor.fail = func() error {
					if calls++; calls == 1 {
						return c.refuse
					}
					return nil
				}
				a.send("b.test", 1)
				wait(t, c.not)
				if n := b.acceptor.count(); n != 0 {
					t.Errorf("tried again before %v", c.not)
				}
				wait(t, c.within-c.not)
				if n := b.acceptor.count(); n != 1 {
					t.Errorf("not tried again within %v", c.within)
				}
				if o := a.outbox; !slices.Equal(o.outcomes, []federation.Outcome{c.known}) || o.repeats != 1 {
					t.Errorf("outcomes %v, %d sent again", o.outcomes, o.repeats)
				}
			})
		})
	}
}

// An answer that does not fit the transaction settles nothing.
func TestAnswersThatDoNotFit(t *testing.T) {
	for name, lie := range map[string]func(*federation.Answer){
		"too few verdicts": func(a *federation.Answer) { a.Verdicts = a.Verdicts[:1] },
		"another stream":   func(a *federation.Answer) { a.Stream = make([]byte, 16) },
		"another position": func(a *federation.Answer) { a.FirstPos++ },
		"not accepted":     func(a *federation.Answer) { a.AcceptedThrough = 1 },
	} {
		two(t, nil, func(w *world, a, b *node) {
			l := &liar{acceptor: b.acceptor, lie: lie}
			b.stop()
			b.openWith(l)
			b.run()
			a.send("b.test", 3)
			wait(t, 4*time.Second)
			if a.outbox.unsettled() != 3 {
				t.Errorf("%s: settled", name)
			}
			b.acceptor.mu.Lock()
			l.lie = func(*federation.Answer) {}
			b.acceptor.mu.Unlock()
			wait(t, time.Minute)
		})
	}
}

// A proxy's answer without the peer's signature slows a queue down and never
// parks, splits or settles it.
func TestUnsignedAnswersDecideNothing(t *testing.T) {
	for _, status := range []int{200, 400, 401, 403, 404, 409, 413, 500, 502} {
		two(t, nil, func(w *world, a, b *node) {
			forged := 0
			w.set(func(x *wire) {
				x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
					if strings.HasSuffix(req.URL.Path, "/txn") && forged < 3 {
						forged++
						resp.StatusCode = status
						resp.Header.Del("Signature")
						resp.Header.Del("Signature-Input")
					}
				}
			})
			a.send("b.test", 3)
			wait(t, 3*time.Minute)
			if forged != 3 || a.outbox.unsettled() != 0 {
				t.Errorf("status %d: %d forged, %d unsettled", status, forged, a.outbox.unsettled())
			}
		})
	}
}

func TestRateLimitIsObeyed(t *testing.T) {
	two(t, func(w *world, a, b *node) { b.rate = 500 }, func(w *world, a, b *node) {
		a.send("b.test", 7000)
		wait(t, time.Second)
		// Batches that follow a refused one use up quota for nothing, three at most.
		if n := b.acceptor.count(); n < 6*500-4*256 || n > 6*500+256 {
			t.Errorf("%d accepted in a second at 500 a second and five times as many in a burst", n)
		}
		wait(t, 30*time.Second)
		if n := b.acceptor.count(); n != 7000 {
			t.Errorf("delivered %d", n)
		}
	})
}

// With a delay of batches the time between a message's arrival and its
// departure is anything up to it, and without one next to nothing.
func TestBatchDelay(t *testing.T) {
	for _, most := range []time.Duration{0, 2 * time.Second, time.Hour} {
		two(t, func(w *world, a, b *node) { a.delay = most }, func(w *world, a, b *node) {
			var sent time.Time
			var took []time.Duration
			b.acceptor.verdict = func(*federation.Item) *federation.Verdict {
				took = append(took, time.Since(sent))
				return nil
			}
			for range 50 {
				sent = time.Now()
				a.send("b.test", 1)
				wait(t, 10*time.Second)
			}
			shortest, longest := slices.Min(took), slices.Max(took)
			switch {
			case len(took) != 50:
				t.Errorf("%v: %d arrived", most, len(took))
			case most == 0 && longest > 200*time.Millisecond:
				t.Errorf("without a delay one took %v", longest)
			case most > 0 && (longest > 2200*time.Millisecond || longest < 1500*time.Millisecond || shortest > 500*time.Millisecond):
				t.Errorf("%v: from %v to %v", most, shortest, longest)
			}
		})
	}
}

// A peer that takes a transaction and defers its items for their number gets
// less at a time.
func TestDeferredForTheirNumberSlowsDown(t *testing.T) {
	two(t, func(w *world, a, b *node) { a.outbox.reordersAllowed = true }, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.latency = 20 * time.Millisecond })
		b.acceptor.mu.Lock()
		b.acceptor.verdict = func(*federation.Item) *federation.Verdict {
			return &federation.Verdict{Code: federation.VerdictDeferred, Reason: clearbox.CodeRateLimited, RetryAfter: time.Hour}
		}
		b.acceptor.mu.Unlock()
		for range 1000 {
			a.outbox.add("a.test", "b.test").item.Envelopes[0].Content = make([]byte, 8<<10)
		}
		a.sender.Nudge("b.test")
		wait(t, time.Minute)
		a.outbox.mu.Lock()
		sizes := slices.Clone(a.outbox.batches)
		a.outbox.mu.Unlock()
		if len(sizes) < 6 || sizes[0] < 100 || slices.Min(sizes[4:len(sizes)-1]) > sizes[0]*2/3 {
			t.Errorf("transactions of %v items", sizes)
		}
		b.acceptor.mu.Lock()
		b.acceptor.verdict = nil
		b.acceptor.mu.Unlock()
		wait(t, time.Hour)
	})
}
