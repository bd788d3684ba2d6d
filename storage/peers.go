package storage

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
)

// PeerState is where a peering stands.
type PeerState string

// The states.
const (
	PeerInvited   PeerState = "invited"
	PeerPending   PeerState = "pending"
	PeerActive    PeerState = "active"
	PeerSuspended PeerState = "suspended"
	PeerLeaving   PeerState = "leaving" // the peering is being ended, step by step
	PeerRemoved   PeerState = "removed"
)

// Peer is another organisation's homeserver.
type Peer struct {
	Server       clearbox.ServerName
	State        PeerState
	Pin          []byte   // SHA-256 of the identity key
	Identity     []byte   // the pinned identity key
	Document     []byte   // its newest server document, signed
	Seq          int64    // of Document
	Endpoints    []string // where it is reached
	Country      string   // ISO 3166-1 alpha-2, as the admin said
	AllowPrivate bool     // may resolve to private addresses
	Direction    string   // "in", "out", "both"
	ClockOffset  int64    // milliseconds that its clock is ahead of ours
	LastSeen     clearbox.Millis
	LastTry      clearbox.Millis
	Created      clearbox.Millis
	Failures     int // in a row
	NextTry      clearbox.Millis
	LastError    clearbox.Code
	Trouble      string          // the kind of LastError, "" after a success
	Since        clearbox.Millis // first failure after the last success, 0 after a success

	FirstUse       bool            // nobody here agreed to the peering: it was made in mode open by the first contact
	ProbationUntil clearbox.Millis // until then its quotas are smaller; 0 = none
	Features       []string        // beyond messages, what is exchanged with it
	Envelopes      int64           // a second that it may bring; 0 = as all peers
	Bytes          int64           // the same
	StateSince     clearbox.Millis // when State began; 0 = not known
	Steps          []PeerStep      // of the end of the peering, in order
}

// PeerStep is one step in ending a peering.
type PeerStep struct {
	Name string          `json:"name"`
	Done clearbox.Millis `json:"done,omitempty"` // 0 = still to do
}

const peerColumns = `server, state, pin, identity_key, document, seq, endpoints, country, allow_private, direction, clock_offset,
	last_seen, last_try, created, failures, next_try, last_error, trouble, failing_since, first_use, probation_until, features,
	envelopes_per_second, bytes_per_second, state_since, steps`

// PutPeer stores a peer, new or known. A zero Created means now.
func (tx *Tx) PutPeer(p *Peer) error {
	if p.Created == 0 {
		p.Created = tx.now
	}
	lists := make([]any, 3)
	for i, list := range [...]any{p.Endpoints, notNil(p.Features), notNil(p.Steps)} {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		lists[i] = string(text)
	}
	_, err := tx.exec("INSERT INTO peers ("+peerColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)
		ON CONFLICT (server) DO UPDATE SET state = excluded.state, pin = excluded.pin, identity_key = excluded.identity_key,
		document = excluded.document, seq = excluded.seq, endpoints = excluded.endpoints, country = excluded.country,
		allow_private = excluded.allow_private, direction = excluded.direction, clock_offset = excluded.clock_offset,
		last_seen = excluded.last_seen, last_try = excluded.last_try, created = excluded.created, failures = excluded.failures,
		next_try = excluded.next_try, last_error = excluded.last_error, trouble = excluded.trouble,
		failing_since = excluded.failing_since, first_use = excluded.first_use,
		probation_until = excluded.probation_until, features = excluded.features, envelopes_per_second = excluded.envelopes_per_second,
		bytes_per_second = excluded.bytes_per_second, state_since = excluded.state_since, steps = excluded.steps`,
		string(p.Server), string(p.State), p.Pin, p.Identity, p.Document, p.Seq, lists[0], p.Country, number(p.AllowPrivate),
		p.Direction, p.ClockOffset, int64(p.LastSeen), int64(p.LastTry), int64(p.Created), int64(p.Failures), int64(p.NextTry), string(p.LastError),
		p.Trouble, int64(p.Since), number(p.FirstUse), int64(p.ProbationUntil), lists[1], p.Envelopes, p.Bytes, int64(p.StateSince), lists[2])
	return err
}

// notNil makes lists that are written as [] rather than null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// Peer finds a peer.
func (tx *Tx) Peer(server clearbox.ServerName) (Peer, error) {
	ps, err := tx.peers("SELECT "+peerColumns+" FROM peers WHERE server = $1", string(server))
	if err == nil && len(ps) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Peer{}, err
	}
	return ps[0], nil
}

// Peers gives all peers in order of name.
func (tx *Tx) Peers() ([]Peer, error) {
	return tx.peers("SELECT " + peerColumns + " FROM peers ORDER BY server")
}

func (tx *Tx) peers(query string, a ...any) ([]Peer, error) {
	var ps []Peer
	var p Peer
	var server, state, endpoints, features, steps, lastError string
	var seen, tried, created, failures, next, since, probation, stateSince int64
	dest := []any{&server, &state, &p.Pin, &p.Identity, &p.Document, &p.Seq, &endpoints, &p.Country, &p.AllowPrivate, &p.Direction,
		&p.ClockOffset, &seen, &tried, &created, &failures, &next, &lastError, &p.Trouble, &since,
		&p.FirstUse, &probation, &features, &p.Envelopes, &p.Bytes, &stateSince, &steps}
	err := tx.each(query, a, dest, func() error {
		p.Server, p.State, p.Failures, p.LastError = clearbox.ServerName(server), PeerState(state), int(failures), clearbox.Code(lastError)
		p.LastSeen, p.LastTry = clearbox.Millis(seen), clearbox.Millis(tried)
		p.Created, p.NextTry, p.Since = clearbox.Millis(created), clearbox.Millis(next), clearbox.Millis(since)
		p.ProbationUntil, p.StateSince = clearbox.Millis(probation), clearbox.Millis(stateSince)
		p.Endpoints, p.Features, p.Steps = nil, nil, nil
		err := errors.Join(json.Unmarshal([]byte(endpoints), &p.Endpoints), json.Unmarshal([]byte(features), &p.Features), json.Unmarshal([]byte(steps), &p.Steps))
		if err != nil {
			return fmt.Errorf("read the lists of a peer: %w", err)
		}
		if len(p.Features) == 0 {
			p.Features = nil
		}
		if len(p.Steps) == 0 {
			p.Steps = nil
		}
		ps = append(ps, p)
		return nil
	})
	return ps, err
}

// DeletePeer removes a peer with its streams and answers. Its queue must be
// settled before; items that are left stay until they expire.
func (tx *Tx) DeletePeer(server clearbox.ServerName) error {
	for _, q := range [...]string{
		"DELETE FROM in_streams WHERE peer = $1",
		"DELETE FROM in_answers WHERE peer = $1",
		"DELETE FROM out_streams WHERE peer = $1 AND items = 0",
		"DELETE FROM claims WHERE peer = $1",
		"DELETE FROM remote_users WHERE server = $1",
		"DELETE FROM peer_alerts WHERE peer = $1",
	} {
		if _, err := tx.exec(q, string(server)); err != nil {
			return err
		}
	}
	return tx.change("DELETE FROM peers WHERE server = $1", string(server))
}

// PeerInvite lets one server begin a peering. Only the code's hash is kept.
type PeerInvite struct {
	Hash    []byte
	Server  clearbox.ServerName // whom it is meant for
	Country string
	Expires clearbox.Millis
	Used    clearbox.Millis
}

// PutPeerInvite stores an invite; an older one with the same hash is replaced.
func (tx *Tx) PutPeerInvite(v PeerInvite) error {
	_, err := tx.exec(`INSERT INTO peer_invites (hash, server, country, expires, used) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (hash) DO UPDATE SET server = excluded.server, country = excluded.country, expires = excluded.expires, used = excluded.used`,
		v.Hash, string(v.Server), v.Country, int64(v.Expires), int64(v.Used))
	return err
}

// DeletePeerInvites withdraws every invite for a server.
func (tx *Tx) DeletePeerInvites(server clearbox.ServerName) error {
	_, err := tx.exec("DELETE FROM peer_invites WHERE server = $1", string(server))
	return err
}

// UsePeerInvite spends an invite. ErrNotFound: unknown, used or expired.
func (tx *Tx) UsePeerInvite(hash []byte) (PeerInvite, error) {
	v := PeerInvite{Hash: hash, Used: max(1, tx.now)}
	var server string
	var expires int64
	err := tx.write("UPDATE peer_invites SET used = $1 WHERE hash = $2 AND used = 0 AND expires > $3 RETURNING server, country, expires",
		args(int64(v.Used), hash, int64(tx.now)), &server, &v.Country, &expires)
	v.Server, v.Expires = clearbox.ServerName(server), clearbox.Millis(expires)
	return v, err
}
