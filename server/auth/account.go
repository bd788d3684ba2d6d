package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// ChangePassword checks the old password and sets the new one. It ends every
// session of the person, the caller's too, so that nobody who knew the old one
// stays; the answer is a new session of the same device.
func (s *Service) ChangePassword(ctx context.Context, p Principal, c PasswordChange) (Tokens, error) {
	if err := s.limit(s.byAccount, "change|"+string(p.User.UID)); err != nil {
		return Tokens{}, err
	}
	user, err := s.active(ctx, p.UserNo)
	if err != nil {
		return Tokens{}, err
	}
	if err := checkPassword(c.New, "/new", contextWords(user.Handle, s.server)...); err != nil {
		return Tokens{}, err
	}
	ok, _, err := s.hasher.verify(ctx, user.Password, c.Old)
	if err != nil {
		return Tokens{}, err
	}
	if !ok {
		return Tokens{}, &clearbox.Error{Code: clearbox.CodeBadCredentials, Text: "the old password is wrong", Field: "/old"}
	}
	phc, err := s.hasher.hash(ctx, c.New)
	if err != nil {
		return Tokens{}, err
	}
	n, err := s.newSession()
	if err != nil {
		return Tokens{}, err
	}
	var ended Revoked
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		now, err := tx.UserByNo(p.UserNo)
		if err != nil {
			return err
		}
		session, err := tx.Session(p.Session)
		if err != nil {
			return err
		}
		// A ban, a logout or another change came first.
		if now.State != storage.UserActive || now.Password != user.Password || session.Revoked != 0 {
			return errRevoked()
		}
		if err := tx.SetPassword(p.UserNo, phc); err != nil {
			return err
		}
		if ended.Sessions, err = tx.RevokeSessions(p.UserNo, ""); err != nil {
			return err
		}
		_, err = s.start(tx, &n, p.UserNo, p.Device)
		return err
	})
	s.Settle(ended, err)
	if err != nil {
		return Tokens{}, fmt.Errorf("change a password: %w", err)
	}
	return s.tokens(ctx, n, user)
}

// Reset sets a new password with a code that ResetTx gave out, once, and ends
// every session of the person. An unknown, used or expired code is
// bad_credentials. client is Login.Client.
func (s *Service) Reset(ctx context.Context, code, password, client string) error {
	if err := s.limit(s.byClient, "reset|"+client); err != nil {
		return err
	}
	if err := checkPassword(password, "/new", contextWords("", s.server)...); err != nil {
		return err
	}
	phc, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	var ended Revoked
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		no, err := tx.UseReset(hashed(plainCode(code)))
		if errors.Is(err, storage.ErrNotFound) {
			return errBadCode()
		}
		if err != nil {
			return err
		}
		user, err := tx.UserByNo(no)
		if err != nil {
			return err
		}
		if user.State != storage.UserActive {
			return errBadCode()
		}
		if err := checkPassword(password, "/new", contextWords(user.Handle, s.server)...); err != nil {
			return err // the code stays usable
		}
		if err := tx.SetPassword(no, phc); err != nil {
			return err
		}
		ended.Sessions, err = tx.RevokeSessions(no, "")
		return err
	})
	s.Settle(ended, err)
	if err != nil {
		return fmt.Errorf("reset a password: %w", err)
	}
	return nil
}

func errBadCode() error {
	return &clearbox.Error{Code: clearbox.CodeBadCredentials, Text: "this code is not valid, or no longer", Field: "/code"}
}

func (s *Service) active(ctx context.Context, userNo int64) (user storage.User, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		user, err = tx.UserByNo(userNo)
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && user.State != storage.UserActive:
		return storage.User{}, errRevoked()
	case err != nil:
		return storage.User{}, fmt.Errorf("look up an account: %w", err)
	}
	return user, nil
}

// Me is the caller's account.
func (s *Service) Me(ctx context.Context, p Principal) (Account, error) {
	user, err := s.active(ctx, p.UserNo)
	if err != nil {
		return Account{}, err
	}
	return Account{
		User: p.User, Handle: user.Handle, Role: Role(user.Role), Device: p.Device, Session: p.Session, Created: user.Created,
		Notice: user.NoticeVersion, NoticeStale: user.NoticeVersion != s.Notice().Version,
	}, nil
}

// AcknowledgeNotice records that p has read the notice in force. It is
// notice_required when ack is of another one.
func (s *Service) AcknowledgeNotice(ctx context.Context, p Principal, ack NoticeAck) error {
	notice := s.Notice() // one and the same throughout, should a reload replace it
	if err := notice.acknowledged(ack); err != nil {
		return err
	}
	err := s.store.Update(ctx, func(tx *storage.Tx) error { return recordNotice(tx, p.UserNo, notice) })
	if err != nil {
		return fmt.Errorf("record an acknowledgement: %w", err)
	}
	return nil
}

// SetConsent gives (with ack of the notice in force, else notice_required) or
// withdraws consent. Both are recorded, and hold when it returns. language is
// the one in which the person was asked, BCP 47.
func (s *Service) SetConsent(ctx context.Context, p Principal, purpose Purpose, granted bool, ack NoticeAck, language string) (Consent, error) {
	if _, err := ParsePurpose(string(purpose)); err != nil {
		return Consent{}, err
	}
	if len(language) > 35 {
		return Consent{}, clearbox.Errorf(clearbox.CodeBadRequest, "a language tag has at most 35 characters")
	}
	notice := s.Notice()
	if granted {
		if err := notice.acknowledged(ack); err != nil {
			return Consent{}, err
		}
	}
	var c Consent
	err := s.store.Update(ctx, func(tx *storage.Tx) error {
		c = Consent{Purpose: purpose, Granted: granted, NoticeVersion: notice.Version, At: tx.Now()}
		return recordConsent(tx, p.UserNo, notice, purpose, granted, language)
	})
	if err != nil {
		return Consent{}, fmt.Errorf("record a consent: %w", err)
	}
	return c, nil
}

// Consents is where p stands on every purpose, in the order of Purposes.
func (s *Service) Consents(ctx context.Context, p Principal) ([]Consent, error) {
	var all []Consent
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		all, err = s.consents(tx, p.UserNo)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read consents: %w", err)
	}
	return all, nil
}

// Consented tells whether the person consented to purpose under the notice in
// force.
func (s *Service) Consented(ctx context.Context, userNo int64, purpose Purpose) (ok bool, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		ok, err = s.ConsentedTx(tx, userNo, purpose)
		return err
	})
	return ok, err
}

// ConsentedTx is Consented within a transaction.
func (s *Service) ConsentedTx(tx *storage.Tx, userNo int64, purpose Purpose) (bool, error) {
	all, err := s.consents(tx, userNo)
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if c.Purpose == purpose {
			return c.Granted, nil
		}
	}
	return false, nil
}

// ConsentedSince tells when the account gave the consent that holds under the
// notice in force; 0 if there is none, of nobody after the same work.
func (s *Service) ConsentedSince(tx *storage.Tx, userNo int64, purpose Purpose) (clearbox.Millis, error) {
	return tx.ConsentedSince(userNo, string(purpose), s.Notice().Version)
}

// ConsentingByHandle finds an active person who consented to purpose under the
// notice in force; everybody else, nobody included, is storage.ErrNotFound after
// the same work.
func (s *Service) ConsentingByHandle(tx *storage.Tx, h clearbox.Handle, purpose Purpose) (clearbox.UID, error) {
	return tx.ConsentingByHandle(h, string(purpose), s.Notice().Version)
}

func (s *Service) consents(tx *storage.Tx, userNo int64) ([]Consent, error) {
	stored, err := tx.Consents(userNo)
	if err != nil {
		return nil, err
	}
	last := make(map[Purpose]storage.Consent, len(stored))
	for _, c := range stored {
		last[Purpose(c.Purpose)] = c
	}
	notice := s.Notice()
	all := make([]Consent, 0, len(Purposes()))
	for _, p := range Purposes() {
		c := last[p]
		given := c.Action == storage.ConsentGranted
		current := c.NoticeVersion == notice.Version
		all = append(all, Consent{Purpose: p, Granted: given && current, Stale: given && !current, NoticeVersion: c.NoticeVersion, At: c.At})
	}
	return all, nil
}

func recordConsent(tx *storage.Tx, userNo int64, notice Notice, p Purpose, granted bool, language string) error {
	action := storage.ConsentWithdrawn
	if granted {
		action = storage.ConsentGranted
	}
	return tx.PutConsent(userNo, storage.Consent{
		Purpose: string(p), NoticeVersion: notice.Version, NoticeHash: notice.sum(), Language: language, Action: action, At: tx.Now(),
	})
}

// recordNotice notes that notice was acknowledged.
func recordNotice(tx *storage.Tx, userNo int64, notice Notice) error {
	return tx.PutNoticeAck(userNo, notice.Version, notice.sum())
}
