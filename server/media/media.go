// Package media is responsible for attachments: it takes the ciphertext that
// people here upload, within their quota, keeps it until it expires or is
// deleted, gives it to those who show its secret, and fetches for people here
// what lies at other servers, of which it keeps nothing.
//
// It is not responsible for files (storage/blob), for the wire between servers
// (federation) or for HTTP (server/api), and it cannot read what it passes on.
package media

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/blob"
)

// What Options are when they are zero.
const (
	DefaultMaxObject  = 100 << 20
	DefaultMaxAccount = 2 << 30
	DefaultTTL        = 30 * 24 * time.Hour

	maxObjects    = 10_000 // of one account
	maxReads      = 4      // of one account at one time
	maxRelays     = 32     // reads at other servers at one time; each holds two pieces in memory
	expireEvery   = time.Minute
	orphansEvery  = time.Hour
	sweepLimit    = 500 // rows in one update
	SecretSize    = 32  // bytes of what opens an object
	piece         = federation.MaxMediaPiece
	noSuchObject  = "there is no such attachment"
	tooManyAtOnce = "too many attachments are being read at a time"
)

// Remote asks other servers; *federation.Client is one.
type Remote interface {
	Media(ctx context.Context, server clearbox.ServerName, q federation.MediaQuestion) (*federation.MediaPiece, error)
}

// Options of a Service.
type Options struct {
	Log *slog.Logger // discards if nil

	MaxObject  int64         // bytes of one object, DefaultMaxObject if 0; at most federation.MaxMediaSize
	MaxAccount int64         // bytes of one account, DefaultMaxAccount if 0
	TTL        time.Duration // how long an object is kept, DefaultTTL if 0
	Admit      func() error  // refuses uploads while the disk is nearly full; nil admits all
	Remote     Remote        // nil: there are no other servers
}

// Service keeps attachments. Run makes it forget them. It is safe for
// concurrent use.
type Service struct {
	store  *storage.Store
	blobs  *blob.Store
	server clearbox.ServerName
	o      Options

	mu     sync.Mutex // guards what follows
	reads  map[int64]int
	relays int
}

// New starts nothing.
func New(store *storage.Store, blobs *blob.Store, server clearbox.ServerName, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxObject == 0 {
		o.MaxObject = DefaultMaxObject
	}
	o.MaxObject = min(o.MaxObject, federation.MaxMediaSize) // more, no other server would fetch
	if o.MaxAccount == 0 {
		o.MaxAccount = DefaultMaxAccount
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Admit == nil {
		o.Admit = func() error { return nil }
	}
	return &Service{store: store, blobs: blobs, server: server, o: o, reads: map[int64]int{}}
}

// Run forgets what has expired and sweeps away what a crash left behind, until
// ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		s.expire(ctx)
		if n%int(orphansEvery/expireEvery) == 0 {
			s.sweep(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) expire(ctx context.Context) {
	for {
		var gone []clearbox.ObjectID
		err := s.store.Update(ctx, func(tx *storage.Tx) (err error) {
			gone, err = tx.ExpireMedia(sweepLimit)
			return err
		})
		if err != nil {
			s.failed(ctx, "attachments were not expired and will be", err)
			return
		}
		s.remove(ctx, gone...)
		if len(gone) < sweepLimit {
			return
		}
	}
}

func (s *Service) sweep(ctx context.Context) {
	n, err := s.blobs.Sweep(ctx, func(ctx context.Context, names []blob.Name) (orphans []blob.Name, err error) {
		objects := make([]clearbox.ObjectID, len(names))
		for i, name := range names {
			objects[i] = clearbox.ObjectID(name)
		}
		err = s.store.View(ctx, func(tx *storage.Tx) error {
			unknown, err := tx.UnknownMedia(objects)
			for _, object := range unknown {
				orphans = append(orphans, blob.Name(object))
			}
			return err
		})
		return orphans, err
	})
	if err != nil {
		s.failed(ctx, "attachments without an owner were not swept and will be", err)
	}
	if n > 0 {
		s.o.Log.Info("attachments without an owner swept", "count", n)
	}
}

// remove deletes files whose rows are gone. What fails is left to the sweep.
func (s *Service) remove(ctx context.Context, objects ...clearbox.ObjectID) {
	for _, object := range objects {
		if err := s.blobs.Remove(blob.Name(object)); err != nil {
			s.failed(ctx, "a deleted attachment's file is left to the sweep", err)
		}
	}
}

func (s *Service) failed(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		s.o.Log.Warn(what, "code", string(clearbox.CodeOf(err)), "error", err)
	}
}

// Upload is the state of one's own object.
type Upload struct {
	Object  clearbox.ObjectID
	Size    int64 // bytes, as announced
	Have    int64 // of them here
	Whole   bool
	Expires clearbox.Millis
}

// Create announces an object: its size in bytes and the SHA-256 of the secret
// that readers will show. Again with the same it gives the state. created tells
// whether it is new. The space counts from now on. Errors: CodeTooLarge,
// CodeQuota, CodeStoreFull, CodeConflict when the id is taken.
func (s *Service) Create(ctx context.Context, p auth.Principal, object clearbox.ObjectID, size int64, reader [sha256.Size]byte) (up Upload, created bool, err error) {
	if size < 1 {
		return up, false, &clearbox.Error{Code: clearbox.CodeBadRequest, Field: "/size", Text: "an attachment has at least one byte"}
	}
	if size > s.o.MaxObject {
		return up, false, clearbox.Errorf(clearbox.CodeTooLarge, "an attachment has at most %d bytes here", s.o.MaxObject)
	}
	if err := s.o.Admit(); err != nil {
		return up, false, err
	}
	var m storage.Media
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		m = storage.Media{Object: object, UserNo: p.UserNo, Reader: reader, Size: size, Expires: tx.Now() + clearbox.Millis(s.o.TTL.Milliseconds())}
		created = false
		objects, bytes, err := tx.MediaUse(p.UserNo)
		if err != nil {
			return err
		}
		had, err := tx.Media(object)
		switch {
		case err == nil && had.UserNo == p.UserNo && had.Size == size && had.Reader == reader:
			m = had
			return nil
		case err == nil:
			return clearbox.Errorf(clearbox.CodeConflict, "there is another attachment with this id")
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
		if objects >= maxObjects || size > s.o.MaxAccount-bytes {
			return clearbox.Errorf(clearbox.CodeQuota, "your attachments take %d of %d bytes: delete some first", bytes, s.o.MaxAccount)
		}
		created = true
		return tx.PutMedia(&m)
	})
	if err != nil {
		return up, false, err
	}
	up, err = s.state(&m)
	return up, created, err
}

func (s *Service) state(m *storage.Media) (Upload, error) {
	up := Upload{Object: m.Object, Size: m.Size, Have: m.Size, Whole: m.Whole, Expires: m.Expires}
	if m.Whole {
		return up, nil
	}
	var err error
	up.Have, _, err = s.blobs.Have(blob.Name(m.Object))
	return up, err
}

// own finds an object of the caller; another's does not exist for them.
func (s *Service) own(ctx context.Context, p auth.Principal, object clearbox.ObjectID) (m storage.Media, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) (err error) {
		m, err = tx.Media(object)
		return err
	})
	if err == nil && m.UserNo != p.UserNo || errors.Is(err, storage.ErrNotFound) {
		return m, clearbox.Errorf(clearbox.CodeNotFound, noSuchObject)
	}
	return m, err
}

// State tells how far an upload is; CodeNotFound unless it is the caller's.
func (s *Service) State(ctx context.Context, p auth.Principal, object clearbox.ObjectID) (Upload, error) {
	m, err := s.own(ctx, p, object)
	if err != nil {
		return Upload{}, err
	}
	return s.state(&m)
}

// Append stores what body gives from offset at on and tells how far the upload
// is then, also beside an error: what arrived before body failed is kept. What it
// counts is durable. *blob.OffsetError: the upload stands elsewhere.
func (s *Service) Append(ctx context.Context, p auth.Principal, object clearbox.ObjectID, at int64, body reader) (Upload, error) {
	if err := s.o.Admit(); err != nil {
		return Upload{}, err
	}
	m, err := s.own(ctx, p, object)
	if err != nil {
		return Upload{}, err
	}
	up := Upload{Object: object, Size: m.Size, Have: m.Size, Whole: m.Whole, Expires: m.Expires}
	if m.Whole {
		return up, &blob.OffsetError{Have: m.Size}
	}
	up.Have, err = s.blobs.Append(blob.Name(object), at, m.Size, body)
	return up, err
}

type reader interface{ Read([]byte) (int, error) }

// Finish makes the object readable once all of it is here and has the digest. It
// is durable when it returns, and may be repeated. CodeConflict: bytes are
// missing, or it was finished with another digest. CodeBadRequest: it arrived
// damaged and was thrown away; the upload begins anew.
func (s *Service) Finish(ctx context.Context, p auth.Principal, object clearbox.ObjectID, digest [sha256.Size]byte) (Upload, error) {
	m, err := s.own(ctx, p, object)
	if err != nil {
		return Upload{}, err
	}
	if m.Whole {
		if m.Digest != digest {
			return Upload{}, clearbox.Errorf(clearbox.CodeConflict, "it was finished with another digest")
		}
		return s.state(&m)
	}
	if err := s.blobs.Finish(blob.Name(object), m.Size, digest); err != nil {
		return Upload{}, err
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error { return tx.FinishMedia(object, digest) })
	if errors.Is(err, storage.ErrNotFound) {
		s.remove(ctx, object) // deleted meanwhile
		return Upload{}, clearbox.Errorf(clearbox.CodeNotFound, noSuchObject)
	}
	if err != nil {
		return Upload{}, err
	}
	m.Whole = true
	return s.state(&m)
}

// Delete deletes an object of the caller for good; nobody anywhere gets it from
// then on, since no other server keeps any of it.
func (s *Service) Delete(ctx context.Context, p auth.Principal, object clearbox.ObjectID) error {
	err := s.store.Update(ctx, func(tx *storage.Tx) error { return tx.DeleteMedia(p.UserNo, object) })
	if errors.Is(err, storage.ErrNotFound) {
		return clearbox.Errorf(clearbox.CodeNotFound, noSuchObject)
	}
	if err == nil {
		s.remove(ctx, object)
	}
	return err
}

// Erase deletes every object of an account and tells how many there were.
func (s *Service) Erase(ctx context.Context, userNo int64) (int, error) {
	var gone []clearbox.ObjectID
	err := s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		gone, err = tx.EraseMedia(userNo)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.remove(ctx, gone...)
	return len(gone), nil
}

// find finds a whole object for who shows its secret. One that is not there and
// a wrong secret look alike.
func (s *Service) find(ctx context.Context, object clearbox.ObjectID, secret [SecretSize]byte) (m storage.Media, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) (err error) {
		m, err = tx.Media(object)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return m, err
	}
	hash := sha256.Sum256(secret[:])
	if subtle.ConstantTimeCompare(hash[:], m.Reader[:]) != 1 || err != nil || !m.Whole {
		return storage.Media{}, clearbox.Errorf(clearbox.CodeNotFound, noSuchObject)
	}
	return m, nil
}

// PeerMedia serves federation.Media. For whom the peer asks it does not say.
func (s *Service) PeerMedia(ctx context.Context, _ clearbox.ServerName, q federation.MediaQuestion) (federation.MediaPiece, error) {
	m, err := s.find(ctx, q.Object, q.Secret)
	if err != nil {
		return federation.MediaPiece{}, err
	}
	out := federation.MediaPiece{Size: m.Size, Digest: m.Digest}
	n := min(int64(q.Most), m.Size-q.From)
	if n <= 0 {
		return out, nil
	}
	o, err := s.blobs.Object(blob.Name(q.Object))
	if err != nil {
		return federation.MediaPiece{}, err
	}
	defer o.Close()
	out.Data = make([]byte, n)
	if _, err := o.ReadAt(out.Data, q.From); err != nil {
		return federation.MediaPiece{}, clearbox.Wrap(clearbox.CodeUnavailable, "the server's storage failed", err)
	}
	return out, nil
}
