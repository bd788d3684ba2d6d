package core

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// The archive at the homeserver is what a person without any device gets back with
// the recovery key. Every device keeps a chain of items there: containers with the
// records that changed, each with the hash of the one before. Beside it stands its
// newest account item: the account's keys and how long the chain is. See
// docs/devices.md.
const (
	keyArchive      = "archive/keys"
	keyArchiveState = "archive/state"
	keyArchiveMark  = "count/archive"
	prefixDirty     = "archive/dirty/" // records that the archive does not have as they are

	itemAccount = "k_" // ids at the server: k_<32 hex>, a_<chain>_<16 hex>
	itemChain   = "a_"

	itemBytes  = 96 << 10 // of records in one item; wire.MaxHistoryItem has room for the rest
	checkPages = 4        // of the newest items, in which the head of the own chain must be
	checkItems = 16

	chainMost = 1000 // items, after which a chain begins anew with what is there then
	dropItems = 100  // ids in one request that deletes
)

// archiveKeys are the secrets that the recovery key gives. The key itself is not
// kept.
type archiveKeys struct {
	Archive []byte          `cbor:"1,keyasint"`
	Account []byte          `cbor:"2,keyasint"`
	Made    clearbox.Millis `cbor:"3,keyasint"`
}

func keysFrom(k vault.RecoveryKey, made clearbox.Millis) *archiveKeys {
	archive, account := k.Derive(vault.PurposeArchive), k.Derive(vault.PurposeAccount)
	return &archiveKeys{archive[:], account[:], made}
}

// adopt makes the vault archive under k from now on, in a new chain.
func (k *archiveKeys) adopt(tx Tx) error {
	if k == nil {
		return nil
	}
	return errors.Join(tx.Delete(keyArchiveState), tx.Delete(keyExposed), save(quiet(tx), keyArchive, k))
}

// archiveState is how far the own chain is.
type archiveState struct {
	Chain   []byte          `cbor:"1,keyasint"` // 16 random bytes
	Next    uint64          `cbor:"2,keyasint"` // items in it
	Head    []byte          `cbor:"3,keyasint,omitempty"`
	Account string          `cbor:"4,keyasint,omitempty"` // id of the newest account item
	At      clearbox.Millis `cbor:"5,keyasint,omitempty"` // when everything was there last
	Problem clearbox.Code   `cbor:"6,keyasint,omitempty"` // why not everything is
	// Lost tells that the server once did not have what it had taken.
	Lost bool   `cbor:"7,keyasint,omitempty"`
	List []byte `cbor:"8,keyasint,omitempty"` // of devices, in the newest account item
	// Old is a chain that this one takes the place of, with OldNext items, to be
	// deleted when all is in this one.
	Old     []byte `cbor:"9,keyasint,omitempty"`
	OldNext uint64 `cbor:"10,keyasint,omitempty"`
}

// itemHead is the first frame of an item of a chain.
type itemHead struct {
	Chain  []byte            `cbor:"1,keyasint"`
	Index  uint64            `cbor:"2,keyasint"`
	Before []byte            `cbor:"3,keyasint,omitempty"` // SHA-256 of the item before
	Device clearbox.DeviceID `cbor:"4,keyasint"`
	At     clearbox.Millis   `cbor:"5,keyasint"`
}

// accountItem is the only frame of an account item.
type accountItem struct {
	User     clearbox.UserID   `cbor:"1,keyasint"`
	Handle   clearbox.Handle   `cbor:"2,keyasint"`
	Identity []byte            `cbor:"3,keyasint"`
	Root     []byte            `cbor:"4,keyasint"`
	List     []byte            `cbor:"5,keyasint"`
	Token    []byte            `cbor:"6,keyasint,omitempty"`
	Device   clearbox.DeviceID `cbor:"7,keyasint"` // whose chain this is about
	Chain    []byte            `cbor:"8,keyasint"`
	Next     uint64            `cbor:"9,keyasint"`
	Head     []byte            `cbor:"10,keyasint,omitempty"`
	Order    uint64            `cbor:"11,keyasint"`
	At       clearbox.Millis   `cbor:"12,keyasint"`
	Coming   [][]byte          `cbor:"13,keyasint,omitempty"` // identities that are to be the account's
}

func chainItem(chain []byte, index uint64) string {
	return fmt.Sprintf("%s%s_%016x", itemChain, hex.EncodeToString(chain), index)
}

// itemContext binds an item to its account and its place.
func itemContext(user clearbox.UserID, id string) []byte {
	return []byte("clearbox archive\x00" + user.String() + "\x00" + id)
}

// markDirty notes records that the archive lacks, if there is one.
func markDirty(tx Tx, keys []string) error {
	on, err := optional(tx.Get(keyArchive))
	if err != nil || on == nil {
		return err
	}
	for _, key := range keys {
		if !isCarried(key) {
			continue
		}
		n, err := count(tx, keyArchiveMark)
		if err != nil {
			return err
		}
		if err := errors.Join(setCount(tx, keyArchiveMark, n+1), setCount(tx, prefixDirty+key, n+1)); err != nil {
			return err
		}
	}
	return nil
}

// Backup says whether the person's history would survive the loss of all devices.
type Backup struct {
	On      bool            // there is a recovery key
	At      clearbox.Millis // when everything was at the server last; 0 if never
	Pending int             // records that are not there as they are here
	Problem clearbox.Code   // why, if it is not a matter of moments
	Lost    bool            // the server did not have what it had taken: all was uploaded anew
	Exposed bool            // a removed device knows the secrets: only a new recovery key ends that
}

// Backup gives the present state.
func (b *Brain) Backup(ctx context.Context) (out Backup, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = Backup{}
		k, err := load[archiveKeys](r, keyArchive)
		if err != nil || k == nil {
			return err
		}
		out.On = true
		exposed, err := optional(r.Get(keyExposed))
		if err != nil {
			return err
		}
		out.Exposed = exposed != nil
		dirty, err := r.List(Range{Prefix: prefixDirty})
		if err != nil {
			return err
		}
		out.Pending = len(dirty)
		st, err := load[archiveState](r, keyArchiveState)
		if err != nil || st == nil {
			return err
		}
		out.At, out.Problem, out.Lost = st.At, st.Problem, st.Lost
		return nil
	})
	return out, err
}

// SetUpRecovery makes a recovery key and begins the archive anew under it; what was
// archived under another key is deleted. It consents to the archive. show is given
// the key's text, once: only when it returns nil, which it should when the person
// has written it down, does anything change.
func (b *Brain) SetUpRecovery(ctx context.Context, show func(text string) error) error {
	if _, err := b.me(); err != nil {
		return err
	}
	key, err := vault.NewRecoveryKey(b.opts.Random)
	if err != nil {
		return err
	}
	notice, err := b.Notice(ctx)
	if err != nil {
		return err
	}
	if err := show(key.Text()); err != nil {
		return err
	}
	consent := wire.ConsentGrant{Notice: wire.NoticeAck{Version: notice.Version, Hash: notice.Hash, Language: notice.Language}}
	if err := b.call(ctx, "PUT", "/me/consents/history_archive", consent, nil); err != nil {
		return err
	}
	if err := b.call(ctx, "DELETE", "/messages/history?all=true", nil, nil); err != nil {
		return err
	}
	k := keysFrom(key, b.now())
	err = b.vault.Update(ctx, func(tx Tx) error { return errors.Join(k.adopt(tx), b.tellArchive(tx, k)) })
	if err != nil {
		return err
	}
	wake(b.queueWake)
	b.changed()
	return b.BackUp(ctx)
}

// tellArchive hands the archive's secrets to own other devices.
func (b *Brain) tellArchive(tx Tx, k *archiveKeys) error {
	s, err := b.me()
	if err != nil || len(s.others()) == 0 {
		return err
	}
	_, err = b.enqueueSync(quiet(tx), s, &Sync{Archive: k})
	return err
}

// StopRecovery deletes the archive at the server, withdraws the consent, and
// forgets the secrets here. Other devices stop when they hear of it.
func (b *Brain) StopRecovery(ctx context.Context) error {
	if err := b.call(ctx, "DELETE", "/messages/history?all=true", nil, nil); err != nil {
		return err
	}
	if err := b.call(ctx, "DELETE", "/me/consents/history_archive", nil, nil); err != nil {
		return err
	}
	err := b.vault.Update(ctx, func(tx Tx) error {
		dirty, err := tx.List(Range{Prefix: prefixDirty})
		for _, e := range dirty {
			err = errors.Join(err, tx.Delete(e.Key))
		}
		return errors.Join(err, tx.Delete(keyArchive), tx.Delete(keyArchiveState), tx.Delete(keyExposed))
	})
	b.changed()
	return err
}

// BackUp brings the archive up to date, as Run does every minute. Where it cannot
// go on, Backup says why, and so does the error.
func (b *Brain) BackUp(ctx context.Context) error {
	b.archiveMu.Lock()
	defer b.archiveMu.Unlock()
	s, err := b.me()
	if err != nil {
		return err
	}
	k, st, err := b.beginBackup(ctx)
	if err != nil || k == nil {
		return err
	}
	if err = b.backUp(ctx, s, k, st); err == nil || ctx.Err() != nil {
		return err
	}
	code := clearbox.CodeOf(err)
	if passing(code) || lasting(err) {
		return err
	}
	note := b.vault.Update(ctx, func(tx Tx) error {
		now, err := load[archiveState](tx, keyArchiveState)
		if err != nil || now == nil {
			return err
		}
		now.Problem = code
		return save(tx, keyArchiveState, now)
	})
	b.changed()
	return errors.Join(err, note)
}

// beginBackup gives secrets and state; nil secrets where there is no archive. A new
// chain begins with everything.
func (b *Brain) beginBackup(ctx context.Context) (k *archiveKeys, st *archiveState, err error) {
	err = b.vault.Update(ctx, func(tx Tx) error {
		if k, err = load[archiveKeys](tx, keyArchive); err != nil || k == nil {
			return err
		}
		if st, err = load[archiveState](tx, keyArchiveState); err != nil || st != nil {
			return err
		}
		st, err = b.newChain(tx, nil)
		return err
	})
	return k, st, err
}

// newChain begins with everything, in place of the chain of was, if any.
func (b *Brain) newChain(tx Tx, was *archiveState) (*archiveState, error) {
	st := &archiveState{Chain: make([]byte, 16)}
	if was != nil {
		st.Account, st.At, st.Lost, st.Old, st.OldNext = was.Account, was.At, was.Lost, was.Chain, was.Next
	}
	if _, err := io.ReadFull(b.opts.Random, st.Chain); err != nil {
		return nil, err
	}
	for _, prefix := range carried {
		entries, err := tx.List(Range{Prefix: prefix})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := markDirty(tx, []string{e.Key}); err != nil {
				return nil, err
			}
		}
	}
	return st, save(tx, keyArchiveState, st)
}
