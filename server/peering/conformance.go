package peering

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/conformance"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

// Conformance asks an active peer whether it keeps the protocol. Checks that
// fail are no error. Nothing is changed at the peer; here a newer document of
// it may be stored.
func (s *Service) Conformance(ctx context.Context, server clearbox.ServerName) (wire.AdminConformance, error) {
	report := wire.AdminConformance{Server: server, Checks: []wire.AdminConformanceCheck{}}
	peer, err := s.table.Peer(ctx, server)
	if err != nil || peer.State == federation.PeerRemoved {
		return report, storage.ErrNotFound
	}
	if peer.State != federation.PeerActive {
		return report, clearbox.Errorf(clearbox.CodeConflict, "the peering is %s; only an active peer is asked", peer.State)
	}
	doc, err := s.client.FetchDocument(ctx, server)
	if err != nil {
		return report, err
	}
	version, err := federation.Common(s.self.Protocol(), doc.Protocol)
	if err != nil {
		return report, err
	}
	target := peer.Target()
	base, err := s.o.Prober.Endpoint(ctx, target)
	if err != nil {
		return report, err
	}
	greeting, err := s.client.Greeting(ctx, server)
	if err != nil {
		return report, err
	}
	_, other, err := ed25519.GenerateKey(s.o.Random)
	if err != nil {
		return report, err
	}
	r := &conformance.Runner{
		Maker: conformance.Maker{
			Origin: s.self.Server(), Destination: server, Base: base, Version: version,
			Key: s.self.SigningKey(), Other: federation.SigningKey{Private: other}, Random: s.o.Random,
		},
		Document: doc, Greeting: greeting,
		Do:  func(req *http.Request) (*http.Response, error) { return s.client.Send(target, req) },
		Now: func() time.Time { return s.o.Now().Add(peer.ClockOffset) },
	}
	report.OK = true
	for _, c := range r.Run(ctx) {
		report.OK = report.OK && c.OK
		report.Checks = append(report.Checks, wire.AdminConformanceCheck{Name: c.Name, OK: c.OK, Want: c.Want, Got: c.Got, Took: c.Took.Milliseconds()})
	}
	return report, ctx.Err()
}
