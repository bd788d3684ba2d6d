package auth_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/storage"
)

func contains(t *testing.T, file string, what []byte) bool {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(raw, what)
}

func TestLogin(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	for _, name := range []string{"alice", "alice@a.test", alice.User.String(), string(alice.User.UID)} {
		l := alice.Login(1)
		l.Name = name
		tokens, err := w.Auth.Login(t.Context(), l)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p := w.Principal(tokens.Access); p.Device != 1 || !p.HasDevice() {
			t.Fatalf("%s: %+v", name, p)
		}
		w.Clock.Fly(time.Millisecond) // another proof
	}
	tokens, err := w.Auth.Login(t.Context(), alice.Login(0))
	if err != nil {
		t.Fatal(err)
	}
	if p := w.Principal(tokens.Access); p.HasDevice() || p.DeviceNo != 0 || p.User != alice.User {
		t.Fatalf("a session without a device: %+v", p)
	}
}

func TestLoginRefuses(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	bob, _ := w.Join("bob")
	banned, _ := w.Join("mallory")
	w.Update(func(tx *storage.Tx) error {
		u, err := tx.UserByHandle("mallory")
		if err != nil {
			return err
		}
		_, err = w.Auth.BanTx(tx, u.No)
		return err
	})
	cases := []struct {
		name   string
		change func(l *auth.Login)
		code   clearbox.Code
	}{
		{"wrong password", func(l *auth.Login) { l.Password += "x" }, clearbox.CodeBadCredentials},
		{"empty password", func(l *auth.Login) { l.Password = "" }, clearbox.CodeBadCredentials},
		{"huge password", func(l *auth.Login) { l.Password = strings.Repeat("x", 1<<20) }, clearbox.CodeBadCredentials},
		{"unknown name", func(l *auth.Login) { l.Name = "nobody" }, clearbox.CodeBadCredentials},
		{"name that cannot be", func(l *auth.Login) { l.Name = "../\x00" }, clearbox.CodeBadCredentials},
		{"empty name", func(l *auth.Login) { l.Name = "" }, clearbox.CodeBadCredentials},
		{"name of another server", func(l *auth.Login) { l.Name = "alice@b.test" }, clearbox.CodeBadCredentials},
		{"banned", func(l *auth.Login) { *l = banned.Login(1) }, clearbox.CodeBadCredentials},
		{"wrong password with a wrong proof", func(l *auth.Login) { l.Password, l.Proof.Signature = "x", nil }, clearbox.CodeBadCredentials},
		{"proof of another device", func(l *auth.Login) { l.Proof = bob.Proof(1) }, clearbox.CodeBadSignature},
		{"proof that was altered", func(l *auth.Login) { l.Proof.Signature[5] ^= 1 }, clearbox.CodeBadSignature},
		{"proof with another time", func(l *auth.Login) { l.Proof.At++ }, clearbox.CodeBadSignature},
		{"proof without signature", func(l *auth.Login) { l.Proof.Signature = nil }, clearbox.CodeBadSignature},
		{"device that is not there", func(l *auth.Login) { l.Device = 2 }, clearbox.CodeNoDevice},
		{"device without proof", func(l *auth.Login) { l.Proof = nil }, clearbox.CodeBadRequest},
		{"proof without device", func(l *auth.Login) { l.Device = 0 }, clearbox.CodeBadRequest},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := alice.Login(1)
			c.change(&l)
			_, err := w.Auth.Login(t.Context(), l)
			wantCode(t, err, c.code)
		})
	}
}

// A banned and an unknown name get the very same error as a wrong password.
func TestLoginDoesNotTellWhoExists(t *testing.T) {
	w := authtest.New(t, unlimited)
	w.Join("alice")
	_, wrong := w.Auth.Login(t.Context(), auth.Login{Name: "alice", Password: "not the password"})
	_, unknown := w.Auth.Login(t.Context(), auth.Login{Name: "nobody", Password: "not the password"})
	if wrong.Error() != unknown.Error() || clearbox.CodeOf(wrong) != clearbox.CodeOf(unknown) {
		t.Fatalf("%v and %v", wrong, unknown)
	}
}

func TestDeviceProofWindow(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	for _, c := range []struct {
		name string
		off  time.Duration
		code clearbox.Code
	}{
		{"as old as may be", 5 * time.Minute, ""},
		{"too old", 5*time.Minute + time.Millisecond, clearbox.CodeClockSkew},
		{"as early as may be", -5 * time.Minute, ""},
		{"too early", -5*time.Minute - time.Millisecond, clearbox.CodeClockSkew},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.Clock.Fly(time.Hour)
			w.Clock.Fly(-c.off)
			l := alice.Login(1)
			w.Clock.Fly(c.off)
			_, err := w.Auth.Login(t.Context(), l)
			wantCode(t, err, c.code)
		})
	}
}

func TestDeviceProofWorksOnce(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	l := alice.Login(1)
	if _, err := w.Auth.Login(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []time.Duration{0, 4 * time.Minute, time.Minute} {
		w.Clock.Fly(wait)
		_, err := w.Auth.Login(t.Context(), l)
		wantCode(t, err, clearbox.CodeReplay)
	}
	w.Clock.Fly(time.Millisecond) // out of memory, and out of the window
	_, err := w.Auth.Login(t.Context(), l)
	wantCode(t, err, clearbox.CodeClockSkew)
}

func TestDeviceLoginEndsItsOlderSession(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, first := w.Join("alice")
	bare, err := w.Auth.Login(t.Context(), alice.Login(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Auth.Login(t.Context(), alice.Login(1)); err != nil {
		t.Fatal(err)
	}
	_, err = w.Auth.Verify(t.Context(), first.Access)
	if !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatalf("the older session: %v", err)
	}
	w.Principal(bare.Access)
}

func TestLoginBringsAnOldHashUpToDate(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	dearer := w.Service(auth.Options{LoginsPerMinute: -1, Argon: auth.Argon{MemoryKiB: 128, Iterations: 2, Lanes: 1}})
	if _, err := dearer.Login(t.Context(), alice.Login(1)); err != nil {
		t.Fatal(err)
	}
	w.View(func(tx *storage.Tx) error {
		u, err := tx.UserByHandle("alice")
		if !strings.Contains(u.Password, "m=128,t=2,p=1") {
			t.Errorf("stored %s", u.Password)
		}
		return err
	})
	if _, err := dearer.Login(t.Context(), alice.Login(0)); err != nil {
		t.Fatal(err)
	}
}

func TestLoginLimits(t *testing.T) {
	w := authtest.New(t, auth.Options{LoginsPerMinute: 5})
	w.Clock.Fly(time.Hour)
	alice, _ := w.Join("alice")
	try := func(name, password, client string) error {
		_, err := w.Auth.Login(t.Context(), auth.Login{Name: name, Password: password, Client: client})
		return err
	}
	t.Run("per account, from many clients", func(t *testing.T) {
		for i := range 5 {
			wantCode(t, try("alice", "wrong wrong wrong", string(rune('a'+i))), clearbox.CodeBadCredentials)
		}
		err := try("alice@a.test", authtest.Password, "z")
		wantCode(t, err, clearbox.CodeRateLimited)
		if after, ok := throttle.RetryAfter(err); !ok || after != 12*time.Second {
			t.Fatalf("retry after %v, %t", after, ok)
		}
	})
	t.Run("but not whoever holds a device", func(t *testing.T) {
		l := alice.Login(1)
		l.Client = "y"
		if _, err := w.Auth.Login(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("unknown names alike", func(t *testing.T) {
		for i := range 5 {
			wantCode(t, try("nobody", "wrong wrong wrong", string(rune('A'+i))), clearbox.CodeBadCredentials)
		}
		wantCode(t, try("nobody", "wrong wrong wrong", "Z"), clearbox.CodeRateLimited)
	})
	t.Run("per client, over many names", func(t *testing.T) {
		for i := range 5 {
			wantCode(t, try("n"+string(rune('a'+i)), "wrong wrong wrong", "one"), clearbox.CodeBadCredentials)
		}
		wantCode(t, try("nz", "wrong wrong wrong", "one"), clearbox.CodeRateLimited)
	})
	t.Run("and it passes", func(t *testing.T) {
		w.Clock.Fly(12 * time.Second)
		if err := try("alice", authtest.Password, "x"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRefresh(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	w.Clock.Fly(20 * time.Minute)
	next, err := w.Auth.Refresh(t.Context(), tokens.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if next.Refresh == tokens.Refresh || next.Session != tokens.Session || next.Device != 1 || next.Handle != "alice" {
		t.Fatalf("session %s, device %d", next.Session, next.Device)
	}
	if next.RefreshExpires != tokens.RefreshExpires+20*60*1000 {
		t.Fatalf("the session does not live on: %d", next.RefreshExpires-tokens.RefreshExpires)
	}
	w.Principal(next.Access)
	if contains(t, w.Dir+"/a.db-wal", []byte(next.Refresh)) {
		t.Error("a refresh token is stored as it is")
	}
}

func TestRefreshTokenReplayed(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, first := w.Join("alice")
	var closed []string
	w.Auth.OnRevoke(func(s []string) { closed = append(closed, s...) })
	second, err := w.Auth.Refresh(t.Context(), first.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	w.Principal(second.Access)
	_, err = w.Auth.Refresh(t.Context(), first.Refresh)
	wantCode(t, err, clearbox.CodeTokenReused)
	if !slices.Equal(closed, []string{first.Session}) {
		t.Fatalf("closed %v", closed)
	}
	_, err = w.Auth.Verify(t.Context(), second.Access)
	if !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatalf("the access token: %v", err)
	}
	_, err = w.Auth.Refresh(t.Context(), second.Refresh) // of the whole family
	wantCode(t, err, clearbox.CodeTokenExpired)
	_, err = w.Auth.Refresh(t.Context(), first.Refresh)
	wantCode(t, err, clearbox.CodeTokenReused)
	_, err = w.Service(unlimited).Refresh(t.Context(), second.Refresh) // it is stored
	wantCode(t, err, clearbox.CodeTokenExpired)
}

func TestRefreshRefuses(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	for _, bad := range []string{"", "cbr_x", tokens.Access, strings.Repeat("x", 1000), tokens.Refresh + "x"} {
		_, err := w.Auth.Refresh(t.Context(), bad)
		wantCode(t, err, clearbox.CodeUnauthorized)
	}
	w.Clock.Fly(30 * 24 * time.Hour)
	_, err := w.Auth.Refresh(t.Context(), tokens.Refresh)
	wantCode(t, err, clearbox.CodeUnauthorized)
}

func TestBareSessionEndsAfterADay(t *testing.T) {
	w := authtest.New(t, unlimited)
	alice, _ := w.Join("alice")
	tokens, err := w.Auth.Login(t.Context(), alice.Login(0))
	if err != nil {
		t.Fatal(err)
	}
	w.Clock.Fly(23 * time.Hour)
	next, err := w.Auth.Refresh(t.Context(), tokens.Refresh)
	if err != nil || next.RefreshExpires != tokens.RefreshExpires {
		t.Fatalf("%v, %d later", err, next.RefreshExpires-tokens.RefreshExpires)
	}
	w.Clock.Fly(time.Hour)
	_, err = w.Auth.Refresh(t.Context(), next.Refresh)
	wantCode(t, err, clearbox.CodeUnauthorized)
}

// A refresh whose answer is lost, or that was not kept, leaves either the old
// token or the new one usable, never both.
func TestRefreshFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		w := authtest.New(t, unlimited)
		_, tokens := w.Join("alice")
		w.Faults.Set(func(step storage.FaultStep, a bool, _ string) error {
			if step == storage.FaultCommit && a == after {
				return errors.New("boom")
			}
			return nil
		})
		if _, err := w.Auth.Refresh(t.Context(), tokens.Refresh); err == nil {
			t.Fatal("a failure was reported as success")
		}
		w.Faults.Set(nil)
		_, err := w.Auth.Refresh(t.Context(), tokens.Refresh)
		if after {
			wantCode(t, err, clearbox.CodeTokenReused)
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTicket(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	ticket := func() string {
		t.Helper()
		s, expires, err := w.Auth.Ticket(t.Context(), p)
		if err != nil || expires != clearbox.Millis(w.Clock.Now().Add(30*time.Second).UnixMilli()) {
			t.Fatalf("%d, %v", expires, err)
		}
		return s
	}
	one := ticket()
	got, err := w.Auth.Admit(t.Context(), one)
	if err != nil || got != p {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = w.Auth.Admit(t.Context(), one)
	wantCode(t, err, clearbox.CodeTokenReused)
	if !errors.Is(err, auth.ErrTicketUsed) {
		t.Fatal(err)
	}
	if got, err := w.Auth.Admit(t.Context(), tokens.Access); err != nil || got != p {
		t.Fatalf("the access token: %+v, %v", got, err)
	}
	for _, bad := range []string{"cbt_", "cbt_nonsense", one + "x"} {
		_, err := w.Auth.Admit(t.Context(), bad)
		wantCode(t, err, clearbox.CodeUnauthorized)
	}
	late := ticket()
	w.Clock.Fly(30 * time.Second)
	_, err = w.Auth.RedeemTicket(t.Context(), late)
	wantCode(t, err, clearbox.CodeTokenExpired)

	ended := ticket()
	if err := w.Auth.Logout(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Auth.RedeemTicket(t.Context(), ended); err == nil {
		t.Fatal("a ticket outlived its session")
	}
	if _, _, err = w.Auth.Ticket(t.Context(), p); !errors.Is(err, auth.ErrTokenRevoked) {
		t.Fatalf("a ticket of an ended session: %v", err)
	}
}

func TestTicketsAreBounded(t *testing.T) {
	w := authtest.New(t, unlimited)
	_, tokens := w.Join("alice")
	p := w.Principal(tokens.Access)
	var last string
	for range 8 {
		s, _, err := w.Auth.Ticket(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		last = s
	}
	_, _, err := w.Auth.Ticket(t.Context(), p)
	wantCode(t, err, clearbox.CodeRateLimited)
	if _, err := w.Auth.RedeemTicket(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Auth.Ticket(t.Context(), p); err != nil {
		t.Fatalf("after one was used: %v", err)
	}
	w.Clock.Fly(time.Minute)
	if _, _, err := w.Auth.Ticket(t.Context(), p); err != nil {
		t.Fatalf("after they expired: %v", err)
	}
	if n := w.Auth.Tickets(); n != 1 {
		t.Fatalf("%d tickets are remembered", n)
	}
}

// A device that nobody used for 60 days is cut off, the one that was used last
// never is.
func TestUnusedDevicesAreWithdrawn(t *testing.T) {
	w := authtest.New(t, auth.Options{})
	bob, _ := w.Join("bob")
	lone, _ := w.Join("lone")
	_ = lone
	w.Update(func(tx *storage.Tx) error {
		user, err := tx.UserByUID(bob.User.UID)
		if err != nil {
			return err
		}
		for id := clearbox.DeviceID(2); id <= 3; id++ {
			if err := tx.AddDevice(&storage.DeviceRecord{UserNo: user.No, ID: id, Registration: 9, Key: make([]byte, 32), Name: "x"}); err != nil {
				return err
			}
		}
		return nil
	})
	devices := func(h clearbox.Handle) (ids []clearbox.DeviceID) {
		w.View(func(tx *storage.Tx) error {
			user, err := tx.UserByHandle(h)
			if err != nil {
				return err
			}
			all, err := tx.Devices(user.No)
			for _, d := range all {
				ids = append(ids, d.ID)
			}
			return err
		})
		return ids
	}
	w.Clock.Fly(auth.DeviceLife - 24*time.Hour)
	if err := auth.Sweep(w.Auth, t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := devices("bob"); len(got) != 3 {
		t.Errorf("before their time: %v", got)
	}
	tokens, err := w.Auth.Login(t.Context(), bob.Login(1))
	if err != nil {
		t.Fatal(err)
	}
	w.Clock.Fly(3 * 24 * time.Hour)
	if err := auth.Sweep(w.Auth, t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := devices("bob"); len(got) != 1 || got[0] != 1 {
		t.Errorf("after 62 days: %v", got)
	}
	if got := devices("lone"); len(got) != 1 {
		t.Errorf("somebody's only device: %v", got)
	}
	if _, err := w.Auth.Refresh(t.Context(), tokens.Refresh); err != nil {
		t.Errorf("the device in use: %v", err)
	}
}
