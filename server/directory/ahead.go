package directory

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/storage"
)

// Keys of people elsewhere are fetched ahead, without one-time keys, so that a
// session begins while their server is away (federation.md, 11). What is kept
// may be out of date: a device that dropped the keys, or an account with another
// identity, cannot read the first message then, and says so to its sender.

const (
	aheadEvery = 3 * 24 * time.Hour  // between two fetches, and a quarter of it more or less
	aheadAgain = time.Hour           // after one that failed, likewise
	aheadUse   = 30 * 24 * time.Hour // they are fetched for this long after somebody wanted them
	aheadAge   = 30 * 24 * time.Hour // older ones are not given
	aheadAtOne = 4                   // people whose keys are fetched in one minute
	aheadNote  = 24 * time.Hour      // the use is noted once in this time
)

// jitter gives d times 0.75 to 1.25. Randomness that fails costs the jitter.
func (s *Service) jitter(d time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(s.o.Random, b[:]); err != nil {
		return d
	}
	return d*3/4 + time.Duration(binary.BigEndian.Uint64(b[:])%uint64(d/2))
}

func (s *Service) dueIn(now clearbox.Millis, d time.Duration) clearbox.Millis {
	return now + clearbox.Millis(s.jitter(d).Milliseconds())
}

// wantAhead notes that somebody here writes to user. It never fails a claim.
func (s *Service) wantAhead(ctx context.Context, user clearbox.UserID) {
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		k, err := tx.KeysAhead(user)
		if err == nil && tx.Now()-k.Used >= clearbox.Millis(aheadNote.Milliseconds()) {
			err = storage.ErrNotFound
		}
		return err
	})
	if !errors.Is(err, storage.ErrNotFound) {
		return // noted, or the store fails: the next claim tries again
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error { return tx.WantKeysAhead(user, s.dueIn(tx.Now(), time.Minute)) })
	if err != nil {
		s.o.Log.Warn("keys are not fetched ahead", "peer", string(user.Server), "code", clearbox.CodeOf(err))
	}
}

// ahead gives what was fetched ahead for the devices that are wanted and still
// there; nothing when there is nothing that can be used.
func (s *Service) ahead(ctx context.Context, user clearbox.UserID, list *keys.DeviceList, account *Account, devices []clearbox.DeviceID) []Bundle {
	var k storage.KeysAhead
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		k, err = tx.KeysAhead(user)
		return err
	})
	if err != nil || len(k.Bundles) == 0 || s.o.Now().Sub(time.UnixMilli(int64(k.Fetched))) > aheadAge {
		return nil
	}
	var all []Bundle
	if err := cbor.Unmarshal(k.Bundles, &all); err != nil || checkBundles(all, list) != nil {
		return nil // of another identity by now
	}
	active := make(map[clearbox.DeviceID]uint16)
	for _, e := range list.Active() {
		if !account.withdrawn(e.ID) {
			active[clearbox.DeviceID(e.ID)] = e.Registration
		}
	}
	c := claim{devices: devices}
	var out []Bundle
	for _, b := range all {
		if registration, ok := active[b.Device]; ok && registration == b.Registration && c.wants(b.Device) {
			out = append(out, b)
		}
	}
	return out
}

// fetchAhead fetches the keys that are due, few at a time: a peer must not see
// all of them asked for in one moment. One that is away is asked once in
// aheadAgain, however many people of it are due, so that the others get their
// turn.
func (s *Service) fetchAhead(ctx context.Context) {
	var due []clearbox.UserID
	err := s.store.View(ctx, func(tx *storage.Tx) (err error) {
		due, err = tx.DueKeysAhead(aheadAtOne)
		return err
	})
	away := map[clearbox.ServerName]bool{}
	for _, u := range due {
		if err == nil && !away[u.Server] {
			away[u.Server], err = s.fetchOne(ctx, u)
		}
	}
	if err != nil && ctx.Err() == nil {
		s.o.Log.Warn("keys are not fetched ahead", "code", clearbox.CodeOf(err))
	}
}

// fetchOne asks for one person's keys, without a token: nobody's one-time keys
// are spent. It tells whether their server is away. An error is of the store.
func (s *Service) fetchOne(ctx context.Context, user clearbox.UserID) (away bool, err error) {
	bundles, away, err := s.askAhead(ctx, user)
	gone := clearbox.CodeOf(err) == clearbox.CodeNotFound || clearbox.CodeOf(err) == clearbox.CodeRecipientUnavailable
	var raw []byte
	if err == nil {
		if raw, err = cbor.Marshal(bundles); err != nil {
			return false, err
		}
	}
	return away, s.store.Update(ctx, func(tx *storage.Tx) error {
		var change error
		switch {
		case gone:
			change = tx.DeleteKeysAhead(user)
		case err == nil:
			change = tx.PutKeysAhead(user, raw, s.dueIn(tx.Now(), aheadEvery))
		case away:
			due := s.dueIn(tx.Now(), aheadAgain)
			if change = tx.PostponeServerAhead(user.Server, due); change == nil {
				change = tx.PostponeKeysAhead(user, due+1) // somebody else is asked about first then
			}
		default:
			change = tx.PostponeKeysAhead(user, s.dueIn(tx.Now(), aheadAgain))
		}
		if errors.Is(change, storage.ErrNotFound) {
			return nil // forgotten meanwhile
		}
		return change
	})
}

// askAhead asks for one person's keys; away says that nobody answered.
func (s *Service) askAhead(ctx context.Context, user clearbox.UserID) (bundles []Bundle, away bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.RemoteTimeout)
	defer cancel()
	var id [16]byte
	if _, err := io.ReadFull(s.o.Random, id[:]); err != nil {
		return nil, false, fmt.Errorf("draw a claim's id: %w", err)
	}
	claimID := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
	if bundles, err = s.o.Remote.Claim(ctx, user, claimID, nil, nil); err != nil {
		return nil, clearbox.CodeOf(err) == clearbox.CodePeerUnreachable, err
	}
	account, err := s.remoteByID(ctx, user)
	if err != nil {
		return nil, false, err
	}
	list, err := s.lists.read(account.DeviceList, user)
	if err != nil {
		return nil, false, fmt.Errorf("a cached device list: %w", err)
	}
	if err := checkBundles(bundles, list); err != nil {
		return nil, false, err
	}
	for i := range bundles {
		bundles[i].OneTime = nil // an older peer gives one all the same
	}
	return bundles, false, nil
}
