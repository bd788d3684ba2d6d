package main

import (
	"context"
	"errors"
	"os"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
)

// newcomer makes a profile for fn that becomes a device of an account that there is
// already, at server (a name, for messages and for the URL where none is given).
// What it made is removed again if there is no account in it when fn ends.
func (a *app) newcomer(ctx context.Context, server string, fn func(*profile, clearbox.ServerName) error) (err error) {
	given := &settings{ServerURL: a.ServerURL}
	if server != "" {
		if _, err := clearbox.ParseServerName(server); err != nil {
			return err
		}
		if given.ServerURL == "" {
			given.ServerURL = "https://" + server
		}
	}
	if given.ServerURL == "" {
		return usage("say where the account is: --server DOMAIN, or --server-url URL")
	}
	if a.CA != "" {
		if given.CA, err = a.readCA(); err != nil {
			return err
		}
	}
	dir, err := a.dir()
	if err != nil {
		return err
	}
	if vault.Exists(dir) {
		return clearbox.Errorf(clearbox.CodeConflict, "this profile has a vault already; a new device needs another --profile, or another computer")
	}
	known, err := whoIs(ctx, given, server)
	if err != nil {
		return err
	}
	keyMade := false
	if a.KeyFile != "" {
		_, statErr := os.Stat(a.KeyFile)
		keyMade = errors.Is(statErr, os.ErrNotExist)
	}
	v, err := a.openVault(ctx, true)
	if err != nil {
		return err
	}
	p, err := a.over(ctx, v, given)
	if err == nil {
		err = fn(p, known)
	}
	if p != nil && p.net != nil {
		p.net.Close()
	}
	if p != nil && p.brain != nil && p.brain.HasAccount() {
		return errors.Join(err, v.Close())
	}
	gone := v.Destroy()
	if keyMade {
		gone = errors.Join(gone, removeIfThere(a.KeyFile))
	}
	return errors.Join(err, gone)
}

// whoIs asks a server for its name, which must be want if that is not empty.
func whoIs(ctx context.Context, given *settings, want string) (clearbox.ServerName, error) {
	net, err := given.dial()
	if err != nil {
		return "", err
	}
	defer net.Close()
	stranger, err := core.New(ctx, &memvault.Vault{}, net, core.Options{})
	if err != nil {
		return "", err
	}
	known, err := stranger.Discover(ctx)
	if clearbox.CodeOf(err) == clearbox.CodeUnavailable {
		return "", advise(err, "Nothing was changed. Check that "+given.ServerURL+" answers; a certificate of one's own needs --ca FILE.")
	}
	if err != nil {
		return "", err
	}
	if want != "" && string(known.Server) != want {
		return "", clearbox.Errorf(clearbox.CodeBadSignature, "that server is %s and not %s", known.Server, want)
	}
	return known.Server, nil
}
