package peering

import (
	"context"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Known is what a client may know about a server, this one included. What its
// signed document says is told as long as the document is kept, also of a
// server that is suspended, away or no peer any more: mail of its people may be
// read long after it came.
func (s *Service) Known(_ context.Context, server clearbox.ServerName) (wire.ServerInfo, error) {
	if server == s.self.Server() {
		info := wire.ServerInfo{Server: server, State: wire.ServerOwn}
		describe(&info, s.self.Document())
		return info, nil
	}
	info := wire.ServerInfo{Server: server, State: wire.ServerNotPeered}
	p, ok := s.table.Stored(server)
	if !ok || p.State == storage.PeerInvited || p.State == storage.PeerPending {
		return info, nil
	}
	info.State, info.Since = standing(&p)
	info.Here = p.State == storage.PeerSuspended
	if _, blocked := s.table.Blocked(server); blocked || !s.table.serves(&p) {
		info.State, info.Since, info.Here = wire.ServerNotPeered, 0, false
	}
	info.Country = p.Country
	if len(p.Document) == 0 {
		return info, nil
	}
	doc, err := federation.ParseDocument(p.Document)
	if err != nil {
		return info, nil // of another version of this program; the next document is read
	}
	describe(&info, doc)
	return info, nil
}

// standing is how far one can write to a peer, and since when where that is
// known.
func standing(p *storage.Peer) (wire.ServerState, clearbox.Millis) {
	switch {
	case p.State == storage.PeerRemoved, p.State == storage.PeerLeaving:
		return wire.ServerNotPeered, p.StateSince
	case p.State == storage.PeerSuspended:
		return wire.ServerSuspended, p.StateSince
	case p.LastError == clearbox.CodePeerBlocked:
		return wire.ServerSuspended, p.Since
	case p.Failures > 0 && p.Since != 0:
		return wire.ServerUnreachable, p.Since
	case p.Failures > 0:
		return wire.ServerUnreachable, p.LastSeen
	}
	return wire.ServerReachable, 0
}

// describe adds what a document says. The country that the server gives itself
// goes before the one that this server's administrator noted.
func describe(info *wire.ServerInfo, doc *federation.Document) {
	info.Controller, info.Contact = doc.Legal.Controller, doc.Legal.Contact
	if doc.Legal.Country != "" {
		info.Country = doc.Legal.Country
	}
	for _, r := range doc.Roots() {
		info.Roots = append(info.Roots, wire.SenderRoot{Key: r.Key.Bytes(), NotBefore: r.NotBefore, Expires: r.Expires})
	}
}
