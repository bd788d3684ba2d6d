package server

import (
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
)

// legal is who is responsible for this server, as its document says it.
func legal(c *config.Config) federation.Legal {
	l := federation.Legal{
		Controller: c.Organisation.Name, Country: c.Organisation.Country, Contact: c.Organisation.DPO, Jurisdictions: c.Organisation.Jurisdictions,
		Retention: fmt.Sprintf("encrypted messages until they are fetched, at most %s; messages for peers until they are delivered, at most %s",
			inDays(c.Retention.Undelivered), inDays(c.Retention.Outbox)),
	}
	if l.Contact == "" {
		l.Contact = c.Organisation.Contact
	}
	if len(l.Jurisdictions) == 0 && l.Country != "" {
		l.Jurisdictions = []string{l.Country}
	}
	return l
}

func inDays(d time.Duration) string {
	switch days := d / (24 * time.Hour); {
	case days == 1:
		return "1 day"
	case days > 1 && d%(24*time.Hour) == 0:
		return fmt.Sprintf("%d days", days)
	}
	return config.FormatDuration(d)
}

// features are what the document says this server can do beyond the version.
func features(c *config.Config) []string {
	var list []string
	if c.Federation.Gossip {
		list = append(list, federation.FeatureGossip)
	}
	return list
}
