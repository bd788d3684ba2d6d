package core_test

import (
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// crossing is one submission as somebody sees it who knows its time and its
// recipient and no more: a sealed message between organisations.
type crossing struct {
	at time.Time
	id clearbox.MessageID
	to clearbox.UserID
}

// TestThreat20ReceiptsTellLittleOfTheSender: who watches sealed messages come in
// for Ada, and what she sends after each, tries to tell who wrote it by the
// receipt that follows. Contacts only get receipts, and these wait for a random
// while and leave together, so that with several conversations at a time the
// watcher guesses; without the wait the watcher would know. With one
// conversation at a time nothing of this helps, which docs/e2ee.md says.
func TestThreat20ReceiptsTellLittleOfTheSender(t *testing.T) {
	people, messages := rounds(12, 6), rounds(240, 20)
	guessed := map[string]float64{}
	for name, delay := range map[string][2]time.Duration{"shipped": {}, "none": {1, 2}} {
		synctest.Test(t, func(t *testing.T) { guessed[name] = guessSenders(t, people, messages, delay) })
	}
	t.Logf(`{"test":"receipts","people":%d,"messages":%d,"chance":%.3f,"guessed":%.3f,"guessed_without_delay":%.3f}`,
		people, messages, 1/float64(people), guessed["shipped"], guessed["none"])
	if runtime.GOOS == "js" {
		return // it did run; so few messages prove nothing of chances
	}
	if guessed["shipped"] > 0.5 {
		t.Errorf("the sender was guessed for %.0f %% of the messages, more than half", 100*guessed["shipped"])
	}
	if guessed["none"] < 0.8 {
		t.Errorf("without a delay only %.0f %% were guessed: the attack does not work and proves nothing", 100*guessed["none"])
	}
}

// guessSenders has many write to Ada at random times and gives the share of
// messages whose sender the watcher names.
func guessSenders(t *testing.T, people, messages int, delay [2]time.Duration) float64 {
	w := newWorld(t)
	ada := newPerson(t, w, "ada@a.test")
	ada.opts.ReceiptDelay = delay
	ada.open()
	ada.join().start()
	var others []*person
	for i := range people {
		p := newPerson(t, w, fmt.Sprintf("p%d@b.test", i)).join()
		p.start()
		others = append(others, p)
		p.send(ada, "first")
	}
	settle(time.Minute)
	for _, p := range others {
		if err := ada.brain.Accept(ctx, p.user); err != nil {
			t.Fatal(err)
		}
	}
	settle(time.Minute)

	var mu sync.Mutex // guards what the watcher saw
	var in, out []crossing
	w.mu.Lock()
	w.refuse = func(s *wire.Submission) error {
		mu.Lock()
		defer mu.Unlock()
		c := crossing{time.Now(), s.ID, s.To[0].User} // behind it are own devices, which cross nothing
		if c.to == ada.user {
			in = append(in, c)
		} else {
			out = append(out, c)
		}
		return nil
	}
	w.mu.Unlock()
	wrote := map[clearbox.MessageID]clearbox.UserID{}
	random := mathrand.New(mathrand.NewPCG(20, 20))
	for range messages {
		time.Sleep(time.Duration(random.ExpFloat64() * float64(500*time.Millisecond)))
		p := others[random.IntN(people)]
		wrote[p.send(ada, "text")] = p.user
	}
	settle(time.Minute)
	mu.Lock()
	defer mu.Unlock()
	if len(in) != messages {
		t.Fatalf("%d messages were seen, want %d", len(in), messages)
	}
	best := 0
	for _, least := range []time.Duration{0, 500 * time.Millisecond, time.Second} { // the watcher takes what works best
		right := 0
		for _, c := range in {
			if guess(c, out, least) == wrote[c.id] {
				right++
			}
		}
		best = max(best, right)
	}
	for _, p := range append(others, ada) {
		p.stop()
	}
	return float64(best) / float64(messages)
}

// guess names the one to whom something left next, not sooner than least. The
// watcher knows how long a receipt waits at most.
func guess(c crossing, out []crossing, least time.Duration) clearbox.UserID {
	for _, o := range out {
		if wait := o.at.Sub(c.at); wait >= least && wait <= 4*time.Second {
			return o.to
		}
	}
	return clearbox.UserID{}
}
