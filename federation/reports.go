package federation

import (
	"context"
	"errors"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/franking"
)

// PathReports takes reports (federation.md, 13).
const PathReports = "/fed/v1/reports"

// Limits of reports.
const (
	MaxReport       = 80 << 10 // bytes of the body
	MaxReportReason = 1 << 10  // bytes
)

// Report is one message that a recipient shows to the organisation of its sender,
// with proof (crypto/franking). Who shows it is not told.
type Report struct {
	User    clearbox.UserID // who wrote it
	Message clearbox.MessageID
	Carrier clearbox.MessageID // under which it came; zero where that is Message
	Kind    uint64
	Sent    clearbox.Millis
	Text    string
	File    []byte // 32 bytes, or nil
	Key     []byte // 32 bytes
	Reason  string
}

// Proven tells whether the message with that id says what is shown, and whether
// the id that it came under is one of it.
func (r *Report) Proven() bool {
	said := franking.Revealed{Kind: r.Kind, Sent: int64(r.Sent), From: r.User.String(), Text: r.Text}
	copy(said.File[:], r.File)
	carried := r.Carrier == clearbox.MessageID{} || franking.Carries(r.Key, r.Carrier, r.Message)
	return carried && franking.Verify(r.Key, &said, r.Message)
}

// Reports takes reports about people of this server. An error's code is told to
// the peer.
type Reports interface {
	PeerReport(ctx context.Context, peer clearbox.ServerName, r Report) error
}

type wireReport struct {
	User    string `cbor:"user"`
	Message []byte `cbor:"id"`
	Carrier []byte `cbor:"carrier,omitempty"`
	Kind    uint64 `cbor:"kind"`
	Sent    int64  `cbor:"sent"`
	Text    string `cbor:"text,omitempty"`
	File    []byte `cbor:"file,omitempty"`
	Key     []byte `cbor:"key"`
	Reason  string `cbor:"reason,omitempty"`
}

func decodeReport(body []byte) (Report, error) {
	var w wireReport
	if err := decodeBody(body, &w); err != nil {
		return Report{}, err
	}
	r := Report{Kind: w.Kind, Sent: clearbox.Millis(w.Sent), Text: w.Text, File: w.File, Key: w.Key, Reason: w.Reason}
	user, err := clearbox.ParseUserID(w.User)
	switch {
	case err != nil:
		return r, clearbox.Wrap(clearbox.CodeBadRequest, "the user id is not valid", err)
	case len(w.Message) != len(r.Message) || len(w.Carrier) != 0 && len(w.Carrier) != len(r.Carrier) || len(w.Key) != franking.KeySize || len(w.File) != 0 && len(w.File) != len(franking.Revealed{}.File):
		return r, clearbox.Errorf(clearbox.CodeBadRequest, "an id has 16 bytes, a key and a digest have 32")
	case len(w.Text) > franking.MaxText || len(w.Reason) > MaxReportReason:
		return r, clearbox.Errorf(clearbox.CodeTooLarge, "the report is too long")
	}
	r.User, r.Message = user, clearbox.MessageID(w.Message)
	copy(r.Carrier[:], w.Carrier)
	return r, nil
}

func encodeReport(r *Report) ([]byte, error) {
	w := wireReport{User: r.User.String(), Message: r.Message[:], Kind: r.Kind, Sent: int64(r.Sent), Text: r.Text, File: r.File, Key: r.Key, Reason: r.Reason}
	if r.Carrier != (clearbox.MessageID{}) {
		w.Carrier = r.Carrier[:]
	}
	return encoder.Marshal(w)
}

// Report hands a report to the server of whoever wrote the message, which has
// stored it when there is no error. Errors: clearbox.CodeUnproven and what else
// that server signed, or clearbox.CodeUnavailable.
func (c *Client) Report(ctx context.Context, r Report) error {
	body, err := encodeReport(&r)
	if err != nil {
		return clearbox.Wrap(clearbox.CodeInternal, "the report could not be encoded", err)
	}
	_, err = c.askRaw(ctx, r.User.Server, CircuitClaim, PathReports, body, MaxSmallBody)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Signed {
		switch refused.Code {
		case clearbox.CodeUnproven, clearbox.CodeRateLimited, clearbox.CodeTooLarge, clearbox.CodeBadRequest, clearbox.CodePeerBlocked:
			return clearbox.Wrap(refused.Code, "the sender's server does not accept the report", err)
		}
	}
	switch clearbox.CodeOf(err) {
	case "", clearbox.CodeUnknownPeer, clearbox.CodePeerBlocked, clearbox.CodeNoRoutePolicy:
		return err
	}
	return clearbox.Wrap(clearbox.CodeUnavailable, "the sender's server takes no reports at the moment", err)
}

func (in *Inbox) report(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	r, err := decodeReport(body)
	if err != nil {
		return nil, err
	}
	if err := in.opts.Reports.PeerReport(ctx, peer, r); err != nil {
		return nil, err
	}
	return encoder.Marshal(struct{}{})
}
