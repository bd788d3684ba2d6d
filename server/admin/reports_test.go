package admin_test

import (
	"context"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/reports"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// report stores a report about somebody.
func (w *world) report(about, text string) int64 {
	w.t.Helper()
	body, err := cbor.Marshal(reports.Shown{Kind: 1, Sent: 7, Text: text, Reason: "because"})
	if err != nil {
		w.t.Fatal(err)
	}
	r := storage.Report{UserNo: w.people[about], Message: clearbox.MessageID{byte(len(text))}, Peer: "b.test", Expires: 1 << 50, Body: body}
	if err := w.store.Update(context.Background(), func(tx *storage.Tx) error { return tx.PutReport(&r) }); err != nil {
		w.t.Fatal(err)
	}
	return r.No
}

// Moderators judge what was reported, but not what was reported about themselves;
// admins only at the machine; and each look is written down, without a word of it.
func TestReportsAreForModerators(t *testing.T) {
	ctx, w := context.Background(), newWorld(t)
	bobs, mos := w.report("bob", "of bob"), w.report("mo", "of the moderator")
	w.person("max", storage.RoleModerator)
	upheld := wire.AdminReportClose{State: "upheld"}
	for _, c := range []struct {
		who   admin.Actor
		name  string
		no    int64
		lists int // -1: refused
		want  clearbox.Code
	}{
		{w.as("mo", auth.RoleModerator), "a moderator", bobs, 1, ""},
		{w.as("mo", auth.RoleModerator), "a moderator, about himself", mos, 1, clearbox.CodeNotFound},
		{w.as("max", auth.RoleModerator), "another", mos, 2, ""},
		{admin.Local(), "the machine", mos, 2, ""},
		{w.as("ada", auth.RoleAdmin), "an admin", bobs, -1, clearbox.CodeForbidden},
		{w.as("dora", auth.RoleDPO), "the protection officer", bobs, -1, clearbox.CodeForbidden},
		{w.as("rita", auth.RoleRights), "who works on requests", bobs, -1, clearbox.CodeForbidden},
		{w.as("bob", auth.RoleMember), "a member", bobs, -1, clearbox.CodeForbidden},
		{admin.Local(), "the machine, in vain", 99, 2, clearbox.CodeNotFound},
	} {
		page, err := w.admin.Reports(ctx, c.who, "", 100)
		if (err != nil) != (c.lists < 0) || err == nil && len(page.Reports) != c.lists {
			t.Errorf("%s lists %+v, %v", c.name, page, err)
		}
		got, err := w.admin.Report(ctx, c.who, c.no)
		if clearbox.CodeOf(err) != c.want || (got.Shown != nil) != (c.want == "") {
			t.Errorf("%s reads %+v, %v", c.name, got, err)
		}
		if err := w.admin.CloseReport(ctx, c.who, c.no, upheld); clearbox.CodeOf(err) != c.want {
			t.Errorf("%s closes: %v", c.name, err)
		}
	}
	page, err := w.admin.Reports(ctx, admin.Local(), "", 1)
	if err != nil || len(page.Reports) != 1 || page.Next == "" || page.Reports[0].Handle != "bob" || page.Reports[0].State != "upheld" || page.Reports[0].Strikes != 1 || page.Reports[0].Shown != nil {
		t.Errorf("the first page: %+v, %v", page, err)
	}
	rows := w.actions()
	want := []string{
		"mo report.show bob  report 1", "mo report.close bob  report 1 upheld",
		"max report.show mo  report 2", "max report.close mo  report 2 upheld", "local report.show mo  report 2", "local report.close mo  report 2 upheld",
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the audit log has %q", rows)
	}
}
