package peering

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// Repin pins the identity that the peer shows now, if the words of its
// fingerprint are those that the peer's administrator reads out. It is the way
// on when a peer has a new identity that the old one did not sign, or signed
// while this server was away. Whatever was known under the old one is forgotten.
func (s *Service) Repin(ctx context.Context, deed storage.AuditEntry, server clearbox.ServerName, words []string) error {
	p, err := s.table.Peer(ctx, server)
	if err != nil || p.State == federation.PeerRemoved {
		return storage.ErrNotFound
	}
	if p.State != federation.PeerActive && p.State != federation.PeerSuspended {
		return clearbox.Errorf(clearbox.CodeConflict, "the peering is not made yet: clearbox peer accept")
	}
	doc, err := s.client.GetDocument(ctx, p.Target())
	if err != nil {
		return err
	}
	if err := doc.Check(server, [32]byte{}, s.o.Now()); err != nil {
		return err
	}
	said := make([]string, len(words))
	for i, w := range words {
		said[i] = strings.ToLower(strings.TrimSpace(w))
	}
	if !slices.Equal(said, keys.FingerprintWords(doc.IdentityKey())) {
		return clearbox.Errorf(clearbox.CodeIdentityChanged, "%s shows an identity with other words; nothing was changed. If its administrator reads the same words again, somebody stands in between", server)
	}
	err = s.table.change(ctx, server, func(tx *storage.Tx, p *storage.Peer, known bool) error {
		if !known || p.State == storage.PeerRemoved {
			return storage.ErrNotFound
		}
		before := p.Pin
		s.table.adopt(p, doc)
		for _, kind := range []federation.Alert{federation.AlertIdentity, federation.AlertRollback, federation.AlertSplitView} {
			if err := settled(tx, server, kind); err != nil {
				return err
			}
		}
		return audit(tx, deed, server, "pin "+hex.EncodeToString(before)+" to "+hex.EncodeToString(p.Pin))
	})
	if err != nil {
		return err
	}
	s.retry(server)
	return nil
}
