package auth_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/storage"
)

// Whatever ends sessions ends all their secrets at once, tells who they were,
// and a restart does not bring them back.
func TestSessionsEnd(t *testing.T) {
	admin := func(w *authtest.World, do func(tx *storage.Tx) (auth.Revoked, error)) {
		t.Helper()
		var r auth.Revoked
		w.Update(func(tx *storage.Tx) (err error) {
			r, err = do(tx)
			return err
		})
		w.Auth.Apply(r)
	}
	cases := []struct {
		name  string
		end   func(t *testing.T, w *authtest.World, p auth.Principal)
		other bool // the person's other session ends as well
	}{
		{"logout", func(t *testing.T, w *authtest.World, p auth.Principal) {
			if err := w.Auth.Logout(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"ban", func(t *testing.T, w *authtest.World, p auth.Principal) {
			admin(w, func(tx *storage.Tx) (auth.Revoked, error) { return w.Auth.BanTx(tx, p.UserNo) })
		}, true},
		{"password change", func(t *testing.T, w *authtest.World, p auth.Principal) {
			next, err := w.Auth.ChangePassword(t.Context(), p, auth.PasswordChange{Old: authtest.Password, New: "eight blue kettles"})
			if err != nil {
				t.Fatal(err)
			}
			if q := w.Principal(next.Access); q.DeviceNo != p.DeviceNo || q.Session == p.Session {
				t.Fatalf("the new session %+v", q)
			}
		}, true},
		{"password reset", func(t *testing.T, w *authtest.World, p auth.Principal) {
			if err := w.Auth.Reset(t.Context(), resetCode(w, p.UserNo), "eight blue kettles", ""); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"device removal", func(t *testing.T, w *authtest.World, p auth.Principal) {
			admin(w, func(tx *storage.Tx) (r auth.Revoked, err error) {
				r.Sessions, err = tx.RemoveDevice(p.UserNo, p.Device)
				return r, err
			})
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := authtest.New(t, unlimited)
			alice, tokens := w.Join("alice")
			bare, err := w.Auth.Login(t.Context(), alice.Login(0))
			if err != nil {
				t.Fatal(err)
			}
			_, bob := w.Join("bob")
			w.Principal(bob.Access)
			w.Principal(bare.Access)
			p := w.Principal(tokens.Access)
			ticket, _, err := w.Auth.Ticket(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Auth.Standing(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			var closed []string
			w.Auth.OnRevoke(func(s []string) { closed = append(closed, s...) })
			c.end(t, w, p)

			if !slices.Contains(closed, p.Session) || slices.Contains(closed, bare.Session) != c.other || slices.Contains(closed, bob.Session) {
				t.Errorf("closed %v", closed)
			}
			for _, s := range []*auth.Service{w.Auth, w.Service(unlimited)} {
				if _, err := s.Verify(t.Context(), tokens.Access); !errors.Is(err, auth.ErrTokenRevoked) {
					t.Errorf("access token: %v", err)
				}
				if err := s.Standing(t.Context(), p); !errors.Is(err, auth.ErrTokenRevoked) {
					t.Errorf("standing: %v", err)
				}
				if _, err := s.Refresh(t.Context(), tokens.Refresh); err == nil {
					t.Error("the refresh token works")
				}
				if _, err := s.Verify(t.Context(), bare.Access); (err != nil) != c.other {
					t.Errorf("the other session: %v", err)
				}
			}
			if _, err := w.Auth.RedeemTicket(t.Context(), ticket); err == nil {
				t.Error("the ticket works")
			}
			w.Principal(bob.Access)
		})
	}
}

func resetCode(w *authtest.World, userNo int64) (code string) {
	w.Update(func(tx *storage.Tx) (err error) {
		code, _, err = w.Auth.ResetTx(tx, userNo)
		return err
	})
	return code
}

// Requests that run while a ban happens are served or refused; none that
// begins after it is served.
func TestVerifyBesideARevocation(t *testing.T) {
	w := authtest.New(t, unlimited)
	for round := range 10 {
		_, tokens := w.Join(clearbox.Handle(fmt.Sprintf("user%d", round)))
		var before, after sync.WaitGroup
		start := make(chan struct{})
		before.Add(4)
		for range 4 {
			go func() {
				defer before.Done()
				<-start
				w.Auth.Verify(t.Context(), tokens.Access)
			}()
		}
		close(start)
		p := auth.Principal{Session: tokens.Session}
		if err := w.Auth.Logout(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		after.Add(4)
		for range 4 {
			go func() {
				defer after.Done()
				if _, err := w.Auth.Verify(t.Context(), tokens.Access); err == nil {
					t.Error("served after the end")
				}
			}()
		}
		after.Wait()
		before.Wait()
		if _, err := w.Auth.Verify(t.Context(), tokens.Access); err == nil {
			t.Fatal("served after the end, from memory")
		}
	}
}

func TestVerifyRemembersAndForgets(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	w.Principal(tokens.Access)
	w.Store.Close() // whoever is remembered needs no database
	w.Principal(tokens.Access)
	if n := w.Auth.Verified(); n != 1 {
		t.Fatalf("%d tokens are remembered", n)
	}
	for i := range 40_000 {
		w.Auth.Remember(fmt.Sprint(i), auth.Principal{Session: fmt.Sprint(i)}, w.Clock.Now().Add(time.Minute))
	}
	if n := w.Auth.Verified(); n > 16_384 {
		t.Fatalf("%d tokens are remembered", n)
	}
	w.Auth.Apply(auth.Revoked{Sessions: []string{"39999"}})
	if _, err := w.Auth.Verify(t.Context(), "39999"); err == nil {
		t.Fatal("a revoked token is remembered")
	}
}

func TestBanAndUnban(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, tokens := w.Join("alice")
	no := w.Principal(tokens.Access).UserNo
	var r auth.Revoked
	w.Update(func(tx *storage.Tx) (err error) {
		r, err = w.Auth.BanTx(tx, no)
		return err
	})
	w.Auth.Apply(r)
	_, err := w.Auth.Login(t.Context(), alice.Login(1))
	wantCode(t, err, clearbox.CodeBadCredentials)
	if err := w.Auth.Reset(t.Context(), resetCode(w, no), "eight blue kettles", ""); clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
		t.Fatalf("a reset while banned: %v", err)
	}
	w.Update(func(tx *storage.Tx) error { return w.Auth.UnbanTx(tx, no) })
	_, err = w.Auth.Verify(t.Context(), tokens.Access)
	if !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatalf("a session came back: %v", err)
	}
	w.Clock.Fly(time.Second)
	if _, err := w.Auth.Login(t.Context(), alice.Login(1)); err != nil {
		t.Fatal(err)
	}
	w.Update(func(tx *storage.Tx) error { return tx.SetUserState(no, storage.UserErased) })
	err = w.Store.Update(t.Context(), func(tx *storage.Tx) error { return w.Auth.UnbanTx(tx, no) })
	wantCode(t, err, clearbox.CodeNotFound)
}

func TestRoleHoldsAtOnce(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	var r auth.Revoked
	w.Update(func(tx *storage.Tx) (err error) {
		r, err = w.Auth.SetRoleTx(tx, p.UserNo, auth.RoleAdmin)
		return err
	})
	w.Auth.Apply(r)
	if got := w.Principal(tokens.Access).Role; got != auth.RoleAdmin {
		t.Fatalf("the role is %s", got)
	}
	err := w.Store.Update(t.Context(), func(tx *storage.Tx) error {
		_, err := w.Auth.SetRoleTx(tx, p.UserNo, "king")
		return err
	})
	wantCode(t, err, clearbox.CodeBadRequest)
}

func TestChangePasswordRefuses(t *testing.T) {
	w := authtest.New(t, auth.Options{LoginsPerMinute: 5})
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	for _, c := range []struct {
		name   string
		change auth.PasswordChange
		code   clearbox.Code
		field  string
	}{
		{"wrong old one", auth.PasswordChange{Old: "not the old one", New: "eight blue kettles"}, clearbox.CodeBadCredentials, "/old"},
		{"weak new one", auth.PasswordChange{Old: authtest.Password, New: "alice12345"}, clearbox.CodeBadRequest, "/new"},
	} {
		_, err := w.Auth.ChangePassword(t.Context(), p, c.change)
		wantCode(t, err, c.code)
		var e *clearbox.Error
		if !errors.As(err, &e) || e.Field != c.field {
			t.Errorf("%s: field of %+v", c.name, e)
		}
	}
	w.Principal(tokens.Access)
	for range 3 {
		w.Auth.ChangePassword(t.Context(), p, auth.PasswordChange{Old: "guess guess", New: "eight blue kettles"})
	}
	_, err := w.Auth.ChangePassword(t.Context(), p, auth.PasswordChange{Old: authtest.Password, New: "eight blue kettles"})
	wantCode(t, err, clearbox.CodeRateLimited)
}

// What was checked before the transaction holds inside of it.
func TestWhatChangedMeanwhile(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	var user storage.User
	w.View(func(tx *storage.Tx) (err error) {
		user, err = tx.UserByNo(p.UserNo)
		return err
	})
	next, err := w.Auth.ChangePassword(t.Context(), p, auth.PasswordChange{Old: authtest.Password, New: "eight blue kettles"})
	if err != nil {
		t.Fatal(err)
	}
	// A login whose password was right a moment ago.
	_, err = w.Auth.Begin(t.Context(), user, 1)
	wantCode(t, err, clearbox.CodeBadCredentials)
	w.Principal(next.Access)
	// A password change by a session that ended a moment ago.
	_, err = w.Auth.ChangePassword(t.Context(), p, auth.PasswordChange{Old: "eight blue kettles", New: "nine white kettles"})
	wantCode(t, err, clearbox.CodeUnauthorized)
	// A token that was looked up before a revocation is not remembered after it.
	generation := w.Auth.Generation()
	w.Auth.Apply(auth.Revoked{Sessions: []string{"x"}})
	before := w.Auth.Verified()
	w.Auth.RememberSince(generation, "token", auth.Principal{Session: "x"}, w.Clock.Now().Add(time.Minute))
	if w.Auth.Verified() != before {
		t.Fatal("a token is remembered past its session's end")
	}
}

func TestResetCode(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, tokens := w.Join("alice")
	no := w.Principal(tokens.Access).UserNo
	first, second := resetCode(w, no), resetCode(w, no)
	const fresh = "eight blue kettles"
	for name, code := range map[string]string{"replaced": first, "empty": "", "nonsense": "xyz", "huge": strings.Repeat("x", 1<<16)} {
		err := w.Auth.Reset(t.Context(), code, fresh, "")
		if clearbox.CodeOf(err) != clearbox.CodeBadCredentials {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCode(t, w.Auth.Reset(t.Context(), second, "alicealice!", ""), clearbox.CodeBadRequest)
	w.Principal(tokens.Access)
	if err := w.Auth.Reset(t.Context(), strings.ToUpper(second), fresh, ""); err != nil {
		t.Fatalf("after a weak password the code shall still work: %v", err)
	}
	wantCode(t, w.Auth.Reset(t.Context(), second, fresh, ""), clearbox.CodeBadCredentials)
	l := alice.Login(1)
	_, err := w.Auth.Login(t.Context(), l)
	wantCode(t, err, clearbox.CodeBadCredentials)
	l.Password = fresh
	if _, err := w.Auth.Login(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	late := resetCode(w, no)
	w.Clock.Fly(24 * time.Hour)
	wantCode(t, w.Auth.Reset(t.Context(), late, fresh, ""), clearbox.CodeBadCredentials)
}

func TestInvitesForTakenOrForbiddenNames(t *testing.T) {
	w := authtest.New(t, unlimited)
	w.Join("alice")
	for _, c := range []struct {
		n    auth.NewInvite
		code clearbox.Code
	}{
		{auth.NewInvite{For: "alice"}, clearbox.CodeHandleTaken},
		{auth.NewInvite{For: "postmaster"}, clearbox.CodeBadHandle},
		{auth.NewInvite{Role: "king"}, clearbox.CodeBadRequest},
	} {
		err := w.Store.Update(t.Context(), func(tx *storage.Tx) error {
			_, err := w.Auth.InviteTx(tx, c.n)
			return err
		})
		wantCode(t, err, c.code)
	}
}

func TestConsents(t *testing.T) {
	first := auth.NewNotice("1", "en", "We keep little.")
	w := authtest.New(t, auth.Options{LoginsPerMinute: -1, Notice: first})
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	ack := func(n auth.Notice) auth.NoticeAck { return auth.NoticeAck{Version: n.Version, Hash: n.Hash} }
	has := func(s *auth.Service, want bool) {
		t.Helper()
		if ok, err := s.Consented(t.Context(), p.UserNo, auth.PurposePresence); ok != want || err != nil {
			t.Fatalf("consented %t, %v", ok, err)
		}
	}
	has(w.Auth, false)
	_, err := w.Auth.SetConsent(t.Context(), p, auth.PurposePresence, true, auth.NoticeAck{}, "en")
	wantCode(t, err, clearbox.CodeNoticeRequired)
	_, err = w.Auth.SetConsent(t.Context(), p, "everything", true, ack(first), "en")
	wantCode(t, err, clearbox.CodeBadRequest)
	has(w.Auth, false)
	c, err := w.Auth.SetConsent(t.Context(), p, auth.PurposePresence, true, ack(first), "en")
	if err != nil || !c.Granted || c.NoticeVersion != "1" {
		t.Fatalf("%+v, %v", c, err)
	}
	has(w.Auth, true)

	// A new notice makes the consent stale until it is renewed.
	second := auth.NewNotice("2", "en", "We keep a little more.")
	later := w.Service(auth.Options{Notice: second})
	has(later, false)
	all, err := later.Consents(t.Context(), p)
	if err != nil || !all[0].Stale || all[0].Granted || all[0].NoticeVersion != "1" {
		t.Fatalf("%+v, %v", all, err)
	}
	me, err := later.Me(t.Context(), p)
	if err != nil || !me.NoticeStale || me.Notice != "1" || me.Handle != "alice" {
		t.Fatalf("%+v, %v", me, err)
	}
	wantCode(t, later.AcknowledgeNotice(t.Context(), p, ack(first)), clearbox.CodeNoticeRequired)
	if err := later.AcknowledgeNotice(t.Context(), p, ack(second)); err != nil {
		t.Fatal(err)
	}
	if me, err := later.Me(t.Context(), p); err != nil || me.NoticeStale {
		t.Fatalf("%+v, %v", me, err)
	}
	_, err = later.SetConsent(t.Context(), p, auth.PurposePresence, true, ack(second), "en")
	if err != nil {
		t.Fatal(err)
	}
	has(later, true)

	// Withdrawing asks for nothing.
	if _, err := later.SetConsent(t.Context(), p, auth.PurposePresence, false, auth.NoticeAck{}, ""); err != nil {
		t.Fatal(err)
	}
	has(later, false)
	w.View(func(tx *storage.Tx) error {
		h, err := tx.ConsentHistory(p.UserNo)
		if len(h) != 3 || h[0].Action != storage.ConsentGranted || h[2].Action != storage.ConsentWithdrawn || len(h[0].NoticeHash) != 32 || h[0].Language != "en" {
			t.Errorf("history %+v", h)
		}
		return err
	})
}

func TestRunRotatesAndSweeps(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	w.Clock.Fly(60 * 24 * time.Hour)
	w.Auth.Sweep(t.Context())
	w.View(func(tx *storage.Tx) error {
		if _, err := tx.Session(tokens.Session); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("an old session is kept: %v", err)
		}
		keys, err := tx.SigningKeys()
		if len(keys) != 0 {
			t.Errorf("%d old signing keys are kept", len(keys))
		}
		return err
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := authtest.New(t, unlimited)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Auth.Run(ctx) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A logout that was stored although the database reported a failure holds at
// once, not only when the token expires.
func TestLogoutWhoseAnswerWasLost(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	w.Faults.Set(func(step storage.FaultStep, after bool, _ string) error {
		if step == storage.FaultCommit && after {
			return errors.New("boom")
		}
		return nil
	})
	if err := w.Auth.Logout(t.Context(), p); err == nil {
		t.Fatal("a failure was reported as success")
	}
	w.Faults.Set(nil)
	if _, err := w.Auth.Verify(t.Context(), tokens.Access); !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatal(err)
	}
}
