package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/admin"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/keystore"
)

// server starts an admin socket with the real admin service over a real store
// in the folder data, with Ada and Bob in it. Only peers are played.
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: server")
	}
	dir := ts.MkAbs("data")
	ts.Check(os.MkdirAll(dir, 0o700))
	ctx := context.Background()
	ks, err := keystore.Open(ctx, filepath.Join(dir, "keystore.db"), bytes.Repeat([]byte{1}, 32), keystore.Options{Now: time.Now, Random: rand.Reader})
	ts.Check(err)
	store, err := storage.Open(ctx, storage.Options{Path: filepath.Join(dir, "clearbox.db"), Sealer: ks, Index: ks.Index, Now: time.Now, Random: rand.Reader})
	ts.Check(err)
	for name, role := range map[string]storage.Role{"ada": storage.RoleAdmin, "bob": storage.RoleMember} {
		key, err := ks.Create(ctx)
		ts.Check(err)
		uid, err := clearbox.NewUID(rand.Reader)
		ts.Check(err)
		ts.Check(store.Update(ctx, func(tx *storage.Tx) error {
			return tx.CreateUser(&storage.User{UID: uid, Key: key, Handle: clearbox.Handle(name), Role: role, Password: "x"})
		}))
	}
	service := admin.New(store, auth.New(store, ks, "chat.example.org", auth.Options{}), "chat.example.org", admin.Options{
		PublicURL: "https://chat.example.org", InviteTTL: 72 * time.Hour, Mode: "allowlist", Identity: bytes.Repeat([]byte{9}, 32),
		Version: wire.Version{Version: "v0.0.0-test"}, Started: clearbox.Millis(time.Now().UnixMilli()), Peers: &playedPeers{store},
		Ready: func(context.Context) []wire.ReadyCheck { return []wire.ReadyCheck{{Name: "store", OK: true}} },
		Reload: func(context.Context) (wire.AdminReload, error) {
			if _, err := os.Stat(ts.MkAbs("mistake")); err == nil {
				return wire.AdminReload{}, clearbox.Errorf(clearbox.CodeBadRequest, "1 mistake in the configuration; the running one stays in force")
			}
			return wire.AdminReload{Applied: []string{"log.level"}, Restart: []string{"listen.addresses"}}, nil
		},
		Retry: func(_ context.Context, name clearbox.ServerName) ([]clearbox.ServerName, error) {
			if name == "" {
				name = "partner.example"
			}
			return []clearbox.ServerName{name}, nil
		},
	})
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	ts.Check(err)
	srv := &http.Server{Handler: adminRoutes(service)}
	ended := make(chan struct{})
	go func() { defer close(ended); srv.Serve(ln) }()
	ts.Defer(func() {
		srv.Close()
		<-ended
		store.Close()
		ks.Close()
	})
}

// adminRoutes mounts the service at the documented routes.
func adminRoutes(s *admin.Service) http.Handler {
	mux := http.NewServeMux()
	a := admin.Local()
	route := func(pattern string, status int, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := do(r)
			if err != nil {
				p := wire.Problem{Type: wire.ProblemBase, Title: "refused", Status: 400, Detail: err.Error(), Code: clearbox.CodeOf(err)}
				var bad *wire.InvalidError
				if errors.As(err, &bad) {
					p.Detail, p.Errors = "the request is not valid", bad.Errors
				}
				status, answer = 400, p
			}
			if answer == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(answer)
		})
	}
	body := func(r *http.Request, into any) error {
		data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return err
		}
		return wire.Decode(wire.JSON, data, into)
	}
	route("GET /livez", 200, func(*http.Request) (any, error) { return wire.Live{Live: true}, nil })
	route("GET /readyz", 200, func(*http.Request) (any, error) {
		return wire.Ready{Ready: true, Checks: []wire.ReadyCheck{{Name: "store", OK: true}}}, nil
	})
	page := func(r *http.Request) (string, int, error) {
		return wire.AdminPage(r.URL.Query().Get("after"), r.URL.Query().Get("limit"))
	}
	route("GET /admin/users", 200, func(r *http.Request) (any, error) {
		after, n, err := page(r)
		if err != nil {
			return nil, err
		}
		return s.Users(r.Context(), a, after, n)
	})
	route("POST /admin/users", 201, func(r *http.Request) (any, error) {
		var b wire.AdminUserCreate
		if err := body(r, &b); err != nil {
			return nil, err
		}
		return s.CreateUser(r.Context(), a, b)
	})
	route("POST /admin/users/{name}/{verb}", 200, func(r *http.Request) (any, error) {
		name := r.PathValue("name")
		switch r.PathValue("verb") {
		case "ban", "unban":
			var b wire.AdminReason
			if err := body(r, &b); err != nil {
				return nil, err
			}
			if r.PathValue("verb") == "ban" {
				return s.Ban(r.Context(), a, name, b)
			}
			return s.Unban(r.Context(), a, name, b)
		case "role":
			var b wire.AdminRole
			if err := body(r, &b); err != nil {
				return nil, err
			}
			return s.SetRole(r.Context(), a, name, b)
		}
		return s.Reset(r.Context(), a, name)
	})
	route("GET /admin/invites", 200, func(r *http.Request) (any, error) {
		after, n, err := page(r)
		if err != nil {
			return nil, err
		}
		return s.Invites(r.Context(), a, after, n)
	})
	route("POST /admin/invites", 201, func(r *http.Request) (any, error) {
		var b wire.AdminInviteCreate
		if err := body(r, &b); err != nil {
			return nil, err
		}
		return s.CreateInvite(r.Context(), a, b)
	})
	route("DELETE /admin/invites/{id}", 204, func(r *http.Request) (any, error) {
		return nil, s.RevokeInvite(r.Context(), a, r.PathValue("id"))
	})
	route("GET /admin/peers", 200, func(r *http.Request) (any, error) { return s.Peers(r.Context(), a) })
	route("POST /admin/peers/invite", 201, func(r *http.Request) (any, error) {
		var b wire.AdminPeerInvite
		if err := body(r, &b); err != nil {
			return nil, err
		}
		return s.InvitePeer(r.Context(), a, b)
	})
	route("POST /admin/peers/accept", 200, func(r *http.Request) (any, error) {
		var b wire.AdminPeerAccept
		if err := body(r, &b); err != nil {
			return nil, err
		}
		return s.AcceptPeer(r.Context(), a, b)
	})
	route("POST /admin/peers/{server}/{verb}", 200, func(r *http.Request) (any, error) {
		name := clearbox.ServerName(r.PathValue("server"))
		switch r.PathValue("verb") {
		case "suspend":
			return s.SuspendPeer(r.Context(), a, name)
		case "resume":
			return s.ResumePeer(r.Context(), a, name)
		}
		return s.TestPeer(r.Context(), a, name)
	})
	route("DELETE /admin/peers/{server}", 204, func(r *http.Request) (any, error) {
		return nil, s.RemovePeer(r.Context(), a, clearbox.ServerName(r.PathValue("server")))
	})
	route("GET /admin/fed/status", 200, func(r *http.Request) (any, error) { return s.FedStatus(r.Context(), a) })
	route("POST /admin/fed/retry", 200, func(r *http.Request) (any, error) {
		var b wire.AdminFedRetry
		if err := body(r, &b); err != nil {
			return nil, err
		}
		return s.FedRetry(r.Context(), a, b)
	})
	route("GET /admin/audit", 200, func(r *http.Request) (any, error) {
		after, n, err := page(r)
		if err != nil {
			return nil, err
		}
		return s.Audit(r.Context(), a, after, n)
	})
	route("GET /admin/status", 200, func(r *http.Request) (any, error) { return s.Status(r.Context(), a) })
	route("POST /admin/reload", 200, func(r *http.Request) (any, error) { return s.Reload(r.Context(), a) })
	return mux
}

// playedPeers keeps peers in the store without speaking to any.
type playedPeers struct{ store *storage.Store }

func (p *playedPeers) put(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, country string, state storage.PeerState) error {
	return p.store.Update(ctx, func(tx *storage.Tx) error {
		peer, err := tx.Peer(server)
		if country != "" {
			peer, err = storage.Peer{Server: server, Country: country, Identity: bytes.Repeat([]byte{4}, 32), Pin: bytes.Repeat([]byte{4}, 32)}, nil
		}
		if err != nil {
			return err
		}
		peer.State = state
		if err := tx.PutPeer(&peer); err != nil {
			return err
		}
		deed.Object = string(server)
		return tx.Audit(deed)
	})
}

func (p *playedPeers) Invite(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerInvite) (wire.AdminPeerInvited, error) {
	err := p.put(ctx, deed, b.Server, b.Country, storage.PeerInvited)
	return wire.AdminPeerInvited{Server: b.Server, Token: "cbpeer1-token", Words: []string{"one", "two"}, Expires: clearbox.Millis(time.Now().Add(72 * time.Hour).UnixMilli())}, err
}

func (p *playedPeers) Accept(ctx context.Context, deed storage.AuditEntry, b wire.AdminPeerAccept) (wire.AdminPeerAccepted, error) {
	if b.Token != "cbpeer1-token" {
		return wire.AdminPeerAccepted{}, clearbox.Errorf(clearbox.CodeInviteInvalid, "this is not a peering token")
	}
	err := p.put(ctx, deed, "partner.example", b.Country, storage.PeerActive)
	return wire.AdminPeerAccepted{Peer: wire.AdminPeer{Server: "partner.example", State: "active", Words: []string{"three", "four"}}, Own: []string{"one", "two"}}, err
}

func (p *playedPeers) Test(ctx context.Context, server clearbox.ServerName) (wire.AdminPeerTest, error) {
	if strings.HasPrefix(string(server), "dead") {
		return wire.AdminPeerTest{Server: server, Steps: []wire.AdminStep{{Name: "discovery", OK: true, Took: 3}, {Name: "tls", Code: clearbox.CodePeerUnreachable, Detail: "connection refused", Took: 5}}}, nil
	}
	return wire.AdminPeerTest{Server: server, OK: true, Steps: []wire.AdminStep{{Name: "discovery", OK: true, Took: 3, Detail: "https://partner.example"}}}, nil
}

func (p *playedPeers) Suspend(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.put(ctx, deed, server, "", storage.PeerSuspended)
}

func (p *playedPeers) Resume(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.put(ctx, deed, server, "", storage.PeerActive)
}

func (p *playedPeers) Remove(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName) error {
	return p.put(ctx, deed, server, "", storage.PeerRemoved)
}
