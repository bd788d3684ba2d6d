package storage

import (
	"fmt"
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// Limits of an account's archive.
const (
	MaxArchiveItems = 100_000
	MaxArchiveBytes = 512 << 20
)

// ArchiveItem is one opaque piece of an account's own archive, encrypted by its
// devices end to end and sealed once more at rest.
type ArchiveItem struct {
	ID           string // chosen by the device, unique in the account
	UserNo       int64
	Seq          int64  // given by AddArchive: the cursor
	Conversation []byte // opaque id
	Body         []byte
	Created      clearbox.Millis // now if 0
}

// AddArchive appends items in their order. One whose id is there already is
// left out, so an upload may be repeated. ErrQuota when the archive would grow
// beyond its limits: nothing of the update may then be kept.
func (tx *Tx) AddArchive(userNo int64, items []ArchiveItem) error {
	key, err := tx.userKey(userNo)
	if err != nil {
		return err
	}
	if _, err := tx.exec("INSERT INTO archives (user_no, next_seq, items, bytes) VALUES ($1, 1, 0, 0) ON CONFLICT DO NOTHING", userNo); err != nil {
		return err
	}
	var seq, count, bytes int64
	if err := tx.one("SELECT next_seq, items, bytes FROM archives WHERE user_no = $1", args(userNo), &seq, &count, &bytes); err != nil {
		return err
	}
	for i := range items {
		it := &items[i]
		if it.Created == 0 {
			it.Created = tx.now
		}
		row := archiveRow(userNo, seq)
		conversation, err := tx.seal(key, PurposeContacts, "archive_items", "conversation", row, it.Conversation)
		if err != nil {
			return err
		}
		body, err := tx.seal(key, PurposeContacts, "archive_items", "body", row, it.Body)
		if err != nil {
			return err
		}
		size := int64(len(it.Body) + len(it.Conversation))
		n, err := tx.exec(`INSERT INTO archive_items (user_no, seq, id, conversation, body, size, created) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT DO NOTHING`, userNo, seq, it.ID, conversation, body, size, int64(it.Created))
		if err != nil {
			return err
		}
		if n > 0 {
			it.UserNo, it.Seq = userNo, seq
			seq, count, bytes = seq+1, count+1, bytes+size
		}
	}
	if count > MaxArchiveItems || bytes > MaxArchiveBytes {
		return ErrQuota
	}
	return tx.change("UPDATE archives SET next_seq = $1, items = $2, bytes = $3 WHERE user_no = $4", seq, count, bytes, userNo)
}

func archiveRow(userNo, seq int64) string {
	return strconv.FormatInt(userNo, 10) + "/" + strconv.FormatInt(seq, 10)
}

// Archive pages through an account's archive: at most limit items with Seq
// above cursor in rising order, or, backward, below cursor in falling order. A
// cursor of 0 begins at that direction's end.
func (tx *Tx) Archive(userNo, cursor int64, limit int, forward bool) ([]ArchiveItem, error) {
	key, err := tx.userKey(userNo)
	if err != nil {
		return nil, err
	}
	query := "SELECT seq, id, conversation, body, created FROM archive_items WHERE user_no = $1 AND seq > $2 ORDER BY seq LIMIT $3"
	if !forward {
		query = "SELECT seq, id, conversation, body, created FROM archive_items WHERE user_no = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3"
		if cursor == 0 {
			cursor = neverExpires
		}
	}
	var out []ArchiveItem
	it := ArchiveItem{UserNo: userNo}
	var conversation, body []byte
	var created int64
	err = tx.each(query, args(userNo, cursor, int64(limit)), []any{&it.Seq, &it.ID, &conversation, &body, &created}, func() (err error) {
		row := archiveRow(userNo, it.Seq)
		if it.Conversation, err = tx.open(key, PurposeContacts, "archive_items", "conversation", row, conversation); err != nil {
			return fmt.Errorf("open an archive item: %w", err)
		}
		if it.Body, err = tx.open(key, PurposeContacts, "archive_items", "body", row, body); err != nil {
			return fmt.Errorf("open an archive item: %w", err)
		}
		it.Created = clearbox.Millis(created)
		out = append(out, it)
		return nil
	})
	return out, err
}

// ArchiveSize gives the number of items and their bytes as uploaded.
func (tx *Tx) ArchiveSize(userNo int64) (items, bytes int64, err error) {
	err = tx.one("SELECT items, bytes FROM archives WHERE user_no = $1", args(userNo), &items, &bytes)
	if err == ErrNotFound {
		return 0, 0, nil
	}
	return items, bytes, err
}

// DeleteArchive deletes items by id and tells how many there were. nil ids
// means all of them.
func (tx *Tx) DeleteArchive(userNo int64, ids []string) (int64, error) {
	if ids == nil {
		n, err := tx.exec("DELETE FROM archive_items WHERE user_no = $1", userNo)
		if err != nil {
			return 0, err
		}
		_, err = tx.exec("UPDATE archives SET items = 0, bytes = 0 WHERE user_no = $1", userNo)
		return n, err
	}
	var n, bytes, size int64
	for _, id := range ids {
		err := tx.write("DELETE FROM archive_items WHERE user_no = $1 AND id = $2 RETURNING size", args(userNo, id), &size)
		if err == ErrNotFound {
			continue
		}
		if err != nil {
			return 0, err
		}
		n, bytes = n+1, bytes+size
	}
	_, err := tx.exec("UPDATE archives SET items = items - $1, bytes = bytes - $2 WHERE user_no = $3", n, bytes, userNo)
	return n, err
}
