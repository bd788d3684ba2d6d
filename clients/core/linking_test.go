package core_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
	"github.com/clearbox-im/clearbox/crypto/chain"
	"github.com/clearbox-im/clearbox/crypto/vault"
)

// blank is a computer without an account.
func (p *person) blank() *person {
	second := &person{t: p.t, w: p.w, name: p.name, user: p.user, opts: p.opts, preKeys: p.preKeys,
		net: &network{w: p.w, server: p.name.Server}, store: &memvault.Vault{}}
	second.vault = second.store
	second.open()
	return second
}

// linking links fresh to p's account; same is what the person says.
func (p *person) linking(fresh *person, same bool) (own, other core.Linked, err error) {
	l, err := fresh.brain.BeginLink(ctx)
	if err != nil {
		return own, other, err
	}
	var shown [2]vault.Confirmation
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		var err error
		other, err = l.Finish(ctx, "phone", func(c vault.Confirmation) { shown[0] = c })
		ended <- err
	}()
	own, err = p.brain.Link(ctx, l.Code(), func(_ context.Context, c vault.Confirmation) (bool, error) {
		shown[1] = c
		return same, nil
	})
	if err != nil {
		cancel()
	}
	err = errors.Join(err, <-ended)
	if err == nil && shown[0] != shown[1] {
		p.t.Error("the devices show different confirmations")
	}
	return own, other, err
}

// linked is linking that works.
func (p *person) linked() *person {
	p.t.Helper()
	fresh := p.blank()
	if _, _, err := p.linking(fresh, true); err != nil {
		p.t.Fatal(err)
	}
	return fresh
}

// all gives every text of the conversation with other, own ones with a mark.
func (p *person) all(other *person) (out []string) {
	p.t.Helper()
	lines, err := p.brain.Messages(ctx, other.user, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range lines {
		switch {
		case m.Kind != core.MessageText:
			out = append(out, "<"+string(m.Kind)+">")
		case m.Outgoing:
			out = append(out, "me: "+m.Text)
		default:
			out = append(out, m.Text)
		}
	}
	return out
}

// TestLinkedDeviceHasTheHistory: a new device has what was written before, gets
// what is written afterwards, once, and shows own messages as own.
func TestLinkedDeviceHasTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(5 * time.Second)
		bob.send(ada, "re: one")
		settle(5 * time.Second)
		if err := bob.brain.Verify(ctx, ada.user, true); err != nil {
			t.Fatal(err)
		}
		bob.stop()
		phone := bob.linked()
		want(t, "the phone has", phone.all(ada), []string{"one", "me: re: one"})
		if c := phone.contact("ada@a.test"); c.Trust != core.TrustVerified || !c.Accepted {
			t.Errorf("the phone knows %+v", c)
		}
		bob.start()
		phone.start()
		settle(time.Second)
		ada.send(bob, "two")
		settle(5 * time.Second)
		bob.send(ada, "re: two")
		settle(5 * time.Second)
		phone.send(ada, "from the phone")
		settle(10 * time.Second)
		whole := []string{"one", "me: re: one", "two", "me: re: two", "me: from the phone"}
		want(t, "bob has", bob.all(ada), whole)
		want(t, "the phone has", phone.all(ada), whole)
		want(t, "ada heard", ada.heard(bob), []string{"re: one", "<" + string(core.MessageDevices) + ">", "re: two", "from the phone"})
		for _, m := range func() []core.Message { l, _ := bob.brain.Messages(ctx, ada.user, 0, 0); return l }() {
			if m.Outgoing && m.State != core.StateDelivered {
				t.Errorf("%q is %s on the other device", m.Text, m.State)
			}
		}
		ada.stop()
		bob.stop()
		phone.stop()
	})
}

// TestLinkIsRefused: whatever is not as the person saw it hands nothing over.
func TestLinkIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		relay func(side string, n int, body []byte) []byte
		same  bool
		want  error
		code  clearbox.Code
	}{
		"the person says no":        {same: false, want: core.ErrLinkRefused},
		"another number":            {same: true, relay: swap("new", 2), want: core.ErrLinkSwapped},
		"another hello":             {same: true, relay: swap("old", 1), code: clearbox.CodeBadSignature},
		"altered keys":              {same: true, relay: swap("old", 2), code: clearbox.CodeBadSignature},
		"altered history":           {same: true, relay: swap("old", 3), code: clearbox.CodeBadSignature},
		"other keys of the device":  {same: true, relay: swap("new", 3), code: clearbox.CodeBadSignature},
		"an altered list":           {same: true, relay: swap("old", 4), code: clearbox.CodeBadSignature},
		"another key of the device": {same: true, relay: swap("new", 1), want: core.ErrLinkSwapped},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _, bob := pair(t)
				w.relay = c.relay
				fresh := bob.blank()
				_, _, err := bob.linking(fresh, c.same)
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("linked: %v", err)
				}
				if c.code != "" && !hasCode(err, c.code) {
					t.Errorf("%v", err)
				}
				if fresh.brain.HasAccount() {
					t.Error("the new device has the account")
				}
			})
		})
	}
}

// hasCode looks into joined errors.
func hasCode(err error, code clearbox.Code) bool {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return slices.ContainsFunc(many.Unwrap(), func(e error) bool { return clearbox.CodeOf(e) == code })
	}
	return clearbox.CodeOf(err) == code
}

func swap(side string, n int) func(string, int, []byte) []byte {
	return func(s string, i int, body []byte) []byte {
		if s == side && i == n {
			return altered(body)
		}
		return body
	}
}

// TestLinkTenThousand: the history of years goes over in moments.
func TestLinkTenThousand(t *testing.T) {
	_, ada, bob := pair(t)
	if err := core.FillTalk(ctx, bob.brain, ada.user, 10_000); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	phone := bob.linked()
	t.Logf("10,000 messages in %v", time.Since(begin))
	if n := len(phone.all(ada)); n != 10_000 {
		t.Errorf("%d messages", n)
	}
}

// TestMaxDevices: an account has eight devices, and the ninth is refused in words.
func TestMaxDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, bob := pair(t)
		for range 7 {
			bob.linked()
		}
		_, _, err := bob.linking(bob.blank(), true)
		if !hasCode(err, clearbox.CodeQuota) {
			t.Errorf("a ninth device: %v", err)
		}
		w.mu.Lock() // one is withdrawn: there is room again, in the list too
		delete(w.accounts[bob.user].devices, 5)
		w.accounts[bob.user].withdrawn = []int{5}
		w.mu.Unlock()
		if own, _, err := bob.linking(bob.blank(), true); err != nil || own.Device != 9 {
			t.Errorf("in place of one that was withdrawn: %+v, %v", own, err)
		}
	})
}

// TestOwnDevicesAgree: what the person decides on one device holds on the others,
// in either direction, and nothing goes round in circles.
func TestOwnDevicesAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		phone := bob.linked()
		tablet := phone.linked() // any device may link
		devices := []*person{bob, phone, tablet}
		ada.start()
		for _, d := range devices {
			d.start()
		}
		settle(time.Minute) // all know all
		ada.send(bob, "hello")
		settle(5 * time.Second)
		unshown, err := bob.brain.Unshown(ctx, 0)
		if err != nil || len(unshown) != 1 {
			t.Fatalf("%v, %v", unshown, err)
		}
		if err := bob.brain.MarkShown(ctx, unshown...); err != nil {
			t.Fatal(err)
		}
		if err := phone.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		if err := tablet.brain.Verify(ctx, ada.user, true); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Second)
		for i, d := range devices {
			c, err := d.brain.Known(ctx, ada.user.String())
			if err != nil || !c.Accepted || c.Trust != core.TrustVerified {
				t.Errorf("device %d knows %+v, %v", i+1, c, err)
			}
			if left, _ := d.brain.Unshown(ctx, 0); len(left) != 0 {
				t.Errorf("on device %d, %d lines are new still", i+1, len(left))
			}
		}
		stranger := clearbox.UserID{UID: "aaaqeayeaudaocajbifqydiob4", Server: "c.test"}
		w.mu.Lock() // blocked by a device that has not told of it
		w.accounts[bob.user].blocks = []clearbox.UserID{stranger}
		w.mu.Unlock()
		if err := bob.brain.Block(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		for i, d := range devices {
			if c, err := d.brain.Known(ctx, ada.user.String()); err != nil || !c.Blocked {
				t.Errorf("device %d knows %+v, %v", i+1, c, err)
			}
		}
		w.mu.Lock()
		blocks, sent := len(w.accounts[bob.user].blocks), len(w.accounts[bob.user].sent)
		w.mu.Unlock()
		if blocks != 2 {
			t.Errorf("the server knows %d blocks", blocks)
		}
		settle(10 * time.Minute)
		w.mu.Lock()
		later := len(w.accounts[bob.user].sent)
		w.mu.Unlock()
		if later != sent {
			t.Errorf("own devices go on telling each other: %d and %d", sent, later)
		}
		ada.stop()
		for _, d := range devices {
			d.stop()
		}
	})
}

// TestUnusedDeviceIsStruck: the server cut a device off; another one signs so.
func TestUnusedDeviceIsStruck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, bob := pair(t)
		bob.linked()
		w.mu.Lock()
		delete(w.accounts[bob.user].devices, 2)
		w.accounts[bob.user].withdrawn = []int{2}
		w.mu.Unlock()
		bob.start()
		settle(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.accounts[bob.user].parsed.Active()); n != 1 {
			t.Errorf("%d devices are on the list", n)
		}
		go bob.stop()
	})
}

// TestLinkLosesRequests: requests and answers get lost on the way.
func TestLinkLosesRequests(t *testing.T) {
	for _, kind := range []string{"lost", "unheard"} {
		synctest.Test(t, func(t *testing.T) {
			w, ada, bob := pair(t)
			if err := core.FillTalk(ctx, bob.brain, ada.user, 3000); err != nil {
				t.Fatal(err)
			}
			n := 0
			w.setFault(func(method, path string) string {
				if n++; strings.HasPrefix(path, "/devices/link/") && !strings.HasSuffix(path, "/session") && n%3 == 0 {
					return kind
				}
				return ""
			})
			phone := bob.linked()
			if n := len(phone.all(ada)); n != 3000 {
				t.Errorf("%s: %d messages", kind, n)
			}
		})
	}
}

// TestLinkBreaksOff: in the middle of the history the network is gone. Nothing has
// changed, and another attempt works.
func TestLinkBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		if err := core.FillTalk(ctx, bob.brain, ada.user, 5000); err != nil {
			t.Fatal(err)
		}
		said := 0
		w.setFault(func(method, path string) string {
			if method == "POST" && strings.HasSuffix(path, "/old") {
				said++
			}
			if said > 4 && strings.HasPrefix(path, "/devices/link/") {
				return "lost"
			}
			return ""
		})
		fresh := bob.blank()
		if _, _, err := bob.linking(fresh, true); err == nil || fresh.brain.HasAccount() {
			t.Errorf("linked over a broken wire: %v", err)
		}
		w.setFault(nil)
		w.mu.Lock()
		devices := len(w.accounts[bob.user].parsed.Active())
		w.mu.Unlock()
		if devices != 1 {
			t.Errorf("%d devices are on the list", devices)
		}
		if n := len(bob.linked().all(ada)); n != 5000 {
			t.Errorf("%d messages at last", n)
		}
	})
}

// TestGhostDevice: the own server lists a device that the root key did not sign, or
// forgets one that it did: neither is believed.
func TestGhostDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		phone := bob.linked()
		eve := newPerson(t, w, "eve@b.test").join()
		w.mu.Lock()
		acc := w.accounts[bob.user]
		list, parsed := acc.list, acc.parsed
		acc.list = w.accounts[eve.user].list
		w.mu.Unlock()
		if _, err := bob.brain.Devices(ctx); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
			t.Errorf("another account's list: %v", err)
		}
		ghost := altered(list)
		w.mu.Lock()
		acc.list = ghost
		w.mu.Unlock()
		if _, err := bob.brain.Devices(ctx); clearbox.CodeOf(err) != clearbox.CodeBadSignature {
			t.Errorf("an altered list: %v", err)
		}
		w.mu.Lock()
		acc.list, acc.parsed = list, parsed
		w.mu.Unlock()
		ada.start()
		bob.start()
		phone.start()
		settle(time.Second)
		bob.send(ada, "to ada and the phone alone")
		settle(5 * time.Second)
		want(t, "the phone has", phone.all(ada), []string{"me: to ada and the phone alone"})
		ada.stop()
		bob.stop()
		phone.stop()
	})
}

// TestRemovedDeviceIsNotHeard: a device that is off the list decides nothing any
// more, even if the server goes on delivering what it says; nor does anybody else.
func TestRemovedDeviceIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "hello")
		settle(5 * time.Second)
		bob.stop()
		phone := bob.linked()
		w.mu.Lock()
		device := w.accounts[bob.user].devices[2]
		w.mu.Unlock()
		if err := bob.brain.RemoveDevice(ctx, 2); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.accounts[bob.user].devices[2] = device // a hostile server
		w.mu.Unlock()
		bob.start()
		if err := core.SaySync(ctx, phone.brain, core.SyncContact{User: ada.user, Blocked: true, Trust: core.TrustUnverified, At: 1 << 50}); err != nil {
			t.Fatal(err)
		}
		phone.start()
		settle(time.Minute)
		phone.stop()
		sync := core.Content{Kind: core.KindSync, Sync: &core.Sync{Contacts: []core.SyncContact{{User: ada.user, Blocked: true, Trust: core.TrustUnverified, At: 1 << 50}}}}
		if err := core.SendContent(ctx, ada.brain, bob.user, sync); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if c := bob.contact(ada.user.String()); c.Blocked {
			t.Error("somebody else decided")
		}
		ada.stop()
		bob.stop()
	})
}

// TestNobodyToTell: what was to be told to a device that is gone does not stay in
// the queue.
func TestNobodyToTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		bob.linked()
		bob.contact("ada@a.test")
		if err := bob.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		if st, _ := bob.brain.Status(ctx); st.Queued == 0 {
			t.Error("nothing is to be told")
		}
		if err := bob.brain.RemoveDevice(ctx, 2); err != nil {
			t.Fatal(err)
		}
		bob.start()
		settle(time.Minute)
		if st, _ := bob.brain.Status(ctx); st.Queued != 0 {
			t.Errorf("%d are in the queue", st.Queued)
		}
		bob.stop()
	})
}

// TestLinkedDeviceHasTheGroups: groups go over with their names and history, the new
// device reads on and writes, and recovery brings them back, too.
func TestLinkedDeviceHasTheGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, people := crew(t, "ada@a.test", "bob@b.test")
		ada, bob := people[0], people[1]
		id := circle(t, ada, bob)
		ada.tell(id, "before the phone")
		settle(10 * time.Second)
		bob.tell(id, "an answer")
		settle(10 * time.Second)
		bob.stop()
		phone := bob.linked()
		if g := phone.group(id); g.Title != "the crew" || g.Mine != chain.StatusActive || len(g.Members) != 2 {
			t.Errorf("the phone knows %+v", g)
		}
		want(t, "the phone has", phone.within(id), []string{"ada: before the phone", "bob: an answer"})
		bob.start()
		phone.start()
		settle(time.Minute)
		ada.tell(id, "to both of you")
		settle(time.Minute)
		phone.tell(id, "from the phone")
		settle(time.Minute)
		whole := []string{"ada: before the phone", "bob: an answer", "ada: to both of you", "bob: from the phone"}
		for name, p := range map[string]*person{"ada": ada, "bob": bob, "the phone": phone} {
			want(t, name+" has", p.within(id), whole)
		}
		key := phone.secured()
		settle(3 * time.Minute)
		back, out, err := bob.recovered(key)
		if err != nil || out.Missing {
			t.Fatalf("%+v, %v", out, err)
		}
		want(t, "what came back", back.within(id), whole)
		if g := back.group(id); g.Title != "the crew" || g.Mine != chain.StatusActive {
			t.Errorf("the recovered device knows %+v", g)
		}
		stopAll(ada, bob, phone)
	})
}
