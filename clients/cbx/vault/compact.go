package vault

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// Forget implements core.Vault: it compacts the log. What was deleted is noise
// then, under a key that is gone.
func (v *Vault) Forget(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.Compact()
}

// Compact rewrites the log so that it holds the present state and nothing
// older.
func (v *Vault) Compact() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return v.err
	}
	if err := v.rewrite(); err != nil {
		v.err = ErrBroken
		return err
	}
	return nil
}

// snapshotRecord is how many bytes of entries go into one record of a
// compacted log.
const snapshotRecord = 1 << 20

// rewrite puts the image into a new file under a new data key and makes it the
// log. Until the rename, the old log counts; after it, the new one.
func (v *Vault) rewrite() error {
	head := v.head
	head.generation++
	data := make([]byte, 32)
	if _, err := io.ReadFull(v.random, data); err != nil {
		return fmt.Errorf("draw a key: %w", err)
	}
	if err := head.wrap(v.kek, data, v.random); err != nil {
		return err
	}
	seal, err := newSealer(data, head.generation)
	if err != nil {
		return err
	}
	clear(data)
	f, err := os.OpenFile(v.path(newName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create the vault's new file: %w", err)
	}
	done := false
	defer func() {
		if !done {
			f.Close()
		}
	}()
	size, records, err := v.snapshot(f, head, seal)
	if err != nil {
		return err
	}
	if err := v.at("compact-rename"); err != nil {
		return err
	}
	if err := os.Rename(v.path(newName), v.path(logName)); err != nil {
		return fmt.Errorf("put the vault's new file in place: %w", err)
	}
	if err := v.at("compact-dirsync"); err != nil {
		return err
	}
	if err := syncDir(v.dir); err != nil {
		return err
	}
	if err := v.at("compact-wipe"); err != nil {
		return err
	}
	old := v.log
	v.head, v.seal, v.log, v.size, v.records, done = head, seal, f, size, records, true
	if err := v.writeMark(true); err != nil {
		return err
	}
	return wipe(old)
}

// snapshot writes header and image to f and syncs it.
func (v *Vault) snapshot(f *os.File, head header, seal *sealer) (size int64, records uint64, err error) {
	write := func(b []byte) error {
		if _, err := f.Write(b); err != nil {
			return fmt.Errorf("write the vault's new file: %w", err)
		}
		size += int64(len(b))
		return v.at("compact-write")
	}
	if err := write(head.encode()); err != nil {
		return 0, 0, err
	}
	var batch []memvault.Op
	length := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		record, err := seal.seal(nil, records, encodeOps(batch), v.random)
		if err != nil {
			return err
		}
		batch, length = batch[:0], 0
		records++
		return write(record)
	}
	v.image.Ascend(func(e core.Entry) bool {
		batch = append(batch, memvault.Op{Key: e.Key, Value: e.Value})
		if length += len(e.Key) + len(e.Value); length >= snapshotRecord {
			err = flush()
		}
		return err == nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return 0, 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, 0, fmt.Errorf("sync the vault's new file: %w", err)
	}
	return size, records, nil
}

// wipe destroys the wrapped data key of a log that no longer counts and
// closes it: without it the old records are noise, wherever their blocks lie.
// On media that write elsewhere it is an attempt, which the threat model says.
func wipe(old *os.File) error {
	if old == nil {
		return nil
	}
	defer old.Close()
	if _, err := old.WriteAt(make([]byte, headerSize), 0); err != nil {
		return fmt.Errorf("wipe the old vault: %w", err)
	}
	if err := old.Sync(); err != nil {
		return fmt.Errorf("wipe the old vault: %w", err)
	}
	return nil
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the vault's directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the vault's directory: %w", err)
	}
	return nil
}
