package storage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/storage"
)

// A database that is put back to an older state gives no sequence number again
// that a device has seen since.
func TestMailFloor(t *testing.T) {
	at := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	floor := storage.MailFloor(at)
	if floor <= 0 || storage.MailFloor(at.Add(time.Hour)) != floor+3600 {
		t.Errorf("floors %d and %d", floor, storage.MailFloor(at.Add(time.Hour)))
	}
	if f := storage.MailFloor(time.Unix(0, 0)); f != 0 {
		t.Errorf("floor %d before 2000", f)
	}
	w := open(t)
	_, d := w.user("alice")
	var seqs []int64
	put := func(count int) {
		for range count {
			var seq int64
			w.update(func(tx *storage.Tx) (err error) {
				seq, err = tx.PutMail(d.No, sealed("x"), tx.Now()+1000)
				return err
			})
			seqs = append(seqs, seq)
		}
	}
	put(2)
	w.opts.MailFloor = floor
	w.reopen()
	put(2)
	w.opts.MailFloor = floor + 1 // fewer mails than seconds have passed
	w.reopen()
	put(1)
	if want := []int64{1, 2, floor, floor + 1, floor + 2}; !slices.Equal(seqs, want) {
		t.Errorf("numbers %d, want %d", seqs, want)
	}
}
