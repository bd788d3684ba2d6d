package main

import (
	"context"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
)

type reportCommand struct {
	ID     string `arg:"" optional:"" help:"Id of the message, or the beginning of it: cbx history shows them. Without it, what became of reports is listed."`
	Reason string `help:"Why, in your words." placeholder:"TEXT"`
	Yes    bool   `help:"Do not ask; say that you mean it."`
}

// Help is the long help.
func (reportCommand) Help() string {
	return `Shows one message to the moderators of the server of whoever wrote it, with proof that they did. The moderators read what it says and your reason, and nothing else of the conversation. They learn from which server the report comes, not from whom; whoever wrote it may guess. Your own server passes the report on, and could read it. A file is not shown, and neither is what a message said before it was edited. It works for 30 days after the message was sent, and not once it was taken back. Where their server does not answer, the report waits here and goes out whenever cbx is connected.`
}

// reportLine is what became of a report, in JSON.
type reportLine struct {
	Type   string              `json:"type"` // report
	ID     clearbox.MessageID  `json:"id"`
	Author clearbox.UserID     `json:"author_user"`
	Server clearbox.ServerName `json:"server"` // whose moderators read it
	State  core.ReportState    `json:"state"`  // waiting, delivered, refused
	Reason clearbox.Code       `json:"reason,omitempty"`
	Made   clearbox.Millis     `json:"made"`
}

// Run reports a message.
func (c *reportCommand) Run(ctx context.Context, a *app) error {
	if c.ID == "" && (c.Reason != "" || c.Yes) {
		return usage("which message? cbx history ADDRESS shows their ids")
	}
	return a.with(ctx, func(p *profile) error {
		if c.ID == "" {
			return a.reports(ctx, p)
		}
		m, err := p.line(ctx, c.ID)
		switch {
		case err != nil:
			return err
		case m.Outgoing:
			return clearbox.Errorf(clearbox.CodeForbidden, "you wrote this message yourself")
		case !m.Provable():
			return core.ErrUnprovable
		}
		if !c.Yes {
			if !a.asker.interactive() {
				return usage("the moderators of %s will read this message: add --yes", m.Sender.Server)
			}
			yes, err := a.yes(ctx, "Show \""+firstWords(wording(m))+"\" to the moderators of "+string(m.Sender.Server)+"? (yes/no)")
			if err != nil || !yes {
				return err
			}
		}
		r, err := p.brain.Report(ctx, m.Ref(), c.Reason)
		if err != nil {
			return err
		}
		if r.State == core.ReportRefused {
			return clearbox.Errorf(r.Reason, "%s", reported(r))
		}
		a.report(r)
		return nil
	})
}

// reports lists what this device reported.
func (a *app) reports(ctx context.Context, p *profile) error {
	all, err := p.brain.Reports(ctx)
	if err == nil && len(all) == 0 {
		a.remark("nothing was reported in the last 30 days")
	}
	for i := range all {
		a.report(&all[i])
	}
	return err
}

func (a *app) report(r *core.Report) {
	line := reportLine{Type: "report", ID: r.Target.ID, Author: r.Target.Author, Server: r.Target.Author.Server, State: r.State, Reason: r.Reason, Made: r.Made}
	a.say(line, "%s  %s", r.Target.ID, reported(r))
}

// reported is what became of a report, in words.
func reported(r *core.Report) string {
	server := string(r.Target.Author.Server)
	switch r.State {
	case core.ReportDelivered:
		return "delivered: the moderators of " + server + " can read it"
	case core.ReportWaiting:
		return "waiting: no answer of " + server + " yet; it is tried again whenever cbx is connected"
	}
	why := strings.ReplaceAll(reasons[r.Reason], "SERVER", server)
	return strings.TrimSpace("refused: " + why + " [" + string(r.Reason) + "]")
}
