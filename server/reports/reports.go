// Package reports takes messages that recipients show to the organisation of
// their sender, with proof. What was shown is the one content that a homeserver
// reads, by the choice of somebody who was meant to read it.
package reports

import (
	"context"
	"errors"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
	"github.com/clearbox-im/clearbox/storage"
)

// Kept is for how long a report and the strike that it may be are kept.
const Kept = 180 * 24 * time.Hour

// Report is what a person or a peer hands in.
type Report = federation.Report

// Peers hands reports to other servers; *federation.Client does.
type Peers interface {
	Report(ctx context.Context, r federation.Report) error
}

// Options of New.
type Options struct {
	Now   func() time.Time // time.Now if nil
	Peers Peers            // nil: there are none
	Admit func() error     // refuses reports while the disk is nearly full; nil admits all
}

// Service takes reports. It is safe for concurrent use and starts nothing.
type Service struct {
	store  *storage.Store
	server clearbox.ServerName
	o      Options
	byUser *throttle.Buckets // reports that a person makes
	byPeer *throttle.Buckets // and that a peer hands on
}

// New makes the service of server.
func New(store *storage.Store, server clearbox.ServerName, o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Admit == nil {
		o.Admit = func() error { return nil }
	}
	return &Service{
		store: store, server: server, o: o,
		byUser: throttle.New(10, 6*time.Minute, 50_000), byPeer: throttle.New(60, 10*time.Second, 0),
	}
}

// Shown is the body of a stored report.
type Shown struct {
	_      struct{} `cbor:",toarray"`
	Kind   uint64
	Sent   clearbox.Millis // by the sender's clock
	Text   string
	File   bool   // an attachment came with it, which is not shown
	Reason string // in the words of whoever showed it
}

// ReadShown reads a stored body.
func ReadShown(body []byte) (s Shown, err error) {
	return s, cbor.Unmarshal(body, &s)
}

// Submit takes a report of a person here and brings it to where the sender
// belongs. Errors: clearbox.CodeUnproven, CodeRateLimited, and those of
// federation.Client.Report.
func (s *Service) Submit(ctx context.Context, p auth.Principal, r federation.Report) error {
	if err := s.byUser.Take(s.o.Now(), string(p.User.UID)); err != nil {
		return err
	}
	switch {
	case !r.Proven():
		return unproven()
	case r.User.Server == s.server:
		return s.take(ctx, s.server, &r)
	case s.o.Peers == nil:
		return clearbox.Errorf(clearbox.CodeNoRoutePolicy, "there is no connection with the sender's server")
	}
	return s.o.Peers.Report(ctx, r)
}

// PeerReport implements federation.Reports.
func (s *Service) PeerReport(ctx context.Context, peer clearbox.ServerName, r federation.Report) error {
	if err := s.byPeer.Take(s.o.Now(), string(peer)); err != nil {
		return err
	}
	if r.User.Server != s.server || !r.Proven() {
		return unproven()
	}
	return s.take(ctx, peer, &r)
}

// take stores a report whose proof fits, if the account has submitted that
// message. The same again changes nothing.
func (s *Service) take(ctx context.Context, peer clearbox.ServerName, r *federation.Report) error {
	body, err := cbor.Marshal(Shown{Kind: r.Kind, Sent: r.Sent, Text: r.Text, File: len(r.File) > 0, Reason: r.Reason})
	if err != nil {
		return err
	}
	if err := s.o.Admit(); err != nil {
		return err
	}
	err = s.store.Update(ctx, func(tx *storage.Tx) error {
		u, err := tx.Recipient(r.User.UID)
		if err != nil {
			return err
		}
		if err := submitted(tx, u.No, r); err != nil {
			return err
		}
		err = tx.PutReport(&storage.Report{UserNo: u.No, Message: r.Message, Peer: peer, Expires: tx.Now() + clearbox.Millis(Kept.Milliseconds()), Body: body})
		var known *storage.ExistsError
		if errors.As(err, &known) {
			return nil
		}
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrShredded) {
		return unproven()
	}
	return err
}

// submitted is storage.ErrNotFound unless it is remembered that the account
// submitted the message: under its id, or under the one that it was carried under.
func submitted(tx *storage.Tx, userNo int64, r *federation.Report) error {
	if r.Carrier != (clearbox.MessageID{}) {
		if _, err := tx.Submission(userNo, r.Carrier); !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	_, err := tx.Submission(userNo, r.Message)
	return err
}

func unproven() error {
	return clearbox.Errorf(clearbox.CodeUnproven, "nothing shows that this message was sent by that account")
}
