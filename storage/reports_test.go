package storage_test

import (
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// A report is put once for a message, opens with the key of whoever wrote it, and
// is forgotten when its time is up.
func TestReports(t *testing.T) {
	w := open(t)
	alice, _ := w.user("alice")
	put := func(id byte, expires clearbox.Millis) *storage.Report {
		r := &storage.Report{UserNo: alice.No, Message: clearbox.MessageID{id}, Peer: "b.test", Expires: expires, Body: []byte{id}}
		w.update(func(tx *storage.Tx) error { return tx.PutReport(r) })
		return r
	}
	first, second := put(1, testStart+10), put(2, testStart+20)
	w.fails("the same message", storage.ErrExists, func(tx *storage.Tx) error {
		return tx.PutReport(&storage.Report{UserNo: alice.No, Message: first.Message, Peer: "c.test", Body: []byte("other")})
	})
	w.update(func(tx *storage.Tx) error { return tx.CloseReport(first.No, storage.ReportUpheld) })
	w.fails("what is not there", storage.ErrNotFound, func(tx *storage.Tx) error { return tx.CloseReport(99, storage.ReportUpheld) })
	w.view(func(tx *storage.Tx) error {
		all, err := tx.Reports(first.No, 10)
		must(t, err)
		if len(all) != 1 || all[0].No != second.No || all[0].State != storage.ReportOpen || all[0].Strikes != 1 || all[0].Received != testStart || all[0].Body != nil {
			t.Errorf("after the first: %+v", all)
		}
		got, err := tx.Report(first.No)
		if err != nil || string(got.Body) != "\x01" || got.State != storage.ReportUpheld || got.Peer != "b.test" {
			t.Errorf("%+v, %v", got, err)
		}
		return nil
	})
	w.update(func(tx *storage.Tx) error {
		if n, err := tx.ExpireReports(testStart+10, 10); n != 1 || err != nil {
			t.Errorf("%d forgotten, %v", n, err)
		}
		return nil
	})
	w.view(func(tx *storage.Tx) error {
		if _, err := tx.Report(first.No); err != storage.ErrNotFound {
			t.Errorf("a report that was forgotten: %v", err)
		}
		_, err := tx.Report(second.No)
		return err
	})
}
