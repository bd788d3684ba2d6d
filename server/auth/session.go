package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// bareTTL is the life of a session without a device, in place of
// Options.RefreshTTL: it is for getting out of trouble, not for staying.
const bareTTL = 24 * time.Hour

// Login checks the password and, when a device is named, its proof, and begins
// a session. Names that do not exist and wrong passwords are bad_credentials
// alike and take the same time. A valid password with a bad proof is
// bad_signature, clock_skew (At is too far from now), replay (seen before) or
// no_device (not, or no longer, a device of the account).
func (s *Service) Login(ctx context.Context, l Login) (Tokens, error) {
	if (l.Device == 0) != (l.Proof == nil) {
		return Tokens{}, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "a device and its proof come together", Field: "/device"}
	}
	if err := s.limit(s.byClient, "login|"+l.Client); err != nil {
		return Tokens{}, err
	}
	who, err := s.find(ctx, l.Name, l.Device)
	if err != nil {
		return Tokens{}, err
	}
	proof := s.checkProof(who, l)
	// Whoever holds a device of the account is not locked out by strangers who
	// try passwords on it.
	bucket := "name|" + who.bucket
	if l.Proof != nil && proof == nil {
		bucket = "device|" + who.bucket
	}
	if err := s.limit(s.byAccount, bucket); err != nil {
		return Tokens{}, err
	}
	ok, outdated, err := s.hasher.verify(ctx, who.user.Password, l.Password)
	if err != nil {
		return Tokens{}, err
	}
	if !ok {
		return Tokens{}, errBadCredentials()
	}
	if proof == nil && l.Proof != nil && !s.useProof(l) {
		proof = clearbox.Errorf(clearbox.CodeReplay, "this device proof was used before; make a new one")
	}
	if proof != nil {
		return Tokens{}, proof
	}
	fresh := "" // the hash at today's cost; a failure to make it is no reason to refuse
	if outdated {
		fresh, _ = s.hasher.hash(ctx, l.Password)
	}
	return s.begin(ctx, who.user, l.Device, fresh)
}

// LoginLinked begins a session of a device that another one of the account has
// just linked, without the password: that other one has a session, and handed the
// account over. Errors are those of Login.
func (s *Service) LoginLinked(ctx context.Context, userNo int64, l Login) (Tokens, error) {
	if l.Device == 0 || l.Proof == nil {
		return Tokens{}, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "a device and its proof are needed", Field: "/device"}
	}
	if err := s.limit(s.byClient, "login|"+l.Client); err != nil {
		return Tokens{}, err
	}
	var name clearbox.UID
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		user, err := tx.UserByNo(userNo)
		name = user.UID
		return err
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("look up who was linked: %w", err)
	}
	who, err := s.find(ctx, string(name), l.Device)
	if err != nil {
		return Tokens{}, err
	}
	if who.user.No == 0 {
		return Tokens{}, errBadCredentials() // banned meanwhile
	}
	if err := s.checkProof(who, l); err != nil {
		return Tokens{}, err
	}
	if !s.useProof(l) {
		return Tokens{}, clearbox.Errorf(clearbox.CodeReplay, "this device proof was used before; make a new one")
	}
	return s.begin(ctx, who.user, l.Device, "")
}

func errBadCredentials() error {
	return clearbox.Errorf(clearbox.CodeBadCredentials, "name or password is wrong")
}

// candidate is whom a login may be about. Its user is empty when there is no
// such active person.
type candidate struct {
	user   storage.User
	device storage.DeviceRecord // No is 0 when there is no such device
	bucket string               // one per account, or per name when there is no account
}

// find looks for an active person by handle, address or user id.
func (s *Service) find(ctx context.Context, name string, device clearbox.DeviceID) (candidate, error) {
	local, server, qualified := strings.Cut(name, "@")
	uid, errUID := clearbox.ParseUID(local)
	handle, errHandle := clearbox.ParseHandle(local)
	sum := sha256.Sum256([]byte(name))
	c := candidate{bucket: string(sum[:])}
	if qualified && server != string(s.server) || errUID != nil && errHandle != nil {
		return c, nil
	}
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		c.user, c.device = storage.User{}, storage.DeviceRecord{}
		user, err := tx.UserByHandle(handle)
		if errUID == nil {
			user, err = tx.UserByUID(uid)
		}
		if err != nil || user.State != storage.UserActive {
			return err
		}
		c.user = user
		if device == 0 {
			return nil
		}
		d, err := tx.Device(user.No, device)
		c.device = d
		return err
	})
	if c.user.No != 0 {
		c.bucket = string(c.user.UID)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return candidate{}, fmt.Errorf("look up who logs in: %w", err)
	}
	return c, nil
}

// checkProof is nil when there is no proof or a valid one.
func (s *Service) checkProof(who candidate, l Login) error {
	if l.Proof == nil {
		return nil
	}
	if who.device.No == 0 {
		return clearbox.Errorf(clearbox.CodeNoDevice, "this is not, or no longer, a device of the account")
	}
	signed := LoginProof(s.server, who.user.UID, l.Device, l.Proof.At)
	if len(who.device.Key) != ed25519.PublicKeySize || !ed25519.Verify(who.device.Key, signed, l.Proof.Signature) {
		return clearbox.Errorf(clearbox.CodeBadSignature, "the device proof does not verify")
	}
	off := s.o.Now().Sub(time.UnixMilli(int64(l.Proof.At)))
	if off > ProofWindow || off < -ProofWindow {
		return clearbox.Errorf(clearbox.CodeClockSkew, "the device proof is too old or too new; check the clock of the device")
	}
	return nil
}

// useProof is false for a proof that was used before. Its signature is what is
// remembered: Ed25519 verification is strict, so there is one per proof.
func (s *Service) useProof(l Login) bool {
	until := time.UnixMilli(int64(l.Proof.At)).Add(ProofWindow + time.Millisecond)
	return s.proofs.once(s.o.Now(), sha256.Sum256(l.Proof.Signature), until)
}

// begin starts a session for a person whose password was right and remembers
// the fresh hash, if any. All of it holds only while user is as it was.
func (s *Service) begin(ctx context.Context, user storage.User, device clearbox.DeviceID, fresh string) (Tokens, error) {
	n, err := s.newSession()
	if err != nil {
		return Tokens{}, err
	}
	var ended Revoked
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		now, err := tx.UserByNo(user.No)
		if err != nil {
			return err
		}
		if now.State != storage.UserActive || now.Password != user.Password {
			return errBadCredentials() // changed meanwhile
		}
		if fresh != "" {
			if err := tx.SetPassword(user.No, fresh); err != nil {
				return err
			}
		}
		user.Role = now.Role
		ended.Sessions, err = s.start(tx, &n, user.No, device)
		return err
	})
	s.Settle(ended, err)
	if err != nil {
		return Tokens{}, fmt.Errorf("begin a session: %w", err)
	}
	return s.tokens(ctx, n, user)
}

// newborn is a session with the secrets of its first tokens, drawn before the
// transaction that stores it.
type newborn struct {
	session storage.Session
	device  clearbox.DeviceID
	refresh string
	expires clearbox.Millis // of refresh
}

func (s *Service) newSession() (newborn, error) {
	id, err := clearbox.NewUID(s.o.Random) // 128 bits of the same form
	if err != nil {
		return newborn{}, err
	}
	refresh, err := s.secret("cbr_")
	return newborn{session: storage.Session{ID: string(id)}, refresh: refresh}, err
}

// start stores n as a session of device, or without one when it is 0. It
// returns which session of that device it replaced.
func (s *Service) start(tx *storage.Tx, n *newborn, userNo int64, device clearbox.DeviceID) (ended []string, err error) {
	ttl := bareTTL
	n.device, n.session.UserNo, n.session.DeviceNo = device, userNo, 0
	if device != 0 {
		d, err := tx.Device(userNo, device)
		if errors.Is(err, storage.ErrNotFound) {
			return nil, clearbox.Errorf(clearbox.CodeNoDevice, "this is no longer a device of the account")
		}
		if err != nil {
			return nil, err
		}
		if ended, err = tx.RevokeDeviceSessions(d.No); err != nil {
			return nil, err
		}
		if err := tx.TouchDevice(d.No, day(tx.Now())); err != nil {
			return nil, err
		}
		n.session.DeviceNo = d.No
		ttl = s.o.RefreshTTL
	}
	n.expires = tx.Now() + clearbox.Millis(ttl.Milliseconds())
	n.session.Created, n.session.LastUsed, n.session.Expires = tx.Now(), day(tx.Now()), n.expires
	if err := tx.CreateSession(&n.session); err != nil {
		return nil, err
	}
	return ended, tx.PutRefresh(hashed(n.refresh), n.session.ID, n.expires)
}

// day is the begin of a moment's day in UTC: finer times of use are not kept
// (gdpr.md 12).
func day(m clearbox.Millis) clearbox.Millis {
	const length = 24 * 60 * 60 * 1000
	return m - m%length
}

// tokens signs the access token of a session that was stored.
func (s *Service) tokens(ctx context.Context, n newborn, user storage.User) (Tokens, error) {
	ring, err := s.keyring(ctx)
	if err != nil {
		return Tokens{}, err
	}
	id, err := clearbox.NewUID(s.o.Random)
	if err != nil {
		return Tokens{}, err
	}
	now := s.o.Now()
	c := claims{uid: user.UID, device: n.device, session: n.session.ID, id: string(id), expires: now.Add(s.o.AccessTTL).Truncate(time.Second)}
	access, err := signToken(ring.signer(now), s.server, c, now)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{
		User: clearbox.UserID{UID: user.UID, Server: s.server}, Handle: user.Handle, Role: Role(user.Role),
		Device: n.device, Session: n.session.ID, Access: access, AccessExpires: millis(c.expires),
		Refresh: n.refresh, RefreshExpires: n.expires,
	}, nil
}

// Refresh uses a refresh token up and gives the next one with a new access
// token. A token that was used before is token_reused and ends the session,
// because one of its two holders is not its owner; a session that ended is
// token_expired; anything else, such as a token that was not used in time, is
// unauthorized.
func (s *Service) Refresh(ctx context.Context, token string) (Tokens, error) {
	if len(token) > 256 {
		return Tokens{}, clearbox.Errorf(clearbox.CodeUnauthorized, "this refresh token is not valid")
	}
	next, err := s.secret("cbr_")
	if err != nil {
		return Tokens{}, err
	}
	var (
		n       newborn
		user    storage.User
		ended   Revoked
		refused error // after a commit: the end of a session is stored, not rolled back
	)
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		n, user, ended, refused = newborn{refresh: next}, storage.User{}, Revoked{}, nil
		session, reused, err := tx.UseRefresh(hashed(token))
		if errors.Is(err, storage.ErrNotFound) {
			return clearbox.Errorf(clearbox.CodeUnauthorized, "this refresh token is not valid")
		}
		if err != nil {
			return err
		}
		if reused {
			refused = clearbox.Errorf(clearbox.CodeTokenReused, "this refresh token was used before; its session was ended, log in again")
			ended.Sessions, err = tx.RevokeSession(session.ID)
			return err
		}
		if session.Revoked != 0 || session.Expires <= tx.Now() {
			return clearbox.Errorf(clearbox.CodeTokenExpired, "this session has ended; log in again")
		}
		u, device, err := standing(tx, session)
		if err != nil {
			return err
		}
		n.session, n.device, user = session, device, u
		return s.prolong(tx, &n)
	})
	s.Settle(ended, err)
	if err != nil {
		return Tokens{}, fmt.Errorf("refresh a session: %w", err)
	}
	if refused != nil {
		return Tokens{}, refused
	}
	return s.tokens(ctx, n, user)
}

// prolong stores the next refresh token of a session. A session without a
// device keeps its end.
func (s *Service) prolong(tx *storage.Tx, n *newborn) error {
	n.expires = n.session.Expires
	if n.device != 0 {
		n.expires = tx.Now() + clearbox.Millis(s.o.RefreshTTL.Milliseconds())
		if err := tx.TouchDevice(n.session.DeviceNo, day(tx.Now())); err != nil {
			return err
		}
	}
	if err := tx.TouchSession(n.session.ID, day(tx.Now()), n.expires); err != nil {
		return err
	}
	return tx.PutRefresh(hashed(n.refresh), n.session.ID, n.expires)
}

// Logout ends p's session.
func (s *Service) Logout(ctx context.Context, p Principal) error {
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		_, err := tx.RevokeSession(p.Session)
		return err
	})
	s.Settle(Revoked{Sessions: []string{p.Session}}, err)
	if err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	return nil
}
