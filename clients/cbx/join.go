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
	Server       string   `help:"The organisation's server name, such as clinic.example; its homeserver is asked at that name unless --server-url says otherwise."`
	Invite       string   `help:"The invite code, where there is no link."`
	Name         string   `help:"The name to be known by: the part before the @."`
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

// Run makes the account. It may be repeated after a failure: the keys made
// first are kept and used.
func (c *joinCommand) Run(ctx context.Context, a *app) error {
	in, err := c.invitation(a)
	if err != nil {
		return err
	}
	given := &settings{ServerURL: in.serverURL}
	if a.CA != "" {
		if given.CA, err = os.ReadFile(a.CA); err != nil {
			return err
		}
	}
	v, err := a.openVault(ctx, true)
	if errors.Is(err, vault.ErrExists) {
		v, err = a.openVault(ctx, false)
	}
	if err != nil {
		return err
	}
	if err := joined(ctx, v); err != nil {
		_ = v.Close() // nothing was changed
		return err
	}
	p, err := a.over(ctx, v, given)
	if err != nil {
		_ = v.Close() // the first error is the one to tell
		return err
	}
	defer p.close()
	r, err := c.registration(ctx, a, p.brain, in)
	if err != nil {
		return err
	}
	if err := p.brain.Register(ctx, *r); err != nil {
		return err
	}
	who, err := p.brain.Profile()
	if err != nil {
		return err
	}
	a.say(map[string]any{"type": "joined", "address": who.Address.String(), "user": who.User, "device": who.Device},
		"You are %s. Tell others to write to that address.", who.Address)
	return nil
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

// registration asks the server for its name and notice, and the person for
// the rest.
func (c *joinCommand) registration(ctx context.Context, a *app, b *core.Brain, in invitation) (*core.Registration, error) {
	known, err := b.Discover(ctx)
	if err != nil {
		return nil, err
	}
	if in.server != "" && known.Server != in.server {
		return nil, clearbox.Errorf(clearbox.CodeBadSignature, "that server is %s and not %s", known.Server, in.server)
	}
	notice, err := b.Notice(ctx)
	if err != nil {
		return nil, err
	}
	consents, err := c.acknowledge(a, notice)
	if err != nil {
		return nil, err
	}
	name := c.Name
	if name == "" {
		if !a.asker.interactive() {
			return nil, usage("nobody can be asked for a name: use --name")
		}
		if name, err = a.asker.answer("Your name here, before @" + string(known.Server)); err != nil {
			return nil, err
		}
	}
	handle, err := clearbox.ParseHandle(name)
	if err != nil {
		return nil, err
	}
	password, err := a.password("Password for your account", true)
	if err != nil {
		return nil, err
	}
	return &core.Registration{
		Server: known.Server, Handle: handle, Password: password, Invite: in.code, DeviceName: c.DeviceName,
		Notice:   wire.NoticeAck{Version: notice.Version, Hash: notice.Hash, Language: notice.Language},
		Consents: consents,
	}, nil
}

// acknowledge shows the privacy notice and asks for each purpose that needs
// consent, where there is somebody to ask. Silence is no consent.
func (c *joinCommand) acknowledge(a *app, n *wire.PrivacyNotice) (consents []string, err error) {
	for _, want := range c.Consent {
		if !slices.ContainsFunc(n.Purposes, func(p wire.Purpose) bool { return p.Name == want }) {
			return nil, usage("the server asks no consent for %q", want)
		}
	}
	if !a.JSON || a.asker.interactive() {
		fmt.Fprintf(a.stderr, "%s\n\n", clean(n.Text))
	}
	if c.AcceptNotice {
		return c.Consent, nil
	}
	if !a.asker.interactive() {
		return nil, clearbox.Errorf(clearbox.CodeNoticeRequired, "the privacy notice must be acknowledged: --accept-notice, once its owner has read it")
	}
	if yes, err := a.yes("Have you read this privacy notice? (yes/no)"); err != nil || !yes {
		if err == nil {
			err = clearbox.Errorf(clearbox.CodeNoticeRequired, "without that there is no account")
		}
		return nil, err
	}
	consents = c.Consent
	for _, p := range n.Purposes {
		if slices.Contains(consents, p.Name) {
			continue
		}
		text := p.Name
		if p.Text != "" {
			text += ": " + p.Text
		}
		yes, err := a.yes("Consent to " + clean(text) + "? You can withdraw it at any time. (yes/no)")
		if err != nil {
			return nil, err
		}
		if yes {
			consents = append(consents, p.Name)
		}
	}
	return consents, nil
}

func (a *app) yes(question string) (bool, error) {
	answer, err := a.asker.answer(question)
	return strings.EqualFold(answer, "yes") || strings.EqualFold(answer, "y"), err
}

type loginCommand struct{}

// Run begins a new session with the password and the device's key.
func (loginCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		password, err := a.password("Password", false)
		if err != nil {
			return err
		}
		if err := p.brain.Login(ctx, password); err != nil {
			return err
		}
		a.say(map[string]string{"type": "logged_in"}, "Logged in.")
		return nil
	})
}

type logoutCommand struct{}

// Run ends the session.
func (logoutCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		err := p.brain.Logout(ctx)
		if err == nil {
			a.say(map[string]string{"type": "logged_out"}, "Logged out. Keys and messages stay on this device.")
		}
		return err
	})
}
