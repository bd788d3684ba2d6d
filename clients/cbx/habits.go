package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// within opens a conversation with a contact for fn, and shows how it is then.
func (a *app) within(ctx context.Context, address string, fn func(*profile, core.ConversationID) error) error {
	return a.with(ctx, func(p *profile) error {
		with, err := p.known(ctx, address)
		if err != nil {
			return err
		}
		in := core.With(with.User)
		if err := fn(p, in); err != nil {
			return err
		}
		c, err := p.brain.Conversation(ctx, in)
		if err == nil {
			a.conversation(ctx, p, &c)
		}
		return err
	})
}

type muteCommand struct {
	Address string        `arg:"" help:"Whose conversation."`
	For     time.Duration `help:"How long; without it, until it is unmuted." placeholder:"DURATION"`
	Undo    bool          `help:"End it."`
}

// Help is the long help.
func (muteCommand) Help() string {
	return `Messages are kept and shown as ever; they are marked as muted in JSON, for whoever makes a noise about new ones.`
}

// Run mutes a conversation.
func (c *muteCommand) Run(ctx context.Context, a *app) error {
	if c.For < 0 || c.Undo && c.For > 0 {
		return usage("--for takes a duration such as 8h, and does not go with --undo")
	}
	return a.within(ctx, c.Address, func(p *profile, in core.ConversationID) error {
		until := core.MutedForever
		switch {
		case c.Undo:
			until = 0
		case c.For > 0:
			until = clearbox.Millis(a.now().Add(c.For).UnixMilli())
		}
		return p.brain.Mute(ctx, in, until)
	})
}

type draftCommand struct {
	Address string `arg:"" help:"To whom."`
	Text    string `arg:"" optional:"" help:"The draft; with - it is read from standard input. Without it, the draft is shown."`
	Clear   bool   `help:"Forget it."`
}

// draftLine is a draft in JSON.
type draftLine struct {
	Type    string `json:"type"` // draft
	Address string `json:"address"`
	Text    string `json:"text"`
}

// Run keeps, shows or forgets a draft.
func (c *draftCommand) Run(ctx context.Context, a *app) error {
	if c.Clear && c.Text != "" {
		return usage("--clear takes no text")
	}
	return a.with(ctx, func(p *profile) error {
		with, err := p.known(ctx, c.Address)
		if err != nil {
			return err
		}
		in, text := core.With(with.User), c.Text
		if text == "-" {
			b, err := io.ReadAll(io.LimitReader(a.stdin, core.MaxText+2))
			if err != nil {
				return err
			}
			text = strings.TrimRight(string(b), "\r\n")
		}
		if text != "" || c.Clear {
			return p.brain.SetDraft(ctx, in, text)
		}
		conv, err := p.brain.Conversation(ctx, in)
		if err == nil && (conv.Draft != "" || a.JSON) {
			a.say(draftLine{"draft", p.name(ctx, with.User), conv.Draft}, "%s", clean(conv.Draft))
		}
		return err
	})
}

type disappearCommand struct {
	Address string `arg:"" help:"In whose conversation."`
	After   string `arg:"" help:"How long after they were read: a duration such as 30m, 24h or 168h, or off."`
}

// Help is the long help.
func (disappearCommand) Help() string {
	return `Both sides' messages from now on disappear: on the reader's device so long after they were shown there, on the writer's so long after they were sent. Both are told of the change. It asks the other side's devices to forget; it cannot make a person forget, or take a photograph of the screen back.`
}

// Run sets the timer of a conversation.
func (c *disappearCommand) Run(ctx context.Context, a *app) error {
	after := time.Duration(0)
	if c.After != "off" {
		var err error
		if after, err = time.ParseDuration(c.After); err != nil || after <= 0 {
			return usage("%q is no duration: give one such as 30m or 24h, or off", clean(c.After))
		}
	}
	return a.within(ctx, c.Address, func(p *profile, in core.ConversationID) error {
		if _, err := p.brain.SetTimer(ctx, in, after); err != nil {
			return err
		}
		return p.bring(ctx)
	})
}

type settingsCommand struct {
	ReadReceipts string `help:"Tell accepted contacts when you have read their messages: ${enum}." enum:"on,off,as-it-is" default:"as-it-is"`
}

// settingsLine is the settings in JSON.
type settingsLine struct {
	Type         string `json:"type"` // settings
	ReadReceipts bool   `json:"read_receipts"`
}

// Run shows the settings, and changes those that are named.
func (c *settingsCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		s, err := p.brain.Settings(ctx)
		if err != nil {
			return err
		}
		if c.ReadReceipts != "as-it-is" {
			s.ReadReceipts = c.ReadReceipts == "on"
			if err := p.brain.SetSettings(ctx, s); err != nil {
				return err
			}
		}
		a.say(settingsLine{"settings", s.ReadReceipts}, "read receipts: %s", map[bool]string{true: "on", false: "off"}[s.ReadReceipts])
		return nil
	})
}

type cardCommand struct {
	Show cardShow `cmd:"" default:"1" help:"Show what your contacts see."`
	Set  cardSet  `cmd:"" help:"Set what your contacts see."`
}

// cardLine is a profile in JSON.
type cardLine struct {
	Type string `json:"type"` // profile
	Name string `json:"name"`
}

type cardShow struct{}

// Run shows the own profile.
func (cardShow) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		card, err := p.brain.Card(ctx)
		if err != nil {
			return err
		}
		if card == nil {
			card = new(core.Card)
		}
		text := "Your contacts see your address alone; cbx profile set --name NAME adds a name."
		if card.Name != "" {
			text = card.Name
		}
		a.say(cardLine{"profile", card.Name}, "%s", clean(text))
		return nil
	})
}

type cardSet struct {
	Name string `required:"" help:"What you want to be called."`
}

// Run sets the own name and tells contacts, end to end encrypted.
func (c *cardSet) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		if err := p.brain.SetProfile(ctx, c.Name, nil); err != nil {
			return err
		}
		a.say(cardLine{"profile", c.Name}, "%s", clean(c.Name))
		return p.bring(ctx)
	})
}
