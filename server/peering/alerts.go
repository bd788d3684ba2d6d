package peering

import (
	"context"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// alertsKept is how long an alert is kept after it was resolved.
const alertsKept = 365 * 24 * time.Hour

// Alert keeps for administrators what they must look at, one row for each peer
// and kind, and only for servers in the table. It is what ClientOptions.Alert of
// package federation calls.
func (t *Table) Alert(ctx context.Context, peer clearbox.ServerName, kind federation.Alert) error {
	if _, known := t.Stored(peer); !known {
		return nil
	}
	return t.store.Update(ctx, func(tx *storage.Tx) error { return tx.RaisePeerAlert(peer, string(kind)) })
}

// settled closes the alerts that a success proves to be over.
func settled(tx *storage.Tx, peer clearbox.ServerName, kind federation.Alert) error {
	_, err := tx.ResolvePeerAlerts(peer, string(kind))
	return err
}
