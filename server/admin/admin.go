// Package admin is responsible for what administrators and moderators do to a
// homeserver: accounts, invites, peers, the outgoing queues and the audit log.
// Each deed and its row in the audit log are one transaction.
//
// It does not decide which transport or token an actor came with (server/api
// does), and holds no peering protocol (server/peering) and no password or
// session (server/auth).
package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/transport"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Actor is who does a deed.
type Actor struct {
	UserNo int64 // 0 for the local admin
	Role   auth.Role
}

// Local is whoever may open the server's admin socket.
func Local() Actor { return Actor{Role: auth.RoleAdmin} }

// Of is the actor behind a token.
func Of(p auth.Principal) Actor { return Actor{UserNo: p.UserNo, Role: p.Role} }

func (a Actor) local() bool { return a.UserNo == 0 && a.Role == auth.RoleAdmin }

// require refuses actors without one of the roles. The role table in server/api
// is the first door; this one holds when that one is wrong.
func (a Actor) require(roles ...auth.Role) error {
	for _, r := range roles {
		if a.Role == r {
			return nil
		}
	}
	return errForbidden()
}

func errForbidden() error {
	return clearbox.Errorf(clearbox.CodeForbidden, "your role does not allow this")
}

// Options of New. The zero value works, without peers and reload.
type Options struct {
	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // discards if nil

	PublicURL string          // where people reach the server; invite links begin with it
	InviteTTL time.Duration   // of invites; the standard of server/auth if 0
	Mode      string          // of federation, for the status: closed or allowlist
	Identity  []byte          // this server's public identity key, where there are no Identities
	Started   clearbox.Millis // when the process began
	Version   wire.Version    //

	Identities Identity // nil: every operation on the identity is refused

	Groups Groups                                                                              // nil: there are none
	Peers  Peers                                                                               // nil: every peer operation is refused
	Ready  func(context.Context) []wire.ReadyCheck                                             // nil: no checks
	Reload func(context.Context) (wire.AdminReload, error)                                     // nil: refused
	Retry  func(context.Context, clearbox.ServerName) (woken []clearbox.ServerName, err error) // "" is every peer; nil: refused
	// Circuits tells what fails towards a peer; nil: nothing is known.
	Circuits func(clearbox.ServerName) []federation.OpenCircuit
	// Requeue asks the senders of dead letters for their messages (server/delivery); nil: refused.
	Requeue func(ctx context.Context, deed storage.AuditEntry, pick storage.DeadPick) (asked, left int, err error)
	Paths   func() []transport.PathState // how peers are reached; nil: nothing is known
}

// Service does the deeds. It is safe for concurrent use and starts nothing.
type Service struct {
	store  *storage.Store
	auth   *auth.Service
	server clearbox.ServerName
	o      Options
}

// New makes the service of server.
func New(store *storage.Store, auth *auth.Service, server clearbox.ServerName, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, auth: auth, server: server, o: o}
}

// Status is the overview of `clearbox status` and the admin page.
func (s *Service) Status(ctx context.Context, a Actor) (wire.AdminStatus, error) {
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return wire.AdminStatus{}, err
	}
	st := wire.AdminStatus{
		Server: s.server, Version: s.o.Version, Started: s.o.Started, Now: clearbox.Millis(s.o.Now().UnixMilli()),
		Words: []string{}, Ready: true, Checks: []wire.ReadyCheck{},
		Goroutines: runtime.NumGoroutine(), OpenFiles: openFiles(),
	}
	switch {
	case s.o.Identities != nil: // it may have changed since the start
		id := s.o.Identities.Show()
		st.Pin, st.Words = id.Pin, id.Words
	case len(s.o.Identity) > 0:
		pin := sha256.Sum256(s.o.Identity)
		st.Pin, st.Words = hex.EncodeToString(pin[:]), keys.FingerprintWords(s.o.Identity)
	}
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		if st.Users, err = tx.CountUsers(); err != nil {
			return err
		}
		peers, err := tx.Peers()
		if err != nil {
			return err
		}
		st.Peers = 0
		for _, p := range peers {
			if p.State == storage.PeerActive {
				st.Peers++
			}
		}
		queues, err := tx.OutboxStats()
		st.Queued = 0
		for _, q := range queues {
			st.Queued += q.Count
		}
		return err
	})
	if err != nil {
		return wire.AdminStatus{}, fmt.Errorf("read the status: %w", err)
	}
	if s.o.Ready != nil {
		st.Checks = notNil(s.o.Ready(ctx))
		for _, c := range st.Checks {
			st.Ready = st.Ready && c.OK
		}
	}
	return st, nil
}

// openFiles counts this process's descriptors where /proc tells them.
func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list) - 1 // without the one that reads the list
}

// Reload reads the configuration again. A configuration with mistakes changes
// nothing and is the error.
func (s *Service) Reload(ctx context.Context, a Actor) (wire.AdminReload, error) {
	if err := a.require(auth.RoleAdmin); err != nil {
		return wire.AdminReload{}, err
	}
	if s.o.Reload == nil {
		return wire.AdminReload{}, clearbox.Errorf(clearbox.CodeUnavailable, "this server cannot reload its configuration")
	}
	if err := s.audit(ctx, storage.AuditEntry{ActorNo: a.UserNo, Role: storage.Role(a.Role), Action: "server.reload"}); err != nil {
		return wire.AdminReload{}, err
	}
	r, err := s.o.Reload(ctx)
	r.Applied, r.Restart = notNil(r.Applied), notNil(r.Restart)
	return r, err
}

// Audit lists deeds, oldest first: those after the entry with that number, or
// else the last ones before another, or of all.
func (s *Service) Audit(ctx context.Context, a Actor, after, before string, limit int) (wire.AdminAudit, error) {
	page := wire.AdminAudit{Entries: []wire.AdminAuditEntry{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return page, err
	}
	from, err := cursor(after)
	if err != nil {
		return page, err
	}
	to, err := cursor(before)
	if err != nil {
		return page, err
	}
	if after != "" && before != "" {
		return page, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "say after or before, not both", Field: "/before"}
	}
	err = s.store.View(ctx, func(tx *storage.Tx) (err error) {
		var entries []storage.AuditEntry
		if after != "" {
			entries, err = tx.AuditEntries(from, limit)
		} else {
			entries, err = tx.LastAuditEntries(to, limit)
		}
		if err != nil {
			return err
		}
		names := people{tx: tx, known: map[int64]string{0: "local"}}
		page.Entries, page.Next, page.Before = make([]wire.AdminAuditEntry, 0, len(entries)), "", ""
		for _, e := range entries {
			actor, err := names.of(e.ActorNo)
			if err != nil {
				return err
			}
			object := e.Object
			if e.ObjectNo != 0 {
				if object, err = names.of(e.ObjectNo); err != nil {
					return err
				}
			}
			page.Entries = append(page.Entries, wire.AdminAuditEntry{
				No: e.No, At: e.At, Actor: actor, Role: string(e.Role), Action: e.Action, Object: object, Reason: e.Purpose, Detail: e.Detail,
			})
		}
		switch {
		case len(entries) == limit && after != "":
			page.Next = strconv.FormatInt(entries[len(entries)-1].No, 10)
		case len(entries) == limit && entries[0].No > 1:
			page.Before = strconv.FormatInt(entries[0].No, 10)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("read the audit log: %w", err)
	}
	return page, nil
}

// people turns account numbers into names, each looked up once.
type people struct {
	tx    *storage.Tx
	known map[int64]string
}

func (p people) of(no int64) (string, error) {
	if name, ok := p.known[no]; ok {
		return name, nil
	}
	name := "former"
	u, err := p.tx.UserByNo(no)
	switch {
	case err == nil && u.State != storage.UserErased && u.Handle != "":
		name = string(u.Handle)
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return "", err
	}
	p.known[no] = name
	return name, nil
}

// audit writes a row by itself, for deeds that change nothing in the store.
func (s *Service) audit(ctx context.Context, e storage.AuditEntry) error {
	if err := s.store.Update(ctx, func(tx *storage.Tx) error { return tx.Audit(e) }); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// cursor reads a Next that is a number.
func cursor(after string) (int64, error) {
	if after == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(after, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != after {
		return 0, &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "after is not the next of a page", Field: "/after"}
	}
	return n, nil
}

// notNil makes lists that are written as [] rather than null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
