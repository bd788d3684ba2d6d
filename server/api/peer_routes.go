package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox/server/wire"
)

func adminSetPeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	var in wire.AdminPeerSet
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.SetPeer(c.ctx(), c.actor(), peer, in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminDefederatePeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.DefederatePeer(c.ctx(), c.actor(), peer)
	return c.replyOr(err, http.StatusOK, out)
}

func adminBlocks(c *call) error {
	out, err := c.api.parts.Admin.PeerBlocks(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminBlock(c *call) error {
	var in wire.AdminBlockSet
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.BlockPeer(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminUnblock(c *call) error {
	var in wire.AdminUnblock
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.api.parts.Admin.UnblockPeer(c.ctx(), c.actor(), in); err != nil {
		return err
	}
	return c.done()
}

func adminAlerts(c *call) error {
	out, err := c.api.parts.Admin.PeerAlerts(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminResolveAlerts(c *call) error {
	var in wire.AdminAlertsResolve
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.ResolveAlerts(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}
