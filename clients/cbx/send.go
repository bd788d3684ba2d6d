package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type sendCommand struct {
	Address string        `arg:"" optional:"" help:"Who to write to: name@server, or the name alone at your own server. Not with --group."`
	Text    string        `arg:"" optional:"" help:"The message. Without it, or with -, it is read from standard input."`
	Wait    string        `help:"How far to wait: ${enum}." enum:"none,server,peer,delivered" default:"server"`
	Timeout time.Duration `help:"How long to wait." default:"30s"`
	Reply   string        `help:"What it answers: the id of a message of the conversation, or the beginning of it." placeholder:"ID"`
	Group   string        `help:"Write to a group, by its name or its id, instead of to a person." placeholder:"GROUP"`
	Lines   bool          `help:"Send each line of standard input as a message of its own."`

	File         string `help:"A file to send, encrypted; - is standard input. TEXT is then what stands beside it." placeholder:"PATH"`
	Name         string `help:"What the file is called for the recipient, instead of its own name." placeholder:"NAME"`
	KeepMetadata bool   `help:"Leave in what a camera wrote into a picture: place, time, device."`
}

// Help is the long help.
func (sendCommand) Help() string {
	return `Once cbx says how far the message is, it is safe: do not send it again.
  0  it is as far as --wait asked; with no --wait also when it waits on this device until somebody of another server accepts you
  3  it is not as far in time. It is queued on this device (your server cannot be reached, or with --wait peer or delivered they have not accepted you yet), or waits at a server; it goes on by itself
  8  nobody can be reached by that address; nothing was queued
  9  it was given up; the reason was printed
A file goes to your server first, encrypted, and its message then. What broke off goes on when the same file is sent again. Pictures (JPEG, PNG, GIF, WebP) lose place, time and device that a camera wrote into them, unless --keep-metadata; other kinds of files are sent as they are.
What fails later is told by recv, chat and status.`
}

// reached tells whether a state satisfies --wait.
func (c *sendCommand) reached(m *core.Message) bool {
	s, asked := m.State, waitsForConsent(m)
	switch c.Wait {
	case "none":
		return true
	case "server":
		if asked {
			return true
		}
		return s == core.StateAtServer || s == core.StateAtPeer || s.Arrived()
	case "peer":
		return s == core.StateAtPeer || s.Arrived()
	}
	return s.Arrived()
}

// texts gives the messages to send, one by one.
func (c *sendCommand) texts(a *app) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		switch {
		case c.Lines:
			for text, err := range lines(a.stdin) {
				if (text != "" || err != nil) && !yield(text, err) {
					return
				}
			}
		case c.Text != "" && c.Text != "-":
			yield(c.Text, nil)
		default:
			b, err := io.ReadAll(io.LimitReader(a.stdin, core.MaxText+2))
			yield(strings.TrimRight(string(b), "\r\n"), err)
		}
	}
}

// Run queues the messages, which are safe then, and waits as long as asked.
func (c *sendCommand) Run(ctx context.Context, a *app) error {
	switch {
	case c.Group != "" && c.Text != "":
		return usage("with --group, the text stands alone: quote it if it has blanks")
	case c.Group != "":
		c.Text, c.Address = c.Address, ""
	case c.Address == "":
		return usage("who is it for? Give an address, or --group")
	}
	if c.File == "" && (c.Name != "" || c.KeepMetadata) || c.File != "" && (c.Lines || c.Text == "-") {
		return usage("--name and --keep-metadata go with --file, and --file with at most one text as an argument")
	}
	if c.Lines && c.Reply != "" {
		return usage("--reply is for one message, --lines for many")
	}
	if c.Lines && c.Text != "" {
		return usage("--lines reads standard input; leave the text out")
	}
	return a.with(ctx, func(p *profile) error {
		to, server, err := c.to(ctx, p)
		if clearbox.CodeOf(err) == clearbox.CodeUnavailable {
			return advise(clearbox.Wrap(clearbox.CodeUnavailable,
				err.Error()+", and "+clean(c.Address)+" was never looked up on this device: nothing was queued", err), "Send it again later; cbx status shows whether the server answers.")
		}
		if err != nil {
			return err
		}
		if c.Group != "" {
			if err := a.onlyInvited(ctx, p, to.Group); err != nil {
				return err
			}
		}
		if (c.Lines || c.Text == "" || c.Text == "-") && c.File == "" && a.asker.interactive() {
			fmt.Fprintln(a.stderr, "Type the message; Ctrl-D at the beginning of a line ends it.")
		}
		if c.Wait == "none" && !c.Lines {
			return c.queue(ctx, a, p, to, func(id clearbox.MessageID) { a.sent(ctx, p, id, c.Address, nil) })
		}
		return p.running(ctx, func(ctx context.Context) error {
			var waiting []clearbox.MessageID
			unsent := c.queue(ctx, a, p, to, func(id clearbox.MessageID) { waiting = append(waiting, id) })
			// What came before a line that cannot be sent is on its way all the same.
			err := c.await(ctx, a, p, server, waiting)
			if err != nil || unsent == nil {
				return err
			}
			return unsent
		})
	})
}

// to is the conversation to write into, with the server of the other side, which a
// group has none of.
func (c *sendCommand) to(ctx context.Context, p *profile) (core.ConversationID, clearbox.ServerName, error) {
	if c.Group != "" {
		g, err := p.groupNamed(ctx, c.Group)
		c.Address = groupName(&g)
		return core.In(g.ID), "", err
	}
	who, err := p.contact(ctx, c.Address)
	return core.With(who.User), who.User.Server, err
}

// queue gives the first error; a line that is too long is left out, the lines
// behind it are not.
func (c *sendCommand) queue(ctx context.Context, a *app, p *profile, to core.ConversationID, each func(clearbox.MessageID)) error {
	var answers *core.Ref
	if c.Reply != "" {
		m, err := p.line(ctx, c.Reply)
		if err != nil {
			return err
		}
		ref := m.Ref()
		answers = &ref
	}
	if c.File != "" {
		id, err := c.sendFile(ctx, a, p, to, answers)
		if err == nil {
			each(id)
		}
		return err
	}
	var first error
	for text, err := range c.texts(a) {
		var m *core.Message
		if err == nil {
			m, err = p.brain.Post(ctx, to, core.Post{Text: text, Reply: answers, Mentions: p.mentions(ctx, text)})
		}
		switch code := clearbox.CodeOf(err); {
		case err == nil:
			each(m.ID)
		case c.Lines && (code == clearbox.CodeTooLarge || code == clearbox.CodeBadRequest):
			if first == nil {
				first = err
			} else {
				a.warn(string(code), err.Error())
			}
		case code == clearbox.CodeTooLarge:
			return advise(err, "Longer texts go as a file: --file PATH, or --file - for standard input, with what it is called: --name.")
		default:
			return err
		}
	}
	return first
}

// onlyInvited says who was invited to a group and will not read what is written now.
func (a *app) onlyInvited(ctx context.Context, p *profile, id clearbox.GroupID) error {
	g, err := p.brain.Group(ctx, id)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range g.Members {
		if m.Invited {
			names = append(names, p.memberName(ctx, m.User))
		}
	}
	const most = 5
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("%d more", more))
	}
	if len(names) > 0 {
		a.warn("only_invited", "invited and not in the group yet, so they will not read this: "+strings.Join(names, ", "))
	}
	return nil
}

// sent prints the state of an own message, which is told then. theirs says what
// is wrong with the recipient's server; it is asked where the message waits for it.
func (a *app) sent(ctx context.Context, p *profile, id clearbox.MessageID, to string, theirs func() *serverLine) {
	m, err := p.brain.Message(ctx, id)
	if err != nil {
		return
	}
	var why *serverLine
	if m.State == core.StateAtServer && theirs != nil {
		why = theirs()
	}
	a.say(sentLine{
		Type: "sent", ID: id, To: to, State: m.State, Reason: m.Reason, Explanation: explanation(m), Delayed: m.Delayed, TheirServer: why,
		Receipts: receiptsOf(m),
	}, "%s", progress(m, why))
	_ = p.brain.MarkShown(ctx, *m) // recv tells it again otherwise
}

// await waits until every message, all to people of one server, is as far as
// asked, or can get no further.
func (c *sendCommand) await(ctx context.Context, a *app, p *profile, server clearbox.ServerName, ids []clearbox.MessageID) error {
	theirs := sync.OnceValue(func() *serverLine { return a.trouble(ctx, p, server) })
	changed, stop := p.brain.Watch()
	defer stop()
	limit, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	line := lineState{a: a, p: p, back: "connected"}
	said := map[clearbox.Code]bool{}
	givenUp, asked := 0, false
	for {
		var open []core.Message
		for _, id := range ids {
			m, err := p.brain.Message(ctx, id)
			if err != nil {
				return err
			}
			failed := m.State == core.StateFailed
			if !failed && !c.reached(m) {
				open = append(open, *m)
				continue
			}
			if failed {
				givenUp++
			}
			asked = asked || waitsForConsent(m)
			a.sent(ctx, p, id, c.Address, theirs)
		}
		ids = ids[:0]
		queued := false
		for _, m := range open {
			ids = append(ids, m.ID)
			queued = queued || m.State == core.StateQueued
			if m.State == core.StateQueued && m.Reason != "" && !said[m.Reason] {
				said[m.Reason] = true
				a.warn(string(m.Reason), "waiting: "+because(&m))
			}
		}
		if len(ids) == 0 {
			break
		}
		if queued {
			meanwhile := fmt.Sprintf("%s queued on this device and goes out when it answers. Trying for %s; Ctrl-C loses nothing", isOrAre(len(open)), c.Timeout)
			if err := line.tell(ctx, meanwhile); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, id := range ids {
				a.sent(ctx, p, id, c.Address, theirs)
			}
			return c.short(open)
		}
	}
	if asked {
		if err := p.flush(ctx); err != nil {
			return err
		}
		a.asked(c.Address)
	}
	if givenUp > 0 {
		return &stateError{text: "a message could not be delivered", givenUp: true}
	}
	return nil
}

// waitsForConsent tells of an own message that it stays here until somebody
// accepts us.
func waitsForConsent(m *core.Message) bool {
	return m.State == core.StateQueued && m.Reason == clearbox.CodeConsentRequired
}

// asked says what happens next to a message for somebody who has to be asked.
func (a *app) asked(address string) {
	a.warn(string(clearbox.CodeConsentRequired), clean(address)+" was asked to accept you; the message goes out when they do")
}

func isOrAre(n int) string {
	if n == 1 {
		return "the message is"
	}
	return fmt.Sprintf("%d messages are", n)
}

// short is the error for messages that are safe, but not as far as was asked.
func (c *sendCommand) short(open []core.Message) error {
	waits := map[string]string{"server": "your server", "peer": "their server", "delivered": "their device"}[c.Wait]
	text := fmt.Sprintf("%d messages did not get as far as %s within %s; they stay queued where they are", len(open), waits, c.Timeout)
	if len(open) == 1 {
		where := map[core.State]string{
			core.StateQueued: "stays queued on this device", core.StateAtServer: "waits at your server", core.StateAtPeer: "waits at their server",
		}[open[0].State]
		text = fmt.Sprintf("the message did not get as far as %s within %s; it %s", waits, c.Timeout, where)
	}
	err := &stateError{text: text}
	for _, m := range open {
		if m.State != core.StateAtPeer {
			return err
		}
	}
	return advise(err, "That it was delivered is told only once they have fetched it, and have accepted you or written back.")
}

// away says why there is no connection to the own server; empty while there is
// one, or while it is tried for the first time.
func (p *profile) away(ctx context.Context) (string, error) {
	st, err := p.brain.Status(ctx)
	if err != nil || st.Online || st.Err == nil || errors.Is(st.Err, context.Canceled) {
		return "", err
	}
	if errors.Is(st.Err, core.ErrLoginRequired) || errors.Is(st.Err, core.ErrRemoved) {
		return "", nil // Run ends with it
	}
	if clearbox.CodeOf(st.Err) == clearbox.CodeUnavailable {
		return st.Err.Error(), nil
	}
	return "the server cannot be reached", nil
}

func (p *profile) online(ctx context.Context) bool {
	st, err := p.brain.Status(ctx)
	return err == nil && st.Online
}
