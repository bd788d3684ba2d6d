package storage_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CLEARBOX_TEST_SECOND"); path != "" {
		second(path)
	}
	// TestModel: few long runs find more than many short ones. The command line
	// overrides this.
	for name, value := range map[string]string{"rapid.checks": "6", "rapid.steps": "100"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

func TestUpdateIsDurableAndVisible(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	w.update(func(tx *storage.Tx) error {
		_, err := tx.PutMail(d.No, sealed("hello"), testStart*2)
		return err
	})
	for range 2 {
		w.view(func(tx *storage.Tx) error {
			u, err := tx.UserByHandle("alice")
			if err != nil || u.Password != "$argon2id$" || string(u.DeviceList) != "list" {
				t.Errorf("user %+v, %v", u, err)
			}
			ms, err := tx.MailAfter(d.No, 0, 10, 1<<20)
			if err != nil || len(ms) != 1 || string(ms[0].Sealed.Payload) != "hello" || ms[0].Seq != 1 {
				t.Errorf("mail %v, %v", ms, err)
			}
			return nil
		})
		w.reopen()
	}
	must(t, w.Check(t.Context()))
	must(t, w.Ping(t.Context()))
	files, err := filepath.Glob("schema/sqlite/*.sql")
	must(t, err)
	newest := filepath.Base(slices.Max(files))
	if v, err := w.SchemaVersion(t.Context()); err != nil || fmt.Sprintf("%05d", v) != newest[:5] {
		t.Errorf("schema %d, %v, newest %s", v, err, newest)
	}
}

func TestFailedUpdateLeavesNothing(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	mine := errors.New("mine")
	err := w.Update(t.Context(), func(tx *storage.Tx) error {
		if _, err := tx.PutMail(d.No, sealed("gone"), testStart*2); err != nil {
			return err
		}
		return mine
	})
	if err != mine {
		t.Errorf("got %v", err)
	}
	w.view(func(tx *storage.Tx) error {
		n, _, err := tx.MailboxSize(d.No)
		if n != 0 || err != nil {
			t.Errorf("%d mails, %v", n, err)
		}
		return nil
	})
}

// TestBatchKeepsTheInnocent runs many updates at once of which some fail before
// writing, some after, and some panic: exactly the others are kept.
func TestBatchKeepsTheInnocent(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	mine := errors.New("mine")
	var wg sync.WaitGroup
	var kept atomic.Int64
	for i := range 400 {
		wg.Go(func() {
			defer func() {
				v := recover()
				if (v != nil) != (i%10 == 3) {
					t.Errorf("update %d: panic %v", i, v)
				}
				if v != nil && v.(*storage.PanicError).Value != "boom" {
					t.Errorf("update %d: panic %v", i, v)
				}
			}()
			err := w.Update(context.Background(), func(tx *storage.Tx) error {
				if i%10 == 1 {
					return mine
				}
				if _, err := tx.PutMail(d.No, sealed("x"), testStart*2); err != nil {
					return err
				}
				switch i % 10 {
				case 2:
					return mine
				case 3:
					panic("boom")
				}
				return nil
			})
			switch {
			case i%10 == 1 || i%10 == 2:
				if err != mine {
					t.Errorf("update %d: %v", i, err)
				}
			case err == nil:
				kept.Add(1)
			default:
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	w.view(func(tx *storage.Tx) error {
		n, _, err := tx.MailboxSize(d.No)
		must(t, err)
		rows, err := tx.Int("SELECT COUNT(*) FROM mail")
		must(t, err)
		if n != kept.Load() || rows != n || n != 280 {
			t.Errorf("counted %d, stored %d, answered %d, want 280", n, rows, kept.Load())
		}
		return nil
	})
	if st := w.Stats(); st.Commits >= st.Updates || st.RolledBack != 120 {
		t.Errorf("no commit was shared, or the count is wrong: %+v", st)
	}
}

func TestPoisonedUpdateIsNotKept(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	err := w.Update(t.Context(), func(tx *storage.Tx) error {
		if _, err := tx.PutMail(d.No, sealed("x"), testStart*2); err != nil {
			return err
		}
		// A key that exists already: the statement fails, and fn goes on.
		tx.PutReset(1, []byte("hash"), testStart*2)
		tx.PutReset(2, []byte("hash"), testStart*2)
		return nil
	})
	if err == nil {
		t.Error("an update with a failed statement was kept")
	}
	w.view(func(tx *storage.Tx) error {
		if n, _, _ := tx.MailboxSize(d.No); n != 0 {
			t.Errorf("%d mails", n)
		}
		return nil
	})
}

func TestGoexitInUpdate(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	err := w.Update(t.Context(), func(tx *storage.Tx) error {
		tx.PutMail(d.No, sealed("x"), testStart*2)
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("an update that ended its goroutine was kept")
	}
	w.update(func(tx *storage.Tx) error {
		n, _, err := tx.MailboxSize(d.No)
		if n != 0 {
			t.Errorf("%d mails", n)
		}
		return err
	})
}

func TestViewCannotWrite(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	err := w.View(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.PutMail(d.No, sealed("x"), testStart*2)
		return err
	})
	if err == nil {
		t.Error("a view wrote")
	}
	err = w.View(t.Context(), func(tx *storage.Tx) error { return tx.Exec("DELETE FROM users") })
	if err == nil {
		t.Error("a view's connection wrote")
	}
}

func TestViewSurvivesPanic(t *testing.T) {
	w := open(t, func(o *storage.Options) { o.Readers = 1 })
	func() {
		defer func() { recover() }()
		w.View(t.Context(), func(*storage.Tx) error { panic("boom") })
	}()
	must(t, w.Ping(t.Context()))
}

func TestContextWithdrawsAWaitingUpdate(t *testing.T) {
	w := open(t)
	began, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		must(t, w.Update(context.Background(), func(tx *storage.Tx) error {
			close(began)
			<-release
			return nil
		}))
	})
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	ran := false
	answer := make(chan error)
	wg.Go(func() { answer <- w.Update(ctx, func(tx *storage.Tx) error { ran = true; return nil }) })
	for w.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	cancel()
	// It is answered while the first still holds the writer.
	if err := <-answer; err != context.Canceled {
		t.Errorf("got %v", err)
	}
	close(release)
	wg.Wait()
	w.update(func(*storage.Tx) error { return nil })
	if ran {
		t.Error("a withdrawn update ran")
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	w := open(t)
	must(t, w.Store.Close())
	if err := w.Update(t.Context(), func(*storage.Tx) error { return nil }); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("update: %v", err)
	}
	if err := w.Ping(t.Context()); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("view: %v", err)
	}
	must(t, w.Store.Close())
	w.Store = nil
	w.reopen()
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	w := open(t)
	w.update(func(tx *storage.Tx) error {
		return tx.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
	})
	must(t, w.Store.Close())
	_, err := storage.Open(t.Context(), w.opts)
	if !errors.Is(err, storage.ErrNewerSchema) || !strings.Contains(err.Error(), "later release") {
		t.Errorf("got %v", err)
	}
	// It can be opened by no one else's leftovers: the lock was given back.
	if _, err := storage.Open(t.Context(), w.opts); errors.Is(err, storage.ErrInUse) {
		t.Error("a refused open kept the lock")
	}
	w.Store = nil
	must(t, os.Remove(w.path))
	w.reopen()
}

func TestSecondOpenerIsRefused(t *testing.T) {
	w := open(t)
	if _, err := storage.Open(t.Context(), w.opts); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("the same process: %v", err)
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CLEARBOX_TEST_SECOND="+w.path)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another process") {
		t.Errorf("another process: %v\n%s", err, out)
	}
}

// second is the other process of TestSecondOpenerIsRefused.
func second(path string) {
	index := func(string, []byte) []byte { return nil }
	_, err := storage.Open(context.Background(), storage.Options{Path: path, Sealer: plainSealer{}, Index: index})
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// plainSealer protects nothing.
type plainSealer struct{}

func (plainSealer) Seal(_ storage.KeyID, _ string, _, p []byte) ([]byte, error) {
	return bytes.Clone(p), nil
}
func (plainSealer) Open(_ storage.KeyID, _ string, _, p []byte) ([]byte, error) {
	return bytes.Clone(p), nil
}

func TestFilesAreTheOwnersOnly(t *testing.T) {
	w := open(t)
	w.user("alice")
	err := filepath.WalkDir(filepath.Dir(w.path), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", filepath.Base(path), fi.Mode())
		}
		return err
	})
	must(t, err)
}

func TestFullDiskAndBack(t *testing.T) {
	w := open(t)
	_, d := w.user("alice")
	// The database refuses to grow, as it does without space.
	limit := func(pages int) {
		w.update(func(tx *storage.Tx) error { return tx.Exec("PRAGMA max_page_count(" + itoa(pages) + ")") })
	}
	limit(120)
	big := storage.Sealed{Payload: make([]byte, 40_000), Wrapped: []byte("w")}
	put := func() error {
		return w.Update(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutMail(d.No, big, testStart*2)
			return err
		})
	}
	stored := int64(0)
	var err error
	for err == nil {
		if err = put(); err == nil {
			stored++
		}
	}
	if !errors.Is(err, storage.ErrFull) || clearbox.CodeOf(err) != clearbox.CodeStoreFull {
		t.Fatalf("got %v", err)
	}
	size := func() (n int64) {
		w.view(func(tx *storage.Tx) (err error) {
			n, _, err = tx.MailboxSize(d.No)
			return err
		})
		return n
	}
	if size() != stored {
		t.Errorf("%d mails, %d were answered", size(), stored)
	}
	must(t, w.Check(t.Context()))
	// Small updates in the same commit as one that does not fit are kept.
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if i%4 == 0 {
				if err := put(); !errors.Is(err, storage.ErrFull) {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, w.Update(context.Background(), func(tx *storage.Tx) error { return tx.TouchDevice(d.No, clearbox.Millis(i)) }))
		})
	}
	wg.Wait()
	limit(100_000)
	must(t, put())
	if size() != stored+1 {
		t.Errorf("%d mails", size())
	}
}

// TestInBubble: the store opens, works and closes inside a synctest bubble, and
// its clock is the bubble's.
func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, func(o *storage.Options) { o.Now = time.Now })
		_, d := w.user("alice")
		before := time.Now()
		time.Sleep(time.Hour)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				must(t, w.Update(context.Background(), func(tx *storage.Tx) error {
					if got := time.UnixMilli(int64(tx.Now())).Sub(before); got != time.Hour {
						t.Errorf("an hour is %v", got)
					}
					_, err := tx.PutMail(d.No, sealed("x"), tx.Now()+1000)
					return err
				}))
			})
		}
		wg.Wait()
		synctest.Wait()
		w.view(func(tx *storage.Tx) error {
			ms, err := tx.MailAfter(d.No, 0, 100, 1<<20)
			if len(ms) != 20 {
				t.Errorf("%d mails", len(ms))
			}
			return err
		})
	})
}

func TestLogStaysBounded(t *testing.T) {
	w := open(t, func(o *storage.Options) { o.LogPages = 200 })
	_, d := w.user("alice")
	payload := storage.Sealed{Payload: make([]byte, 4000), Wrapped: []byte("w")}
	for range 12 {
		w.update(func(tx *storage.Tx) error {
			for range 100 {
				if _, err := tx.PutMail(d.No, payload, testStart*2); err != nil {
					return err
				}
			}
			return nil
		})
	}
	// One commit beyond the limit fits: 1,200 mails went through.
	if got := w.Stats().WALBytes; got == 0 || got > 4<<20 {
		t.Errorf("the log has %d bytes", got)
	}
}

func TestPositional(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT $1, $2":                      "SELECT ?, ?",
		"SELECT $2, $1":                      "SELECT $2, $1",
		"SELECT $1, $1":                      "SELECT $1, $1",
		"SELECT 1":                           "SELECT 1",
		"$1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11": "? ? ? ? ? ? ? ? ? ? ?",
	} {
		if got := storage.Positional(query); got != want {
			t.Errorf("%q became %q", query, got)
		}
	}
}
