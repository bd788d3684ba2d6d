package storage_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// pointers are mails for devices, all of one length.
func pointers(devices ...int64) []storage.Pointer {
	out := make([]storage.Pointer, len(devices))
	for i, no := range devices {
		out[i] = storage.Pointer{DeviceNo: no, Sealed: sealed("pointer")}
	}
	return out
}

func TestSharedBodies(t *testing.T) {
	w := open(t, func(o *storage.Options) { o.MailboxMails = 3 })
	_, a := w.user("alice")
	_, b := w.user("bob")
	_, c := w.user("carol")
	body := make([]byte, 5000)
	w.update(func(tx *storage.Tx) error {
		for range 3 {
			if _, err := tx.PutMail(b.No, sealed("x"), testStart*2); err != nil {
				return err
			}
		}
		to := pointers(a.No, b.No, c.No, c.No+1000)
		must(t, tx.PutShared(body, to, testStart*2))
		if to[0].Seq != 1 || to[1].Seq != 0 || to[2].Seq != 1 || to[3].Seq != 0 {
			t.Errorf("sequences %+v", to)
		}
		full := pointers(b.No)
		must(t, tx.PutShared(body, full, testStart*2))
		if full[0].Seq != 0 {
			t.Error("a full mailbox took a pointer")
		}
		if err := tx.PutShared(body, pointers(c.No, a.No), testStart*2); err == nil {
			t.Error("devices out of order were taken")
		}
		return tx.PutShared(body, nil, testStart*2)
	})
	w.view(func(tx *storage.Tx) error {
		counts, err := tx.BodyCounts()
		must(t, err)
		if counts != (storage.BodyCounts{Bodies: 1, Pointers: 2, Counted: 2}) {
			t.Errorf("%+v", counts)
		}
		_, bytes, err := tx.MailboxSize(a.No)
		must(t, err)
		if p := pointers(a.No)[0]; bytes != int64(len(body)+len(p.Sealed.Payload)+len(p.Sealed.Wrapped)) {
			t.Errorf("the mailbox counts %d bytes", bytes)
		}
		mails, err := tx.MailAfter(a.No, 0, 10, 1)
		must(t, err)
		got, err := tx.Body(mails[0].Body)
		must(t, err)
		if len(mails) != 1 || len(got) != len(body) {
			t.Errorf("%d mails, a body of %d bytes", len(mails), len(got))
		}
		if _, err := tx.Body(mails[0].Body + 1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("no body: %v", err)
		}
		return nil
	})
	undone := errors.New("undone")
	if err := w.Update(t.Context(), func(tx *storage.Tx) error {
		if _, err := tx.AckMail(a.No, 1); err != nil {
			return err
		}
		return undone
	}); err != undone {
		t.Fatal(err)
	}
	w.update(func(tx *storage.Tx) error {
		_, err := tx.AckMail(c.No, 1)
		return err
	})
	w.view(func(tx *storage.Tx) error {
		if counts, err := tx.BodyCounts(); err != nil || counts != (storage.BodyCounts{Bodies: 1, Pointers: 1, Counted: 1}) {
			t.Errorf("%+v, %v", counts, err)
		}
		return nil
	})
}

// Whatever deletes mail counts down, and in the end nothing is left.
func TestBodiesModel(t *testing.T) {
	w := open(t, func(o *storage.Options) { o.MailboxMails = 40 })
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	type device struct {
		user storage.User
		no   int64
	}
	var devices []device
	for i := range 90 { // more than one statement takes
		u, d := w.user(clearbox.Handle("user" + string(rune('a'+i/26)) + string(rune('a'+i%26))))
		devices = append(devices, device{u, d.No})
	}
	check := func() {
		t.Helper()
		w.view(func(tx *storage.Tx) error {
			c, err := tx.BodyCounts()
			must(t, err)
			wrong, err := tx.Int(`SELECT COUNT(*) FROM mailboxes b WHERE b.bytes <> (SELECT COALESCE(SUM(OCTET_LENGTH(wrapped) + OCTET_LENGTH(payload) + body_size), 0)
				FROM mail WHERE id > b.device_no << 32 AND id < (b.device_no + 1) << 32)`)
			must(t, err)
			if c.Wrong != 0 || c.Pointers != c.Counted || wrong != 0 {
				t.Fatalf("%+v, %d mailboxes counted wrongly", c, wrong)
			}
			return nil
		})
	}
	for step := range 300 {
		w.update(func(tx *storage.Tx) error {
			d := devices[r.IntN(len(devices))]
			switch what := r.IntN(10); {
			case what < 4:
				var to []int64
				for _, d := range devices {
					if r.IntN(3) > 0 {
						to = append(to, d.no)
					}
				}
				return tx.PutShared(make([]byte, r.IntN(9000)), pointers(to...), tx.Now()+clearbox.Millis(r.IntN(100)))
			case what < 5:
				_, err := tx.PutMail(d.no, sealed("x"), tx.Now()+50)
				if errors.Is(err, storage.ErrMailboxFull) || errors.Is(err, storage.ErrNotFound) {
					return nil
				}
				return err
			case what < 8:
				for range 20 {
					d := devices[r.IntN(len(devices))]
					if _, err := tx.AckMail(d.no, int64(r.IntN(60))); err != nil && !errors.Is(err, storage.ErrNotFound) {
						return err
					}
				}
				return nil
			case what < 9:
				_, err := tx.ExpireMail(tx.Now(), 1+r.IntN(100))
				return err
			default:
				if r.IntN(3) > 0 {
					return nil
				}
				_, err := tx.RemoveDevice(d.user.No, 1)
				if errors.Is(err, storage.ErrNotFound) {
					return nil
				}
				return err
			}
		})
		w.now.Add(int64(r.IntN(10)))
		if step%20 == 0 {
			check()
		}
	}
	check()
	w.now.Add(1000)
	w.update(func(tx *storage.Tx) error {
		_, err := tx.ExpireMail(tx.Now(), 1<<20)
		return err
	})
	check()
	w.view(func(tx *storage.Tx) error {
		if c, err := tx.BodyCounts(); err != nil || c != (storage.BodyCounts{}) {
			t.Errorf("left: %+v, %v", c, err)
		}
		return nil
	})
}

// Each change of who has which devices is seen; nothing else is.
func TestPeopleVersion(t *testing.T) {
	w := open(t)
	u, _ := w.user("alice")
	version := func() (n int64) {
		w.view(func(tx *storage.Tx) (err error) {
			n, err = tx.PeopleVersion()
			return err
		})
		return n
	}
	for name, change := range map[string]func(tx *storage.Tx) error{
		"a device": func(tx *storage.Tx) error {
			return tx.AddDevice(&storage.DeviceRecord{UserNo: u.No, ID: 5, Registration: 9, Key: make([]byte, 32)})
		},
		"a ban": func(tx *storage.Tx) error { return tx.SetUserState(u.No, storage.UserBanned) },
		"no device": func(tx *storage.Tx) error {
			_, err := tx.RemoveDevice(u.No, 1)
			return err
		},
	} {
		before := version()
		w.update(change)
		if version() == before {
			t.Errorf("%s is not seen", name)
		}
	}
	before := version()
	w.update(func(tx *storage.Tx) error { return tx.SetRole(u.No, storage.RoleAdmin) })
	if version() != before {
		t.Error("a role is seen")
	}
}
