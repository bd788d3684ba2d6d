package servertest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/franking"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Bob of b.test shows a message of alice to the moderators of a.test: at once, and
// from a time at which neither server reached the other, although she took it back
// since. What she never said is refused.
func TestReportReachesTheSendersServer(t *testing.T) {
	servertest.Run(t, two, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		ctx, a := context.Background(), w.House("a.test")
		const reason, second = "this is what bob calls a threat", "the second line is no better"
		w.Secret(reason, second)
		first := alice.Say(bob, "the first line is a threat")
		w.Wait("bob has it", time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		m, err := alice.Brain.Send(ctx, bob.User, second)
		must(w, err)
		w.Wait("bob has the second", time.Minute, func() bool { return len(bob.Heard(alice)) == 2 })

		for range 2 {
			if r := report(w, bob, core.Ref{Author: alice.User, ID: first}, reason); r.State != core.ReportDelivered {
				t.Fatalf("the report is %s (%s)", r.State, r.Reason)
			}
		}
		w.Partition("a.test", "b.test")
		late := core.Ref{Author: alice.User, ID: m.ID}
		if r := report(w, bob, late, reason); r.State != core.ReportWaiting {
			t.Fatalf("without a way it is %s (%s)", r.State, r.Reason)
		}
		w.Heal("a.test", "b.test")
		must(w, alice.Brain.Delete(ctx, m.Ref()))
		w.Wait("the report is delivered", time.Hour, func() bool {
			all, err := bob.Brain.Reports(ctx)
			must(w, err)
			return len(all) == 2 && all[0].State == core.ReportDelivered && all[1].State == core.ReportDelivered && all[1].Shown == nil
		})

		invented(w, alice)

		var list wire.AdminReports
		a.Admin(http.MethodGet, "/admin/reports?limit=10", nil, &list)
		if len(list.Reports) != 2 || list.Reports[0].Shown != nil {
			t.Fatalf("reports at a.test: %+v", list.Reports)
		}
		for i, text := range []string{"the first line is a threat", second} {
			var r wire.AdminReport
			a.Admin(http.MethodGet, "/admin/reports/"+strconv.FormatInt(list.Reports[i].No, 10), nil, &r)
			if r.Handle != "alice" || r.Peer != "b.test" || r.Shown == nil || r.Shown.Text != text || r.Shown.Reason != reason {
				t.Errorf("a.test was shown %+v %+v", r, r.Shown)
			}
		}
		a.Admin(http.MethodPost, "/admin/reports/"+strconv.FormatInt(list.Reports[0].No, 10)+"/close", wire.AdminReportClose{State: "upheld"}, nil)
		a.Admin(http.MethodGet, "/admin/reports?limit=10", nil, &list)
		if list.Reports[0].State != "upheld" || list.Reports[1].State != "open" || list.Reports[1].Strikes != 1 {
			t.Errorf("after one was upheld: %+v", list.Reports)
		}
		var audit wire.AdminAudit
		a.Admin(http.MethodGet, "/admin/audit?limit=100", nil, &audit)
		deeds := map[string]int{}
		for _, e := range audit.Entries {
			deeds[e.Action]++
		}
		if deeds["report.show"] != 2 || deeds["report.close"] != 1 {
			t.Errorf("the audit log has %v", deeds)
		}
		rows, err := json.Marshal(struct {
			Audit wire.AdminAudit
			List  wire.AdminReports
		}{audit, list})
		must(w, err)
		w.Silent("the audit log, or the list of reports,", string(rows))
	})
}

// invented has somebody at b.test report what alice never sent.
func invented(w *servertest.World, alice *servertest.Person) {
	w.T.Helper()
	carol := joinBare(w, authtest.New(w.T, auth.Options{}), "carol", "b.test")
	defer carol.end()
	r := wire.Report{User: alice.User, Kind: uint64(core.KindText), Text: "what alice never said", Key: make([]byte, franking.KeySize)}
	w.Secret(r.Text)
	id, err := franking.Commit(r.Key, &franking.Revealed{Kind: r.Kind, From: r.User.String(), Text: r.Text})
	must(w, err)
	r.Message = id
	for _, name := range []string{"unknown", "forged"} {
		body, err := json.Marshal(r)
		must(w, err)
		res, err := carol.line.Do(w.T.Context(), core.Request{Method: http.MethodPost, Path: "/reports", Token: carol.token, Body: body})
		must(w, err)
		var p wire.Problem
		must(w, json.Unmarshal(res.Body, &p))
		if res.Status != http.StatusUnprocessableEntity || p.Code != "unproven" {
			w.T.Errorf("%s: answered with %d %s", name, res.Status, res.Body)
		}
		r.Text += ", at all"
	}
}

func report(w *servertest.World, p *servertest.Person, target core.Ref, reason string) *core.Report {
	w.T.Helper()
	r, err := p.Brain.Report(context.Background(), target, reason)
	must(w, err)
	return r
}

func must(w *servertest.World, err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}
