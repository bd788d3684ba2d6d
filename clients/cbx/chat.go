package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type chatCommand struct {
	Address string `arg:"" optional:"" help:"Who to talk with: name@server, or the name alone at your own server."`
	Group   string `help:"Talk in a group, by its name or its id." placeholder:"GROUP"`
	History int    `help:"How many earlier lines to show." default:"10"`
}

// Help is the long help.
func (chatCommand) Help() string {
	return `What you type is sent line by line; what comes is shown. Ctrl-D or Ctrl-C ends it. Own lines that have not arrived say how far they are:

  14:30 ada@clinic.example: hello  [at my server]
  14:31 ada@clinic.example: hello?  [failed: their mailbox is full [mailbox_full]]`
}

// Run reads lines from standard input and shows what comes.
func (c *chatCommand) Run(ctx context.Context, a *app) error {
	if c.History < 0 {
		return usage("--history cannot be negative")
	}
	return a.with(ctx, func(p *profile) error {
		if c.Address == "" && c.Group == "" {
			return usage("who with? Give an address, or --group")
		}
		in, err := p.talkWith(ctx, c.Address, c.Group, p.contact)
		if err != nil {
			return err
		}
		t := &talk{app: a, p: p, in: in, to: p.name(ctx, in.User), told: map[clearbox.MessageID]string{}}
		if !in.Group.IsZero() {
			t.to = strings.TrimSpace(p.whereText(ctx, &core.Message{Group: in.Group}))
		} else if with, err := p.brain.Known(ctx, in.User.String()); err == nil {
			t.to += " (" + trustText[with.Trust] + ")"
		}
		if !in.Group.IsZero() {
			if err := a.onlyInvited(ctx, p, in.Group); err != nil {
				return err
			}
		}
		err = p.running(ctx, func(ctx context.Context) error { return t.run(ctx, c.History) })
		if ctx.Err() != nil && (err == nil || err == ctx.Err()) { // Ctrl-C is a way to end it
			err = nil
			if a.asker.interactive() {
				fmt.Fprintln(a.stderr)
			}
		}
		return t.goodbye(context.WithoutCancel(ctx), err)
	})
}

// talk is one run of chat.
type talk struct {
	*app
	p    *profile
	in   core.ConversationID
	to   string
	last uint64                        // order of the last line that was looked at
	told map[clearbox.MessageID]string // what was last said of own lines that may still move
}

// steps is stateText without what each member of a group tells.
func steps(m *core.Message) string {
	whole := *m
	whole.Reach = nil
	return stateText(&whole)
}

// typed is a line of input, or what is wrong with it.
type typed struct {
	text string
	err  error
}

func (t *talk) run(ctx context.Context, history int) error {
	changed, stop := t.p.brain.Watch()
	defer stop()
	if err := t.earlier(ctx, history); err != nil {
		return err
	}
	if !t.JSON {
		fmt.Fprintf(t.stderr, "-- talking with %s; Ctrl-D ends it\n", t.to)
	}
	if s := t.trouble(ctx, t.p, t.in.User.Server); s != nil {
		t.warn(string(s.State), s.Explanation)
	}
	input := make(chan typed) // unbuffered: a line is taken when the one before is queued
	go func() {
		defer close(input)
		for text, err := range lines(t.stdin) {
			select {
			case input <- typed{text, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	line := lineState{a: t.app, p: t.p, back: "-- connected"}
	for {
		if err := t.news(ctx); err != nil {
			return err
		}
		if err := line.tell(ctx, "what you type is queued on this device and goes out when it answers"); err != nil {
			return err
		}
		select {
		case in, ok := <-input:
			if !ok {
				if err := t.p.flush(ctx); err != nil {
					return err
				}
				return t.news(ctx)
			}
			if err := t.say(ctx, in); err != nil {
				return err
			}
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// earlier shows the last lines, and every line before them that nobody was
// shown yet.
func (t *talk) earlier(ctx context.Context, history int) error {
	brain := t.p.brain
	shown, err := brain.Before(ctx, t.in, 0, max(history, 1))
	if err != nil {
		return err
	}
	if len(shown) > 0 {
		t.last = shown[len(shown)-1].Order
	}
	if history == 0 {
		shown = nil
	}
	unshown, err := brain.Unshown(ctx, 0)
	if err != nil {
		return err
	}
	for _, m := range unshown {
		if m.In() == t.in && (len(shown) == 0 || m.Order < shown[0].Order) {
			if shown, err = brain.Lines(ctx, t.in, m.Order-1, 0); err != nil {
				return err
			}
			break
		}
	}
	for i := range shown {
		m := &shown[i]
		t.show(ctx, t.p, m)
		t.last = max(t.last, m.Order)
		if m.Outgoing && (m.State == core.StateQueued || m.State == core.StateAtServer) {
			t.told[m.ID] = steps(m) // how it goes on is told as of lines typed now
		}
	}
	return brain.MarkShown(ctx, shown...)
}

// news shows what came and how far own lines are since it was last called.
func (t *talk) news(ctx context.Context) error {
	brain := t.p.brain
	if err := t.newRequests(ctx, t.p); err != nil {
		return err
	}
	came, err := brain.Lines(ctx, t.in, t.last, 0)
	if err != nil {
		return err
	}
	for _, m := range came {
		if t.last = max(t.last, m.Order); m.Outgoing {
			continue
		}
		t.show(ctx, t.p, &m)
		if err := brain.MarkShown(ctx, m); err != nil {
			return err
		}
	}
	events, err := brain.Events(ctx)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.In != t.in {
			continue
		}
		t.happened(ctx, t.p, &e)
		if err := brain.MarkSeen(ctx, e); err != nil {
			return err
		}
	}
	for id, was := range t.told {
		m, err := brain.Message(ctx, id)
		if err != nil {
			return err
		}
		if now := steps(m); now != was {
			t.told[id] = now
			var why *serverLine
			if m.State == core.StateAtServer && m.Delayed {
				why = t.trouble(ctx, t.p, m.Conversation.Server)
			}
			t.app.say(sentLine{
				Type: "sent", ID: id, To: t.to, State: m.State, Reason: m.Reason, Explanation: explanation(m), Delayed: m.Delayed, TheirServer: why,
				Receipts: receiptsOf(m),
			}, "   [%s] %s", progress(m, why), firstWords(wording(m)))
			if err := brain.MarkShown(ctx, *m); err != nil {
				return err
			}
		}
		if m.State.Arrived() || m.State == core.StateFailed {
			delete(t.told, id)
		}
	}
	fates, err := brain.Fates(ctx) // of lines from before, or that were corrected
	if err != nil {
		return err
	}
	for _, m := range fates {
		if m.In() != t.in {
			continue
		}
		t.showFate(ctx, t.p, &m)
		if err := brain.MarkShown(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// say sends a line. What is wrong with the line alone is told, and the
// conversation goes on.
func (t *talk) say(ctx context.Context, in typed) error {
	err := in.err
	if err == nil && in.text == "" {
		return nil
	}
	var m *core.Message
	if err == nil {
		m, err = t.p.brain.Post(ctx, t.in, core.Post{Text: in.text, Mentions: t.p.mentions(ctx, in.text)})
	}
	switch code := clearbox.CodeOf(err); code {
	case "":
		t.told[m.ID] = steps(m)
		return nil
	case clearbox.CodeTooLarge, clearbox.CodeBadRequest, clearbox.CodeIdentityChanged:
		t.warn(string(code), err.Error())
		if next := hint(err); next != "" && !t.JSON {
			fmt.Fprintln(t.stderr, "    ", next)
		}
		return nil
	}
	return err
}

// goodbye says what is not sent yet.
func (t *talk) goodbye(ctx context.Context, err error) error {
	if err != nil || t.JSON {
		return err
	}
	queued := 0
	for id := range t.told {
		if m, err := t.p.brain.Message(ctx, id); err == nil && m.State == core.StateQueued {
			queued++
		}
	}
	if queued > 0 {
		fmt.Fprintf(t.stderr, "-- %s queued on this device; the next cbx command that connects sends them\n", isOrAre(queued))
	}
	return nil
}
