package core

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/franking"
	"github.com/clearbox-im/clearbox/server/wire"
)

// ErrUnprovable is a message for which there is no proof of who sent what: a
// client without franking wrote it, or its id does not fit what it says.
var ErrUnprovable = clearbox.Errorf(clearbox.CodeUnproven, "there is no proof of what this message said, so it cannot be reported")

// ReportState is how far a report came.
type ReportState string

// The states of reports.
const (
	ReportWaiting   ReportState = "waiting"   // their server does not answer; Run tries it again
	ReportDelivered ReportState = "delivered" // their server has stored it
	ReportRefused   ReportState = "refused"   // and does not want it
)

// Report is what became of a message that was reported from this device.
type Report struct {
	Target Ref             `cbor:"1,keyasint"`
	Made   clearbox.Millis `cbor:"2,keyasint"`
	State  ReportState     `cbor:"3,keyasint"`
	Reason clearbox.Code   `cbor:"4,keyasint,omitempty"` // why it waits or was refused
	Tries  int             `cbor:"5,keyasint,omitempty"`
	Next   clearbox.Millis `cbor:"6,keyasint,omitempty"` // when it is tried again

	// Shown is what is shown, as it stood when it was reported: an edit or a
	// deletion that comes later does not touch it. Only of one that waits.
	Shown *wire.Report `cbor:"7,keyasint,omitempty"`
}

// reportFor is how long servers remember what was sent, and this device what it
// reported. Reports are tried again after reportFirst, doubled each time, to
// reportMost.
const (
	reportFor   = 30 * 24 * time.Hour
	reportFirst = time.Minute
	reportMost  = time.Hour
)

func reportKey(target Ref) string {
	return prefixReport + uuidOfUser(target.Author) + "/" + target.ID.String()
}

// Report shows a message of somebody else to the moderators of its sender's
// server, with proof and a reason in the person's words. They get the text, the
// time and the sender; of an attachment only that there is one; they are not told
// by whom. It is tried at once; while their server, or the own one, does not
// answer it waits in the vault, and Run brings it. The same message again changes
// nothing, unless it was refused. ErrNoMessage, ErrUnprovable, CodeForbidden for
// an own message.
func (b *Brain) Report(ctx context.Context, target Ref, reason string) (*Report, error) {
	if len(reason) > wire.MaxReportReason {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "a reason has at most %d bytes", wire.MaxReportReason)
	}
	key := reportKey(target)
	err := b.vault.Update(ctx, func(tx Tx) error {
		old, err := load[Report](tx, key)
		if err != nil || old != nil && old.State != ReportRefused {
			return err
		}
		m, _, err := findMessage(tx, uuidOfUser(target.Author), target.ID)
		switch {
		case err != nil:
			return err
		case m == nil || m.goneBy(b.now()):
			return ErrNoMessage
		case m.Outgoing:
			return clearbox.Errorf(clearbox.CodeForbidden, "you wrote this message yourself")
		case !m.Provable():
			return ErrUnprovable
		}
		return save(tx, key, &Report{Target: target, Made: b.now(), State: ReportWaiting, Shown: m.shownTo(reason)})
	})
	if err != nil {
		return nil, err
	}
	return b.bring(ctx, key)
}

// shownTo is what moderators are shown of m.
func (m *Message) shownTo(reason string) *wire.Report {
	id, said := m.said()
	r := &wire.Report{User: m.Sender, Message: id, Carrier: m.Carried, Kind: said.Kind, Sent: clearbox.Millis(said.Sent), Text: said.Text, Key: m.Frank, Reason: reason}
	if said.File != (franking.Revealed{}.File) {
		r.File = said.File[:]
	}
	return r
}

// Reports gives what this device reported in the last 30 days.
func (b *Brain) Reports(ctx context.Context) (out []Report, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		out = nil
		entries, err := r.List(Range{Prefix: prefixReport})
		for _, e := range entries {
			one, err := parse[Report](e.Value)
			if err != nil {
				return err
			}
			out = append(out, *one)
		}
		return err
	})
	return out, err
}

// bring takes a report that waits to the own server, which takes it to theirs,
// and notes what they said. Its error is the vault's, or that of a session that
// has ended.
func (b *Brain) bring(ctx context.Context, key string) (*Report, error) {
	var r *Report
	err := b.vault.View(ctx, func(read Reader) (err error) {
		r, err = load[Report](read, key)
		return err
	})
	if err != nil || r == nil || r.State != ReportWaiting {
		return r, err
	}
	said := b.call(ctx, "POST", "/reports", r.Shown, nil)
	if lasting(said) || ctx.Err() != nil {
		return r, errors.Join(said, ctx.Err())
	}
	switch code := clearbox.CodeOf(said); {
	case said == nil:
		r.State, r.Reason = ReportDelivered, ""
	case passing(code) && b.now() < r.Made+clearbox.Millis(reportFor.Milliseconds()):
		r.Reason, r.Next = code, b.soon(min(reportFirst<<min(r.Tries, 6), reportMost))
		r.Tries++
	default:
		r.State, r.Reason = ReportRefused, code
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		if now, err := load[Report](tx, key); err != nil || now == nil || now.State != ReportWaiting {
			return err // somebody else was faster
		}
		if r.State == ReportWaiting {
			return save(tx, key, r)
		}
		r.Shown = nil
		return errors.Join(save(tx, key, r), b.mustForget(tx))
	})
	b.changed()
	return r, err
}

// bringReports tries those that are due, and forgets what ended long ago.
func (b *Brain) bringReports(ctx context.Context) error {
	all, err := b.Reports(ctx)
	for _, r := range all {
		key := reportKey(r.Target)
		switch {
		case err != nil:
		case r.State == ReportWaiting && r.Next <= b.now():
			_, err = b.bring(ctx, key)
		case r.State != ReportWaiting && r.Made <= b.soon(-reportFor):
			err = b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(key) })
		}
	}
	return err
}
