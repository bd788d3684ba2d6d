package api

import (
	"context"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/linking"
	"github.com/clearbox-im/clearbox/server/wire"
)

func openLink(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.LinkOpen
	if err := c.body(&in); err != nil {
		return err
	}
	expires, err := c.api.parts.Linking.Open(in.ID, c.client(), in.Body)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, wire.LinkOpened{Expires: expires})
}

func sayNew(c *call) error { return c.say(linking.Newcomer) }
func sayOld(c *call) error { return c.say(linking.Owner) }

// say leaves a message in a room. It waits while the room is full.
func (c *call) say(side linking.Side) error {
	id, err := c.linkParam()
	if err != nil {
		return err
	}
	var in wire.LinkMessage
	if err := c.body(&in); err != nil {
		return err
	}
	if side == linking.Newcomer && len(in.Body) > wire.MaxLinkNew {
		return &clearbox.Error{Code: clearbox.CodeTooLarge, Text: "a new device's message is shorter", Field: "/body"}
	}
	ctx, end := c.patience(wire.MaxSyncSeconds)
	defer end()
	if err := c.api.parts.Linking.Put(ctx, id, side, c.who.UserNo, in.N, in.Body); err != nil {
		return err
	}
	return c.done()
}

func hearNew(c *call) error { return c.hear(linking.Newcomer) }
func hearOld(c *call) error { return c.hear(linking.Owner) }

// hear gives what a side has left in a room, or waits for it.
func (c *call) hear(side linking.Side) error {
	id, err := c.linkParam()
	if err != nil {
		return err
	}
	if err := c.knownQuery("after", "timeout"); err != nil {
		return err
	}
	after, err := c.queryInt("after", 0, 1<<32)
	if err != nil {
		return err
	}
	timeout, err := c.queryInt("timeout", 0, wire.MaxSyncSeconds)
	if err != nil {
		return err
	}
	ctx, end := c.patience(timeout)
	defer end()
	got, err := c.api.parts.Linking.Get(ctx, id, side, c.who.UserNo, after)
	if err != nil {
		return err
	}
	out := wire.LinkMessages{Messages: make([]wire.LinkMessage, 0, len(got))}
	for _, m := range got {
		out.Messages = append(out.Messages, wire.LinkMessage{N: m.N, Body: m.Body})
	}
	return c.reply(http.StatusOK, out)
}

// patience bounds a wait in seconds; it ends with the server too. The listener's
// limit for requests would end it earlier.
func (c *call) patience(seconds int64) (context.Context, func()) {
	a := c.api
	a.polls.Add(1)
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // a test's recorder has none
	ctx, cancel := context.WithTimeout(c.ctx(), time.Duration(seconds)*time.Second)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-a.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		<-ended
		a.polls.Done()
	}
}

func linkSession(c *call) error {
	id, err := c.linkParam()
	if err != nil {
		return err
	}
	var in wire.LinkSession
	if err := c.body(&in); err != nil {
		return err
	}
	user, err := c.api.parts.Linking.Account(id)
	if err != nil {
		return err
	}
	t, err := c.api.parts.Auth.LoginLinked(c.ctx(), user, auth.Login{
		Client: c.client(), Device: in.Device.Device, Proof: &auth.DeviceProof{At: in.Device.At, Signature: in.Device.Signature},
	})
	if err != nil {
		return err
	}
	return c.reTokens(http.StatusCreated, t)
}

// linkParam reads the room's id. What cannot be one is absent.
func (c *call) linkParam() (clearbox.MessageID, error) {
	id, err := clearbox.ParseMessageID(c.param("id"))
	if err != nil {
		return id, clearbox.Wrap(clearbox.CodeNotFound, "there is no such link", err)
	}
	return id, nil
}
