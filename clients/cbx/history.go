package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type historyCommand struct {
	Address string `arg:"" optional:"" help:"With whom: name@server, or the name alone at your own server. Without it, the conversations are listed."`
	Group   string `help:"Of a group, by its name or its id." placeholder:"GROUP"`
	Limit   int    `help:"How many messages at most, the last ones." default:"20" short:"n"`
	Before  string `help:"Those before the message with this id." placeholder:"ID"`
	Pinned  bool   `help:"The pinned messages."`
}

// Help is the long help.
func (historyCommand) Help() string {
	return `Shows what is on this device, each message with the beginning of its id, which edit, delete, react, pin and send --reply take:

  q3zk7a 14:30 bob@townhall.example: hello  (edited)  👍
  m5vx2p 14:31 ada@clinic.example, to "hello": good morning  [read]

Nothing is marked as shown, and no server is asked.`
}

// Run shows the last messages of a conversation.
func (c *historyCommand) Run(ctx context.Context, a *app) error {
	if c.Limit < 1 {
		return usage("--limit is 1 or more")
	}
	return a.with(ctx, func(p *profile) error {
		if c.Address == "" && c.Group == "" {
			return a.conversations(ctx, p)
		}
		in, err := p.talkWith(ctx, c.Address, c.Group, p.known)
		if err != nil {
			return err
		}
		lines, err := c.lines(ctx, p, in)
		if err != nil {
			return err
		}
		for i := range lines {
			a.record(ctx, p, &lines[i])
		}
		return nil
	})
}

func (c *historyCommand) lines(ctx context.Context, p *profile, in core.ConversationID) ([]core.Message, error) {
	if c.Pinned {
		conv, err := p.brain.Conversation(ctx, in)
		if err != nil {
			return nil, err
		}
		var out []core.Message
		for _, pin := range conv.Pins {
			if m, err := p.brain.Line(ctx, pin); err == nil {
				out = append(out, m)
			}
		}
		return out, nil
	}
	before := uint64(0)
	if c.Before != "" {
		m, err := p.line(ctx, c.Before)
		if err != nil {
			return nil, err
		}
		before = m.Order
	}
	return p.brain.Before(ctx, in, before, c.Limit)
}

// talkWith is the conversation with a person, found by look, or of a group.
func (p *profile) talkWith(ctx context.Context, address, group string, look func(context.Context, string) (core.Contact, error)) (core.ConversationID, error) {
	switch {
	case address != "" && group != "":
		return core.ConversationID{}, usage("give an address or --group, not both")
	case group != "":
		g, err := p.groupNamed(ctx, group)
		return core.In(g.ID), err
	}
	who, err := look(ctx, address)
	return core.With(who.User), err
}

// known is contact for commands that ask no server.
func (p *profile) known(ctx context.Context, name string) (core.Contact, error) {
	full, err := p.address(name)
	if err != nil {
		return core.Contact{}, err
	}
	return p.brain.Known(ctx, full)
}

// record prints a line with its id, and an own one with how far it came.
func (a *app) record(ctx context.Context, p *profile, m *core.Message) {
	if a.JSON {
		a.show(ctx, p, m)
		return
	}
	id := "      "
	if m.ID != (clearbox.MessageID{}) {
		id = short(m.ID)
	}
	state := ""
	if m.Outgoing && m.State.Arrived() && m.Kind != core.MessageDeleted {
		state = "  [" + string(m.State) + "]"
	}
	fmt.Fprintf(a.stdout, "%s %s%s\n", id, a.text(ctx, p, m), state)
}

// conversationLine is a conversation in JSON.
type conversationLine struct {
	Type    string           `json:"type"` // conversation
	With    clearbox.UserID  `json:"with,omitzero"`
	Group   clearbox.GroupID `json:"group,omitzero"`
	Address string           `json:"address"` // or the group's name in brackets
	Unshown int              `json:"unshown"`
	Last    clearbox.Millis  `json:"last,omitempty"`
	Timer   int              `json:"timer,omitempty"` // seconds after which messages disappear
	Muted   clearbox.Millis  `json:"muted,omitempty"` // until when
	Pins    int              `json:"pins,omitempty"`
	Draft   string           `json:"draft,omitempty"`
}

// conversations lists them, the newest first.
func (a *app) conversations(ctx context.Context, p *profile) error {
	all, err := p.brain.Conversations(ctx)
	for i := range all {
		a.conversation(ctx, p, &all[i])
	}
	return err
}

func (a *app) conversation(ctx context.Context, p *profile, c *core.Conversation) {
	name := p.name(ctx, c.In.User)
	if !c.In.Group.IsZero() {
		name = strings.TrimSpace(p.whereText(ctx, &core.Message{Group: c.In.Group}))
	}
	line := conversationLine{
		Type: "conversation", With: c.In.User, Group: c.In.Group, Address: name, Unshown: c.Unshown, Timer: int(c.Timer.Seconds()), Muted: c.Muted,
		Pins: len(c.Pins), Draft: c.Draft,
	}
	text := name
	if c.Last != nil {
		line.Last = c.Last.Stored
		text += "  " + a.clock(c.Last.Stored)
	}
	if c.Unshown > 0 {
		text += fmt.Sprintf("  %d new", c.Unshown)
	}
	if c.Timer > 0 {
		text += "  disappears after " + c.Timer.String()
	}
	if c.Muted > clearbox.Millis(a.now().UnixMilli()) {
		text += "  muted"
	}
	if c.Draft != "" {
		text += "  draft: " + firstWords(c.Draft)
	}
	a.say(line, "%s", text)
}

type searchCommand struct {
	Words []string `arg:"" help:"Words that all occur, in any case."`
	With  string   `help:"Only in the conversation with this address." placeholder:"ADDRESS"`
	Limit int      `help:"How many messages at most, the newest ones." default:"50" short:"n"`
}

// Help is the long help.
func (searchCommand) Help() string {
	return `Looks through every message on this device; no server is asked. Exit code 8: nothing was found.`
}

// Run looks for messages.
func (c *searchCommand) Run(ctx context.Context, a *app) error {
	if c.Limit < 1 {
		return usage("--limit is 1 or more")
	}
	return a.with(ctx, func(p *profile) error {
		q := core.Search{Limit: c.Limit}
		for _, w := range c.Words {
			q.Words += " " + w
		}
		if c.With != "" {
			with, err := p.known(ctx, c.With)
			if err != nil {
				return err
			}
			in := core.With(with.User)
			q.In = &in
		}
		found, err := p.brain.Search(ctx, q)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return advise(clearbox.Errorf(clearbox.CodeNotFound, "no message has these words"), "Every word must occur, as it is written or inside of a longer one.")
		}
		slices.Reverse(found)
		for i := range found {
			a.record(ctx, p, &found[i])
		}
		return nil
	})
}
