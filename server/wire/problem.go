package wire

import (
	"github.com/clearbox-im/clearbox"
)

// ProblemType is the media type of every error (RFC 9457, 3).
const ProblemType = "application/problem+json"

// ProblemBase and a code make a problem's type URI.
const ProblemBase = "https://github.com/clearbox-im/clearbox/blob/main/docs/problems.md#"

// Problem is a problem document (RFC 9457). A program looks at Code; Detail is
// for a person.
type Problem struct {
	Type       string        `json:"type"`
	Title      string        `json:"title"`
	Status     int           `json:"status"`
	Detail     string        `json:"detail,omitempty"`
	Code       clearbox.Code `json:"code"`
	RequestID  string        `json:"request_id,omitempty"`
	Errors     []FieldError  `json:"errors,omitempty"`
	RetryAfter int           `json:"retry_after,omitempty"` // seconds, as the header
	Stale      *StaleDevices `json:"stale_devices,omitempty"`

	StaleMembers []StaleDevices `json:"stale_members,omitempty"` // of a message to a group: those beside stale_devices
	Epoch        uint64         `json:"epoch,omitempty"`         // group_changed: the current one
}

// StaleDevices says how a submission's devices differ from the current ones.
type StaleDevices struct {
	User    clearbox.UserID      `json:"user"`
	Version int64                `json:"version"`
	Missing []clearbox.DeviceRef `json:"missing"`
	Extra   []clearbox.DeviceRef `json:"extra"`
}

// Err is the error that the problem tells of: *clearbox.StaleDevicesError,
// *clearbox.GroupChangedError or *clearbox.Error with the problem's code.
func (p *Problem) Err() error {
	if p.Code == clearbox.CodeStaleDevices && p.Stale != nil {
		stale := p.Stale.err()
		for i := range p.StaleMembers {
			stale.Others = append(stale.Others, p.StaleMembers[i].err())
		}
		return &stale
	}
	if p.Code == clearbox.CodeGroupChanged {
		return &clearbox.GroupChangedError{Epoch: p.Epoch}
	}
	if p.Code == clearbox.CodeGroupChanged {
		return &clearbox.GroupChangedError{Epoch: p.Epoch}
	}
	e := &clearbox.Error{Code: p.Code, Text: p.Detail}
	if e.Code == "" {
		e.Code = clearbox.CodeInternal
	}
	if e.Text == "" {
		e.Text = p.Title
	}
	if len(p.Errors) > 0 {
		e.Field = p.Errors[0].Pointer
	}
	return e
}

func (s *StaleDevices) err() clearbox.StaleDevicesError {
	return clearbox.StaleDevicesError{User: s.User, Version: s.Version, Missing: s.Missing, Extra: s.Extra}
}
