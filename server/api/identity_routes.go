package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox/server/wire"
)

func adminIdentity(c *call) error {
	out, err := c.api.parts.Admin.Identity(c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminRotateIdentity(c *call) error {
	out, err := c.api.parts.Admin.RotateIdentity(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminIdentityOffline(c *call) error {
	var in wire.AdminIdentityOffline
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.IdentityOffline(c.ctx(), c.actor(), in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminIdentityOnline(c *call) error {
	out, err := c.api.parts.Admin.IdentityOnline(c.ctx(), c.actor())
	return c.replyOr(err, http.StatusOK, out)
}

func adminRevokeKey(c *call) error {
	out, err := c.api.parts.Admin.RevokeKey(c.ctx(), c.actor(), c.param("kid"))
	return c.replyOr(err, http.StatusOK, out)
}

func adminRepinPeer(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	var in wire.AdminPeerRepin
	if err := c.body(&in); err != nil {
		return err
	}
	out, err := c.api.parts.Admin.RepinPeer(c.ctx(), c.actor(), peer, in)
	return c.replyOr(err, http.StatusOK, out)
}

func adminConformance(c *call) error {
	peer, err := c.peer()
	if err != nil {
		return err
	}
	out, err := c.api.parts.Admin.Conformance(c.ctx(), c.actor(), peer)
	return c.replyOr(err, http.StatusOK, out)
}
