package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

// clean makes text from elsewhere harmless for a terminal: control characters
// and the marks that turn the direction of writing become visible. Line ends
// and tabs stay.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f:
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// messageLine is a message in JSON.
type messageLine struct {
	Type     string             `json:"type"`  // message
	Order    uint64             `json:"order"` // rises; the same message always has the same one
	ID       clearbox.MessageID `json:"id"`
	From     string             `json:"from"` // name@server, or the user id while the name is not confirmed
	FromUser clearbox.UserID    `json:"from_user"`
	With     clearbox.UserID    `json:"with"` // the other side of the conversation
	Kind     core.MessageKind   `json:"kind"`
	Text     string             `json:"text,omitempty"`
	Sent     clearbox.Millis    `json:"sent"`
	Stored   clearbox.Millis    `json:"stored"`
	State    core.State         `json:"state"`
	Reason   clearbox.Code      `json:"reason,omitempty"`
}

// sentLine is the state of an own message in JSON.
type sentLine struct {
	Type    string             `json:"type"` // sent
	ID      clearbox.MessageID `json:"id"`
	To      string             `json:"to"`
	State   core.State         `json:"state"`
	Reason  clearbox.Code      `json:"reason,omitempty"`
	Delayed bool               `json:"delayed,omitempty"`
}

// name is what a contact is called on screen.
func (p *profile) name(ctx context.Context, user clearbox.UserID) string {
	if who, err := p.brain.Profile(); err == nil && who.User == user {
		return who.Address.String()
	}
	if c, err := p.brain.Known(ctx, user.String()); err == nil && c.Address != "" {
		return c.Address
	}
	return user.String()
}

// show prints one line of a conversation.
func (a *app) show(ctx context.Context, p *profile, m core.Message) {
	from := p.name(ctx, m.Sender)
	if a.JSON {
		a.line(a.stdout, messageLine{
			Type: "message", Order: m.Order, ID: m.ID, From: from, FromUser: m.Sender, With: m.Conversation,
			Kind: m.Kind, Text: m.Text, Sent: m.Sent, Stored: m.Stored, State: m.State, Reason: m.Reason,
		})
		return
	}
	at := time.UnixMilli(int64(m.Sent)).Format("15:04")
	switch m.Kind {
	case core.MessageText:
		fmt.Fprintf(a.stdout, "%s %s: %s\n", at, from, clean(m.Text))
	case core.MessageUndecryptable:
		fmt.Fprintf(a.stdout, "%s %s: (a message could not be decrypted: %s; ask for it again)\n", at, from, m.Reason)
	case core.MessageIdentityChanged:
		fmt.Fprintf(a.stdout, "%s * the safety number with %s changed: cbx safety-number %s\n", at, from, from)
	default:
		fmt.Fprintf(a.stdout, "%s %s: (something that this version does not know; update cbx to see it)\n", at, from)
	}
}

type sendCommand struct {
	Address string        `arg:"" help:"Who to write to: name@server."`
	Text    string        `arg:"" optional:"" help:"The message. Without it, or with -, it is read from standard input."`
	Wait    string        `help:"How far to wait: ${enum}." enum:"none,server,peer,delivered" default:"server"`
	Timeout time.Duration `help:"How long to wait." default:"30s"`
	Lines   bool          `help:"Send each line of standard input as a message of its own."`
}

// reached tells whether a state satisfies --wait.
func (c *sendCommand) reached(s core.State) bool {
	switch c.Wait {
	case "none":
		return true
	case "server":
		return s == core.StateAtServer || s == core.StateAtPeer || s == core.StateDelivered
	case "peer":
		return s == core.StateAtPeer || s == core.StateDelivered
	}
	return s == core.StateDelivered
}

// texts gives the messages to send, one by one.
func (c *sendCommand) texts(a *app) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		switch {
		case c.Lines && c.Text != "":
			yield("", usage("--lines reads standard input; leave the text out"))
		case c.Lines:
			in := bufio.NewScanner(a.stdin)
			in.Buffer(nil, core.MaxText+2)
			for in.Scan() {
				if in.Text() != "" && !yield(in.Text(), nil) {
					return
				}
			}
			if err := in.Err(); err != nil {
				yield("", err)
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
	return a.with(ctx, func(p *profile) error {
		to, err := p.contact(ctx, c.Address)
		if err != nil {
			return err
		}
		if c.Wait == "none" && !c.Lines {
			return c.queue(ctx, a, p, to, func(id clearbox.MessageID) { a.sent(ctx, p, id, c.Address) })
		}
		return p.running(ctx, func(ctx context.Context) error {
			var waiting []clearbox.MessageID
			if err := c.queue(ctx, a, p, to, func(id clearbox.MessageID) { waiting = append(waiting, id) }); err != nil {
				return err
			}
			return c.await(ctx, a, p, waiting)
		})
	})
}

func (c *sendCommand) queue(ctx context.Context, a *app, p *profile, to core.Contact, each func(clearbox.MessageID)) error {
	for text, err := range c.texts(a) {
		if err != nil {
			return err
		}
		m, err := p.brain.Send(ctx, to.User, text)
		if err != nil {
			return err
		}
		each(m.ID)
	}
	return nil
}

// sent prints the state of an own message.
func (a *app) sent(ctx context.Context, p *profile, id clearbox.MessageID, to string) {
	m, err := p.brain.Message(ctx, id)
	if err != nil {
		return
	}
	text := stateText(m)
	a.say(sentLine{Type: "sent", ID: id, To: to, State: m.State, Reason: m.Reason, Delayed: m.Delayed}, "%s", text)
}

// stateText is a message's state in words.
func stateText(m *core.Message) string {
	switch m.State {
	case core.StateQueued:
		if m.Reason != "" {
			return "waiting: " + string(m.Reason)
		}
		return "queued on this device; it is sent when cbx runs and the server can be reached"
	case core.StateAtServer:
		if m.Delayed {
			return "at my server; theirs cannot be reached and is tried again"
		}
		return "at my server"
	case core.StateAtPeer:
		return "at their server"
	case core.StateDelivered:
		return "delivered"
	case core.StateFailed:
		return "failed: " + string(m.Reason)
	}
	return string(m.State)
}

// await waits until every message is as far as asked, or can get no further.
func (c *sendCommand) await(ctx context.Context, a *app, p *profile, ids []clearbox.MessageID) error {
	changed, stop := p.brain.Watch()
	defer stop()
	limit, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	givenUp := 0
	for {
		var open []clearbox.MessageID
		for _, id := range ids {
			m, err := p.brain.Message(ctx, id)
			if err != nil {
				return err
			}
			failed := m.State == core.StateFailed
			if !failed && !c.reached(m.State) {
				open = append(open, id)
				continue
			}
			if failed {
				givenUp++
			}
			a.sent(ctx, p, id, c.Address)
		}
		if ids = open; len(ids) == 0 {
			break
		}
		select {
		case <-changed:
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, id := range ids {
				a.sent(ctx, p, id, c.Address)
			}
			return &stateError{text: fmt.Sprintf("%d of the messages did not get as far as %s within %s; they stay queued where they are", len(ids), c.Wait, c.Timeout)}
		}
	}
	if givenUp > 0 {
		return &stateError{text: "a message could not be delivered", givenUp: true}
	}
	return nil
}

type recvCommand struct {
	Follow  bool          `help:"Stay connected and go on showing messages." short:"f"`
	Count   int           `help:"Stop after that many." short:"n"`
	Timeout time.Duration `help:"Stop after that long." placeholder:"DURATION"`
}

// Run shows what is new, once: a line is marked as shown after it was written.
func (c *recvCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		limit := ctx
		if c.Timeout > 0 {
			var cancel context.CancelFunc
			limit, cancel = context.WithTimeout(ctx, c.Timeout)
			defer cancel()
		}
		if c.Follow || c.Count > 0 {
			err := p.running(limit, func(ctx context.Context) error { return c.follow(ctx, a, p) })
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				if c.Count > 0 {
					return &stateError{text: "fewer messages came than --count asked for"}
				}
				return nil
			}
			return err
		}
		if err := p.brain.Drain(limit); err != nil {
			// What came earlier is shown all the same.
			_, showErr := c.print(ctx, a, p, 0)
			return errors.Join(err, showErr)
		}
		if _, err := c.print(ctx, a, p, 0); err != nil {
			return err
		}
		return p.farewell(ctx)
	})
}

// farewell sends what receiving has caused: receipts, above all.
func (p *profile) farewell(ctx context.Context) error {
	st, err := p.brain.Status(ctx)
	if err != nil {
		return err
	}
	if st.Queued == 0 && !st.Receipts {
		return nil
	}
	return p.running(ctx, p.flush)
}

// flush sends what is queued, for a moment; what remains is sent next time.
func (p *profile) flush(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := p.brain.Flush(limit)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

func (c *recvCommand) follow(ctx context.Context, a *app, p *profile) error {
	changed, stop := p.brain.Watch()
	defer stop()
	left := c.Count
	for {
		n, err := c.print(ctx, a, p, left)
		if err != nil {
			return err
		}
		if c.Count > 0 {
			if left -= n; left <= 0 {
				return p.flush(ctx)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// print shows up to limit new lines (0: all) and marks them as shown.
func (c *recvCommand) print(ctx context.Context, a *app, p *profile, limit int) (int, error) {
	lines, err := p.brain.Unshown(ctx, limit)
	if err != nil || len(lines) == 0 {
		return 0, err
	}
	p.confirmNames(ctx, lines)
	for _, m := range lines {
		a.show(ctx, p, m)
	}
	return len(lines), p.brain.MarkShown(ctx, lines...)
}

// confirmNames learns what new people are called, if their server answers soon.
func (p *profile) confirmNames(ctx context.Context, lines []core.Message) {
	for _, m := range lines {
		if c, err := p.brain.Known(ctx, m.Sender.String()); err == nil && c.Address == "" {
			limit, cancel := context.WithTimeout(ctx, 3*time.Second)
			_ = p.brain.ConfirmNames(limit) // without an answer the user id is shown
			cancel()
			return
		}
	}
}

type chatCommand struct {
	Address string `arg:"" help:"Who to talk with: name@server."`
	History int    `help:"How many earlier lines to show." default:"10"`
}

// Run reads lines from standard input and shows what comes.
func (c *chatCommand) Run(ctx context.Context, a *app) error {
	return a.with(ctx, func(p *profile) error {
		with, err := p.contact(ctx, c.Address)
		if err != nil {
			return err
		}
		return p.running(ctx, func(ctx context.Context) error { return c.talk(ctx, a, p, with) })
	})
}

func (c *chatCommand) talk(ctx context.Context, a *app, p *profile, with core.Contact) error {
	changed, stop := p.brain.Watch()
	defer stop()
	earlier, err := p.brain.Recent(ctx, with.User, max(c.History, 1))
	if err != nil {
		return err
	}
	var last uint64
	for _, m := range earlier {
		if c.History > 0 {
			a.show(ctx, p, m)
		}
		last = max(last, m.Order)
	}
	if err := p.brain.MarkShown(ctx, earlier...); err != nil {
		return err
	}
	if !a.JSON {
		fmt.Fprintf(a.stderr, "-- talking with %s (%s); an empty line or end of input ends it\n", c.Address, with.Trust)
	}
	typed := make(chan string) // unbuffered: a line is taken when the one before is queued
	go func() {
		defer close(typed)
		in := bufio.NewScanner(a.stdin)
		in.Buffer(nil, core.MaxText+2)
		for in.Scan() {
			select {
			case typed <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	told := map[clearbox.MessageID]core.State{}
	for {
		news, err := p.brain.Messages(ctx, with.User, last, 0)
		if err != nil {
			return err
		}
		for _, m := range news {
			if last = max(last, m.Order); m.Outgoing {
				continue
			}
			a.show(ctx, p, m)
			if err := p.brain.MarkShown(ctx, m); err != nil {
				return err
			}
		}
		for id, was := range told {
			m, err := p.brain.Message(ctx, id)
			if err != nil {
				return err
			}
			if m.State != was {
				told[id] = m.State
				a.say(sentLine{Type: "sent", ID: id, To: c.Address, State: m.State, Reason: m.Reason, Delayed: m.Delayed}, "   [%s] %s", stateText(m), firstWords(m.Text))
			}
			if m.State == core.StateDelivered || m.State == core.StateFailed {
				delete(told, id)
			}
		}
		select {
		case text, ok := <-typed:
			if !ok || text == "" && a.asker.interactive() {
				return p.flush(ctx)
			}
			if text == "" {
				continue
			}
			m, err := p.brain.Send(ctx, with.User, text)
			if err != nil {
				return err
			}
			told[m.ID] = core.StateQueued
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// firstWords recalls a message by its beginning.
func firstWords(s string) string {
	s = strings.ReplaceAll(clean(s), "\n", " ")
	if r := []rune(s); len(r) > 30 {
		return string(r[:30]) + "…"
	}
	return s
}
