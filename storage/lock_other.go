//go:build !unix

package storage

import (
	"errors"
	"fmt"
)

type fileLock struct{}

// lockFile refuses: without a lock two processes would share one database.
func lockFile(string) (*fileLock, error) {
	return nil, fmt.Errorf("lock the database: %w", errors.ErrUnsupported)
}

func (l *fileLock) close() error { return nil }
