package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	secret "github.com/clearbox-im/clearbox/crypto/vault"
)

type recoverCommand struct {
	Account recoverAccount `cmd:"" default:"withargs" help:"On a new computer: get an account back with its password and recovery key."`
	Setup   recoverSetup   `cmd:"" help:"Make a recovery key, and keep an encrypted archive at your server."`
	Off     recoverOff     `cmd:"" help:"Delete the archive at your server; the recovery key is good for nothing then."`
	Now     recoverNow     `cmd:"" help:"Bring the archive up to date now."`
}

type recoverSetup struct {
	KeyOut string `help:"Write the recovery key to this new file, readable by its owner, instead of showing it." placeholder:"FILE"`
	Yes    bool   `help:"Consent to the archive without being asked, and do not ask for a part of the key; for scripts, with --key-out."`
}

// Help is the long help.
func (recoverSetup) Help() string {
	return `The recovery key is shown once: write it down, and keep it where your devices are not. With it and your password, a new device gets your keys, contacts and messages back when all devices are lost. Your server keeps the archive encrypted and cannot read it; it is kept with your consent, which cbx recover off takes back. A new key deletes what was archived under the old one.`
}

// Run makes the key.
func (c *recoverSetup) Run(ctx context.Context, a *app) error {
	if c.Yes && c.KeyOut == "" {
		return usage("--yes needs --key-out: somebody must have the key")
	}
	if !c.Yes && !a.asker.interactive() {
		return usage("nobody can be asked: use --yes and --key-out FILE")
	}
	return a.with(ctx, func(p *profile) error {
		err := p.brain.SetUpRecovery(ctx, func(text string) error { return c.handOver(ctx, a, text) })
		if err != nil {
			return err
		}
		st, err := p.brain.Backup(ctx)
		if err != nil {
			return err
		}
		a.say(backupOf(st), "Your keys, contacts and messages are archived, encrypted, at your server.")
		return nil
	})
}

// handOver gives the key to the person, and makes sure that they have it.
func (c *recoverSetup) handOver(ctx context.Context, a *app, text string) error {
	if !c.Yes {
		yes, err := a.yes(ctx, "Shall your server keep an encrypted archive of your messages, which it cannot read? (yes/no)")
		if err != nil {
			return err
		}
		if !yes {
			return clearbox.Errorf(clearbox.CodeConsentRequired, "without that there is no archive; cbx export FILE keeps one here")
		}
	}
	if c.KeyOut != "" {
		if err := writeNew(c.KeyOut, []byte(text+"\n")); err != nil {
			return usage("the file for the recovery key cannot be made, and no key was: %s", err)
		}
		return nil
	}
	groups := strings.Split(text, "-")
	fmt.Fprintf(a.stderr, "\nYour recovery key, which is not shown again. Write it down:\n\n    %s\n    %s\n\n", strings.Join(groups[:4], "-"), strings.Join(groups[4:], "-"))
	asked := []int{int(groups[0][0]) % 4, 4 + int(groups[7][0])%4}
	for _, i := range asked {
		for tries := 1; ; tries++ {
			typed, err := a.asker.answer(ctx, fmt.Sprintf("To be sure: group %d of the key", i+1))
			if err != nil {
				return err
			}
			if strings.EqualFold(strings.TrimSpace(typed), groups[i]) {
				break
			}
			if tries == 3 {
				return errors.New("that is not the key, three times: nothing was changed")
			}
			fmt.Fprintln(a.stderr, "That is not what the key has there.")
		}
	}
	return nil
}

type recoverOff struct {
	Yes bool `help:"Do not ask."`
}

// Run deletes the archive.
func (c *recoverOff) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		if !c.Yes {
			if !a.asker.interactive() {
				return usage("it cannot be undone: say --yes")
			}
			yes, err := a.yes(ctx, "Delete the archive at your server? Lost devices are lost then. (yes/no)")
			if err != nil || !yes {
				return err
			}
		}
		if err := p.brain.StopRecovery(ctx); err != nil {
			return err
		}
		a.say(backupOf(core.Backup{}), "The archive is deleted, and your consent withdrawn.")
		return nil
	})
}

type recoverNow struct{}

// Run backs up.
func (recoverNow) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		if err := p.brain.BackUp(ctx); err != nil {
			return err
		}
		st, err := p.brain.Backup(ctx)
		if err != nil {
			return err
		}
		if !st.On {
			return advise(clearbox.Errorf(clearbox.CodeConflict, "there is no archive"), "cbx recover setup makes a recovery key and begins one.")
		}
		a.say(backupOf(st), "%s", backupWords(st))
		return nil
	})
}

type recoverAccount struct {
	Server       string `help:"The organisation's server name." placeholder:"DOMAIN"`
	Name         string `help:"Your name there: the part before the @." placeholder:"NAME"`
	RecoveryFile string `help:"File with the recovery key. Without it, it is asked for." placeholder:"FILE"`
	DeviceName   string `help:"What this device is called in the list of your devices." default:"cbx"`
}

// Help is the long help.
func (recoverAccount) Help() string {
	return `Asks for the account's password and the recovery key, and makes this computer a device of the account with its keys, contacts and messages. Devices that were lost stay on your list until you remove them: cbx devices, cbx devices remove ID.`
}

// Run gets an account back.
func (c *recoverAccount) Run(ctx context.Context, a *app) error {
	if c.Name == "" {
		return usage("say who you are: --name NAME")
	}
	handle, err := clearbox.ParseHandle(c.Name)
	if err != nil {
		return err
	}
	key, err := c.key(ctx, a)
	if err != nil {
		return err
	}
	password, err := a.password(ctx, "Password of the account", false)
	if err != nil {
		return err
	}
	return a.newcomer(ctx, c.Server, func(p *profile, server clearbox.ServerName) error {
		back, err := p.brain.Recover(ctx, core.Recovery{Server: server, Handle: handle, Password: password, Key: key, DeviceName: c.DeviceName})
		if errors.Is(err, core.ErrNothingArchived) {
			return advise(clearbox.Wrap(clearbox.CodeNotFound, err.Error(), err), "Nothing was changed. Is it the newest recovery key of this account? Each new one replaces the one before.")
		}
		if err != nil {
			return err
		}
		who, err := p.brain.Profile()
		if err != nil {
			return err
		}
		a.say(map[string]any{"type": "recovered", "address": who.Address.String(), "device": back.Device, "messages": back.Messages, "archived_at": back.At, "missing": back.Missing},
			"You are %s again, on device %d, with %d messages, archived until %s.\ncbx devices lists your devices: remove those that you lost.",
			who.Address, back.Device, back.Messages, time.UnixMilli(int64(back.At)).Format(time.DateTime))
		if back.Missing {
			fmt.Fprintln(a.stderr, "cbx: the archive is NOT whole: your server does not have all that it was given, or altered it. What could be verified was taken.")
		}
		return nil
	})
}

// key reads the recovery key, or asks until it is one.
func (c *recoverAccount) key(ctx context.Context, a *app) (secret.RecoveryKey, error) {
	if c.RecoveryFile != "" {
		text, err := a.secretFile(c.RecoveryFile, "recovery key")
		if err != nil {
			return secret.RecoveryKey{}, err
		}
		return parseKey(text)
	}
	if !a.asker.interactive() {
		return secret.RecoveryKey{}, usage("nobody can be asked for the recovery key: use --recovery-file")
	}
	for {
		text, err := a.asker.secret(ctx, "Recovery key, eight groups of five")
		if err != nil {
			return secret.RecoveryKey{}, err
		}
		key, err := parseKey(text)
		if err == nil {
			return key, nil
		}
		fmt.Fprintln(a.stderr, "cbx:", err)
	}
}

// parseKey says in which group a mistake is.
func parseKey(text string) (secret.RecoveryKey, error) {
	key, err := secret.ParseRecoveryKey(text)
	var typed *secret.TypingError
	switch {
	case errors.As(err, &typed) && typed.Group > 0:
		return key, usage("group %d of the recovery key is mistyped", typed.Group)
	case err != nil:
		return key, usage("a recovery key has eight groups of five characters")
	}
	return key, nil
}

// backupLine is core.Backup in JSON.
type backupLine struct {
	Type     string          `json:"type"` // backup
	BackedUp bool            `json:"backed_up"`
	On       bool            `json:"on"`
	At       clearbox.Millis `json:"at,omitempty"` // when everything was archived last
	Pending  int             `json:"pending,omitempty"`
	Problem  clearbox.Code   `json:"problem,omitempty"`
	Lost     bool            `json:"lost,omitempty"`    // the server lost what it had, and has it again
	Exposed  bool            `json:"exposed,omitempty"` // a removed device knows the archive's secrets
}

func backupOf(st core.Backup) backupLine {
	return backupLine{"backup", st.On && st.At != 0 && st.Pending == 0 && st.Problem == "", st.On, st.At, st.Pending, st.Problem, st.Lost, st.Exposed}
}

// backupWords is the one indicator: backed up, or not and why.
func backupWords(st core.Backup) string {
	var words string
	switch {
	case !st.On:
		words = "not backed up: there is no recovery key (cbx recover setup)"
	case st.Problem == clearbox.CodeConsentRequired:
		words = "not backed up: your consent to the archive was withdrawn (cbx recover setup, or cbx recover off)"
	case st.Problem == clearbox.CodeQuota:
		words = "not backed up: the archive is full at your server (cbx export FILE keeps one here)"
	case st.Problem != "":
		words = "not backed up: the server refuses (" + string(st.Problem) + ")"
	case st.At == 0:
		words = "not backed up yet: it begins when the server is reached"
	case st.Pending > 0:
		words = fmt.Sprintf("not backed up: %d changes since %s wait for the server", st.Pending, time.UnixMilli(int64(st.At)).Format(time.DateTime))
	default:
		words = "backed up, " + time.UnixMilli(int64(st.At)).Format(time.DateTime)
	}
	if st.Lost {
		words += "; your server once did not have what it had been given, and was given all of it again"
	}
	if st.Exposed {
		words += "; a device that you removed knows the archive's secrets: make a new recovery key (cbx recover setup)"
	}
	return words
}
