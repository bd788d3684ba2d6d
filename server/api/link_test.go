package api_test

import (
	"net/http"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/linking"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Two devices meet; the new one begins a session without the password, and nobody
// else can.
func TestLinkRoutes(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.join("alice")
	bob := w.join("bob")
	access := alice.tokens.Access
	id := clearbox.MessageID{9}
	at := "/devices/link/" + id.String()

	var opened wire.LinkOpened
	res := w.do("POST", "/devices/link", "", wire.LinkOpen{ID: id, Body: []byte("announcement")})
	res.into(t, &opened)
	if want := clearbox.Millis(w.Clock.Now().Add(linking.Life).UnixMilli()); res.status != http.StatusCreated || opened.Expires != want {
		t.Errorf("%d %+v", res.status, opened)
	}
	w.do("POST", "/devices/link", "", wire.LinkOpen{ID: id, Body: []byte("other")}).want(t, 409, clearbox.CodeConflict, "")
	w.do("GET", at+"/new?after=0", "", nil).want(t, 401, clearbox.CodeUnauthorized, "")
	w.do("POST", at+"/old", "", wire.LinkMessage{N: 1, Body: []byte("x")}).want(t, 401, clearbox.CodeUnauthorized, "")

	var heard wire.LinkMessages
	w.do("GET", at+"/new?after=0&timeout=5", access, nil).into(t, &heard)
	if len(heard.Messages) != 1 || string(heard.Messages[0].Body) != "announcement" {
		t.Errorf("%+v", heard)
	}
	proven := wire.LinkSession{Device: *proof(alice.Person, 1)}
	w.do("POST", at+"/session", "", proven).want(t, 404, clearbox.CodeNotFound, "") // nobody's yet
	w.do("POST", at+"/old", access, wire.LinkMessage{N: 1, Body: []byte("hello")}).into204(t)
	w.do("POST", at+"/old", bob.tokens.Access, wire.LinkMessage{N: 2, Body: []byte("me too")}).want(t, 404, clearbox.CodeNotFound, "")
	w.do("GET", at+"/new?after=0", bob.tokens.Access, nil).want(t, 404, clearbox.CodeNotFound, "")
	w.do("POST", at+"/new", "", wire.LinkMessage{N: 2, Body: []byte("number")}).into204(t)
	w.do("POST", at+"/new", "", wire.LinkMessage{N: 3, Body: make([]byte, wire.MaxLinkNew+1)}).want(t, 413, clearbox.CodeTooLarge, "/body")
	w.do("GET", at+"/old?after=0", "", nil).into(t, &heard)
	if len(heard.Messages) != 1 || string(heard.Messages[0].Body) != "hello" {
		t.Errorf("%+v", heard)
	}
	w.do("GET", at+"/old?after=1", "", nil).into(t, &heard)
	if len(heard.Messages) != 0 {
		t.Errorf("%+v", heard)
	}
	w.do("GET", "/devices/link/x/old", "", nil).want(t, 404, clearbox.CodeNotFound, "")
	w.do("GET", at+"/old?timeout=999", "", nil).want(t, 400, clearbox.CodeBadRequest, "?timeout")

	alice.AddDevice(2)
	w.do("PUT", "/devices/list", access, wire.DeviceListUpload{DeviceList: alice.Signed(), Added: []wire.AddedDevice{{Device: 2, Name: "phone", Keys: keysOut(alice.Keys(1))}}}).into(t, new(wire.DeviceListStored))
	forged := *proof(alice.Person, 2)
	forged.Device = 1
	w.do("POST", at+"/session", "", wire.LinkSession{Device: forged}).want(t, 400, clearbox.CodeBadSignature, "")
	w.do("POST", at+"/session", "", wire.LinkSession{Device: *proof(bob.Person, 1)}).want(t, 400, clearbox.CodeBadSignature, "")
	var tokens wire.Tokens
	proven = wire.LinkSession{Device: *proof(alice.Person, 2)}
	w.do("POST", at+"/session", "", proven).into(t, &tokens)
	if tokens.Device != 2 || tokens.User != alice.User {
		t.Errorf("%+v", tokens)
	}
	w.do("POST", at+"/session", "", proven).want(t, 401, clearbox.CodeReplay, "")
	w.Clock.Fly(linking.Life)
	w.do("GET", at+"/old?after=0", "", nil).want(t, 404, clearbox.CodeNotFound, "")
}

// Who has neither device, but password and root key, reads the archive and lists a
// new device.
func TestRecoveryRoutes(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.join("alice")
	var bare wire.Tokens
	w.do("POST", "/auth/login", "", wire.Login{Handle: "alice", Password: authtest.Password}).into(t, &bare)
	var page wire.HistoryPage
	w.do("GET", "/messages/history", bare.Access, nil).into(t, &page)
	w.do("POST", "/messages/history", bare.Access, wire.HistoryUpload{}).want(t, 403, clearbox.CodeForbidden, "")
	w.do("DELETE", "/messages/history?all=true", bare.Access, nil).want(t, 403, clearbox.CodeForbidden, "")
	alice.AddDevice(2)
	alice.DropDevice(1)
	w.do("PUT", "/devices/list", bare.Access, wire.DeviceListUpload{DeviceList: alice.Signed(), Added: []wire.AddedDevice{{Device: 2, Name: "new", Keys: keysOut(alice.Keys(1))}}}).into(t, new(wire.DeviceListStored))
	w.do("GET", "/me", alice.tokens.Access, nil).want(t, 401, clearbox.CodeUnauthorized, "")
}
