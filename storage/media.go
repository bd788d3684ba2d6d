package storage

import "github.com/clearbox-im/clearbox"

// Media is an attachment of an account. Its bytes are in a file, see package
// blob; the row is stored before the first of them and deleted before the last.
type Media struct {
	Object  clearbox.ObjectID // random; in messages only
	UserNo  int64
	Reader  [32]byte // SHA-256 of the secret that readers show
	Size    int64    // bytes, as announced
	Digest  [32]byte // SHA-256 of the whole, once it is
	Whole   bool
	Created clearbox.Millis // now if 0
	Expires clearbox.Millis
}

// PutMedia stores the row of an upload that begins; *ExistsError with Field "id"
// when the object is there.
func (tx *Tx) PutMedia(m *Media) error {
	if m.Created == 0 {
		m.Created = tx.now
	}
	n, err := tx.exec(`INSERT INTO media (object, user_no, reader, size, digest, whole, created, expires) VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
		ON CONFLICT DO NOTHING`, m.Object[:], m.UserNo, m.Reader[:], m.Size, []byte{}, int64(m.Created), int64(m.Expires))
	if err == nil && n == 0 {
		err = &ExistsError{Field: "id"}
	}
	return err
}

// Media finds an object that has not expired; ErrNotFound.
func (tx *Tx) Media(object clearbox.ObjectID) (Media, error) {
	m := Media{Object: object}
	var reader, digest []byte
	var created, expires int64
	err := tx.one("SELECT user_no, reader, size, digest, whole, created, expires FROM media WHERE object = $1 AND expires > $2",
		args(object[:], int64(tx.now)), &m.UserNo, &reader, &m.Size, &digest, &m.Whole, &created, &expires)
	copy(m.Reader[:], reader)
	copy(m.Digest[:], digest)
	m.Created, m.Expires = clearbox.Millis(created), clearbox.Millis(expires)
	return m, err
}

// FinishMedia notes that the object is whole; ErrNotFound. Again with the same
// digest changes nothing.
func (tx *Tx) FinishMedia(object clearbox.ObjectID, digest [32]byte) error {
	return tx.change("UPDATE media SET whole = 1, digest = $1 WHERE object = $2", digest[:], object[:])
}

// MediaUse counts an account's objects and the bytes that they were announced
// with, which is what its quota is about.
func (tx *Tx) MediaUse(userNo int64) (objects, bytes int64, err error) {
	err = tx.one("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM media WHERE user_no = $1", args(userNo), &objects, &bytes)
	return objects, bytes, err
}

// DeleteMedia deletes the account's row of an object; ErrNotFound when it has
// none. The file is the caller's to delete, after the commit.
func (tx *Tx) DeleteMedia(userNo int64, object clearbox.ObjectID) error {
	return tx.change("DELETE FROM media WHERE object = $1 AND user_no = $2", object[:], userNo)
}

// EraseMedia deletes all rows of an account and gives the objects, whose files
// are the caller's to delete.
func (tx *Tx) EraseMedia(userNo int64) ([]clearbox.ObjectID, error) {
	return tx.drainMedia("DELETE FROM media WHERE user_no = $1 RETURNING object", userNo)
}

// ExpireMedia deletes at most limit rows whose time is over and gives the
// objects.
func (tx *Tx) ExpireMedia(limit int) ([]clearbox.ObjectID, error) {
	return tx.drainMedia("DELETE FROM media WHERE object IN (SELECT object FROM media WHERE expires <= $1 ORDER BY expires LIMIT $2) RETURNING object",
		int64(tx.now), int64(limit))
}

func (tx *Tx) drainMedia(query string, arguments ...any) (out []clearbox.ObjectID, err error) {
	var raw []byte
	err = tx.drain(query, arguments, []any{&raw}, func() {
		var object clearbox.ObjectID
		copy(object[:], raw)
		out = append(out, object)
	})
	return out, err
}

// UnknownMedia gives those of the objects that have no row.
func (tx *Tx) UnknownMedia(list []clearbox.ObjectID) (out []clearbox.ObjectID, err error) {
	for _, object := range list {
		var one int64
		switch err := tx.one("SELECT 1 FROM media WHERE object = $1", args(object[:]), &one); err {
		case nil:
		case ErrNotFound:
			out = append(out, object)
		default:
			return nil, err
		}
	}
	return out, nil
}
