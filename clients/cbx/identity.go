package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

type identityCommand struct {
	Rotate identityRotate `cmd:"" help:"Give the account a new identity key."`
}

type identityRotate struct {
	Yes bool `help:"Do not ask."`
}

// Help is the long help.
func (identityRotate) Help() string {
	return `Replaces the key that people know your account by, as after the loss of a device that somebody may have opened. Your account's root key signs the new one, so contacts go on as before: they see one line, and who compared your safety number need not do it again, though it is another number from then on. Your other devices are told first and need not be at hand. What is on its way to you is still read.

The root key itself stays, and every device had it: cbx devices remove comes first. docs/devices.md says what a removed device can do, and what not.`
}

// Run renews the identity.
func (c *identityRotate) Run(ctx context.Context, a *app) error {
	if !c.Yes && !a.asker.interactive() {
		return usage("it cannot be undone: say --yes")
	}
	return a.with(ctx, func(p *profile) error {
		if !c.Yes {
			yes, err := a.yes(ctx, "Give your account a new identity key? Your safety numbers change. (yes/no)")
			if err != nil || !yes {
				return err
			}
		}
		return a.rotateIdentity(ctx, p)
	})
}

// renewalWait is how long a command waits until other devices were told.
const renewalWait = 30 * time.Second

// rotateIdentity renews the identity and tells contacts.
func (a *app) rotateIdentity(ctx context.Context, p *profile) error {
	if err := p.brain.RenewIdentity(ctx); err != nil {
		return err
	}
	return p.running(ctx, func(ctx context.Context) error {
		limit, cancel := context.WithTimeout(ctx, renewalWait)
		defer cancel()
		err := p.brain.FinishRenewal(limit)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			a.say(map[string]any{"type": "identity", "renewed": false}, "The new identity key is made, and your other devices are not told yet: cbx goes on with it whenever it is connected.")
			return nil
		}
		if err != nil {
			return err
		}
		a.say(map[string]any{"type": "identity", "renewed": true}, "Your account has a new identity key; contacts are told.")
		return p.flush(ctx)
	})
}

// noteRenewal says what status has to say of a renewal.
func (a *app) noteRenewal(ctx context.Context, p *profile, out map[string]any) (string, error) {
	begun, missed, err := p.brain.Renewing(ctx)
	if err != nil {
		return "", err
	}
	switch {
	case missed:
		out["identity"] = "missed"
		return "keys:    another device of yours renewed the account's keys and this one was not told: connect it, or link it again; if it is the only one, cbx identity rotate\n", nil
	case begun:
		out["identity"] = "renewing"
		return "keys:    a new identity key waits until your other devices are told\n", nil
	}
	return "", nil
}

// offerRotation offers what a removal leaves open.
func (a *app) offerRotation() {
	fmt.Fprintln(a.stderr, "cbx: that device knows your identity key: cbx identity rotate replaces it, if somebody else may have the device.")
}
