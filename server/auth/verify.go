package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// Verify tells who an access token speaks for. It is refused as token_expired
// (ErrTokenExpired) or unauthorized: ErrTokenMalformed, ErrTokenAlgorithm for
// any algorithm but EdDSA and so for "none", ErrTokenForeign for another
// server's, ErrTokenTampered, ErrTokenRevoked for an ended session, a removed
// device and a banned person. A token seen before costs a hash and a look into
// memory.
func (s *Service) Verify(ctx context.Context, token string) (Principal, error) {
	now := s.o.Now()
	if len(token) > maxAccessToken {
		return Principal{}, clearbox.Wrap(clearbox.CodeUnauthorized, "the access token is not valid", ErrTokenMalformed)
	}
	hash := sha256.Sum256([]byte(token))
	p, generation, ok := s.verified.get(now, hash)
	if ok {
		return p, nil
	}
	ring, err := s.keyring(ctx)
	if err != nil {
		return Principal{}, err
	}
	c, err := openToken(token, s.server, now, ring.find(now))
	if err != nil {
		return Principal{}, err
	}
	if p, err = s.principal(ctx, c.session); err != nil {
		return Principal{}, err
	}
	if p.User.UID != c.uid || p.Device != c.device {
		return Principal{}, errRevoked()
	}
	s.verified.put(generation, hash, p, c.expires)
	return p, nil
}

func errRevoked() error {
	return clearbox.Wrap(clearbox.CodeUnauthorized, "this session has ended; log in again", ErrTokenRevoked)
}

// Standing tells whether p's session still stands, by the store. A socket asks
// after it registered itself to be closed by OnRevoke: what ended between its
// handshake and the registration is found here. The error is that of Verify.
func (s *Service) Standing(ctx context.Context, p Principal) error {
	_, err := s.principal(ctx, p.Session)
	return err
}

// principal reads a session's person and device.
func (s *Service) principal(ctx context.Context, id string) (p Principal, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		session, err := tx.Session(id)
		if err != nil {
			return err
		}
		if session.Revoked != 0 || session.Expires <= tx.Now() {
			return storage.ErrNotFound
		}
		user, device, err := standing(tx, session)
		if err != nil {
			return err
		}
		p = Principal{
			User: clearbox.UserID{UID: user.UID, Server: s.server}, UserNo: user.No, Role: Role(user.Role),
			Device: device, DeviceNo: session.DeviceNo, Session: session.ID, Key: user.Key,
		}
		return nil
	})
	switch {
	case errors.Is(err, storage.ErrNotFound), errors.Is(err, ErrTokenRevoked):
		return Principal{}, errRevoked()
	case err != nil:
		return Principal{}, fmt.Errorf("look up a session: %w", err)
	}
	return p, nil
}

// standing gives the person and the device of a session, if the person may
// speak and the device was not removed.
func standing(tx *storage.Tx, session storage.Session) (storage.User, clearbox.DeviceID, error) {
	user, err := tx.UserByNo(session.UserNo)
	if err != nil {
		return storage.User{}, 0, err
	}
	if user.State != storage.UserActive {
		return storage.User{}, 0, errRevoked()
	}
	if session.DeviceNo == 0 {
		return user, 0, nil
	}
	device, err := tx.DeviceByNo(session.DeviceNo)
	if err != nil {
		return storage.User{}, 0, err
	}
	if device.UserNo != user.No {
		return storage.User{}, 0, errRevoked()
	}
	return user, device.ID, nil
}

// Ticket gives p a secret that stands for it once, within Options.TicketTTL,
// where an Authorization header cannot be sent. It is rate_limited when p has
// too many unused ones.
func (s *Service) Ticket(ctx context.Context, p Principal) (string, clearbox.Millis, error) {
	if err := s.Standing(ctx, p); err != nil {
		return "", 0, err
	}
	secret, err := s.secret("cbt_")
	if err != nil {
		return "", 0, err
	}
	expires, err := s.tickets.put(s.o.Now(), secret, p)
	if err != nil {
		return "", 0, err
	}
	return secret, millis(expires), nil
}

// RedeemTicket uses a ticket up. One that was used before is token_reused
// (ErrTicketUsed), a late one token_expired (ErrTicketExpired), else it is
// unauthorized.
func (s *Service) RedeemTicket(ctx context.Context, ticket string) (Principal, error) {
	p, err := s.tickets.take(s.o.Now(), ticket)
	if err != nil {
		return Principal{}, err
	}
	// Read again: the role may have changed, the session may have ended.
	return s.principal(ctx, p.Session)
}

// Admit is for /ws?token=: it accepts a ticket or an access token.
func (s *Service) Admit(ctx context.Context, token string) (Principal, error) {
	if strings.HasPrefix(token, "cbt_") {
		return s.RedeemTicket(ctx, token)
	}
	return s.Verify(ctx, token)
}
