package storage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox/storage"
)

// TestFailureTable makes each durable step of a commit fail once, before it
// happened and after it, while eight messages share the commit and a ninth
// update fails by itself. Callers whose update failed repeat it under the same
// id. Then: was a message that was answered lost, is one there twice, and how
// many callers had to repeat?
//
// The commit is where the log is written and synced: "commit before" is a sync
// that failed with nothing kept, "commit after" one whose success was not heard.
func TestFailureTable(t *testing.T) {
	for _, row := range []struct {
		step             storage.FaultStep
		nth              int // which occurrence fails
		after            bool
		lost, duplicated int
		retried          int
	}{
		{storage.FaultBegin, 1, false, 0, 0, 8},
		{storage.FaultBegin, 1, true, 0, 0, 8},
		{storage.FaultStatement, 1, false, 0, 0, 1}, // first of the commit: undone alone
		{storage.FaultStatement, 1, true, 0, 0, 1},
		{storage.FaultStatement, 2, false, 0, 0, 1},
		{storage.FaultStatement, 3, true, 0, 0, 1},
		{storage.FaultStatement, 8, false, 0, 0, 0}, // later: the batch runs again with savepoints
		{storage.FaultStatement, 8, true, 0, 0, 0},
		{storage.FaultSavepoint, 1, false, 0, 0, 1},
		{storage.FaultSavepoint, 1, true, 0, 0, 1},
		{storage.FaultSavepoint, 4, false, 0, 0, 1},
		{storage.FaultRelease, 1, false, 0, 0, 0}, // each runs again in a commit of its own
		{storage.FaultRelease, 1, true, 0, 0, 0},
		{storage.FaultRelease, 4, true, 0, 0, 0},
		{storage.FaultRollback, 1, false, 0, 0, 0}, // the connection is replaced
		{storage.FaultRollback, 1, true, 0, 0, 0},
		{storage.FaultRollback, 2, false, 0, 0, 0},
		{storage.FaultRollback, 2, true, 0, 0, 0},
		{storage.FaultCommit, 1, false, 0, 0, 8},
		{storage.FaultCommit, 1, true, 0, 0, 8}, // kept, but the callers cannot know
	} {
		when := "before"
		if row.after {
			when = "after"
		}
		t.Run(fmt.Sprintf("%s %d %s", row.step, row.nth, when), func(t *testing.T) {
			f := &storage.Faults{}
			w := open(t, func(o *storage.Options) { o.Faults = f })
			lost, duplicated, retried := failOnce(t, w, f, row.step, row.nth, row.after)
			if lost != row.lost || duplicated != row.duplicated || retried != row.retried {
				t.Errorf("lost %d, duplicated %d, retried %d; want %d, %d, %d", lost, duplicated, retried, row.lost, row.duplicated, row.retried)
			}
			must(t, w.Check(t.Context()))
		})
	}
}

func failOnce(t *testing.T, w *world, f *storage.Faults, step storage.FaultStep, nth int, after bool) (lost, duplicated, retried int) {
	const messages = 8
	u, d := w.user("alice")
	mine := errors.New("mine")
	seen, fired := 0, false
	hook := func(s storage.FaultStep, a bool, _ string) error {
		if s != step || a != after || fired {
			return nil
		}
		if seen++; seen < nth {
			return nil
		}
		fired = true
		return fmt.Errorf("%w: injected", storage.ErrIO)
	}
	send := func(i int) error {
		return w.Update(context.Background(), func(tx *storage.Tx) error {
			err := tx.PutSubmission(&storage.Submission{UserNo: u.No, ID: messageID(i), Expires: testStart * 2})
			if errors.Is(err, storage.ErrExists) {
				return nil // it was kept the first time
			}
			if err != nil {
				return err
			}
			_, err = tx.PutMail(d.No, sealed(fmt.Sprint("message ", i)), testStart*2)
			return err
		})
	}
	// The writer is held at the end of an empty transaction until all stand in
	// the queue, so that they share the next.
	began, gate := make(chan struct{}), make(chan struct{})
	held := false
	f.Set(func(s storage.FaultStep, after bool, _ string) error {
		switch {
		case s != storage.FaultRollback:
		case after:
			f.Set(hook)
		case !held:
			held = true
			close(began)
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { must(t, w.Update(context.Background(), func(*storage.Tx) error { return nil })) })
	<-began
	var mu sync.Mutex
	failed := map[int]bool{}
	queued := 0
	enqueue := func(run func()) {
		wg.Go(run)
		for queued++; w.Stats().Waiting < int64(queued); runtime.Gosched() {
		}
	}
	for i := range messages {
		enqueue(func() {
			if err := send(i); err != nil {
				mu.Lock()
				failed[i] = true
				mu.Unlock()
			}
		})
		if i == 4 { // changes something, then fails
			enqueue(func() {
				err := w.Update(context.Background(), func(tx *storage.Tx) error {
					if _, err := tx.PutMail(d.No, sealed("never"), testStart*2); err != nil {
						return err
					}
					return mine
				})
				if err == nil {
					t.Error("the failing update was kept")
				}
			})
		}
	}
	close(gate)
	wg.Wait()
	f.Set(nil)
	if !fired {
		t.Error("the step did not happen")
	}
	for i := range failed {
		retried++
		must(t, send(i))
	}
	w.reopen()
	w.view(func(tx *storage.Tx) error {
		ms, err := tx.MailAfter(d.No, 0, 100, 1<<20)
		must(t, err)
		count := map[string]int{}
		for i, m := range ms {
			count[string(m.Sealed.Payload)]++
			if m.Seq != int64(i)+1 {
				t.Errorf("mail %d has sequence %d", i, m.Seq)
			}
		}
		for i := range messages {
			switch n := count[fmt.Sprint("message ", i)]; {
			case n == 0:
				lost++
			case n > 1:
				duplicated++
			}
		}
		if count["never"] != 0 {
			t.Error("an update that failed was kept")
		}
		if n, _, _ := tx.MailboxSize(d.No); int(n) != len(ms) {
			t.Errorf("the counter says %d, there are %d", n, len(ms))
		}
		return nil
	})
	return lost, duplicated, retried
}

// TestBrokenConnectionIsReplaced: nothing works for a while, then all does.
func TestBrokenConnectionIsReplaced(t *testing.T) {
	f := &storage.Faults{}
	w := open(t, func(o *storage.Options) { o.Faults = f })
	_, d := w.user("alice")
	put := func() error {
		return w.Update(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutMail(d.No, sealed("x"), testStart*2)
			return err
		})
	}
	f.Set(func(step storage.FaultStep, after bool, query string) error { return storage.ErrIO })
	for range 3 {
		if err := put(); !errors.Is(err, storage.ErrIO) {
			t.Errorf("got %v", err)
		}
	}
	f.Set(func(step storage.FaultStep, _ bool, query string) error {
		if strings.HasPrefix(query, "INSERT INTO mail ") {
			return storage.ErrFull
		}
		return nil
	})
	if err := put(); !errors.Is(err, storage.ErrFull) {
		t.Errorf("got %v", err)
	}
	f.Set(nil)
	must(t, put())
	must(t, w.Check(t.Context()))
}
