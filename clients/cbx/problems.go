package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
)

// Exit codes, a promise to scripts.
const (
	exitOK       = 0
	exitFailed   = 1 // anything that has no code of its own
	exitUsage    = 2 // wrong arguments, addresses and names included
	exitPending  = 3 // the message is safe and on its way, but not where --wait wanted it in time
	exitLogin    = 4 // name or password wrong, or the session has ended
	exitOffline  = 5 // the server cannot be reached
	exitVault    = 6 // the vault is in use, damaged, older than it should be, or the key is wrong
	exitIdentity = 7 // the contact's safety number changed and was not accepted
	exitNotFound = 8 // nobody by that name, or nobody whom the own server reaches
	exitRefused  = 9 // the message was given up: see its reason
)

const exitHelp = `Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not as far as --wait asked in time, also while the server is down (the message is safe),
4 login needed, 5 server unreachable, 6 vault in use or not readable, 7 safety number changed, 8 not found, 9 message given up, 130 interrupted.`

// failed says what went wrong and gives the exit code.
func (a *app) failed(err error) int {
	code := exitCode(err)
	if code == exitFailed && errors.Is(err, context.Canceled) {
		return 130 // interrupted, as shells say it
	}
	if a.JSON {
		a.line(a.stderr, map[string]any{"type": "error", "code": slug(err), "text": err.Error(), "exit": code})
	} else {
		fmt.Fprintln(a.stderr, "cbx:", err)
		if hint := hint(err); hint != "" {
			fmt.Fprintln(a.stderr, "    ", hint)
		}
	}
	return code
}

// warn says something on standard error and goes on.
func (a *app) warn(code, text string) {
	if a.JSON {
		a.line(a.stderr, map[string]any{"type": "warning", "code": code, "text": text})
		return
	}
	fmt.Fprintln(a.stderr, "cbx:", text)
}

// usageError is a wrong combination of arguments.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// stateError says that a message did not come as far as was asked.
type stateError struct {
	text    string
	givenUp bool
}

func (e *stateError) Error() string { return e.text }

// advised is an error with the next step that fits it alone.
type advised struct {
	err  error
	next string
}

func advise(err error, next string) error { return &advised{err, next} }

func (e *advised) Error() string { return e.err.Error() }
func (e *advised) Unwrap() error { return e.err }

// faultIn tells whether the server refused what stands at field of the request.
func faultIn(err error, field string) bool {
	var e *clearbox.Error
	return errors.As(err, &e) && strings.HasPrefix(e.Field, field)
}

func exitCode(err error) int {
	var use *usageError
	var state *stateError
	var corrupt *vault.CorruptError
	switch {
	case errors.As(err, &use):
		return exitUsage
	case errors.As(err, &state) && state.givenUp:
		return exitRefused
	case errors.As(err, &state):
		return exitPending
	case errors.Is(err, vault.ErrLocked), errors.Is(err, vault.ErrWrongKey), errors.Is(err, vault.ErrRolledBack), errors.Is(err, vault.ErrVersion),
		errors.Is(err, core.ErrVaultBroken), errors.As(err, &corrupt), errors.Is(err, vault.ErrAbsent):
		return exitVault
	case errors.Is(err, core.ErrLoginRequired), errors.Is(err, core.ErrRemoved), errors.Is(err, core.ErrNoAccount):
		return exitLogin
	case errors.Is(err, core.ErrUnknownContact):
		return exitNotFound
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeBadRequest, clearbox.CodeBadHandle, clearbox.CodeTooLarge:
		return exitUsage
	case clearbox.CodeBadCredentials, clearbox.CodeUnauthorized, clearbox.CodeTokenReused, clearbox.CodeTokenExpired:
		return exitLogin
	case clearbox.CodeUnavailable, clearbox.CodePeerUnreachable:
		return exitOffline
	case clearbox.CodeIdentityChanged:
		return exitIdentity
	case clearbox.CodeNotFound, clearbox.CodeRecipientUnavailable, clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeNoRoutePolicy:
		return exitNotFound
	}
	return exitFailed
}

// slug is the stable name of an error in JSON.
func slug(err error) string {
	var use *usageError
	switch exitCode(err) {
	case exitUsage:
		if errors.As(err, &use) {
			return "usage"
		}
	case exitVault:
		return "vault"
	case exitPending:
		return "pending"
	case exitRefused:
		return "given_up"
	}
	switch {
	case errors.Is(err, core.ErrLoginRequired):
		return "login_required"
	case errors.Is(err, core.ErrNoAccount):
		return "no_account"
	case errors.Is(err, core.ErrUnknownContact):
		return string(clearbox.CodeNotFound)
	}
	return string(clearbox.CodeOf(err))
}

// hint is the next command where there is an obvious one.
func hint(err error) string {
	var special *advised
	var use *usageError
	switch {
	case errors.As(err, &special):
		return special.next
	case errors.As(err, &use):
		return "Run cbx --help, or cbx COMMAND --help."
	case errors.Is(err, core.ErrLoginRequired):
		return "cbx login begins a new session; nothing is lost."
	case errors.Is(err, core.ErrRemoved):
		return "What is here stays readable. cbx link --profile NAME, with a new name, makes this computer a device of the account again."
	case errors.Is(err, core.ErrNoAccount), errors.Is(err, vault.ErrAbsent):
		return "cbx join LINK makes an account with an invite link."
	case errors.Is(err, vault.ErrLocked):
		return "Another cbx runs with this profile, perhaps recv --follow or chat. Only one at a time can: end it, or write in its chat."
	case errors.Is(err, vault.ErrWrongKey):
		return "Give what the vault was made with: --key-file, CBX_PASSPHRASE_FILE, or the passphrase when asked."
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeIdentityChanged:
		return "cbx safety-number ADDRESS shows the new number; cbx contacts accept-identity ADDRESS takes it."
	case clearbox.CodeInviteInvalid:
		return "Ask whoever invited you for a new link; each is good for one use and for a limited time."
	case clearbox.CodeHandleTaken:
		return "Join again with another --name."
	}
	switch exitCode(err) {
	case exitPending:
		return "cbx status shows the queue; cbx recv --follow or the next cbx send goes on with it."
	case exitRefused:
		return "The reason is printed above."
	case exitLogin:
		return "Check name and password, then cbx login again. Who forgot the password asks an administrator for a code: cbx login --reset CODE."
	case exitOffline:
		return "What you wrote is kept and sent later; cbx status shows whether the server answers."
	case exitNotFound:
		return "Check the address, name@server; cbx contacts lists whom you know."
	}
	return ""
}
