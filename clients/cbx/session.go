package main

import (
	"context"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

type loginCommand struct {
	Reset string `help:"Set a new password with the code that your administrator gave you (clearbox user reset), for one use." placeholder:"CODE"`
}

// Help is the long help.
func (loginCommand) Help() string {
	return `Who forgot the password asks an administrator for a code and sets a new one with cbx login --reset CODE. It is asked for twice, or taken from --password-file. Keys and messages on this device stay.`
}

// Run begins a new session with the password and the device's key.
func (c *loginCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		if c.Reset != "" {
			return c.reset(ctx, a, p)
		}
		password, err := a.password(ctx, "Password", false)
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

func (c *loginCommand) reset(ctx context.Context, a *app, p *profile) error {
	err := a.newPassword(ctx, a.PasswordFile, "password-file", func(password string) error {
		return p.brain.ResetPassword(ctx, c.Reset, password)
	})
	if err != nil && clearbox.CodeOf(err) == clearbox.CodeBadCredentials {
		return advise(err, "Ask your administrator for a new code: each is good for one use and for a limited time.")
	}
	if err != nil {
		return err
	}
	a.say(map[string]string{"type": "logged_in"}, "The new password is set, and this device is logged in. Every other session has ended.")
	return nil
}

// newPassword takes a new password from a file, or asks for it, twice and until
// set does not find fault with it.
func (a *app) newPassword(ctx context.Context, file, flag string, set func(string) error) error {
	if file != "" {
		password, err := a.secretFile(file, "new password")
		if err != nil {
			return err
		}
		return set(password)
	}
	if !a.asker.interactive() {
		return usage("nobody can be asked for the new password: use --%s", flag)
	}
	for {
		password, err := a.askSecret(ctx, "New password, at least 10 characters", true)
		if err != nil {
			return err
		}
		err = set(password)
		if !faultIn(err, "/new") {
			return err
		}
		fmt.Fprintln(a.stderr, "cbx:", err)
	}
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

type passwordCommand struct {
	NewPasswordFile string `help:"File with the new password. Without it, it is asked for, twice." placeholder:"FILE"`
}

// Help is the long help.
func (passwordCommand) Help() string {
	return `Asks for the password that holds now (or reads --password-file) and for the new one. Every other session of the account ends. The passphrase of this device's vault is another thing and stays.`
}

// Run changes the password.
func (c *passwordCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		old, err := a.password(ctx, "The password that holds now", false)
		if err != nil {
			return err
		}
		err = a.newPassword(ctx, c.NewPasswordFile, "new-password-file", func(password string) error {
			return p.brain.ChangePassword(ctx, old, password)
		})
		if clearbox.CodeOf(err) == clearbox.CodeBadCredentials {
			return advise(clearbox.Wrap(clearbox.CodeBadCredentials, "the password that you gave as the present one is not the account's", err),
				"Who forgot the password asks an administrator for a code: cbx login --reset CODE.")
		}
		if err != nil {
			return err
		}
		a.say(map[string]string{"type": "password_changed"}, "The password is changed. Every other session has ended.")
		return nil
	})
}
