package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Users lists accounts in the order in which they were made, without erased
// ones. after is the Next of the page before.
func (s *Service) Users(ctx context.Context, a Actor, after string, limit int) (wire.AdminUsers, error) {
	page := wire.AdminUsers{Users: []wire.AdminUser{}}
	if err := a.require(auth.RoleAdmin, auth.RoleModerator, auth.RoleDPO, auth.RoleRights); err != nil {
		return page, err
	}
	from, err := cursor(after)
	if err != nil {
		return page, err
	}
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		users, err := tx.ListUsers(from, limit)
		if err != nil {
			return err
		}
		page.Users, page.Next = make([]wire.AdminUser, 0, len(users)), ""
		for _, u := range users {
			if u.State == storage.UserErased {
				continue
			}
			shown, err := s.shown(tx, u)
			if err != nil {
				return err
			}
			page.Users = append(page.Users, shown)
		}
		if len(users) == limit {
			page.Next = strconv.FormatInt(users[len(users)-1].No, 10)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("list users: %w", err)
	}
	return page, nil
}

func (s *Service) shown(tx *storage.Tx, u storage.User) (wire.AdminUser, error) {
	devices, err := tx.Devices(u.No)
	return wire.AdminUser{
		User: clearbox.UserID{UID: u.UID, Server: s.server}, Handle: u.Handle, Role: string(u.Role), State: string(u.State),
		Devices: len(devices), Created: u.Created,
	}, err
}

// CreateUser makes a personal invite: whoever has it registers under this name
// with this role, in every registration mode. The person chooses the password
// and makes the keys; no default password ever exists. A name that is taken is
// handle_taken.
func (s *Service) CreateUser(ctx context.Context, a Actor, b wire.AdminUserCreate) (wire.AdminInviteCreated, error) {
	if err := a.require(auth.RoleAdmin); err != nil {
		return wire.AdminInviteCreated{}, err
	}
	return s.invite(ctx, a, "user.create", b.Handle, b.Role, b.TTL)
}

// Ban shuts a person out: every session ends within a second, and nobody can
// log in. What waits for the person stays until it expires.
func (s *Service) Ban(ctx context.Context, a Actor, handle string, b wire.AdminReason) (wire.AdminUser, error) {
	return s.deed(ctx, a, handle, storage.AuditEntry{Action: "user.ban", Purpose: b.Reason}, func(tx *storage.Tx, u storage.User) (auth.Revoked, error) {
		return s.auth.BanTx(tx, u.No)
	})
}

// Unban lets the person log in again.
func (s *Service) Unban(ctx context.Context, a Actor, handle string, b wire.AdminReason) (wire.AdminUser, error) {
	return s.deed(ctx, a, handle, storage.AuditEntry{Action: "user.unban", Purpose: b.Reason}, func(tx *storage.Tx, u storage.User) (auth.Revoked, error) {
		return auth.Revoked{}, s.auth.UnbanTx(tx, u.No)
	})
}

// SetRole changes what a person may do, in running sessions too.
func (s *Service) SetRole(ctx context.Context, a Actor, handle string, b wire.AdminRole) (wire.AdminUser, error) {
	if err := a.require(auth.RoleAdmin); err != nil {
		return wire.AdminUser{}, err
	}
	role, err := auth.ParseRole(b.Role)
	if err != nil {
		return wire.AdminUser{}, field("/role", err)
	}
	return s.deed(ctx, a, handle, storage.AuditEntry{Action: "user.role", Detail: string(role)}, func(tx *storage.Tx, u storage.User) (auth.Revoked, error) {
		return s.auth.SetRoleTx(tx, u.No, role)
	})
}

// deed changes one account together with its audit row.
func (s *Service) deed(ctx context.Context, a Actor, handle string, e storage.AuditEntry, do func(*storage.Tx, storage.User) (auth.Revoked, error)) (wire.AdminUser, error) {
	if err := a.require(auth.RoleAdmin, auth.RoleModerator); err != nil {
		return wire.AdminUser{}, err
	}
	name, err := clearbox.ParseHandle(handle)
	if err != nil {
		return wire.AdminUser{}, errNoUser()
	}
	var shown wire.AdminUser
	var revoked auth.Revoked
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		u, err := tx.UserByHandle(name)
		if err != nil {
			return err
		}
		if err := a.mayTouch(u); err != nil {
			return err
		}
		if revoked, err = do(tx, u); err != nil {
			return err
		}
		e.ActorNo, e.Role, e.ObjectNo = a.UserNo, storage.Role(a.Role), u.No
		if err := tx.Audit(e); err != nil {
			return err
		}
		if u, err = tx.UserByNo(u.No); err != nil {
			return err
		}
		shown, err = s.shown(tx, u)
		return err
	})
	s.auth.Settle(revoked, err)
	if err != nil {
		return wire.AdminUser{}, found(err, errNoUser)
	}
	s.o.Log.Info("admin deed", "action", e.Action, "role", string(a.Role))
	return shown, nil
}

// mayTouch: nobody shuts himself out, so that an admin remains; a moderator
// deals with members only.
func (a Actor) mayTouch(u storage.User) error {
	if a.local() {
		return nil
	}
	if a.UserNo == u.No {
		return clearbox.Errorf(clearbox.CodeForbidden, "nobody can do this to the own account; ask another admin")
	}
	if a.Role != auth.RoleAdmin && u.Role != storage.RoleMember {
		return errForbidden()
	}
	return nil
}

// Reset gives a code with which the person sets a new password, once. The old
// password works until then.
func (s *Service) Reset(ctx context.Context, a Actor, handle string) (wire.AdminReset, error) {
	if err := a.require(auth.RoleAdmin); err != nil {
		return wire.AdminReset{}, err
	}
	name, err := clearbox.ParseHandle(handle)
	if err != nil {
		return wire.AdminReset{}, errNoUser()
	}
	var r wire.AdminReset
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		u, err := tx.UserByHandle(name)
		if err != nil {
			return err
		}
		code, expires, err := s.auth.ResetTx(tx, u.No)
		if err != nil {
			return err
		}
		r = wire.AdminReset{Handle: u.Handle, Code: code, Expires: expires}
		return tx.Audit(storage.AuditEntry{ActorNo: a.UserNo, Role: storage.Role(a.Role), Action: "user.reset", ObjectNo: u.No})
	})
	if err != nil {
		return wire.AdminReset{}, found(err, errNoUser)
	}
	return r, nil
}

// Invites lists invites in order of their ids. after is the Next of the page
// before.
func (s *Service) Invites(ctx context.Context, a Actor, after string, limit int) (wire.AdminInvites, error) {
	page := wire.AdminInvites{Invites: []wire.AdminInvite{}}
	if err := a.require(auth.RoleAdmin, auth.RoleModerator); err != nil {
		return page, err
	}
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		invites, err := tx.Invites(after, limit)
		if err != nil {
			return err
		}
		page.Invites, page.Next = make([]wire.AdminInvite, 0, len(invites)), ""
		for _, i := range invites {
			page.Invites = append(page.Invites, wire.AdminInvite{
				ID: i.ID, State: inviteState(i, tx.Now()), Role: string(i.Role), For: i.For, Created: i.Created, Expires: i.Expires,
			})
		}
		if len(invites) == limit {
			page.Next = invites[len(invites)-1].ID
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("list invites: %w", err)
	}
	return page, nil
}

func inviteState(i storage.Invite, now clearbox.Millis) string {
	switch {
	case i.Used != 0:
		return "used"
	case i.Revoked != 0:
		return "revoked"
	case i.Expires <= now:
		return "expired"
	}
	return "open"
}

// CreateInvite makes an invite; a moderator's is for members.
func (s *Service) CreateInvite(ctx context.Context, a Actor, b wire.AdminInviteCreate) (wire.AdminInviteCreated, error) {
	if err := a.require(auth.RoleAdmin, auth.RoleModerator); err != nil {
		return wire.AdminInviteCreated{}, err
	}
	return s.invite(ctx, a, "invite.create", b.For, b.Role, b.TTL)
}

func (s *Service) invite(ctx context.Context, a Actor, action, handle, role string, ttlSeconds int64) (wire.AdminInviteCreated, error) {
	var none wire.AdminInviteCreated
	if role == "" {
		role = string(auth.RoleMember)
	}
	r, err := auth.ParseRole(role)
	if err != nil {
		return none, field("/role", err)
	}
	if a.Role != auth.RoleAdmin && r != auth.RoleMember {
		return none, errForbidden()
	}
	ttl := time.Duration(ttlSeconds) * time.Second
	if ttl == 0 {
		ttl = s.o.InviteTTL
	}
	var made auth.Invite
	err = s.store.Update(ctx, func(tx *storage.Tx) (err error) {
		made, err = s.auth.InviteTx(tx, auth.NewInvite{By: a.UserNo, Role: r, For: clearbox.Handle(handle), TTL: clearbox.Millis(ttl.Milliseconds())})
		if err != nil {
			return err
		}
		return tx.Audit(storage.AuditEntry{ActorNo: a.UserNo, Role: storage.Role(a.Role), Action: action, Object: made.ID, Detail: string(r)})
	})
	if err != nil {
		return none, fmt.Errorf("make an invite: %w", err)
	}
	return wire.AdminInviteCreated{
		ID: made.ID, Code: made.Code, Link: s.o.PublicURL + "/join#" + made.Code, Role: string(made.Role), For: made.For, Expires: made.Expires,
	}, nil
}

// RevokeInvite ends an invite that was not used yet.
func (s *Service) RevokeInvite(ctx context.Context, a Actor, id string) error {
	if err := a.require(auth.RoleAdmin, auth.RoleModerator); err != nil {
		return err
	}
	uid, err := clearbox.ParseUID(id)
	if err != nil {
		return errNoInvite()
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		if err := tx.RevokeInvite(string(uid)); err != nil {
			return err
		}
		return tx.Audit(storage.AuditEntry{ActorNo: a.UserNo, Role: storage.Role(a.Role), Action: "invite.revoke", Object: string(uid)})
	})
	return found(err, errNoInvite)
}

func errNoUser() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no account with this name")
}

func errNoInvite() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no open invite with this id")
}

// found gives a storage error for something absent the text for people.
func found(err error, absent func() error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return absent()
	}
	return err
}

// field adds the JSON pointer of the field that an error is about.
func field(pointer string, err error) error {
	return &clearbox.Error{Code: clearbox.CodeOf(err), Text: err.Error(), Field: pointer, Cause: err}
}
