package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/fxamacker/cbor/v2"
)

// GroupEvent is what became of a group, in a mailbox and on its way to peers.
type GroupEvent struct {
	Group    clearbox.GroupID
	Epoch    uint64
	Op       []byte   // signed (crypto/chain); nil when Ended
	Openings [][]byte // of the people whom it adds
	Ended    bool     // the administrators of the hub deleted the group
}

const (
	groupLife        = 365 * 24 * time.Hour // what a hub tells waits for a peer: nobody else can
	maxGroupArrivals = 10_000               // of one peer that nobody looked at yet
)

// GroupNews is an event on its way into mailboxes and queues, sealed outside of
// the update that stores it.
type GroupNews struct {
	r      *Router
	event  *GroupEvent
	copies []groupCopy
	peers  []peerCopy
	posts  []posted // of the last run of Put
}

type groupCopy struct {
	uid  clearbox.UID
	mail mail
}

type peerCopy struct {
	peer   clearbox.ServerName
	id     clearbox.MessageID
	sealed storage.Sealed
}

// NewGroupNews prepares an event for people of this server and for peers. Who is
// erased is left out; who is banned is told, since a ban may end.
func (r *Router) NewGroupNews(ctx context.Context, e *GroupEvent, people []clearbox.UserID, peers []clearbox.ServerName) (*GroupNews, error) {
	n := &GroupNews{r: r, event: e}
	at := r.now()
	for _, u := range people {
		var known storage.Recipient
		err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
			known, err = tx.Recipient(u.UID)
			return err
		})
		if errors.Is(err, storage.ErrNotFound) || err == nil && known.State == storage.UserErased {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := r.sealGroup(known.Key, e, at)
		if errors.Is(err, storage.ErrShredded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n.copies = append(n.copies, groupCopy{u.UID, m})
	}
	for _, p := range peers {
		c := peerCopy{peer: p}
		var err error
		if c.id, err = clearbox.NewMessageID(r.opts.Random); err != nil {
			return nil, err
		}
		it := federation.Item{ID: c.id, AcceptedAt: at, Op: &federation.GroupOp{Group: e.Group, Op: e.Op, Openings: e.Openings, Ended: e.Ended}}
		if c.sealed, err = r.sealItem(storage.ServerKey, c.id, &it); err != nil {
			return nil, err
		}
		n.peers = append(n.peers, c)
	}
	return n, nil
}

// sealGroup prepares the mailbox entry of all devices of a person. It stands under
// a random id.
func (r *Router) sealGroup(key storage.KeyID, e *GroupEvent, at clearbox.Millis) (mail, error) {
	var id clearbox.MessageID
	if _, err := io.ReadFull(r.opts.Random, id[:]); err != nil {
		return mail{}, err
	}
	sealed, err := storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(id, 0), appendGroup(nil, e))
	if err != nil {
		return mail{}, err
	}
	sealed.Wrapped = append(id[:len(id):len(id)], sealed.Wrapped...)
	return mail{sealed: sealed, expires: after(at, r.opts.MailTTL)}, nil
}

// Put stores the event, devices in ascending order. A mailbox that is full is
// passed over: its device sees the gap with the next event and asks.
func (n *GroupNews) Put(tx *storage.Tx) error {
	n.posts = n.posts[:0]
	type place struct {
		deviceNo int64
		mail     *mail
	}
	var places []place
	for i := range n.copies {
		to, err := tx.Recipient(n.copies[i].uid)
		if err != nil {
			return err
		}
		for _, d := range to.Devices {
			places = append(places, place{d.No, &n.copies[i].mail})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return int(a.deviceNo - b.deviceNo) })
	for _, p := range places {
		seq, err := tx.PutMail(p.deviceNo, p.mail.sealed, p.mail.expires)
		if errors.Is(err, storage.ErrMailboxFull) {
			continue
		}
		if err != nil {
			return err
		}
		n.posts = append(n.posts, posted{p.deviceNo, Delivery{Seq: seq, Group: n.event}})
	}
	for i := range n.peers {
		c := &n.peers[i]
		err := tx.PutOutbox(&storage.OutboxItem{
			Peer: c.peer, Class: storage.ClassControl, SenderKey: storage.ServerKey, Sealed: c.sealed, MessageID: c.id,
			Expires: after(tx.Now(), groupLife), HoldKey: n.r.keys.Index("outbox.recipient", n.event.Group[:]),
			Delayed: true, // nobody waits to be told
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Tell wakes readers and queues after the commit.
func (n *GroupNews) Tell() {
	for _, p := range n.posts {
		n.r.mailboxes.post(p.deviceNo, p.delivery)
	}
	for i := range n.peers {
		n.r.opts.NudgeControl(n.peers[i].peer)
	}
}

// putGroup keeps what a hub tells until server/groups has verified it.
func (op *accept) putGroup(tx *storage.Tx, it *federation.Item, seal []byte) (federation.Verdict, error) {
	n, err := tx.CountGroupArrivals(op.peer)
	if err != nil {
		return federation.Verdict{}, err
	}
	if n >= maxGroupArrivals {
		return federation.Verdict{Code: federation.VerdictDeferred, Reason: clearbox.CodeRateLimited, RetryAfter: 30 * time.Second}, nil
	}
	payload, err := encodeGroupOp(it.Op)
	if err != nil {
		return federation.Verdict{}, err
	}
	op.groups = true
	return federation.Verdict{Code: federation.VerdictOK}, tx.PutGroupArrival(&storage.GroupArrival{Peer: op.peer, Payload: payload}, seal)
}

// storedOp is an operation of a group at rest. In an outbox opMarker stands before
// it, which no storedItem begins with.
type storedOp struct {
	_        struct{} `cbor:",toarray"`
	Group    []byte
	Op       []byte
	Openings [][]byte
	Ended    bool
	At       int64
}

const opMarker = 1

func encodeGroupOp(g *federation.GroupOp) ([]byte, error) { return encodeStoredOp(g, 0) }

func encodeStoredOp(g *federation.GroupOp, at clearbox.Millis) ([]byte, error) {
	return cbor.Marshal(&storedOp{Group: g.Group[:], Op: g.Op, Openings: g.Openings, Ended: g.Ended, At: int64(at)})
}

// DecodeGroupArrival reads the payload of a storage.GroupArrival.
func DecodeGroupArrival(b []byte) (*GroupEvent, error) {
	g, _, err := decodeStoredOp(b)
	if err != nil {
		return nil, err
	}
	return &GroupEvent{Group: g.Group, Op: g.Op, Openings: g.Openings, Ended: g.Ended}, nil
}

func decodeStoredOp(b []byte) (*federation.GroupOp, clearbox.Millis, error) {
	var st storedOp
	if err := cbor.Unmarshal(b, &st); err != nil {
		return nil, 0, err
	}
	if len(st.Group) != len(clearbox.GroupID{}) {
		return nil, 0, errPayload
	}
	g := &federation.GroupOp{Group: clearbox.GroupID(st.Group), Ended: st.Ended}
	if len(st.Op) > 0 {
		g.Op = st.Op
	}
	if len(st.Openings) > 0 {
		g.Openings = st.Openings
	}
	return g, clearbox.Millis(st.At), nil
}

// appendGroup writes the stored form of an event: kind, group, epoch, whether it
// ended, operation, openings.
func appendGroup(b []byte, e *GroupEvent) []byte {
	b = append(b, payloadGroup)
	b = append(b, e.Group[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	ended := byte(0)
	if e.Ended {
		ended = 1
	}
	b = append(b, ended)
	b = appendText(b, string(e.Op))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Openings)))
	for _, o := range e.Openings {
		b = appendText(b, string(o))
	}
	return b
}

// parseGroup is the inverse, behind the kind.
func parseGroup(r *reader) (*GroupEvent, error) {
	e := &GroupEvent{}
	copy(e.Group[:16], r.bytes(16))
	copy(e.Group[16:], r.bytes(16))
	e.Epoch = r.uint64()
	e.Ended = r.byte() == 1
	if op := r.text(); op != "" {
		e.Op = []byte(op)
	}
	for range binary.BigEndian.Uint16(r.bytes(2)) {
		o := r.text()
		if r.bad {
			break
		}
		e.Openings = append(e.Openings, []byte(o))
	}
	if r.bad || len(r.b) != 0 {
		return nil, errPayload
	}
	return e, nil
}
