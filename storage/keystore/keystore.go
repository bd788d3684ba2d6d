// Package keystore keeps a key for every person and seals under it. Destroying
// a person's key is erasing the person: what it sealed stays unreadable
// wherever a copy lies (gdpr.md, section 8).
//
// It does not know whose key is whose, nor what is sealed.
package keystore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox/storage"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

//go:embed schema/*.sql
var schema embed.FS

// ErrShredded is what Seal and Open return for a destroyed key.
var ErrShredded = storage.ErrShredded

// ErrWrongRootKey: the file was made with another root key.
var ErrWrongRootKey = errors.New("the root key does not fit this keystore")

// Options of Open; the zero value is useful.
type Options struct {
	Now    func() time.Time // time.Now if nil
	Random io.Reader        // crypto/rand if nil; must be safe for concurrent use
	// CachedPersons bounds the persons whose keys are held unwrapped in memory
	// (about 1.5 KiB each), 20,000 if 0.
	CachedPersons int
}

const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	version   = 1 // first byte of everything sealed here
)

// Keystore is an open keystore; it implements storage.Sealer. It is safe for
// concurrent use.
type Keystore struct {
	opts  Options
	db    *sql.DB
	wrap  cipher.AEAD // wraps persons' keys
	index []byte      // key of the blind indexes
	srv   *person     // storage.ServerKey

	// loading is held while a key is read from or destroyed in the file, so that
	// a key read before its destruction cannot enter the cache after it.
	loading sync.Mutex

	mu    sync.RWMutex // guards cache
	cache map[storage.KeyID]*person
}

// person holds a person's data keys, derived when first needed. The key that
// they come from is not kept.
type person struct {
	purposes [len(purposes)]cipher.AEAD
}

var purposes = [...]string{storage.PurposeProfile, storage.PurposeContacts, storage.PurposeMailbox, storage.PurposeLedger, storage.PurposeAudit}

// Open opens or creates the keystore at path with its root key of 32 bytes,
// which it does not keep. ErrWrongRootKey when the file was made with another.
func Open(ctx context.Context, path string, rootKey []byte, o Options) (*Keystore, error) {
	if len(rootKey) != RootKeySize {
		return nil, fmt.Errorf("a root key has %d bytes", RootKeySize)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.CachedPersons <= 0 {
		o.CachedPersons = 20_000
	}
	k := &Keystore{opts: o, cache: make(map[storage.KeyID]*person)}
	var err error
	if k.wrap, err = derive(rootKey, "clearbox keystore v1 wrap"); err != nil {
		return nil, err
	}
	if k.index, err = hkdf.Key(sha256.New, rootKey, nil, "clearbox keystore v1 index", keySize); err != nil {
		return nil, err
	}
	server, err := hkdf.Key(sha256.New, rootKey, nil, "clearbox keystore v1 server", keySize)
	if err != nil {
		return nil, err
	}
	if k.srv, err = newPerson(server); err != nil {
		return nil, err
	}
	if err := k.open(ctx, path); err != nil {
		return nil, fmt.Errorf("open the keystore: %w", err)
	}
	return k, nil
}

func derive(key []byte, info string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, nil, info, keySize)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// newPerson derives the data keys and clears key.
func newPerson(key []byte) (*person, error) {
	defer clear(key)
	p := new(person)
	for i, purpose := range purposes {
		aead, err := derive(key, "clearbox data key v1 "+purpose)
		if err != nil {
			return nil, err
		}
		p.purposes[i] = aead
	}
	return p, nil
}

func (k *Keystore) open(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	q := url.Values{"_txlock": {"immediate"}, "_dqs": {"0"}, "_defensive": {"1"}, "_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)", "temp_store(MEMORY)", "trusted_schema(OFF)",
	}}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	connector, err := sqlite.NewConnector(u.String())
	if err != nil {
		return err
	}
	k.db = sql.OpenDB(connector)
	k.db.SetMaxOpenConns(1)
	if err := k.prepare(ctx); err != nil {
		k.db.Close()
		return err
	}
	return nil
}

// prepare migrates and checks the root key.
func (k *Keystore) prepare(ctx context.Context) error {
	if err := k.migrate(ctx); err != nil {
		return err
	}
	var sealed []byte
	err := k.db.QueryRowContext(ctx, "SELECT sealed FROM root_check WHERE no = 1").Scan(&sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if sealed, err = k.seal(k.wrap, []byte("root_check|sealed|1|check"), []byte("clearbox")); err != nil {
			return err
		}
		_, err = k.db.ExecContext(ctx, "INSERT INTO root_check (no, sealed) VALUES (1, $1)", sealed)
		return err
	case err != nil:
		return err
	}
	if _, err := open(k.wrap, []byte("root_check|sealed|1|check"), sealed); err != nil {
		return ErrWrongRootKey
	}
	return nil
}

const newest = 1 // migration

func (k *Keystore) migrate(ctx context.Context) error {
	var tables, current int64
	if err := k.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'goose_db_version'").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 {
		if err := k.db.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version").Scan(&current); err != nil {
			return err
		}
	}
	switch {
	case current == newest:
		return nil
	case current > newest:
		return fmt.Errorf("schema %d, this release knows %d: %w", current, newest, storage.ErrNewerSchema)
	}
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, k.db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the file and forgets the cached keys.
func (k *Keystore) Close() error {
	k.loading.Lock()
	defer k.loading.Unlock()
	k.mu.Lock()
	clear(k.cache)
	k.mu.Unlock()
	return k.db.Close()
}

// Create makes a person's key. When it returns the key is on the disk.
func (k *Keystore) Create(ctx context.Context) (storage.KeyID, error) {
	var id storage.KeyID
	var key [keySize]byte
	defer clear(key[:])
	for _, b := range [][]byte{id[:], key[:]} {
		if _, err := io.ReadFull(k.opts.Random, b); err != nil {
			return storage.KeyID{}, fmt.Errorf("draw a person's key: %w", err)
		}
	}
	wrapped, err := k.seal(k.wrap, wrapAD(id), key[:])
	if err != nil {
		return storage.KeyID{}, err
	}
	if _, err := k.db.ExecContext(ctx, "INSERT INTO person_keys (id, wrapped, destroyed) VALUES ($1, $2, 0)", id[:], wrapped); err != nil {
		return storage.KeyID{}, fmt.Errorf("store a person's key: %w", err)
	}
	return id, nil
}

// Destroy makes everything that the key sealed unreadable. When it returns, the
// key is gone from memory and from the file, its log included; on flash media
// old blocks may live on until the disk reuses them. Destroying a key again, or
// one that never was, does nothing.
func (k *Keystore) Destroy(ctx context.Context, id storage.KeyID) error {
	k.loading.Lock()
	defer k.loading.Unlock()
	// From the first moment on nothing more is sealed under it, whatever the
	// file says.
	k.mu.Lock()
	delete(k.cache, id)
	k.mu.Unlock()
	_, err := k.db.ExecContext(ctx, "UPDATE person_keys SET wrapped = $1, destroyed = $2 WHERE id = $3 AND destroyed = 0",
		[]byte{}, max(1, k.opts.Now().UnixMilli()), id[:])
	if err != nil {
		return fmt.Errorf("destroy a key: %w", err)
	}
	// The log still holds the page as it was.
	var busy, log, moved int64
	if err := k.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil {
		return fmt.Errorf("destroy a key: clear the log: %w", err)
	}
	if busy != 0 {
		return errors.New("destroy a key: the log could not be cleared; try again")
	}
	return nil
}

// Destroyed tells whether the key was destroyed (or never was).
func (k *Keystore) Destroyed(ctx context.Context, id storage.KeyID) (bool, error) {
	var n int64
	err := k.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM person_keys WHERE id = $1 AND destroyed = 0", id[:]).Scan(&n)
	return n == 0, err
}

// Seal implements storage.Sealer: version, random nonce, AES-256-GCM. A data
// key may seal 2^32 values before nonces are likely to meet.
func (k *Keystore) Seal(id storage.KeyID, purpose string, ad, plaintext []byte) ([]byte, error) {
	aead, err := k.data(id, purpose)
	if err != nil {
		return nil, err
	}
	return k.seal(aead, ad, plaintext)
}

// Open implements storage.Sealer. ErrShredded: the key was destroyed.
func (k *Keystore) Open(id storage.KeyID, purpose string, ad, sealed []byte) ([]byte, error) {
	aead, err := k.data(id, purpose)
	if err != nil {
		return nil, err
	}
	return open(aead, ad, sealed)
}

// Index is a keyed hash by which a sealed value is found: HMAC-SHA256 under a
// key that comes from the root key. label names the column.
func (k *Keystore) Index(label string, value []byte) []byte {
	h := hmac.New(sha256.New, k.index)
	io.WriteString(h, label)
	h.Write([]byte{0}) // labels hold no zero byte, so label and value cannot run together
	h.Write(value)
	return h.Sum(nil)
}

func (k *Keystore) data(id storage.KeyID, purpose string) (cipher.AEAD, error) {
	p, err := k.person(id)
	if err != nil {
		return nil, err
	}
	for i := range purposes {
		if purposes[i] == purpose {
			return p.purposes[i], nil
		}
	}
	return nil, fmt.Errorf("keystore: no such purpose: %q", purpose)
}

func (k *Keystore) person(id storage.KeyID) (*person, error) {
	if id == storage.ServerKey {
		return k.srv, nil
	}
	if id.IsZero() {
		return nil, errors.New("keystore: the zero key seals nothing")
	}
	k.mu.RLock()
	p := k.cache[id]
	k.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	return k.load(id)
}

func (k *Keystore) load(id storage.KeyID) (*person, error) {
	k.loading.Lock()
	defer k.loading.Unlock()
	k.mu.RLock()
	p := k.cache[id]
	k.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	var wrapped []byte
	err := k.db.QueryRowContext(context.Background(), "SELECT wrapped FROM person_keys WHERE id = $1 AND destroyed = 0", id[:]).Scan(&wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrShredded
	}
	if err != nil {
		return nil, fmt.Errorf("read a person's key: %w", err)
	}
	key, err := open(k.wrap, wrapAD(id), wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap a person's key: %w", err)
	}
	if p, err = newPerson(key); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.cache) >= k.opts.CachedPersons {
		// Any one: which is drawn does not matter at this size.
		for other := range k.cache {
			delete(k.cache, other)
			break
		}
	}
	k.cache[id] = p
	return p, nil
}

func wrapAD(id storage.KeyID) []byte {
	return append(append([]byte("person_keys|wrapped|"), id[:]...), "|wrap"...)
}

func (k *Keystore) seal(aead cipher.AEAD, ad, plaintext []byte) ([]byte, error) {
	out := make([]byte, 1+nonceSize, 1+nonceSize+len(plaintext)+tagSize)
	out[0] = version
	if _, err := io.ReadFull(k.opts.Random, out[1:]); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return aead.Seal(out, out[1:1+nonceSize], plaintext, ad), nil
}

func open(aead cipher.AEAD, ad, sealed []byte) ([]byte, error) {
	if len(sealed) < 1+nonceSize+tagSize || sealed[0] != version {
		return nil, errors.New("keystore: not a sealed value")
	}
	plain, err := aead.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:], ad)
	if err != nil {
		return nil, errors.New("keystore: a sealed value does not open: it was altered or belongs elsewhere")
	}
	return plain, nil
}
