package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/storage"
)

// People of other servers are cached as their servers describe them, after the
// list's signature and its history were checked. The cache is for speed and for
// the time when their server is away; only their own server knows the moment.

// minRefetch is the least time between two questions about one person that are
// asked because the cached answer looks old.
const minRefetch = 30 * time.Second

func (s *Service) remoteByID(ctx context.Context, user clearbox.UserID) (Account, error) {
	return s.remote(ctx, user.String(),
		func(tx *storage.Tx) (storage.RemoteUser, error) { return tx.RemoteUser(user) },
		func(ctx context.Context) (RemoteAccount, error) { return s.askDevices(ctx, user) }, s.o.RemoteFresh)
}

func (s *Service) askDevices(ctx context.Context, user clearbox.UserID) (RemoteAccount, error) {
	a, err := s.o.Remote.Devices(ctx, user)
	if err == nil && a.User != user {
		err = errRemoteAnswer("it answered for another person", nil)
	}
	return a, err
}

// errRemoteAnswer: the other server answered with something that cannot be used.
func errRemoteAnswer(why string, cause error) error {
	if cause == nil {
		cause = errors.New(why)
	}
	return clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server gave an answer that cannot be used", cause)
}

// remote gives a cached account if it is not older than fresh, else asks, and
// when nobody answers gives the cached one again.
func (s *Service) remote(ctx context.Context, name string, find func(*storage.Tx) (storage.RemoteUser, error),
	ask func(context.Context) (RemoteAccount, error), fresh time.Duration) (Account, error) {
	cached, err := s.cached(ctx, find)
	if err != nil {
		return Account{}, err
	}
	age := s.o.Now().Sub(time.UnixMilli(int64(cached.Fetched)))
	have := !cached.User.IsZero()
	if have && age < fresh {
		return remoteAccount(cached)
	}
	// The flight outlives a caller who gives up: others wait for it too.
	flight := s.flights.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.RemoteTimeout)
		defer cancel()
		answer, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		return s.accept(ctx, answer)
	})
	select {
	case r := <-flight:
		if r.Err == nil {
			return r.Val.(Account), nil
		}
		err = r.Err
	case <-ctx.Done():
		return Account{}, clearbox.Wrap(clearbox.CodeUnavailable, "the request was given up", ctx.Err())
	}
	switch code := clearbox.CodeOf(err); {
	case code == clearbox.CodeNotFound:
		return Account{}, errNobody()
	case code == clearbox.CodeIdentityChanged:
		return Account{}, err
	case have && age < s.o.RemoteStale:
		return remoteAccount(cached)
	case code == clearbox.CodeInternal:
		return Account{}, clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server cannot be reached", err)
	}
	return Account{}, err
}

// cached reads the cache; the zero value is nobody.
func (s *Service) cached(ctx context.Context, find func(*storage.Tx) (storage.RemoteUser, error)) (u storage.RemoteUser, err error) {
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		u, err = find(tx)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return storage.RemoteUser{}, nil
	}
	if err != nil {
		return storage.RemoteUser{}, fmt.Errorf("look up a remote account: %w", err)
	}
	return u, nil
}

// accept checks what another server said and caches it. A list that does not
// follow the one known is identity_changed and changes nothing; an older one is
// ignored, since its server may have restored a backup.
func (s *Service) accept(ctx context.Context, a RemoteAccount) (Account, error) {
	list, err := s.lists.read(a.DeviceList, a.User)
	if err != nil {
		return Account{}, errRemoteAnswer("", err)
	}
	if a.Address.Server != "" && a.Address.Server != a.User.Server {
		return Account{}, errRemoteAnswer("address and user id are of two servers", nil)
	}
	now := storage.RemoteUser{
		User: a.User, Handle: a.Address.Handle, DeviceList: packRemote(list, a), Version: list.Version,
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		now.Fetched = tx.Now()
		before, err := tx.RemoteUser(a.User)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err == nil {
			renewed, err := s.follow(&now, before, a, list)
			if err != nil {
				return err
			}
			if renewed {
				if err := dropAhead(tx, a.User); err != nil {
					return err
				}
			}
		}
		return tx.PutRemoteUser(&now)
	})
	if err != nil {
		return Account{}, err
	}
	return remoteAccount(now)
}

// follow compares with what is cached, and tells whether the identity is a new one.
func (s *Service) follow(now *storage.RemoteUser, before storage.RemoteUser, a RemoteAccount, list *keys.DeviceList) (renewed bool, err error) {
	if now.Handle == "" {
		now.Handle = before.Handle
	}
	old, err := remoteAccount(before)
	if err != nil {
		return false, err
	}
	known, err := s.lists.read(old.DeviceList, a.User)
	if err != nil {
		return false, fmt.Errorf("a cached device list: %w", err)
	}
	switch {
	case string(old.DeviceList) == string(a.DeviceList):
		return false, nil
	case list.Version < known.Version && known.Follows(list) == nil:
		now.DeviceList, now.Version = before.DeviceList, before.Version
		return false, nil
	}
	if err := list.Follows(known); err != nil {
		s.o.Log.Warn("remote device list refused", "peer", string(a.User.Server), "code", clearbox.CodeIdentityChanged)
		return false, clearbox.Wrap(clearbox.CodeIdentityChanged, "the keys of this person do not continue those known here", err)
	}
	return list.Identity != known.Identity, nil
}

// dropAhead has keys fetched anew that were another identity's.
func dropAhead(tx *storage.Tx, user clearbox.UserID) error {
	err := tx.PostponeKeysAhead(user, tx.Now())
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// packRemote is how a remote list is cached: the number of withdrawn devices,
// their ids, the signed list.
func packRemote(list *keys.DeviceList, a RemoteAccount) []byte {
	out := []byte{0}
	for _, e := range list.Active() {
		for _, id := range a.Withdrawn {
			if clearbox.DeviceID(e.ID) == id {
				out = append(out, e.ID)
				out[0]++
				break
			}
		}
	}
	return append(out, a.DeviceList...)
}

// remoteAccount reverses packRemote.
func remoteAccount(u storage.RemoteUser) (Account, error) {
	if len(u.DeviceList) == 0 || len(u.DeviceList) <= int(u.DeviceList[0]) {
		return Account{}, errors.New("directory: a cached device list is damaged")
	}
	n := int(u.DeviceList[0])
	a := Account{User: u.User, Address: clearbox.Address{Handle: u.Handle, Server: u.User.Server}, DeviceList: u.DeviceList[1+n:], Version: u.Version}
	for _, id := range u.DeviceList[1 : 1+n] {
		a.Withdrawn = append(a.Withdrawn, clearbox.DeviceID(id))
	}
	return a, nil
}

// currentRemote is Current from the cache.
func (s *Service) currentRemote(tx *storage.Tx, user clearbox.UserID) (Recipient, error) {
	u, err := tx.RemoteUser(user)
	if errors.Is(err, storage.ErrNotFound) {
		return Recipient{}, ErrNotCached
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("look up a remote recipient: %w", err)
	}
	a, err := remoteAccount(u)
	if err != nil {
		return Recipient{}, err
	}
	list, err := s.lists.read(a.DeviceList, user)
	if err != nil {
		return Recipient{}, fmt.Errorf("a cached device list: %w", err)
	}
	r := Recipient{User: user, Version: a.Version}
	for _, e := range list.Active() {
		if !a.withdrawn(e.ID) {
			r.Devices = append(r.Devices, Device{ID: clearbox.DeviceID(e.ID), Registration: e.Registration})
		}
	}
	return r, nil
}

func (a *Account) withdrawn(id uint8) bool {
	for _, w := range a.Withdrawn {
		if w == clearbox.DeviceID(id) {
			return true
		}
	}
	return false
}

// RefreshRemote asks for a person of another server anew if the cached list is
// older than version, as a peer's verdict may tell.
func (s *Service) RefreshRemote(ctx context.Context, user clearbox.UserID, version int64) error {
	u, err := s.cached(ctx, func(tx *storage.Tx) (storage.RemoteUser, error) { return tx.RemoteUser(user) })
	if err != nil || u.Version >= version {
		return err
	}
	return s.refetch(ctx, user)
}

// refetch asks unless it was asked a moment ago.
func (s *Service) refetch(ctx context.Context, user clearbox.UserID) error {
	_, err := s.remote(ctx, user.String(),
		func(tx *storage.Tx) (storage.RemoteUser, error) { return tx.RemoteUser(user) },
		func(ctx context.Context) (RemoteAccount, error) { return s.askDevices(ctx, user) }, minRefetch)
	return err
}

// claimRemote asks the person's server for bundles and checks them against the
// person's list. A device that is in the list and got no bundle makes the list
// look old. While the server is away, what was fetched ahead begins a session.
func (s *Service) claimRemote(ctx context.Context, id string, user clearbox.UserID, token []byte, devices []clearbox.DeviceID) ([]Bundle, error) {
	account, err := s.remoteByID(ctx, user)
	if err != nil {
		return nil, err
	}
	list, err := s.lists.read(account.DeviceList, user)
	if err != nil {
		return nil, fmt.Errorf("a cached device list: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, s.o.RemoteTimeout)
	defer cancel()
	bundles, err := s.o.Remote.Claim(asking, user, id, token, devices)
	if code := clearbox.CodeOf(err); code == clearbox.CodeInternal || code == clearbox.CodePeerUnreachable {
		if kept := s.ahead(ctx, user, list, &account, devices); len(kept) > 0 {
			return kept, nil
		}
	}
	switch {
	case clearbox.CodeOf(err) == clearbox.CodeNotFound:
		return nil, errNobody()
	case clearbox.CodeOf(err) == clearbox.CodeInternal:
		return nil, clearbox.Wrap(clearbox.CodePeerUnreachable, "the other server cannot be reached", err)
	case err != nil:
		return nil, err
	}
	if err := checkBundles(bundles, list); err != nil {
		// They may have renewed their identity since.
		newer, _, again := s.List(ctx, user, list.Version+1)
		if again != nil || newer.Identity == list.Identity {
			return nil, err
		}
		if list = newer; checkBundles(bundles, list) != nil {
			return nil, err
		}
	}
	s.wantAhead(ctx, user)
	got := make(map[clearbox.DeviceID]bool, len(bundles))
	for i := range bundles {
		got[bundles[i].Device] = true
	}
	c := claim{devices: devices}
	for _, e := range list.Active() {
		if c.wants(clearbox.DeviceID(e.ID)) && !account.withdrawn(e.ID) && !got[clearbox.DeviceID(e.ID)] {
			s.refetch(ctx, user) // for the next look; this answer stands as it is
			break
		}
	}
	return bundles, nil
}

// checkBundles holds what another server gave against the person's list.
func checkBundles(bundles []Bundle, list *keys.DeviceList) error {
	got := make(map[clearbox.DeviceID]bool, len(bundles))
	for i := range bundles {
		b := &bundles[i]
		if got[b.Device] {
			return errRemoteAnswer("a device appears twice", nil)
		}
		if err := b.Check(list.Identity); err != nil {
			return clearbox.Wrap(clearbox.CodeBadSignature, "the other server gave keys that do not verify", err)
		}
		got[b.Device] = true
	}
	return nil
}

// PeerDevices finds an account here for a peer, by the uid that nobody guesses.
// Unknown, banned and erased are not_found alike. A peer that asks too much is
// rate_limited.
func (s *Service) PeerDevices(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID) (Account, error) {
	if err := s.peerLookup(peer); err != nil {
		return Account{}, err
	}
	return s.local(ctx, func(tx *storage.Tx) (storage.User, error) { return tx.UserByUID(uid) })
}

func (s *Service) peerLookup(peer clearbox.ServerName) error {
	if s.lookups == nil {
		return nil
	}
	return s.lookups.Take(s.o.Now(), "peer|"+string(peer))
}
