package delivery

import (
	"context"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

// sweepMail removes mail that no device fetched in time and tells their senders
// in one update: what is gone is reported, whatever happens in between. The
// notice for a peer's person goes out as a bounce.
func (r *Router) sweepMail(ctx context.Context) (int, error) {
	var gone []storage.ExpiredMail
	var told []*bounce
	var peers []clearbox.ServerName
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		told, peers = nil, nil
		if gone, err = tx.ExpireMail(tx.Now(), sweepLimit); err != nil {
			return err
		}
		owners := map[int64]*owner{}
		said := map[expiry]bool{} // one notice for all devices of a person
		for i := range gone {
			o := owners[gone[i].DeviceNo]
			if o == nil {
				if o, err = r.ownerOf(tx, gone[i].DeviceNo); err != nil {
					return err
				}
				owners[gone[i].DeviceNo] = o
			}
			b, peer, err := r.expired(ctx, tx, o, &gone[i].Mail, said)
			if err != nil {
				return err
			}
			if told = append(told, b); peer != "" {
				peers = append(peers, peer)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, b := range told {
		b.wake(r)
	}
	for _, p := range peers {
		r.opts.Nudge(p)
	}
	return len(gone), nil
}

// expiry is what a notice of sweepMail is about.
type expiry struct {
	sender clearbox.UserID     // of a sealed one nobody
	origin clearbox.ServerName // of a sealed one
	id     clearbox.MessageID
	userNo int64 // whom it was for
}

// owner is whose mail expired.
type owner struct {
	user   storage.User
	device clearbox.DeviceID
	others []storage.DeviceRecord // the person's other devices
}

func (r *Router) ownerOf(tx *storage.Tx, deviceNo int64) (*owner, error) {
	d, err := tx.DeviceByNo(deviceNo)
	if err != nil {
		return nil, err
	}
	o := &owner{device: d.ID}
	if o.user, err = tx.UserByNo(d.UserNo); err != nil {
		return nil, err
	}
	o.others, err = tx.Devices(d.UserNo)
	o.others = slices.DeleteFunc(o.others, func(other storage.DeviceRecord) bool { return other.No == deviceNo })
	return o, err
}

// expired tells the sender of a mail that has just expired, unless the message
// reached another device of the person: by the notice that it returns, or by a
// bounce in the outbox towards the peer that it names.
func (r *Router) expired(ctx context.Context, tx *storage.Tx, o *owner, m *storage.Mail, said map[expiry]bool) (*bounce, clearbox.ServerName, error) {
	d, err := r.openMail(o.user.Key, o.device, m)
	if err != nil {
		again := func() error {
			_, err := r.openMail(o.user.Key, o.device, m)
			return err
		}
		if r.damaged(o.user.Key, err, again) {
			return nil, "", nil
		}
		return nil, "", err
	}
	to := clearbox.UserID{UID: o.user.UID, Server: r.server}
	e := d.Envelope
	if e != nil && e.Origin == r.server { // to a group, from here
		sender, err := tx.UserByNo(r.openRef(d.ref, r.server, e.ID))
		if errors.Is(err, storage.ErrNotFound) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		e.Sender = clearbox.UserID{UID: sender.UID, Server: r.server}
	}
	if e == nil || e.Sender == to { // a notice, a knock, a copy among own devices
		return nil, "", nil
	}
	about := expiry{e.Sender, e.Origin, e.ID, o.user.No}
	if said[about] {
		return nil, "", nil
	}
	for i := range o.others {
		if had, err := hadMail(tx, &o.others[i], e.AcceptedAt, m.Expires); had || err != nil {
			return nil, "", err
		}
	}
	said[about] = true
	if e.Sender.Server != r.server {
		peer, err := r.bounceOut(ctx, tx, to, &d)
		return nil, peer, err
	}
	sender, err := tx.Recipient(e.Sender.UID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && sender.State == storage.UserErased {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	n := &Notice{Kind: NoticeUndeliverable, ID: e.ID, Recipient: to, Code: clearbox.CodeExpired}
	b, err := r.bounceFor(e.Sender, sender.Key, n)
	if b == nil {
		return nil, "", err
	}
	return b, "", b.apply(tx, sender.No)
}

// bounceOut queues the news that a peer's message expired. It belongs to no
// person here: whatever becomes of the recipient's account, the sender is told.
// A server that is no peer any more has nobody to tell.
func (r *Router) bounceOut(ctx context.Context, tx *storage.Tx, to clearbox.UserID, d *Delivery) (clearbox.ServerName, error) {
	e := d.Envelope
	it := federation.Item{ID: e.ID, Sender: to, AcceptedAt: tx.Now(), Bounce: clearbox.CodeExpired}
	peer, hold := e.Origin, string(e.Origin)
	if d.ref != nil {
		it.Ref = d.ref
	} else {
		it.SenderDevice, it.Recipient = 1, e.Sender
		peer, hold = e.Sender.Server, e.Sender.String()
	}
	// One that only sends to us is told all the same (no_route_policy).
	if clearbox.CodeOf(r.peers.Route(ctx, peer)) == clearbox.CodePeerBlocked {
		return "", nil
	}
	sealed, err := r.sealItem(storage.ServerKey, it.ID, &it)
	if err != nil {
		return "", err
	}
	return peer, tx.PutOutbox(&storage.OutboxItem{
		Peer: peer, Class: storage.ClassMessage, SenderKey: storage.ServerKey, Sealed: sealed, MessageID: e.ID,
		Expires: after(tx.Now(), r.opts.OutboxTTL), HoldKey: r.keys.Index("outbox.recipient", []byte(hold)),
	})
}

// hadMail tells whether the device acknowledged its copy of a message: it was
// there when the message was accepted, nothing between its acknowledgement and
// what it still has went missing, and what it still has is younger. In doubt
// it had not: a sender who is told too much asks, one who is told nothing does
// not.
func hadMail(tx *storage.Tx, d *storage.DeviceRecord, accepted, expires clearbox.Millis) (bool, error) {
	if d.Added > accepted {
		return false, nil
	}
	rest, err := tx.MailAfter(d.No, 0, 1, 0)
	if err != nil {
		return false, err
	}
	if len(rest) == 0 {
		return d.AckedSeq+1 == d.NextSeq, nil
	}
	return d.AckedSeq+1 == rest[0].Seq && rest[0].Expires > expires, nil
}
