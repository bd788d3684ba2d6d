package peering

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

const (
	selfKey = "federation.self"
	selfAD  = "server_state|value|" + selfKey + "|" + storage.PurposeProfile
)

// SelfState keeps the server's operational keys and document in storage,
// sealed under the server's key.
type SelfState struct {
	Store  *storage.Store
	Sealer storage.Sealer
}

var _ federation.SelfState = SelfState{}

// LoadSelf opens the blob, nil when there is none.
func (s SelfState) LoadSelf(ctx context.Context) ([]byte, error) {
	var sealed []byte
	err := s.Store.View(ctx, func(tx *storage.Tx) error {
		var err error
		sealed, err = tx.ServerState(selfKey)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Sealer.Open(storage.ServerKey, storage.PurposeProfile, []byte(selfAD), sealed)
}

// SaveSelf seals the blob and stores it durably.
func (s SelfState) SaveSelf(ctx context.Context, blob []byte) error {
	sealed, err := s.Sealer.Seal(storage.ServerKey, storage.PurposeProfile, []byte(selfAD), blob)
	if err != nil {
		return err
	}
	return s.Store.Update(ctx, func(tx *storage.Tx) error { return tx.SetServerState(selfKey, sealed) })
}
