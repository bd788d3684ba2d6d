package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/cbx/vault"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/clients/core/memvault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// invitation is what an invite link says. The code stands in the fragment, so
// that no server or proxy on the way logs it.
type invitation struct {
	serverURL string
	server    clearbox.ServerName // empty where the link does not name it
	code      string
}

// parseLink accepts https://HOST[:PORT]/join#CODE and
// https://HOST[:PORT]/join#SERVERNAME.CODE.
func parseLink(link string) (invitation, error) {
	bad := usage("an invite link looks like https://chat.example.org/join#…")
	u, err := url.Parse(link)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.TrimSuffix(u.Path, "/") != "/join" || u.Fragment == "" {
		return invitation{}, bad
	}
	out := invitation{serverURL: u.Scheme + "://" + u.Host, code: u.Fragment}
	if i := strings.LastIndexByte(u.Fragment, '.'); i >= 0 {
		if out.server, err = clearbox.ParseServerName(u.Fragment[:i]); err != nil {
			return invitation{}, bad
		}
		out.code = u.Fragment[i+1:]
	}
	if out.code == "" {
		return invitation{}, bad
	}
	return out, nil
}

type joinCommand struct {
	Link         string   `arg:"" optional:"" help:"The invite link."`
	Server       string   `help:"The organisation's server name, such as clinic.example; its homeserver is asked at that name unless --server-url says otherwise." placeholder:"DOMAIN"`
	Invite       string   `help:"The invite code, where there is no link." placeholder:"CODE"`
	Name         string   `help:"The name to be known by: the part before the @." placeholder:"NAME"`
	DeviceName   string   `help:"What this device is called in the list of your devices." default:"cbx"`
	AcceptNotice bool     `help:"Acknowledge the privacy notice without being asked; for scripts whose owner has read it."`
	Consent      []string `help:"A purpose to consent to, such as presence; may be repeated. Without any, nothing is consented to." placeholder:"PURPOSE"`
}

func (c *joinCommand) invitation(a *app) (invitation, error) {
	if c.Link != "" {
		in, err := parseLink(c.Link)
		if err == nil && a.ServerURL != "" {
			in.serverURL = a.ServerURL
		}
		return in, err
	}
	if c.Server == "" && a.ServerURL == "" {
		return invitation{}, usage("give the invite link, or --server and --invite")
	}
	in := invitation{serverURL: a.ServerURL, code: c.Invite}
	if c.Server != "" {
		name, err := clearbox.ParseServerName(c.Server)
		if err != nil {
			return in, err
		}
		in.server = name
		if in.serverURL == "" {
			in.serverURL = "https://" + c.Server
		}
	}
	return in, nil
}

// Help is the long help.
func (joinCommand) Help() string {
	return `Asks the server for its privacy notice, and you for a name, a password of the account, and a passphrase that locks keys and messages on this device (or --key-file, for scripts). Nothing is left behind when the server refuses; when its answer is lost, the same command goes on where it was.`
}

// Run makes the account. The server is asked before the person is, and nothing
// is written before both have answered.
func (c *joinCommand) Run(ctx context.Context, a *app) error {
	in, err := c.invitation(a)
	if err != nil {
		return err
	}
	given := &settings{ServerURL: in.serverURL}
	if a.CA != "" {
		if given.CA, err = a.readCA(); err != nil {
			return err
		}
	}
	dir, err := a.dir()
	if err != nil {
		return err
	}
	known, notice, err := c.discover(ctx, in, given)
	if err != nil {
		return err
	}
	j := joining{app: a, command: c, given: given, notice: notice, server: known.Server}
	if vault.Exists(dir) { // of an account, or of an attempt whose answer was lost
		if j.vault, err = a.openVault(ctx, false); err != nil {
			return err
		}
		if err := joined(ctx, j.vault); err != nil {
			_ = j.vault.Close() // nothing was changed
			return err
		}
	}
	err = j.run(ctx, in)
	return errors.Join(err, j.end(err))
}

// discover asks the server for its name and notice, with nothing to remember it by.
func (c *joinCommand) discover(ctx context.Context, in invitation, given *settings) (*wire.WellKnown, *wire.PrivacyNotice, error) {
	net, err := given.dial()
	if err != nil {
		return nil, nil, err
	}
	defer net.Close()
	stranger, err := core.New(ctx, &memvault.Vault{}, net, core.Options{})
	if err != nil {
		return nil, nil, err
	}
	known, err := stranger.Discover(ctx)
	if clearbox.CodeOf(err) == clearbox.CodeUnavailable {
		return nil, nil, advise(err, "Nothing was changed. Check the link, and that "+in.serverURL+" answers; a certificate of one's own needs --ca FILE.")
	}
	if err != nil {
		return nil, nil, err
	}
	if in.server != "" && known.Server != in.server {
		return nil, nil, clearbox.Errorf(clearbox.CodeBadSignature, "that server is %s and not %s", known.Server, in.server)
	}
	notice, err := stranger.Notice(ctx)
	return known, notice, err
}

// joined refuses a vault that has an account already.
func joined(ctx context.Context, v core.Vault) error {
	b, err := core.New(ctx, v, nil, core.Options{})
	if err != nil {
		return err
	}
	if who, err := b.Profile(); err == nil {
		return clearbox.Errorf(clearbox.CodeConflict, "this profile is %s already; another account needs another --profile", who.Address)
	}
	return nil
}

// joining is one attempt.
type joining struct {
	*app
	command *joinCommand
	given   *settings
	notice  *wire.PrivacyNotice
	server  clearbox.ServerName

	vault   *vault.Vault
	made    bool // the vault is of this attempt
	keyMade bool // and the key file too
	profile *profile
	asked   bool // the server may have made the account
}

func (j *joining) run(ctx context.Context, in invitation) error {
	consents, err := j.command.acknowledge(ctx, j.app, j.notice)
	if err != nil {
		return err
	}
	r := core.Registration{
		Server: j.server, Invite: in.code, DeviceName: j.command.DeviceName,
		Notice:   wire.NoticeAck{Version: j.notice.Version, Hash: j.notice.Hash, Language: j.notice.Language},
		Consents: consents,
	}
	if r.Handle, err = j.handle(ctx, j.command.Name); err != nil {
		return err
	}
	if r.Password, err = j.accountPassword(ctx); err != nil {
		return err
	}
	if j.vault == nil {
		if err := j.makeVault(ctx); err != nil {
			return err
		}
	}
	if j.profile, err = j.over(ctx, j.vault, j.given); err != nil {
		return err
	}
	for {
		err = j.profile.brain.Register(ctx, r)
		j.asked = j.asked || err == nil || unanswered(ctx, err)
		again, askErr := j.mend(ctx, &r, err)
		if askErr != nil {
			return askErr
		}
		if !again {
			break
		}
	}
	if err != nil {
		if j.asked {
			err = advise(err, "It is not known whether the server made the account. Give the same command again: it goes on where it was.")
		}
		return err
	}
	who, err := j.profile.brain.Profile()
	if err != nil {
		return err
	}
	j.say(map[string]any{"type": "joined", "address": who.Address.String(), "user": who.User, "device": who.Device},
		"You are %s. Tell others to write to that address.", who.Address)
	return nil
}

// unanswered tells whether a request may have reached the server all the same.
func unanswered(ctx context.Context, err error) bool {
	code := clearbox.CodeOf(err)
	return err != nil && (ctx.Err() != nil || code == clearbox.CodeUnavailable || code == clearbox.CodeInternal)
}

// mend lets a person correct what the server refused, and tells whether to try
// again.
func (j *joining) mend(ctx context.Context, r *core.Registration, refused error) (again bool, err error) {
	if refused == nil || !j.asker.interactive() {
		return false, nil
	}
	code := clearbox.CodeOf(refused)
	switch {
	case j.command.Name == "" && (code == clearbox.CodeHandleTaken || code == clearbox.CodeBadHandle):
		fmt.Fprintln(j.stderr, "cbx:", refused)
		r.Handle, err = j.handle(ctx, "")
	case j.PasswordFile == "" && faultIn(refused, "/password"):
		fmt.Fprintln(j.stderr, "cbx:", refused)
		r.Password, err = j.accountPassword(ctx)
	default:
		return false, nil
	}
	return err == nil, err
}

func (j *joining) accountPassword(ctx context.Context) (string, error) {
	return j.password(ctx, "A password for your account at "+string(j.server)+", at least 10 characters", true)
}

// handle checks a name that was given, or asks until one is well formed.
func (j *joining) handle(ctx context.Context, name string) (clearbox.Handle, error) {
	if name != "" {
		return clearbox.ParseHandle(name)
	}
	if !j.asker.interactive() {
		return "", usage("nobody can be asked for a name: use --name")
	}
	for {
		name, err := j.asker.answer(ctx, "Your name here, before @"+string(j.server))
		if err != nil {
			return "", err
		}
		h, err := clearbox.ParseHandle(name)
		if err == nil {
			return h, nil
		}
		fmt.Fprintln(j.stderr, "cbx:", err)
	}
}

func (j *joining) makeVault(ctx context.Context) (err error) {
	if j.KeyFile != "" {
		_, statErr := os.Stat(j.KeyFile)
		j.keyMade = errors.Is(statErr, os.ErrNotExist)
	}
	j.vault, err = j.openVault(ctx, true)
	j.made = err == nil
	return err
}

// end closes what is open, and removes what this attempt made unless there may
// be an account that needs it.
func (j *joining) end(failed error) error {
	if j.profile != nil && j.profile.net != nil {
		j.profile.net.Close()
	}
	if failed == nil || j.asked || !j.made {
		if j.vault != nil {
			_ = j.vault.Close() // everything in it is synced
		}
		if failed != nil && j.keyMade && !j.made && !j.asked {
			return removeIfThere(j.KeyFile)
		}
		return nil
	}
	err := j.vault.Destroy()
	if j.keyMade {
		err = errors.Join(err, removeIfThere(j.KeyFile))
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// acknowledge shows the privacy notice and asks for each purpose that needs
// consent, where there is somebody to ask. Silence is no consent.
func (c *joinCommand) acknowledge(ctx context.Context, a *app, n *wire.PrivacyNotice) (consents []string, err error) {
	for _, want := range c.Consent {
		if !slices.ContainsFunc(n.Purposes, func(p wire.Purpose) bool { return p.Name == want }) {
			return nil, usage("the server asks no consent for %q; it asks for: %s", want, purposeNames(n.Purposes))
		}
	}
	if !a.JSON || a.asker.interactive() {
		fmt.Fprintf(a.stderr, "%s\n\n", strings.TrimSpace(clean(n.Text)))
	}
	if c.AcceptNotice {
		return c.Consent, nil
	}
	if !a.asker.interactive() {
		return nil, clearbox.Errorf(clearbox.CodeNoticeRequired, "the privacy notice must be acknowledged: --accept-notice, once its owner has read it")
	}
	if yes, err := a.yes(ctx, "Have you read this privacy notice? (yes/no)"); err != nil || !yes {
		if err == nil {
			err = clearbox.Errorf(clearbox.CodeNoticeRequired, "without that there is no account")
		}
		return nil, err
	}
	consents = c.Consent
	open := slices.DeleteFunc(slices.Clone(n.Purposes), func(p wire.Purpose) bool { return slices.Contains(consents, p.Name) })
	if len(open) > 0 {
		fmt.Fprintf(a.stderr, "\n%d things need your consent. Each stays off unless you say yes; Enter says no.\n", len(open))
	}
	for i, p := range open {
		text := p.Text
		if text == "" {
			text = "The server does not say what this means."
		}
		fmt.Fprintf(a.stderr, "\n%d. %s: %s\n", i+1, clean(p.Name), clean(text))
		yes, err := a.yes(ctx, "Do you consent? (yes/no)")
		if err != nil {
			return nil, err
		}
		if yes {
			consents = append(consents, p.Name)
		}
	}
	return consents, nil
}

func purposeNames(purposes []wire.Purpose) string {
	var names []string
	for _, p := range purposes {
		names = append(names, p.Name)
	}
	return clean(strings.Join(names, ", "))
}

// yes asks until the answer is yes or no; nothing is no.
func (a *app) yes(ctx context.Context, question string) (bool, error) {
	for {
		answer, err := a.asker.answer(ctx, question)
		if err != nil {
			return false, err
		}
		switch strings.ToLower(answer) {
		case "yes", "y":
			return true, nil
		case "no", "n", "":
			return false, nil
		}
		fmt.Fprintln(a.stderr, "Please answer yes or no.")
	}
}
