package wire

import "github.com/clearbox-im/clearbox"

// AdminConformance is the answer of POST /admin/peers/{server}/conformance.
type AdminConformance struct {
	Server clearbox.ServerName     `json:"server"`
	OK     bool                    `json:"ok"`
	Checks []AdminConformanceCheck `json:"checks"`
}

// AdminConformanceCheck is one check of whether a peer keeps the protocol.
type AdminConformanceCheck struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Want string `json:"want"`
	Got  string `json:"got"`
	Took int64  `json:"took_ms"`
}
