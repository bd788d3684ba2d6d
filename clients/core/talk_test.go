package core_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

var cryptoRandom io.Reader = rand.Reader

var ctx = context.Background()

// rounds gives how often a long test does something: in a browser's engine, where
// each time takes many times as long, few show that it works there as well.
func rounds(all, few int) int {
	if runtime.GOOS == "js" {
		return few
	}
	return all
}

// asleep lets d pass in which nobody runs.
func asleep(d time.Duration, people ...*person) {
	for _, p := range people {
		p.stop()
	}
	settle(d)
	for _, p := range people {
		p.start()
	}
}

// pair gives two people of two organisations who are registered.
func pair(t *testing.T) (*world, *person, *person) {
	w := newWorld(t)
	return w, newPerson(t, w, "ada@a.test").join(), newPerson(t, w, "bob@b.test").join()
}

// settle lets the world run for a while of its own time.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.start()
		bob.start()
		first := ada.send(bob, "hello bob")
		settle(5 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"hello bob"})
		if s := ada.state(first); s != core.StateAtServer && s != core.StateAtPeer {
			t.Errorf("state %s before bob accepted ada", s)
		}
		settle(2 * time.Minute)
		if s := ada.state(first); s != core.StateAtPeer {
			t.Errorf("state %s after the server was asked", s)
		}
		if c := bob.contact(ada.user.String()); c.Address != "ada@a.test" || c.Accepted {
			t.Errorf("bob knows %+v", c)
		}
		bob.send(ada, "hello ada")
		settle(5 * time.Second)
		want(t, "ada heard", ada.heard(bob), []string{"hello ada"})
		if s := ada.state(first); s != core.StateDelivered {
			t.Errorf("state %s after bob answered", s)
		}
		// Exactly what is new is unshown, once.
		lines, err := bob.brain.Unshown(ctx, 0)
		if err != nil || len(lines) != 1 || lines[0].Text != "hello bob" {
			t.Fatalf("unshown: %v, %v", lines, err)
		}
		if err := bob.brain.MarkShown(ctx, lines...); err != nil {
			t.Fatal(err)
		}
		if lines, _ := bob.brain.Unshown(ctx, 0); len(lines) != 0 {
			t.Errorf("shown lines are still new: %v", lines)
		}
		if err := errors.Join(ada.stop(), bob.stop()); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		st, err := ada.brain.Status(ctx)
		if err != nil || st.Online || st.Queued != 0 {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}

func TestOfflineQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.contact("bob@b.test")
		ada.net.setAway(true)
		ada.start()
		var ids []clearbox.MessageID
		var texts []string
		for i := range 40 {
			texts = append(texts, fmt.Sprint("message ", i))
			ids = append(ids, ada.send(bob, texts[i]))
			if i == 20 { // a new process in the middle
				ada.stop()
				ada.open()
				ada.start()
			}
		}
		settle(time.Hour)
		if st, _ := ada.brain.Status(ctx); st.Queued != 40 || st.Online {
			t.Fatalf("status %+v", st)
		}
		if ada.state(ids[0]) != core.StateQueued {
			t.Error("not queued")
		}
		ada.net.setAway(false)
		settle(2 * time.Minute)
		bob.start()
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), texts)
		ada.stop()
		bob.stop()
	})
}

// TestLostAnswers loses every kind of request and answer for a while.
func TestLostAnswers(t *testing.T) {
	for _, kind := range []string{"lost", "unheard"} {
		synctest.Test(t, func(t *testing.T) {
			w, ada, bob := pair(t)
			chance := mathrand.New(mathrand.NewPCG(1, 2))
			w.setFault(func(method, path string) string {
				if strings.HasPrefix(path, "/auth/refresh") {
					return "" // its lost answer ends the session, which another test shows
				}
				if chance.IntN(3) == 0 {
					return kind
				}
				return ""
			})
			bobContact := func() {
				for range 10 {
					if _, err := ada.brain.Contact(ctx, "bob@b.test"); err == nil {
						return
					}
				}
				t.Fatal("no contact")
			}
			bobContact()
			ada.start()
			bob.start()
			var texts []string
			for i := range 30 {
				texts = append(texts, fmt.Sprint(i))
				ada.send(bob, texts[i])
				settle(3 * time.Second)
			}
			settle(60 * time.Minute)
			want(t, kind+": bob heard", bob.heard(ada), texts)
			for key, n := range w.handed {
				if n != 1 {
					t.Errorf("prekey %s was handed out %d times", key, n)
				}
			}
			ada.stop()
			bob.stop()
		})
	}
}

func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		w.setNoSocket(true)
		ada.start()
		bob.start()
		var texts []string
		for i := range 10 {
			texts = append(texts, fmt.Sprint(i))
			ada.send(bob, texts[i])
		}
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), texts)
		id := bob.send(ada, "back")
		settle(10 * time.Second)
		want(t, "ada heard", ada.heard(bob), []string{"back"})
		if s := bob.state(id); s != core.StateDelivered {
			t.Errorf("state %s", s)
		}
		w.setNoSocket(false) // both find the socket again
		settle(15 * time.Minute)
		ada.send(bob, "over the socket")
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), append(texts, "over the socket"))
		ada.stop()
		bob.stop()
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.start()
		var texts []string
		for i := range 10 {
			texts = append(texts, fmt.Sprint(i))
			ada.send(bob, texts[i])
		}
		settle(10 * time.Second)
		for range 2 {
			if err := bob.brain.Drain(ctx); err != nil {
				t.Fatal(err)
			}
		}
		want(t, "bob heard", bob.heard(ada), texts)
		ada.stop()
	})
}

func TestSimultaneousInitiation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		for i := range 3 {
			ada.send(bob, fmt.Sprint("a", i))
			bob.send(ada, fmt.Sprint("b", i))
		}
		ada.start()
		bob.start()
		settle(time.Minute)
		for i := 3; i < 6; i++ {
			ada.send(bob, fmt.Sprint("a", i))
			bob.send(ada, fmt.Sprint("b", i))
			settle(time.Second)
		}
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"a0", "a1", "a2", "a3", "a4", "a5"})
		want(t, "ada heard", ada.heard(bob), []string{"b0", "b1", "b2", "b3", "b4", "b5"})
		ada.stop()
		bob.stop()
	})
}

func TestOrderThroughRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		n := 0
		w.setRefuse(func(*wire.Submission) error {
			if n++; n%2 == 0 {
				return refusal(clearbox.CodeRateLimited)
			}
			return nil
		})
		ada.start()
		bob.start()
		var texts []string
		for i := range 20 {
			texts = append(texts, fmt.Sprint(i))
			ada.send(bob, texts[i])
		}
		settle(5 * time.Minute)
		want(t, "bob heard", bob.heard(ada), texts)
		ada.stop()
		bob.stop()
	})
}

func TestRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		w.setRefuse(func(*wire.Submission) error { return refusal(clearbox.CodePeerBlocked) })
		ada.start()
		id := ada.send(bob, "to nobody")
		settle(10 * time.Second)
		m, err := ada.brain.Message(ctx, id)
		if err != nil || m.State != core.StateFailed || m.Reason != clearbox.CodePeerBlocked {
			t.Errorf("%+v, %v", m, err)
		}
		w.setRefuse(nil)
		ada.send(bob, "again")
		bob.start()
		settle(10 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"again"})
		ada.stop()
		bob.stop()
	})
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		settle(5 * time.Second) // the states of messages were asked for, and are again in a minute
		slow, lost := ada.send(bob, "slow"), ada.send(bob, "lost")
		settle(5 * time.Second)
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeDelayed, ID: slow, Recipient: bob.user, Code: clearbox.CodePeerUnreachable})
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: lost, Recipient: bob.user, Code: clearbox.CodeOutcomeUnknown})
		settle(5 * time.Second)
		if m, err := ada.brain.Message(ctx, slow); err != nil || !m.Delayed || m.State != core.StateAtServer {
			t.Errorf("slow: %+v, %v", m, err)
		}
		if m, err := ada.brain.Message(ctx, lost); err != nil || m.State != core.StateFailed || m.Reason != clearbox.CodeOutcomeUnknown {
			t.Errorf("lost: %+v, %v", m, err)
		}
		// It had arrived after all: the receipt corrects the report.
		bob.start()
		settle(5 * time.Second)
		if err := bob.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		for _, id := range []clearbox.MessageID{slow, lost} {
			if m, err := ada.brain.Message(ctx, id); err != nil || m.State != core.StateDelivered || m.Reason != "" || m.Delayed {
				t.Errorf("%+v, %v", m, err)
			}
		}
		ada.stop()
		bob.stop()
	})
}

var monthMessages = flag.Int("month.messages", 10, "messages of each of 20 senders to a device that is away; R20 wants 250")

// TestMonthOffline is R20 of the reliability tests: a device is away for 29 days.
func TestMonthOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := newPerson(t, w, "bob@b.test")
		bob.preKeys = 0
		bob.open()
		bob.join()
		var senders []*person
		for i := range rounds(20, 8) {
			senders = append(senders, newPerson(t, w, fmt.Sprintf("p%d@a.test", i)).join())
		}
		each := *monthMessages
		for i := range each {
			for _, p := range senders {
				p.start()
				p.send(bob, fmt.Sprint(i))
			}
			settle(5 * time.Second)
			for _, p := range senders {
				p.stop()
			}
			time.Sleep(29 * 24 * time.Hour / time.Duration(each))
		}
		bob.start()
		settle(time.Minute)
		for _, p := range senders {
			heard := bob.heard(p)
			if len(heard) != each || !slices.IsSortedFunc(heard, func(a, b string) int { return len(a) - len(b) }) {
				t.Fatalf("heard %q", heard)
			}
		}
		w.mu.Lock()
		left := len(w.accounts[bob.user].devices[1].keys.OneTime)
		w.mu.Unlock()
		if left < 75 {
			t.Errorf("%d one-time prekeys left", left)
		}
		bob.stop()
	})
}
