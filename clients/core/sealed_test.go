package core_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// mail gives what lies in a person's mailbox.
func (w *world) mailOf(p *person) []wire.ServerFrame {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.accounts[p.user].devices[1].mail)
}

// give puts an envelope into bob's mailbox as if a.test had sent it.
func (w *world) give(to *person, origin clearbox.ServerName, at time.Time, content []byte) {
	id, err := clearbox.NewMessageID(cryptoRandom)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deliver(to.user, 1, wire.ServerFrame{Type: wire.FrameReceive, Envelope: &wire.Envelope{
		ID: id, Origin: origin, Recipient: to.user, Device: 1, Type: clearbox.ContentSealed, AcceptedAt: millis(at), Content: content,
	}})
}

// forge seals noise for to in the name of who, certified by the authority of a
// server, with a key that may be another than the certificate's.
func (w *world) forge(to *person, by clearbox.ServerName, who clearbox.UserID, expires time.Time) []byte {
	key, err := curve.GeneratePrivateKey(cryptoRandom)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	a := w.authority(by)
	identity := w.accounts[to.user].parsed.Identity
	w.mu.Unlock()
	c, err := a.server.Issue(cryptoRandom, a.key, certificate.Subject{
		Account: keys.AccountServiceID(who.String()), Device: 1, Identity: key.Public(), Expires: expires,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := sealed.SealV1(cryptoRandom, key, identity, &sealed.Content{Type: sealed.TypeWhisper, Sender: c, Body: []byte("noise")})
	if err != nil {
		w.t.Fatal(err)
	}
	return padded(b)
}

func padded(b []byte) []byte {
	out := make([]byte, clearbox.SealedSize(len(b)+1))
	copy(out, b)
	out[len(b)] = 0x80
	return out
}

// reasons gives what was noted of mail that could not be read.
func (p *person) reasons(with clearbox.UserID) (out []clearbox.Code) {
	lines, err := p.brain.Messages(ctx, with, 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range lines {
		if m.Kind == core.MessageUndecryptable {
			out = append(out, m.Reason)
		}
	}
	return out
}

// TestSealedSaysNothingOutside: between servers an envelope has no sender, a size
// from a bucket, and none of the names, keys and texts of either side.
func TestSealedSaysNothingOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		ada.send(bob, "a few words")
		settle(5 * time.Second)
		all := w.mailOf(bob)
		if len(all) != 1 {
			t.Fatalf("%d envelopes", len(all))
		}
		env := all[0].Envelope
		if !env.Sender.IsZero() || env.SenderDevice != 0 || env.Type != clearbox.ContentSealed || env.Origin != "a.test" || clearbox.SealedSize(len(env.Content)) != len(env.Content) {
			t.Errorf("the envelope is %+v", env)
		}
		account := keys.AccountServiceID(ada.user.String())
		for name, b := range map[string][]byte{"text": []byte("a few words"), "address": []byte("ada@"), "uid": []byte(ada.user.UID), "service id": account[1:]} {
			if bytes.Contains(env.Content, b) {
				t.Errorf("the %s stands outside of the encryption", name)
			}
		}
		ada.stop()
	})
}

// TestSealedOpensLater: what was accepted in time opens 29 days later, with the
// certificate long ended.
func TestSealedOpensLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := pair(t)
		ada.start()
		ada.send(bob, "from last month")
		settle(5 * time.Second)
		ada.stop()
		time.Sleep(29 * 24 * time.Hour)
		if err := bob.brain.Login(ctx, "secret"); err != nil {
			t.Fatal(err)
		}
		bob.start()
		settle(5 * time.Second)
		want(t, "bob heard", bob.heard(ada), []string{"from last month"})
		bob.stop()
	})
}

// TestCertificateOfAnotherServer: a certificate of peer C for a user of A is
// refused, whether A's user is known or not.
func TestCertificateOfAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		bob.contact("ada@a.test")
		w.give(bob, "c.test", time.Now(), w.forge(bob, "c.test", ada.user, time.Now().Add(time.Hour)))
		w.give(bob, "a.test", time.Now(), w.forge(bob, "c.test", ada.user, time.Now().Add(time.Hour)))
		bob.start()
		settle(3 * time.Minute)
		if got := bob.reasons(core.SomebodyAt("c.test")); !slices.Equal(got, []clearbox.Code{"wrong_server"}) {
			t.Errorf("sent by c.test: %v", got)
		}
		if got := bob.reasons(core.SomebodyAt("a.test")); !slices.Equal(got, []clearbox.Code{"certificate_untrusted"}) {
			t.Errorf("sent by a.test: %v", got)
		}
		if got := bob.heard(ada); len(got) != 0 {
			t.Errorf("in ada's conversation: %q", got)
		}
		bob.stop()
	})
}

// TestSealedRefusals: each fault of a sealed envelope has its own reason, is
// noted once and acknowledged.
func TestSealedRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		now := time.Now()
		good := w.forge(bob, "a.test", ada.user, now.Add(time.Hour))
		unmarked := bytes.Clone(good)
		unmarked[len(unmarked)-1] = 1
		longer := append(bytes.Clone(good), make([]byte, len(good))...)
		altered := bytes.Clone(good)
		altered[40] ^= 1
		w.give(bob, "a.test", now, unmarked)
		w.give(bob, "a.test", now, longer)
		w.give(bob, "a.test", now, altered)
		w.give(bob, "a.test", now, w.forge(bob, "a.test", ada.user, now.Add(-time.Second)))
		w.give(bob, "a.test", now, good) // opens, and holds noise
		w.give(bob, "b.test", now, good) // nobody of the own server seals
		bob.start()
		settle(3 * time.Minute)
		if got := bob.reasons(core.SomebodyAt("a.test")); !slices.Equal(got, []clearbox.Code{"bad_padding", "bad_padding", "not_sealed_for_us", "certificate_expired", "not_authentic"}) {
			t.Errorf("reasons %v", got)
		}
		if got := bob.reasons(core.SomebodyAt("b.test")); !slices.Equal(got, []clearbox.Code{"misrouted"}) {
			t.Errorf("reasons %v", got)
		}
		if left := w.mailOf(bob); len(left) != 0 {
			t.Errorf("%d envelopes were not acknowledged", len(left))
		}
		if c, err := bob.brain.Contacts(ctx); err != nil || len(c) != 0 {
			t.Errorf("strangers who proved nothing became contacts: %v, %v", c, err)
		}
		bob.stop()
	})
}

// TestMailWaitsForRoots: mail whose roots cannot be learnt is kept, in order, and
// read when they are; they are not asked for more than once a minute.
func TestMailWaitsForRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		w.setFault(func(_, path string) string {
			if path == "/servers/a.test" {
				return "lost"
			}
			return ""
		})
		ada.start()
		bob.start()
		texts := []string{"one", "two", "three"}
		for _, text := range texts {
			ada.send(bob, text)
		}
		settle(time.Hour)
		if got := bob.heard(ada); len(got) != 0 {
			t.Errorf("read without roots: %q", got)
		}
		if left := w.mailOf(bob); len(left) != 0 {
			t.Errorf("%d envelopes are stored and were not acknowledged", len(left))
		}
		bob.stop()
		bob.open()
		w.setFault(nil)
		bob.start()
		settle(2 * time.Minute)
		want(t, "bob heard", bob.heard(ada), texts)
		// The server has new keys: they are learnt once the next message comes.
		w.mu.Lock()
		w.authorities["a.test"] = newAuthority()
		w.asked["a.test"] = 0
		w.mu.Unlock()
		settle(25 * time.Hour) // until ada has a certificate under them
		for i := range 20 {
			ada.send(bob, fmt.Sprint(i))
		}
		settle(3 * time.Minute)
		if got := bob.heard(ada); len(got) != 23 {
			t.Errorf("heard %q", got)
		}
		w.mu.Lock()
		if n := w.asked["a.test"]; n < 1 || n > 2 {
			t.Errorf("the roots were asked for %d times", n)
		}
		w.mu.Unlock()
		ada.stop()
		bob.stop()
	})
}

// TestRootsOutliveARefusal: a forged certificate has the roots asked for; that the
// own server does not tell them then takes back none that were known.
func TestRootsOutliveARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(2 * time.Minute)
		w.mu.Lock()
		w.refuseServers = clearbox.CodeForbidden
		w.mu.Unlock()
		w.give(bob, "a.test", time.Now(), w.forge(bob, "c.test", ada.user, time.Now().Add(time.Hour)))
		settle(2 * time.Minute)
		ada.send(bob, "two")
		settle(2 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		ada.stop()
		bob.stop()
	})
}

// TestRootsAfterClockPutBack: mail under new roots is read also when the roots
// were last asked for in what the device now takes for the future.
func TestRootsAfterClockPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		var ahead atomic.Int64
		ahead.Store(int64(12 * time.Hour))
		bob.opts.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		bob.open()
		ada.start()
		bob.start()
		ada.send(bob, "one")
		settle(2 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one"})
		ahead.Store(0)
		w.mu.Lock()
		w.authorities["a.test"] = newAuthority()
		w.mu.Unlock()
		ada.stop()
		if err := ada.vault.Update(ctx, func(tx core.Tx) error { return tx.Delete("certificate") }); err != nil {
			t.Fatal(err)
		}
		ada.open()
		ada.start()
		ada.send(bob, "two")
		settle(2 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		if r := bob.reasons(ada.user); r != nil {
			t.Errorf("not read: %q", r)
		}
		ada.stop()
		bob.stop()
	})
}

// TestSealedAnew: what was sealed before a long time without a network goes out
// under a certificate that is valid then.
func TestSealedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		ada.send(bob, "first")
		bob.send(ada, "re: first")
		settle(5 * time.Second)
		ada.net.setAway(true)
		ada.send(bob, "written long ago")
		settle(3 * 24 * time.Hour)
		ada.net.setAway(false)
		settle(3 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"first", "written long ago"})
		if got := bob.reasons(core.SomebodyAt("a.test")); len(got) != 0 {
			t.Errorf("refused: %v", got)
		}
		_ = w
		ada.stop()
		bob.stop()
	})
}

// strangers gives two people of two organisations who cannot be found by name.
func strangers(t *testing.T) (*world, *person, *person) {
	w := newWorld(t)
	ada, bob := newPerson(t, w, "ada@a.test"), newPerson(t, w, "bob@b.test")
	ada.closed, bob.closed = true, true
	return w, ada.join(), bob.join()
}

// write sends to an address that may be pending.
func (p *person) write(to *person, text string) clearbox.MessageID {
	p.t.Helper()
	c := p.contact(to.name.String())
	m, err := p.brain.Send(ctx, c.User, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.ID
}

// accepts has p accept whoever asks.
func (p *person) accepts() int {
	p.t.Helper()
	all, err := p.brain.Requests(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, r := range all {
		if err := p.brain.Accept(ctx, r.User); err != nil {
			p.t.Fatal(err)
		}
	}
	return len(all)
}

// TestKnock: what is written to a stranger waits until they accept; then the
// conversation is one, in order, on both sides.
func TestKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		ada.start()
		bob.start()
		pending := ada.contact("bob@b.test")
		if !pending.Pending || pending.Asked {
			t.Errorf("before anything is written: %+v", pending)
		}
		first := ada.write(bob, "one")
		ada.write(bob, "two")
		settle(time.Minute)
		m, err := ada.brain.Message(ctx, first)
		if err != nil || m.State != core.StateQueued || m.Reason != clearbox.CodeConsentRequired {
			t.Errorf("the message is %+v, %v", m, err)
		}
		if st, _ := ada.brain.Status(ctx); st.Waiting != 2 || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
		if w.knocks != 1 {
			t.Errorf("asked %d times", w.knocks)
		}
		asked, err := bob.brain.Requests(ctx)
		if err != nil || len(asked) != 1 || asked[0].Address != "ada@a.test" || asked[0].Controller != "Clinic" || !asked[0].New {
			t.Fatalf("requests %+v, %v", asked, err)
		}
		if bob.accepts() != 1 {
			t.Error("nobody asked")
		}
		if err := bob.brain.Accept(ctx, ada.user); err != nil { // again changes nothing
			t.Error(err)
		}
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		if s := ada.state(first); s != core.StateDelivered {
			t.Errorf("the message is %s", s)
		}
		// By the address, the account and what stood for it until now.
		for _, name := range []string{"bob@b.test", bob.user.String(), pending.User.String()} {
			if c := ada.contact(name); c.User != bob.user || c.Pending || !c.Accepted || c.Address != "bob@b.test" {
				t.Errorf("%s is %+v", name, c)
			}
		}
		if lines, err := ada.brain.Messages(ctx, pending.User, 0, 0); err != nil || len(lines) != 2 {
			t.Errorf("the conversation has %d lines, %v", len(lines), err)
		}
		if _, err := ada.brain.Send(ctx, pending.User, "three"); err != nil {
			t.Error(err)
		}
		bob.write(ada, "re: three")
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three"})
		want(t, "ada heard", ada.heard(bob), []string{"re: three"})
		if left, _ := bob.brain.Requests(ctx); len(left) != 0 {
			t.Errorf("still asking: %+v", left)
		}
		ada.stop()
		bob.stop()
	})
}

// TestKnockBothWays: two who ask each other need no answer of a person.
func TestKnockBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ada, bob := strangers(t)
		ada.write(bob, "hello")
		bob.write(ada, "hi")
		ada.start()
		bob.start()
		settle(3 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"hello"})
		want(t, "ada heard", ada.heard(bob), []string{"hi"})
		for _, p := range []*person{ada, bob} {
			if r, err := p.brain.Requests(ctx); err != nil || len(r) != 0 {
				t.Errorf("%s: %v, %v", p.name, r, err)
			}
			if all, err := p.brain.Contacts(ctx); err != nil || len(all) != 1 {
				t.Errorf("%s: contacts %+v, %v", p.name, all, err)
			}
		}
		ada.stop()
		bob.stop()
	})
}

// TestKnockDeclined: the other side learns nothing, and asks again only after 14
// days, when the person writes again.
func TestKnockDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		ada.start()
		bob.start()
		id := ada.write(bob, "hello")
		settle(time.Minute)
		if err := bob.brain.Decline(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		if err := bob.brain.Decline(ctx, ada.user); !errors.Is(err, core.ErrUnknownContact) {
			t.Errorf("again: %v", err)
		}
		ada.write(bob, "are you there?")
		settle(time.Minute)
		if s := ada.state(id); s != core.StateQueued || w.knocks != 1 {
			t.Errorf("%s after %d knocks", s, w.knocks)
		}
		settle(time.Hour)
		asleep(15*24*time.Hour, ada, bob)
		settle(time.Hour)
		if w.knocks != 1 {
			t.Errorf("%d knocks without a word", w.knocks)
		}
		ada.write(bob, "last try")
		settle(time.Minute)
		if w.knocks != 2 || bob.accepts() != 1 {
			t.Errorf("%d knocks", w.knocks)
		}
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"hello", "are you there?", "last try"})
		ada.stop()
		bob.stop()
	})
}

// TestKnockRefused: the own server does not take it, and what waited is reported.
func TestKnockRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		w.refuseKnock = clearbox.CodePeerBlocked
		ada.start()
		id := ada.write(bob, "hello")
		settle(time.Minute)
		m, err := ada.brain.Message(ctx, id)
		if err != nil || m.State != core.StateFailed || m.Reason != clearbox.CodePeerBlocked {
			t.Errorf("%+v, %v", m, err)
		}
		ada.stop()
	})
}

// TestTokenRefused: a server that lost its people's tokens refuses what was
// written with them; the contact is asked again, answers by itself, and the
// message arrives.
func TestTokenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		ada.start()
		bob.start()
		ada.write(bob, "one")
		settle(time.Minute)
		bob.accepts()
		settle(2 * time.Hour)
		w.mu.Lock()
		w.accounts[bob.user].token, w.accounts[bob.user].tokenBefore = nil, nil
		w.mu.Unlock()
		id := ada.write(bob, "two")
		settle(2 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		if s := ada.state(id); s != core.StateDelivered {
			t.Errorf("the message is %s", s)
		}
		if w.knocks != 2 {
			t.Errorf("%d knocks", w.knocks)
		}
		ada.stop()
		bob.stop()
	})
}

// TestBlock: a blocked contact is not heard; the others learn the new token.
func TestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		carol := newPerson(t, w, "carol@c.test")
		carol.closed = true
		carol.join()
		for _, p := range []*person{ada, bob, carol} {
			p.start()
		}
		ada.write(bob, "one")
		carol.write(bob, "uno")
		settle(time.Minute)
		bob.accepts()
		settle(time.Minute)
		w.mu.Lock()
		before := w.accounts[bob.user].token
		w.mu.Unlock()
		if err := bob.brain.Block(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		w.mu.Lock()
		if bytes.Equal(before, w.accounts[bob.user].token) || !slices.Equal(w.accounts[bob.user].blocks, []clearbox.UserID{ada.user}) {
			t.Error("the server was not told")
		}
		w.accounts[bob.user].tokenBefore = nil // a day later
		w.mu.Unlock()
		ada.write(bob, "two")
		carol.write(bob, "due")
		settle(time.Minute)
		want(t, "from ada", bob.heard(ada), []string{"one"})
		want(t, "from carol", bob.heard(carol), []string{"uno", "due"})
		if r, _ := bob.brain.Requests(ctx); len(r) != 0 {
			t.Errorf("a blocked person asks: %+v", r)
		}
		if _, err := bob.brain.Send(ctx, ada.user, "no"); clearbox.CodeOf(err) != clearbox.CodeForbidden {
			t.Errorf("Send = %v", err)
		}
		if err := bob.brain.Unblock(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		w.mu.Lock()
		if len(w.accounts[bob.user].blocks) != 0 {
			t.Error("the server still blocks")
		}
		w.mu.Unlock()
		for _, p := range []*person{ada, bob, carol} {
			p.stop()
		}
	})
}

// TestBlockByAddress: who is blocked before they ever answered is blocked when
// they ask themselves.
func TestBlockByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		ada.start()
		bob.start()
		ada.write(bob, "hello?")
		settle(time.Minute)
		if err := ada.brain.Block(ctx, ada.contact("bob@b.test").User); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if err := bob.brain.Decline(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		bob.write(ada, "what?")
		settle(time.Minute)
		if r, _ := ada.brain.Requests(ctx); len(r) != 0 {
			t.Errorf("a blocked person asks: %+v", r)
		}
		w.mu.Lock()
		if !w.accounts[ada.user].shut {
			t.Error("the server was not told")
		}
		w.mu.Unlock()
		ada.stop()
		bob.stop()
	})
}

// TestCrashWhileAccepting kills either side at each write to its vault in turn
// while one asks and the other accepts: the conversation that began with a
// stranger is whole, in order and once on both sides.
func TestCrashWhileAccepting(t *testing.T) {
	for _, victim := range []string{"ada", "bob"} {
		for _, after := range []bool{false, true} {
			for at := 1; ; at += rounds(1, 11) {
				crashed := false
				synctest.Test(t, func(t *testing.T) {
					_, ada, bob := strangers(t)
					ada.write(bob, "one")
					ada.write(bob, "two")
					p := map[string]*person{"ada": ada, "bob": bob}[victim]
					v := &crashVault{inner: p.store, at: at, after: after}
					p.vault = v
					p.open()
					stopAda, stopBob := ada.supervise(), bob.supervise()
					for range 20 {
						settle(10 * time.Second)
						all, err := bob.current().Requests(ctx)
						for _, r := range all {
							err = errors.Join(err, bob.current().Accept(ctx, r.User))
						}
						if err != nil && !errors.Is(err, core.ErrVaultBroken) {
							t.Fatal(err)
						}
					}
					name := fmt.Sprintf("%s at write %d, after %v", victim, at, after)
					want(t, name+": bob heard", bob.heard(ada), []string{"one", "two"})
					lines, err := ada.brain.Messages(ctx, bob.user, 0, 0)
					if err != nil || len(lines) != 2 {
						t.Errorf("%s: ada has %d lines, %v", name, len(lines), err)
					}
					for _, m := range lines {
						if m.State != core.StateDelivered {
							t.Errorf("%s: %q is %s (%s)", name, m.Text, m.State, m.Reason)
						}
					}
					if st, err := ada.brain.Status(ctx); err != nil || st.Queued+st.Waiting+st.Errands != 0 {
						t.Errorf("%s: %+v, %v", name, st, err)
					}
					stopAda()
					stopBob()
					crashed = v.hasCrashed()
				})
				if !crashed {
					if at < 8 {
						t.Errorf("%s writes only %d times", victim, at-1)
					}
					break
				}
				if t.Failed() {
					return
				}
			}
		}
	}
}

// TestWriteWhileTheirServerIsAway: an address that cannot be looked up now can be
// written to, and looking it up again leaves who is known by it.
func TestWriteWhileTheirServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
		ada.start()
		id := ada.write(bob, "are you there?")
		settle(time.Minute)
		m, err := ada.brain.Message(ctx, id)
		if err != nil || m.State != core.StateQueued || m.Reason != clearbox.CodeConsentRequired {
			t.Errorf("%+v, %v", m, err)
		}
		w.mu.Lock()
		w.away = false
		w.mu.Unlock()
		bob.start()
		settle(time.Minute)
		bob.accepts()
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"are you there?"})
		for _, away := range []bool{true, false} {
			w.mu.Lock()
			w.away = away
			w.mu.Unlock()
			c, err := ada.brain.Lookup(ctx, bob.name)
			if err != nil || c.User != bob.user || c.Pending {
				t.Errorf("away %t: %+v, %v", away, c, err)
			}
		}
		ada.stop()
		bob.stop()
	})
}
