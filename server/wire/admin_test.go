package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/server/wire"
)

func TestAdminBodies(t *testing.T) {
	for _, c := range []struct {
		name, json string
		into       any
		pointer    string // of the refused field; "" when the body is fine
	}{
		{"user", `{"handle":"bob","role":"admin","ttl_seconds":3600}`, &wire.AdminUserCreate{}, ""},
		{"user, bad name", `{"handle":"Bob"}`, &wire.AdminUserCreate{}, "/handle"},
		{"user, bad role", `{"handle":"bob","role":"root user"}`, &wire.AdminUserCreate{}, "/role"},
		{"user, short", `{"handle":"bob","ttl_seconds":59}`, &wire.AdminUserCreate{}, "/ttl_seconds"},
		{"user, long", `{"handle":"bob","ttl_seconds":7776001}`, &wire.AdminUserCreate{}, "/ttl_seconds"},
		{"user, unknown field", `{"handle":"bob","admin":true}`, &wire.AdminUserCreate{}, "/admin"},
		{"reason", `{}`, &wire.AdminReason{}, ""},
		{"reason, long", `{"reason":"` + strings.Repeat("x", 201) + `"}`, &wire.AdminReason{}, "/reason"},
		{"role", `{"role":"moderator"}`, &wire.AdminRole{}, ""},
		{"role, none", `{"role":""}`, &wire.AdminRole{}, "/role"},
		{"invite", `{}`, &wire.AdminInviteCreate{}, ""},
		{"invite, bad name", `{"for":"a b"}`, &wire.AdminInviteCreate{}, "/for"},
		{"peer", `{"server":"b.example","country":"DE"}`, &wire.AdminPeerInvite{}, ""},
		{"peer, no country", `{"server":"b.example","country":""}`, &wire.AdminPeerInvite{}, "/country"},
		{"peer, name", `{"server":"127.0.0.1","country":"DE"}`, &wire.AdminPeerInvite{}, "/server"},
		{"accept", `{"token":"x","country":"AT"}`, &wire.AdminPeerAccept{}, ""},
		{"peer, a country that is none", `{"server":"b.example","country":"XX"}`, &wire.AdminPeerInvite{}, "/country"},
		{"accept, small letters", `{"token":"x","country":"at"}`, &wire.AdminPeerAccept{}, "/country"},
		{"accept, long", `{"token":"` + strings.Repeat("x", 4097) + `","country":"AT"}`, &wire.AdminPeerAccept{}, "/token"},
		{"dead letter", `{"no":7}`, &wire.AdminDeadPick{}, ""},
		{"dead letters of a peer", `{"peer":"b.example","code":"expired"}`, &wire.AdminDeadPick{}, ""},
		{"dead letters of all", `{}`, &wire.AdminDeadPick{}, "/peer"},
		{"dead letter and peer", `{"no":7,"peer":"b.example"}`, &wire.AdminDeadPick{}, "/peer"},
		{"dead letter with a code", `{"no":7,"code":"expired"}`, &wire.AdminDeadPick{}, "/code"},
		{"retry all", `{}`, &wire.AdminFedRetry{}, ""},
		{"retry, name", `{"server":"b"}`, &wire.AdminFedRetry{}, "/server"},
	} {
		err := wire.Decode(wire.JSON, []byte(c.json), c.into)
		if c.pointer == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var bad *wire.InvalidError
		if !errors.As(err, &bad) || len(bad.Errors) == 0 || bad.Errors[0].Pointer != c.pointer {
			t.Errorf("%s: %v, want a fault at %s", c.name, err, c.pointer)
		}
	}
}

func TestAdminPage(t *testing.T) {
	if after, n, err := wire.AdminPage("x", ""); after != "x" || n != 100 || err != nil {
		t.Errorf("AdminPage = %q, %d, %v", after, n, err)
	}
	for _, limit := range []string{"0", "-1", "501", "x", "1.5"} {
		if _, _, err := wire.AdminPage("", limit); err == nil {
			t.Errorf("limit=%s was accepted", limit)
		}
	}
	if _, _, err := wire.AdminPage(strings.Repeat("x", 129), ""); err == nil {
		t.Error("a long cursor was accepted")
	}
}
