package storage_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// fails runs fn in an update and expects an error.
func (w *world) fails(what string, want error, fn func(tx *storage.Tx) error) error {
	w.t.Helper()
	err := w.Update(context.Background(), fn)
	if !errors.Is(err, want) {
		w.t.Errorf("%s: got %v, want %v", what, err, want)
	}
	return err
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func TestUsers(t *testing.T) {
	w := open(t)
	alice, _ := w.user("alice")
	bob, _ := w.user("bob")
	var exists *storage.ExistsError
	for field, u := range map[string]storage.User{
		"handle": {UID: "cccccccccccccccccccccccccc", Key: alice.Key, Handle: "alice"},
		"uid":    {UID: alice.UID, Key: alice.Key, Handle: "carol"},
	} {
		err := w.fails("a taken "+field, storage.ErrExists, func(tx *storage.Tx) error { return tx.CreateUser(&u) })
		if !errors.As(err, &exists) || exists.Field != field || clearbox.CodeOf(err) != clearbox.CodeConflict {
			t.Errorf("a taken %s: %#v", field, err)
		}
	}
	if w.Update(t.Context(), func(tx *storage.Tx) error {
		return tx.CreateUser(&storage.User{UID: "dddddddddddddddddddddddddd", Handle: "d"})
	}) == nil {
		t.Error("a user without a key was stored")
	}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetRole(bob.No, storage.RoleModerator))
		must(t, tx.SetUserState(bob.No, storage.UserBanned))
		must(t, tx.SetPassword(bob.No, "$new"))
		return tx.SetDeviceList(bob.No, []byte("two"), 2)
	})
	w.fails("nobody's role", storage.ErrNotFound, func(tx *storage.Tx) error { return tx.SetRole(99, storage.RoleAdmin) })
	w.view(func(tx *storage.Tx) error {
		got, err := tx.UserByUID(bob.UID)
		must(t, err)
		want := bob
		want.Role, want.State, want.Password, want.DeviceList, want.DevicesVersion = storage.RoleModerator, storage.UserBanned, "$new", []byte("two"), 2
		same(t, "bob", got, want)
		page, err := tx.ListUsers(alice.No, 10)
		must(t, err)
		same(t, "a page of users", page, []storage.User{want})
		n, err := tx.CountUsers()
		must(t, err)
		same(t, "count", n, 2)
		r, err := tx.Recipient(bob.UID)
		must(t, err)
		same(t, "recipient", r, storage.Recipient{No: bob.No, Key: bob.Key, State: storage.UserBanned, DevicesVersion: 2,
			Devices: []storage.RecipientDevice{{No: 2, ID: 1, Registration: 77}}})
		if _, err := tx.Recipient("none"); err != storage.ErrNotFound {
			t.Errorf("nobody as recipient: %v", err)
		}
		return nil
	})
	// An erased name is free and finds nobody.
	w.update(func(tx *storage.Tx) error { return tx.SetUserState(bob.No, storage.UserErased) })
	w.view(func(tx *storage.Tx) error {
		if _, err := tx.UserByHandle("bob"); err != storage.ErrNotFound {
			t.Errorf("an erased user was found: %v", err)
		}
		return nil
	})
	w.user("bob")
}

func TestResets(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	put := func(hash string) {
		w.update(func(tx *storage.Tx) error { return tx.PutReset(u.No, []byte(hash), tx.Now()+1000) })
	}
	use := func(hash string) error {
		return w.Update(t.Context(), func(tx *storage.Tx) error {
			no, err := tx.UseReset([]byte(hash))
			if err == nil && no != u.No {
				t.Errorf("reset of user %d", no)
			}
			return err
		})
	}
	put("one")
	put("two")
	same(t, "a replaced code", use("one"), storage.ErrNotFound)
	same(t, "the code", use("two"), nil)
	same(t, "the code again", use("two"), storage.ErrNotFound)
	put("three")
	w.advance(time.Second)
	same(t, "an old code", use("three"), storage.ErrNotFound)
}

func TestDevices(t *testing.T) {
	w := open(t)
	u, d := w.user("alice")
	err := w.fails("a second device 1", storage.ErrExists, func(tx *storage.Tx) error { return tx.AddDevice(&storage.DeviceRecord{UserNo: u.No, ID: 1}) })
	if !strings.Contains(err.Error(), "device") {
		t.Error(err)
	}
	w.update(func(tx *storage.Tx) error {
		must(t, tx.TouchDevice(d.No, 86_400_000))
		must(t, tx.CreateSession(&storage.Session{ID: "s", UserNo: u.No, DeviceNo: d.No, Expires: testStart * 2}))
		must(t, tx.PutSignedPreKeys(d.No, storage.PreKey{ID: 1}, storage.PreKey{ID: 2}))
		_, err := tx.PutMail(d.No, sealed("x"), testStart*2)
		return err
	})
	w.update(func(tx *storage.Tx) error {
		ids, err := tx.RemoveDevice(u.No, 1)
		same(t, "revoked sessions", ids, []string{"s"})
		return err
	})
	w.view(func(tx *storage.Tx) error {
		for _, table := range []string{"mail", "mailboxes", "signed_prekeys", "one_time_prekeys"} {
			if n, err := tx.Int("SELECT COUNT(*) FROM " + table); n != 0 || err != nil {
				t.Errorf("%d rows are left in %s, %v", n, table, err)
			}
		}
		ds, err := tx.Devices(u.No)
		same(t, "devices", len(ds), 0)
		return err
	})
	// The id may be taken again; the number is another.
	again := storage.DeviceRecord{UserNo: u.No, ID: 1, Name: "new phone"}
	w.update(func(tx *storage.Tx) error { return tx.AddDevice(&again) })
	if again.No == d.No {
		t.Error("a device number was given twice")
	}
	w.view(func(tx *storage.Tx) error {
		got, err := tx.DeviceByNo(again.No)
		same(t, "name", got.Name, "new phone")
		return err
	})
}

func keys(from, n int) (out []storage.PreKey) {
	for i := range n {
		out = append(out, storage.PreKey{ID: uint32(from + i), Public: []byte{byte(from + i)}, Signature: []byte("s")})
	}
	return out
}

func TestPreKeys(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	take := func(oneTime bool, reserve int) (kem storage.PreKey, one *storage.PreKey) {
		w.update(func(tx *storage.Tx) (err error) {
			_, kem, one, err = tx.TakePreKeys(d.No, oneTime, reserve)
			return err
		})
		return kem, one
	}
	w.fails("no keys yet", storage.ErrNotFound, func(tx *storage.Tx) error { _, _, _, err := tx.TakePreKeys(d.No, true, 0); return err })
	signed, last := storage.PreKey{ID: 7, Public: []byte("ec"), Signature: []byte("1")}, storage.PreKey{ID: 1000, Public: []byte("kem"), Signature: []byte("2")}
	w.update(func(tx *storage.Tx) error { return tx.PutSignedPreKeys(d.No, signed, last) })
	kem, one := take(true, 0)
	same(t, "without one-time keys", []any{kem, one}, []any{last, (*storage.PreKey)(nil)})
	w.update(func(tx *storage.Tx) error { return tx.AddOneTimePreKeys(d.No, keys(1, 100), keys(500, 30)) })
	w.update(func(tx *storage.Tx) error { return tx.AddOneTimePreKeys(d.No, keys(1, 100), keys(500, 30)) }) // repeated
	w.fails("one too many", storage.ErrQuota, func(tx *storage.Tx) error { return tx.AddOneTimePreKeys(d.No, keys(200, 1), nil) })
	kem, one = take(false, 0)
	same(t, "no one-time keys wanted", []any{kem, one}, []any{last, (*storage.PreKey)(nil)})
	kem, one = take(true, 20)
	same(t, "the first", []any{kem.ID, one.ID}, []any{uint32(500), uint32(1)})

	// A crowd takes what is above the reserve, each key once.
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[uint32]int{}
	for range 150 {
		wg.Go(func() {
			_, one := take(true, 20)
			mu.Lock()
			defer mu.Unlock()
			if one != nil {
				taken[one.ID]++
			}
		})
	}
	wg.Wait()
	if len(taken) != 79 {
		t.Errorf("%d keys were taken, want 79", len(taken))
	}
	for id, n := range taken {
		if n != 1 {
			t.Errorf("key %d was given %d times", id, n)
		}
	}
	w.view(func(tx *storage.Tx) error {
		ec, kem, err := tx.PreKeyCounts(d.No)
		same(t, "left", [2]int{ec, kem}, [2]int{20, 20})
		return err
	})
	if _, one := take(true, 0); one == nil {
		t.Error("the reserve was not given")
	}
	w.update(func(tx *storage.Tx) error { return tx.ClearOneTimePreKeys(d.No) })
	if kem, one := take(true, 0); one != nil || kem.ID != last.ID {
		t.Error("a cleared key was given")
	}
}

func TestClaims(t *testing.T) {
	w := open(t)
	w.update(func(tx *storage.Tx) error { return tx.PutClaim("c", "b.test", 1, []byte("answer"), tx.Now()+1000) })
	w.fails("the same claim", storage.ErrExists, func(tx *storage.Tx) error { return tx.PutClaim("c", "b.test", 1, []byte("other"), tx.Now()+1000) })
	claim := func(id string, peer clearbox.ServerName) (answer string, err error) {
		err = w.View(t.Context(), func(tx *storage.Tx) error {
			b, _, err := tx.Claim(id, peer)
			answer = string(b)
			return err
		})
		return answer, err
	}
	if a, err := claim("c", "b.test"); a != "answer" || err != nil {
		t.Error(a, err)
	}
	if _, err := claim("c", "c.test"); err != storage.ErrNotFound {
		t.Error("another peer's claim was answered")
	}
	w.advance(time.Second)
	if _, err := claim("c", "b.test"); err != storage.ErrNotFound {
		t.Error("an old claim was answered")
	}
	w.update(func(tx *storage.Tx) error {
		n, err := tx.ExpireClaims(tx.Now(), 10)
		same(t, "expired", n, 1)
		return err
	})
}

func TestSessions(t *testing.T) {
	w := open(t)
	u, d := w.user("alice")
	w.update(func(tx *storage.Tx) error {
		for i, id := range []string{"one", "two", "three"} {
			must(t, tx.CreateSession(&storage.Session{ID: id, UserNo: u.No, DeviceNo: d.No * int64(i%2), Expires: tx.Now() + 10_000}))
			must(t, tx.PutRefresh([]byte("token "+id), id, tx.Now()+10_000))
		}
		return nil
	})
	w.fails("the same id", storage.ErrExists, func(tx *storage.Tx) error { return tx.CreateSession(&storage.Session{ID: "one"}) })
	use := func(token string) (s storage.Session, reused bool, err error) {
		err = w.Update(t.Context(), func(tx *storage.Tx) (err error) {
			s, reused, err = tx.UseRefresh([]byte(token))
			return err
		})
		return s, reused, err
	}
	for _, want := range []bool{false, true, true} {
		s, reused, err := use("token one")
		same(t, "refresh", []any{s.ID, reused, err}, []any{"one", want, error(nil)})
	}
	if _, _, err := use("token none"); err != storage.ErrNotFound {
		t.Error("an unknown token was accepted")
	}
	ended := func(fn func(tx *storage.Tx) ([]string, error)) (ids []string) {
		w.update(func(tx *storage.Tx) (err error) {
			ids, err = fn(tx)
			return err
		})
		slices.Sort(ids)
		return ids
	}
	same(t, "one device", ended(func(tx *storage.Tx) ([]string, error) { return tx.RevokeDeviceSessions(d.No) }), []string{"two"})
	same(t, "all but one", ended(func(tx *storage.Tx) ([]string, error) { return tx.RevokeSessions(u.No, "one") }), []string{"three"})
	same(t, "the last", ended(func(tx *storage.Tx) ([]string, error) { return tx.RevokeSession("one") }), []string{"one"})
	same(t, "again", ended(func(tx *storage.Tx) ([]string, error) { return tx.RevokeSession("one") }), nil)
	w.view(func(tx *storage.Tx) error {
		s, err := tx.Session("two")
		if s.Revoked == 0 || s.DeviceNo != d.No {
			t.Errorf("%+v", s)
		}
		alive, _ := tx.Sessions(u.No)
		same(t, "alive", len(alive), 0)
		return err
	})
	w.advance(time.Minute)
	if _, _, err := use("token two"); err != storage.ErrNotFound {
		t.Error("an old token was accepted")
	}
	w.update(func(tx *storage.Tx) error {
		n, err := tx.ExpireSessions(tx.Now(), 2)
		same(t, "expired", n, 2)
		left, _ := tx.Int("SELECT COUNT(*) FROM refresh_tokens")
		same(t, "tokens left", left, 1)
		return err
	})
}

func TestInvites(t *testing.T) {
	w := open(t)
	w.update(func(tx *storage.Tx) error {
		for i := range 4 {
			must(t, tx.CreateInvite(&storage.Invite{ID: fmt.Sprint(i), Hash: []byte{byte(i)}, Role: storage.RoleMember, For: "dora", Expires: tx.Now() + 1000}))
		}
		return tx.RevokeInvite("1")
	})
	use := func(i byte) error {
		return w.Update(t.Context(), func(tx *storage.Tx) error {
			v, err := tx.UseInvite([]byte{i}, 5)
			if err == nil && (v.For != "dora" || v.UsedBy != 5 || v.Used == 0) {
				t.Errorf("%+v", v)
			}
			return err
		})
	}
	same(t, "good", use(0), nil)
	same(t, "used", use(0), storage.ErrNotFound)
	same(t, "revoked", use(1), storage.ErrNotFound)
	same(t, "unknown", use(9), storage.ErrNotFound)
	// A registration that fails gives the invite back.
	mine := errors.New("mine")
	w.fails("registration", mine, func(tx *storage.Tx) error {
		if _, err := tx.UseInvite([]byte{2}, 6); err != nil {
			return err
		}
		return mine
	})
	same(t, "given back", use(2), nil)
	w.advance(time.Second)
	same(t, "expired", use(3), storage.ErrNotFound)
	w.fails("revoke a used one", storage.ErrNotFound, func(tx *storage.Tx) error { return tx.RevokeInvite("0") })
	w.view(func(tx *storage.Tx) error {
		vs, err := tx.Invites("0", 2)
		same(t, "a page", len(vs), 2)
		same(t, "its first", vs[0].ID, "1")
		return err
	})
}

func TestConsentsAndNotices(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	put := func(purpose string, a storage.ConsentAction) {
		w.update(func(tx *storage.Tx) error {
			return tx.PutConsent(u.No, storage.Consent{Purpose: purpose, NoticeVersion: "1", NoticeHash: []byte("h"), Language: "de", Action: a})
		})
	}
	has := func(purpose string) (ok bool) {
		w.view(func(tx *storage.Tx) (err error) {
			ok, err = tx.HasConsent(u.No, purpose)
			return err
		})
		return ok
	}
	same(t, "off at the start", has("presence"), false)
	put("presence", storage.ConsentGranted)
	put("archive", storage.ConsentGranted)
	same(t, "granted", has("presence"), true)
	put("presence", storage.ConsentWithdrawn)
	same(t, "withdrawn", has("presence"), false)
	same(t, "the other", has("archive"), true)
	w.update(func(tx *storage.Tx) error { return tx.PutNoticeAck(u.No, "2", []byte("hash")) })
	w.view(func(tx *storage.Tx) error {
		cs, err := tx.Consents(u.No)
		must(t, err)
		same(t, "latest", []any{len(cs), cs[0].Purpose, cs[1].Action}, []any{2, "archive", storage.ConsentWithdrawn})
		all, err := tx.ConsentHistory(u.No)
		same(t, "all", len(all), 3)
		got, _ := tx.UserByNo(u.No)
		same(t, "notice", got.NoticeVersion, "2")
		return err
	})
}

func TestAuditGoesWithTheDeed(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	mine := errors.New("mine")
	w.fails("a deed that fails", mine, func(tx *storage.Tx) error {
		must(t, tx.Audit(storage.AuditEntry{Action: "user.ban", ObjectNo: u.No}))
		return mine
	})
	w.update(func(tx *storage.Tx) error {
		must(t, tx.SetUserState(u.No, storage.UserBanned))
		return tx.Audit(storage.AuditEntry{ActorNo: 3, Role: storage.RoleAdmin, Action: "user.ban", ObjectNo: u.No, Purpose: "case 7"})
	})
	w.view(func(tx *storage.Tx) error {
		es, err := tx.AuditEntries(0, 10)
		same(t, "entries", es, []storage.AuditEntry{{No: 1, At: testStart, ActorNo: 3, Role: storage.RoleAdmin, Action: "user.ban", ObjectNo: u.No, Purpose: "case 7"}})
		return err
	})
}
