package core

import (
	"context"
	"errors"
)

// Vault is the brain's only memory: a transactional map of keys to values that
// is encrypted where it rests. The terminal keeps it in a file, the browser in
// IndexedDB; the brain does not know the difference.
//
// Whoever implements it promises:
//   - one writer: a second process that opens the same vault is refused, so no
//     ratchet is ever advanced twice from the same state;
//   - Update is all or nothing, and durable when it returns nil. When it
//     returns an error of fn, nothing was changed. When it returns an error of
//     its own, the outcome may be unknown; the vault then refuses further work
//     with an error that wraps ErrVaultBroken until it is opened again;
//   - transactions are serial: fn sees the state the previous Update left.
//
// Safe for concurrent use. fn must not call the vault again and must not
// block on anything but the transaction.
type Vault interface {
	// View runs fn over a consistent state.
	View(ctx context.Context, fn func(Reader) error) error
	// Update runs fn and commits what it wrote.
	Update(ctx context.Context, fn func(Tx) error) error
	// Forget makes sure that values which were deleted or replaced before are
	// nowhere that the vault writes to any more. It may take as long as writing
	// the whole vault; its error is one of Update's.
	Forget(ctx context.Context) error
}

// Reader reads inside a transaction. Values it hands out belong to the vault:
// they may be kept, and must not be changed.
type Reader interface {
	// Get gives the value of key; ErrNoValue if there is none.
	Get(key string) ([]byte, error)
	// List gives the entries of a range in order of their keys' bytes.
	List(Range) ([]Entry, error)
}

// Tx reads and writes inside an Update; it sees its own writes. The vault
// keeps value as it is: the caller must not change it afterwards.
type Tx interface {
	Reader
	Put(key string, value []byte) error
	// Delete removes key; that there was none is no error.
	Delete(key string) error
}

// Range picks the keys that begin with Prefix and lie strictly between After
// and Before; empty bounds do not bind. Limit 0 means all.
type Range struct {
	Prefix  string
	After   string
	Before  string
	Limit   int
	Reverse bool // greatest key first
}

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value []byte
}

// ErrVaultBroken is wrapped by what a vault answers when it does no more work:
// it was closed, or a write failed with an outcome that is not known.
var ErrVaultBroken = errors.New("core: the vault does no more work")

// ErrNoValue answers Get for a key that has no value.
var ErrNoValue = errors.New("core: no such key in the vault")
