package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// sweepAt is how many names are asked about at once.
const sweepAt = 500

// Sweep deletes the files that nothing in the database speaks of, as a crash
// between a row's end and a file's leaves them, and tells how many there were.
// unknown gives those of the names that have no row; a row is stored before the
// first byte of its file, so none is taken for an orphan that is about to get
// one. Files with other names are left alone.
func (s *Store) Sweep(ctx context.Context, unknown func(context.Context, []Name) ([]Name, error)) (int, error) {
	var batch []Name
	deleted := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		orphans, err := unknown(ctx, batch)
		if err != nil {
			return err
		}
		batch = batch[:0]
		for _, n := range orphans {
			if err := s.Remove(n); err != nil {
				return err
			}
			deleted++
		}
		return nil
	}
	err := s.walk(func(n Name, _ fs.DirEntry) error {
		if batch = append(batch, n); len(batch) < sweepAt {
			return ctx.Err()
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return deleted, err
}

// Usage counts the files and their bytes, those of uploads included.
func (s *Store) Usage() (files, bytes int64, err error) {
	err = s.walk(func(_ Name, d fs.DirEntry) error {
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err == nil {
			files, bytes = files+1, bytes+fi.Size()
		}
		return err
	})
	return files, bytes, err
}

// walk calls fn for each file that is ours, a folder's in the order of the disk.
func (s *Store) walk(fn func(Name, fs.DirEntry) error) error {
	shards, err := os.ReadDir(filepath.Join(s.dir, objects))
	if err != nil {
		return failure("look through the attachments", err)
	}
	folders := []string{filepath.Join(s.dir, incoming)}
	for _, d := range shards {
		if d.IsDir() {
			folders = append(folders, filepath.Join(s.dir, objects, d.Name()))
		}
	}
	for _, folder := range folders {
		if err := walkFolder(folder, fn); err != nil {
			return err
		}
	}
	return nil
}

func walkFolder(folder string, fn func(Name, fs.DirEntry) error) error {
	d, err := os.Open(folder)
	if err != nil {
		return failure("look through the attachments", err)
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			if n, ok := parseName(e.Name()); ok && e.Type().IsRegular() {
				if err := fn(n, e); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return failure("look through the attachments", err)
		}
	}
}
