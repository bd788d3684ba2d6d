package server

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/server/groups"
	"github.com/clearbox-im/clearbox/server/reports"
)

// buildGroups makes the groups of this server, and with federation those that it
// shares with others.
func (s *Server) buildGroups(c *config.Config) {
	o := groups.Options{Now: s.o.Now, Random: s.o.Random, Log: s.log, Route: routes{s}.Route, Country: s.country}
	if s.client != nil {
		o.Hubs = s.client
		o.Alert = func(peer clearbox.ServerName, kind federation.Alert) {
			s.alert(peer, kind)
		}
	}
	s.groups = groups.New(s.store, s.directory, s.delivery, c.Server.Name, o)
}

// buildReports makes what takes reports about people here, and with federation
// hands on those about people of other servers.
func (s *Server) buildReports(name clearbox.ServerName) {
	o := reports.Options{Now: s.o.Now, Admit: s.disk.admit}
	if s.client != nil {
		o.Peers = s.client
	}
	s.reports = reports.New(s.store, name, o)
}

// country is where a server is: of this one as configured, of a peer as agreed
// with its operator, or as its document says.
func (s *Server) country(server clearbox.ServerName) string {
	c := s.conf.get()
	if server == c.Server.Name {
		return c.Organisation.Country
	}
	if s.table != nil {
		if p, known := s.table.Stored(server); known && p.Country != "" {
			return p.Country
		}
	}
	_, country := s.organisation(server)
	return country
}

// rosters tells delivery who is in a group. The router is built before the groups
// and asks nothing before.
type rosters struct{ s *Server }

func (r rosters) Roster(ctx context.Context, group clearbox.GroupID) (delivery.Roster, error) {
	return r.s.groups.Roster(ctx, group)
}
