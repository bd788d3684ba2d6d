package delivery

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// people remembers who has which devices, so that payloads can be sealed
// outside of the writer. What it says about local people is compared with the
// truth inside of each update, so it may be old but never wrong in effect.
type people struct {
	mu     sync.RWMutex // guards the maps; entries are replaced, never changed
	local  map[clearbox.UID]storage.Recipient
	remote map[clearbox.UserID]directory.Recipient
}

const maxPeople = 50_000 // entries a map; reaching it empties the map

// keepLocal remembers a local account, or forgets it when it is not active:
// what is remembered may be written to.
func (p *people) keepLocal(uid clearbox.UID, r storage.Recipient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.State != storage.UserActive {
		delete(p.local, uid)
		return
	}
	if len(p.local) >= maxPeople {
		clear(p.local)
	}
	p.local[uid] = r
}

func (p *people) keepRemote(u clearbox.UserID, r directory.Recipient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.remote) >= maxPeople {
		clear(p.remote)
	}
	p.remote[u] = r
}

func (p *people) forgetRemote(u clearbox.UserID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.remote, u)
}

// local gives a local account. fresh reads it even when it is remembered.
// It does not tell unknown, banned and erased apart.
func (r *Router) local(ctx context.Context, uid clearbox.UID, fresh bool) (storage.Recipient, error) {
	if !fresh {
		r.people.mu.RLock()
		got, ok := r.people.local[uid]
		r.people.mu.RUnlock()
		if ok {
			return got, nil
		}
	}
	var got storage.Recipient
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		got, err = tx.Recipient(uid)
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return storage.Recipient{}, err
	}
	r.people.keepLocal(uid, got)
	if got.State != storage.UserActive { // zero when there is nobody
		return storage.Recipient{}, errUnavailable()
	}
	return got, nil
}

// remote gives the cached, versioned device list of a person elsewhere.
func (r *Router) remote(ctx context.Context, u clearbox.UserID, fresh bool) (directory.Recipient, error) {
	if !fresh {
		r.people.mu.RLock()
		got, ok := r.people.remote[u]
		r.people.mu.RUnlock()
		if ok {
			return got, nil
		}
	}
	var got directory.Recipient
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		got, err = r.directory.Current(tx, u)
		return err
	})
	if errors.Is(err, directory.ErrNotCached) {
		// The brain is told that all it knows is stale: it looks the person up, which caches them, and tries again.
		return directory.Recipient{User: u}, nil
	}
	if err != nil {
		return directory.Recipient{}, err
	}
	r.people.keepRemote(u, got)
	return got, nil
}

func errUnavailable() error {
	return clearbox.Errorf(clearbox.CodeRecipientUnavailable, "this person cannot be reached here")
}

// compare checks the devices of a submission against the current ones. except
// is the sending device, which does not write to itself.
func compare(u clearbox.UserID, version int64, current []clearbox.DeviceRef, to []Outgoing) error {
	var stale clearbox.StaleDevicesError
	for _, d := range current {
		i := slices.IndexFunc(to, func(o Outgoing) bool { return o.Device == d.ID })
		if i < 0 || to[i].Registration != d.Registration {
			stale.Missing = append(stale.Missing, d)
		}
	}
	for _, o := range to {
		d := clearbox.DeviceRef{ID: o.Device, Registration: o.Registration}
		if !slices.Contains(current, d) {
			stale.Extra = append(stale.Extra, d)
		}
	}
	if len(stale.Missing) == 0 && len(stale.Extra) == 0 {
		return nil
	}
	stale.User, stale.Version = u, version
	return &stale
}

func localRefs(r storage.Recipient, except clearbox.DeviceID) []clearbox.DeviceRef {
	out := make([]clearbox.DeviceRef, 0, len(r.Devices))
	for _, d := range r.Devices {
		if d.ID != except {
			out = append(out, clearbox.DeviceRef{ID: d.ID, Registration: d.Registration})
		}
	}
	return out
}

func remoteRefs(r directory.Recipient) []clearbox.DeviceRef {
	out := make([]clearbox.DeviceRef, 0, len(r.Devices))
	for _, d := range r.Devices {
		out = append(out, clearbox.DeviceRef{ID: d.ID, Registration: d.Registration})
	}
	return out
}

func sameDevices(a, b storage.Recipient) bool {
	return a.No == b.No && a.Key == b.Key && a.State == b.State && slices.Equal(a.Devices, b.Devices)
}

// noteVersion refreshes a remote person's device list when that person's server
// has named a newer one than we know.
func (r *Router) noteVersion(u clearbox.UserID, version int64) {
	r.people.mu.RLock()
	known, ok := r.people.remote[u]
	r.people.mu.RUnlock()
	if version == 0 || ok && known.Version >= version {
		return
	}
	select {
	case r.refresh <- refresh{u, version}:
	default: // news of the next delivery will ask again
	}
}

type refresh struct {
	user    clearbox.UserID
	version int64
}

// refreshRemote asks peers for the lists that noteVersion found old.
func (r *Router) refreshRemote(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-r.refresh:
			if known, err := r.remote(ctx, n.user, true); err == nil && known.Version >= n.version {
				continue
			}
			if err := r.directory.RefreshRemote(ctx, n.user, n.version); err != nil {
				r.opts.Log.Debug("a device list could not be refreshed", "error", err)
			}
			r.people.forgetRemote(n.user)
		}
	}
}
