package delivery

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// Submit stores a message for all its recipients and returns when it is
// durable. The same id with the same body gets the first answer again; with
// another body clearbox.CodeConflict. *clearbox.StaleDevicesError: the device
// lists changed and nothing was stored.
func (r *Router) Submit(ctx context.Context, p auth.Principal, s Submission) (Receipt, error) {
	type answer struct {
		receipt Receipt
		err     error
	}
	ch := make(chan answer, 1) // capacity 1: the committer never waits
	r.SubmitAsync(ctx, p, s, func(rc Receipt, err error) { ch <- answer{rc, err} })
	// Once it is queued the outcome is the committer's to tell, so ctx is not
	// watched here: an answer follows within a sync.
	a := <-ch
	return a.receipt, a.err
}

// SubmitAsync is Submit without waiting. Messages handed over one after the
// other are stored in that order. done is called exactly once, possibly before
// SubmitAsync returns and possibly on another goroutine, and must not block.
// The contents of s must stay as they are until then.
func (r *Router) SubmitAsync(ctx context.Context, p auth.Principal, s Submission, done func(Receipt, error)) {
	op, err := r.prepare(ctx, p, s)
	if err != nil {
		switch clearbox.CodeOf(err) {
		case clearbox.CodeBadRequest, clearbox.CodeTooLarge, clearbox.CodeForbidden: // the submission's own fault, the first time too
			done(Receipt{}, err)
		default:
			// A repeat gets its first answer even if the world has moved on.
			done(r.repeat(ctx, p, &s, err))
		}
		return
	}
	op.answer = done
	if err := r.writes.put(op); err != nil {
		done(Receipt{}, err)
	}
}

// submit is a submission with everything that could be done outside of the
// writer: checked, addressed, sealed.
type submit struct {
	r      *Router
	userNo int64
	user   clearbox.UserID
	device clearbox.DeviceID
	sub    Submission
	hash   [32]byte
	at     clearbox.Millis
	local  []localPart
	remote []storage.OutboxItem
	group  *groupPart // of a message to a group
	answer func(Receipt, error)

	// Results of apply, set anew by each run.
	receipt Receipt
	refused error // nothing was stored and nothing must be undone
	seqs    []int64
	nudges  bool
}

// localPart is a recipient at this server.
type localPart struct {
	uid   clearbox.UID
	known storage.Recipient // whom the payloads were sealed for
	mails []mail
}

// mail is a sealed entry for one device.
type mail struct {
	deviceNo int64
	sealed   storage.Sealed
	expires  clearbox.Millis
	delivery Delivery
}

func (r *Router) prepare(ctx context.Context, p auth.Principal, s Submission) (*submit, error) {
	if !p.HasDevice() {
		return nil, clearbox.Errorf(clearbox.CodeForbidden, "messages are sent by a device; log in with one")
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := r.opts.Admit(); err != nil {
		return nil, err
	}
	op := &submit{r: r, userNo: p.UserNo, user: p.User, device: p.Device, sub: s, hash: s.bodyHash(), at: r.now()}
	if s.Group != nil {
		if err := op.enterGroup(ctx, p); err != nil {
			return nil, err
		}
	}
	for i := range s.To {
		to := &s.To[i]
		var err error
		if to.User.Server == r.server {
			err = op.addLocal(ctx, to)
		} else {
			err = op.addRemote(ctx, p, to)
		}
		if err != nil {
			return nil, err
		}
	}
	if s.Multi != nil {
		if err := op.addMulti(ctx); err != nil {
			return nil, err
		}
	}
	return op, nil
}

func (op *submit) addLocal(ctx context.Context, to *Recipient) error {
	r := op.r
	if err := to.open(); err != nil {
		return err
	}
	var except clearbox.DeviceID
	if to.User == op.user {
		except = op.device
	}
	known, err := r.local(ctx, to.User.UID, false)
	if err != nil {
		return err
	}
	if err := compare(to.User, known.DevicesVersion, localRefs(known, except), to.Envelopes); err != nil {
		if known, err = r.local(ctx, to.User.UID, true); err != nil {
			return err
		}
		if err = compare(to.User, known.DevicesVersion, localRefs(known, except), to.Envelopes); err != nil {
			return err
		}
	}
	part := localPart{uid: to.User.UID, known: known, mails: make([]mail, 0, len(to.Envelopes))}
	for _, d := range known.Devices { // ascending, the order in which mailboxes are locked
		for j := range to.Envelopes {
			if e := &to.Envelopes[j]; e.Device == d.ID {
				m, err := r.sealMail(known.Key, d.No, &clearbox.Envelope{
					ID: op.sub.ID, Sender: op.user, SenderDevice: op.device, Recipient: to.User, Device: d.ID,
					Type: e.Type, AcceptedAt: op.at, Content: e.Content,
				}, nil, nil, op.at)
				if errors.Is(err, storage.ErrShredded) {
					return errUnavailable() // erased a moment ago
				}
				if err != nil {
					return err
				}
				part.mails = append(part.mails, m)
			}
		}
	}
	op.local = append(op.local, part)
	return nil
}

func (op *submit) addRemote(ctx context.Context, p auth.Principal, to *Recipient) error {
	r := op.r
	if err := r.peers.Route(ctx, to.User.Server); err != nil {
		return err
	}
	if err := to.sealed(op.group != nil); err != nil {
		return err
	}
	known, err := r.remote(ctx, to.User, false)
	if err != nil {
		return err
	}
	if err := compare(to.User, known.Version, remoteRefs(known), to.Envelopes); err != nil {
		if known, err = r.remote(ctx, to.User, true); err != nil {
			return err
		}
		if err = compare(to.User, known.Version, remoteRefs(known), to.Envelopes); err != nil {
			return err
		}
	}
	item := federation.Item{ID: op.sub.ID, Sender: op.user, SenderDevice: op.device, Recipient: to.User, AcceptedAt: op.at, Token: to.Token}
	if item.Ref, err = r.newRef(op.userNo, to.User.Server, op.sub.ID); err != nil {
		return err
	}
	if op.group != nil && len(to.Token) == 0 {
		item.Group, item.Epoch = op.sub.Group.ID, op.sub.Group.Epoch
	}
	for _, e := range to.Envelopes {
		item.Envelopes = append(item.Envelopes, federation.ItemEnvelope{Device: e.Device, Registration: e.Registration, Type: e.Type, Content: e.Content})
	}
	sealed, err := r.sealItem(p.Key, item.ID, &item)
	if err != nil {
		return err
	}
	op.remote = append(op.remote, storage.OutboxItem{
		Peer: to.User.Server, Class: storage.ClassMessage, SenderNo: op.userNo, SenderKey: p.Key, Sealed: sealed, MessageID: op.sub.ID,
		Accepted: op.at, Expires: after(op.at, r.opts.OutboxTTL), HoldKey: r.keys.Index("outbox.recipient", []byte(to.User.String())),
	})
	return nil
}

// apply stores the submission. What it refuses, it refuses before the first
// write; a mailbox that turns out to be full is undone by the committer.
func (op *submit) apply(tx *storage.Tx, b *batch) error {
	op.receipt, op.refused, op.seqs, op.nudges = Receipt{ID: op.sub.ID, Status: StatusAccepted, AcceptedAt: op.at}, nil, op.seqs[:0], false
	for i := range op.local {
		part := &op.local[i]
		current, ok := b.local[part.uid]
		if !ok {
			var err error
			if current, err = tx.Recipient(part.uid); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			b.local[part.uid] = current
		}
		if !sameDevices(part.known, current) {
			return op.moved(tx, part.uid, current)
		}
	}
	if op.group != nil {
		op.group.reset()
		same, err := op.group.fan.unchanged(tx, b)
		if err != nil {
			return err
		}
		if !same {
			return op.membersMoved(tx)
		}
	}
	for i := range op.remote {
		queue, err := b.queue(tx, op.remote[i].Peer)
		if err != nil {
			return err
		}
		items, bytes := queue.Size()
		switch o := &op.r.opts; {
		case items >= o.PeerQueueItems || bytes >= o.PeerQueueBytes:
			if known, err := op.answered(tx); known || err != nil {
				return err
			}
			op.refused = clearbox.Errorf(clearbox.CodePeerBacklogFull, "the other organisation cannot be reached and its queue is full; try again later")
			return nil
		case items >= o.PeerQueueItems/10*8 || bytes >= o.PeerQueueBytes/10*8:
			op.receipt.Status = StatusDelayed
		}
	}
	if op.group != nil {
		if err := op.group.takePlaces(op, tx, b); err != nil {
			return err
		}
	}
	sub := storage.Submission{
		UserNo: op.userNo, ID: op.sub.ID, BodyHash: op.hash, Answer: encodeReceipt(op.receipt), Expires: after(op.at, op.r.opts.SubmissionTTL),
	}
	op.parts(&sub)
	err := tx.PutSubmission(&sub)
	if errors.Is(err, storage.ErrExists) {
		_, err := op.answered(tx)
		return err
	}
	if err != nil {
		return err
	}
	for i := range op.local {
		for j := range op.local[i].mails {
			m := &op.local[i].mails[j]
			seq, err := tx.PutMail(m.deviceNo, m.sealed, m.expires)
			if err != nil {
				return err
			}
			op.seqs = append(op.seqs, seq)
		}
	}
	for i := range op.remote {
		item := op.remote[i] // a copy: Put writes the row into it
		if err := b.queues[item.Peer].Put(&item); err != nil {
			return err
		}
		op.nudges = true
	}
	if op.group != nil {
		return op.group.store(op, tx, b)
	}
	return nil
}

// parts notes of a message to many how many parts of it go to other servers, and
// for how many people it is.
func (op *submit) parts(s *storage.Submission) {
	if op.sub.Multi != nil {
		s.Parts, s.People = int64(len(op.remote)+op.group.queued()), int64(len(op.remote)+op.group.people())
	} else if n := int64(len(op.remote)); n > 1 {
		s.Parts, s.People = n, n
	}
}

// answered gives a message id that is known its first answer once more. What
// was accepted stays accepted, whatever stands in the way of a new message.
func (op *submit) answered(tx *storage.Tx) (known bool, err error) {
	old, err := tx.Submission(op.userNo, op.sub.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	op.receipt, op.refused = judge(&op.sub, op.hash, &old)
	return true, nil
}

// moved answers when devices changed since prepare looked: the brain wrote for
// the former ones. Nothing was written yet.
func (op *submit) moved(tx *storage.Tx, uid clearbox.UID, current storage.Recipient) error {
	if known, err := op.answered(tx); known || err != nil {
		return err
	}
	op.r.people.keepLocal(uid, current)
	if current.State != storage.UserActive {
		op.refused = errUnavailable()
		return nil
	}
	for _, to := range op.sub.To {
		if to.User.UID != uid || to.User.Server != op.r.server {
			continue
		}
		var except clearbox.DeviceID
		if to.User == op.user {
			except = op.device
		}
		if op.refused = compare(to.User, current.DevicesVersion, localRefs(current, except), to.Envelopes); op.refused != nil {
			return nil
		}
	}
	op.refused = clearbox.Errorf(clearbox.CodeUnavailable, "the recipient's devices are changing; try again")
	return nil
}

func (op *submit) done(err error) {
	if err == nil {
		err = op.refused
	}
	if err != nil {
		op.answer(Receipt{}, clientError(err))
		return
	}
	i := 0
	if len(op.seqs) > 0 {
		for _, part := range op.local {
			for _, m := range part.mails {
				m.delivery.Seq = op.seqs[i]
				op.r.mailboxes.post(m.deviceNo, m.delivery)
				i++
			}
		}
	}
	if op.group != nil {
		op.group.post(op.r)
	}
	op.answer(op.receipt, nil)
	if op.nudges {
		for i := range op.remote {
			op.r.opts.Nudge(op.remote[i].Peer)
		}
	}
}

// clientError keeps what the sender must know apart from what it must not:
// that a mailbox vanished is the same as a person who cannot be reached.
func clientError(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return errUnavailable()
	}
	return err
}

// repeat looks for an earlier submission under the same id and answers like it;
// refused is the answer when there is none. When that cannot be known the
// store's error is the answer, since refused might deny what was accepted.
func (r *Router) repeat(ctx context.Context, p auth.Principal, s *Submission, refused error) (Receipt, error) {
	var old storage.Submission
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		old, err = tx.Submission(p.UserNo, s.ID)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return Receipt{}, refused
	}
	if err != nil {
		return Receipt{}, err
	}
	return judge(s, s.bodyHash(), &old)
}

func judge(s *Submission, hash [32]byte, old *storage.Submission) (Receipt, error) {
	if old.BodyHash != hash {
		return Receipt{}, clearbox.Errorf(clearbox.CodeConflict, "another message was sent under this id")
	}
	return decodeReceipt(s.ID, old.Answer)
}

// encodeReceipt is the stored first answer: accepted at, status.
func encodeReceipt(rc Receipt) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(rc.AcceptedAt)), rc.Status...)
}

func decodeReceipt(id clearbox.MessageID, b []byte) (Receipt, error) {
	if len(b) < 9 {
		return Receipt{}, clearbox.Wrap(clearbox.CodeInternal, "", errPayload)
	}
	return Receipt{ID: id, AcceptedAt: clearbox.Millis(binary.BigEndian.Uint64(b)), Status: Status(b[8:])}, nil
}
