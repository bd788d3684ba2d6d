package admin

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
)

const (
	deadKept   = 14 * 24 * time.Hour // server/delivery
	dropAtOnce = 500                 // letters dropped in one update
)

// Dead lists what peers did not get, of one peer and for one reason if they are
// given, with the counts of all.
func (s *Service) Dead(ctx context.Context, a Actor, peer clearbox.ServerName, code clearbox.Code, after string, limit int) (wire.AdminDeadLetters, error) {
	page := wire.AdminDeadLetters{Counts: []wire.AdminDeadCount{}, Letters: []wire.AdminDeadLetter{}}
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return page, err
	}
	from, err := cursor(after)
	if err != nil {
		return page, err
	}
	err = s.store.View(ctx, func(tx *storage.Tx) error {
		counts, err := tx.DeadCounts()
		if err != nil {
			return err
		}
		letters, err := tx.Dead(storage.DeadPick{Peer: peer, Code: code}, from, limit)
		if err != nil {
			return err
		}
		page.Counts, page.Letters, page.Next = page.Counts[:0], page.Letters[:0], ""
		for _, c := range counts {
			page.Counts = append(page.Counts, wire.AdminDeadCount(c))
		}
		for i := range letters {
			page.Letters = append(page.Letters, deadLetter(&letters[i]))
		}
		if len(letters) == limit {
			page.Next = strconv.FormatInt(letters[limit-1].No, 10)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("list dead letters: %w", err)
	}
	return page, nil
}

func deadLetter(d *storage.DeadLetter) wire.AdminDeadLetter {
	return wire.AdminDeadLetter{
		No: d.No, Peer: d.Peer, Class: string(d.Class), Code: d.Code, Message: d.MessageID, SenderNo: d.SenderNo,
		Known: d.SenderNo != 0 && len(d.Recipient) > 0, Accepted: d.Accepted, FirstTry: d.FirstTry, LastTry: d.LastTry,
		Attempts: d.Attempts, Died: d.Died, Until: d.Died + clearbox.Millis(deadKept.Milliseconds()),
	}
}

// DeadLetter shows one.
func (s *Service) DeadLetter(ctx context.Context, a Actor, no int64) (wire.AdminDeadLetter, error) {
	if err := a.require(auth.RoleAdmin, auth.RoleDPO); err != nil {
		return wire.AdminDeadLetter{}, err
	}
	var shown wire.AdminDeadLetter
	err := s.store.View(ctx, func(tx *storage.Tx) error {
		letters, err := tx.Dead(storage.DeadPick{No: no}, 0, 1)
		if err == nil && (no == 0 || len(letters) == 0) {
			err = storage.ErrNotFound
		}
		if err != nil {
			return err
		}
		shown = deadLetter(&letters[0])
		return nil
	})
	return shown, found(err, errNoLetter)
}

// RequeueDead asks the senders of what was picked to send it again.
func (s *Service) RequeueDead(ctx context.Context, a Actor, b wire.AdminDeadPick) (wire.AdminDeadRequeued, error) {
	var done wire.AdminDeadRequeued
	if err := a.require(auth.RoleAdmin); err != nil {
		return done, err
	}
	if s.o.Requeue == nil {
		return done, clearbox.Errorf(clearbox.CodeUnavailable, "federation is closed at this server (federation.mode)")
	}
	var err error
	done.Asked, done.Left, err = s.o.Requeue(ctx, a.deed("fed.dead.requeue", b.Peer), storage.DeadPick(b))
	if clearbox.CodeOf(err) == clearbox.CodePeerBlocked {
		return done, clearbox.Wrap(clearbox.CodePeerBlocked, "nothing is sent to this peer at the moment; see `clearbox peer list`", err)
	}
	return done, found(err, errNoLetter)
}

// DropDead forgets what was picked before its time.
func (s *Service) DropDead(ctx context.Context, a Actor, b wire.AdminDeadPick) (wire.AdminDeadDropped, error) {
	var done wire.AdminDeadDropped
	if err := a.require(auth.RoleAdmin); err != nil {
		return done, err
	}
	for {
		var n int64
		err := s.store.Update(ctx, func(tx *storage.Tx) error {
			letters, err := tx.Dead(storage.DeadPick(b), 0, 1)
			if err != nil || len(letters) == 0 {
				n = 0
				return err
			}
			if n, err = tx.DropDead(storage.DeadPick(b), dropAtOnce); err != nil {
				return err
			}
			deed := a.deed("fed.dead.drop", letters[0].Peer) // whose they were is nobody's business
			deed.Detail = strconv.FormatInt(n, 10)
			return tx.Audit(deed)
		})
		if err != nil {
			return done, fmt.Errorf("drop dead letters: %w", err)
		}
		if done.Dropped += n; n < dropAtOnce {
			break
		}
	}
	if done.Dropped == 0 && b.No != 0 {
		return done, errNoLetter()
	}
	return done, nil
}

func errNoLetter() error {
	return clearbox.Errorf(clearbox.CodeNotFound, "there is no dead letter with this number; see `clearbox fed dead list`")
}
