package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// Names of the files in a vault's directory.
const (
	logName  = "vault.log"
	newName  = "vault.new"
	markName = "vault.mark"
	lockName = "vault.lock"
)

// Options of Open.
type Options struct {
	Secret Secret
	Random io.Reader
	// Create makes a vault where there is none; ErrExists where there is one.
	Create bool
	// Argon is the cost of the passphrase in a vault that is created.
	Argon Argon
	// Slack is how many bytes of dead records the log may hold before it is
	// compacted; it may always hold as many as there are live ones. 0 means 1 MiB.
	Slack int64
}

// Vault is a core.Vault in a directory. Safe for concurrent use.
type Vault struct {
	dir    string
	random io.Reader
	slack  int64
	step   func(stage string) error // a test's crash, or nil

	lockFile *os.File

	// mu guards everything below. Held for writing, it makes Updates serial:
	// a record is on disk before the image shows it.
	mu      sync.RWMutex
	image   memvault.Image
	kek     []byte
	head    header
	seal    *sealer
	log     *os.File
	size    int64  // bytes of log that are synced
	records uint64 // records in log
	markKey []byte
	mark    *os.File
	err     error // why no more work is done
}

var _ core.Vault = (*Vault)(nil)

// Exists tells whether there is a vault in dir.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, logName))
	return err == nil
}

// Open opens the vault in dir, or creates it there if opts says so. It gives
// ErrLocked, ErrAbsent, ErrExists, ErrWrongKey, ErrRolledBack, ErrVersion or a
// *CorruptError. The caller closes the vault.
func Open(dir string, opts Options) (*Vault, error) { return open(dir, opts, nil) }

func open(dir string, opts Options, step func(string) error) (_ *Vault, err error) {
	if _, err := opts.Secret.kdf(); err != nil {
		return nil, err
	}
	if !opts.Create {
		if _, err := os.Stat(filepath.Join(dir, logName)); errors.Is(err, os.ErrNotExist) {
			return nil, ErrAbsent
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the vault's directory: %w", err)
	}
	v := &Vault{dir: dir, random: opts.Random, slack: opts.Slack, step: step}
	if v.slack == 0 {
		v.slack = 1 << 20
	}
	defer func() {
		if err != nil {
			v.closeFiles()
		}
	}()
	if v.lockFile, err = os.OpenFile(v.path(lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open the vault's lock: %w", err)
	}
	if err := lock(v.lockFile); err != nil {
		return nil, err
	}
	if err := os.Remove(v.path(newName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an unfinished compaction: %w", err)
	}
	_, err = os.Stat(v.path(logName))
	switch {
	case errors.Is(err, os.ErrNotExist) && opts.Create:
		err = v.create(opts)
	case errors.Is(err, os.ErrNotExist):
		err = ErrAbsent
	case err == nil && opts.Create:
		err = ErrExists
	case err == nil:
		err = v.load(opts.Secret)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Destroy closes the vault and removes its files for good, and its directory if
// nothing else is in it.
func (v *Vault) Destroy() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = ErrClosed
	var failed error
	for _, name := range []string{logName, newName, markName, lockName} {
		if err := os.Remove(v.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	v.closeFiles()
	_ = os.Remove(v.dir) // others' files stay where they are, with it
	return failed
}

func (v *Vault) path(name string) string { return filepath.Join(v.dir, name) }

// at lets a test crash between two steps.
func (v *Vault) at(stage string) error {
	if v.step == nil {
		return nil
	}
	return v.step(stage)
}

// create writes an empty log and its mark.
func (v *Vault) create(opts Options) error {
	kdf, err := opts.Secret.kdf()
	if err != nil {
		return err
	}
	v.head = header{kdf: kdf}
	if kdf == kdfArgon2id {
		v.head.argon = opts.Argon.orDefault()
	}
	if _, err := io.ReadFull(v.random, v.head.salt[:]); err != nil {
		return fmt.Errorf("draw a salt: %w", err)
	}
	if v.kek, err = v.head.wrappingKey(opts.Secret); err != nil {
		return err
	}
	if v.markKey, err = markKey(v.kek); err != nil {
		return err
	}
	// The mark is there before the log is: a log without one was tampered with.
	if v.mark, err = os.OpenFile(v.path(markName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return fmt.Errorf("create the vault's mark: %w", err)
	}
	if err := v.writeMark(true); err != nil {
		return err
	}
	return v.rewrite()
}

// load reads the whole log into memory.
func (v *Vault) load(secret Secret) error {
	var err error
	if v.log, err = os.OpenFile(v.path(logName), os.O_RDWR, 0); err != nil {
		return fmt.Errorf("open the vault: %w", err)
	}
	b, err := io.ReadAll(v.log)
	if err != nil {
		return fmt.Errorf("read the vault: %w", err)
	}
	head, err := decodeHeader(b)
	if err != nil {
		return err
	}
	v.head = *head
	if v.kek, err = head.wrappingKey(secret); err != nil {
		return err
	}
	data, err := head.unwrap(v.kek)
	if err != nil {
		return err
	}
	if v.markKey, err = markKey(v.kek); err != nil {
		return err
	}
	if v.seal, err = newSealer(data, head.generation); err != nil {
		return err
	}
	v.size = headerSize
	for v.size < int64(len(b)) {
		plain, size, err := v.seal.open(b[v.size:], v.records)
		if errors.Is(err, errCut) {
			break
		}
		if err != nil {
			return &CorruptError{File: logName, Offset: v.size, Reason: err.Error()}
		}
		ops, err := decodeOps(plain)
		if err != nil {
			return &CorruptError{File: logName, Offset: v.size, Reason: err.Error()}
		}
		for i := range ops {
			ops[i].Value = bytes.Clone(ops[i].Value) // one small value must not keep a whole record
		}
		v.image.Apply(ops)
		v.size += int64(size)
		v.records++
	}
	if err := v.checkMark(); err != nil {
		return err
	}
	if v.size < int64(len(b)) {
		if err := v.log.Truncate(v.size); err != nil {
			return fmt.Errorf("cut off an unfinished record: %w", err)
		}
		if err := v.log.Sync(); err != nil {
			return fmt.Errorf("sync the vault: %w", err)
		}
	}
	return v.writeMark(false)
}

// checkMark refuses a log that is older than its mark.
func (v *Vault) checkMark() error {
	var err error
	if v.mark, err = os.OpenFile(v.path(markName), os.O_RDWR, 0); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return &CorruptError{File: markName, Reason: "it is missing"}
		}
		return fmt.Errorf("open the vault's mark: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(v.mark, markSize+1))
	if err != nil {
		return fmt.Errorf("read the vault's mark: %w", err)
	}
	m, err := decodeMark(b, v.markKey)
	if err != nil {
		return err
	}
	if m.generation > v.head.generation || m.generation == v.head.generation && m.records > v.records {
		return ErrRolledBack
	}
	return nil
}

// writeMark notes how far the log is. It is synced only where asked: a mark
// that is behind after a power cut detects less, and never refuses wrongly.
func (v *Vault) writeMark(sync bool) error {
	m := mark{generation: v.head.generation, records: v.records}
	if _, err := v.mark.WriteAt(m.encode(v.markKey), 0); err != nil {
		return fmt.Errorf("write the vault's mark: %w", err)
	}
	if sync {
		if err := v.mark.Sync(); err != nil {
			return fmt.Errorf("sync the vault's mark: %w", err)
		}
	}
	return nil
}

// View implements core.Vault.
func (v *Vault) View(ctx context.Context, fn func(core.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.err != nil {
		return v.err
	}
	return fn(memvault.NewTx(&v.image))
}

// Update implements core.Vault: one record, one sync. An empty transaction
// writes nothing.
func (v *Vault) Update(ctx context.Context, fn func(core.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return v.err
	}
	tx := memvault.NewTx(&v.image)
	if err := fn(tx); err != nil {
		return err
	}
	ops := tx.Ops()
	if len(ops) == 0 {
		return nil
	}
	for _, op := range ops {
		if len(op.Key) > maxKey {
			return fmt.Errorf("a vault key of %d bytes is too long", len(op.Key))
		}
	}
	record, err := v.seal.seal(nil, v.records, encodeOps(ops), v.random)
	if err != nil {
		return err
	}
	if err := v.append(record); err != nil {
		return err
	}
	v.image.Apply(ops)
	if v.size > headerSize+2*v.image.Bytes()+v.slack {
		if err := v.rewrite(); err != nil {
			// The transaction itself is durable, in whichever file counts.
			v.err = ErrBroken
		}
	}
	return nil
}

// append makes a record durable. A write that fails, say on a full disk, is
// taken back; where that or the sync fails the outcome is not known, and only
// opening the vault again tells.
func (v *Vault) append(record []byte) (err error) {
	undo := func() error { return errors.New("not undone") }
	defer func() {
		if err != nil && undo() != nil {
			v.err = ErrBroken
		}
	}()
	if err := v.at("append"); err != nil {
		return err
	}
	if _, err := v.log.WriteAt(record, v.size); err != nil {
		undo = func() error { return errors.Join(v.log.Truncate(v.size), v.log.Sync()) }
		return fmt.Errorf("write to the vault: %w", err)
	}
	if err := v.at("sync"); err != nil {
		return err
	}
	if err := v.log.Sync(); err != nil {
		return fmt.Errorf("sync the vault: %w", err)
	}
	v.size += int64(len(record))
	v.records++
	if err := v.at("mark"); err != nil {
		return err
	}
	return v.writeMark(false)
}

// Close syncs the mark and gives the lock back. The vault is useless after.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(v.err, ErrClosed) {
		return nil
	}
	var err error
	if v.err == nil {
		err = v.writeMark(true)
	}
	v.err = ErrClosed
	clear(v.kek)
	v.closeFiles()
	return err
}

func (v *Vault) closeFiles() {
	for _, f := range []*os.File{v.log, v.mark, v.lockFile} {
		if f != nil {
			f.Close() // nothing is buffered; what mattered was synced
		}
	}
}
