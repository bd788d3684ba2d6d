package core_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/franking"
	"github.com/clearbox-im/clearbox/server/wire"
)

// last gives the newest line of p's conversation with other.
func (p *person) last(other *person) *core.Message {
	p.t.Helper()
	lines, err := p.brain.Recent(ctx, other.user, 1)
	if err != nil || len(lines) != 1 {
		p.t.Fatal(lines, err)
	}
	return &lines[0]
}

// proves tells whether a report holds before the server of whoever wrote it.
func proves(r *wire.Report) bool {
	said := franking.Revealed{Kind: r.Kind, Sent: int64(r.Sent), From: r.User.String(), Text: r.Text}
	copy(said.File[:], r.File)
	carried := r.Carrier == clearbox.MessageID{} || franking.Carries(r.Key, r.Carrier, r.Message)
	return carried && franking.Verify(r.Key, &said, r.Message)
}

// TestReport: a report waits for the server, is tried again at growing distance and
// through a restart, shows the message as it stood, and is taken once.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		ada.send(bob, "<b>rude</b> \u2028 words")
		settle(5 * time.Second)
		m := bob.last(ada)
		if _, err := bob.brain.Report(ctx, ada.ref(clearbox.MessageID{9}), ""); !errors.Is(err, core.ErrNoMessage) {
			t.Errorf("a message that is not there: %v", err)
		}
		if _, err := ada.brain.Report(ctx, m.Ref(), ""); clearbox.CodeOf(err) != clearbox.CodeForbidden {
			t.Errorf("an own message: %v", err)
		}
		if _, err := bob.brain.Report(ctx, m.Ref(), strings.Repeat("x", wire.MaxReportReason+1)); clearbox.CodeOf(err) != clearbox.CodeTooLarge {
			t.Errorf("a reason without end: %v", err)
		}
		w.setReports(clearbox.CodeUnavailable)
		r, err := bob.brain.Report(ctx, m.Ref(), "why")
		if err != nil || r.State != core.ReportWaiting || r.Reason != clearbox.CodeUnavailable {
			t.Fatalf("%+v, %v", r, err)
		}
		ada.must(ada.brain.Delete(ctx, m.Ref()))
		settle(time.Hour)
		bob.stop()
		tries := len(w.reported())
		if tries < 5 || tries > 12 {
			t.Errorf("%d tries in an hour", tries)
		}
		bob.open()
		bob.start()
		w.setReports("")
		settle(90 * time.Minute)
		all, err := bob.brain.Reports(ctx)
		if err != nil || len(all) != 1 || all[0].State != core.ReportDelivered || all[0].Shown != nil || all[0].Target != m.Ref() {
			t.Fatalf("%+v, %v", all, err)
		}
		if r, err = bob.brain.Report(ctx, m.Ref(), "again"); err != nil || r.State != core.ReportDelivered {
			t.Errorf("once more: %+v, %v", r, err)
		}
		got := w.reported()
		if len(got) != tries+1 || !proves(&got[tries]) || got[tries].Text != m.Text || got[tries].Reason != "why" || got[tries].User != ada.user {
			t.Errorf("%d reports arrived, the last %+v", len(got), got[len(got)-1])
		}
		ada.stop()
		for range 2 { // a session ends after 30 days without
			bob.stop()
			settle(16 * 24 * time.Hour)
			bob.open()
			bob.start()
			settle(time.Minute)
		}
		if all, err := bob.brain.Reports(ctx); err != nil || len(all) != 0 {
			t.Errorf("a month later there is %+v, %v", all, err)
		}
		bob.stop()
	})
}

// TestReportRefused: what their server does not want is told, and may be tried anew.
func TestReportRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		m := bob.last(ada)
		w.setReports(clearbox.CodeUnproven)
		if r, err := bob.brain.Report(ctx, m.Ref(), ""); err != nil || r.State != core.ReportRefused || r.Reason != clearbox.CodeUnproven || r.Shown != nil {
			t.Errorf("%+v, %v", r, err)
		}
		w.setReports("")
		if r, err := bob.brain.Report(ctx, m.Ref(), ""); err != nil || r.State != core.ReportDelivered {
			t.Errorf("%+v, %v", r, err)
		}
		ada.stop()
		bob.stop()
	})
}

// TestWhatComesAgainIsProvable: a message that was edited while bob could read
// nothing comes again under another id, in the words of the edit, with its proof.
func TestWhatComesAgainIsProvable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		bob.forget("session/")
		ada.net.setAway(true)
		three := ada.send(bob, "three")
		ada.must(ada.brain.Edit(ctx, ada.ref(three), "three, edited"))
		ada.net.setAway(false)
		settle(10 * time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three, edited"})
		m := bob.last(ada)
		if m.EditID == (clearbox.MessageID{}) || m.Carried == (clearbox.MessageID{}) || !m.Provable() {
			t.Fatalf("%+v", m)
		}
		if r, err := bob.brain.Report(ctx, m.Ref(), ""); err != nil || r.State != core.ReportDelivered {
			t.Fatalf("%+v, %v", r, err)
		}
		r := w.reported()[0]
		if !proves(&r) || r.Message != m.EditID || r.Carrier != m.Carried || r.Kind != uint64(core.KindEdit) || r.Text != "three, edited" {
			t.Errorf("shown: %+v", r)
		}
		w.mu.Lock()
		if w.accounts[ada.user].sent[m.Carried] == nil {
			t.Error("ada's server does not know the id that it came under")
		}
		w.mu.Unlock()
		ada.stop()
		bob.stop()
	})
}

// TestRequeuedEditIsProvable: what an operator has tried once more says what it was
// edited to meanwhile, and goes under an id that commits to that.
func TestRequeuedEditIsProvable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := talked(t)
		bob.stop()
		id := ada.send(bob, "three")
		settle(time.Minute)
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: id, Recipient: bob.user, Code: clearbox.CodeOutcomeUnknown})
		settle(5 * time.Second)
		ada.must(ada.brain.Edit(ctx, ada.ref(id), "three, edited"))
		settle(time.Minute)
		w.mu.Lock()
		w.accounts[bob.user].devices[1].mail = nil // neither reached his server
		delete(w.accounts[ada.user].sent, id)
		w.mu.Unlock()
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeRequeue, ID: id, Recipient: bob.user})
		settle(time.Minute)
		bob.start()
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two", "three, edited"})
		m := bob.last(ada)
		if m.Carried == (clearbox.MessageID{}) || !m.Provable() {
			t.Errorf("%+v", m)
		}
		if s := ada.state(id); s != core.StateDelivered {
			t.Errorf("the message is %s", s)
		}
		ada.stop()
		bob.stop()
	})
}

// TestDenials: contents whose ids do not commit to them are malformed, and messages
// without a key, or under a strange id, are marked.
func TestDenials(t *testing.T) {
	c := sample()
	c.Frank = slices.Repeat([]byte{1}, franking.KeySize)
	id, err := franking.Commit(c.Frank, &franking.Revealed{Kind: uint64(c.Kind), Sent: int64(c.Sent), From: c.From.String(), Text: c.Text})
	if err != nil {
		t.Fatal(err)
	}
	c.ID = id
	for name, deny := range map[string]func(*core.Content){
		"nothing": func(*core.Content) {}, "text": func(c *core.Content) { c.Text = "ho" }, "id": func(c *core.Content) { c.ID[3]++ },
		"time": func(c *core.Content) { c.Sent++ }, "key": func(c *core.Content) { c.Frank = make([]byte, franking.KeySize) },
		"short key": func(c *core.Content) { c.Frank = c.Frank[:31] }, "sender": func(c *core.Content) { c.From.Server = "b.test" },
		"edit":    func(c *core.Content) { c.Edit = &core.EditOf{ID: c.ID, Sent: c.Sent} },
		"no edit": func(c *core.Content) { c.Frank, c.Edit = nil, &core.EditOf{} },
	} {
		denied := *c
		deny(&denied)
		b, err := core.EncodeContent(&denied)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.DecodeContent(b); errors.Is(err, core.ErrContent) != (name != "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := core.Message{ID: c.ID, Sender: c.From, Kind: core.MessageText, Text: c.Text, Sent: c.Sent, Frank: c.Frank}
	for name, deny := range map[string]func(*core.Message){
		"nothing": func(*core.Message) {}, "no key": func(m *core.Message) { m.Frank = nil }, "another id outside": func(m *core.Message) { m.Carried = clearbox.MessageID{1} },
	} {
		denied := m
		deny(&denied)
		if denied.Unproven() != (name != "nothing") || denied.Provable() == denied.Unproven() {
			t.Errorf("%s: provable %v", name, denied.Provable())
		}
	}
}
