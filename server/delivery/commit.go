package delivery

import (
	"context"
	"errors"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// The committer turns the stream of submissions and acknowledgements into a
// few updates: what arrives while one is being synced goes into the next, in
// the order of arrival. It exists beside storage's own group commit because it
// keeps order without a goroutine per message and pays one savepoint, one
// look at each recipient and one row per device for a whole batch.

const (
	maxBatch   = 256  // operations in one update
	maxWaiting = 8192 // operations that may wait; more are refused with unavailable
)

// operation is one thing to write. apply may run several times and must set
// its results anew; an error from it means that its writes must be undone.
type operation interface {
	apply(tx *storage.Tx, b *batch) error
	// done is called once, in order, after the commit (err nil) or its failure.
	// It runs on the committer and must not block.
	done(err error)
}

// batch is what operations of one update share.
type batch struct {
	local  map[clearbox.UID]storage.Recipient        // as they are inside of this update
	queues map[clearbox.ServerName]*storage.OutQueue // of messages, closed at the end of the update
	people int64                                     // storage.Tx.PeopleVersion, once somebody asked
	acked  map[int64]int64                           // device to the highest acknowledgement in this batch; written once
}

type committer struct {
	store *storage.Store
	wake  chan struct{} // capacity 1: "look again"

	mu      sync.Mutex // guards what follows; never held while an operation runs
	waiting []operation
	acks    map[int64]*ack // those among waiting, by device: one each, so that nobody fills the places with them
	ended   bool
}

func newCommitter(store *storage.Store) *committer {
	return &committer{store: store, wake: make(chan struct{}, 1), acks: map[int64]*ack{}}
}

var (
	errCrowded  = clearbox.Errorf(clearbox.CodeUnavailable, "the server is busy; try again in a moment")
	errStopping = clearbox.Errorf(clearbox.CodeUnavailable, "the server is stopping; try again in a moment")
)

// put hands an operation over. It does not block; when it returns an error the
// operation was not taken.
func (c *committer) put(op operation) error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return errStopping
	}
	a, isAck := op.(*ack)
	if isAck {
		if before := c.acks[a.deviceNo]; before != nil {
			before.upTo = max(before.upTo, a.upTo)
			c.mu.Unlock()
			return nil
		}
	}
	if len(c.waiting) >= maxWaiting {
		c.mu.Unlock()
		return errCrowded
	}
	if isAck {
		c.acks[a.deviceNo] = a
	}
	c.waiting = append(c.waiting, op)
	first := len(c.waiting) == 1
	c.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// run writes until ctx ends and then what still waits.
func (c *committer) run(ctx context.Context) {
	var ops []operation
	for {
		ops = c.take(ops[:0])
		if len(ops) == 0 {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
			}
			c.mu.Lock()
			c.ended = len(c.waiting) == 0
			ended := c.ended
			c.mu.Unlock()
			if ended {
				return
			}
			continue
		}
		c.write(ops)
		clear(ops)
	}
}

func (c *committer) take(into []operation) []operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxBatch)
	into = append(into, c.waiting[:n]...)
	for _, op := range into {
		if a, ok := op.(*ack); ok {
			delete(c.acks, a.deviceNo)
		}
	}
	rest := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[rest:])
	c.waiting = c.waiting[:rest]
	return into
}

// write is not bound to any caller's context: whoever waits learns the truth.
//
// An operation that finds midway that it cannot be done (a full mailbox) has
// left writes behind. The update is then undone and run again without it, so
// one bad message costs its neighbours a second run and never their commit.
func (c *committer) write(ops []operation) {
	failed := make([]error, len(ops))
	err := c.update(ops, failed)
	for errors.Is(err, errAgain) {
		err = c.update(ops, failed)
	}
	if err != nil && len(ops) > 1 && !wholeStore(err) {
		for i := range ops {
			c.write(ops[i : i+1])
		}
		return
	}
	for i, op := range ops {
		if failed[i] != nil {
			op.done(failed[i])
		} else {
			op.done(err)
		}
	}
}

var errAgain = errors.New("an operation was left out")

func (c *committer) update(ops []operation, failed []error) error {
	return c.store.Update(context.Background(), func(tx *storage.Tx) error {
		b := &batch{local: map[clearbox.UID]storage.Recipient{}, acked: map[int64]int64{}, queues: map[clearbox.ServerName]*storage.OutQueue{}}
		for _, op := range ops {
			if a, ok := op.(*ack); ok {
				b.acked[a.deviceNo] = max(b.acked[a.deviceNo], a.upTo)
			}
		}
		again := false
		for i, op := range ops {
			if failed[i] != nil {
				continue
			}
			if err := op.apply(tx, b); err != nil {
				if !ownFault(err) {
					return err
				}
				failed[i], again = err, true
			}
		}
		if again {
			return errAgain
		}
		for _, q := range b.queues {
			if err := q.Close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// queue is the queue of messages to a peer.
func (b *batch) queue(tx *storage.Tx, peer clearbox.ServerName) (*storage.OutQueue, error) {
	if q := b.queues[peer]; q != nil {
		return q, nil
	}
	q, err := tx.OutQueue(peer, storage.ClassMessage)
	if err == nil {
		b.queues[peer] = q
	}
	return q, err
}

// ownFault tells whether an error concerns one operation: the store is well.
func ownFault(err error) bool {
	return errors.Is(err, storage.ErrMailboxFull) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrExists)
}

// wholeStore tells whether an error is the store's and not one operation's.
func wholeStore(err error) bool {
	return errors.Is(err, storage.ErrFull) || errors.Is(err, storage.ErrIO) || errors.Is(err, storage.ErrBusy) || errors.Is(err, storage.ErrClosed)
}
