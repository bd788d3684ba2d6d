package core_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// fates gives what is to be told of own messages, as "text state reason".
func (p *person) fates() []string {
	p.t.Helper()
	lines, err := p.brain.Fates(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, m := range lines {
		out = append(out, m.Text+" "+string(m.State)+" "+string(m.Reason))
	}
	return out
}

func (p *person) showFates() {
	p.t.Helper()
	lines, err := p.brain.Fates(ctx)
	if err == nil {
		err = p.brain.MarkShown(ctx, lines...)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) failed() int {
	p.t.Helper()
	st, err := p.brain.Status(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return st.Failed
}

// TestFatesAreToldOnce bounces messages long after they were accepted: what
// failed waits to be shown, through restarts, and is shown once.
func TestFatesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		first, second := ada.send(bob, "first"), ada.send(bob, "second")
		ada.send(bob, "third")
		settle(5 * time.Second)
		want(t, "nothing failed yet", ada.fates(), nil)
		ada.stop()
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: second, Recipient: bob.user, Code: clearbox.CodePeerBlocked})
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: first, Recipient: bob.user, Code: clearbox.CodeExpired})
		if err := ada.brain.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		ada.open() // a new process
		want(t, "in the order of writing", ada.fates(), []string{"first failed expired", "second failed peer_blocked"})
		if lines, err := ada.brain.Unshown(ctx, 0); err != nil || len(lines) != 0 || ada.failed() != 2 {
			t.Errorf("unshown %v, %v; %d failed", lines, err, ada.failed())
		}
		lines, err := ada.brain.Fates(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := ada.brain.MarkShown(ctx, lines[0]); err != nil {
			t.Fatal(err)
		}
		want(t, "one was shown", ada.fates(), []string{"second failed peer_blocked"})
		// The same notice again, as a server may send it after a restore.
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: first, Recipient: bob.user, Code: clearbox.CodeExpired})
		if err := ada.brain.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		want(t, "no second time", ada.fates(), []string{"second failed peer_blocked"})
		ada.showFates()
		ada.open()
		want(t, "all were shown", ada.fates(), nil)
		if ada.failed() != 0 {
			t.Errorf("%d failed", ada.failed())
		}
	})
}

// TestFateOfRefusedMessage: a refusal for good is a fate as a bounce is.
func TestFateOfRefusedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		w.setRefuse(func(*wire.Submission) error { return refusal(clearbox.CodeMailboxFull) })
		ada.start()
		ada.send(bob, "too much")
		settle(5 * time.Second)
		want(t, "ada is told", ada.fates(), []string{"too much failed mailbox_full"})
		ada.stop()
	})
}

// TestFateCorrected: a receipt after a failure says that it arrived after all:
// silently, if nobody had seen the failure yet, and else once.
func TestFateCorrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		seen, unseen := ada.send(bob, "seen"), ada.send(bob, "unseen")
		settle(5 * time.Second)
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: seen, Recipient: bob.user, Code: clearbox.CodeOutcomeUnknown})
		settle(5 * time.Second)
		shown, err := ada.brain.Fates(ctx)
		if err != nil || len(shown) != 1 {
			t.Fatalf("%v, %v", shown, err)
		}
		ada.showFates()
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: unseen, Recipient: bob.user, Code: clearbox.CodeOutcomeUnknown})
		settle(5 * time.Second)
		late, err := ada.brain.Fates(ctx)
		if err != nil || len(late) != 1 {
			t.Fatalf("%v, %v", late, err)
		}
		bob.start()
		settle(5 * time.Second)
		if err := bob.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		want(t, "corrected", ada.fates(), []string{"seen delivered "})
		if ada.failed() != 0 {
			t.Errorf("%d failed", ada.failed())
		}
		// Somebody was shown the other failure at the very moment of its correction.
		if err := ada.brain.MarkShown(ctx, late...); err != nil {
			t.Fatal(err)
		}
		want(t, "corrected", ada.fates(), []string{"seen delivered ", "unseen delivered "})
		ada.showFates()
		want(t, "told", ada.fates(), nil)
		ada.stop()
		bob.stop()
	})
}

// TestRequeue: an operator has a message that was given up tried once more. It
// goes out under its id, encrypted anew, and bob, who may have it, sees it once.
func TestRequeue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		bob.start()
		id, fine := ada.send(bob, "once more"), ada.send(bob, "fine")
		settle(2 * time.Minute)
		if err := bob.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		bob.stop() // its receipts wait
		notice := func(kind wire.NoticeKind, id clearbox.MessageID) {
			w.notify(ada.user, wire.Notice{Kind: kind, ID: id, Recipient: bob.user, Code: clearbox.CodeOutcomeUnknown})
			settle(5 * time.Second)
		}
		notice(wire.NoticeRequeue, id) // nothing failed
		if s := ada.state(id); s != core.StateAtPeer {
			t.Errorf("state %s", s)
		}
		notice(wire.NoticeUndeliverable, id)
		want(t, "given up", ada.fates(), []string{"once more failed outcome_unknown"})
		w.mu.Lock()
		first := w.accounts[ada.user].sent[id].body
		delete(w.accounts[ada.user].sent, id)
		w.mu.Unlock()
		notice(wire.NoticeRequeue, id)
		settle(time.Minute)
		w.mu.Lock()
		second := w.accounts[ada.user].sent[id]
		w.mu.Unlock()
		if second == nil || bytes.Equal(first, second.body) {
			t.Error("not submitted again, or with the old ciphertext")
		}
		want(t, "nothing to tell", ada.fates(), nil)
		if s := ada.state(id); s != core.StateAtPeer {
			t.Errorf("state %s", s)
		}
		notice(wire.NoticeRequeue, fine) // is at bob's server: left alone
		bob.start()
		settle(time.Minute)
		want(t, "bob sees each once", bob.heard(ada), []string{"once more", "fine"})
		ada.stop()
		bob.stop()
	})
}

// TestNoticeAboutAnother: a notice that names another recipient than the
// message has speaks of another message, and changes nothing.
func TestNoticeAboutAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		eve := newPerson(t, w, "eve@b.test").join()
		ada.start()
		id := ada.send(bob, "hello")
		settle(2 * time.Minute)
		was := ada.state(id)
		for _, n := range []wire.Notice{
			{Kind: wire.NoticeUndeliverable, ID: id, Recipient: eve.user, Code: clearbox.CodeRecipientUnavailable},
			{Kind: wire.NoticeDelayed, ID: id, Recipient: eve.user, Code: clearbox.CodePeerUnreachable},
			{Kind: wire.NoticeUndeliverable, ID: clearbox.MessageID{1}, Recipient: bob.user, Code: clearbox.CodeExpired},
		} {
			w.notify(ada.user, n)
		}
		settle(5 * time.Second)
		if s := ada.state(id); s != was || s != core.StateAtPeer {
			t.Errorf("state %s, was %s", s, was)
		}
		want(t, "nothing to tell", ada.fates(), nil)
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: id, Recipient: bob.user, Code: clearbox.CodeExpired})
		settle(5 * time.Second)
		want(t, "the true one", ada.fates(), []string{"hello failed expired"})
		ada.stop()
	})
}

// TestFateOfForgottenMessage: a homeserver that was put back to an older state
// does not know a message that it took. Nobody else will report it.
func TestFateOfForgottenMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		ada.start()
		id := ada.send(bob, "forgotten")
		settle(5 * time.Second)
		if s := ada.state(id); s != core.StateAtServer {
			t.Fatalf("state %s", s)
		}
		w.mu.Lock()
		delete(w.accounts[ada.user].sent, id)
		w.mu.Unlock()
		settle(3 * time.Minute)
		want(t, "ada is told", ada.fates(), []string{"forgotten failed outcome_unknown"})
		// Bob has it all the same: his receipt corrects it.
		bob.start()
		settle(5 * time.Second)
		if err := bob.brain.Accept(ctx, ada.user); err != nil {
			t.Fatal(err)
		}
		settle(5 * time.Second)
		want(t, "corrected before anybody looked", ada.fates(), nil)
		if s := ada.state(id); s != core.StateDelivered {
			t.Errorf("state %s", s)
		}
		ada.stop()
		bob.stop()
	})
}
