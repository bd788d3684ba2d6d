package storage

import (
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// Invite lets one person register. Only the code's hash is kept.
type Invite struct {
	ID        string // public, for lists and revocation
	Hash      []byte
	CreatedBy int64 // account number, 0 for the local admin
	Role      Role
	For       clearbox.Handle // the only handle it is good for; empty for any. Sealed under the server's key
	Created   clearbox.Millis
	Expires   clearbox.Millis
	Used      clearbox.Millis
	UsedBy    int64
	Revoked   clearbox.Millis
}

// CreateInvite stores an invite. A zero Created means now. *ExistsError.
func (tx *Tx) CreateInvite(v *Invite) error {
	if v.Created == 0 {
		v.Created = tx.now
	}
	sealed, err := tx.seal(ServerKey, PurposeContacts, "invites", "for_handle", v.ID, []byte(v.For))
	if err != nil {
		return err
	}
	n, err := tx.exec(`INSERT INTO invites (id, hash, created_by, role, for_handle, created, expires, used, used_by, revoked)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0) ON CONFLICT DO NOTHING`,
		v.ID, v.Hash, v.CreatedBy, string(v.Role), sealed, int64(v.Created), int64(v.Expires))
	if err == nil && n == 0 {
		return &ExistsError{Field: "id"}
	}
	return err
}

const inviteColumns = "id, hash, created_by, role, for_handle, created, expires, used, used_by, revoked"

// UseInvite spends an invite for the account that is being registered and
// returns it. ErrNotFound: unknown, used, revoked or expired. Whether For fits
// is the caller's to check; an error of the caller undoes the use.
func (tx *Tx) UseInvite(hash []byte, userNo int64) (Invite, error) {
	n, err := tx.exec("UPDATE invites SET used = $1, used_by = $2 WHERE hash = $3 AND used = 0 AND revoked = 0 AND expires > $4",
		max(1, int64(tx.now)), userNo, hash, int64(tx.now))
	if err != nil {
		return Invite{}, err
	}
	if n == 0 {
		return Invite{}, ErrNotFound
	}
	return tx.InviteByHash(hash)
}

// InviteByHash finds an invite, in whatever state it is.
func (tx *Tx) InviteByHash(hash []byte) (Invite, error) {
	vs, err := tx.invites("SELECT "+inviteColumns+" FROM invites WHERE hash = $1", hash)
	if err == nil && len(vs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Invite{}, err
	}
	return vs[0], nil
}

// Invites gives at most limit invites with ids above afterID, in order.
func (tx *Tx) Invites(afterID string, limit int) ([]Invite, error) {
	return tx.invites("SELECT "+inviteColumns+" FROM invites WHERE id > $1 ORDER BY id LIMIT $2", afterID, int64(limit))
}

func (tx *Tx) invites(query string, a ...any) ([]Invite, error) {
	var vs []Invite
	var v Invite
	var role string
	var sealed []byte
	var created, expires, used, revoked int64
	dest := []any{&v.ID, &v.Hash, &v.CreatedBy, &role, &sealed, &created, &expires, &used, &v.UsedBy, &revoked}
	err := tx.each(query, a, dest, func() error {
		h, err := tx.open(ServerKey, PurposeContacts, "invites", "for_handle", v.ID, sealed)
		if err != nil {
			return fmt.Errorf("open an invite: %w", err)
		}
		v.Role, v.For = Role(role), clearbox.Handle(h)
		v.Created, v.Expires = clearbox.Millis(created), clearbox.Millis(expires)
		v.Used, v.Revoked = clearbox.Millis(used), clearbox.Millis(revoked)
		vs = append(vs, v)
		return nil
	})
	return vs, err
}

// RevokeInvite ends an invite that was not used. ErrNotFound otherwise.
func (tx *Tx) RevokeInvite(id string) error {
	return tx.change("UPDATE invites SET revoked = $1 WHERE id = $2 AND used = 0 AND revoked = 0", max(1, int64(tx.now)), id)
}
