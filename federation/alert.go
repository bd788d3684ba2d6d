package federation

import (
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Alert is a kind of trouble with a peer that a person must look at.
type Alert string

// The kinds of alerts. The words are stored and shown; they are only added to.
const (
	AlertRollback  Alert = "rollback"         // an older document than the stored one, or another one under its sequence
	AlertIdentity  Alert = "identity_changed" // a document of another identity than the pinned one
	AlertSplitView Alert = "split_view"       // a server shows different documents to different servers
	AlertDowngrade Alert = "downgrade"        // a lower protocol version than both sides speak
	AlertClock     Alert = "clock_skew"       // a clock that is too far off to be corrected
	AlertParked    Alert = "queue_parked"     // the peer refuses our messages: suspended, or unknown there
)

// Alerts about what a hub says of groups.
const (
	AlertGroupFork    Alert = "group_fork"    // two operations for one place in a group's history
	AlertGroupInvalid Alert = "group_invalid" // an operation that nobody could have accepted
)

// alertEvery is how often one kind is told about one peer.
const alertEvery = time.Hour

// alert tells an operator, once an hour for each peer and kind.
func (c *Client) alert(peer clearbox.ServerName, kind Alert) {
	now := c.opts.Now()
	c.mu.Lock()
	k := c.entry(peer)
	last, before := k.alerted[kind]
	again := before && now.Sub(last) < alertEvery && !now.Before(last)
	if !again {
		if k.alerted == nil {
			k.alerted = map[Alert]time.Time{}
		}
		k.alerted[kind] = now
	}
	c.mu.Unlock()
	if !again && c.opts.Alert != nil {
		c.opts.Alert(peer, kind)
	}
}

// alertRefused tells about a document that was refused.
func (c *Client) alertRefused(peer clearbox.ServerName, err error) {
	var rollback *RollbackError
	var pin *PinError
	switch {
	case errors.As(err, &rollback):
		c.alert(peer, AlertRollback)
	case errors.As(err, &pin):
		c.alert(peer, AlertIdentity)
	}
}

// noteOffer compares what a peer's new document offers with the stored one: a
// peer that speaks less than before is believed and looked at.
func (c *Client) noteOffer(p *Peer, doc *Document) {
	prev, err := ParseDocument(p.Document)
	if err == nil && versionBelow(doc.Protocol.Max, prev.Protocol.Max) {
		c.opts.Log.Warn("the peer's document offers a lower protocol version than the one before it", "peer", string(p.Server),
			"version", doc.Protocol.Max, "before", prev.Protocol.Max)
		c.alert(p.Server, AlertDowngrade)
	}
}

// version is the one to speak with a peer.
func (c *Client) version(p *Peer) (string, error) {
	doc := c.document(p)
	if doc == nil {
		return c.self.Protocol().Max, nil // it expired between two looks; the answer will not verify
	}
	return Common(c.self.Protocol(), doc.Protocol)
}

// spoken judges the version of a peer's request whose signature was good. Less
// than both sides speak needs a reason, and there is one only: the peer holds an
// older document of ours, which offered no more. What it said in its last
// greeting decides; before that, any document of ours that it may still hold is
// good enough.
func (c *Client) spoken(p *Peer, version string) error {
	own := c.self.Protocol()
	if versionBelow(version, own.Min) {
		return clearbox.Errorf(clearbox.CodeUnsupportedVersion, "version %s is not spoken here any more", version)
	}
	doc := c.document(p)
	if doc == nil {
		return nil
	}
	c.mu.Lock()
	own.Max = c.entry(p.Server).seen
	c.mu.Unlock()
	if own.Max == "" {
		own.Max = c.self.lowest()
	}
	if expected, err := Common(own, doc.Protocol); err == nil && versionBelow(version, expected) {
		c.opts.Log.Error("downgrade: the peer's requests speak a lower version than its document", "peer", string(p.Server), "version", version, "expected", expected)
		c.alert(p.Server, AlertDowngrade)
	}
	return nil
}
