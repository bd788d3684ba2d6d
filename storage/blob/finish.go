package blob

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clearbox-im/clearbox"
)

// Finish makes an object of an upload that has arrived: size bytes with that
// SHA-256. From then on it is there, whole and for good, or, after a failure or
// a crash, still the upload it was; so it may be repeated, and when it has
// succeeded before, nothing happens. What has another digest is thrown away and
// must be sent again: clearbox.CodeBadRequest. While bytes are missing it is an
// *OffsetError.
func (s *Store) Finish(n Name, size int64, digest [sha256.Size]byte) error {
	mu := s.lock(n)
	mu.Lock()
	defer mu.Unlock()
	f, err := os.Open(s.arriving(n))
	if errors.Is(err, fs.ErrNotExist) {
		return s.finished(n, size)
	}
	if err != nil {
		return failure("finish an upload", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return failure("finish an upload", err)
	}
	if fi.Size() != size {
		return &OffsetError{Have: fi.Size()}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return failure("finish an upload", err)
	}
	if [sha256.Size]byte(h.Sum(nil)) != digest {
		if err := s.do(StepRemove, func() error { return os.Remove(s.arriving(n)) }); err != nil {
			return failure("finish an upload", err)
		}
		return clearbox.Errorf(clearbox.CodeBadRequest, "what arrived is not what was announced: send it again from the beginning")
	}
	return failure("finish an upload", s.promote(n, f))
}

// finished tells whether Finish did its work before.
func (s *Store) finished(n Name, size int64) error {
	fi, err := os.Stat(s.whole(n))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &OffsetError{}
	case err != nil:
		return failure("finish an upload", err)
	case fi.Size() != size:
		return &OffsetError{Have: fi.Size()}
	}
	return nil
}

// promote makes the upload's bytes durable, then its place.
func (s *Store) promote(n Name, f *os.File) error {
	folder := filepath.Dir(s.whole(n))
	if err := os.Mkdir(folder, 0o700); err == nil {
		if err := s.do(StepSyncFolder, func() error { return syncFolder(filepath.Dir(folder)) }); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.do(StepSync, f.Sync); err != nil {
		return err
	}
	if err := s.do(StepRename, func() error { return os.Rename(s.arriving(n), s.whole(n)) }); err != nil {
		return err
	}
	return s.do(StepSyncFolder, func() error { return syncFolder(folder) })
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
