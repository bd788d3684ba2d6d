package wire

import "github.com/clearbox-im/clearbox"

// Limits of reports, in bytes.
const (
	MaxReportText   = 64 << 10
	MaxReportReason = 1 << 10
)

// Report is the body of POST /reports: one message with the proof that its
// sender sent it (crypto/franking), for the moderators of the sender's server.
type Report struct {
	User    clearbox.UserID    `json:"user"` // who wrote it
	Message clearbox.MessageID `json:"message_id"`
	Carrier clearbox.MessageID `json:"carrier_id,omitzero"` // the id under which it came, where that is another
	Kind    uint64             `json:"kind"`                // of docs/content.md
	Sent    clearbox.Millis    `json:"sent"`                // by the sender's clock
	Text    string             `json:"text,omitempty"`
	File    []byte             `json:"file,omitempty"` // 32 bytes, of an attachment
	Key     []byte             `json:"key"`            // 32 bytes
	Reason  string             `json:"reason,omitempty"`
}

// Check applies the limits.
func (r *Report) Check() error {
	var f faults
	f.check(!r.User.IsZero(), "/user", "is required")
	f.check(r.Message != clearbox.MessageID{}, "/message_id", "is required")
	f.check(len(r.Key) == 32, "/key", "has 32 bytes")
	f.check(len(r.File) == 0 || len(r.File) == 32, "/file", "has 32 bytes")
	f.check(len(r.Text) <= MaxReportText, "/text", "is too long")
	f.check(len(r.Reason) <= MaxReportReason, "/reason", "is too long")
	return f.result()
}

// AdminReport is a report about somebody of this server. What was shown is in the
// answer of GET /admin/reports/{no} alone, and reading it is a deed in the audit log.
type AdminReport struct {
	No       int64               `json:"no"`
	Handle   clearbox.Handle     `json:"handle,omitempty"` // who wrote it; absent when the account is gone
	Message  clearbox.MessageID  `json:"message_id"`
	Peer     clearbox.ServerName `json:"peer"` // the server of whoever showed it; who that is, is not known here
	Received clearbox.Millis     `json:"received"`
	Until    clearbox.Millis     `json:"until"`   // when this is forgotten
	State    string              `json:"state"`   // open, upheld or dismissed
	Strikes  int64               `json:"strikes"` // upheld reports about the account
	Shown    *AdminReportShown   `json:"shown,omitempty"`
}

// AdminReportShown is what was shown.
type AdminReportShown struct {
	Sent   clearbox.Millis `json:"sent"`
	Text   string          `json:"text,omitempty"`
	File   bool            `json:"file,omitempty"` // an attachment came with it, which is not shown
	Reason string          `json:"reason,omitempty"`
}

// AdminReports is the answer of GET /admin/reports?after=&limit=, oldest first.
type AdminReports struct {
	Reports []AdminReport `json:"reports"`
	Next    string        `json:"next,omitempty"`
}

// AdminReportClose is the body of POST /admin/reports/{no}/close.
type AdminReportClose struct {
	State string `json:"state"` // upheld or dismissed
}

// Check knows the two ends of a report.
func (b *AdminReportClose) Check() error {
	var f faults
	f.check(b.State == "upheld" || b.State == "dismissed", "/state", "is upheld or dismissed")
	return f.result()
}
