package api

import (
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How much one answer of /sync holds, in events and in bytes of content.
const (
	syncEvents = 64
	syncBytes  = 1 << 20
)

// syncMail is the long poll for networks that let no WebSocket through: it
// acknowledges, then answers with what is there or waits for it. It reads the
// same queue as the socket and sends the same events.
func syncMail(c *call) error {
	if err := c.knownQuery("ack", "timeout"); err != nil {
		return err
	}
	ack, err := c.queryInt("ack", 0, 1<<53)
	if err != nil {
		return err
	}
	timeout, err := c.queryInt("timeout", 0, wire.MaxSyncSeconds)
	if err != nil {
		return err
	}
	a := c.api
	if a.draining.Load() {
		return draining()
	}
	a.polls.Add(1)
	defer a.polls.Done()
	// The listener's limit for requests would end the wait.
	deadlines := http.NewResponseController(c.w)
	_ = deadlines.SetReadDeadline(time.Time{}) // a test's recorder has none

	mail := a.parts.Mailbox(c.who)
	defer mail.Close()
	if ack > 0 {
		if err := mail.Ack(c.ctx(), ack); err != nil {
			return err
		}
	}
	acked, err := mail.Acked(c.ctx())
	if err != nil {
		return err
	}
	acked = max(acked, ack)
	revoked := a.sockets.watch(c.who.Session)
	defer a.sockets.unwatch(c.who.Session, revoked)
	if err := a.parts.Auth.Standing(c.ctx(), c.who); err != nil {
		return err
	}
	timer := time.NewTimer(time.Duration(timeout) * time.Second)
	defer timer.Stop()
	out := wire.Sync{Events: []wire.ServerFrame{}, Acked: acked}
	for {
		mails, err := mail.Read(c.ctx(), acked, syncEvents, syncBytes)
		if err != nil {
			return err
		}
		for i := range mails {
			out.Events = append(out.Events, event(&mails[i], &c.who))
		}
		if len(mails) > 0 {
			out.More = len(mails) == syncEvents
			return c.reply(http.StatusOK, out)
		}
		select {
		case <-mail.Wake():
		case <-timer.C:
			return c.reply(http.StatusOK, out)
		case <-a.stopping:
			return c.reply(http.StatusOK, out)
		case <-revoked:
			return clearbox.Errorf(clearbox.CodeUnauthorized, "the session has ended")
		case <-c.ctx().Done():
			return c.ctx().Err()
		}
	}
}
