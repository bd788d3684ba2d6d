package memvault

import (
	"context"
	"sync"

	"github.com/clearbox-im/clearbox/clients/core"
)

// Vault is a core.Vault that lasts as long as the value does. Its zero value
// is empty and ready. Safe for concurrent use.
type Vault struct {
	mu    sync.RWMutex // guards image; held for writing by the one Update that runs
	image Image
}

var _ core.Vault = (*Vault)(nil)

// View implements core.Vault.
func (v *Vault) View(ctx context.Context, fn func(core.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return fn(NewTx(&v.image))
}

// Update implements core.Vault.
func (v *Vault) Update(ctx context.Context, fn func(core.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	tx := NewTx(&v.image)
	if err := fn(tx); err != nil {
		return err
	}
	v.image.Apply(tx.Ops())
	return nil
}

// Forget implements core.Vault: nothing older than the present is kept anyway.
func (v *Vault) Forget(ctx context.Context) error { return ctx.Err() }

// Clone copies the present state, as a snapshot of a disk would.
func (v *Vault) Clone() *Vault {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := &Vault{}
	v.image.Ascend(func(e core.Entry) bool {
		out.image.Put(e.Key, e.Value)
		return true
	})
	return out
}
