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

	"golang.org/x/term"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/network"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
)

// asker asks a person; a script is not asked.
type asker interface {
	// interactive tells whether there is a person to ask.
	interactive() bool
	// secret asks for something that is not shown while typed.
	secret(prompt string) (string, error)
	// answer asks for a line.
	answer(prompt string) (string, error)
}

// terminal asks on the terminal that input comes from.
type terminal struct {
	in  *os.File
	out io.Writer
}

func (t terminal) interactive() bool { return term.IsTerminal(int(t.in.Fd())) }

func (t terminal) secret(prompt string) (string, error) {
	fmt.Fprint(t.out, prompt, ": ")
	b, err := term.ReadPassword(int(t.in.Fd()))
	fmt.Fprintln(t.out)
	return string(b), err
}

func (t terminal) answer(prompt string) (string, error) {
	fmt.Fprint(t.out, prompt, ": ")
	// A byte at a time: what follows the line belongs to somebody else.
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := t.in.Read(b)
		if n == 1 && b[0] == '\n' {
			return strings.TrimSpace(string(line)), nil
		}
		if err != nil {
			return "", err
		}
		if line = append(line, b[:n]...); len(line) > 4096 {
			return "", errors.New("the answer is too long")
		}
	}
}

// settings is what cbx itself keeps in the vault.
type settings struct {
	ServerURL string `json:"server_url"`
	CA        []byte `json:"ca,omitempty"` // PEM
}

const keySettings = "cbx/settings"

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
func (a *app) secret(create bool) (vault.Secret, error) {
	if a.KeyFile != "" {
		return a.keyFile(create)
	}
	if a.PassphraseFile != "" {
		p, err := readSecret(a.PassphraseFile)
		if err == nil && p == "" {
			err = usage("%s holds no passphrase", a.PassphraseFile)
		}
		return vault.Secret{Passphrase: []byte(p)}, err
	}
	if !a.asker.interactive() {
		return vault.Secret{}, usage("nobody can be asked for the passphrase: use --key-file or CBX_PASSPHRASE_FILE")
	}
	p, err := a.askSecret("Passphrase for this device's vault", create)
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

// askSecret asks for a secret, twice if it is a new one.
func (a *app) askSecret(what string, twice bool) (string, error) {
	one, err := a.asker.secret(what)
	if err != nil {
		return "", err
	}
	if one == "" {
		return "", usage("it cannot be empty")
	}
	if twice {
		two, err := a.asker.secret("The same again")
		if err != nil {
			return "", err
		}
		if one != two {
			return "", usage("the two are not the same")
		}
	}
	return one, nil
}

// password gives the account's password: from the file, or asked for.
func (a *app) password(what string, twice bool) (string, error) {
	if a.PasswordFile != "" {
		p, err := readSecret(a.PasswordFile)
		if err == nil && p == "" {
			err = usage("%s holds no password", a.PasswordFile)
		}
		return p, err
	}
	if !a.asker.interactive() {
		return "", usage("nobody can be asked for the password: use CBX_PASSWORD_FILE")
	}
	return a.askSecret(what, twice)
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
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return nil, vault.ErrAbsent // before anybody types a passphrase
		}
	}
	secret, err := a.secret(create)
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
			if p.CA, err = os.ReadFile(a.CA); err != nil {
				return nil, err
			}
		}
	}
	base, err := network.ParseServerURL(p.ServerURL)
	if err != nil {
		return nil, err
	}
	if p.net, err = network.New(base, network.Options{CA: p.CA, UserAgent: "cbx/" + version}); err != nil {
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
	return fn(p)
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

// contact finds somebody by name@server or uid@server.
func (p *profile) contact(ctx context.Context, name string) (core.Contact, error) {
	c, err := p.brain.Contact(ctx, name)
	if clearbox.CodeOf(err) == clearbox.CodeNotFound {
		return c, clearbox.Wrap(clearbox.CodeNotFound, "there is nobody called "+clean(name), err)
	}
	return c, err
}
