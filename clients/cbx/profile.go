package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/network"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
)

// settings is what cbx itself keeps in the vault.
type settings struct {
	ServerURL string `json:"server_url"`
	CA        []byte `json:"ca,omitempty"` // PEM
}

const keySettings = "cbx/settings"

// dial gives the way to the server; nothing is connected yet.
func (s *settings) dial() (*network.Client, error) {
	base, err := network.ParseServerURL(s.ServerURL)
	if err != nil {
		return nil, err
	}
	return network.New(base, network.Options{CA: s.CA, UserAgent: "cbx/" + version})
}

// readCA reads the file that --ca names.
func (a *app) readCA() ([]byte, error) {
	b, err := os.ReadFile(a.CA)
	if err != nil {
		return nil, usage("the CA file cannot be read: %s", err)
	}
	return b, nil
}

// profile is an open vault with its brain.
type profile struct {
	vault *vault.Vault
	net   *network.Client
	brain *core.Brain
	settings
}

func (p *profile) close() {
	if p.net != nil {
		p.net.Close()
	}
	_ = p.vault.Close() // everything in it is synced; what fails is the hint of how far it is
}

// dir is where the profile's vault lies.
func (a *app) dir() (string, error) {
	if a.Vault != "" {
		return a.Vault, nil
	}
	if a.Profile == "" || strings.ContainsAny(a.Profile, `/\`) || strings.HasPrefix(a.Profile, ".") {
		return "", usage("%q cannot be the name of a profile", a.Profile)
	}
	base := a.getenv("XDG_DATA_HOME")
	if base == "" {
		home := a.getenv("HOME")
		if home == "" {
			return "", usage("there is no home directory: name one with --vault")
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "cbx", a.Profile), nil
}

// maxSecret bounds files with a password, passphrase or key, in bytes.
const maxSecret = 4096

// readSecret reads a file that only its owner can read. A line end at its end
// does not belong to the secret.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", usage("%s can be read by others: chmod 600 it", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", usage("%s is too long for a secret", path)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// secret finds what opens the vault. With create, a key file that is missing is
// made, and a passphrase that is asked for is asked for twice.
func (a *app) secret(ctx context.Context, create bool) (vault.Secret, error) {
	if a.KeyFile != "" {
		return a.keyFile(create)
	}
	if a.PassphraseFile != "" {
		p, err := a.secretFile(a.PassphraseFile, "passphrase")
		return vault.Secret{Passphrase: []byte(p)}, err
	}
	if !a.asker.interactive() {
		return vault.Secret{}, usage("nobody can be asked for the passphrase: use --key-file or CBX_PASSPHRASE_FILE")
	}
	what := "Passphrase of this device's vault"
	if create {
		what = "A passphrase for this device: it locks your keys and messages on this computer, and nobody can reset it"
	}
	p, err := a.askSecret(ctx, what, create)
	return vault.Secret{Passphrase: []byte(p)}, err
}

// keyFile reads 64 hexadecimal digits, or makes them.
func (a *app) keyFile(create bool) (vault.Secret, error) {
	text, err := readSecret(a.KeyFile)
	if errors.Is(err, os.ErrNotExist) && create {
		key := make([]byte, vault.KeySize)
		if _, err := io.ReadFull(a.random, key); err != nil {
			return vault.Secret{}, fmt.Errorf("draw a key: %w", err)
		}
		text = hex.EncodeToString(key)
		err = writeNew(a.KeyFile, []byte(text+"\n"))
		if err != nil {
			return vault.Secret{}, err
		}
	} else if errors.Is(err, os.ErrNotExist) {
		return vault.Secret{}, usage("there is no key file %s", a.KeyFile)
	} else if err != nil {
		return vault.Secret{}, err
	}
	key, err := hex.DecodeString(text)
	if err != nil || len(key) != vault.KeySize {
		return vault.Secret{}, usage("%s is no key file: it has 64 hexadecimal digits", a.KeyFile)
	}
	return vault.Secret{Key: key}, nil
}

// writeNew makes a file that was not there, readable by its owner, and syncs it.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// secretFile reads a file that must hold what it is called.
func (a *app) secretFile(path, what string) (string, error) {
	s, err := readSecret(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = usage("there is no file %s with the %s", path, what)
	case err == nil && s == "":
		err = usage("%s holds no %s", path, what)
	}
	return s, err
}

// askSecret asks for a secret, twice if it is a new one.
func (a *app) askSecret(ctx context.Context, what string, twice bool) (string, error) {
	for tries := 1; ; tries++ {
		one, err := a.asker.secret(ctx, what)
		if err != nil {
			return "", err
		}
		if one == "" {
			return "", usage("it cannot be empty")
		}
		if !twice {
			return one, nil
		}
		two, err := a.asker.secret(ctx, "The same again")
		if err != nil || one == two {
			return one, err
		}
		if tries == 3 {
			return "", errors.New("the two were not the same, three times")
		}
		fmt.Fprintln(a.stderr, "The two are not the same.")
	}
}

// password gives the account's password: from the file, or asked for.
func (a *app) password(ctx context.Context, what string, twice bool) (string, error) {
	if a.PasswordFile != "" {
		return a.secretFile(a.PasswordFile, "password")
	}
	if !a.asker.interactive() {
		return "", usage("nobody can be asked for the password: use --password-file or CBX_PASSWORD_FILE")
	}
	return a.askSecret(ctx, what, twice)
}

// lockPatience is how long to wait for another process to finish with the vault.
const lockPatience = 5 * time.Second

// openVault opens the vault, waiting a moment for a short command to let go.
func (a *app) openVault(ctx context.Context, create bool) (*vault.Vault, error) {
	dir, err := a.dir()
	if err != nil {
		return nil, err
	}
	if !create {
		if !vault.Exists(dir) {
			return nil, vault.ErrAbsent // before anybody types a passphrase
		}
	}
	secret, err := a.secret(ctx, create)
	if err != nil {
		return nil, err
	}
	deadline := a.now().Add(lockPatience)
	for {
		v, err := vault.Open(dir, vault.Options{Secret: secret, Random: a.random, Create: create})
		if !errors.Is(err, vault.ErrLocked) || !a.now().Before(deadline) {
			return v, err
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// open opens the profile. The caller closes it.
func (a *app) open(ctx context.Context) (*profile, error) {
	v, err := a.openVault(ctx, false)
	if err != nil {
		return nil, err
	}
	p, err := a.over(ctx, v, nil)
	if err != nil {
		_ = v.Close() // the first error is the one to tell
		return nil, err
	}
	return p, nil
}

// over makes the brain over an open vault; given settings are stored, else the
// stored ones are taken.
func (a *app) over(ctx context.Context, v *vault.Vault, given *settings) (*profile, error) {
	p := &profile{vault: v}
	if given != nil {
		p.settings = *given
		b, err := json.Marshal(given)
		if err != nil {
			return nil, err
		}
		if err := v.Update(ctx, func(tx core.Tx) error { return tx.Put(keySettings, b) }); err != nil {
			return nil, err
		}
	} else {
		err := v.View(ctx, func(r core.Reader) error {
			b, err := r.Get(keySettings)
			if errors.Is(err, core.ErrNoValue) {
				return core.ErrNoAccount
			}
			if err != nil {
				return err
			}
			return json.Unmarshal(b, &p.settings)
		})
		if err != nil {
			return nil, err
		}
		if a.ServerURL != "" {
			p.ServerURL = a.ServerURL
		}
		if a.CA != "" {
			if p.CA, err = a.readCA(); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if p.net, err = p.settings.dial(); err != nil {
		return nil, err
	}
	opts := core.Options{Now: a.now, Random: a.random}
	if a.PasswordFile != "" {
		opts.Password = func(context.Context) (string, error) { return readSecret(a.PasswordFile) }
	}
	p.brain, err = core.New(ctx, v, p.net, opts)
	return p, err
}

// with opens the profile for fn, which needs an account.
func (a *app) with(ctx context.Context, fn func(*profile) error) error {
	p, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	if _, err := p.brain.Profile(); err != nil {
		return err
	}
	if err := p.brain.Tidy(ctx); err != nil {
		return err
	}
	if err := fn(p); err != nil {
		_ = p.brain.Tidy(context.WithoutCancel(ctx)) // the first error is the one to tell; the next command tidies too
		return err
	}
	return p.brain.Tidy(context.WithoutCancel(ctx))
}

// running runs the brain beside fn and ends with fn. If the brain gives up
// before that, its error cancels fn's context and is what comes back.
func (p *profile) running(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(p.brain.Run(ctx))
	}()
	err := fn(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-ended
	if cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return err
}

// address makes what a person typed name@server or uid@server.
func (p *profile) address(name string) (string, error) {
	who, err := p.brain.Profile()
	if err != nil {
		return "", err
	}
	if !strings.Contains(name, "@") {
		name += "@" + string(who.Address.Server)
	}
	if _, err := clearbox.ParseUserID(name); err != nil {
		if _, err := clearbox.ParseAddress(name); err != nil {
			return "", advise(err, "An address is name@server, such as bob@clinic.example; the name alone means somebody at your own server.")
		}
	}
	return name, nil
}

// contact finds somebody by name@server or uid@server; a name alone is one at
// the own server.
func (p *profile) contact(ctx context.Context, name string) (core.Contact, error) {
	who, err := p.brain.Profile()
	if err != nil {
		return core.Contact{}, err
	}
	if name, err = p.address(name); err != nil {
		return core.Contact{}, err
	}
	c, err := p.brain.Contact(ctx, name)
	if err != nil {
		err = notFound(name, who.Address.Server, err)
	}
	return c, err
}

// notFound says why nobody was found by an address that was looked up through
// own, and what to do.
func notFound(name string, own clearbox.ServerName, err error) error {
	local, server, _ := strings.Cut(clean(name), "@")
	switch code := clearbox.CodeOf(err); code {
	case clearbox.CodeNotFound, clearbox.CodeRecipientUnavailable:
		if server == string(own) {
			return clearbox.Wrap(code, "there is nobody called "+local+"@"+server, err)
		}
		return clearbox.Wrap(code, fmt.Sprintf("nobody is called %s at %s, or they do not take messages", local, server), err)
	case clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeNoRoutePolicy:
		return advise(clearbox.Wrap(code, fmt.Sprintf("your server, %s, does not exchange messages with %s", own, server), err),
			"Check the spelling after the @. If it is right, ask your administrator for a peering with "+server+".")
	case clearbox.CodePeerUnreachable:
		return advise(clearbox.Wrap(code, fmt.Sprintf("%s does not answer your server at the moment, so %s cannot be looked up", server, local), err),
			"Nothing was queued: try again later.")
	}
	return err
}
