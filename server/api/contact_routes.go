package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

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
