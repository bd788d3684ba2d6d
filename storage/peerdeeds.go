package storage

import "github.com/clearbox-im/clearbox"

// PeerBlock is a server, or all below a domain, with which nothing is exchanged.
type PeerBlock struct {
	Name    string // a server, or *. and a domain: that one and all below it
	Reason  string // why, as a word
	Created clearbox.Millis
	Expires clearbox.Millis // 0 = never
}

// PutPeerBlock stores a block; one with the same name gets its reason and end.
func (tx *Tx) PutPeerBlock(b PeerBlock) error {
	_, err := tx.exec(`INSERT INTO peer_blocks (name, reason, created, expires) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, expires = excluded.expires`,
		b.Name, b.Reason, int64(tx.now), int64(b.Expires))
	return err
}

// DeletePeerBlock ends a block. ErrNotFound: there is none of that name.
func (tx *Tx) DeletePeerBlock(name string) error {
	return tx.change("DELETE FROM peer_blocks WHERE name = $1", name)
}

// ExpirePeerBlocks deletes what is over.
func (tx *Tx) ExpirePeerBlocks() error {
	_, err := tx.exec("DELETE FROM peer_blocks WHERE expires > 0 AND expires <= $1", int64(tx.now))
	return err
}

// PeerBlocks gives the blocks that are in force, in order of name.
func (tx *Tx) PeerBlocks() ([]PeerBlock, error) {
	var out []PeerBlock
	var b PeerBlock
	var created, expires int64
	err := tx.each("SELECT name, reason, created, expires FROM peer_blocks WHERE expires = 0 OR expires > $1 ORDER BY name", args(int64(tx.now)),
		[]any{&b.Name, &b.Reason, &created, &expires}, func() error {
			b.Created, b.Expires = clearbox.Millis(created), clearbox.Millis(expires)
			out = append(out, b)
			return nil
		})
	return out, err
}

// PeerAlert is something about a peer that a person must look at.
type PeerAlert struct {
	Peer     clearbox.ServerName
	Kind     string
	Since    clearbox.Millis // when it was raised first
	Last     clearbox.Millis // and last
	Count    int64
	Resolved clearbox.Millis // 0 = still open
}

// RaisePeerAlert counts an alert; one that was resolved begins anew. There is
// one of each kind and peer.
func (tx *Tx) RaisePeerAlert(peer clearbox.ServerName, kind string) error {
	_, err := tx.exec(`INSERT INTO peer_alerts (peer, kind, since, last, count, resolved) VALUES ($1, $2, $3, $3, 1, 0)
		ON CONFLICT (peer, kind) DO UPDATE SET last = excluded.last, resolved = 0,
		since = CASE WHEN peer_alerts.resolved = 0 THEN peer_alerts.since ELSE excluded.since END,
		count = CASE WHEN peer_alerts.resolved = 0 THEN peer_alerts.count + 1 ELSE 1 END`,
		string(peer), kind, int64(tx.now))
	return err
}

// ResolvePeerAlerts closes what is open: of one peer or, with an empty name, of
// all, and of one kind or of all. It tells how many were closed.
func (tx *Tx) ResolvePeerAlerts(peer clearbox.ServerName, kind string) (int64, error) {
	return tx.exec(`UPDATE peer_alerts SET resolved = $1 WHERE resolved = 0 AND ($2 = '' OR peer = $2) AND ($3 = '' OR kind = $3)`,
		int64(max(1, tx.now)), string(peer), kind)
}

// PeerAlerts gives the open alerts, oldest first.
func (tx *Tx) PeerAlerts() ([]PeerAlert, error) {
	var out []PeerAlert
	var a PeerAlert
	var peer string
	var since, last, resolved int64
	err := tx.each("SELECT peer, kind, since, last, count, resolved FROM peer_alerts WHERE resolved = 0 ORDER BY since, peer, kind", nil,
		[]any{&peer, &a.Kind, &since, &last, &a.Count, &resolved}, func() error {
			a.Peer, a.Since, a.Last, a.Resolved = clearbox.ServerName(peer), clearbox.Millis(since), clearbox.Millis(last), clearbox.Millis(resolved)
			out = append(out, a)
			return nil
		})
	return out, err
}

// ForgetPeerAlerts deletes what was resolved before that moment.
func (tx *Tx) ForgetPeerAlerts(before clearbox.Millis) error {
	_, err := tx.exec("DELETE FROM peer_alerts WHERE resolved > 0 AND resolved < $1", int64(before))
	return err
}
