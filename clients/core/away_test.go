//go:build unix

package core_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	diskvault "github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
)

// TestAway29Days is R20: a device that is offline for 29 days has all that 20
// people wrote meanwhile within four seconds of CPU, writes to its vault on disk
// included, in order and once. Half of them begin while it is away, more than it
// has left one-time prekeys for.
//
// It prints one JSON line. With CLEARBOX_LONG set there are 5,000 messages, and
// the time is judged.
func TestAway29Days(t *testing.T) {
	const days, senders = 29, 20
	rounds, long := 15, os.Getenv("CLEARBOX_LONG") != ""
	if long {
		rounds = 250
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bob := newPerson(t, w, "bob@b.test")
		disk, err := diskvault.Open(t.TempDir(), diskvault.Options{Secret: diskvault.Secret{Key: make([]byte, diskvault.KeySize)}, Random: cryptoRandom, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		bob.vault = disk
		bob.open()
		bob.join().start()
		var people []*person
		for i := range senders {
			p := newPerson(t, w, fmt.Sprintf("p%d@%c.test", i, "ab"[i%2])).join()
			p.contact("bob@b.test")
			p.start()
			people = append(people, p)
			if i < senders/2 { // a session in both directions
				p.send(bob, "hello")
				settle(5 * time.Second)
				bob.send(p, "hello")
				settle(5 * time.Second)
			}
			p.stop()
		}
		bob.stop()
		said := make([][]string, senders)
		for day := range days {
			for i, p := range people {
				for r := rounds * day / days; r < rounds*(day+1)/days; r++ {
					text := fmt.Sprintf("%d of p%d: the herons stand in the shallow water below the weir", r, i)
					if _, err := p.brain.Send(ctx, bob.user, text); err != nil {
						t.Fatal(err)
					}
					said[i] = append(said[i], text)
				}
			}
			for _, p := range people {
				p.start()
			}
			settle(10 * time.Second)
			for _, p := range people { // 20 brains that wait for a day take much time
				p.stop()
			}
			settle(24 * time.Hour)
		}
		acc := w.accounts[bob.user]
		if n := len(acc.devices[1].mail); n < rounds*senders {
			t.Fatalf("%d of %d messages wait", n, rounds*senders)
		}

		before := cpu(t)
		bob.start()
		waiting := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(acc.devices[1].mail) > 0
		}
		for begin := time.Now(); waiting() && time.Since(begin) < time.Hour; {
			settle(100 * time.Millisecond)
		}
		took := cpu(t) - before
		bob.stop()

		lost, twice, astray := 0, 0, 0
		for i, p := range people {
			heard := slices.DeleteFunc(bob.heard(p), func(s string) bool { return s == "hello" })
			l, d, o := compare(heard, said[i])
			lost, twice, astray = lost+l, twice+d, astray+o
		}
		fmt.Printf(`{"test":"away","days":%d,"messages":%d,"senders":%d,"lost":%d,"duplicated":%d,"reordered":%d,"cpu_s":%.2f}`+"\n",
			days, rounds*senders, senders, lost, twice, astray, took.Seconds())
		if lost+twice+astray > 0 || long && took > 4*time.Second {
			t.Errorf("lost %d, shown twice %d, out of order %d, %v of CPU", lost, twice, astray, took)
		}
		if st, err := bob.brain.Status(context.Background()); err != nil || st.Healing != (core.Healing{}) {
			t.Errorf("something had to be mended: %+v, %v", st.Healing, err)
		}
	})
}

// cpu is what this process has used so far.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
