package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Group commit. One goroutine owns the writing connection. It takes the updates
// that wait, runs them one after the other in one transaction, syncs once and
// answers all of them. A sync takes 0.2 ms and a small update 0.03 ms, so under
// load the price of durability is shared and alone it is not delayed.
//
// One update must be undone without the others. Savepoints do that, but cost a
// tenth of the time (two statements, and a copy of every page touched), while
// an update that has changed something and then fails is rare: refusals come
// from reads. So a batch first runs without savepoints. If one of its updates
// must be undone, the transaction is rolled back and runs again with them, as
// do the next carefulBatches, so that nobody can make every batch run twice.

// update is one waiting call of Store.Update.
type update struct {
	fn    func(*Tx) error
	state atomic.Int32 // waiting, taken, withdrawn
	done  chan error   // capacity 1: the writer never waits for a caller
	err   error        // of fn, while its transaction is open
	panic *panicked
}

const (
	waiting = iota
	taken
	withdrawn
)

// panicked carries a panic of fn to the goroutine that asked for it.
type panicked struct {
	value any
	stack []byte
}

// PanicError is what Update panics with when fn panicked: the value, and where
// it happened, which was on the writer's goroutine.
type PanicError struct {
	Value any
	Stack []byte
}

// Error prints both.
func (p *PanicError) Error() string {
	return fmt.Sprintf("%v\n\nwhile updating:\n%s", p.Value, p.Stack)
}

// queue holds the updates that wait.
type queue struct {
	mu       sync.Mutex // guards waiting and shut
	waiting  []*update
	shut     bool
	wake     chan struct{} // capacity 1: "look again"
	closeErr error         // written by the writer before it ends
}

func (q *queue) put(u *update) bool {
	q.mu.Lock()
	if q.shut {
		q.mu.Unlock()
		return false
	}
	q.waiting = append(q.waiting, u)
	first := len(q.waiting) == 1
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves up to n updates that were not withdrawn to into.
func (q *queue) take(into []*update, n int) []*update {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := 0
	for ; i < len(q.waiting) && len(into) < n; i++ {
		if q.waiting[i].state.CompareAndSwap(waiting, taken) {
			into = append(into, q.waiting[i])
		}
	}
	rest := copy(q.waiting, q.waiting[i:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	return into
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

func (q *queue) close() {
	q.mu.Lock()
	q.shut = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue) isShut() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.shut
}

// Update runs fn on the writer and returns when its effects are on the disk.
//
// When fn returns an error everything it wrote is undone and that error comes
// back; other updates of the same commit are not touched. fn may run twice, so
// it must have no effect but through tx, and set what it returns anew each
// time. It runs on the writer's goroutine while others wait: it must not block,
// seal payloads, or call View or Update. A panic in fn is undone, and repeated
// on the caller as *PanicError.
//
// A context that ends while the update waits withdraws it; once fn has begun
// the result is the true one. ErrFull: nothing was stored. ErrIO: what was
// stored is unknown, so repeat under the same ids.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &update{fn: fn, done: make(chan error, 1)}
	if !s.queue.put(u) {
		return ErrClosed
	}
	var err error
	select {
	case err = <-u.done:
	case <-ctx.Done():
		if u.state.CompareAndSwap(waiting, withdrawn) {
			return ctx.Err()
		}
		err = <-u.done
	}
	if u.panic != nil {
		panic(&PanicError{Value: u.panic.value, Stack: u.panic.stack})
	}
	return err
}

// carefulBatches use savepoints after an update had to be undone.
const carefulBatches = 64

// writer is the state of the goroutine.
type writer struct {
	s       *Store
	c       *conn // nil after a failure that may have broken it
	tx      Tx
	batch   []*update
	careful int // batches that still use savepoints
}

func (s *Store) write(c *conn) {
	w := &writer{s: s, c: c}
	finished := false
	defer func() {
		if finished {
			close(s.stopped)
			return
		}
		// fn ended this goroutine (runtime.Goexit, as t.FailNow does). Its batch
		// fails; the next ones must not wait for ever.
		w.abandon(errors.New("storage: an update ended the writer's goroutine"))
		go s.write(nil)
	}()
	for {
		// Let callers that were answered just now, or are about to ask, be
		// heard before the batch begins: a sync shared is a sync saved.
		runtime.Gosched()
		w.batch = s.queue.take(w.batch[:0], s.opts.MaxBatch)
		if len(w.batch) > 0 {
			w.run()
			continue
		}
		if s.queue.isShut() {
			if s.queue.len() > 0 {
				continue
			}
			if w.c != nil {
				s.queue.closeErr = w.c.close()
			}
			finished = true
			return
		}
		<-s.queue.wake
	}
}

// abandon gives up the open transaction and the connection.
func (w *writer) abandon(err error) {
	if w.c != nil {
		w.c.close()
		w.c = nil
	}
	w.answer(err)
}

// answer ends the batch: each update gets its own error or else err.
func (w *writer) answer(err error) {
	for i, u := range w.batch {
		if u.err != nil {
			u.done <- u.err
		} else {
			u.done <- err
		}
		w.batch[i] = nil
	}
	w.batch = w.batch[:0]
}

// errUndo asks for the batch to run again with savepoints.
var errUndo = errors.New("an update must be undone")

// run stores one batch and answers it.
func (w *writer) run() {
	err := w.attempt(0, true)
	for err == errUndo {
		w.rollback()
		w.careful = carefulBatches
		err = w.attempt(0, true)
	}
	w.careful = max(0, w.careful-1)
	switch {
	case errors.Is(err, errRolledBack):
		w.rollback()
		w.oneByOne()
	case err != nil:
		w.rollback()
		w.s.counts.failed.Add(1)
		w.s.opts.Log.Error("update_failed", "updates", len(w.batch), "error", err)
		w.answer(err)
		return
	}
	w.count()
	w.answer(nil)
}

// oneByOne stores the batch's updates each in a commit of its own. The database
// ended the transaction under one of them, as it does when the disk is full;
// that one has its error, and the others did nothing wrong.
func (w *writer) oneByOne() {
	for i, u := range w.batch {
		if u.err != nil {
			continue
		}
		if err := w.attempt(i, false); err != nil {
			w.rollback()
			w.s.counts.failed.Add(1)
			if u.err == nil {
				u.err = err
			}
		}
	}
}

func (w *writer) count() {
	c := &w.s.counts
	var ok, undone int64
	for _, u := range w.batch {
		if u.err == nil {
			ok++
		} else {
			undone++
		}
	}
	c.updates.Add(ok)
	c.rolledBack.Add(undone)
	c.largest.Store(max(c.largest.Load(), ok))
}

// attempt runs updates of the batch in one transaction and commits it: all from
// first on and those that arrive meanwhile, or, without join, the first alone.
// Updates that have failed are left out.
func (w *writer) attempt(first int, join bool) error {
	s := w.s
	if w.c == nil {
		dc, err := s.connect(background)
		if err != nil {
			return fmt.Errorf("reopen the database: %w", s.d.translate(err))
		}
		w.c = newConn(dc, s.d)
	}
	if _, err := w.c.exec(s.d.begin); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	now := s.now()
	dirty := false // some update before has written
	for i := first; i < len(w.batch) && (join || i == first); i++ {
		u := w.batch[i]
		if u.err == nil {
			w.tx = Tx{s: s, c: w.c, now: now, savepoint: dirty && w.careful > 0}
			if err := w.call(u); err != nil {
				if err := w.undo(u, err, dirty); err != nil {
					return err
				}
			} else if err := w.release(); err != nil {
				return err
			} else {
				dirty = dirty || w.tx.wrote
			}
		}
		if join && i == len(w.batch)-1 && len(w.batch) < s.opts.MaxBatch {
			w.batch = s.queue.take(w.batch, s.opts.MaxBatch)
		}
	}
	if !dirty {
		if _, err := w.c.exec("ROLLBACK"); err != nil {
			return fmt.Errorf("end a transaction: %w", err)
		}
		return nil
	}
	if _, err := w.c.exec("COMMIT"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	s.counts.commits.Add(1)
	return nil
}

// call runs fn and turns a panic into an error, to be repeated by Update.
func (w *writer) call(u *update) (err error) {
	defer func() {
		if v := recover(); v != nil {
			u.panic = &panicked{value: v, stack: debug.Stack()}
			err = fmt.Errorf("panic in an update: %v", v)
		}
	}()
	if err := u.fn(&w.tx); err != nil {
		return err
	}
	if err := w.tx.countBodies(); err != nil {
		return err
	}
	// A write that failed leaves the transaction in a state that fn, which went
	// on regardless, did not mean.
	return w.tx.failed
}

// undo takes back what the failed update wrote and notes its error.
func (w *writer) undo(u *update, failure error, dirty bool) error {
	switch {
	case !w.tx.wrote:
		u.err = failure
		return w.release()
	case !dirty:
		// Nothing else is in the transaction: begin afresh.
		u.err = failure
		if _, err := w.c.exec("ROLLBACK"); err != nil {
			return fmt.Errorf("%w: %w", errRolledBack, err)
		}
		if _, err := w.c.exec(w.s.d.begin); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		return nil
	case !w.tx.savepoint:
		u.panic = nil // it runs again
		return errUndo
	case !w.tx.opened:
		u.err = failure // of the savepoint itself
		return errRolledBack
	}
	u.err = failure
	if _, err := w.c.exec("ROLLBACK TO SAVEPOINT one"); err != nil {
		return fmt.Errorf("%w: %w", errRolledBack, err)
	}
	return w.release()
}

// release ends the update's savepoint, if it has one.
func (w *writer) release() error {
	if !w.tx.opened {
		return nil
	}
	if _, err := w.c.exec("RELEASE SAVEPOINT one"); err != nil {
		return fmt.Errorf("%w: release: %w", errRolledBack, err)
	}
	return nil
}

// rollback leaves no transaction open. A connection that cannot even do that
// is replaced by the next batch.
func (w *writer) rollback() {
	if w.c == nil {
		return
	}
	// It fails when the database has already rolled back: so ask it.
	w.c.exec("ROLLBACK")
	if _, err := w.c.exec(w.s.d.begin); err == nil {
		if _, err := w.c.exec("ROLLBACK"); err == nil {
			return
		}
	}
	w.c.close()
	w.c = nil
}
