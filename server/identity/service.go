package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// SignsAlong is how long a former identity signs documents beside the new one.
// A peer that is away for longer must pin the new one by hand.
const SignsAlong = 30 * 24 * time.Hour

// RunsOut is how long before the documents signed in advance end that the
// server begins to say so.
const RunsOut = 14 * 24 * time.Hour

// Service is what an administrator does with the identity of a running server.
// A deed's audit row is written before the deed: the files are no part of the
// store's transaction. It is safe for concurrent use.
type Service struct {
	files Files
	self  *federation.Self
	store *storage.Store
	o     Options
	busy  sync.Mutex // one deed at a time; held across files and store
}

// Options of New.
type Options struct {
	Now    func() time.Time // default time.Now
	Random io.Reader        // default crypto/rand
	Log    *slog.Logger     // default discards
}

// New starts nothing.
func New(files Files, self *federation.Self, store *storage.Store, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{files: files, self: self, store: store, o: o}
}

func pinOf(public ed25519.PublicKey) string {
	pin := sha256.Sum256(public)
	return hex.EncodeToString(pin[:])
}

// Show tells how the identity stands.
func (s *Service) Show() wire.AdminIdentity {
	r := s.self.Report()
	public := r.Document.IdentityKey()
	out := wire.AdminIdentity{
		Server: r.Document.Server, Words: keys.FingerprintWords(public), Pin: pinOf(public),
		Seq: r.Document.Seq, Issued: r.Document.Issued, Expires: r.Document.Expires,
		Offline: r.Offline, OfflineUntil: r.OfflineUntil, Ahead: r.Ahead, Stale: r.Stale, Keys: []wire.AdminIdentityKey{},
	}
	if r.Previous != nil {
		out.PreviousWords, out.PreviousUntil = keys.FingerprintWords(r.Previous), r.PreviousUntil
	}
	for _, k := range r.Document.Keys {
		out.Keys = append(out.Keys, wire.AdminIdentityKey{
			ID: k.KID, Purpose: string(k.Purpose), NotBefore: k.NotBefore, Expires: k.Expires, InUse: r.InUse[k.KID],
		})
	}
	return out
}

// Until is when the documents signed in advance run out, if that is near; else 0.
func (s *Service) Until() clearbox.Millis {
	until := s.self.Report().OfflineUntil
	if until == 0 || time.UnixMilli(int64(until)).Sub(s.o.Now()) > RunsOut {
		return 0
	}
	return until
}

func (s *Service) audit(ctx context.Context, deed storage.AuditEntry) error {
	if err := s.store.Update(ctx, func(tx *storage.Tx) error { return tx.Audit(deed) }); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Rotate makes a new identity. The old one signs along for SignsAlong, so that
// peers follow by themselves.
func (s *Service) Rotate(ctx context.Context, deed storage.AuditEntry) (wire.AdminIdentity, error) {
	var none wire.AdminIdentity
	s.busy.Lock()
	defer s.busy.Unlock()
	r := s.self.Report()
	switch {
	case r.Offline:
		return none, clearbox.Errorf(clearbox.CodeConflict, "the identity is offline, and a new one needs its signature: clearbox identity import")
	case r.Previous != nil:
		return none, clearbox.Errorf(clearbox.CodeConflict, "the identity was changed already and the one before it signs along until %s; peers could not follow two changes",
			time.UnixMilli(int64(r.PreviousUntil)).UTC().Format(time.DateOnly))
	}
	if err := s.audit(ctx, deed); err != nil {
		return none, err
	}
	until := clearbox.Millis(s.o.Now().Add(SignsAlong).UnixMilli())
	id, err := s.files.Rotate(s.o.Random, until)
	if err != nil {
		return none, fmt.Errorf("write the new identity: %w", err)
	}
	s.o.Log.Warn("the identity of this server was changed")
	if err := s.self.SetIdentity(context.WithoutCancel(ctx), id); err != nil {
		return none, fmt.Errorf("the new identity is on the disk, and its document is issued within the hour: %w", err)
	}
	return s.Show(), nil
}

// Offline signs documents in advance and removes the key from the disk. The
// caller has an export of the identity with that pin that opens.
func (s *Service) Offline(ctx context.Context, deed storage.AuditEntry, b wire.AdminIdentityOffline) (wire.AdminIdentity, error) {
	var none wire.AdminIdentity
	s.busy.Lock()
	defer s.busy.Unlock()
	state, err := s.files.Read()
	if err != nil {
		return none, fmt.Errorf("read the identity: %w", err)
	}
	own := s.self.Document().IdentityKey()
	switch {
	case state.Offline():
		return none, clearbox.Errorf(clearbox.CodeConflict, "the identity is offline already")
	case !own.Equal(state.Public) || pinOf(own) != b.Pin:
		return none, clearbox.Errorf(clearbox.CodeConflict, "what was exported is not the identity that this server uses; nothing was removed")
	}
	life := time.Duration(b.TTL) * time.Second
	deed.Detail = "for " + life.String()
	if err := s.audit(ctx, deed); err != nil {
		return none, err
	}
	until, err := s.self.GoOffline(context.WithoutCancel(ctx), life)
	if err != nil {
		return none, err
	}
	if err := s.files.Remove(own); err != nil {
		return none, clearbox.Wrap(clearbox.CodeInternal, "documents are signed in advance, but the key could not be removed from the disk; remove it by hand", err)
	}
	s.o.Log.Warn("the identity of this server is offline", "until_ms", int64(until))
	return s.Show(), nil
}

// Online takes over the key that was put back on the disk.
func (s *Service) Online(ctx context.Context, deed storage.AuditEntry) (wire.AdminIdentity, error) {
	var none wire.AdminIdentity
	s.busy.Lock()
	defer s.busy.Unlock()
	state, err := s.files.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && state.Offline():
		return none, clearbox.Errorf(clearbox.CodeConflict, "there is no identity key on the disk: clearbox identity import")
	case err != nil:
		return none, fmt.Errorf("read the identity: %w", err)
	}
	if err := s.audit(ctx, deed); err != nil {
		return none, err
	}
	if err := s.self.SetIdentity(context.WithoutCancel(ctx), state.Identity); err != nil {
		return none, err
	}
	s.o.Log.Info("the identity of this server is back")
	return s.Show(), nil
}

// RevokeKey drops an operational key that may be stolen.
func (s *Service) RevokeKey(ctx context.Context, deed storage.AuditEntry, kid string) (wire.AdminIdentity, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	found := false
	for _, k := range s.self.Document().Keys {
		found = found || k.KID == kid
	}
	if !found {
		return wire.AdminIdentity{}, clearbox.Errorf(clearbox.CodeNotFound, "there is no operational key with this id; see `clearbox identity show`")
	}
	if s.self.Report().Offline {
		return wire.AdminIdentity{}, clearbox.Errorf(clearbox.CodeConflict, "the identity is offline, and only it can revoke a key: clearbox identity import")
	}
	deed.Object = kid
	if err := s.audit(ctx, deed); err != nil {
		return wire.AdminIdentity{}, err
	}
	if err := s.self.RevokeKey(context.WithoutCancel(ctx), kid); err != nil {
		return wire.AdminIdentity{}, err
	}
	s.o.Log.Warn("an operational key was revoked", "kid", kid)
	return s.Show(), nil
}
