package main

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// requestLine is somebody's wish to be accepted, in JSON.
type requestLine struct {
	Type       string          `json:"type"` // request
	Address    string          `json:"address"`
	User       clearbox.UserID `json:"user"`
	Controller string          `json:"controller,omitempty"`
	Country    string          `json:"country,omitempty"`
	At         clearbox.Millis `json:"at"`
}

func (a *app) request(r *core.ContactRequest) {
	of := oneLine(r.Controller)
	if r.Country != "" {
		of += ", " + oneLine(r.Country)
	}
	if of != "" {
		of = " (" + of + ")"
	}
	a.say(requestLine{"request", r.Address, r.User, r.Controller, r.Country, r.At},
		"%s * %s%s asks to write to you: cbx accept %[2]s, or cbx decline %[2]s", a.clock(r.At), r.Address, of)
}

// newRequests shows who asked since somebody last looked.
func (a *app) newRequests(ctx context.Context, p *profile) error {
	all, err := p.brain.Requests(ctx)
	if err != nil {
		return err
	}
	var shown []core.ContactRequest
	for i := range all {
		if all[i].New {
			a.request(&all[i])
			shown = append(shown, all[i])
		}
	}
	if len(shown) == 0 {
		return nil
	}
	return p.brain.MarkRequestsShown(ctx, shown...)
}

type requestsCommand struct{}

// Run fetches the mailbox and lists who waits for an answer.
func (requestsCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		drainErr := p.brain.Drain(ctx)
		all, err := p.brain.Requests(ctx)
		for i := range all {
			a.request(&all[i])
		}
		switch {
		case err == nil && len(all) > 0:
			err = p.brain.MarkRequestsShown(ctx, all...)
		case err == nil:
			a.remark("Nobody asks to write to you.")
		}
		return errors.Join(drainErr, err)
	})
}

// requester finds who asked by name@server or user id.
func (p *profile) requester(ctx context.Context, name string) (*core.ContactRequest, error) {
	all, err := p.brain.Requests(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Address == name || all[i].User.String() == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

type acceptCommand struct {
	Address string `arg:"" help:"name@server, or the user id."`
}

// Run accepts somebody who asked, or who wrote.
func (c *acceptCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		who, err := p.someone(ctx, c.Address)
		if err != nil {
			return err
		}
		if err := p.brain.Accept(ctx, who); err != nil {
			return err
		}
		if found, err := p.brain.Known(ctx, who.String()); err == nil {
			a.contact(found)
		}
		return p.running(ctx, p.flush)
	})
}

// someone is the person behind a name who asked or is a contact already.
func (p *profile) someone(ctx context.Context, name string) (clearbox.UserID, error) {
	asked, err := p.requester(ctx, name)
	if err != nil {
		return clearbox.UserID{}, err
	}
	if asked != nil {
		return asked.User, nil
	}
	found, err := p.brain.Known(ctx, name)
	if errors.Is(err, core.ErrUnknownContact) {
		return clearbox.UserID{}, advise(unknown(clean(name)+" did not ask and is no contact"), "cbx requests lists who asks; cbx contacts lists who is known.")
	}
	return found.User, err
}

// unknown is core.ErrUnknownContact in a sentence of its own.
type unknown string

func (e unknown) Error() string { return string(e) }

func (e unknown) Unwrap() error { return core.ErrUnknownContact }

type declineCommand struct {
	Address string `arg:"" help:"name@server, or the user id."`
}

// Run forgets a request.
func (c *declineCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		asked, err := p.requester(ctx, c.Address)
		if err != nil {
			return err
		}
		if asked == nil {
			return advise(unknown("no request of "+clean(c.Address)+" waits"), "cbx requests lists who asks.")
		}
		if err := p.brain.Decline(ctx, asked.User); err != nil {
			return err
		}
		a.say(map[string]string{"type": "declined", "address": asked.Address}, "Declined; %s is not told.", asked.Address)
		return p.farewell(ctx)
	})
}

type blockCommand struct {
	Address string `arg:"" help:"name@server, or the user id."`
}

// Run blocks somebody.
func (c *blockCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		who, err := p.someone(ctx, c.Address)
		if err != nil {
			return err
		}
		if err := p.brain.Block(ctx, who); err != nil {
			return err
		}
		a.say(map[string]string{"type": "blocked", "address": c.Address}, "Blocked; nothing of theirs is shown any more, and they are not told.")
		return p.running(ctx, p.flush)
	})
}

type unblockCommand struct {
	Address string `arg:"" help:"name@server, or the user id."`
}

// Run takes a block back.
func (c *unblockCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		found, err := p.brain.Known(ctx, c.Address)
		if err == nil && !found.Blocked {
			err = core.ErrUnknownContact
		}
		if errors.Is(err, core.ErrUnknownContact) {
			return advise(unknown(clean(c.Address)+" is not blocked"), "cbx blocks lists who is.")
		}
		if err != nil {
			return err
		}
		if err := p.brain.Unblock(ctx, found.User); err != nil {
			return err
		}
		a.say(map[string]string{"type": "unblocked", "address": c.Address}, "Unblocked.")
		return p.running(ctx, p.flush)
	})
}

type blocksCommand struct{}

// Run lists who is blocked.
func (blocksCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		all, err := p.brain.Contacts(ctx)
		n := 0
		for _, c := range all {
			if c.Blocked {
				a.contact(c)
				n++
			}
		}
		if err == nil && n == 0 {
			a.remark("Nobody is blocked.")
		}
		return err
	})
}
