package storage

import (
	"errors"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// Tx is one View or one Update. Its methods stand with their nouns, one file
// each. It is valid until fn returns and is not safe for concurrent use.
type Tx struct {
	s         *Store
	c         *conn
	now       clearbox.Millis
	readOnly  bool
	savepoint bool  // the first write must open a savepoint
	opened    bool  // it did
	wrote     bool  // a write changed something, or failed and may have
	failed    error // a write failed: the update cannot be kept

	released map[int64]int64 // bodies, and how many mails pointed to them that are gone
}

// Now is the moment of this transaction; it does not move while it runs.
func (tx *Tx) Now() clearbox.Millis { return tx.now }

var errReadOnly = errors.New("storage: a View cannot write")

// begin prepares for a write; see writer.attempt.
func (tx *Tx) begin() error {
	if tx.readOnly {
		return errReadOnly
	}
	if tx.failed != nil {
		return tx.failed
	}
	if tx.savepoint && !tx.opened {
		if _, err := tx.c.exec("SAVEPOINT one"); err != nil {
			return tx.fail(err)
		}
		tx.opened = true
	}
	return nil
}

// fail notes that the update cannot be kept.
func (tx *Tx) fail(err error) error {
	tx.wrote, tx.failed = true, err
	return err
}

// exec runs a writing statement and tells how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	if err := tx.begin(); err != nil {
		return 0, err
	}
	n, err := tx.c.exec(query, args...)
	if err != nil {
		return 0, tx.fail(err)
	}
	tx.wrote = tx.wrote || n > 0
	return n, nil
}

// change is exec for statements that must meet a row: else ErrNotFound.
func (tx *Tx) change(query string, args ...any) error {
	n, err := tx.exec(query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// write runs a writing statement that returns at most one row, and gives
// ErrNotFound when it returns none.
func (tx *Tx) write(query string, args []any, dest ...any) error {
	if err := tx.begin(); err != nil {
		return err
	}
	err := tx.c.row(query, args, dest...)
	if err == ErrNotFound {
		return err
	}
	if err != nil {
		return tx.fail(err)
	}
	tx.wrote = true
	return nil
}

// drain runs a writing statement that returns rows, and calls fn after scanning
// each into dest.
func (tx *Tx) drain(query string, args []any, dest []any, fn func()) error {
	if err := tx.begin(); err != nil {
		return err
	}
	err := tx.each(query, args, dest, func() error {
		tx.wrote = true
		fn()
		return nil
	})
	if err != nil {
		return tx.fail(err)
	}
	return nil
}

// one reads one row; ErrNotFound if there is none.
func (tx *Tx) one(query string, args []any, dest ...any) error {
	return tx.c.row(query, args, dest...)
}

// each reads rows and calls fn after scanning each into dest.
func (tx *Tx) each(query string, args []any, dest []any, fn func() error) error {
	r, err := tx.c.query(query, args...)
	if err != nil {
		return err
	}
	for r.next() {
		if err := r.scan(dest...); err != nil {
			r.close()
			return err
		}
		if err := fn(); err != nil {
			r.close()
			return err
		}
	}
	return r.close()
}

// args is a list of statement arguments.
func args(a ...any) []any { return a }

// seal protects a personal column of a row. Empty stays empty, so that "never
// given" needs no key.
func (tx *Tx) seal(k KeyID, purpose, table, column, row string, plain []byte) ([]byte, error) {
	if len(plain) == 0 {
		return []byte{}, nil
	}
	return tx.s.opts.Sealer.Seal(k, purpose, columnAD(table, column, row, purpose), plain)
}

// open reads a personal column. What a destroyed key sealed reads as empty.
func (tx *Tx) open(k KeyID, purpose, table, column, row string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	plain, err := tx.s.opts.Sealer.Open(k, purpose, columnAD(table, column, row, purpose), sealed)
	if errors.Is(err, ErrShredded) {
		return nil, nil
	}
	return plain, err
}

// columnAD binds a sealed value to its place: table|column|row|purpose
// (gdpr.md 8), so that it cannot be moved to another.
func columnAD(table, column, row, purpose string) []byte {
	var b strings.Builder
	b.Grow(len(table) + len(column) + len(row) + len(purpose) + 3)
	b.WriteString(table)
	b.WriteByte('|')
	b.WriteString(column)
	b.WriteByte('|')
	b.WriteString(row)
	b.WriteByte('|')
	b.WriteString(purpose)
	return []byte(b.String())
}

// index is the blind index of a personal value.
func (tx *Tx) index(label, value string) []byte { return tx.s.opts.Index(label, []byte(value)) }
