// Package archive is responsible for an account's own archive: opaque items,
// encrypted end to end by its devices, kept so that a new device can have the
// history. It bounds them, pages through them and deletes them.
//
// It is not responsible for consent (server/api asks for it before an upload)
// and cannot read what it keeps.
package archive

import (
	"context"
	"encoding/base64"
	"encoding/binary"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Options of an archive. The zero value has the limits of storage.
type Options struct {
	MaxItems int64 // of one account; storage.MaxArchiveItems if 0
	MaxBytes int64 // of one account; storage.MaxArchiveBytes if 0
}

// Service keeps archives. It is safe for concurrent use.
type Service struct {
	store *storage.Store
	o     Options
}

// New makes a Service on store.
func New(store *storage.Store, o Options) *Service {
	if o.MaxItems == 0 {
		o.MaxItems = storage.MaxArchiveItems
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = storage.MaxArchiveBytes
	}
	return &Service{store: store, o: o}
}

// Add appends items to the archive of userNo, in their order; one whose id is
// there already is left as it is, so that an upload may be repeated. All are
// durable when it returns, or none: quota_exceeded when they do not fit.
func (s *Service) Add(ctx context.Context, userNo int64, items []wire.HistoryItem) (wire.HistoryStored, error) {
	var out wire.HistoryStored
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		out = wire.HistoryStored{}
		before, _, err := tx.ArchiveSize(userNo)
		if err != nil {
			return err
		}
		records := make([]storage.ArchiveItem, 0, len(items))
		for _, it := range items {
			records = append(records, storage.ArchiveItem{ID: it.ID, Conversation: it.Conversation, Body: it.Body})
		}
		if err := tx.AddArchive(userNo, records); err != nil {
			return err
		}
		out.Items, out.Bytes, err = tx.ArchiveSize(userNo)
		if err != nil {
			return err
		}
		if out.Items > s.o.MaxItems || out.Bytes > s.o.MaxBytes {
			return clearbox.Errorf(clearbox.CodeQuota, "the archive is full: delete something first")
		}
		out.Stored = int(out.Items - before)
		return nil
	})
	if err != nil {
		return wire.HistoryStored{}, err
	}
	return out, nil
}

// Page reads at most limit items. An empty cursor begins at the oldest, or
// backward at the newest; others come from an earlier page.
func (s *Service) Page(ctx context.Context, userNo int64, cursor string, limit int, forward bool) (wire.HistoryPage, error) {
	from, err := parseCursor(cursor)
	if err != nil {
		return wire.HistoryPage{}, err
	}
	var items []storage.ArchiveItem
	err = s.store.View(ctx, func(tx *storage.Tx) (err error) {
		items, err = tx.Archive(userNo, from, limit+1, forward) // one more tells whether there is more
		return err
	})
	if err != nil {
		return wire.HistoryPage{}, err
	}
	page := wire.HistoryPage{Items: make([]wire.HistoryItem, 0, len(items))}
	if len(items) > limit {
		items = items[:limit]
		page.Next = formatCursor(items[limit-1].Seq)
	}
	for _, it := range items {
		page.Items = append(page.Items, wire.HistoryItem{ID: it.ID, Conversation: it.Conversation, Body: it.Body, Seq: it.Seq, Created: it.Created})
	}
	if len(items) > 0 {
		page.Prev = formatCursor(items[0].Seq)
	}
	return page, nil
}

// Delete deletes the items with these ids for good and tells how many there
// were. Ids that are not there are no error.
func (s *Service) Delete(ctx context.Context, userNo int64, ids []string) (int, error) {
	if ids == nil {
		ids = []string{} // nil would mean all of them
	}
	return s.remove(ctx, userNo, ids)
}

// DeleteAll empties the archive and tells how many items there were.
func (s *Service) DeleteAll(ctx context.Context, userNo int64) (int, error) {
	return s.remove(ctx, userNo, nil)
}

func (s *Service) remove(ctx context.Context, userNo int64, ids []string) (n int, err error) {
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		deleted, err := tx.DeleteArchive(userNo, ids)
		n = int(deleted)
		return err
	})
	return n, err
}

// A cursor is opaque to clients: a version and the position, in base64.
const cursorVersion = 1

func formatCursor(seq int64) string {
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint([]byte{cursorVersion}, uint64(seq)))
}

func parseCursor(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	bad := &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "the cursor is not one of this server's", Field: "?cursor"}
	if len(s) > 32 {
		return 0, bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) < 2 || raw[0] != cursorVersion {
		return 0, bad
	}
	seq, n := binary.Uvarint(raw[1:])
	if n != len(raw)-1 || seq == 0 || seq > 1<<62 || formatCursor(int64(seq)) != s {
		return 0, bad
	}
	return int64(seq), nil
}
