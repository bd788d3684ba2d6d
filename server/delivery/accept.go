package delivery

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
)

var _ federation.Acceptor = (*Router)(nil)

// futureAllowed is how far ahead of our clock a peer's stamp may be: what the
// clock rule lets a corrected peer differ, and a minute.
const futureAllowed = 16 * time.Minute

// accept is a peer's transaction with everything that could be done outside of
// the writer.
type accept struct {
	r      *Router
	peer   clearbox.ServerName
	txn    *federation.Transaction
	items  []arrival
	result chan error // capacity 1

	// Results of apply, set anew by each run.
	answer  *federation.Answer
	refused error
	changed bool // a recipient's devices changed since the payloads were sealed
	knocks  bool // some were stored
	bounced bool // some of ours did not get what was for many
	groups  bool // operations of groups were stored
	posts   []posted
}

// arrival is one item: a verdict that is known already, or what to store.
type arrival struct {
	item    *federation.Item
	verdict *federation.Verdict
	uid     clearbox.UID
	known   storage.Recipient
	mails   []mail
	bounce  *bounce // what is not mail but the fate of a message of ours
	knock   []byte  // what is not mail but a knock: 16 random bytes for its row
	multi   *multi  // a message to members of a group
	op      []byte  // the same as knock of an operation of a group
}

type posted struct {
	deviceNo int64
	delivery Delivery
}

// Accept implements federation.Acceptor.
func (r *Router) Accept(ctx context.Context, peer clearbox.ServerName, txn *federation.Transaction) (*federation.Answer, error) {
	if err := r.opts.Admit(); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		op := &accept{r: r, peer: peer, txn: txn, result: make(chan error, 1)}
		if err := op.prepare(ctx, try > 0); err != nil {
			return nil, err
		}
		if err := r.writes.put(op); err != nil {
			return nil, err
		}
		if err := <-op.result; err != nil {
			return nil, err
		}
		if op.changed {
			if try < 3 {
				continue
			}
			return nil, clearbox.Errorf(clearbox.CodeUnavailable, "devices are changing; try again")
		}
		if op.refused != nil {
			return nil, op.refused
		}
		return op.answer, nil
	}
}

// Resume implements federation.Acceptor.
func (r *Router) Resume(ctx context.Context, peer clearbox.ServerName, own federation.Position) (federation.Position, error) {
	var in storage.InStream
	err := r.store.Update(ctx, func(tx *storage.Tx) (err error) {
		if in, err = tx.InStream(peer, storage.Class(own.Class)); err != nil {
			return err
		}
		if own.Fence < in.Fence {
			return &federation.FencedError{Fence: in.Fence}
		}
		if own.Fence == in.Fence {
			return nil
		}
		if in.Fence = own.Fence; in.Stream == nil {
			in.Stream = []byte{} // nothing was accepted yet
		}
		return tx.SetInStream(peer, storage.Class(own.Class), in)
	})
	return federation.Position{Class: own.Class, Stream: in.Stream, Fence: in.Fence, Last: in.LastPos}, err
}

func (op *accept) prepare(ctx context.Context, fresh bool) error {
	now := op.r.now()
	op.items = make([]arrival, len(op.txn.Items))
	for i := range op.txn.Items {
		a := &op.items[i]
		a.item = &op.txn.Items[i]
		var err error
		switch {
		case op.judge(a, now):
		case a.item.Bounce != "":
			err = op.addBounce(ctx, a)
		case a.item.Knock != nil:
			a.knock = make([]byte, 16)
			_, err = io.ReadFull(op.r.opts.Random, a.knock)
		case a.item.Multi != nil:
			err = op.addMulti(ctx, a, fresh, now)
		case a.item.Op != nil:
			a.op = make([]byte, 16)
			_, err = io.ReadFull(op.r.opts.Random, a.op)
		default:
			err = op.addMessage(ctx, a, fresh, now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// judge gives a verdict where the item alone decides it, and tells whether it did.
func (op *accept) judge(a *arrival, now clearbox.Millis) bool {
	it, r := a.item, op.r
	switch {
	case it.Void:
		a.verdict = &federation.Verdict{Code: federation.VerdictOK}
	case it.Refused != "":
		a.reject(it.Refused)
	case !it.Sender.IsZero() && it.Sender.Server != op.peer, it.Knock != nil && it.Knock.From.Server != op.peer:
		a.reject(clearbox.CodeForbidden) // a peer speaks for its own people only
	case !it.Recipient.IsZero() && it.Recipient.Server != r.server:
		a.reject(clearbox.CodeRecipientUnavailable)
	case it.AcceptedAt > after(now, futureAllowed):
		a.reject(clearbox.CodeBadRequest)
	case it.Op == nil && it.AcceptedAt < after(now, -r.opts.OutboxTTL-24*time.Hour):
		a.reject(clearbox.CodeExpired)
	}
	return a.verdict != nil
}

func (a *arrival) reject(c clearbox.Code) {
	a.verdict = &federation.Verdict{Code: federation.VerdictRejected, Reason: c}
}

// addBounce prepares the notice for whom a bounce is about: of a sealed message
// whom our own ref names. One without a ref is about a message of a release that
// did not seal, and counts only while that message is remembered. What is wrong
// is ignored, and its sender learns nothing: not even who is here.
func (op *accept) addBounce(ctx context.Context, a *arrival) (err error) {
	it, r := a.item, op.r
	to := it.Recipient
	if it.Ref != nil {
		if to, err = r.senderByRef(ctx, it.Ref, op.peer, it.ID); err != nil {
			return err
		}
	} else if known, err := r.submitted(ctx, to.UID, it.ID); err != nil || !known {
		a.verdict = &federation.Verdict{Code: federation.VerdictOK}
		return err
	}
	if !to.IsZero() {
		a.uid = to.UID
		a.bounce, err = r.newBounce(ctx, to, &Notice{Kind: NoticeUndeliverable, ID: it.ID, Recipient: it.Sender, Code: reason(it.Bounce)})
	}
	if a.bounce == nil {
		a.verdict = &federation.Verdict{Code: federation.VerdictOK}
	}
	return err
}

// senderByRef names the person here whom a ref is about; nobody when it is not
// ours, or is of another message or peer.
func (r *Router) senderByRef(ctx context.Context, ref []byte, peer clearbox.ServerName, id clearbox.MessageID) (clearbox.UserID, error) {
	no := r.openRef(ref, peer, id)
	if no == 0 {
		return clearbox.UserID{}, nil
	}
	return r.senderOf(ctx, no)
}

// submitted tells whether it is remembered that somebody here sent the message.
func (r *Router) submitted(ctx context.Context, uid clearbox.UID, id clearbox.MessageID) (bool, error) {
	err := r.store.View(ctx, func(tx *storage.Tx) error {
		who, err := tx.Recipient(uid)
		if err == nil {
			_, err = tx.Submission(who.No, id)
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// addMessage prepares mail for those devices of the recipient that it is for.
// Whether the recipient is unknown, banned, gone, or did not give this token to
// anybody is one verdict.
func (op *accept) addMessage(ctx context.Context, a *arrival, fresh bool, now clearbox.Millis) error {
	it, r := a.item, op.r
	if !it.Group.IsZero() {
		if err := op.fellows(ctx, a, now); err != nil || a.verdict != nil {
			return err
		}
	} else {
		re, err := r.reach(ctx, it.Recipient.UID)
		if err != nil {
			return err
		}
		if !r.admits(re, op.peer, it.Token, now) {
			a.reject(clearbox.CodeConsentRequired)
			return nil
		}
	}
	known, err := r.local(ctx, it.Recipient.UID, fresh)
	if clearbox.CodeOf(err) == clearbox.CodeRecipientUnavailable {
		a.reject(clearbox.CodeConsentRequired)
		return nil
	}
	if err != nil {
		return err
	}
	a.uid, a.known = it.Recipient.UID, known
	for _, d := range known.Devices { // ascending
		for j := range it.Envelopes {
			e := &it.Envelopes[j]
			if e.Device != d.ID || e.Registration != d.Registration {
				continue
			}
			sealed := &clearbox.Envelope{
				ID: it.ID, Sender: it.Sender, SenderDevice: it.SenderDevice, Recipient: it.Recipient, Device: d.ID,
				Type: e.Type, AcceptedAt: it.AcceptedAt, Content: e.Content,
			}
			if it.Sealed() {
				sealed.Origin = op.peer
			}
			m, err := r.sealMail(known.Key, d.No, sealed, it.Ref, nil, now)
			if errors.Is(err, storage.ErrShredded) { // erased a moment ago; the others go on
				a.reject(clearbox.CodeConsentRequired)
				continue
			}
			if err != nil {
				return err
			}
			a.mails = append(a.mails, m)
		}
	}
	return nil
}

func (op *accept) apply(tx *storage.Tx, b *batch) error {
	op.answer, op.refused, op.changed, op.posts = nil, nil, false, op.posts[:0]
	op.knocks, op.bounced, op.groups = false, false, false
	txn, class := op.txn, storage.Class(op.txn.Class)
	for i := range op.items {
		op.items[i].bounce.reset()
		op.items[i].multi.reset()
	}
	in, err := tx.InStream(op.peer, class)
	if err != nil {
		return err
	}
	if txn.Fence < in.Fence {
		op.refused = &federation.FencedError{Fence: in.Fence}
		return nil
	}
	if !bytes.Equal(in.Stream, txn.Stream) {
		if txn.FirstPos != 1 {
			op.refused = &federation.GapError{Expected: 1}
			return nil
		}
		in = storage.InStream{Stream: txn.Stream, Fence: txn.Fence}
	}
	if txn.FirstPos > in.LastPos+1 {
		op.refused = &federation.GapError{Expected: in.LastPos + 1}
		return nil
	}
	in.Fence = max(in.Fence, txn.Fence)
	if err := op.checkDevices(tx, b, in.LastPos); err != nil || op.changed {
		return err
	}
	op.answer = &federation.Answer{Stream: txn.Stream, FirstPos: txn.FirstPos, Verdicts: make([]federation.Verdict, len(op.items))}
	if err := op.repeat(tx, class, in.LastPos); err != nil {
		return err
	}
	for i := range op.items {
		pos := txn.FirstPos + int64(i)
		if pos <= in.LastPos {
			continue
		}
		if op.answer.Verdicts[i], err = op.store(tx, b, &op.items[i]); err != nil {
			return err
		}
	}
	seen := txn.LastPos() <= in.LastPos
	in.LastPos = max(in.LastPos, txn.LastPos())
	op.answer.AcceptedThrough = in.LastPos
	if err := tx.SetInStream(op.peer, class, in); err != nil || seen {
		return err
	}
	stored, err := federation.EncodeAnswer(op.answer)
	if err != nil {
		return err
	}
	return tx.PutAnswer(op.peer, class, txn.Stream, txn.FirstPos, len(op.items), stored)
}

// checkDevices makes sure that what prepare sealed is for the devices of this
// moment.
func (op *accept) checkDevices(tx *storage.Tx, b *batch, last int64) error {
	for i := range op.items {
		a := &op.items[i]
		if a.verdict != nil || a.bounce != nil || a.knock != nil || a.op != nil || op.txn.FirstPos+int64(i) <= last {
			continue
		}
		if a.multi != nil {
			same, err := a.multi.fan.unchanged(tx, b)
			if err != nil {
				return err
			}
			op.changed = op.changed || !same
			continue
		}
		current, ok := b.local[a.uid]
		if !ok {
			var err error
			if current, err = tx.Recipient(a.uid); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			b.local[a.uid] = current
		}
		if !sameDevices(a.known, current) {
			op.changed = true
		}
	}
	return nil
}

// repeat gives positions that were answered before their first answer, also
// when they come back in another batch than then. One whose answer is no
// longer kept was confirmed long ago: dup.
func (op *accept) repeat(tx *storage.Tx, class storage.Class, last int64) error {
	if op.txn.FirstPos > last {
		return nil
	}
	kept, err := tx.Answers(op.peer, class, op.txn.Stream)
	if err != nil {
		return err
	}
	for i := range op.items {
		if op.txn.FirstPos+int64(i) <= last {
			op.answer.Verdicts[i] = federation.Verdict{Code: federation.VerdictDup}
		}
	}
	for _, k := range kept {
		a, err := federation.DecodeAnswer(k.Answer)
		if err != nil {
			return err
		}
		for j, v := range a.Verdicts {
			i := k.FirstPos + int64(j) - op.txn.FirstPos
			if i >= 0 && i < int64(len(op.items)) && op.txn.FirstPos+i <= last && v.Code != federation.VerdictDup {
				op.answer.Verdicts[i] = v
			}
		}
	}
	return nil
}

func (op *accept) store(tx *storage.Tx, b *batch, a *arrival) (federation.Verdict, error) {
	if a.verdict != nil {
		return *a.verdict, nil
	}
	if a.multi != nil {
		return op.storeMulti(tx, b, a)
	}
	if a.bounce != nil {
		return federation.Verdict{Code: federation.VerdictOK}, op.fate(tx, a)
	}
	if a.knock != nil {
		return op.putArrived(tx, a.item, a.knock)
	}
	if a.op != nil {
		return op.putGroup(tx, a.item, a.op)
	}
	v := federation.Verdict{Code: federation.VerdictOK, DevicesVersion: a.known.DevicesVersion}
	stored := 0
	for i := range a.mails {
		m := &a.mails[i]
		seq, err := tx.PutMail(m.deviceNo, m.sealed, m.expires)
		if errors.Is(err, storage.ErrMailboxFull) {
			continue // nothing was changed; other devices may have room
		}
		if err != nil {
			return v, err
		}
		stored++
		d := m.delivery
		d.Seq = seq
		op.posts = append(op.posts, posted{m.deviceNo, d})
	}
	switch {
	case stored > 0:
	case len(a.mails) > 0:
		v.Code, v.Reason = federation.VerdictRejected, clearbox.CodeMailboxFull
	default:
		v.Code, v.Reason = federation.VerdictRejected, clearbox.CodeNoDevice
	}
	return v, nil
}

// fate stores the notice of a bounce, unless the sender has been told already.
// That they are told is remembered also of a message that is forgotten, so that a
// peer that repeats itself fills no mailbox.
func (op *accept) fate(tx *storage.Tx, a *arrival) error {
	to, err := tx.Recipient(a.uid)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id := a.bounce.notice.ID
	switch old, err := tx.Submission(to.No, id); {
	case err == nil && old.State == storage.SubmissionUndeliverable && old.People == 0:
		return nil
	case errors.Is(err, storage.ErrNotFound):
		err = tx.PutSubmission(&storage.Submission{
			UserNo: to.No, ID: id, Answer: []byte{}, State: storage.SubmissionUndeliverable, Expires: after(tx.Now(), op.r.opts.SubmissionTTL),
		})
		if err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return a.bounce.apply(tx, to.No)
}

func (op *accept) done(err error) {
	if err == nil {
		for i := range op.items {
			op.items[i].bounce.wake(op.r)
		}
		for _, p := range op.posts {
			op.r.mailboxes.post(p.deviceNo, p.delivery)
		}
		for i := range op.items {
			if m := op.items[i].multi; m != nil {
				m.fan.post(op.r)
			}
		}
		if op.bounced {
			op.r.opts.Nudge(op.peer)
		}
		if op.knocks {
			select {
			case op.r.knocked <- struct{}{}:
			default: // one is enough
			}
		}
		if op.groups {
			op.r.opts.GroupsArrived()
		}
	}
	op.result <- err
}
