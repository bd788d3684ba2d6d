package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

// allowContact takes one of the account's changes of who may write. Each is a
// write of the store.
func (c *call) allowContact() error {
	return c.api.contacts.Take(c.api.o.Now(), string(c.who.User.UID))
}

func knock(c *call) error {
	if c.api.draining.Load() {
		return draining()
	}
	var in wire.KnockRequest
	if err := c.body(&in); err != nil {
		return err
	}
	to, err := clearbox.ParseAddress(in.To)
	if err != nil {
		return place(err, "/to")
	}
	if err := c.allowContact(); err != nil {
		return err
	}
	rc, err := c.api.parts.Contacts.Knock(c.ctx(), c.who, in.ID, to)
	if err != nil {
		return err
	}
	return c.reply(http.StatusAccepted, wire.Receipt{ID: rc.ID, Status: wire.MessageState(rc.Status), AcceptedAt: rc.AcceptedAt})
}

func answerKnock(c *call) error {
	id, err := clearbox.ParseMessageID(c.param("id"))
	if err != nil {
		return clearbox.Wrap(clearbox.CodeNotFound, "there is no such knock", err)
	}
	var in wire.KnockAnswer
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.allowContact(); err != nil {
		return err
	}
	if err := c.api.parts.Contacts.AnswerKnock(c.ctx(), c.who, id, in.Action == wire.KnockBlock); err != nil {
		return err
	}
	return c.done()
}

func setToken(c *call) error {
	var in wire.TokenUpdate
	if err := c.body(&in); err != nil {
		return err
	}
	token, err := clearbox.ParseDeliveryToken(in.Token)
	if err != nil {
		return place(err, "/token")
	}
	if err := c.allowContact(); err != nil {
		return err
	}
	if err := c.api.parts.Contacts.SetToken(c.ctx(), c.who, token); err != nil {
		return err
	}
	return c.done()
}

func readBlocks(c *call) error {
	users, err := c.api.parts.Contacts.Blocks(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.reBlocks(users)
}

func writeBlocks(c *call) error {
	var in wire.Blocks
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.allowContact(); err != nil {
		return err
	}
	if err := c.api.parts.Contacts.SetBlocks(c.ctx(), c.who, in.Users); err != nil {
		return err
	}
	return c.reBlocks(in.Users)
}

func (c *call) reBlocks(users []clearbox.UserID) error {
	if users == nil {
		users = []clearbox.UserID{}
	}
	return c.reply(http.StatusOK, wire.Blocks{Users: users})
}

func senderCertificate(c *call) error {
	cert, expires, err := c.api.parts.Directory.SenderCertificate(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, wire.SenderCertificate{Certificate: cert, Expires: expires})
}

// serverInfo answers for every name that a server can have: that nothing is
// exchanged with it is an answer too.
func serverInfo(c *call) error {
	name, err := clearbox.ParseServerName(c.param("name"))
	if err != nil {
		return clearbox.Wrap(clearbox.CodeNotFound, "there is no such server", err)
	}
	info, err := c.api.parts.Servers(c.ctx(), name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, info)
}
