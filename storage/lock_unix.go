//go:build unix

package storage

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// fileLock keeps other processes off the database. SQLite would let them in,
// but the group commit, the caches above and the sockets assume one owner.
type fileLock struct{ f *os.File }

// lockFile takes an advisory lock that the system releases when the process
// ends, however it ends. The file stays: removing it would let two in.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	return &fileLock{f}, nil
}

func (l *fileLock) close() error { return l.f.Close() }
