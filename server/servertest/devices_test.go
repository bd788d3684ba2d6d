package servertest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/servertest"
)

// A further device has what was written before, and from then on everything once,
// also from the other organisation and across a cut; a removed one has nothing more.
func TestDevicesAcrossServers(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		alice.Say(bob, "before the phone")
		w.Wait("bob has it", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		bob.Say(alice, "an answer")
		w.Wait("alice has the answer", time.Minute, func() bool { return len(alice.Heard(bob)) == 1 })

		time.Sleep(10 * time.Minute) // what a server was told a moment ago it does not ask again
		phone := bob.Link("the phone of bob")
		if got := phone.Heard(alice); !slices.Equal(got, []string{"before the phone"}) {
			t.Errorf("the phone has %q", got)
		}
		// The other organisation's server learns of the phone by this message, which it
		// was not made for, and the brain sends it after.
		alice.Say(bob, "to both of you")
		bob.Say(alice, "from the laptop")
		w.Wait("both have it", 10*time.Minute, func() bool { return len(bob.Heard(alice)) == 2 && len(phone.Heard(alice)) == 2 })
		own := func(p *servertest.Person) (texts []string) {
			lines, err := p.Brain.Messages(context.Background(), alice.User, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range lines {
				if m.Outgoing {
					texts = append(texts, m.Text)
				}
			}
			return texts
		}
		w.Wait("the phone shows what the laptop wrote", time.Minute, func() bool {
			return slices.Equal(own(phone), []string{"an answer", "from the laptop"})
		})
		w.Wait("alice is told of the phone", time.Minute, func() bool {
			lines, err := alice.Brain.Messages(context.Background(), bob.User, 0, 0)
			return err == nil && slices.ContainsFunc(lines, func(m core.Message) bool { return m.Kind == core.MessageDevices })
		})

		w.Partition("a.test", "b.test")
		alice.Say(bob, "while apart")
		time.Sleep(time.Hour)
		w.Heal("a.test", "b.test")
		w.Wait("both have it after all", 16*time.Minute, func() bool { return len(bob.Heard(alice)) == 3 && len(phone.Heard(alice)) == 3 })

		if err := bob.Brain.RemoveDevice(context.Background(), 2); err != nil {
			t.Fatal(err)
		}
		alice.Say(bob, "not for the phone")
		w.Wait("bob has it", 2*time.Minute, func() bool { return len(bob.Heard(alice)) == 4 })
		time.Sleep(10 * time.Minute)
		if n := len(phone.Heard(alice)); n != 3 {
			t.Errorf("the removed device has %d messages", n)
		}
		phone.Gone()
	})
}
