package auth

import (
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// The functions below are for server/admin, which runs them in the transaction
// that holds the audit row, and calls Settle with its outcome. They do not ask
// who may do it. The transaction may run twice: assign what they return.

// BanTx shuts a person out and ends every session.
func (s *Service) BanTx(tx *storage.Tx, userNo int64) (Revoked, error) {
	if err := s.setState(tx, userNo, storage.UserActive, storage.UserBanned); err != nil {
		return Revoked{}, err
	}
	sessions, err := tx.RevokeSessions(userNo, "")
	return Revoked{Sessions: sessions, changed: true}, err
}

// UnbanTx lets a banned person log in again. Sessions do not come back.
func (s *Service) UnbanTx(tx *storage.Tx, userNo int64) error {
	return s.setState(tx, userNo, storage.UserBanned, storage.UserActive)
}

// setState refuses to touch the erased. Setting what is set already is no error.
func (s *Service) setState(tx *storage.Tx, userNo int64, from, to storage.UserState) error {
	user, err := tx.UserByNo(userNo)
	if err != nil {
		return err
	}
	if user.State != from && user.State != to {
		return storage.ErrNotFound
	}
	return tx.SetUserState(userNo, to)
}

// SetRoleTx changes a person's role. It holds from Settle on, in running sessions
// too.
func (s *Service) SetRoleTx(tx *storage.Tx, userNo int64, role Role) (Revoked, error) {
	if _, err := ParseRole(string(role)); err != nil {
		return Revoked{}, err
	}
	return Revoked{changed: true}, tx.SetRole(userNo, storage.Role(role))
}

// ResetTx makes a code with which the person sets a new password, once. An
// earlier code dies. The old password works until then.
func (s *Service) ResetTx(tx *storage.Tx, userNo int64) (code string, expires clearbox.Millis, err error) {
	user, err := tx.UserByNo(userNo)
	if err != nil {
		return "", 0, err
	}
	if user.State == storage.UserErased {
		return "", 0, storage.ErrNotFound
	}
	if code, err = s.code(); err != nil {
		return "", 0, err
	}
	expires = tx.Now() + clearbox.Millis(s.o.ResetTTL.Milliseconds())
	return code, expires, tx.PutReset(userNo, hashed(plainCode(code)), expires)
}

// InviteTx makes an invite, or a setup code when n.For names who it is for. A
// name that is taken is handle_taken.
func (s *Service) InviteTx(tx *storage.Tx, n NewInvite) (Invite, error) {
	if n.Role == "" {
		n.Role = RoleMember
	}
	if _, err := ParseRole(string(n.Role)); err != nil {
		return Invite{}, err
	}
	if n.For != "" {
		if _, err := clearbox.ParseHandle(string(n.For)); err != nil {
			return Invite{}, err
		}
		if _, err := tx.UserByHandle(n.For); err == nil {
			return Invite{}, errHandleTaken()
		}
	}
	ttl := time.Duration(n.TTL) * time.Millisecond
	if ttl <= 0 {
		ttl = s.rules.Load().inviteTTL
	}
	id, err := clearbox.NewUID(s.o.Random)
	if err != nil {
		return Invite{}, err
	}
	code, err := s.code()
	if err != nil {
		return Invite{}, err
	}
	i := Invite{ID: string(id), Code: code, Role: n.Role, For: n.For, Expires: tx.Now() + clearbox.Millis(ttl.Milliseconds())}
	return i, tx.CreateInvite(&storage.Invite{
		ID: i.ID, Hash: hashed(plainCode(code)), CreatedBy: n.By, Role: storage.Role(n.Role), For: n.For,
		Created: tx.Now(), Expires: i.Expires,
	})
}

// code draws 128 bits for people to copy: groups of five characters.
func (s *Service) code() (string, error) {
	raw, err := clearbox.NewUID(s.o.Random)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, c := range string(raw) {
		if i > 0 && i%5 == 0 {
			b.WriteByte('-')
		}
		b.WriteRune(c)
	}
	return b.String(), nil
}
