package servertest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/server/servertest"
)

// An account takes another identity while one of its devices is away: contacts of the
// other organisation go on, the device reads what was written to it meanwhile, and the
// account stays a member of its group, where it talks, signs, and is invited anew.
func TestRenewedAcrossServers(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		ctx := context.Background()
		alice, bob, carol := w.Join("alice@a.test"), w.Join("bob@b.test"), w.Join("carol@b.test")
		id := founded(t, w, alice, bob)
		alice.Say(bob, "one")
		bob.Say(alice, "two")
		w.Wait("both have it", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 && len(alice.Heard(bob)) == 1 })
		phone := bob.Link("the phone of bob")
		w.Wait("the phone has what was said, and the group", 10*time.Minute, func() bool {
			g, err := phone.Brain.Group(ctx, id)
			return err == nil && g.Mine == chain.StatusActive && slices.Equal(phone.Heard(alice), []string{"one"})
		})
		phone.Offline()

		tellAll(t, w, alice, id, "a first word")
		if err := bob.Brain.RenewIdentity(ctx); err != nil {
			t.Fatal(err)
		}
		w.Wait("the identity is another one", 2*time.Minute, func() bool {
			begun, missed, err := bob.Brain.Renewing(ctx)
			return err == nil && !begun && !missed
		})
		tellAll(t, w, bob, id, "under new keys")
		w.Wait("alice is told, and reads on", 5*time.Minute, func() bool {
			lines, err := alice.Brain.Messages(ctx, bob.User, 0, 0)
			return err == nil && slices.ContainsFunc(lines, func(m core.Message) bool { return m.Kind == core.MessageRenewed }) &&
				slices.Contains(within(t, alice, id), "under new keys")
		})
		alice.Say(bob, "three")
		tellAll(t, w, alice, id, "to new keys")
		w.Wait("bob has it", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == 2 && len(within(t, bob, id)) == 3 })

		// A member as before: bob is made an administrator, and brings carol in.
		if err := alice.Brain.SetGroupRole(ctx, id, bob.User, chain.RoleAdmin); err != nil {
			t.Fatal(err)
		}
		w.Wait("bob may", time.Minute, func() bool {
			g, err := bob.Brain.Group(ctx, id)
			return err == nil && g.Role == chain.RoleAdmin
		})
		if _, err := bob.Brain.Contact(ctx, carol.Name); err != nil {
			t.Fatal(err)
		}
		if err := bob.Brain.InviteToGroup(ctx, id, carol.User, false); err != nil {
			t.Fatal(err)
		}
		w.Wait("carol is invited", time.Minute, func() bool {
			g, err := carol.Brain.Group(ctx, id)
			return err == nil && g.Mine == chain.StatusInvited
		})
		if err := carol.Brain.AcceptGroup(ctx, id); err != nil {
			t.Fatal(err)
		}
		tellAll(t, w, carol, id, "from carol")
		w.Wait("all read carol", 5*time.Minute, func() bool {
			return slices.Contains(within(t, alice, id), "from carol") && slices.Contains(within(t, bob, id), "from carol")
		})
		founded(t, w, alice, bob) // under the identity of now

		phone.Online()
		w.Wait("the phone reads what was written to the new keys", 20*time.Minute, func() bool {
			return slices.Equal(phone.Heard(alice), []string{"one", "three"}) && slices.Contains(within(t, phone, id), "from carol")
		})
		if _, missed, err := phone.Brain.Renewing(ctx); missed || err != nil {
			t.Errorf("the phone was not told: %v", err)
		}
		phone.Say(alice, "from the phone")
		w.Wait("alice has it", 5*time.Minute, func() bool { return slices.Contains(alice.Heard(bob), "from the phone") })
	})
}
