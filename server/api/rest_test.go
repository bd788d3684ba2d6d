package api_test

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/server/wire"
)

func keysOut(k directory.Keys) wire.Keys {
	one := func(k *directory.PreKey) *wire.PreKey {
		if k == nil {
			return nil
		}
		return &wire.PreKey{ID: k.ID, Key: k.Public, Signature: k.Signature}
	}
	out := wire.Keys{Signed: one(k.Signed), KEM: one(k.LastResort)}
	for i := range k.OneTime {
		out.OneTime = append(out.OneTime, *one(&k.OneTime[i]))
	}
	for i := range k.KEM {
		out.OneTimeKEM = append(out.OneTimeKEM, *one(&k.KEM[i]))
	}
	return out
}

func registration(p *authtest.Person, invite string) *wire.Registration {
	r := p.Registration(invite)
	return &wire.Registration{UID: r.UID, Handle: string(r.Handle), Password: r.Password, Invite: r.Invite, DeviceName: r.DeviceName,
		DeviceList: r.DeviceList, Keys: keysOut(r.Keys), Notice: wire.NoticeAck{Version: r.Notice.Version, Hash: r.Notice.Hash, Language: "en"}}
}

func proof(p *authtest.Person, id clearbox.DeviceID) *wire.DeviceProof {
	d := p.Proof(id)
	return &wire.DeviceProof{Device: id, At: d.At, Signature: d.Signature}
}

// One account's whole life over HTTP; every request and answer is held against
// the OpenAPI file on its way.
func TestAccountOverHTTP(t *testing.T) {
	w := newWorld(t, setup{})
	var n wire.PrivacyNotice
	w.do("GET", "/notice", "", nil).into(t, &n)
	alice := w.Person("alice")
	in := registration(alice, w.Invite(auth.NewInvite{}).Code)
	in.Consents = []string{"presence"}
	if n.Hash != in.Notice.Hash || n.Version != in.Notice.Version {
		t.Fatalf("notice %+v", n)
	}
	if len(n.Purposes) != len(auth.Purposes()) {
		t.Fatalf("purposes %+v", n.Purposes)
	}
	for i, p := range n.Purposes {
		if want := auth.Purposes()[i]; p.Name != string(want) || p.Text == "" || p.Text != want.Text(n.Language) {
			t.Errorf("purpose %+v", p)
		}
	}
	var tokens wire.Tokens
	res := w.do("POST", "/auth/register", "", in)
	res.into(t, &tokens)
	if res.status != http.StatusCreated || tokens.Address != "alice@a.test" || tokens.Device != 1 || tokens.User != alice.User {
		t.Fatalf("%d %+v", res.status, tokens)
	}
	access := tokens.Access

	var me wire.Me
	w.do("GET", "/me", access, nil).into(t, &me)
	if me.User != alice.User || me.Role != "member" || me.Session != tokens.Session {
		t.Errorf("%+v", me)
	}
	w.do("PUT", "/me/notice", access, wire.NoticeAck{Version: n.Version, Hash: n.Hash}).into204(t)
	var k wire.Consents
	w.do("GET", "/me/consents", access, nil).into(t, &k)
	if len(k.Consents) != len(auth.Purposes()) {
		t.Errorf("%+v", k)
	}
	var c wire.Consent
	w.do("PUT", "/me/consents/history_archive", access, wire.ConsentGrant{Notice: wire.NoticeAck{Version: n.Version, Hash: n.Hash}}).into(t, &c)
	if !c.Granted || c.Purpose != "history_archive" {
		t.Errorf("%+v", c)
	}
	w.do("DELETE", "/me/consents/history_archive", access, nil).into(t, &c)
	if c.Granted {
		t.Errorf("%+v", c)
	}
	w.do("DELETE", "/me/consents/everything", access, nil).want(t, 404, clearbox.CodeNotFound, "")

	var st wire.KeyStatus
	w.do("PUT", "/keys", access, keysOut(alice.OneTime(50, 3))).into(t, &st)
	if st.OneTime != 5 || st.OneTimeKEM != 5 {
		t.Errorf("%+v", st)
	}
	w.do("GET", "/keys/status", access, nil).into(t, &st)

	alice.AddDevice(2)
	signed := alice.Signed()
	var stored wire.DeviceListStored
	w.do("PUT", "/devices/list", access, wire.DeviceListUpload{DeviceList: signed, Added: []wire.AddedDevice{{Device: 2, Name: "laptop", Keys: keysOut(alice.Keys(1))}}}).into(t, &stored)
	if stored.Version != 2 {
		t.Errorf("%+v", stored)
	}
	var devs wire.Devices
	w.do("GET", "/devices", access, nil).into(t, &devs)
	if len(devs.Devices) != 2 || !bytes.Equal(devs.DeviceList, signed) || !devs.Devices[0].Current || devs.Devices[1].Name != "laptop" {
		t.Errorf("%+v", devs)
	}
	w.do("POST", "/auth/login", "", wire.Login{Handle: "alice", Password: authtest.Password, Device: proof(alice, 2)}).into(t, &tokens)
	if tokens.Device != 2 {
		t.Errorf("%+v", tokens)
	}
	w.do("DELETE", "/devices/2", access, nil).into204(t)
	w.do("GET", "/me", tokens.Access, nil).want(t, 401, clearbox.CodeUnauthorized, "")
	w.do("DELETE", "/devices/x", access, nil).want(t, 404, clearbox.CodeNotFound, "")

	// Without a device.
	w.do("POST", "/auth/login", "", wire.Login{Handle: "alice", Password: authtest.Password}).into(t, &tokens)
	w.do("GET", "/devices", tokens.Access, nil).into(t, &devs)
	w.do("GET", "/me", tokens.Access, nil).want(t, 403, clearbox.CodeForbidden, "")

	var fresh wire.Tokens
	w.do("POST", "/auth/refresh", "", wire.Refresh{Token: tokens.Refresh}).into(t, &fresh)
	w.do("POST", "/auth/refresh", "", wire.Refresh{Token: tokens.Refresh}).want(t, 401, clearbox.CodeTokenReused, "")
	w.do("GET", "/devices", fresh.Access, nil).want(t, 401, clearbox.CodeUnauthorized, "")

	w.do("POST", "/auth/password", access, wire.PasswordChange{Old: authtest.Password, New: "nine blue kettles"}).into(t, &tokens)
	w.do("GET", "/me", access, nil).want(t, 401, clearbox.CodeUnauthorized, "")
	var tick wire.Ticket
	w.do("POST", "/auth/ticket", tokens.Access, nil).into(t, &tick)
	w.do("POST", "/auth/logout", tokens.Access, nil).into204(t)
	w.do("POST", "/auth/logout", tokens.Access, nil).want(t, 401, clearbox.CodeUnauthorized, "")
	w.do("POST", "/auth/reset", "", wire.PasswordReset{Code: "wrong", New: "nine blue kettles"}).want(t, 401, clearbox.CodeBadCredentials, "")
}

func (a answer) into204(t testing.TB) {
	t.Helper()
	if a.status != http.StatusNoContent || len(a.body) != 0 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
}

func TestMessagesOverHTTP(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")

	var acc wire.Account
	alice.do("GET", "/users/bob@a.test", nil).into(t, &acc)
	if acc.User != bob.User || acc.Address != "bob@a.test" {
		t.Errorf("%+v", acc)
	}
	alice.do("GET", "/users/"+bob.User.String(), nil).into(t, &acc)
	alice.do("GET", "/users/nobody@a.test", nil).want(t, 404, clearbox.CodeNotFound, "")
	var bundles wire.Bundles
	alice.do("POST", "/keys/claim", wire.KeyClaim{ClaimID: newID(t), User: bob.User}).into(t, &bundles)
	if len(bundles.Bundles) != 1 || bundles.Bundles[0].OneTime == nil || !bytes.Equal(bundles.Bundles[0].Identity, bob.Identity.Public().Bytes()) {
		t.Errorf("%+v", bundles)
	}

	m := bob.message("opaque")
	var rc, again wire.Receipt
	alice.do("POST", "/messages/send", m).into(t, &rc)
	alice.do("POST", "/messages/send", m).into(t, &again)
	if rc.ID != m.ID || rc.Status != wire.StateAccepted || again != rc {
		t.Errorf("%+v, then %+v", rc, again)
	}
	other := *m
	other.To = bob.message("another").To
	alice.do("POST", "/messages/send", other).want(t, 409, clearbox.CodeConflict, "")

	stale := bob.message("x")
	stale.To[0].Envelopes[0].Registration = 7
	res := alice.do("POST", "/messages/send", stale)
	res.want(t, 409, clearbox.CodeStaleDevices, "")
	if s := res.problem.Stale; s == nil || s.User != bob.User || len(s.Missing) != 1 || s.Missing[0].Registration != 1001 || len(s.Extra) != 1 {
		t.Errorf("%+v", res.problem)
	}
	ghost := w.Person("ghost").User
	absent := bob.message("x")
	absent.To[0].User = ghost
	alice.do("POST", "/messages/send", absent).want(t, 404, clearbox.CodeRecipientUnavailable, "")
	blocked := bob.message("x")
	blocked.To[0].User.Server = "b.test"
	alice.do("POST", "/messages/send", blocked).want(t, 403, clearbox.CodePeerBlocked, "")

	var states wire.Statuses
	unknown := newID(t)
	alice.do("POST", "/messages/status", wire.StatusQuery{IDs: []clearbox.MessageID{unknown, m.ID}}).into(t, &states)
	if !slices.Equal(states.States, []wire.Status{{ID: unknown, State: wire.StateUnknown}, {ID: m.ID, State: wire.StateAccepted}}) {
		t.Errorf("%+v", states)
	}
	bob.do("POST", "/messages/status", wire.StatusQuery{IDs: []clearbox.MessageID{m.ID}}).into(t, &states)
	if states.States[0].State != wire.StateUnknown {
		t.Error("bob learns about alice's message")
	}

	// Bob polls.
	var sync wire.Sync
	bob.do("GET", "/sync", nil).into(t, &sync)
	if len(sync.Events) != 1 || sync.Events[0].Type != wire.FrameReceive || string(sync.Events[0].Envelope.Content) != "opaque" ||
		sync.Events[0].Envelope.Sender != alice.User || sync.Events[0].Envelope.SenderDevice != 1 || sync.Events[0].Envelope.Recipient != bob.User {
		t.Fatalf("%+v", sync)
	}
	first := sync.Events[0].Seq
	bob.do("GET", "/sync", nil).into(t, &sync)
	if len(sync.Events) != 1 {
		t.Error("mail was gone without an acknowledgement")
	}
	bob.do("GET", "/sync?ack=999", nil).want(t, 400, clearbox.CodeBadRequest, "")
	polled := make(chan answer, 1)
	go func() { polled <- bob.do("GET", "/sync?timeout=25&ack="+itoa(first), nil) }()
	eventually(t, "the mail is acknowledged", func() bool {
		mails, err := w.router.Mailbox(w.Principal(bob.tokens.Access)).Read(t.Context(), 0, 10, 1<<20)
		return err == nil && len(mails) == 0
	})
	alice.do("POST", "/messages/send", bob.message("second")).into(t, &rc)
	(<-polled).into(t, &sync)
	if len(sync.Events) != 1 || string(sync.Events[0].Envelope.Content) != "second" || sync.Acked != first {
		t.Errorf("%+v", sync)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestSyncEndsWithTheSession(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	polled := make(chan answer, 1)
	go func() { polled <- bob.do("GET", "/sync?timeout=25", nil) }()
	eventually(t, "bob polls", func() bool { return w.api.Polls(bob.tokens.Session) == 1 })
	started := time.Now()
	if err := w.Auth.Logout(t.Context(), w.Principal(bob.tokens.Access)); err != nil {
		t.Fatal(err)
	}
	(<-polled).want(t, 401, clearbox.CodeUnauthorized, "")
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("after %v", d)
	}
}

func TestHistoryOverHTTP(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	up := wire.HistoryUpload{Items: []wire.HistoryItem{{ID: "a", Conversation: []byte("c"), Body: []byte("1")}, {ID: "b", Conversation: []byte("c"), Body: []byte("2")}, {ID: "c", Conversation: []byte("c"), Body: []byte("3")}}}
	bob.do("POST", "/messages/history", up).want(t, 403, clearbox.CodeConsentRequired, "")
	bob.consent(auth.PurposeHistoryArchive)
	var stored wire.HistoryStored
	bob.do("POST", "/messages/history", up).into(t, &stored)
	if stored.Stored != 3 || stored.Items != 3 {
		t.Errorf("%+v", stored)
	}
	var page wire.HistoryPage
	bob.do("GET", "/messages/history?limit=2&direction=backward", nil).into(t, &page)
	if len(page.Items) != 2 || page.Items[0].ID != "c" || page.Next == "" {
		t.Fatalf("%+v", page)
	}
	bob.do("GET", "/messages/history?limit=2&direction=backward&cursor="+page.Next, nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].ID != "a" || page.Next != "" {
		t.Errorf("%+v", page)
	}
	bob.do("GET", "/messages/history?cursor=wrong", nil).want(t, 400, clearbox.CodeBadRequest, "?cursor")
	bob.do("GET", "/messages/history?limit=0", nil).want(t, 400, clearbox.CodeBadRequest, "?limit")
	bob.do("GET", "/messages/history?limit=201", nil).want(t, 400, clearbox.CodeBadRequest, "?limit")
	bob.do("GET", "/messages/history?direction=up", nil).want(t, 400, clearbox.CodeBadRequest, "?direction")
	bob.do("GET", "/messages/history?offset=1", nil).want(t, 400, clearbox.CodeBadRequest, "")
	bob.do("DELETE", "/messages/history", nil).want(t, 400, clearbox.CodeBadRequest, "")
	bob.do("DELETE", "/messages/history?all=yes", nil).want(t, 400, clearbox.CodeBadRequest, "")
	var gone wire.HistoryDeleted
	bob.do("DELETE", "/messages/history?id=a&id=x", nil).into(t, &gone)
	if gone.Deleted != 1 {
		t.Errorf("%+v", gone)
	}
	bob.do("DELETE", "/messages/history?all=true", nil).into(t, &gone)
	if gone.Deleted != 2 {
		t.Errorf("%+v", gone)
	}
}

func TestServerRoutes(t *testing.T) {
	w := newWorld(t, setup{})
	var live wire.Live
	w.do("GET", "/livez", "", nil).into(t, &live)
	var ready wire.Ready
	w.do("GET", "/readyz", "", nil).into(t, &ready)
	if !ready.Ready || len(ready.Checks) != 1 || !ready.Checks[0].OK {
		t.Errorf("%+v", ready)
	}
	w.notReady = clearbox.Errorf(clearbox.CodeStoreFull, "full")
	res := w.do("GET", "/readyz", "", nil)
	if err := wire.DecodeAnswer(wire.JSON, res.body, &ready); err != nil || res.status != 503 || ready.Ready || ready.Checks[0].Code != clearbox.CodeStoreFull || res.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", res.status, res.body, err)
	}
	var v wire.Version
	w.do("GET", "/version", "", nil).into(t, &v)
	var known wire.WellKnown
	w.do("GET", "/.well-known/clearbox", "", nil).into(t, &known)
	if known.Server != home || known.MaxFrame != wire.MaxFrame || known.Registration != "invite" {
		t.Errorf("%+v", known)
	}
	res = w.do("GET", "/.well-known/jwks.json", "", nil)
	if res.status != 200 || !strings.Contains(string(res.body), `"keys"`) {
		t.Errorf("%d %s", res.status, res.body)
	}
	file := w.do("GET", "/openapi.yaml", "", nil)
	if !bytes.Equal(file.body, api.OpenAPI()) {
		t.Error("another file is served")
	}
	res = w.request(w.server.URL, "GET", "/openapi.yaml", "", nil, func(r *http.Request) { r.Header.Set("If-None-Match", file.header.Get("ETag")) })
	if res.status != http.StatusNotModified {
		t.Error("an unchanged file is sent again:", res.status)
	}
	w.do("DELETE", "/gdpr/delete", "", nil).want(t, 501, clearbox.CodeNotImplemented, "")
	w.do("GET", "/gdpr/export", "", nil).want(t, 501, clearbox.CodeNotImplemented, "")
}

func TestHTTPSemantics(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")

	res := w.do("DELETE", "/auth/login", "", nil)
	res.want(t, 405, clearbox.CodeMethod, "")
	if got := res.header.Get("Allow"); got != "POST" {
		t.Errorf("Allow: %q", got)
	}
	res = w.do("PUT", "/messages/history", "", nil)
	if got := res.header.Get("Allow"); got != "GET, HEAD, POST, DELETE" {
		t.Errorf("Allow: %q", got)
	}
	w.do("GET", "/nothing/here", "", nil).want(t, 404, clearbox.CodeNotFound, "")

	get, head := bob.do("GET", "/devices", nil), bob.do("HEAD", "/devices", nil)
	if head.status != 200 || len(head.body) != 0 || head.header.Get("Content-Length") != get.header.Get("Content-Length") {
		t.Errorf("HEAD: %d, %d bytes, length %s", head.status, len(head.body), head.header.Get("Content-Length"))
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if get.header.Get(name) != want {
			t.Errorf("%s: %q", name, get.header.Get(name))
		}
	}
	if get.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("CORS is on")
	}
	if a, b := get.header.Get("X-Request-Id"), head.header.Get("X-Request-Id"); a == b || len(a) != 16 {
		t.Errorf("request ids %q, %q", a, b)
	}
}
