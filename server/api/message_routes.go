package api

import (
	"context"
	"net/http"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/wire"
)

// submit is the one way of a message in, for REST and sockets. done is called
// once, from any goroutine; what it gets is for the client.
func (a *API) submit(ctx context.Context, p auth.Principal, s *wire.Submission, done func(*wire.Receipt, error)) {
	if a.draining.Load() {
		done(nil, draining())
		return
	}
	if err := a.allowSend(p); err != nil {
		done(nil, err)
		return
	}
	a.parts.Router.SubmitAsync(ctx, p, submissionIn(s), func(rc delivery.Receipt, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(&wire.Receipt{ID: rc.ID, Status: wire.MessageState(rc.Status), AcceptedAt: rc.AcceptedAt}, nil)
	})
}

func submissionIn(s *wire.Submission) delivery.Submission {
	out := delivery.Submission{ID: s.ID, To: make([]delivery.Recipient, len(s.To)), Group: s.Group, Multi: s.Multi}
	for i := range s.To {
		to := &s.To[i]
		envelopes := make([]delivery.Outgoing, len(to.Envelopes))
		for j := range to.Envelopes {
			envelopes[j] = delivery.Outgoing(to.Envelopes[j])
		}
		out.To[i] = delivery.Recipient{User: to.User, Token: to.Token, Envelopes: envelopes}
	}
	return out
}

func sendMessage(c *call) error {
	var in wire.Submission
	if err := c.body(&in); err != nil {
		return err
	}
	type outcome struct {
		receipt *wire.Receipt
		err     error
	}
	answered := make(chan outcome, 1) // done never waits for a client that left
	c.api.submit(c.ctx(), c.who, &in, func(rc *wire.Receipt, err error) { answered <- outcome{rc, err} })
	select {
	case o := <-answered:
		if o.err != nil {
			return c.rate("messages", c.api.limits.Load().SendsPerSecond, o.err)
		}
		return c.reply(http.StatusOK, o.receipt)
	case <-c.ctx().Done():
		return c.ctx().Err()
	}
}

func messageStatus(c *call) error {
	var in wire.StatusQuery
	if err := c.body(&in); err != nil {
		return err
	}
	states, err := c.api.parts.Router.Status(c.ctx(), c.who, in.IDs)
	if err != nil {
		return err
	}
	out := wire.Statuses{States: make([]wire.Status, 0, len(states))}
	for _, s := range states {
		out.States = append(out.States, wire.Status{ID: s.ID, State: wire.MessageState(s.State)})
	}
	return c.reply(http.StatusOK, out)
}

// event is an entry of p's mailbox as p receives it. Whose mailbox it is need
// not stand in the entry.
func event(d *delivery.Delivery, p *auth.Principal) wire.ServerFrame {
	f := wire.ServerFrame{Type: wire.FrameReceive, Seq: d.Seq}
	if d.Envelope != nil {
		e := wire.Envelope(*d.Envelope) // others may read the same one
		e.Recipient, e.Device = p.User, p.Device
		f.Envelope = &e
	}
	if n := d.Notice; n != nil {
		f.Notice = &wire.Notice{Kind: wire.NoticeKind(n.Kind), ID: n.ID, Recipient: n.Recipient, Code: n.Code,
			FirstTry: n.FirstTry, LastTry: n.LastTry, Attempts: n.Attempts}
	}
	if k := d.Knock; k != nil {
		f.Knock = &wire.Knock{ID: k.ID, From: k.From, Address: clearbox.Address{Handle: k.Handle, Server: k.From.Server}.String(),
			AcceptedAt: k.AcceptedAt, Controller: k.Controller, Country: k.Country}
	}
	if g := d.Group; g != nil {
		f.Group = &wire.GroupEvent{Group: g.Group, Epoch: g.Epoch, Op: g.Op, Openings: g.Openings, Ended: g.Ended}
	}
	return f
}

func readHistory(c *call) error {
	if err := c.knownQuery("cursor", "limit", "direction"); err != nil {
		return err
	}
	limit, err := c.queryInt("limit", 1, wire.MaxHistoryItems)
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = 50
	}
	query := c.r.URL.Query()
	forward := true
	switch query.Get("direction") {
	case "", "forward":
	case "backward":
		forward = false
	default:
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Field: "?direction", Text: "the direction is forward or backward"}
	}
	page, err := c.api.parts.Archive.Page(c.ctx(), c.who.UserNo, query.Get("cursor"), int(limit), forward)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, page)
}

func writeHistory(c *call) error {
	ok, err := c.api.parts.Auth.Consented(c.ctx(), c.who.UserNo, auth.PurposeHistoryArchive)
	if err != nil {
		return err
	}
	if !ok {
		return clearbox.Errorf(clearbox.CodeConsentRequired, "the archive is kept only with the consent history_archive")
	}
	var in wire.HistoryUpload
	if err := c.body(&in); err != nil {
		return err
	}
	stored, err := c.api.parts.Archive.Add(c.ctx(), c.who.UserNo, in.Items)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, stored)
}

func deleteHistory(c *call) error {
	if err := c.knownQuery("id", "all"); err != nil {
		return err
	}
	query := c.r.URL.Query()
	ids := query["id"]
	var n int
	var err error
	switch all := query.Get("all"); {
	case all == "true" && len(ids) == 0:
		n, err = c.api.parts.Archive.DeleteAll(c.ctx(), c.who.UserNo)
	case all == "" && len(ids) > 0 && len(ids) <= wire.MaxHistoryItems:
		n, err = c.api.parts.Archive.Delete(c.ctx(), c.who.UserNo, ids)
	default:
		return clearbox.Errorf(clearbox.CodeBadRequest, "say id=…, up to %d times, or all=true", wire.MaxHistoryItems)
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, wire.HistoryDeleted{Deleted: n})
}
