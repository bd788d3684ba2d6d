package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	secret "github.com/clearbox-im/clearbox/crypto/vault"
)

type linkCommand struct {
	Server     string        `help:"On the new device: the organisation's server name." placeholder:"DOMAIN"`
	DeviceName string        `help:"On the new device: what it is called in the list of your devices." default:"cbx"`
	CodeFile   string        `help:"On the new device: write the code to this file, too. With --accept-file it is read from there." placeholder:"FILE"`
	Accept     string        `help:"On a device that you have: the code that the new device shows." placeholder:"CODE" xor:"accept"`
	AcceptFile string        `help:"The same, from a file." placeholder:"FILE" xor:"accept"`
	Yes        bool          `help:"On a device that you have: do not ask whether both devices show the same; for scripts that carried the code themselves."`
	Timeout    time.Duration `help:"How long to wait for the other device." default:"10m"`
}

// Help is the long help.
func (linkCommand) Help() string {
	return `On the new device, cbx link --server DOMAIN shows a QR code and the same as text. On a device that you have, cbx link --accept CODE takes it. Both then show six digits; when they are the same, the account's keys, your contacts and all messages go to the new device, encrypted from device to device. Nothing changes if anything is interrupted before: begin again.`
}

// linkLine is what linking did, in JSON.
type linkLine struct {
	Type     string            `json:"type"` // link_code, link_confirmation, linked
	Code     string            `json:"code,omitempty"`
	Digits   string            `json:"digits,omitempty"`
	Words    []string          `json:"words,omitempty"`
	Device   clearbox.DeviceID `json:"device,omitempty"`
	Name     string            `json:"name,omitempty"`
	Messages int               `json:"messages,omitempty"`
	Seconds  float64           `json:"seconds,omitempty"` // from the confirmation on
}

// Run links.
func (c *linkCommand) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var err error
	if c.Accept != "" || c.AcceptFile != "" {
		err = c.accept(ctx, a)
	} else {
		err = c.begin(ctx, a)
	}
	switch {
	case errors.Is(err, core.ErrLinkRefused):
		return advise(err, "If the digits differed, somebody may sit between the devices. Begin again with a new code.")
	case clearbox.CodeOf(err) == clearbox.CodeNotFound:
		return advise(err, "A code is good for ten minutes and for one device: cbx link on the new device shows another one.")
	}
	return err
}

// begin is the new device.
func (c *linkCommand) begin(ctx context.Context, a *app) error {
	return a.newcomer(ctx, c.Server, func(p *profile, _ clearbox.ServerName) error {
		l, err := p.brain.BeginLink(ctx)
		if err != nil {
			return err
		}
		if err := c.show(a, l.Code()); err != nil {
			return err
		}
		var begun time.Time
		done, err := l.Finish(ctx, c.DeviceName, func(shown secret.Confirmation) {
			begun = a.now()
			a.confirmation(shown)
		})
		if err != nil {
			return err
		}
		who, err := p.brain.Profile()
		if err != nil {
			return err
		}
		a.linked(done, a.now().Sub(begun), "This is device %d of %s now, with %d messages.", done.Device, who.Address, done.Messages)
		return nil
	})
}

// show writes the code where the person or a script finds it.
func (c *linkCommand) show(a *app, code string) error {
	if c.CodeFile != "" {
		if err := writeNew(c.CodeFile, []byte(code+"\n")); err != nil {
			return usage("the code file cannot be written: %s", err)
		}
	}
	if a.JSON {
		a.line(a.stdout, linkLine{Type: "link_code", Code: code})
		return nil
	}
	picture, err := terminalQR([]byte(code))
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s\nOn a device that you have: cbx link --accept %s\n", picture, code)
	return nil
}

func (a *app) confirmation(shown secret.Confirmation) {
	a.say(linkLine{Type: "link_confirmation", Digits: shown.Digits(), Words: shown.Words()},
		"Both devices show: %s  (%s)", shown.Digits(), strings.Join(shown.Words(), " "))
}

func (a *app) linked(done core.Linked, took time.Duration, format string, args ...any) {
	a.say(linkLine{Type: "linked", Device: done.Device, Name: done.Name, Messages: done.Messages, Seconds: took.Seconds()}, format, args...)
}

// accept is a device of the account.
func (c *linkCommand) accept(ctx context.Context, a *app) error {
	code := c.Accept
	if c.AcceptFile != "" {
		b, err := waitForFile(ctx, c.AcceptFile)
		if err != nil {
			return err
		}
		code = strings.TrimSpace(string(b))
	}
	if !c.Yes && !a.asker.interactive() {
		return usage("nobody can be asked whether both devices show the same: use --yes where the code cannot have been exchanged")
	}
	return a.with(ctx, func(p *profile) error {
		var begun time.Time
		done, err := p.brain.Link(ctx, code, func(ctx context.Context, shown secret.Confirmation) (bool, error) {
			a.confirmation(shown)
			if !c.Yes {
				same, err := a.yes(ctx, "Does the new device show the same? (yes/no)")
				if err != nil || !same {
					return false, err
				}
			}
			begun = a.now()
			return true, nil
		})
		if err != nil {
			return err
		}
		a.linked(done, a.now().Sub(begun), "%s is device %d of your account now, with %d messages.", clean(done.Name), done.Device, done.Messages)
		return nil
	})
}

// waitForFile reads a small file, which may have to be written yet.
func waitForFile(ctx context.Context, path string) ([]byte, error) {
	for {
		b, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(string(b), "\n") {
			return b, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, usage("there is no file %s with the code", path)
		}
	}
}
