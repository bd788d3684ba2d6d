package wire

import (
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// Bounds of what administrators say about peers.
const (
	MaxPeerFeatures = 8
	MaxBlockReason  = 64             // characters of the word that says why a server is blocked
	maxPeerQuota    = int64(1) << 40 // envelopes or bytes a second
)

// Directions of a peering, as this server sees it.
const (
	DirectionIn   = "in"   // the peer's people may write to ours
	DirectionOut  = "out"  // our people may write to the peer's
	DirectionBoth = "both" //
)

// Features that may be exchanged with a peer beyond messages.
const (
	FeaturePresence = "presence"
	FeatureTyping   = "typing"
)

// AdminPeerSet is the body of POST /admin/peers/{server}/set, answered by
// AdminPeer: what of a peering is to be otherwise. What is absent stays.
type AdminPeerSet struct {
	Direction *string   `json:"direction,omitempty"`
	Features  *[]string `json:"features,omitempty"` // all of them; empty takes them away
	Envelopes *int64    `json:"envelopes_per_second,omitempty"`
	Bytes     *int64    `json:"bytes_per_second,omitempty"` // 0: as for all peers
	Country   *string   `json:"country,omitempty"`
	Listed    bool      `json:"listed,omitempty"` // a peer of the first contact becomes one like all others
}

// Check bounds the fields.
func (b *AdminPeerSet) Check() error {
	var f faults
	if b.Direction != nil {
		f.check(ValidDirection(*b.Direction), "/direction", "must be in, out or both")
	}
	if b.Features != nil {
		f.check(len(*b.Features) <= MaxPeerFeatures, "/features", "has at most "+strconv.Itoa(MaxPeerFeatures)+" elements")
		for i, feature := range *b.Features {
			f.check(ValidFeature(feature), at("/features", i), "must be presence or typing")
		}
	}
	for pointer, n := range map[string]*int64{"/envelopes_per_second": b.Envelopes, "/bytes_per_second": b.Bytes} {
		f.check(n == nil || *n >= 0 && *n <= maxPeerQuota, pointer, "is at least 0 and at most "+strconv.FormatInt(maxPeerQuota, 10))
	}
	if b.Country != nil {
		checkCountry(&f, *b.Country)
	}
	f.check(b.Listed || b.Direction != nil || b.Features != nil || b.Envelopes != nil || b.Bytes != nil || b.Country != nil, "", "changes nothing: name at least one thing to set")
	return f.result()
}

// ValidDirection tells whether it is one of the directions.
func ValidDirection(s string) bool {
	return s == DirectionIn || s == DirectionOut || s == DirectionBoth
}

// ValidFeature tells whether it is one of the features.
func ValidFeature(s string) bool { return s == FeaturePresence || s == FeatureTyping }

// AdminBlock is a server with which nothing is exchanged, or a domain with all
// below it.
type AdminBlock struct {
	Name    string          `json:"name"`   // a server, or *. and a domain
	Reason  string          `json:"reason"` // a word, such as spam
	Created clearbox.Millis `json:"created"`
	Expires clearbox.Millis `json:"expires,omitempty"` // 0: never
}

// AdminBlocks is the answer of GET /admin/fed/blocks.
type AdminBlocks struct {
	Blocks []AdminBlock `json:"blocks"`
}

// AdminBlockSet is the body of POST /admin/fed/blocks, answered by AdminBlock.
type AdminBlockSet struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	TTL    int64  `json:"ttl_seconds,omitempty"` // 0: for good
}

// Check bounds the fields.
func (b *AdminBlockSet) Check() error {
	var f faults
	_, err := clearbox.ParseServerName(strings.TrimPrefix(b.Name, "*."))
	f.addError("/name", err)
	ok := b.Reason != "" && len(b.Reason) <= MaxBlockReason
	for i := 0; ok && i < len(b.Reason); i++ {
		c := b.Reason[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	f.check(ok, "/reason", "is a word of up to "+strconv.Itoa(MaxBlockReason)+" small letters, digits, - and _, such as spam")
	f.check(b.TTL >= 0 && b.TTL <= maxBlockTTL, "/ttl_seconds", "is at least 0 and at most "+strconv.Itoa(maxBlockTTL))
	return f.result()
}

const maxBlockTTL = 10 * 365 * 24 * 3600 // seconds

// AdminUnblock is the body of POST /admin/fed/unblock.
type AdminUnblock struct {
	Name string `json:"name"` // as it was blocked
}

// Check demands a name.
func (b *AdminUnblock) Check() error {
	var f faults
	_, err := clearbox.ParseServerName(strings.TrimPrefix(b.Name, "*."))
	f.addError("/name", err)
	return f.result()
}

// AdminPeerAlert is something about a peer that a person must look at.
type AdminPeerAlert struct {
	Server clearbox.ServerName `json:"server"`
	Kind   string              `json:"kind"` // such as rollback, identity_changed, split_view, downgrade, clock_skew, queue_parked
	Since  clearbox.Millis     `json:"since"`
	Last   clearbox.Millis     `json:"last"`
	Count  int64               `json:"count"` // at most one an hour is counted
}

// AdminPeerAlerts is the answer of GET /admin/fed/alerts, oldest first.
type AdminPeerAlerts struct {
	Alerts []AdminPeerAlert `json:"alerts"`
}

// AdminAlertsResolve is the body of POST /admin/fed/alerts/resolve, answered by
// AdminAlertsResolved: somebody has looked.
type AdminAlertsResolve struct {
	Server clearbox.ServerName `json:"server,omitempty"` // every peer if empty
	Kind   string              `json:"kind,omitempty"`   // every kind if empty
}

// Check bounds the fields.
func (b *AdminAlertsResolve) Check() error {
	var f faults
	if b.Server != "" {
		_, err := clearbox.ParseServerName(string(b.Server))
		f.addError("/server", err)
	}
	f.check(len(b.Kind) <= MaxBlockReason, "/kind", "is not a kind of alert")
	return f.result()
}

// AdminAlertsResolved tells how many there were.
type AdminAlertsResolved struct {
	Resolved int64 `json:"resolved"`
}

// AdminPeerStep is a step in ending a peering, in order.
type AdminPeerStep struct {
	Name string          `json:"name"`           // traffic, queue, close
	Done clearbox.Millis `json:"done,omitempty"` // 0: still to do
}
