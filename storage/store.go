// Package storage keeps everything a homeserver must not forget: accounts,
// devices and their prekeys, mailboxes, queues to peers, consents and the audit
// log. It is the only place with SQL.
//
// It does not decide who may do what, wake anyone, or read content: personal
// columns pass through a Sealer, payloads arrive sealed.
package storage

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Limits of a device's mailbox when Options leave them zero: federation.md 9.
const (
	DefaultMailboxMails = 20_000
	DefaultMailboxBytes = 256 << 20
)

// The write-ahead log. SQLite copies it back into the database in the commit
// that lengthens it past DefaultLogPages, and cuts the file down to logKept
// bytes when it begins anew, so its size stays bounded while no read lasts for
// ever. 1,000 pages cost a fifth more
// written bytes (14.2 against 11.7 KiB a message), 16,384 save little more
// (10.0) and pause for half as long again: BenchmarkCheckpoint.
const (
	DefaultLogPages = 4096 // of 4 KiB: 16 MiB
	logKept         = 32 << 20
)

// Options of Open. Path, Sealer and Index are required.
type Options struct {
	Path string // the database file; its folder must exist

	// Sealer and Index protect the personal columns; see package keystore.
	// Both must be safe for concurrent use.
	Sealer Sealer
	Index  func(label string, value []byte) []byte

	Now    func() time.Time // time.Now if nil
	Random io.Reader        // nothing is drawn by this package today; kept for records that need it
	Log    *slog.Logger     // discards if nil

	MailboxMails int64 // mails of one device, DefaultMailboxMails if 0
	MailboxBytes int64 // bytes of one device's mails, DefaultMailboxBytes if 0
	MaxBatch     int   // updates that share one commit, 256 if 0
	Readers      int   // connections for View, 4 if 0
	LogPages     int   // pages of the write-ahead log before it is copied back, DefaultLogPages if 0

	// MailFloor is the least sequence number of mail that is stored from now on,
	// see MailFloor. A database that was put back to an older state would else give
	// numbers again which a device has acknowledged, and the device would take new
	// mail for old. With 0 the numbers go on where they ended.
	MailFloor int64

	Faults *Faults // tests only: makes durable steps of the writer fail
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	opts    Options
	d       dialect
	lock    *fileLock
	connect func(ctx context.Context) (driver.Conn, error) // for the writer
	read    driver.Connector

	mailboxMails, mailboxBytes int64
	seqFloor                   int64 // see MailFloor

	queue   queue
	stopped chan struct{} // closed when the writer has ended
	counts  counters

	readers chan *conn // capacity: Options.Readers; nil entries are not yet opened
	closing sync.Once
	closed  chan struct{} // closed by Close
}

// Open opens or creates the database, brings its schema up to date and starts
// the writer, which Close ends. It returns ErrInUse when another process has
// the database, ErrNewerSchema when a later release wrote it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Path == "" || o.Sealer == nil || o.Index == nil {
		return nil, errors.New("storage: Path, Sealer and Index are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 256
	}
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.MailboxMails <= 0 {
		o.MailboxMails = DefaultMailboxMails
	}
	if o.MailboxBytes <= 0 {
		o.MailboxBytes = DefaultMailboxBytes
	}
	if o.LogPages <= 0 {
		o.LogPages = DefaultLogPages
	}
	s := &Store{
		opts: o, d: sqliteDialect(), mailboxMails: o.MailboxMails, mailboxBytes: o.MailboxBytes, seqFloor: o.MailFloor,
		stopped: make(chan struct{}), closed: make(chan struct{}), readers: make(chan *conn, o.Readers),
	}
	s.queue.wake = make(chan struct{}, 1)
	for range o.Readers {
		s.readers <- nil
	}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	// SQLite would create the file with the process's umask; the log and the
	// index beside it take over these bits.
	f, err := os.OpenFile(s.opts.Path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if s.lock, err = lockFile(s.opts.Path + ".lock"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.lock.close()
		}
	}()
	write, err := sqliteConnector(s.opts.Path, s.opts.LogPages)
	if err != nil {
		return err
	}
	if s.read, err = sqliteConnector(s.opts.Path, 0); err != nil {
		return err
	}
	if err := migrate(ctx, s.d, write); err != nil {
		return err
	}
	if s.opts.Faults != nil {
		write = s.opts.Faults.wrap(write)
	}
	s.connect = write.Connect
	dc, err := s.connect(ctx)
	if err != nil {
		return err
	}
	go s.write(newConn(dc, s.d))
	return nil
}

// Close waits for the updates that have begun, refuses those that have not and
// closes the files. It waits for views to end.
func (s *Store) Close() error {
	var errs []error
	s.closing.Do(func() {
		close(s.closed)
		s.queue.close()
		<-s.stopped
		for range cap(s.readers) {
			if c := <-s.readers; c != nil {
				errs = append(errs, c.close())
			}
		}
		errs = append(errs, s.queue.closeErr, s.lock.close())
	})
	return errors.Join(errs...)
}

// View runs fn on a consistent snapshot that includes every update answered
// before it began. fn must not call Update, and must not keep tx. It returns
// fn's error.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	var c *conn
	select {
	case c = <-s.readers:
	case <-s.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	keep := false
	defer func() {
		if !keep && c != nil {
			c.close()
			c = nil
		}
		s.readers <- c
	}()
	if err := ctx.Err(); err != nil {
		keep = true
		return err
	}
	if c == nil {
		dc, err := s.read.Connect(ctx)
		if err != nil {
			return fmt.Errorf("open a reader: %w", s.d.translate(err))
		}
		c = newConn(dc, s.d)
	}
	if _, err := c.exec(s.d.beginRead); err != nil {
		return fmt.Errorf("begin a read: %w", err)
	}
	err := fn(&Tx{s: s, c: c, now: s.now(), readOnly: true})
	// A panic in fn passes through; the connection is then thrown away.
	if _, err := c.exec("ROLLBACK"); err == nil {
		keep = true
	}
	return err
}

func (s *Store) now() clearbox.Millis { return clearbox.Millis(s.opts.Now().UnixMilli()) }

// Ping tells whether the database answers a read.
func (s *Store) Ping(ctx context.Context) error {
	return s.View(ctx, func(tx *Tx) error {
		var one int64
		return tx.c.row("SELECT 1", nil, &one)
	})
}

// Check reads the whole database with its indexes and reports damage. It takes
// longer than reading the file does, and writers go on meanwhile.
func (s *Store) Check(ctx context.Context) error {
	return s.View(ctx, func(tx *Tx) error {
		var result string
		if err := tx.c.row(s.d.soundCheck, nil, &result); err != nil {
			return fmt.Errorf("check the database: %w", err)
		}
		if result != "ok" {
			return fmt.Errorf("the database is damaged: %s", result)
		}
		return nil
	})
}

// SchemaVersion is the number of the newest migration that was applied.
func (s *Store) SchemaVersion(ctx context.Context) (int64, error) {
	var v int64
	err := s.View(ctx, func(tx *Tx) (err error) {
		v, err = schemaVersion(tx.c)
		return err
	})
	return v, err
}

// Stats are counts since Open.
type Stats struct {
	Updates    int64 // answered as stored
	RolledBack int64 // undone because fn failed
	Commits    int64 // transactions that stored something: one sync each
	Failed     int64 // transactions lost with all their updates
	Largest    int64 // updates in the largest commit
	Waiting    int64 // updates in the queue now
	WALBytes   int64 // size of the write-ahead log now
}

// Stats reads the counters.
func (s *Store) Stats() Stats {
	st := Stats{
		Updates: s.counts.updates.Load(), RolledBack: s.counts.rolledBack.Load(), Commits: s.counts.commits.Load(),
		Failed: s.counts.failed.Load(), Largest: s.counts.largest.Load(), Waiting: int64(s.queue.len()),
	}
	if fi, err := os.Stat(s.opts.Path + "-wal"); err == nil {
		st.WALBytes = fi.Size()
	}
	return st
}

type counters struct {
	updates, rolledBack, commits, failed, largest atomic.Int64
}
