package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// The limits of knocks: federation.md, 9.
const (
	knockLife       = 14 * 24 * time.Hour
	maxKnocks       = 20   // open ones of one person
	maxKnocksThere  = 3    // open ones of one person at one address, and of one stranger at one person
	maxKnocksFrom   = 20   // open ones from one server at one person
	maxKnocksToward = 200  // open ones at one person in all
	maxArrived      = 1000 // of one peer that nobody looked at yet
)

// Knock asks somebody of another server to be accepted. Whether they exist is
// not found out. The knock is open for 14 days, in which its id lets their
// answer in. The same knock again gets the first answer; the id for another
// one is clearbox.CodeConflict. With more than three open at one address, or
// twenty in all, it is CodeRateLimited.
func (r *Router) Knock(ctx context.Context, p auth.Principal, id clearbox.MessageID, to clearbox.Address) (Receipt, error) {
	switch {
	case !p.HasDevice():
		return Receipt{}, contactDevice(p)
	case id == clearbox.MessageID{}:
		return Receipt{}, field(clearbox.CodeBadRequest, "/id", "the id is missing")
	case to.Server == r.server:
		return Receipt{}, field(clearbox.CodeBadRequest, "/to", "people of this server can be written to without a knock")
	}
	receipt := Receipt{ID: id, Status: StatusAccepted}
	if err := r.peers.Route(ctx, to.Server); err != nil {
		return r.knockedBefore(ctx, p, receipt, to, err)
	}
	if err := r.opts.Admit(); err != nil {
		return Receipt{}, err
	}
	item, err := r.knockItem(ctx, p, id, to)
	if err != nil {
		return Receipt{}, err
	}
	var refused error
	err = r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		refused = nil
		receipt.AcceptedAt, err = tx.KnockMade(id, p.UserNo, to)
		switch {
		case err == nil && receipt.AcceptedAt == 0:
			refused = clearbox.Errorf(clearbox.CodeConflict, "another knock was made under this id")
			return nil
		case err == nil || !errors.Is(err, storage.ErrNotFound):
			return err
		}
		receipt.AcceptedAt = item.Accepted
		if refused, err = r.mayKnock(tx, p, to); refused != nil || err != nil {
			return err
		}
		err = tx.PutKnock(&storage.Knock{ID: id, UserNo: p.UserNo, To: to, Created: item.Accepted, Expires: item.Expires})
		if err != nil {
			return err
		}
		row := item // a copy: PutOutbox writes into it, and the update may run again
		return tx.PutOutbox(&row)
	})
	r.reaches.forget(p.User.UID)
	if err == nil {
		err = refused
	}
	if err != nil {
		return Receipt{}, err
	}
	r.opts.NudgeControl(to.Server)
	return receipt, nil
}

// knockedBefore answers a knock that cannot be made now: as before if it was
// made before.
func (r *Router) knockedBefore(ctx context.Context, p auth.Principal, receipt Receipt, to clearbox.Address, refused error) (Receipt, error) {
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		receipt.AcceptedAt, err = tx.KnockMade(receipt.ID, p.UserNo, to)
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && receipt.AcceptedAt == 0:
		return Receipt{}, refused
	case err != nil:
		return Receipt{}, err
	}
	return receipt, nil
}

func (r *Router) mayKnock(tx *storage.Tx, p auth.Principal, to clearbox.Address) (refused, err error) {
	all, there, err := tx.OpenKnocks(p.UserNo, to)
	if err != nil {
		return nil, err
	}
	items, bytes, err := tx.OutboxSize(to.Server, storage.ClassControl)
	switch {
	case err != nil:
		return nil, err
	case there >= maxKnocksThere:
		return clearbox.Errorf(clearbox.CodeRateLimited, "you have asked this person already; wait for an answer"), nil
	case all >= maxKnocks:
		return clearbox.Errorf(clearbox.CodeRateLimited, "too many of your requests are still open; wait for answers or withdraw some"), nil
	case items >= r.opts.PeerQueueItems || bytes >= r.opts.PeerQueueBytes:
		return clearbox.Errorf(clearbox.CodePeerBacklogFull, "the other organisation cannot be reached and its queue is full; try again later"), nil
	}
	return nil, nil
}

// knockItem is the knock on its way. Its row has an id of its own, since the
// knock's is a secret between the two servers.
func (r *Router) knockItem(ctx context.Context, p auth.Principal, id clearbox.MessageID, to clearbox.Address) (storage.OutboxItem, error) {
	var u storage.User
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		u, err = tx.UserByNo(p.UserNo)
		return err
	})
	if err != nil {
		return storage.OutboxItem{}, err
	}
	row, err := clearbox.NewMessageID(r.opts.Random)
	if err != nil {
		return storage.OutboxItem{}, err
	}
	at := r.now()
	it := federation.Item{ID: id, AcceptedAt: at, Knock: &federation.Knock{From: p.User, Handle: u.Handle, To: to.Handle}}
	sealed, err := r.sealItem(p.Key, row, &it)
	return storage.OutboxItem{
		Peer: to.Server, Class: storage.ClassControl, SenderNo: p.UserNo, SenderKey: p.Key, Sealed: sealed, MessageID: row,
		Accepted: at, Expires: after(at, knockLife), HoldKey: r.keys.Index("outbox.recipient", []byte(to.String())),
		Delayed: true, // of a knock nobody is told that it is late
	}, err
}

// AnswerKnock ends a knock, one of the person's own or one that came; block
// keeps who knocked from doing so again. The other side learns nothing, and an
// unknown id is no error.
func (r *Router) AnswerKnock(ctx context.Context, p auth.Principal, id clearbox.MessageID, block bool) error {
	if err := contactDevice(p); err != nil {
		return err
	}
	err := r.store.Update(ctx, func(tx *storage.Tx) error {
		stranger, err := tx.CloseKnock(p.UserNo, id)
		if err != nil || !block || stranger.IsZero() {
			return err
		}
		return tx.Block(p.UserNo, stranger)
	})
	r.reaches.forget(p.User.UID)
	return err
}

// Knock is somebody's wish to be accepted, in a mailbox.
type Knock struct {
	ID         clearbox.MessageID
	From       clearbox.UserID
	Handle     clearbox.Handle // theirs, as their server says
	AcceptedAt clearbox.Millis // by their server
	Controller string          // who runs their server; empty if not known
	Country    string          // in which country
}

// putArrived keeps a peer's knock until announce looks at it. Nothing here
// depends on whom it is for, so that the peer's answer tells nothing of it.
func (op *accept) putArrived(tx *storage.Tx, it *federation.Item, seal []byte) (federation.Verdict, error) {
	n, err := tx.CountArrivedKnocks(op.peer)
	if err != nil {
		return federation.Verdict{}, err
	}
	if n >= maxArrived {
		return federation.Verdict{Code: federation.VerdictDeferred, Reason: clearbox.CodeRateLimited, RetryAfter: 30 * time.Second}, nil
	}
	payload, err := encodeArrived(it)
	if err != nil {
		return federation.Verdict{}, err
	}
	op.knocks = true
	return federation.Verdict{Code: federation.VerdictOK}, tx.PutArrivedKnock(&storage.ArrivedKnock{Peer: op.peer, Payload: payload}, seal)
}

// announce tells people of the knocks that arrived, some time after their
// servers have their answers, until ctx ends. The time is random, so that a peer
// that measures how long its next requests take does not see the work either.
func (r *Router) announce(ctx context.Context) {
	tick := time.NewTicker(r.opts.SweepEvery) // a lost wake costs time only
	defer tick.Stop()
	for {
		n, err := r.announceSome(ctx)
		if err != nil && ctx.Err() == nil {
			r.opts.Log.Warn("knocks were not announced; it is tried again", "error", err)
		}
		if err == nil && n == announceLimit {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			continue
		case <-r.knocked:
		}
		t := time.NewTimer(r.announceDelay())
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

const (
	announceLimit = 100 // knocks in one update
	announceLeast = 250 * time.Millisecond
	announceMost  = time.Second
)

func (r *Router) announceDelay() time.Duration {
	var b [4]byte
	if _, err := io.ReadFull(r.opts.Random, b[:]); err != nil {
		return announceMost
	}
	const span = announceMost - announceLeast
	return announceLeast + time.Duration(uint64(binary.BigEndian.Uint32(b[:]))*uint64(span)>>32)
}

// announceSome looks at the oldest knocks: for whom each is, whether they want
// it, and whether it came before. What nobody wants is forgotten.
func (r *Router) announceSome(ctx context.Context) (int, error) {
	var arrived []storage.ArrivedKnock
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		arrived, err = tx.ArrivedKnocks(announceLimit)
		return err
	})
	if err != nil || len(arrived) == 0 {
		return 0, err
	}
	knocks := make([]*Knock, len(arrived)) // nil: damaged
	handles := make([]clearbox.Handle, len(arrived))
	for i := range arrived {
		if arrived[i].Broken != nil {
			if err := r.givenUp(ctx, &arrived[i]); err != nil {
				return 0, err
			}
			continue
		}
		if knocks[i], handles[i], err = decodeArrived(arrived[i].Payload); err == nil {
			knocks[i].Controller, knocks[i].Country = r.opts.Organisation(arrived[i].Peer)
		}
	}
	var posts []posted
	err = r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		posts = posts[:0]
		for i := range arrived {
			if knocks[i] != nil {
				if posts, err = r.show(tx, arrived[i].Peer, knocks[i], handles[i], posts); err != nil {
					return err
				}
			}
			if err := tx.DeleteArrivedKnock(arrived[i].No); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, p := range posts {
		r.mailboxes.post(p.deviceNo, p.delivery)
	}
	return len(arrived), nil
}

// givenUp tells with nil that a knock which does not open never will; the error
// is why it is too early to say so.
func (r *Router) givenUp(ctx context.Context, k *storage.ArrivedKnock) error {
	again := func() error {
		var all []storage.ArrivedKnock
		err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
			all, err = tx.ArrivedKnocks(announceLimit)
			return err
		})
		for i := range all {
			if all[i].No == k.No {
				err = all[i].Broken
			}
		}
		return err
	}
	if !r.damaged(storage.ServerKey, k.Broken, again) {
		return fmt.Errorf("open a knock: %w", k.Broken)
	}
	r.opts.Log.Error("a knock does not open and is forgotten", "peer", string(k.Peer), "error", k.Broken)
	return nil
}

// show puts a knock into the mailboxes of the owner of the handle.
func (r *Router) show(tx *storage.Tx, peer clearbox.ServerName, k *Knock, to clearbox.Handle, posts []posted) ([]posted, error) {
	uid, err := tx.UIDByHandle(to)
	if errors.Is(err, storage.ErrNotFound) {
		return posts, nil
	}
	if err != nil {
		return posts, err
	}
	known, err := tx.Recipient(uid)
	if err != nil || known.State != storage.UserActive {
		return posts, err
	}
	wanted, err := r.wanted(tx, known.No, peer, k)
	if err != nil || !wanted {
		return posts, err
	}
	err = tx.PutReceivedKnock(&storage.ReceivedKnock{ID: k.ID, UserNo: known.No, Peer: peer, Stranger: k.From, Expires: after(tx.Now(), knockLife)})
	if errors.Is(err, storage.ErrExists) {
		return posts, nil
	}
	if err != nil {
		return posts, err
	}
	m, err := r.sealKnock(known.Key, k, tx.Now())
	if errors.Is(err, storage.ErrShredded) {
		return posts, nil
	}
	if err != nil {
		return posts, err
	}
	for _, d := range known.Devices { // ascending
		seq, err := tx.PutNotice(d.No, m.sealed, m.expires) // few, and small: also into a full mailbox
		if err != nil {
			return posts, err
		}
		posts = append(posts, posted{d.No, Delivery{Seq: seq, Knock: k}})
	}
	return posts, nil
}

func (r *Router) wanted(tx *storage.Tx, userNo int64, peer clearbox.ServerName, k *Knock) (bool, error) {
	blocked, err := tx.Blocked(userNo, k.From)
	if err != nil || blocked {
		return false, err
	}
	all, from, theirs, err := tx.ReceivedKnocks(userNo, peer, k.From)
	return all < maxKnocksToward && from < maxKnocksFrom && theirs < maxKnocksThere, err
}

// sealKnock prepares the mailbox entry of all devices. It stands under a random
// id: the knock's own is a secret.
func (r *Router) sealKnock(key storage.KeyID, k *Knock, at clearbox.Millis) (mail, error) {
	var id clearbox.MessageID
	if _, err := io.ReadFull(r.opts.Random, id[:]); err != nil {
		return mail{}, err
	}
	sealed, err := storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(id, 0), appendKnock(nil, k))
	if err != nil {
		return mail{}, err
	}
	sealed.Wrapped = append(id[:len(id):len(id)], sealed.Wrapped...)
	return mail{sealed: sealed, expires: after(at, knockLife)}, nil
}
