package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/api"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// mail is what waits for somebody.
func (s *someone) mail() int {
	s.w.t.Helper()
	box := s.w.router.Mailbox(s.w.Principal(s.tokens.Access))
	defer box.Close()
	mails, err := box.Read(context.Background(), 0, 100, 1<<20)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return len(mails)
}

// Each bad body has its specific error, and nothing is stored.
func TestBadBodies(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	good, err := wire.Append(wire.JSON, nil, bob.message("opaque"))
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) string {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("%q is not in the body", old)
		}
		return strings.Replace(string(good), old, new, 1)
	}
	id := base64.StdEncoding.EncodeToString([]byte("opaque"))
	const env = "/to/0/envelopes/0"
	for _, c := range []struct {
		name, body string
		status     int
		code       clearbox.Code
		pointer    string
	}{
		{"no body", "", 400, clearbox.CodeBadRequest, ""},
		{"malformed JSON", string(good[:len(good)-2]), 400, clearbox.CodeBadRequest, ""},
		{"not JSON at all", "<xml/>", 400, clearbox.CodeBadRequest, ""},
		{"two values", string(good) + string(good), 400, clearbox.CodeBadRequest, ""},
		{"a list", "[]", 400, clearbox.CodeBadRequest, ""},
		{"null", "null", 400, clearbox.CodeBadRequest, ""},
		{"unknown field", change(`"to":`, `"now":1,"to":`), 400, clearbox.CodeBadRequest, "/now"},
		{"forged sender", change(`"to":`, `"sender":"`+bob.User.String()+`","to":`), 400, clearbox.CodeBadRequest, "/sender"},
		{"field in capitals", change(`"to":`, `"To":`), 400, clearbox.CodeBadRequest, "/To"},
		{"field twice", change(`"device":1`, `"device":1,"device":2`), 400, clearbox.CodeBadRequest, env + "/device"},
		{"string for a number", change(`"device":1`, `"device":"1"`), 400, clearbox.CodeBadRequest, env + "/device"},
		{"number out of range", change(`"registration":1001`, `"registration":70000`), 400, clearbox.CodeBadRequest, env + "/registration"},
		{"object for a list", `{"id":"` + newID(t).String() + `","to":{}}`, 400, clearbox.CodeBadRequest, "/to"},
		{"bad base64", change(id, "!!!!"), 400, clearbox.CodeBadRequest, env + "/content"},
		{"base64 without padding", change(id, "b3"), 400, clearbox.CodeBadRequest, env + "/content"},
		{"bad UTF-8", change(bob.User.String(), "\xff\xfe"), 400, clearbox.CodeBadRequest, "/to/0/user"},
		{"bad message id", change(`"id":"`, `"id":"!`), 400, clearbox.CodeBadRequest, "/id"},
		{"user without a server", change("@a.test", ""), 400, clearbox.CodeBadRequest, "/to/0/user"},
		{"content too large", change(id, strings.Repeat("AAAA", clearbox.MaxContent/3+1)), 413, clearbox.CodeTooLarge, env + "/content"},
		{"nested deeply", strings.Repeat(`{"to":`, 200) + "1" + strings.Repeat("}", 200), 400, clearbox.CodeBadRequest, ""},
		{"an envelope for a device that is not", change(`"device":1`, `"device":9`), 409, clearbox.CodeStaleDevices, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			alice.do("POST", "/messages/send", c.body).want(t, c.status, c.code, c.pointer)
			if n := bob.mail(); n != 0 {
				t.Errorf("%d messages were stored", n)
			}
		})
	}
}

// endless is a body that counts how much of it was read.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.read.Add(int64(len(p))) > 64<<20 {
		return 0, errors.New("read too far")
	}
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestBadBodySizesAndTypes(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.join("alice")
	send := func(path string, change func(*http.Request), body string) answer {
		t.Helper()
		return w.request(w.server.URL, "POST", path, alice.tokens.Access, body, change)
	}
	announced := send("/auth/login", func(r *http.Request) {}, strings.Repeat(" ", wire.MaxBody+1))
	announced.want(t, 413, clearbox.CodeTooLarge, "")
	send("/keys/claim", nil, strings.Repeat(" ", wire.MaxBody+1)).want(t, 413, clearbox.CodeTooLarge, "")
	send("/messages/send", nil, strings.Repeat(" ", wire.MaxFrame+1)).want(t, 413, clearbox.CodeTooLarge, "")
	send("/messages/send", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, "{}").want(t, 415, clearbox.CodeUnsupportedMedia, "")
	send("/messages/send", func(r *http.Request) { r.Header.Del("Content-Type") }, "{}").want(t, 415, clearbox.CodeUnsupportedMedia, "")
	send("/messages/send", func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=latin1") }, "{}").want(t, 415, clearbox.CodeUnsupportedMedia, "")
	send("/messages/send", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, "{}").want(t, 415, clearbox.CodeUnsupportedMedia, "")
	send("/messages/status", func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=UTF-8") }, `{"ids":["`+newID(t).String()+`"]}`).into(t, &wire.Statuses{})

	// A body whose size is not announced is cut at the limit; one that is
	// announced too large is not read at all.
	for name, length := range map[string]int64{"chunked": -1, "announced": 32 << 20} {
		body := &endless{}
		r, err := http.NewRequest("POST", w.server.URL+"/messages/send", io.NopCloser(body))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+alice.tokens.Access)
		res, err := w.server.Client().Do(r)
		if err != nil {
			continue // hung up on while it wrote: refused too
		}
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
		res.Body.Close()
		if limit := int64(24 << 20); body.read.Load() > limit { // what loopback's buffers hold, and less than all
			t.Errorf("%s: %d bytes were taken", name, body.read.Load())
		}
	}
}

func TestBadRegistrations(t *testing.T) {
	w := newWorld(t, setup{})
	w.join("taken")
	invite := w.Invite(auth.NewInvite{}).Code
	for _, c := range []struct {
		name    string
		change  func(p *authtest.Person, r *wire.Registration)
		status  int
		code    clearbox.Code
		pointer string
	}{
		{"forbidden handle", func(_ *authtest.Person, r *wire.Registration) { r.Handle = "postmaster" }, 400, clearbox.CodeBadHandle, "/handle"},
		{"handle in capitals", func(_ *authtest.Person, r *wire.Registration) { r.Handle = "Eve" }, 400, clearbox.CodeBadHandle, "/handle"},
		{"handle taken", func(_ *authtest.Person, r *wire.Registration) { r.Handle = "taken" }, 409, clearbox.CodeHandleTaken, "/handle"},
		{"no notice", func(_ *authtest.Person, r *wire.Registration) { r.Notice = wire.NoticeAck{} }, 403, clearbox.CodeNoticeRequired, "/notice"},
		{"another notice", func(_ *authtest.Person, r *wire.Registration) { r.Notice.Version = "0" }, 403, clearbox.CodeNoticeRequired, "/notice"},
		{"no invite", func(_ *authtest.Person, r *wire.Registration) { r.Invite = "" }, 403, clearbox.CodeInviteInvalid, "/invite"},
		{"unknown purpose", func(_ *authtest.Person, r *wire.Registration) { r.Consents = []string{"presence", "everything"} }, 400, clearbox.CodeBadRequest, "/consents/1"},
		{"prekey with a bad signature", func(_ *authtest.Person, r *wire.Registration) { r.Keys.Signed.Signature[0] ^= 1 }, 400, clearbox.CodeBadSignature, "/keys/signed"},
		{"last-resort key with a bad signature", func(_ *authtest.Person, r *wire.Registration) { r.Keys.KEM.Signature[0] ^= 1 }, 400, clearbox.CodeBadSignature, "/keys/kem"},
		{"one-time KEM key with a bad signature", func(_ *authtest.Person, r *wire.Registration) { r.Keys.OneTimeKEM[1].Signature[0] ^= 1 }, 400, clearbox.CodeBadSignature, "/keys/one_time_kem/1"},
		{"short prekey", func(_ *authtest.Person, r *wire.Registration) { r.Keys.OneTime[0].Key = r.Keys.OneTime[0].Key[1:] }, 400, clearbox.CodeBadRequest, "/keys/one_time/0/key"},
		{"no keys", func(_ *authtest.Person, r *wire.Registration) { r.Keys = wire.Keys{} }, 400, clearbox.CodeBadRequest, "/keys/signed"},
		{"altered device list", func(_ *authtest.Person, r *wire.Registration) { r.DeviceList[len(r.DeviceList)-1] ^= 1 }, 400, clearbox.CodeBadSignature, "/device_list"},
		{"short uid", func(_ *authtest.Person, r *wire.Registration) { r.UID = "a" }, 400, clearbox.CodeBadRequest, "/uid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := w.Person("eve")
			in := registration(p, invite)
			c.change(p, in)
			w.do("POST", "/auth/register", "", in).want(t, c.status, c.code, c.pointer)
		})
	}
	var tokens wire.Tokens
	w.do("POST", "/auth/register", "", registration(w.Person("eve"), invite)).into(t, &tokens) // the invite was not used up
}

func TestBadDeviceLists(t *testing.T) {
	w := newWorld(t, setup{})
	bob := w.join("bob")
	bob.AddDevice(2)
	signed := bob.Signed()
	keys := keysOut(bob.Keys(1))
	keys.OneTimeKEM[0].Signature[0] ^= 1
	added := []wire.AddedDevice{{Device: 2, Name: "laptop", Keys: keys}}
	bob.do("PUT", "/devices/list", wire.DeviceListUpload{DeviceList: signed, Added: added}).want(t, 400, clearbox.CodeBadSignature, "/added/0/keys/one_time_kem/0")
	bob.do("PUT", "/devices/list", wire.DeviceListUpload{DeviceList: signed}).want(t, 400, clearbox.CodeBadRequest, "/added")
	added[0].Keys, added[0].Name = keysOut(bob.Keys(1)), "a\x1b[2J"
	bob.do("PUT", "/devices/list", wire.DeviceListUpload{DeviceList: signed, Added: added}).want(t, 400, clearbox.CodeBadRequest, "/added/0/name")
	var devs wire.Devices
	if bob.do("GET", "/devices", nil).into(t, &devs); len(devs.Devices) != 1 || devs.Version != 1 {
		t.Errorf("%+v", devs)
	}
}

func TestBadTokens(t *testing.T) {
	w := newWorld(t, setup{})
	other := newWorld(t, setup{draws: 7})
	bob, stranger := w.join("bob"), other.join("bob")
	access := bob.tokens.Access
	parts := strings.Split(access, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, token := range map[string]string{
		"nonsense":          "nonsense",
		"alg none":          none,
		"no signature":      parts[0] + "." + parts[1] + ".",
		"tampered":          parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"admin"}`)) + "." + parts[2],
		"of another server": stranger.tokens.Access,
		"a refresh token":   bob.tokens.Refresh,
		"endless":           strings.Repeat("a", 8000),
	} {
		t.Run(name, func(t *testing.T) { w.do("GET", "/me", token, nil).want(t, 401, clearbox.CodeUnauthorized, "") })
	}
	w.do("GET", "/me", "", nil).want(t, 401, clearbox.CodeUnauthorized, "")
	w.Clock.Fly(16 * time.Minute)
	w.do("GET", "/me", access, nil).want(t, 401, clearbox.CodeTokenExpired, "")
	for _, secret := range []string{access, bob.tokens.Refresh, stranger.tokens.Access} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("a token is in the log")
		}
	}
}

// A store that is full, and one that fails, are told apart; nothing of the
// cause is shown.
func TestStoreFailures(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.join("alice"), w.join("bob")
	w.failCommits(storage.ErrFull)
	alice.do("POST", "/messages/send", bob.message("x")).want(t, 507, clearbox.CodeStoreFull, "")
	a := alice.open(wire.CBOR)
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 1, Submission: bob.message("x")})
	if f := a.next(); f.Type != wire.FrameError || f.Problem.Code != clearbox.CodeStoreFull || f.Problem.Status != 507 {
		t.Errorf("%+v", f)
	}
	w.Faults.Set(nil)
	alice.do("POST", "/messages/send", bob.message("x")).into(t, &wire.Receipt{}) // without a restart
}

// failCommits makes every commit fail before it persists.
func (w *world) failCommits(err error) {
	w.Faults.Set(func(step storage.FaultStep, after bool, _ string) error {
		if step == storage.FaultCommit && !after {
			return err
		}
		return nil
	})
}

// breaking answers some submissions in ways that rooms never should.
type breaking struct{ api.Router }

var errCause = errors.New("a cause with a secret")

func (b breaking) SubmitAsync(ctx context.Context, p auth.Principal, s delivery.Submission, done func(delivery.Receipt, error)) {
	switch content := string(s.To[0].Envelopes[0].Content); content {
	case "panic":
		panic("a panic with a secret")
	case "fail":
		done(delivery.Receipt{}, errCause)
	case "late":
		done(delivery.Receipt{}, context.DeadlineExceeded)
	default:
		b.Router.SubmitAsync(ctx, p, s, done)
	}
}

func TestFaultsOfTheServer(t *testing.T) {
	w := newWorld(t, setup{router: func(r api.Router) api.Router { return breaking{r} }})
	alice, bob := w.join("alice"), w.join("bob")
	res := alice.do("POST", "/messages/send", bob.message("fail"))
	res.want(t, 500, clearbox.CodeInternal, "")
	if !strings.Contains(w.log.String(), res.problem.RequestID) || !strings.Contains(w.log.String(), errCause.Error()) {
		t.Error("the log does not tell why")
	}
	alice.do("POST", "/messages/send", bob.message("late")).want(t, 503, clearbox.CodeUnavailable, "")
	a := alice.open(wire.CBOR)
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 4, Submission: bob.message("fail")})
	if f := a.next(); f.Type != wire.FrameError || f.Ref != 4 || f.Problem.Code != clearbox.CodeInternal || f.Problem.RequestID == "" || strings.Contains(f.Problem.Detail, "secret") {
		t.Errorf("%+v", f.Problem)
	}
	before := w.api.Panics()
	res = alice.do("POST", "/messages/send", bob.message("panic"))
	res.want(t, 500, clearbox.CodeInternal, "")
	a.send(&wire.ClientFrame{Type: wire.FrameSend, Ref: 5, Submission: bob.message("panic")})
	if _, err := a.read(); err == nil {
		t.Error("a socket goes on after a panic")
	}
	eventually(t, "both panics are counted", func() bool { return w.api.Panics() == before+2 })
	if strings.Contains(w.log.String(), "a panic with a secret") || strings.Contains(string(res.body), "secret") {
		t.Error("a panic's value got out")
	}
	w.api.ForgetPanics()
	alice.open(wire.CBOR) // the server goes on
}
