package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type recvCommand struct {
	Follow  bool          `help:"Stay connected and go on showing messages." short:"f"`
	Count   int           `help:"Stop after that many messages." short:"n" placeholder:"N"`
	Timeout time.Duration `help:"Stop after that long." placeholder:"DURATION"`
}

// Help is the long help.
func (recvCommand) Help() string {
	return `Shows each new message once, and each message of yours that could not be delivered, with the reason, once:

  14:30 bob@townhall.example: hello
  14:31 * not delivered to eve@lawfirm.example: "are you there" (their mailbox is full [mailbox_full])

What happened to messages that were shown before is shown once too: they were changed, taken back, or got a reaction.

Who asks to write to you is shown with the command that accepts them. With --json they have type "request"; a message has type "message", with its kind; what happened to one has type "edit", "delete" or "reaction" with its id; a contact's new name has type "profile"; what became of an own message has type "sent" with state "failed", a reason (a stable code) and an explanation; and what one person says of it has type "receipt" with state "delivered" or "read", or "failed" where one member of a group did not get it. Without --json, receipts stand at the message in history.`
}

// Run shows what is new, once: a line is marked as shown after it was written.
func (c *recvCommand) Run(ctx context.Context, a *app) error {
	if c.Count < 0 || c.Timeout < 0 {
		return usage("--count and --timeout cannot be negative")
	}
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
		return c.once(ctx, limit, a, p)
	})
}

// once fetches what is there, shows it, and sends what that has caused.
func (c *recvCommand) once(ctx, limit context.Context, a *app, p *profile) error {
	drainErr := p.brain.Drain(limit)
	shown, err := c.print(ctx, a, p, 0)
	if drainErr != nil || err != nil {
		return errors.Join(drainErr, err) // what came earlier was shown all the same
	}
	if err := p.farewell(ctx); err != nil {
		return err
	}
	more, err := c.print(ctx, a, p, 0) // a queued message may have failed only now
	if err == nil && shown+more == 0 && !a.JSON && a.asker.interactive() {
		fmt.Fprintln(a.stderr, "Nothing new.")
	}
	return err
}

// farewell sends what receiving has caused: receipts, above all.
func (p *profile) farewell(ctx context.Context) error {
	st, err := p.brain.Status(ctx)
	if err != nil {
		return err
	}
	if st.Queued == 0 && st.Errands == 0 && !st.Receipts {
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
	line := lineState{a: a, p: p, back: "-- connected"}
	if c.Follow && !a.JSON && a.asker.interactive() {
		fmt.Fprintln(a.stderr, "-- new messages show here; Ctrl-C ends it")
	}
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
		if err := line.tell(ctx, "new messages come when it answers"); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// print shows up to limit new messages (0: all) and every fate of own ones, and
// marks them as shown; it gives how many messages it showed, and with no limit
// the fates too.
func (c *recvCommand) print(ctx context.Context, a *app, p *profile, limit int) (int, error) {
	if err := a.newRequests(ctx, p); err != nil {
		return 0, err
	}
	lines, err := p.brain.Unshown(ctx, limit)
	if err != nil {
		return 0, err
	}
	p.confirmNames(ctx, lines)
	for i := range lines {
		a.show(ctx, p, &lines[i])
	}
	a.introduce(ctx, p, lines)
	if err := a.news(ctx, p); err != nil {
		return 0, errors.Join(err, p.brain.MarkShown(ctx, lines...))
	}
	fates, err := p.brain.Fates(ctx)
	if err != nil {
		return 0, errors.Join(err, p.brain.MarkShown(ctx, lines...))
	}
	for i := range fates {
		a.showFate(ctx, p, &fates[i])
	}
	n := len(lines)
	if limit == 0 {
		n += len(fates)
	}
	return n, p.brain.MarkShown(ctx, append(lines, fates...)...)
}

// news shows what happened to messages that were shown before, once.
func (a *app) news(ctx context.Context, p *profile) error {
	events, err := p.brain.Events(ctx)
	if err != nil {
		return err
	}
	for i := range events {
		a.happened(ctx, p, &events[i])
	}
	return p.brain.MarkSeen(ctx, events...)
}

// introduce tells a person at a terminal what can be done about people who wrote
// and were not accepted.
func (a *app) introduce(ctx context.Context, p *profile, lines []core.Message) {
	if a.JSON || !a.asker.interactive() {
		return
	}
	seen := map[clearbox.UserID]bool{}
	for _, m := range lines {
		c, err := p.brain.Known(ctx, m.Sender.String())
		if err != nil || c.Accepted || seen[m.Sender] || !m.Group.IsZero() {
			continue
		}
		seen[m.Sender] = true
		fmt.Fprintf(a.stderr, "-- %s does not learn that this arrived until you write back, or: cbx accept %[1]s\n", p.name(ctx, m.Sender))
	}
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

// lineState tells on standard error when the own server cannot be reached, and
// when it can again, each once.
type lineState struct {
	a    *app
	p    *profile
	back string // what to say then
	away bool
}

// tell looks at the connection; meanwhile says what that means for the person.
func (l *lineState) tell(ctx context.Context, meanwhile string) error {
	why, err := l.p.away(ctx)
	if err != nil {
		return err
	}
	if why != "" && !l.away {
		l.away = true
		l.a.warn("unavailable", why+"; "+meanwhile)
	}
	if why == "" && l.away && l.p.online(ctx) {
		l.away = false
		if !l.a.JSON {
			fmt.Fprintln(l.a.stderr, l.back)
		}
	}
	return nil
}
