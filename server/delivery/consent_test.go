package delivery_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

func token(n byte) (t clearbox.DeliveryToken) {
	return clearbox.DeliveryToken(bytes.Repeat([]byte{n}, len(t)))
}

// sealedContent is one of a size bucket that begins with text.
func sealedContent(text string) []byte {
	return append([]byte(text), make([]byte, clearbox.MinSealed-len(text))...)
}

// sealedItem is a sealed message from the other server.
func sealedItem(t *testing.T, user clearbox.UserID, token []byte, text string, devices ...clearbox.DeviceID) federation.Item {
	t.Helper()
	it := federation.Item{ID: newID(t), Recipient: user, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Token: token, Ref: bytes.Repeat([]byte{9}, 16)}
	for _, d := range devices {
		it.Envelopes = append(it.Envelopes, federation.ItemEnvelope{Device: d, Registration: uint16(d) + 100, Type: clearbox.ContentSealed, Content: sealedContent(text)})
	}
	return it
}

func knockItem(t *testing.T, from clearbox.UserID, handle, to clearbox.Handle) federation.Item {
	t.Helper()
	return federation.Item{ID: newID(t), AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Knock: &federation.Knock{From: from, Handle: handle, To: to}}
}

func verdicts(answer *federation.Answer) []string {
	var out []string
	for _, v := range answer.Verdicts {
		out = append(out, string(v.Code)+" "+string(v.Reason))
	}
	return out
}

func (w *world) setToken(p person, t clearbox.DeliveryToken) {
	w.t.Helper()
	must(w.t, w.router.SetToken(bg, p.devices[0], t))
}

// accept hands one batch over and gives the verdicts.
func (w *world) accept(peer clearbox.ServerName, txn *federation.Transaction) []string {
	w.t.Helper()
	answer, err := w.router.Accept(bg, peer, txn)
	must(w.t, err)
	return verdicts(answer)
}

const wrong = "rejected consent_required"

// A token lets messages in from the moment at which it is set, and one day
// longer once it is replaced; the one before that no more.
func TestDeliveryTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{})
		bob := w.shut("bob", 1)
		pos := int64(0)
		try := func(token []byte) string {
			pos++
			return w.accept(away, txn(1, 1, pos, sealedItem(t, bob.user, token, "x", 1)))[0]
		}
		one, two, three := token(1), token(2), token(3)
		expect := func(what string, token clearbox.DeliveryToken, want string) {
			t.Helper()
			if got := try(token[:]); got != want {
				t.Errorf("%s: %s", what, got)
			}
		}
		expect("before any", one, wrong)
		if got := try(make([]byte, 16)); got != wrong {
			t.Errorf("the zero token of somebody without one: %s", got)
		}
		w.setToken(bob, one)
		expect("the first", one, "ok ")
		expect("another", two, wrong)
		w.setToken(bob, two)
		w.setToken(bob, two) // the same again replaces nothing
		expect("the new one", two, "ok ")
		expect("the former", one, "ok ")
		time.Sleep(24*time.Hour - time.Second)
		expect("the former before its day is over", one, "ok ")
		time.Sleep(2 * time.Second)
		expect("the former after its day", one, wrong)
		w.setToken(bob, three)
		w.setToken(bob, one)
		expect("the one before the former", two, wrong)
		w.stop()
	})
}

// Strangers who found somebody by name get a token of their own. It lasts as long
// as the consent, and is another one after the next.
func TestOpenTokenEndsWithItsConsent(t *testing.T) {
	var agreed atomic.Int64
	w := newWorld(t, worldOptions{Options: delivery.Options{Open: func(_ *storage.Tx, userNo int64) (clearbox.Millis, error) {
		if userNo == 0 {
			return 0, nil
		}
		return clearbox.Millis(agreed.Load()), nil
	}}})
	bob := w.person("bob", 1)
	w.setToken(bob, token(1))
	pos := int64(0)
	try := func(token clearbox.DeliveryToken) string {
		pos++
		return w.accept(away, txn(1, 1, pos, sealedItem(t, bob.user, token[:], "x", 1)))[0]
	}
	if _, err := w.router.TokenOf(bg, bob.user.UID); clearbox.CodeOf(err) != clearbox.CodeConsentRequired {
		t.Errorf("without consent: %v", err)
	}
	give := func(at int64) clearbox.DeliveryToken {
		agreed.Store(at)
		w.router.Consented(bob.user.UID)
		open, err := w.router.TokenOf(bg, bob.user.UID)
		must(t, err)
		if got := try(open); got != "ok " || open == token(1) {
			t.Errorf("with consent: %s, %x", got, open)
		}
		return open
	}
	first := give(1)
	agreed.Store(0)
	w.router.Consented(bob.user.UID)
	if got := try(first); got != wrong {
		t.Errorf("after the consent was withdrawn: %s", got)
	}
	if ok, err := w.router.MayReach(bg, away, bob.user.UID, first[:]); ok || err != nil {
		t.Errorf("keys after the consent was withdrawn: %t, %v", ok, err)
	}
	if second := give(2); second == first || try(first) != wrong {
		t.Error("the former token is back with the next consent")
	}
	if got := try(token(1)); got != "ok " {
		t.Errorf("the account's own token: %s", got)
	}
}

// Who is unknown, banned or has not given this token to anybody is one verdict,
// and so is somebody who knows the token of a person that is gone.
func TestRefusalsLookAlike(t *testing.T) {
	w := newWorld(t, worldOptions{})
	bob, banned, erased, shut := w.person("bob", 1), w.person("banned", 1), w.person("erased", 1), w.shut("shut", 1)
	for _, p := range []person{bob, banned, erased} {
		w.setToken(p, token(1))
	}
	must(t, w.store.Update(bg, func(tx *storage.Tx) error {
		if err := tx.SetUserState(banned.devices[0].UserNo, storage.UserBanned); err != nil {
			return err
		}
		return tx.SetUserState(erased.devices[0].UserNo, storage.UserErased)
	}))
	nobody := clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: home}
	good, bad := token(1), token(7)
	var items []federation.Item
	for _, to := range []clearbox.UserID{nobody, banned.user, erased.user, shut.user} {
		items = append(items, sealedItem(t, to, good[:], "x", 1), sealedItem(t, to, bad[:], "x", 1))
	}
	without := peerItem(t, w.stranger(), bob.user, "x", 1)
	without.Token = nil
	items = append(items, without, sealedItem(t, bob.user, bad[:], "x", 1), sealedItem(t, bob.user, good[:], "x", 1))
	got := w.accept(away, txn(1, 1, 1, items...))
	if want := append(slices.Repeat([]string{wrong}, 10), "ok "); !slices.Equal(got, want) {
		t.Errorf("verdicts %q", got)
	}
	for _, to := range []clearbox.UID{nobody.UID, shut.user.UID} {
		if _, err := w.router.TokenOf(bg, to); clearbox.CodeOf(err) != clearbox.CodeConsentRequired {
			t.Errorf("the token of one without: %v", err)
		}
		if ok, err := w.router.MayReach(bg, away, to, make([]byte, 16)); ok || err != nil {
			t.Errorf("reached: %v, %v", ok, err)
		}
	}
	if ok, err := w.router.MayReach(bg, away, bob.user.UID, good[:]); !ok || err != nil {
		t.Errorf("with the token: %v, %v", ok, err)
	}
}

// What arrives sealed says which server it is from, and nobody of it.
func TestSealedEnvelopes(t *testing.T) {
	w := newWorld(t, worldOptions{})
	bob := w.person("bob", 1, 2)
	w.setToken(bob, token(1))
	one := token(1)
	if got := w.accept(away, txn(1, 1, 1, sealedItem(t, bob.user, one[:], "sealed", 1, 2))); got[0] != "ok " {
		t.Fatal(got)
	}
	for _, p := range bob.devices {
		m := w.router.Mailbox(p)
		ds, err := m.Read(bg, 0, 10, 1<<20)
		m.Close()
		must(t, err)
		if len(ds) != 1 || ds[0].Envelope == nil {
			t.Fatalf("device %d has %+v", p.Device, ds)
		}
		e := ds[0].Envelope
		if !e.Sender.IsZero() || e.SenderDevice != 0 || e.Origin != away || e.Type != clearbox.ContentSealed || !bytes.Equal(e.Content, sealedContent("sealed")) || e.AcceptedAt == 0 {
			t.Errorf("device %d: %+v", p.Device, e)
		}
	}
}

// sealedTo addresses a stranger's device as the sealed form asks for.
func sealedTo(user clearbox.UserID, token clearbox.DeliveryToken, text string) delivery.Recipient {
	return delivery.Recipient{User: user, Token: token[:], Envelopes: []delivery.Outgoing{
		{Device: 1, Registration: 101, Type: clearbox.ContentSealed, Content: sealedContent(text)},
	}}
}

// What goes to a peer names nobody who sent it; the verdict finds them all the
// same.
func TestSealedOnTheWay(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, carol, far := w.person("alice", 1), w.person("carol", 1), w.stranger()
	ids := []clearbox.MessageID{newID(t), newID(t)}
	for i, p := range []person{alice, carol} {
		_, err := w.send(p.devices[0], ids[i], sealedTo(far, token(4), "hi"))
		must(t, err)
	}
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	for i := range batch.Items {
		it, four := &batch.Items[i], token(4)
		if !it.Sealed() || it.SenderDevice != 0 || !bytes.Equal(it.Token, four[:]) || len(it.Ref) != 16 || it.Recipient != far {
			t.Errorf("item %d: %+v", i, it)
		}
		if bytes.Contains(it.Ref, []byte{0, 0, 0}) {
			t.Errorf("item %d: ref %x", i, it.Ref)
		}
	}
	raw, err := federation.EncodeTransaction(&federation.Transaction{Stream: lease.Stream, Class: federation.ClassMessage, Fence: lease.Fence, FirstPos: 1, Items: batch.Items})
	must(t, err)
	for _, p := range []person{alice, carol} {
		if bytes.Contains(raw, []byte(p.user.UID)) {
			t.Errorf("the transaction names %s", p.devices[0].Session)
		}
	}
	if back, err := federation.DecodeTransaction(raw); err != nil || !back.Items[0].Sealed() {
		t.Errorf("at the peer: %+v, %v", back, err)
	}
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{
		{Code: federation.VerdictRejected, Reason: clearbox.CodeConsentRequired}, {Code: federation.VerdictOK},
	}))
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:consent_required"}) {
		t.Errorf("alice has %q", got)
	}
	if got := w.states(carol.devices[0], ids[1]); got[0] != delivery.StatusAtPeer {
		t.Errorf("carol's is %v", got)
	}
}

// Messages within a server stay open, those to others are sealed.
func TestSubmissionsAreSealedOrNot(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob, far := w.person("alice", 1), w.person("bob", 1), w.stranger()
	one := token(1)
	withToken := to(bob.user, "x", 1)
	withToken.Token = one[:]
	sealedHere := delivery.Recipient{User: bob.user, Envelopes: []delivery.Outgoing{{Device: 1, Registration: 101, Type: clearbox.ContentSealed, Content: sealedContent("x")}}}
	openThere := to(far, "x", 1)
	openThere.Envelopes[0].Type = clearbox.ContentWhisper
	noBucket := sealedTo(far, one, "x")
	noBucket.Envelopes[0].Content = noBucket.Envelopes[0].Content[1:]
	for name, r := range map[string]delivery.Recipient{
		"a token here": withToken, "sealed here": sealedHere, "open there": openThere, "no bucket": noBucket, "the zero token": sealedTo(far, clearbox.DeliveryToken{}, "x"),
	} {
		if _, err := w.send(alice.devices[0], newID(t), r); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	noToken := to(far, "x", 1)
	noToken.Token = nil
	if _, err := w.send(alice.devices[0], newID(t), noToken); clearbox.CodeOf(err) != clearbox.CodeConsentRequired {
		t.Errorf("without a token: %v", err)
	}
	id := newID(t)
	_, err := w.send(alice.devices[0], id, sealedTo(far, one, "x"))
	must(t, err)
	if _, err := w.send(alice.devices[0], id, sealedTo(far, token(2), "x")); clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("another token under the id: %v", err)
	}
}

func address(t testing.TB, s string) clearbox.Address {
	t.Helper()
	a, err := clearbox.ParseAddress(s)
	must(t, err)
	return a
}

// A knock goes out once, lets its answer in from that very server for as long as
// it is open, and is limited.
func TestKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{SweepEvery: 30 * time.Minute}})
		w.routes["c.test"] = nil
		alice := w.person("alice", 1)
		p := alice.devices[0]
		bob := address(t, "bob@b.test")
		id := newID(t)
		rc, err := w.router.Knock(bg, p, id, bob)
		must(t, err)
		time.Sleep(time.Second)
		if again, err := w.router.Knock(bg, p, id, bob); err != nil || again != rc || rc.Status != delivery.StatusAccepted {
			t.Errorf("again: %+v, %v, first %+v", again, err, rc)
		}
		if _, err := w.router.Knock(bg, p, id, address(t, "carol@b.test")); clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("the id for another: %v", err)
		}
		lease, err := w.router.Lease(bg, away, federation.ClassControl)
		must(t, err)
		batch, err := w.router.Take(bg, away, federation.ClassControl, lease, 10, 1<<20)
		must(t, err)
		if batch == nil || len(batch.Items) != 1 || batch.Items[0].ID != id || *batch.Items[0].Knock != (federation.Knock{From: alice.user, Handle: "alice", To: "bob"}) {
			t.Fatalf("towards the peer: %+v", batch)
		}
		must(t, w.router.Settle(bg, away, federation.ClassControl, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))

		pos := int64(0)
		answer := func(peer clearbox.ServerName) string {
			pos++
			return w.accept(peer, txn(1, 1, pos, sealedItem(t, alice.user, id[:], "yes", 1)))[0]
		}
		if got := answer(away); got != "ok " {
			t.Errorf("the answer: %s", got)
		}
		pos = 0
		if got := answer("c.test"); got != wrong {
			t.Errorf("an answer of another server: %s", got)
		}
		if ok, err := w.router.MayReach(bg, away, alice.user.UID, id[:]); !ok || err != nil {
			t.Errorf("keys for the answer: %v, %v", ok, err)
		}
		pos = 1
		must(t, w.router.AnswerKnock(bg, p, id, false))
		must(t, w.router.AnswerKnock(bg, p, newID(t), true)) // unknown
		if got := answer(away); got != wrong {
			t.Errorf("an answer to a closed knock: %s", got)
		}
		if again, err := w.router.Knock(bg, p, id, bob); err != nil || again != rc {
			t.Errorf("a closed one again: %+v, %v", again, err)
		}
		w.limits(p, bob)
		time.Sleep(14*24*time.Hour + time.Hour)
		if _, err := w.router.Knock(bg, p, newID(t), bob); err != nil {
			t.Errorf("after the others expired: %v", err)
		}
		w.stop()
	})
}

func (w *world) limits(p auth.Principal, bob clearbox.Address) {
	w.t.Helper()
	codes := map[clearbox.Code]int{}
	for range 5 {
		_, err := w.router.Knock(bg, p, newID(w.t), bob)
		codes[clearbox.CodeOf(err)]++
	}
	if codes[""] != 3 || codes[clearbox.CodeRateLimited] != 2 {
		w.t.Errorf("five at one address: %v", codes)
	}
	for i := range 20 {
		_, err := w.router.Knock(bg, p, newID(w.t), address(w.t, fmt.Sprintf("p%d@b.test", i)))
		codes[clearbox.CodeOf(err)]++
	}
	if codes[""] != 20 || codes[clearbox.CodeRateLimited] != 5 {
		w.t.Errorf("in all: %v", codes)
	}
	for to, code := range map[string]clearbox.Code{"bob@a.test": clearbox.CodeBadRequest, "bob@d.test": clearbox.CodePeerBlocked} {
		if _, err := w.router.Knock(bg, p, newID(w.t), address(w.t, to)); clearbox.CodeOf(err) != code {
			w.t.Errorf("at %s: %v", to, err)
		}
	}
}

// knocks gives what a device sees of knocks.
func (w *world) knocks(p auth.Principal) []*delivery.Knock {
	w.t.Helper()
	m := w.router.Mailbox(p)
	defer m.Close()
	ds, err := m.Read(bg, 0, 1000, 1<<20)
	must(w.t, err)
	var out []*delivery.Knock
	for _, d := range ds {
		if d.Knock == nil {
			w.t.Errorf("not a knock: %+v", d)
			continue
		}
		out = append(out, d.Knock)
	}
	return out
}

func control(stream byte, first int64, items ...federation.Item) *federation.Transaction {
	c := txn(stream, 1, first, items...)
	c.Class = federation.ClassControl
	return c
}

// A knock whose row is damaged is forgotten; those behind it are shown.
func TestDamagedKnockHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flips{}
		w := newWorld(t, worldOptions{flips: f})
		bob, far := w.person("bob", 1), w.stranger()
		f.next.Store(true)
		w.accept(away, control(1, 1, knockItem(t, far, "alice", "bob")))
		w.accept(away, control(1, 2, knockItem(t, clearbox.UserID{UID: bob.user.UID, Server: away}, "carol", "bob")))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := w.knocks(bob.devices[0]); len(got) != 1 || got[0].Handle != "carol" {
			t.Errorf("shown: %+v", got)
		}
		must(t, w.store.View(bg, func(tx *storage.Tx) error {
			left, err := tx.ArrivedKnocks(10)
			if len(left) != 0 {
				t.Errorf("%d wait", len(left))
			}
			return err
		}))
		w.stop()
	})
}

// A knock is shown on every device, once, with who vouches for it. The peer
// gets one answer, whoever it is for.
func TestKnockArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{
			Organisation: func(peer clearbox.ServerName) (string, string) { return "Clinic of " + string(peer), "AT" },
		}})
		bob, far := w.person("bob", 1, 2), w.stranger()
		k := knockItem(t, far, "alice", "bob")
		forged := knockItem(t, clearbox.UserID{UID: far.UID, Server: "c.test"}, "alice", "bob")
		got := w.accept(away, control(1, 1, k, knockItem(t, far, "alice", "nobody"), forged))
		if !slices.Equal(got, []string{"ok ", "ok ", "rejected forbidden"}) {
			t.Errorf("verdicts %q", got)
		}
		time.Sleep(time.Second) // shown by then
		synctest.Wait()
		// Its server was restored from a backup and sends it in another stream.
		w.accept(away, control(2, 1, k))
		time.Sleep(time.Second) // shown by then
		synctest.Wait()
		want := delivery.Knock{ID: k.ID, From: far, Handle: "alice", AcceptedAt: k.AcceptedAt, Controller: "Clinic of b.test", Country: "AT"}
		for _, p := range bob.devices {
			if got := w.knocks(p); len(got) != 1 || *got[0] != want {
				t.Errorf("device %d has %+v", p.Device, got)
			}
		}
		w.stop()
	})
}

// A stranger has three open knocks, a server twenty; declining makes room, and
// blocking ends it. The peer never learns which.
func TestThreat14ContactSpam(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{})
		bob := w.person("bob", 1)
		p := bob.devices[0]
		pos := int64(1)
		spam := func(from clearbox.UserID, n int) {
			t.Helper()
			var items []federation.Item
			for range n {
				items = append(items, knockItem(t, from, "spam", "bob"))
			}
			if got := w.accept(away, control(1, pos, items...)); !slices.Equal(got, slices.Repeat([]string{"ok "}, n)) {
				t.Fatalf("verdicts %s", got)
			}
			pos += int64(n)
			time.Sleep(time.Second) // shown by then
			synctest.Wait()
		}
		other := func() clearbox.UserID {
			uid, err := clearbox.NewUID(rand.Reader)
			must(t, err)
			return clearbox.UserID{UID: uid, Server: away}
		}
		far, blocked := other(), other()
		must(t, w.router.SetBlocks(bg, p, []clearbox.UserID{blocked}))
		spam(far, 500)
		spam(blocked, 100)
		shown := w.knocks(p)
		if len(shown) != 3 {
			t.Fatalf("%d notifications of one stranger", len(shown))
		}
		must(t, w.router.AnswerKnock(bg, p, shown[0].ID, false))
		spam(far, 10)
		if n := len(w.knocks(p)); n != 4 {
			t.Errorf("after one was declined: %d", n)
		}
		must(t, w.router.AnswerKnock(bg, p, shown[1].ID, true))
		spam(far, 10)
		if n := len(w.knocks(p)); n != 4 {
			t.Errorf("after a block: %d", n)
		}
		if got, err := w.router.Blocks(bg, p); err != nil || len(got) != 2 || !slices.Contains(got, far) || !slices.Contains(got, blocked) {
			t.Errorf("blocked: %v, %v", got, err)
		}
		for range 30 {
			spam(other(), 1)
		}
		if n := len(w.knocks(p)); n != 24 {
			t.Errorf("of one server at most 20 open ones: %d", n-4)
		}
		must(t, w.router.SetBlocks(bg, p, nil))
		if got, err := w.router.Blocks(bg, p); err != nil || len(got) != 0 {
			t.Errorf("nobody is blocked: %v, %v", got, err)
		}
		w.stop()
	})
}

// Mail of a sealed sender that nobody fetches goes back by its ref; a ref that
// is wrong, of another message or from another peer tells nobody anything.
func TestThreat17FakeBounces(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, far := w.person("alice", 1), w.stranger()
	id := newID(t)
	_, err := w.send(alice.devices[0], id, sealedTo(far, token(1), "x"))
	must(t, err)
	lease, err := w.router.Lease(bg, away, federation.ClassMessage)
	must(t, err)
	batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
	must(t, err)
	must(t, w.router.Settle(bg, away, federation.ClassMessage, lease, batch, []federation.Verdict{{Code: federation.VerdictOK}}))
	bounce := federation.Item{ID: id, Sender: far, Ref: batch.Items[0].Ref, AcceptedAt: clearbox.Millis(time.Now().UnixMilli()), Bounce: clearbox.CodeExpired}
	otherMessage, otherRef, elsewhere := bounce, bounce, bounce
	otherMessage.ID = newID(t)
	otherRef.Ref = bytes.Clone(bounce.Ref)
	otherRef.Ref[3] ^= 1
	elsewhere.Sender.Server = "c.test"
	if got := w.accept(away, txn(1, 1, 1, otherMessage, otherRef)); !slices.Equal(got, []string{"ok ", "ok "}) {
		t.Errorf("verdicts %q", got)
	}
	if got := w.accept("c.test", txn(1, 1, 1, elsewhere)); got[0] != "ok " {
		t.Errorf("verdicts %q", got)
	}
	if got := w.contents(alice.devices[0], 0); got != nil {
		t.Errorf("alice has %q", got)
	}
	if got := w.accept(away, txn(1, 1, 3, bounce, bounce)); !slices.Equal(got, []string{"ok ", "ok "}) {
		t.Errorf("verdicts %q", got)
	}
	if got := w.contents(alice.devices[0], 0); !slices.Equal(got, []string{"undeliverable:expired"}) {
		t.Errorf("alice has %q", got)
	}
}

// Sealed mail that expires bounces with the ref that came with it.
func TestSealedMailExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{Options: delivery.Options{MailTTL: time.Hour}})
		bob := w.person("bob", 1, 2)
		w.setToken(bob, token(1))
		one := token(1)
		lost := sealedItem(t, bob.user, one[:], "x", 1, 2)
		w.accept(away, txn(1, 1, 1, lost))
		time.Sleep(time.Hour + 2*time.Minute)
		lease, err := w.router.Lease(bg, away, federation.ClassMessage)
		must(t, err)
		batch, err := w.router.Take(bg, away, federation.ClassMessage, lease, 10, 1<<20)
		must(t, err)
		if batch == nil || len(batch.Items) != 1 {
			t.Fatalf("towards the peer: %+v", batch)
		}
		raw, err := federation.EncodeTransaction(&federation.Transaction{Stream: lease.Stream, Class: federation.ClassMessage, Fence: lease.Fence, FirstPos: 1, Items: batch.Items})
		must(t, err)
		sent, err := federation.DecodeTransaction(raw)
		must(t, err)
		it := sent.Items[0]
		if it.Refused != "" || it.ID != lost.ID || it.Sender != bob.user || !it.Recipient.IsZero() || !bytes.Equal(it.Ref, lost.Ref) || it.Bounce != clearbox.CodeExpired {
			t.Errorf("the bounce: %+v", it)
		}
		w.stop()
	})
}

// What a peer's item costs is the same whoever it is for: the writer runs the
// same statements for a knock at somebody as for one at nobody, and for a token
// that does not fit whoever the recipient is. The clock is asked in the
// reliability run "timing".
func TestThreat13EqualWork(t *testing.T) { synctest.Test(t, equalWork) }

func equalWork(t *testing.T) {
	faults := &storage.Faults{}
	w := newWorld(t, worldOptions{faults: faults})
	bob, shut, far := w.person("bob", 1), w.shut("shut", 1), w.stranger()
	w.setToken(bob, token(1))
	must(t, w.router.SetBlocks(bg, shut.devices[0], []clearbox.UserID{far}))
	bad := token(9)
	nobody := clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: home}
	pos := int64(0)
	work := func(peer clearbox.ServerName, class federation.Class, it federation.Item) []string {
		t.Helper()
		var mu sync.Mutex
		var steps []string
		faults.Set(func(step storage.FaultStep, after bool, query string) error {
			mu.Lock()
			defer mu.Unlock()
			if !after && step == storage.FaultStatement {
				steps = append(steps, query)
			}
			return nil
		})
		batch := txn(1, 1, pos, it)
		batch.Class = class
		got := w.accept(peer, batch)
		mu.Lock()
		faults.Set(nil)
		defer mu.Unlock()
		return append(steps, got...)
	}
	for class, items := range map[federation.Class]map[string]federation.Item{
		federation.ClassMessage: {
			"wrong token": sealedItem(t, bob.user, bad[:], "x", 1), "no token": sealedItem(t, shut.user, bad[:], "x", 1), "nobody": sealedItem(t, nobody, bad[:], "x", 1),
		},
		federation.ClassControl: {
			"somebody": knockItem(t, far, "far", "bob"), "blocked": knockItem(t, far, "far", "shut"), "nobody": knockItem(t, far, "far", "nobody"),
		},
	} {
		var first []string
		pos = 0
		for name, it := range items {
			pos++
			if pos == 1 {
				work(away, class, it) // makes the stream
				pos++
				it.ID = newID(t)
			}
			got := work(away, class, it)
			if first == nil {
				first = got
			}
			if len(got) < 3 || !slices.Equal(got, first) {
				t.Errorf("%s, %s: %d steps, %d at first: %q, %q", class, name, len(got), len(first), got, first)
			}
		}
	}
	w.stop()
}
