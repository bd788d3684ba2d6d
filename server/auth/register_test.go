package auth_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unlimited keeps rate limits out of tests about something else.
var unlimited = auth.Options{LoginsPerMinute: -1}

func wantCode(t *testing.T, err error, code clearbox.Code) {
	t.Helper()
	if got := clearbox.CodeOf(err); got != code {
		t.Fatalf("code %q (%v), want %q", got, err, code)
	}
}

func TestRegister(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice := w.Person("alice")
	r := alice.Registration(w.Invite(auth.NewInvite{Role: auth.RoleModerator}).Code)
	r.Consents = []auth.Purpose{auth.PurposePresence, auth.PurposeHistoryArchive}
	got, err := w.Auth.Register(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.User != alice.User || got.Handle != "alice" || got.Device != 1 || got.Role != auth.RoleModerator || got.Refresh == "" {
		t.Fatalf("tokens of %v", got.User)
	}
	p := w.Principal(got.Access)
	if p.User != alice.User || p.Device != 1 || p.DeviceNo == 0 || p.Session != got.Session || p.Role != auth.RoleModerator || p.Key.IsZero() {
		t.Fatalf("principal %+v", p)
	}
	w.View(func(tx *storage.Tx) error {
		u, err := tx.UserByHandle("alice")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(u.Password, "$argon2id$") || !bytes.Equal(u.DeviceList, r.DeviceList) || u.DevicesVersion != 1 || u.NoticeVersion == "" {
			t.Errorf("stored user %+v", u)
		}
		d, err := tx.Device(u.No, 1)
		if err != nil || d.Name != "phone" || d.Registration != 1001 || d.LastSeenDay%86_400_000 != 0 {
			t.Errorf("stored device %+v, %v", d, err)
		}
		if ec, kem, err := tx.PreKeyCounts(d.No); ec != 2 || kem != 2 || err != nil {
			t.Errorf("%d and %d one-time keys, %v", ec, kem, err)
		}
		return nil
	})
	consents, err := w.Auth.Consents(t.Context(), p)
	if err != nil || len(consents) != len(auth.Purposes()) {
		t.Fatalf("%v, %v", consents, err)
	}
	for _, c := range consents {
		chosen := c.Purpose == auth.PurposePresence || c.Purpose == auth.PurposeHistoryArchive
		if c.Granted != chosen {
			t.Errorf("consent to %s: %t", c.Purpose, c.Granted)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	w := authtest.New(t, unlimited)
	w.Join("bob")
	setup := w.Invite(auth.NewInvite{For: "carol"}).Code
	fresh := func() string { return w.Invite(auth.NewInvite{}).Code }
	cases := []struct {
		name   string
		change func(p *authtest.Person, r *auth.Registration)
		code   clearbox.Code
		field  string
	}{
		{"reserved handle", func(_ *authtest.Person, r *auth.Registration) { r.Handle = "postmaster" }, clearbox.CodeBadHandle, "/handle"},
		{"handle in capitals", func(_ *authtest.Person, r *auth.Registration) { r.Handle = "Alice" }, clearbox.CodeBadHandle, "/handle"},
		{"empty handle", func(_ *authtest.Person, r *auth.Registration) { r.Handle = "" }, clearbox.CodeBadHandle, "/handle"},
		{"handle with look-alike letters", func(_ *authtest.Person, r *auth.Registration) { r.Handle = "аlice" }, clearbox.CodeBadHandle, "/handle"},
		{"handle in the form of a uid", func(_ *authtest.Person, r *auth.Registration) {
			r.Handle = clearbox.Handle(strings.Repeat("a", 26))
		}, clearbox.CodeBadHandle, "/handle"},
		{"handle of another", func(_ *authtest.Person, r *auth.Registration) { r.Handle = "bob" }, clearbox.CodeHandleTaken, "/handle"},
		{"malformed uid", func(_ *authtest.Person, r *auth.Registration) { r.UID = "x" }, clearbox.CodeBadRequest, "/uid"},
		{"weak password", func(_ *authtest.Person, r *auth.Registration) { r.Password = "password123" }, clearbox.CodeBadRequest, "/password"},
		{"no invite", func(_ *authtest.Person, r *auth.Registration) { r.Invite = "" }, clearbox.CodeInviteInvalid, "/invite"},
		{"unknown invite", func(_ *authtest.Person, r *auth.Registration) { r.Invite = strings.Repeat("a", 26) }, clearbox.CodeInviteInvalid, "/invite"},
		{"handle of another without an invite", func(_ *authtest.Person, r *auth.Registration) { r.Invite, r.Handle = "", "bob" }, clearbox.CodeInviteInvalid, "/invite"},
		{"setup code of another", func(_ *authtest.Person, r *auth.Registration) { r.Invite = setup }, clearbox.CodeInviteInvalid, "/handle"},
		{"notice not acknowledged", func(_ *authtest.Person, r *auth.Registration) { r.Notice = auth.NoticeAck{} }, clearbox.CodeNoticeRequired, "/notice"},
		{"another version of the notice", func(_ *authtest.Person, r *auth.Registration) { r.Notice.Version = "0" }, clearbox.CodeNoticeRequired, "/notice"},
		{"another text of the notice", func(_ *authtest.Person, r *auth.Registration) { r.Notice.Hash = strings.Repeat("0", 64) }, clearbox.CodeNoticeRequired, "/notice"},
		{"unknown purpose", func(_ *authtest.Person, r *auth.Registration) { r.Consents = []auth.Purpose{"everything"} }, clearbox.CodeBadRequest, "/consents/0"},
		{"device name with control characters", func(_ *authtest.Person, r *auth.Registration) { r.DeviceName = "a\x1b[2J" }, clearbox.CodeBadRequest, "/device_name"},
		{"no device list", func(_ *authtest.Person, r *auth.Registration) { r.DeviceList = nil }, clearbox.CodeBadRequest, "/device_list"},
		{"device list that was altered", func(_ *authtest.Person, r *auth.Registration) {
			r.DeviceList[len(r.DeviceList)-1] ^= 1
		}, clearbox.CodeBadSignature, "/device_list"},
		{"device list of another account", func(p *authtest.Person, r *auth.Registration) {
			p.List.Account = w.Person("eve").User.String()
			r.DeviceList = p.Signed()
		}, clearbox.CodeBadRequest, "/device_list"},
		{"device list of another server", func(p *authtest.Person, r *auth.Registration) {
			p.List.Account = string(p.User.UID) + "@b.test"
			r.DeviceList = p.Signed()
		}, clearbox.CodeBadRequest, "/device_list"},
		{"two devices", func(p *authtest.Person, r *auth.Registration) {
			p.AddDevice(2)
			r.DeviceList = p.Signed()
		}, clearbox.CodeBadRequest, "/device_list"},
		{"device 2 first", func(p *authtest.Person, r *auth.Registration) {
			p.List.Devices[0].ID = 2
			r.DeviceList = p.Signed()
		}, clearbox.CodeBadRequest, "/device_list"},
		{"removed device", func(p *authtest.Person, r *auth.Registration) {
			p.DropDevice(1)
			r.DeviceList = p.Signed()
		}, clearbox.CodeBadRequest, "/device_list"},
		{"no prekeys", func(_ *authtest.Person, r *auth.Registration) { r.Keys.Signed, r.Keys.LastResort = nil, nil }, clearbox.CodeBadRequest, "/keys/signed"},
		{"prekey with a bad signature", func(_ *authtest.Person, r *auth.Registration) { r.Keys.Signed.Signature[0] ^= 1 }, clearbox.CodeBadSignature, "/keys/signed"},
		{"prekeys of another identity", func(_ *authtest.Person, r *auth.Registration) { r.Keys = w.Person("eve").Keys(1) }, clearbox.CodeBadSignature, "/keys/signed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := w.Person("alice")
			r := p.Registration(fresh())
			invite := r.Invite
			c.change(p, &r)
			_, err := w.Auth.Register(t.Context(), r)
			wantCode(t, err, c.code)
			var e *clearbox.Error
			if !errors.As(err, &e) || e.Field != c.field {
				t.Fatalf("field of %+v, want %s", e, c.field)
			}
			nothingChanged(t, w, p, invite)
		})
	}
}

// nothingChanged checks that p has no account and the invite is usable.
func nothingChanged(t *testing.T, w *authtest.World, p *authtest.Person, invite string) {
	t.Helper()
	w.View(func(tx *storage.Tx) error {
		if _, err := tx.UserByUID(p.User.UID); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("there is an account: %v", err)
		}
		return nil
	})
	if _, err := w.Auth.Register(t.Context(), func() auth.Registration {
		q := w.Person(clearbox.Handle("z" + string(p.User.UID[:20])))
		return q.Registration(invite)
	}()); err != nil {
		t.Errorf("the invite was used up: %v", err)
	}
}

func TestInviteWorksOnce(t *testing.T) {
	w := authtest.New(t, unlimited)
	code := w.Invite(auth.NewInvite{}).Code
	shouted := strings.ToUpper(strings.ReplaceAll(code, "-", " ")) // as people type it
	if _, err := w.Auth.Register(t.Context(), w.Person("alice").Registration(shouted)); err != nil {
		t.Fatal(err)
	}
	_, err := w.Auth.Register(t.Context(), w.Person("bob").Registration(code))
	wantCode(t, err, clearbox.CodeInviteInvalid)

	late := w.Invite(auth.NewInvite{TTL: 1000})
	w.Clock.Fly(1e9)
	_, err = w.Auth.Register(t.Context(), w.Person("bob").Registration(late.Code))
	wantCode(t, err, clearbox.CodeInviteInvalid)

	revoked := w.Invite(auth.NewInvite{})
	w.Update(func(tx *storage.Tx) error { return tx.RevokeInvite(revoked.ID) })
	_, err = w.Auth.Register(t.Context(), w.Person("bob").Registration(revoked.Code))
	wantCode(t, err, clearbox.CodeInviteInvalid)
}

func TestRegistrationModes(t *testing.T) {
	t.Run("open", func(t *testing.T) {
		w := authtest.New(t, auth.Options{Registration: auth.ModeOpen, LoginsPerMinute: -1})
		got, err := w.Auth.Register(t.Context(), w.Person("alice").Registration(""))
		if err != nil || got.Role != auth.RoleMember {
			t.Fatalf("%s, %v", got.Role, err)
		}
		// An invite that is named counts, for its role.
		_, err = w.Auth.Register(t.Context(), w.Person("bob").Registration("nonsense"))
		wantCode(t, err, clearbox.CodeInviteInvalid)
		got, err = w.Auth.Register(t.Context(), w.Person("bob").Registration(w.Invite(auth.NewInvite{Role: auth.RoleAdmin}).Code))
		if err != nil || got.Role != auth.RoleAdmin {
			t.Fatalf("%s, %v", got.Role, err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		w := authtest.New(t, auth.Options{Registration: auth.ModeClosed, LoginsPerMinute: -1})
		_, err := w.Auth.Register(t.Context(), w.Person("alice").Registration(w.Invite(auth.NewInvite{}).Code))
		wantCode(t, err, clearbox.CodeInviteInvalid)
		got, err := w.Auth.Register(t.Context(), w.Person("alice").Registration(w.Invite(auth.NewInvite{For: "alice", Role: auth.RoleDPO}).Code))
		if err != nil || got.Role != auth.RoleDPO {
			t.Fatalf("%s, %v", got.Role, err)
		}
	})
}

func TestUIDIsNeverReused(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	again := alice.Registration(w.Invite(auth.NewInvite{}).Code)
	again.Handle = "alice2"
	_, err := w.Auth.Register(t.Context(), again)
	wantCode(t, err, clearbox.CodeConflict)
}

// Each durable step of registration fails before and after it was kept.
func TestRegisterFails(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name  string
		step  storage.FaultStep
		after bool
		there bool // the account, afterwards
	}{
		{"begin", storage.FaultBegin, false, false},
		{"commit before it was kept", storage.FaultCommit, false, false},
		{"commit after it was kept", storage.FaultCommit, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := authtest.New(t, unlimited)
			alice := w.Person("alice")
			invite := w.Invite(auth.NewInvite{}).Code
			if _, err := w.Auth.JWKS(t.Context()); err != nil { // its own transaction comes first
				t.Fatal(err)
			}
			before := w.Living.Count()
			w.Faults.Set(func(step storage.FaultStep, after bool, _ string) error {
				if step == c.step && after == c.after {
					return boom
				}
				return nil
			})
			tokens, err := w.Auth.Register(t.Context(), alice.Registration(invite))
			w.Faults.Set(nil)
			if c.there {
				if err != nil {
					t.Fatalf("it was kept but reported as failed: %v", err)
				}
				w.Principal(tokens.Access)
				if _, err := w.Auth.Login(t.Context(), alice.Login(1)); err != nil {
					t.Fatalf("the account cannot be used: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("a failure was reported as success")
			}
			if n := w.Living.Count(); n != before {
				t.Errorf("%d person keys, want %d: a key without a person is left", n, before)
			}
			if _, err := w.Auth.Register(t.Context(), alice.Registration(invite)); err != nil {
				t.Fatalf("the second try: %v", err)
			}
		})
	}
}

// Every statement of the registration's transaction fails in turn; nothing is
// half done after any.
func TestRegisterFailsAtEachStatement(t *testing.T) {
	w := authtest.New(t, unlimited)
	if _, err := w.Auth.JWKS(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice := w.Person("alice")
	r := alice.Registration(w.Invite(auth.NewInvite{}).Code)
	r.Consents = []auth.Purpose{auth.PurposePresence}
	boom := errors.New("boom")
	for n := 1; ; n++ {
		seen := 0
		w.Faults.Set(func(step storage.FaultStep, after bool, _ string) error {
			if step != storage.FaultStatement || after {
				return nil
			}
			if seen++; seen == n {
				return boom
			}
			return nil
		})
		before := w.Living.Count()
		_, err := w.Auth.Register(t.Context(), r)
		w.Faults.Set(nil)
		if err == nil {
			if n < 8 {
				t.Fatalf("only %d statements were seen", n)
			}
			return
		}
		if got := w.Living.Count(); got != before {
			t.Fatalf("statement %d: a key without a person is left", n)
		}
		w.View(func(tx *storage.Tx) error {
			if _, err := tx.UserByUID(alice.User.UID); !errors.Is(err, storage.ErrNotFound) {
				t.Fatalf("statement %d: an account is left", n)
			}
			return nil
		})
	}
}

func TestNothingPersonalIsReadableAtRest(t *testing.T) {
	w := authtest.New(t, unlimited)
	w.Join("alice.canary")
	for _, name := range []string{"a.db", "a.db-wal"} {
		raw, err := os.ReadFile(w.Dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"alice.canary", authtest.Password, "$argon2id$", "phone"} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s contains %q", name, secret)
			}
		}
	}
}

// A client builds the proof with server/wire.
func TestLoginProofIsTheOneOfTheWire(t *testing.T) {
	uid := clearbox.UID(strings.Repeat("a", 26))
	for _, at := range []clearbox.Millis{0, 1, 1_900_000_000_123} {
		a, b := auth.LoginProof("clinic.example", uid, 127, at), wire.LoginProof("clinic.example", uid, 127, at)
		if !bytes.Equal(a, b) {
			t.Fatalf("%x is not %x", a, b)
		}
	}
}

func TestReconfigure(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice := w.Person("alice").Registration(w.Invite(auth.NewInvite{}).Code)
	w.Auth.Reconfigure(auth.ModeOpen, 0, auth.NewNotice("2", "en", "Another text."))
	_, err := w.Auth.Register(t.Context(), alice)
	wantCode(t, err, clearbox.CodeNoticeRequired)
	if _, err := w.Auth.Register(t.Context(), w.Person("bob").Registration("")); err != nil {
		t.Fatal(err)
	}
}
