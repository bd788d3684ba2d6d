package core

import (
	"context"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
)

// journal is the brain's vault: it sees what a transaction changed, so that own
// other devices and the archive hear of it whoever changed it, in the same
// transaction.
type journal struct {
	Vault
	b *Brain
}

// Update implements Vault.
func (j *journal) Update(ctx context.Context, fn func(Tx) error) error {
	queued := false
	err := j.Vault.Update(ctx, func(tx Tx) error {
		r := &recorder{Tx: tx, touched: map[string]bool{}}
		if err := fn(r); err != nil {
			return err
		}
		var err error
		queued, err = j.b.noted(r)
		return err
	})
	if err == nil && queued {
		wake(j.b.queueWake)
	}
	return err
}

// recorder notes what of a person's records was written.
type recorder struct {
	Tx
	touched map[string]bool
	shown   []Ref // lines that are not new any more
}

// Put implements Tx.
func (r *recorder) Put(key string, value []byte) error {
	r.note(key)
	return r.Tx.Put(key, value)
}

// Delete implements Tx.
func (r *recorder) Delete(key string) error {
	r.note(key)
	if strings.HasPrefix(key, prefixNew) {
		if err := r.noteShown(key); err != nil {
			return err
		}
	}
	return r.Tx.Delete(key)
}

func (r *recorder) note(key string) {
	if isCarried(key) || key == keyOwnToken {
		r.touched[key] = true
	}
}

// noteShown reads which line is not new any more.
func (r *recorder) noteShown(key string) error {
	uuid, err := optional(r.Tx.Get(key))
	if err != nil || uuid == nil {
		return err
	}
	m, err := load[Message](r.Tx, messageKey(string(uuid), orderOf(key)))
	if err != nil || m == nil || m.ID == (clearbox.MessageID{}) || m.Kind == MessageUndecryptable {
		return err
	}
	r.shown = append(r.shown, Ref{ID: m.ID, Author: m.Sender})
	return nil
}

// quiet gives the transaction below the journal: for what other devices know
// already.
func quiet(tx Tx) Tx {
	if r, ok := tx.(*recorder); ok {
		return r.Tx
	}
	return tx
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
