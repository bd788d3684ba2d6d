package keystore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// RootKeySize is the length of a root key in bytes.
const RootKeySize = 32

// LoadRootKey reads a root key file: exactly 32 bytes, readable by its owner
// only. The caller clears the key after Open.
func LoadRootKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the root key: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the root key: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("the root key is not a regular file")
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the root key file has mode %04o: others than its owner may read it; set it to 0600", fi.Mode().Perm())
	}
	key, err := io.ReadAll(io.LimitReader(f, RootKeySize+1))
	if err != nil {
		return nil, fmt.Errorf("read the root key: %w", err)
	}
	if len(key) != RootKeySize {
		clear(key)
		return nil, fmt.Errorf("the root key file must hold exactly %d bytes", RootKeySize)
	}
	return key, nil
}

// CreateRootKey draws a root key and writes it to a new file with mode 0600. An
// existing file is never touched: what it sealed would be lost. When it returns
// without error the key is on the disk.
func CreateRootKey(path string, random io.Reader) ([]byte, error) {
	key := make([]byte, RootKeySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fmt.Errorf("draw a root key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the root key: %w", err)
	}
	_, err = f.Write(key)
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		os.Remove(path) // half a key is worse than none; it was created just now
		return nil, fmt.Errorf("write the root key: %w", err)
	}
	return key, nil
}

// syncDir makes a new name in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
