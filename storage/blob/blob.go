// Package blob keeps the ciphertext of attachments as files beside the
// database: objects arrive in pieces, become whole in one step and are read
// from any place. What it answers as stored is on the disk.
//
// It does not know whose an object is, who may read it or for how long it is
// kept: that stands in the database, and a file without a row there is swept
// away. It cannot read what it keeps.
package blob

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/clearbox-im/clearbox"
)

// NameSize is the size of a Name in bytes.
const NameSize = 16

// Name names an object. Names are random; nothing stands behind them.
type Name [NameSize]byte

func (n Name) file() string { return hex.EncodeToString(n[:]) }

// parseName reads the name of a file.
func parseName(s string) (n Name, ok bool) {
	if len(s) != 2*NameSize {
		return n, false
	}
	raw, err := hex.DecodeString(s)
	if err != nil {
		return n, false
	}
	copy(n[:], raw)
	return n, n.file() == s
}

// Options of Open.
type Options struct {
	Faults *Faults // tests only: makes durable steps fail
}

// Store is an open folder of objects. It is safe for concurrent use; two
// processes must not share a folder.
type Store struct {
	dir    string
	faults *Faults

	// locks guard the files of the names that share one: their length is only
	// looked at, and changed, under it.
	locks [64]sync.Mutex
}

// The folders inside.
const (
	incoming = "incoming" // what is not whole yet
	objects  = "objects"  // whole ones, by the first two digits of their names
)

// piece is how much is held in memory of one upload.
const piece = 256 << 10

var pieces = sync.Pool{New: func() any { b := make([]byte, piece); return &b }}

// Open makes the folder when it is not there. It starts nothing.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, faults: o.Faults}
	for _, sub := range []string{incoming, objects} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open the folder of attachments: %w", err)
		}
	}
	return s, nil
}

func (s *Store) lock(n Name) *sync.Mutex { return &s.locks[n[0]%64] }

func (s *Store) arriving(n Name) string { return filepath.Join(s.dir, incoming, n.file()) }

func (s *Store) whole(n Name) string {
	f := n.file()
	return filepath.Join(s.dir, objects, f[:2], f)
}

// Have tells how many bytes of an object are here and whether it is whole; of
// one that is not here, none.
func (s *Store) Have(n Name) (bytes int64, whole bool, err error) {
	if fi, err := os.Stat(s.whole(n)); err == nil {
		return fi.Size(), true, nil
	}
	fi, err := os.Stat(s.arriving(n))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, false, nil
	case err != nil:
		return 0, false, failure("look at an upload", err)
	}
	return fi.Size(), false, nil
}

// Append stores what r gives at offset at, which must be what Have says, up to
// at most bytes in all; what has arrived is kept even if r fails, whose error
// then comes back wrapped. It returns the new length. What it counts is on the
// disk. Errors: *OffsetError; clearbox.CodeTooLarge when r has more; CodeStoreFull.
func (s *Store) Append(n Name, at, most int64, r io.Reader) (int64, error) {
	f, created, err := s.openArriving(n)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	have, err := s.fill(n, f, at, most, r)
	if e := (*OffsetError)(nil); errors.As(err, &e) {
		return e.Have, err
	}
	if e := s.do(StepSync, f.Sync); e != nil {
		return 0, failure("store an upload", e)
	}
	if created {
		if e := s.do(StepSyncFolder, func() error { return syncFolder(filepath.Join(s.dir, incoming)) }); e != nil {
			return 0, failure("store an upload", e)
		}
	}
	return have, err
}

func (s *Store) openArriving(n Name) (f *os.File, created bool, err error) {
	if _, err := os.Stat(s.whole(n)); err == nil {
		size, _, err := s.Have(n)
		return nil, false, errors.Join(err, &OffsetError{Have: size})
	}
	err = s.do(StepCreate, func() error {
		if f, err = os.OpenFile(s.arriving(n), os.O_WRONLY, 0o600); errors.Is(err, fs.ErrNotExist) {
			created = true
			f, err = os.OpenFile(s.arriving(n), os.O_WRONLY|os.O_CREATE, 0o600)
		}
		return err
	})
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, false, failure("open an upload", err)
	}
	return f, created, nil
}

// fill copies r into f piece by piece. Between two pieces another request may
// take the upload over: the one that comes late then sees another length.
func (s *Store) fill(n Name, f *os.File, at, most int64, r io.Reader) (int64, error) {
	p := pieces.Get().(*[]byte)
	defer pieces.Put(p)
	if err := s.writeAt(n, f, nil, at); err != nil {
		return at, err
	}
	for {
		want := min(int64(len(*p)), most-at+1) // one more tells whether there is more
		got, readErr := io.ReadFull(r, (*p)[:want])
		b := (*p)[:got]
		over := at+int64(got) > most
		if over {
			b = b[:most-at]
		}
		if err := s.writeAt(n, f, b, at); err != nil {
			return at, err
		}
		at += int64(len(b))
		switch {
		case over:
			return at, clearbox.Errorf(clearbox.CodeTooLarge, "there is more of it than was announced")
		case readErr == io.EOF || readErr == io.ErrUnexpectedEOF && atEnd(r):
			return at, nil
		case readErr != nil:
			return at, clearbox.Wrap(clearbox.CodeUnavailable, "the upload broke off; it goes on where it ended", readErr)
		}
	}
}

// atEnd tells a reader that has ended from one that broke off, since
// io.ReadFull gives one error for both.
func atEnd(r io.Reader) bool {
	var b [1]byte
	n, err := r.Read(b[:])
	return n == 0 && err == io.EOF
}

func (s *Store) writeAt(n Name, f *os.File, b []byte, at int64) error {
	mu := s.lock(n)
	mu.Lock()
	defer mu.Unlock()
	fi, err := f.Stat()
	if err != nil {
		return failure("look at an upload", err)
	}
	if fi.Size() != at {
		return &OffsetError{Have: fi.Size()}
	}
	if len(b) == 0 {
		return nil
	}
	err = s.do(StepWrite, func() error {
		_, err := f.WriteAt(b, at)
		return err
	})
	return failure("write an upload", err)
}

// Remove deletes what there is of an object; nothing is no error. Who is reading
// it reads on to the end of the piece. A crash may leave it to Sweep.
func (s *Store) Remove(n Name) error {
	mu := s.lock(n)
	mu.Lock()
	defer mu.Unlock()
	for _, path := range []string{s.arriving(n), s.whole(n)} {
		err := s.do(StepRemove, func() error { return os.Remove(path) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failure("delete an attachment", err)
		}
	}
	return nil
}

// Object is a whole object that can be read from any place. Its owner closes it.
type Object struct {
	*os.File
	Size int64 // bytes
}

// Object opens a whole object; clearbox.CodeNotFound when there is none.
func (s *Store) Object(n Name) (*Object, error) {
	f, err := os.Open(s.whole(n))
	if err != nil {
		return nil, failure("open an attachment", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, failure("open an attachment", err)
	}
	return &Object{File: f, Size: fi.Size()}, nil
}
