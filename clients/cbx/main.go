// Command cbx is the terminal client: a person's device that reads and writes
// end-to-end encrypted messages, for people at a terminal and for scripts.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
)

// version is set by the linker.
var version = "dev"

// Exit codes, a promise to scripts.
const (
	exitOK       = 0
	exitFailed   = 1 // anything that has no code of its own
	exitUsage    = 2 // wrong arguments
	exitPending  = 3 // the message is safe and on its way, but not where --wait wanted it in time
	exitLogin    = 4 // name or password wrong, or the session has ended
	exitOffline  = 5 // the server cannot be reached
	exitVault    = 6 // the vault is in use, damaged, older than it should be, or the key is wrong
	exitIdentity = 7 // the contact's safety number changed and was not accepted
	exitNotFound = 8 // nobody by that name
	exitRefused  = 9 // the message was given up: see its reason
)

const exitHelp = `Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 not as far as --wait asked in time (the message is safe),
4 login needed, 5 server unreachable, 6 vault in use or not readable, 7 safety number changed, 8 not found, 9 message given up.`

// arguments is the command line.
type arguments struct {
	Profile        string `help:"Name of the profile: one account on this device." default:"default" env:"CBX_PROFILE"`
	Vault          string `help:"Directory of the profile's vault, instead of the profile's own." env:"CBX_VAULT"`
	KeyFile        string `help:"File with the key that opens the vault; join makes it when it is missing." env:"CBX_KEY_FILE"`
	PassphraseFile string `help:"File with the passphrase that opens the vault. Without it and without a key file it is asked for." env:"CBX_PASSPHRASE_FILE"`
	PasswordFile   string `help:"File with the account's password. Without it, it is asked for." env:"CBX_PASSWORD_FILE"`
	CA             string `help:"PEM file of a CA to trust instead of the system's, such as the one of clearbox demo. join remembers it." name:"ca" env:"CBX_CA"`
	ServerURL      string `help:"The homeserver's URL, if it is not in the link or has moved." name:"server-url" env:"CBX_SERVER_URL"`
	JSON           bool   `help:"Write one JSON object per line." name:"json"`

	Join         joinCommand     `cmd:"" help:"Make an account with an invite link."`
	Login        loginCommand    `cmd:"" help:"Begin a new session of this device."`
	Logout       logoutCommand   `cmd:"" help:"End the session. Keys and messages stay."`
	Send         sendCommand     `cmd:"" help:"Send a message."`
	Recv         recvCommand     `cmd:"" help:"Show new messages."`
	Chat         chatCommand     `cmd:"" help:"Talk with somebody, line by line."`
	Contacts     contactsCommand `cmd:"" help:"List, look up and accept contacts."`
	SafetyNumber safetyCommand   `cmd:"" name:"safety-number" help:"Show the number that proves a contact's keys when both sides see the same."`
	Devices      devicesCommand  `cmd:"" help:"List the account's devices, or remove one."`
	Status       statusCommand   `cmd:"" help:"Show account, connection and queue."`
	Version      versionCommand  `cmd:"" help:"Show the version."`
}

// app is one run of the program.
type app struct {
	arguments
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	asker  asker
	now    func() time.Time
	random io.Reader
	getenv func(string) string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, asker: terminal{os.Stdin, os.Stderr},
		now: time.Now, random: rand.Reader, getenv: os.Getenv,
	}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// run parses args and runs the command; it gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	code := -1
	parser, err := kong.New(&a.arguments,
		kong.Name("cbx"),
		kong.Description("ClearBox in the terminal: end-to-end encrypted messages between organisations.\n\n"+exitHelp),
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(func(c int) { code = c }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(a.stderr, "cbx:", err)
		return exitUsage
	}
	command, err := parser.Parse(args)
	if code >= 0 { // --help was answered
		return code
	}
	if err != nil {
		fmt.Fprintln(a.stderr, "cbx:", err)
		fmt.Fprintln(a.stderr, "Run cbx --help, or cbx COMMAND --help.")
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(a); err != nil {
		return a.failed(err)
	}
	return exitOK
}

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
		errors.Is(err, core.ErrVaultBroken), errors.Is(err, core.ErrRolledBack), errors.As(err, &corrupt), errors.Is(err, vault.ErrAbsent):
		return exitVault
	case errors.Is(err, core.ErrLoginRequired), errors.Is(err, core.ErrNoAccount):
		return exitLogin
	case errors.Is(err, core.ErrUnknownContact):
		return exitNotFound
	}
	switch clearbox.CodeOf(err) {
	case clearbox.CodeBadCredentials, clearbox.CodeUnauthorized, clearbox.CodeTokenReused, clearbox.CodeTokenExpired:
		return exitLogin
	case clearbox.CodeUnavailable:
		return exitOffline
	case clearbox.CodeIdentityChanged:
		return exitIdentity
	case clearbox.CodeNotFound, clearbox.CodeRecipientUnavailable:
		return exitNotFound
	}
	return exitFailed
}

// slug is the stable name of an error in JSON.
func slug(err error) string {
	switch exitCode(err) {
	case exitUsage:
		return "usage"
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
	switch {
	case errors.Is(err, core.ErrLoginRequired):
		return "cbx login begins a new session; nothing is lost."
	case errors.Is(err, core.ErrNoAccount), errors.Is(err, vault.ErrAbsent):
		return "cbx join LINK makes an account with an invite link."
	case errors.Is(err, vault.ErrLocked):
		return "Another cbx runs with this profile, perhaps recv --follow or chat."
	case clearbox.CodeOf(err) == clearbox.CodeIdentityChanged:
		return "cbx safety-number ADDRESS shows the new number; cbx contacts accept-identity ADDRESS takes it."
	case errors.Is(err, vault.ErrWrongKey):
		return "Give what the vault was made with: --key-file, CBX_PASSPHRASE_FILE, or the passphrase when asked."
	}
	switch exitCode(err) {
	case exitUsage:
		return "Run cbx --help, or cbx COMMAND --help."
	case exitPending:
		return "cbx status shows the queue; cbx recv --follow or the next cbx send goes on with it."
	case exitLogin:
		return "Check name and password, then cbx login again."
	case exitOffline:
		return "What you wrote is kept and sent later; cbx status shows whether the server answers."
	case exitNotFound:
		return "Check the address, name@server; cbx contacts lists whom you know."
	}
	return ""
}

// line writes one JSON object.
func (a *app) line(w io.Writer, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		fmt.Fprintln(a.stderr, "cbx:", err)
		return
	}
	fmt.Fprintf(w, "%s\n", b)
}

// say writes a line for a person, or v where JSON was asked for.
func (a *app) say(v any, format string, args ...any) {
	if a.JSON {
		a.line(a.stdout, v)
		return
	}
	fmt.Fprintf(a.stdout, format+"\n", args...)
}

type versionCommand struct{}

func (versionCommand) Run(a *app) error {
	a.say(map[string]string{"version": version}, "cbx %s", version)
	return nil
}
