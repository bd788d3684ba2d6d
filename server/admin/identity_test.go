package admin_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// deeds writes down what reached it.
type deeds struct{ done []string }

func (d *deeds) note(e storage.AuditEntry, more ...string) (wire.AdminIdentity, error) {
	d.done = append(d.done, strings.Join(append([]string{e.Action, string(e.Role)}, more...), " "))
	return d.Show(), nil
}
func (d *deeds) Show() wire.AdminIdentity { return wire.AdminIdentity{Server: "a.test"} }
func (d *deeds) Rotate(_ context.Context, e storage.AuditEntry) (wire.AdminIdentity, error) {
	return d.note(e)
}
func (d *deeds) Offline(_ context.Context, e storage.AuditEntry, b wire.AdminIdentityOffline) (wire.AdminIdentity, error) {
	return d.note(e, b.Pin)
}
func (d *deeds) Online(_ context.Context, e storage.AuditEntry) (wire.AdminIdentity, error) {
	return d.note(e)
}
func (d *deeds) RevokeKey(_ context.Context, e storage.AuditEntry, kid string) (wire.AdminIdentity, error) {
	return d.note(e, kid)
}

// Who may do what with the identity; the key's way off the machine and back is
// for whoever holds the machine.
func TestIdentityDeeds(t *testing.T) {
	w, d := newWorld(t), &deeds{}
	s := admin.New(w.store, w.auth, "a.test", admin.Options{Identities: d})
	ctx := context.Background()
	ops := []func(a admin.Actor) error{
		func(a admin.Actor) error { _, err := s.Identity(a); return err },
		func(a admin.Actor) error { _, err := s.RotateIdentity(ctx, a); return err },
		func(a admin.Actor) error { _, err := s.RevokeKey(ctx, a, "fs-1"); return err },
		func(a admin.Actor) error {
			_, err := s.IdentityOffline(ctx, a, wire.AdminIdentityOffline{Pin: "00"})
			return err
		},
		func(a admin.Actor) error { _, err := s.IdentityOnline(ctx, a); return err },
	}
	for _, c := range []struct {
		who admin.Actor
		may string // one letter for each operation
	}{
		{admin.Local(), "yyyyy"}, {admin.Actor{UserNo: 1, Role: auth.RoleAdmin}, "yyynn"}, {admin.Actor{UserNo: 2, Role: auth.RoleDPO}, "ynnnn"},
		{admin.Actor{UserNo: 3, Role: auth.RoleModerator}, "nnnnn"}, {admin.Actor{UserNo: 4, Role: auth.RoleMember}, "nnnnn"},
	} {
		for i, op := range ops {
			err := op(c.who)
			if c.may[i] == 'y' && err != nil || c.may[i] == 'n' && clearbox.CodeOf(err) != clearbox.CodeForbidden {
				t.Errorf("%s, operation %d: %v", c.who.Role, i, err)
			}
		}
	}
	want := []string{
		"identity.rotate admin", "identity.revoke_key admin fs-1", "identity.offline admin 00", "identity.online admin",
		"identity.rotate admin", "identity.revoke_key admin fs-1",
	}
	if !slices.Equal(d.done, want) {
		t.Errorf("done: %q", d.done)
	}
	closed := admin.New(w.store, w.auth, "a.test", admin.Options{})
	if _, err := closed.Identity(admin.Local()); clearbox.CodeOf(err) != clearbox.CodeUnavailable {
		t.Errorf("federation closed: %v", err)
	}
}

func TestRepinPeer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if err := w.store.Update(ctx, func(tx *storage.Tx) error {
		return tx.PutPeer(&storage.Peer{Server: "b.test", State: storage.PeerSuspended, Direction: "both"})
	}); err != nil {
		t.Fatal(err)
	}
	words := wire.AdminPeerRepin{Words: []string{"wrong"}}
	if _, err := w.admin.RepinPeer(ctx, admin.Local(), "b.test", words); clearbox.CodeOf(err) != clearbox.CodeIdentityChanged {
		t.Errorf("other words: %v", err)
	}
	words.Words[0] = "right"
	if p, err := w.admin.RepinPeer(ctx, admin.Local(), "b.test", words); err != nil || p.Server != "b.test" {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := w.admin.RepinPeer(ctx, admin.Actor{UserNo: 2, Role: auth.RoleDPO}, "b.test", words); clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("another role: %v", err)
	}
}
