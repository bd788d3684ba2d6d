package core

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// tokens is the session. A refresh token is good for one use, so its successor
// is in the vault before anything uses it.
type tokens struct {
	Access         string          `cbor:"1,keyasint"`
	AccessExpires  clearbox.Millis `cbor:"2,keyasint"`
	Refresh        string          `cbor:"3,keyasint"`
	RefreshExpires clearbox.Millis `cbor:"4,keyasint"`
	Session        string          `cbor:"5,keyasint"`
}

func tokensOf(t *wire.Tokens) *tokens {
	return &tokens{Access: t.Access, AccessExpires: t.AccessExpires, Refresh: t.Refresh, RefreshExpires: t.RefreshExpires, Session: t.Session}
}

// earlyRefresh is how long before its end an access token is replaced.
const earlyRefresh = time.Minute

// accessToken gives a token that is good for a moment yet.
func (b *Brain) accessToken(ctx context.Context) (string, error) {
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	t, err := b.loadTokens(ctx)
	if err != nil {
		return "", err
	}
	if t != nil && t.AccessExpires > b.now()+clearbox.Millis(earlyRefresh.Milliseconds()) {
		return t.Access, nil
	}
	return b.renewSession(ctx, t)
}

// refreshToken replaces an access token that the server no longer takes, unless
// somebody else did so already.
func (b *Brain) refreshToken(ctx context.Context, refused string) (string, error) {
	b.tokenMu.Lock()
	defer b.tokenMu.Unlock()
	t, err := b.loadTokens(ctx)
	if err != nil {
		return "", err
	}
	if t != nil && t.Access != refused {
		return t.Access, nil
	}
	return b.renewSession(ctx, t)
}

func (b *Brain) loadTokens(ctx context.Context) (t *tokens, err error) {
	if _, err := b.me(); err != nil {
		return nil, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		t, err = load[tokens](r, keyTokens)
		return err
	})
	return t, err
}

// renewSession refreshes t or, where that cannot go on, logs in again with the
// password that Options.Password gives. The caller holds tokenMu.
//
// An answer that got lost leaves a refresh token that the server calls reused;
// the session is over then, and logging in is the way on.
func (b *Brain) renewSession(ctx context.Context, t *tokens) (string, error) {
	if t != nil && t.RefreshExpires > b.now() {
		var answer wire.Tokens
		err := b.exchange(ctx, "POST", "/auth/refresh", "", wire.Refresh{Token: t.Refresh}, &answer)
		switch clearbox.CodeOf(err) {
		case "":
			next := tokensOf(&answer)
			if err := b.vault.Update(ctx, func(tx Tx) error { return save(tx, keyTokens, next) }); err != nil {
				return "", err
			}
			return next.Access, nil
		case clearbox.CodeUnauthorized, clearbox.CodeTokenReused, clearbox.CodeTokenExpired, clearbox.CodeBadCredentials, clearbox.CodeForbidden:
			// The session has ended.
		default:
			return "", err
		}
		if err := b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(keyTokens) }); err != nil {
			return "", err
		}
	}
	if b.opts.Password == nil {
		return "", ErrLoginRequired
	}
	password, err := b.opts.Password(ctx)
	if err != nil {
		return "", errors.Join(ErrLoginRequired, err)
	}
	s, err := b.me()
	if err != nil {
		return "", err
	}
	if err := b.login(ctx, s, password); err != nil {
		if clearbox.CodeOf(err) == clearbox.CodeBadCredentials {
			return "", errors.Join(ErrLoginRequired, err)
		}
		return "", err
	}
	if t, err = b.loadTokens(ctx); err != nil {
		return "", err
	}
	return t.Access, nil
}
