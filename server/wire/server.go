package wire

import "github.com/clearbox-im/clearbox"

// WellKnown is the answer of GET /.well-known/clearbox: what a client needs to
// know before it knows anybody.
type WellKnown struct {
	Server       clearbox.ServerName `json:"server"`
	Version      string              `json:"version"`
	Registration string              `json:"registration"` // invite, open or closed
	Subprotocols []string            `json:"subprotocols"`
	MaxFrame     int                 `json:"max_frame"`
	Features     []string            `json:"features"`
	Notice       string              `json:"notice"` // version of the privacy notice
}

// Version is the answer of GET /version.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Live is the answer of GET /livez: the process answers.
type Live struct {
	Live bool `json:"live"`
}

// Ready is the answer of GET /readyz, with status 503 when Ready is false.
type Ready struct {
	Ready    bool         `json:"ready"`
	Draining bool         `json:"draining,omitempty"`
	Checks   []ReadyCheck `json:"checks"`
}

// ReadyCheck is the state of one dependency.
type ReadyCheck struct {
	Name string        `json:"name"`
	OK   bool          `json:"ok"`
	Code clearbox.Code `json:"code,omitempty"` // why not

	Until clearbox.Millis `json:"until,omitempty"` // when it will not be ok any more, if that is near
}
