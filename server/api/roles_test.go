package api_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/wire"
)

var update = flag.Bool("update", false, "write the golden files")

// A change of the role table shows in a review.
func TestRoleTableGolden(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-46s %s\n", "", strings.Join(api.Classes, " "))
	for _, op := range api.Operations() {
		fmt.Fprintf(&b, "%-46s", op.Route)
		for i, class := range api.Classes {
			fmt.Fprintf(&b, " %-*s", len(class), op.May[i])
		}
		b.WriteString("\n")
	}
	got := []byte(strings.ReplaceAll(b.String(), " \n", "\n"))
	const path = "testdata/roles.txt"
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("the role table changed:\n%s", got)
	}
}

// Every operation as every class of caller, on an own and on another's object:
// what the table forbids is refused, and what it allows is not.
func TestRolesEveryOperation(t *testing.T) {
	w := newWorld(t, setup{})
	victim := w.join("victim")
	// tokens gives a fresh caller of a class; its handle is for own objects.
	n := 0
	caller := func(class string) (token, handle string, user clearbox.UserID) {
		n++
		handle = fmt.Sprintf("caller%d", n)
		role := auth.Role(class)
		if class == "nodevice" {
			role = auth.RoleAdmin // even an admin can do little without a device
		}
		p := w.joinAs(clearbox.Handle(handle), role)
		if class != "nodevice" {
			return p.tokens.Access, handle, p.User
		}
		tokens, err := w.Auth.Login(t.Context(), p.Person.Login(0))
		if err != nil {
			t.Fatal(err)
		}
		return tokens.Access, handle, p.User
	}
	for i, class := range api.Classes {
		var token, handle string
		var user clearbox.UserID
		for _, op := range api.Operations() {
			method, path, _ := strings.Cut(op.Route, " ")
			for _, object := range []string{"own", "other"} {
				if class == "anyone" || class == "local" {
					if object == "own" {
						continue // they have no account
					}
				} else {
					token, handle, user = fresh(t, w, token, caller, class, handle, user)
				}
				target, id := "victim", victim.User.String()
				if object == "own" {
					target, id = handle, user.String()
				}
				at := strings.NewReplacer("{handle}", target, "{server}", "b.test", "{purpose}", "presence", "{user}", id).Replace(path)
				if path == "/users/{id}" {
					at = "/users/" + id
				} else {
					at = strings.ReplaceAll(at, "{id}", "99")
				}
				if at == "/sync" {
					at += "?timeout=0"
				}
				body := any(nil)
				if method == http.MethodPost || method == http.MethodPut {
					body = "{"
				}
				var res answer
				if class == "local" {
					res = w.request(w.local.URL, method, at, "", body, nil)
				} else {
					res = w.do(method, at, token, body)
				}
				refused := res.status == 401 && res.problem.Code == clearbox.CodeUnauthorized ||
					res.status == 403 && res.problem.Code == clearbox.CodeForbidden
				may := op.May[i]
				applies := may == "both" || may == object || object == "own" && may == "other" && !op.HasOwn || object == "other" && may == "own" && !op.HasOwn
				if op.Route == "GET /ws" && class != "local" {
					applies = !refused // it finds its caller itself; TestSocketAdmission has its cases
				}
				if applies == refused {
					t.Errorf("%s as %s on %s %s (%s): %d %s", op.Route, class, object, may, at, res.status, res.body)
				}
			}
		}
	}
	if got := w.do("GET", "/admin/users", victim.tokens.Access, nil); got.status != 403 {
		t.Error("a member reads the list of users:", got.status)
	}
}

// fresh gives the same caller as long as its token works: logging out and
// changing the password are among the operations.
func fresh(t *testing.T, w *world, token string, caller func(string) (string, string, clearbox.UserID), class, handle string, user clearbox.UserID) (string, string, clearbox.UserID) {
	t.Helper()
	if token != "" {
		if p, err := w.Auth.Verify(t.Context(), token); err == nil && string(p.Role) != "" && p.User == user {
			return token, handle, user
		}
	}
	return caller(class)
}

func TestAdminOverTheLocalSocket(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	ada := w.joinAs("ada", auth.RoleAdmin)
	mo := w.joinAs("mo", auth.RoleModerator)
	for name, do := range map[string]func(method, path string, body any) answer{
		"local": w.admin,
		"ada":   ada.do,
	} {
		t.Run(name, func(t *testing.T) {
			var users wire.AdminUsers
			do("GET", "/admin/users?limit=2", nil).into(t, &users)
			if len(users.Users) != 2 || users.Next == "" {
				t.Errorf("%+v", users)
			}
			do("GET", "/admin/users?limit=2&after="+users.Next, nil).into(t, &users)
			var created wire.AdminInviteCreated
			do("POST", "/admin/users", wire.AdminUserCreate{Handle: "new-" + name}).into(t, &created)
			do("POST", "/admin/invites", wire.AdminInviteCreate{}).into(t, &created)
			var invites wire.AdminInvites
			do("GET", "/admin/invites", nil).into(t, &invites)
			if len(invites.Invites) < 2 {
				t.Errorf("%+v", invites)
			}
			do("DELETE", "/admin/invites/"+created.ID, nil).into204(t)
			var u wire.AdminUser
			do("POST", "/admin/users/bob/role", wire.AdminRole{Role: "dpo"}).into(t, &u)
			do("POST", "/admin/users/bob/role", wire.AdminRole{Role: "member"}).into(t, &u)
			var code wire.AdminReset
			do("POST", "/admin/users/bob/reset", nil).into(t, &code)
			var audit wire.AdminAudit
			do("GET", "/admin/audit", nil).into(t, &audit)
			if len(audit.Entries) == 0 {
				t.Error("nothing was recorded")
			}
			var status wire.AdminStatus
			do("GET", "/admin/status", nil).into(t, &status)
			var peers wire.AdminPeers
			do("GET", "/admin/peers", nil).into(t, &peers)
			var fed wire.AdminFedStatus
			do("GET", "/admin/fed/status", nil).into(t, &fed)
			do("POST", "/admin/peers/b.test/suspend", nil).want(t, 503, clearbox.CodeUnavailable, "") // no federation in this world
			do("POST", "/admin/peers/not_a_name/suspend", nil).want(t, 404, clearbox.CodeNotFound, "")
			do("GET", "/admin/users?limit=0", nil).want(t, 400, clearbox.CodeBadRequest, "/limit")
			do("GET", "/admin/users?page=1", nil).want(t, 400, clearbox.CodeBadRequest, "")
		})
	}
	tokens, err := w.Auth.Login(t.Context(), bob.Person.Login(1))
	if err != nil {
		t.Fatal(err)
	}
	bob.tokens = tokens
	b := bob.open(wire.CBOR)
	var u wire.AdminUser
	mo.do("POST", "/admin/users/bob/ban", wire.AdminReason{Reason: "spam"}).into(t, &u)
	if u.State != "banned" {
		t.Errorf("%+v", u)
	}
	if code := b.closed(); code != wire.CloseRevoked {
		t.Errorf("a banned person's socket closed with %d", code)
	}
	bob.do("GET", "/me", nil).want(t, 401, clearbox.CodeUnauthorized, "")
	w.do("POST", "/auth/login", "", wire.Login{Handle: "bob", Password: authtest.Password, Device: proof(bob.Person, 1)}).want(t, 401, clearbox.CodeBadCredentials, "")
	mo.do("POST", "/admin/users/bob/unban", wire.AdminReason{}).into(t, &u)
	mo.do("POST", "/admin/users/ada/ban", wire.AdminReason{}).want(t, 403, clearbox.CodeForbidden, "")
	ada.do("POST", "/admin/users/ada/role", wire.AdminRole{Role: "member"}).want(t, 403, clearbox.CodeForbidden, "")
	w.admin("GET", "/me", nil).want(t, 403, clearbox.CodeForbidden, "")
}
