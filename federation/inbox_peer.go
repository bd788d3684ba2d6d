package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

const (
	maxParked = 3               // transactions of one class waiting for their predecessor
	parkFor   = 2 * time.Second // before they get a gap
)

// parking lets transactions that overtook their predecessor wait for it.
type parking struct {
	mu    sync.Mutex // guards lanes and everything in them
	lanes map[laneName]*lane
}

type laneName struct {
	peer  clearbox.ServerName
	class Class
}

type lane struct {
	waiting int
	moved   chan struct{} // closed and replaced when a transaction was accepted
}

func newParking() *parking { return &parking{lanes: map[laneName]*lane{}} }

func (p *parking) lane(n laneName) *lane {
	l := p.lanes[n]
	if l == nil {
		l = &lane{moved: make(chan struct{})}
		p.lanes[n] = l
	}
	return l
}

// advanced wakes what waits behind an accepted transaction.
func (p *parking) advanced(n laneName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(n)
	close(l.moved)
	l.moved = make(chan struct{})
}

// moved is closed at the next acceptance in the lane.
func (p *parking) moved(n laneName) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lane(n).moved
}

func (p *parking) enter(n laneName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lane(n)
	if l.waiting >= maxParked {
		return false
	}
	l.waiting++
	return true
}

func (p *parking) leave(n laneName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lane(n).waiting--
}

func (in *Inbox) transaction(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	txn, err := DecodeTransaction(body)
	if err != nil {
		return nil, err
	}
	envelopes := 0
	for i := range txn.Items {
		envelopes += txn.Items[i].weight()
	}
	if wait := take(in.quotas.known(peer).envelopes, envelopes, in.opts.Now()); wait > 0 {
		return nil, &tooFast{wait: wait}
	}
	if p, err := in.peers.Peer(ctx, peer); err == nil && p.Direction == DirectionOut {
		refuseMessages(txn)
	}
	answer, err := in.acceptInOrder(ctx, peer, txn)
	if err != nil {
		return nil, err
	}
	return EncodeAnswer(answer)
}

// refuseMessages is for a peer to which messages only go out: its items are
// rejected one by one, so that their senders are told at once, and what it has to
// say about our messages still comes.
func refuseMessages(txn *Transaction) {
	for i := range txn.Items {
		if it := &txn.Items[i]; !it.Void && it.Refused == "" && it.Bounce == "" {
			it.Refused = clearbox.CodePeerBlocked
		}
	}
}

// tooFast is a quota that ran out after the body was read.
type tooFast struct{ wait time.Duration }

func (e *tooFast) Error() string { return "too many envelopes a second" }
func (e *tooFast) Unwrap() error { return &clearbox.Error{Code: clearbox.CodeRateLimited} }

// acceptInOrder hands the transaction to the acceptor. One that came before
// its predecessor is parked until that is accepted, for at most two seconds.
func (in *Inbox) acceptInOrder(ctx context.Context, peer clearbox.ServerName, txn *Transaction) (*Answer, error) {
	name := laneName{peer, txn.Class}
	var timeout <-chan time.Time
	for {
		moved := in.parking.moved(name) // before asking, so that no acceptance in between is missed
		answer, err := in.acceptor.Accept(ctx, peer, txn)
		if err == nil {
			in.parking.advanced(name)
			return answer, nil
		}
		var gap *GapError
		if !errors.As(err, &gap) || txn.FirstPos < gap.Expected {
			return nil, err
		}
		if timeout == nil {
			if !in.parking.enter(name) {
				return nil, err
			}
			defer in.parking.leave(name)
			timer := time.NewTimer(parkFor)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-moved:
		case <-timeout:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (in *Inbox) greeting(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var h Hello
	if err := decodeBody(body, &h); err != nil {
		return nil, err
	}
	if len(h.Streams) > maxStreams {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a greeting names at most %d streams", maxStreams)
	}
	in.client.compare(ctx, peer, &h)
	answer := in.client.hello(ctx, peer)
	answer.Gossip = in.client.gossip(ctx, peer, h.Gossip)
	for i := range h.Streams {
		p := &h.Streams[i]
		if !p.valid() {
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a stream's position is not readable")
		}
		accepted, err := in.acceptor.Resume(ctx, peer, *p)
		if err != nil {
			return nil, err
		}
		in.noteResumed(peer, p, &accepted)
		answer.Streams = append(answer.Streams, accepted)
	}
	return encoder.Marshal(answer)
}

// noteResumed leaves a line for operators when a peer begins anew.
func (in *Inbox) noteResumed(peer clearbox.ServerName, theirs, accepted *Position) {
	switch {
	case len(accepted.Stream) == 0:
	case !bytes.Equal(accepted.Stream, theirs.Stream):
		in.opts.Log.Info("the peer opens a new stream", "peer", string(peer), "class", string(theirs.Class))
	case accepted.Last > theirs.Last:
		in.opts.Log.Warn("the peer seems to be restored from a backup: more was accepted than it has sent", "peer", string(peer),
			"class", string(theirs.Class), "accepted_through", accepted.Last, "sent_through", theirs.Last)
	}
}

func (in *Inbox) resolve(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var q resolveRequest
	if err := decodeBody(body, &q); err != nil {
		return nil, err
	}
	handle, err := clearbox.ParseHandle(q.Handle)
	if err != nil {
		return nil, err
	}
	a, err := in.directory.PeerResolve(ctx, peer, handle)
	return encodeAccount(a, err)
}

func (in *Inbox) devices(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var q devicesRequest
	if err := decodeBody(body, &q); err != nil {
		return nil, err
	}
	uid, err := clearbox.ParseUID(q.UID)
	if err != nil {
		return nil, err
	}
	a, err := in.directory.PeerDevices(ctx, peer, uid)
	return encodeAccount(a, err)
}

func encodeAccount(a Account, err error) ([]byte, error) {
	if err != nil {
		return nil, absent(err)
	}
	return encoder.Marshal(accountAnswer{User: a.User.String(), Handle: string(a.Handle), Devices: a.DeviceList, Version: a.Version, Token: a.Token})
}

// absent makes every way of not being there look alike.
func absent(err error) error {
	switch clearbox.CodeOf(err) {
	case clearbox.CodeNotFound, clearbox.CodeRecipientUnavailable, clearbox.CodeForbidden, clearbox.CodeNoDevice:
		return &clearbox.Error{Code: clearbox.CodeRecipientUnavailable, Cause: err}
	}
	return err
}

func (in *Inbox) claim(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	var q claimRequest
	if err := decodeBody(body, &q); err != nil {
		return nil, err
	}
	uid, err := clearbox.ParseUID(q.UID)
	if err != nil {
		return nil, err
	}
	if q.ClaimID == "" || len(q.ClaimID) > maxClaimID || len(q.Devices) > clearbox.MaxDevices {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a claim names 1 to %d bytes of id and at most %d devices", maxClaimID, clearbox.MaxDevices)
	}
	if len(q.Token) != 0 && len(q.Token) != itemBytes {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a delivery token has %d bytes", itemBytes)
	}
	token := q.Token
	if len(q.Group) != 0 || q.Epoch != 0 {
		if len(q.Group) != len(clearbox.GroupID{}) || q.Epoch == 0 || q.Epoch > maxPosition || len(q.Token) != 0 {
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a group has an id of 32 bytes and an epoch, and stands in place of a token")
		}
		token = clearbox.GroupRef{ID: clearbox.GroupID(q.Group), Epoch: q.Epoch}.Permit()
	}
	devices := make([]clearbox.DeviceID, len(q.Devices))
	for i, d := range q.Devices {
		if devices[i], err = clearbox.ParseDeviceID(d); err != nil {
			return nil, err
		}
	}
	bundles, err := in.directory.PeerClaim(ctx, peer, q.ClaimID, uid, token, devices)
	if err != nil {
		return nil, absent(err)
	}
	return encoder.Marshal(claimAnswer{Bundles: bundles})
}

// servePeering is the one door for a server that is not a peer. What it costs
// a stranger to knock is bounded by a bucket for all strangers together; the
// secret is checked by the Handshake after the signature, which is made with a
// key of the document in the body.
func (in *Inbox) servePeering(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeMethod})
		return
	}
	origin, err := in.verifier.Origin(r)
	if err != nil {
		in.refused(w, "", err)
		return
	}
	if in.opts.Handshake == nil {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeUnknownPeer})
		return
	}
	if _, err := in.peers.Peer(r.Context(), origin); clearbox.CodeOf(err) == clearbox.CodePeerBlocked {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodePeerBlocked})
		return
	}
	if wait := take(in.strangers, 1, in.opts.Now()); wait > 0 {
		in.refuseUnsigned(w, &problem{Code: clearbox.CodeRateLimited, RetryAfterMS: wait.Milliseconds() + 1})
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyBudget)) // not every writer can; the listener has its own
	body, err := ReadBody(r, 2*MaxDocument)
	if err != nil {
		in.refused(w, origin, err)
		return
	}
	var q PeeringRequest
	if err := decodeBody(body, &q); err != nil {
		in.refused(w, origin, err)
		return
	}
	doc, err := ParseDocument(q.Document)
	if err == nil {
		err = doc.Check(origin, [32]byte{}, in.opts.Now())
	}
	if err != nil {
		in.refused(w, origin, err)
		return
	}
	now := in.opts.Now()
	keys := func(kid string) (ed25519.PublicKey, bool) { return doc.FedSign(kid, now) }
	v, err := in.verifier.Verify(r, origin, keys, now)
	if err != nil && v == nil {
		in.refused(w, origin, err)
		return
	}
	a := &answerer{in: in, w: w, peer: origin, request: v.Signature}
	if err == nil {
		err = in.opts.Handshake.Peering(r.Context(), doc, q.Secret)
	}
	if err != nil {
		in.opts.Log.Warn("peering refused", "peer", string(origin), "code", string(clearbox.CodeOf(err)))
		a.refuse(err)
		return
	}
	answer, err := encoder.Marshal(PeeringAnswer{Document: in.self.Document().Signed()})
	if err != nil {
		a.refuse(err)
		return
	}
	a.send(http.StatusOK, TypeCBOR, answer)
}
