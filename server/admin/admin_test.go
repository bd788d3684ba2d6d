package admin_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
	"github.com/clearbox-im/clearbox/storage/storagetest"
)

var start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// world is a store with people in it and the service above.
type world struct {
	t      *testing.T
	store  *storage.Store
	ks     *keystore.Keystore
	faults *storage.Faults
	now    time.Time
	admin  *admin.Service
	auth   *auth.Service
	peers  *peering
	people map[string]int64
	reload error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, now: start, faults: &storage.Faults{}, people: map[string]int64{}}
	clock := func() time.Time { return w.now }
	dir := t.TempDir()
	var err error
	root := bytes.Repeat([]byte{1}, 32)
	storagetest.Files(t, filepath.Join(dir, "clearbox.db"), filepath.Join(dir, "keystore.db"), root)
	w.ks, err = keystore.Open(ctx, filepath.Join(dir, "keystore.db"), root, keystore.Options{Now: clock, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ks.Close() })
	w.store, err = storage.Open(ctx, storage.Options{Path: filepath.Join(dir, "clearbox.db"), Sealer: w.ks, Index: w.ks.Index, Now: clock, Random: rand.Reader, Faults: w.faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	for _, u := range []struct {
		name string
		role storage.Role
	}{{"ada", storage.RoleAdmin}, {"mo", storage.RoleModerator}, {"bob", storage.RoleMember}, {"dora", storage.RoleDPO}, {"rita", storage.RoleRights}} {
		w.person(u.name, u.role)
	}
	w.peers = &peering{store: w.store}
	w.auth = auth.New(w.store, w.ks, "a.test", auth.Options{Now: clock, Random: rand.Reader})
	w.admin = admin.New(w.store, w.auth, "a.test", admin.Options{
		Now: clock, PublicURL: "https://chat.a.test", InviteTTL: 72 * time.Hour, Mode: "allowlist", Identity: bytes.Repeat([]byte{9}, 32),
		Version: wire.Version{Version: "test"}, Peers: w.peers,
		Ready: func(context.Context) []wire.ReadyCheck { return []wire.ReadyCheck{{Name: "store", OK: true}} },
		Reload: func(context.Context) (wire.AdminReload, error) {
			return wire.AdminReload{Applied: []string{"log.level"}}, w.reload
		},
		Retry: func(_ context.Context, s clearbox.ServerName) ([]clearbox.ServerName, error) {
			return []clearbox.ServerName{"b.test"}, nil
		},
		Circuits: func(clearbox.ServerName) []federation.OpenCircuit {
			return []federation.OpenCircuit{{Circuit: federation.CircuitClaim, Since: start, Until: start.Add(time.Second)}}
		},
		Requeue: func(_ context.Context, deed storage.AuditEntry, pick storage.DeadPick) (int, int, error) {
			if pick.No == 99 {
				return 0, 0, storage.ErrNotFound
			}
			return 3, 1, w.store.Update(ctx, func(tx *storage.Tx) error { return tx.Audit(deed) })
		},
	})
	return w
}

func (w *world) person(name string, role storage.Role) {
	w.t.Helper()
	key, err := w.ks.Create(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	uid, err := clearbox.NewUID(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	u := storage.User{UID: uid, Key: key, Handle: clearbox.Handle(name), Role: role, Password: "x"}
	if err := w.store.Update(context.Background(), func(tx *storage.Tx) error { u.No = 0; return tx.CreateUser(&u) }); err != nil {
		w.t.Fatal(err)
	}
	w.people[name] = u.No
}

func (w *world) as(name string, role auth.Role) admin.Actor {
	return admin.Actor{UserNo: w.people[name], Role: role}
}

// actions are the audit log's rows as "actor action object reason detail".
func (w *world) actions() []string {
	w.t.Helper()
	page, err := w.admin.Audit(context.Background(), admin.Local(), "", "", 500)
	if err != nil {
		w.t.Fatal(err)
	}
	var rows []string
	for _, e := range page.Entries {
		object := e.Object
		if len(object) == 26 {
			object = "ID"
		}
		rows = append(rows, strings.TrimSpace(strings.Join([]string{e.Actor, e.Action, object, e.Reason, e.Detail}, " ")))
	}
	return rows
}

// peering stands in for server/peering: it keeps the rule that the audit row is
// in the transaction of the change.
type peering struct{ store *storage.Store }

func (p *peering) set(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, state storage.PeerState) error {
	return p.store.Update(ctx, func(tx *storage.Tx) error {
		peer, err := tx.Peer(server)
		if err != nil {
			return err
		}
		peer.State = state
		if err := tx.PutPeer(&peer); err != nil {
			return err
		}
		return tx.Audit(deed)
	})
}

func (p *peering) Invite(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerInvite) (wire.AdminPeerInvited, error) {
	err := p.store.Update(ctx, func(tx *storage.Tx) error {
		if err := tx.PutPeer(&storage.Peer{Server: b.Server, State: storage.PeerInvited, Country: b.Country, Identity: bytes.Repeat([]byte{3}, 32)}); err != nil {
			return err
		}
		return tx.Audit(deed)
	})
	return wire.AdminPeerInvited{Server: b.Server, Token: "token"}, err
}

func (p *peering) Accept(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerAccept) (wire.AdminPeerAccepted, error) {
	return wire.AdminPeerAccepted{}, errors.New("not in this test")
}

func (p *peering) Test(ctx context.Context, server clearbox.ServerName) (wire.AdminPeerTest, error) {
	return wire.AdminPeerTest{Server: server}, nil
}

func (p *peering) Suspend(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.set(ctx, deed, server, storage.PeerSuspended)
}

func (p *peering) Resume(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.set(ctx, deed, server, storage.PeerActive)
}

func (p *peering) Defederate(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.set(ctx, deed, server, storage.PeerRemoved)
}

func (p *peering) Set(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, b wire.AdminPeerSet) error {
	return p.set(ctx, deed, server, storage.PeerActive)
}

func (p *peering) Block(ctx context.Context, deed storage.AuditEntry, b wire.AdminBlockSet) (wire.AdminBlock, error) {
	deed.Object = b.Name
	return wire.AdminBlock{Name: b.Name, Reason: b.Reason}, p.store.Update(ctx, func(tx *storage.Tx) error { return tx.Audit(deed) })
}

func (p *peering) Unblock(ctx context.Context, deed storage.AuditEntry, name string) error {
	deed.Object = name
	return p.store.Update(ctx, func(tx *storage.Tx) error { return tx.Audit(deed) })
}

func (p *peering) Blocked(clearbox.ServerName) (string, bool) { return "", false }

func (p *peering) Remove(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.set(ctx, deed, server, storage.PeerRemoved)
}

func (p *peering) Conformance(context.Context, clearbox.ServerName) (wire.AdminConformance, error) {
	return wire.AdminConformance{}, nil
}

func (p *peering) Repin(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, words []string) error {
	if words[0] != "right" {
		return clearbox.Errorf(clearbox.CodeIdentityChanged, "other words")
	}
	return p.set(ctx, deed, server, storage.PeerActive)
}

func TestDeedsAndTheirRecords(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	local := admin.Local()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	u, err := w.admin.Ban(ctx, local, "bob", wire.AdminReason{Reason: "case 7"})
	must(u, err)
	if u.State != "banned" || u.Handle != "bob" || u.User.Server != "a.test" {
		t.Errorf("after the ban: %+v", u)
	}
	u, err = w.admin.Unban(ctx, w.as("ada", auth.RoleAdmin), "bob", wire.AdminReason{})
	must(u, err)
	if u.State != "active" {
		t.Errorf("after the unban: %+v", u)
	}
	u, err = w.admin.SetRole(ctx, local, "bob", wire.AdminRole{Role: "moderator"})
	must(u, err)
	if u.Role != "moderator" {
		t.Errorf("after the role: %+v", u)
	}
	r, err := w.admin.Reset(ctx, local, "bob")
	must(r, err)
	if r.Code == "" || r.Handle != "bob" || r.Expires <= clearbox.Millis(start.UnixMilli()) {
		t.Errorf("reset: %+v", r)
	}
	c, err := w.admin.CreateUser(ctx, local, wire.AdminUserCreate{Handle: "carla", Role: "admin", TTL: 1800})
	must(c, err)
	if c.For != "carla" || c.Role != "admin" || c.Link != "https://chat.a.test/join#"+c.Code || c.Expires != clearbox.Millis(start.Add(30*time.Minute).UnixMilli()) {
		t.Errorf("user create: %+v", c)
	}
	i, err := w.admin.CreateInvite(ctx, w.as("mo", auth.RoleModerator), wire.AdminInviteCreate{})
	must(i, err)
	if i.For != "" || i.Role != "member" || i.Expires != clearbox.Millis(start.Add(72*time.Hour).UnixMilli()) {
		t.Errorf("invite create: %+v", i)
	}
	must(nil, w.admin.RevokeInvite(ctx, local, i.ID))
	must(w.admin.InvitePeer(ctx, local, wire.AdminPeerInvite{Server: "b.test", Country: "DE"}))
	must(w.admin.SuspendPeer(ctx, local, "b.test"))
	p, err := w.admin.ResumePeer(ctx, local, "b.test")
	must(p, err)
	if p.State != "active" || len(p.Words) != 8 {
		t.Errorf("peer: %+v", p)
	}
	must(w.admin.FedRetry(ctx, local, wire.AdminFedRetry{Server: "b.test"}))
	must(nil, w.admin.RemovePeer(ctx, local, "b.test"))
	must(w.admin.Reload(ctx, local))
	want := []string{
		"local user.ban bob case 7", "ada user.unban bob", "local user.role bob  moderator", "local user.reset bob",
		"local user.create ID  admin", "mo invite.create ID  member", "local invite.revoke ID",
		"local peer.invite b.test", "local peer.suspend b.test", "local peer.resume b.test", "local fed.retry b.test", "local peer.remove b.test",
		"local server.reload",
	}
	if got := w.actions(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	list, err := w.admin.Invites(ctx, local, "", 100)
	must(list, err)
	states := map[string]string{}
	for _, x := range list.Invites {
		states[x.ID] = x.State
	}
	if states[i.ID] != "revoked" || states[c.ID] != "open" {
		t.Errorf("invites: %+v", list)
	}
	w.now = start.Add(time.Hour)
	if list, err = w.admin.Invites(ctx, local, "", 100); err != nil || list.Invites[0].State == "open" || list.Invites[1].State == "open" {
		t.Errorf("an hour later: %+v, %v", list, err)
	}
}

// A ban ends sessions at once: whoever holds sockets is told after the commit.
func TestBanEndsSessions(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	if err := w.store.Update(ctx, func(tx *storage.Tx) error {
		return tx.CreateSession(&storage.Session{ID: "s1", UserNo: w.people["bob"], Created: tx.Now(), LastUsed: tx.Now(), Expires: tx.Now() + 1e9})
	}); err != nil {
		t.Fatal(err)
	}
	var ended []string
	w.auth.OnRevoke(func(sessions []string) { ended = append(ended, sessions...) })
	if _, err := w.admin.Ban(ctx, admin.Local(), "bob", wire.AdminReason{}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(ended, " ") != "s1" {
		t.Errorf("ended sessions: %v", ended)
	}
}

// A deed whose record cannot be written is not done, whichever step fails.
func TestNoDeedWithoutRecord(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		step storage.FaultStep
		do   func(*world) error
	}{
		{"ban", "statement", func(w *world) error {
			_, err := w.admin.Ban(ctx, admin.Local(), "bob", wire.AdminReason{})
			return err
		}},
		{"role", "statement", func(w *world) error {
			_, err := w.admin.SetRole(ctx, admin.Local(), "bob", wire.AdminRole{Role: "admin"})
			return err
		}},
		{"invite", "statement", func(w *world) error {
			_, err := w.admin.CreateInvite(ctx, admin.Local(), wire.AdminInviteCreate{})
			return err
		}},
		{"reload", "statement", func(w *world) error { _, err := w.admin.Reload(ctx, admin.Local()); return err }},
		{"ban, commit", "commit", func(w *world) error {
			_, err := w.admin.Ban(ctx, admin.Local(), "bob", wire.AdminReason{})
			return err
		}},
	} {
		w := newWorld(t)
		w.faults.Set(func(step storage.FaultStep, after bool, query string) error {
			if step == c.step && !after && (step != "statement" || strings.Contains(query, "audit_logs")) {
				return errors.New("disk trouble")
			}
			return nil
		})
		err := c.do(w)
		w.faults.Set(nil)
		if err == nil {
			t.Errorf("%s: done without a record", c.name)
		}
		users, uerr := w.admin.Users(ctx, admin.Local(), "", 100)
		invites, ierr := w.admin.Invites(ctx, admin.Local(), "", 100)
		if uerr != nil || ierr != nil {
			t.Fatal(uerr, ierr)
		}
		for _, u := range users.Users {
			if u.Handle == "bob" && (u.State != "active" || u.Role != "member") {
				t.Errorf("%s: bob is %+v", c.name, u)
			}
		}
		if len(invites.Invites) != 0 || len(w.actions()) != 0 {
			t.Errorf("%s: %d invites, %v", c.name, len(invites.Invites), w.actions())
		}
	}
}

func TestWhoMay(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	roles := []struct {
		name string
		role auth.Role
	}{{"ada", auth.RoleAdmin}, {"mo", auth.RoleModerator}, {"rita", auth.RoleRights}, {"dora", auth.RoleDPO}, {"bob", auth.RoleMember}}
	ops := []struct {
		name string
		may  string // initials of roles: a m r d
		do   func(admin.Actor) error
	}{
		{"users", "amrd", func(a admin.Actor) error { _, err := w.admin.Users(ctx, a, "", 10); return err }},
		{"user create", "a", func(a admin.Actor) error {
			_, err := w.admin.CreateUser(ctx, a, wire.AdminUserCreate{Handle: "new"})
			return err
		}},
		{"ban", "am", func(a admin.Actor) error { _, err := w.admin.Ban(ctx, a, "bob", wire.AdminReason{}); return err }},
		{"unban", "am", func(a admin.Actor) error { _, err := w.admin.Unban(ctx, a, "bob", wire.AdminReason{}); return err }},
		{"ban a moderator", "a", func(a admin.Actor) error {
			_, err := w.admin.Ban(ctx, a, "mo", wire.AdminReason{})
			if err == nil {
				_, err = w.admin.Unban(ctx, a, "mo", wire.AdminReason{})
			}
			return err
		}},
		{"role", "a", func(a admin.Actor) error {
			_, err := w.admin.SetRole(ctx, a, "bob", wire.AdminRole{Role: "member"})
			return err
		}},
		{"reset", "a", func(a admin.Actor) error { _, err := w.admin.Reset(ctx, a, "bob"); return err }},
		{"invites", "am", func(a admin.Actor) error { _, err := w.admin.Invites(ctx, a, "", 10); return err }},
		{"invite a member", "am", func(a admin.Actor) error {
			_, err := w.admin.CreateInvite(ctx, a, wire.AdminInviteCreate{})
			return err
		}},
		{"invite an admin", "a", func(a admin.Actor) error {
			_, err := w.admin.CreateInvite(ctx, a, wire.AdminInviteCreate{Role: "admin"})
			return err
		}},
		{"peers", "ad", func(a admin.Actor) error { _, err := w.admin.Peers(ctx, a); return err }},
		{"peer invite", "a", func(a admin.Actor) error {
			_, err := w.admin.InvitePeer(ctx, a, wire.AdminPeerInvite{Server: "b.test", Country: "DE"})
			return err
		}},
		{"peer test", "a", func(a admin.Actor) error { _, err := w.admin.TestPeer(ctx, a, "b.test"); return err }},
		{"fed status", "ad", func(a admin.Actor) error { _, err := w.admin.FedStatus(ctx, a); return err }},
		{"fed retry", "a", func(a admin.Actor) error { _, err := w.admin.FedRetry(ctx, a, wire.AdminFedRetry{}); return err }},
		{"dead letters", "ad", func(a admin.Actor) error { _, err := w.admin.Dead(ctx, a, "", "", "", 10); return err }},
		{"requeue", "a", func(a admin.Actor) error {
			_, err := w.admin.RequeueDead(ctx, a, wire.AdminDeadPick{Peer: "b.test"})
			return err
		}},
		{"drop", "a", func(a admin.Actor) error {
			_, err := w.admin.DropDead(ctx, a, wire.AdminDeadPick{Peer: "b.test"})
			return err
		}},
		{"audit", "ad", func(a admin.Actor) error { _, err := w.admin.Audit(ctx, a, "", "", 10); return err }},
		{"status", "ad", func(a admin.Actor) error { _, err := w.admin.Status(ctx, a); return err }},
		{"reload", "a", func(a admin.Actor) error { _, err := w.admin.Reload(ctx, a); return err }},
	}
	for _, op := range ops {
		for _, r := range roles {
			before := len(w.actions())
			err := op.do(w.as(r.name, r.role))
			may := r.role != auth.RoleMember && strings.Contains(op.may, string(r.role[:1]))
			if may && err != nil || !may && clearbox.CodeOf(err) != clearbox.CodeForbidden {
				t.Errorf("%s as %s: %v", op.name, r.role, err)
			}
			if !may && len(w.actions()) != before {
				t.Errorf("%s as %s was refused and left a record", op.name, r.role)
			}
		}
	}
	ada := w.as("ada", auth.RoleAdmin)
	if _, err := w.admin.Ban(ctx, ada, "ada", wire.AdminReason{}); clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("an admin banned herself: %v", err)
	}
	if _, err := w.admin.SetRole(ctx, ada, "ada", wire.AdminRole{Role: "member"}); clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("an admin took her own role: %v", err)
	}
	if _, err := w.admin.Ban(ctx, admin.Local(), "ada", wire.AdminReason{}); err != nil {
		t.Errorf("the local admin: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	local := admin.Local()
	closed := admin.New(w.store, nil, "a.test", admin.Options{})
	for _, c := range []struct {
		name string
		code clearbox.Code
		do   func() error
	}{
		{"unknown user", clearbox.CodeNotFound, func() error { _, err := w.admin.Ban(ctx, local, "nobody", wire.AdminReason{}); return err }},
		{"no name", clearbox.CodeNotFound, func() error { _, err := w.admin.Reset(ctx, local, "No Name"); return err }},
		{"role", clearbox.CodeBadRequest, func() error {
			_, err := w.admin.SetRole(ctx, local, "bob", wire.AdminRole{Role: "king"})
			return err
		}},
		{"taken", clearbox.CodeHandleTaken, func() error {
			_, err := w.admin.CreateUser(ctx, local, wire.AdminUserCreate{Handle: "bob"})
			return err
		}},
		{"unknown invite", clearbox.CodeNotFound, func() error { return w.admin.RevokeInvite(ctx, local, "abcdefghijklmnopqrstuvwxya") }},
		{"no invite", clearbox.CodeNotFound, func() error { return w.admin.RevokeInvite(ctx, local, "../x") }},
		{"cursor", clearbox.CodeBadRequest, func() error { _, err := w.admin.Users(ctx, local, "1e3", 10); return err }},
		{"itself", clearbox.CodeBadRequest, func() error {
			_, err := w.admin.InvitePeer(ctx, local, wire.AdminPeerInvite{Server: "a.test", Country: "DE"})
			return err
		}},
		{"unknown peer", clearbox.CodeNotFound, func() error { _, err := w.admin.SuspendPeer(ctx, local, "c.test"); return err }},
		{"retry unknown", clearbox.CodeNotFound, func() error {
			_, err := w.admin.FedRetry(ctx, local, wire.AdminFedRetry{Server: "c.test"})
			return err
		}},
		{"closed", clearbox.CodeUnavailable, func() error {
			_, err := closed.AcceptPeer(ctx, local, wire.AdminPeerAccept{})
			return err
		}},
		{"no reload", clearbox.CodeUnavailable, func() error { _, err := closed.Reload(ctx, local); return err }},
	} {
		if err := c.do(); clearbox.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s), want %s", c.name, err, clearbox.CodeOf(err), c.code)
		}
	}
	if n := len(w.actions()); n != 0 {
		t.Errorf("refusals left %d records: %v", n, w.actions())
	}
}

func TestPagesAndStatus(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	var names []string
	for after := ""; ; {
		page, err := w.admin.Users(ctx, admin.Local(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.Users {
			names = append(names, string(u.Handle))
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if strings.Join(names, " ") != "ada mo bob dora rita" {
		t.Errorf("users by twos: %v", names)
	}
	if err := w.store.Update(ctx, func(tx *storage.Tx) error {
		return tx.PutPeer(&storage.Peer{Server: "b.test", State: storage.PeerActive, Failures: 3, LastError: clearbox.CodePeerUnreachable})
	}); err != nil {
		t.Fatal(err)
	}
	st, err := w.admin.Status(ctx, admin.Local())
	if err != nil || st.Users != 5 || st.Peers != 1 || !st.Ready || len(st.Words) != 8 || len(st.Pin) != 64 || st.Server != "a.test" {
		t.Errorf("status: %+v, %v", st, err)
	}
	fed, err := w.admin.FedStatus(ctx, admin.Local())
	if err != nil || len(fed.Peers) != 1 || fed.Peers[0].Failures != 3 || fed.Mode != "allowlist" ||
		len(fed.Peers[0].Circuits) != 1 || fed.Peers[0].Circuits[0].Circuit != "claim" {
		t.Errorf("fed status: %+v, %v", fed, err)
	}
	w.reload = errors.New("3 mistakes in the configuration")
	if _, err := w.admin.Reload(ctx, admin.Local()); err == nil {
		t.Error("a bad reload was no error")
	}
}
