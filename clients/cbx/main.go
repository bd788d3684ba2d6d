// Command cbx is the terminal client: a person's device that reads and writes
// end-to-end encrypted messages, for people at a terminal and for scripts.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "dev"

// arguments is the command line.
type arguments struct {
	Profile        string `help:"Name of the profile: one account on this device." placeholder:"NAME" default:"default" env:"CBX_PROFILE" group:"Of every command"`
	Vault          string `help:"Directory of the profile's vault, instead of the profile's own." placeholder:"DIR" env:"CBX_VAULT" group:"Of every command"`
	KeyFile        string `help:"File with the key that opens the vault; join makes it when it is missing." placeholder:"FILE" env:"CBX_KEY_FILE" group:"Of every command"`
	PassphraseFile string `help:"File with the passphrase that opens the vault. Without it and without a key file it is asked for." placeholder:"FILE" env:"CBX_PASSPHRASE_FILE" group:"Of every command"`
	PasswordFile   string `help:"File with the account's password. Without it, it is asked for." placeholder:"FILE" env:"CBX_PASSWORD_FILE" group:"Of every command"`
	CA             string `help:"PEM file of a CA to trust instead of the system's, such as the one of clearbox demo. join remembers it." placeholder:"FILE" name:"ca" env:"CBX_CA" group:"Of every command"`
	ServerURL      string `help:"The homeserver's URL, if it is not in the link or has moved." placeholder:"URL" name:"server-url" env:"CBX_SERVER_URL" group:"Of every command"`
	JSON           bool   `help:"Write one JSON object per line." name:"json" group:"Of every command"`

	Join         joinCommand      `cmd:"" help:"Make an account with an invite link."`
	Login        loginCommand     `cmd:"" help:"Begin a new session of this device, also with a new password by a code from an administrator."`
	Logout       logoutCommand    `cmd:"" help:"End the session. Keys and messages stay."`
	Password     passwordCommand  `cmd:"" help:"Change the account's password."`
	Send         sendCommand      `cmd:"" help:"Send a message."`
	Recv         recvCommand      `cmd:"" help:"Show new messages, and what could not be delivered."`
	Save         saveCommand      `cmd:"" help:"Fetch a file that somebody sent."`
	Chat         chatCommand      `cmd:"" help:"Talk with somebody, line by line."`
	History      historyCommand   `cmd:"" help:"Show earlier messages with their ids, or the conversations."`
	Search       searchCommand    `cmd:"" help:"Find messages by words."`
	Edit         editCommand      `cmd:"" help:"Change a message of yours, for everyone."`
	Delete       deleteCommand    `cmd:"" help:"Take a message of yours back, for everyone, or remove one from this device."`
	Report       reportCommand    `cmd:"" help:"Show a message to the moderators of its sender's server, with proof."`
	React        reactCommand     `cmd:"" help:"Put an emoji beside a message, or take it back."`
	Pin          pinCommand       `cmd:"" help:"Pin a message, or unpin it."`
	Disappear    disappearCommand `cmd:"" help:"Let the messages of a conversation disappear after a time."`
	Mute         muteCommand      `cmd:"" help:"Mute a conversation, or end that."`
	Draft        draftCommand     `cmd:"" help:"Keep, show or forget the beginning of a message."`
	Card         cardCommand      `cmd:"" name:"profile" help:"Show or set what contacts see of you."`
	Settings     settingsCommand  `cmd:"" help:"Show or change settings."`
	Group        groupCommand     `cmd:"" help:"Found, join, change and leave groups."`
	Contacts     contactsCommand  `cmd:"" help:"List and look up contacts, and accept their changed keys."`
	Requests     requestsCommand  `cmd:"" help:"List who asks to be accepted."`
	Accept       acceptCommand    `cmd:"" help:"Accept somebody who asks or wrote: they may write to you, and learn what was delivered."`
	Decline      declineCommand   `cmd:"" help:"Let a request lie; the other side is not told."`
	Block        blockCommand     `cmd:"" help:"Shut somebody out; they are not told."`
	Unblock      unblockCommand   `cmd:"" help:"Take a block back."`
	Blocks       blocksCommand    `cmd:"" help:"List who is blocked."`
	SafetyNumber safetyCommand    `cmd:"" name:"safety-number" help:"Show the number that proves a contact's keys when both sides see the same."`
	Verify       verifyCommand    `cmd:"" help:"Compare a contact's safety number and mark them as verified."`
	Link         linkCommand      `cmd:"" help:"Make this computer a further device of your account, or accept one that wants to be."`
	Recover      recoverCommand   `cmd:"" help:"Get an account back whose devices are lost, and prepare for that."`
	Export       exportCommand    `cmd:"" help:"Write contacts and messages to an encrypted file."`
	Import       importCommand    `cmd:"" help:"Take contacts and messages in from such a file."`
	Devices      devicesCommand   `cmd:"" help:"List the account's devices, or remove one."`
	Identity     identityCommand  `cmd:"" help:"Give the account a new identity key."`
	Status       statusCommand    `cmd:"" help:"Show account, connection and queue."`
	Version      versionCommand   `cmd:"" help:"Show the version."`
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
		a.JSON = a.JSON || slices.Contains(args, "--json") // it may not have come so far
		return a.failed(usage("%s", err))
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(a); err != nil {
		return a.failed(err)
	}
	return exitOK
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

// remark says to people what a program sees from an empty answer.
func (a *app) remark(text string) {
	if !a.JSON {
		fmt.Fprintln(a.stdout, text)
	}
}

type versionCommand struct{}

func (versionCommand) Run(a *app) error {
	a.say(map[string]string{"version": version}, "cbx %s", version)
	return nil
}
