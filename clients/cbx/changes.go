package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// shortID is how many characters of a message's id a person is shown; commands
// take as many as tell it from others.
const shortID = 6

func short(id clearbox.MessageID) string { return id.String()[:shortID] }

// line finds a message by its id or the beginning of it.
func (p *profile) line(ctx context.Context, id string) (*core.Message, error) {
	found, err := p.brain.Find(ctx, strings.ToLower(id), 2)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0 || len(id) < 4:
		return nil, advise(clearbox.Wrap(clearbox.CodeNotFound, "there is no message "+clean(id), core.ErrNoMessage),
			"cbx history ADDRESS shows messages with their ids, of which the first 4 characters or more are enough.")
	case len(found) > 1:
		return nil, usage("several messages have an id that begins with %s: give more of it", clean(id))
	}
	return &found[0], nil
}

// bring sends what was just queued. It is safe already: the error says that it
// did not get to the server in time.
func (p *profile) bring(ctx context.Context) error {
	if err := p.running(ctx, p.flush); err != nil {
		return err
	}
	st, err := p.brain.Status(ctx)
	if err == nil && st.Queued > 0 {
		err = &stateError{text: "your server did not take it in time; it stays queued on this device"}
	}
	return err
}

// changedLine is what was done to a message, in JSON.
type changedLine struct {
	Type   string             `json:"type"`   // changed
	Change string             `json:"change"` // edit, delete, reaction, pin
	ID     clearbox.MessageID `json:"id"`
	Text   string             `json:"text,omitempty"`
	Emoji  string             `json:"emoji,omitempty"`
	Pinned *bool              `json:"pinned,omitempty"`
}

// alter does something to a message that is named by its id, tells it, and brings
// it to the server.
func (a *app) alter(ctx context.Context, id string, do func(*profile, *core.Message) (changedLine, string, error)) error {
	return a.with(ctx, func(p *profile) error {
		m, err := p.line(ctx, id)
		if err != nil {
			return err
		}
		said, text, err := do(p, m)
		if err != nil {
			return err
		}
		said.Type, said.ID = "changed", m.ID
		a.say(said, "%s", text)
		return p.bring(ctx)
	})
}

type editCommand struct {
	ID   string `arg:"" help:"Id of the message, or the beginning of it: cbx history shows them."`
	Text string `arg:"" optional:"" help:"What it is to say now. Without it, or with -, it is read from standard input."`
}

// Help is the long help.
func (editCommand) Help() string {
	return `Changes a message of yours, for everyone; they see that it was changed. Exit code 3: the change is queued on this device.`
}

// Run changes an own message.
func (c *editCommand) Run(ctx context.Context, a *app) error {
	if c.Text == "" || c.Text == "-" {
		b, err := io.ReadAll(io.LimitReader(a.stdin, core.MaxText+2))
		if err != nil {
			return err
		}
		c.Text = strings.TrimRight(string(b), "\r\n")
	}
	return a.alter(ctx, c.ID, func(p *profile, m *core.Message) (changedLine, string, error) {
		err := p.brain.Edit(ctx, m.Ref(), c.Text, p.mentions(ctx, c.Text)...)
		return changedLine{Change: "edit", Text: c.Text}, "changed: " + firstWords(c.Text), err
	})
}

type deleteCommand struct {
	ID   string `arg:"" help:"Id of the message, or the beginning of it: cbx history shows them."`
	Here bool   `help:"On this device alone; also other people's messages."`
}

// Help is the long help.
func (deleteCommand) Help() string {
	return `Takes a message of yours back, for everyone: the other side's devices forget what it said, unless somebody made a copy; a file is deleted from your server, so that nobody gets it any more. With --here, any message leaves this device, and nobody is told.`
}

// Run takes a message back.
func (c *deleteCommand) Run(ctx context.Context, a *app) error {
	return a.alter(ctx, c.ID, func(p *profile, m *core.Message) (changedLine, string, error) {
		if c.Here {
			return changedLine{Change: "removed"}, "removed from this device", p.brain.Remove(ctx, m.Ref())
		}
		err := p.brain.Delete(ctx, m.Ref())
		if clearbox.CodeOf(err) == clearbox.CodeForbidden {
			err = advise(err, "cbx delete --here removes it from this device.")
		}
		return changedLine{Change: "delete"}, "taken back", err
	})
}

type reactCommand struct {
	ID    string `arg:"" help:"Id of the message, or the beginning of it: cbx history shows them."`
	Emoji string `arg:"" optional:"" help:"What to put beside it, in place of what you put there before."`
	Undo  bool   `help:"Take your reaction back."`
}

// Run sets or takes back a reaction.
func (c *reactCommand) Run(ctx context.Context, a *app) error {
	if (c.Emoji == "") != c.Undo {
		return usage("give an emoji, or --undo")
	}
	return a.alter(ctx, c.ID, func(p *profile, m *core.Message) (changedLine, string, error) {
		text := c.Emoji + " " + firstWords(m.Text)
		if c.Undo {
			text = "reaction taken back"
		}
		return changedLine{Change: "reaction", Emoji: c.Emoji}, text, p.brain.React(ctx, m.Ref(), c.Emoji)
	})
}

type pinCommand struct {
	ID   string `arg:"" help:"Id of the message, or the beginning of it: cbx history shows them."`
	Undo bool   `help:"Unpin it."`
}

// Run keeps a message at hand.
func (c *pinCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		m, err := p.line(ctx, c.ID)
		if err != nil {
			return err
		}
		pinned := !c.Undo
		if err := p.brain.Pin(ctx, m.Ref(), pinned); err != nil {
			return err
		}
		text := map[bool]string{true: "pinned", false: "no longer pinned"}[pinned]
		a.say(changedLine{Type: "changed", Change: "pin", ID: m.ID, Pinned: &pinned}, "%s: %s", text, firstWords(m.Text))
		return nil
	})
}

// mentions finds the contacts whom a text names as @name@server.
func (p *profile) mentions(ctx context.Context, text string) (out []core.Mention) {
	for at := 0; at < len(text); {
		i := strings.IndexByte(text[at:], '@')
		if i < 0 {
			break
		}
		from := at + i
		at = from + 1
		if from > 0 && !strings.ContainsRune(" \t\n(", rune(text[from-1])) {
			continue
		}
		name := text[from+1:]
		if end := strings.IndexFunc(name, func(r rune) bool {
			return r != '@' && r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
		}); end >= 0 {
			name = name[:end]
		}
		name = strings.TrimRight(name, ".-_@")
		user, err := p.named(ctx, name)
		if err != nil {
			continue
		}
		at = from + 1 + len(name)
		out = append(out, core.Mention{User: user, From: from, To: at})
	}
	return out
}

// named gives a contact or oneself by name@server, without asking a server.
func (p *profile) named(ctx context.Context, name string) (clearbox.UserID, error) {
	address, err := clearbox.ParseAddress(name)
	if err != nil {
		return clearbox.UserID{}, err
	}
	if who, err := p.brain.Profile(); err == nil && who.Address == address {
		return who.User, nil
	}
	c, err := p.brain.Known(ctx, name)
	if err == nil && c.Pending {
		err = errors.New("nobody has answered by that name yet")
	}
	return c.User, err
}
