package storage

import (
	"github.com/clearbox-im/clearbox"
)

// MaxOneTimePreKeys is how many of each kind a device may store.
const MaxOneTimePreKeys = 100

// PreKey is the public half of a prekey. Signature is empty for one-time EC
// keys, which carry none.
type PreKey struct {
	ID        uint32
	Public    []byte
	Signature []byte
}

const (
	kindEC  = "ec"
	kindKEM = "kem"
)

// PutSignedPreKeys replaces a device's signed EC prekey and last-resort KEM
// prekey. Signatures are the caller's to verify.
func (tx *Tx) PutSignedPreKeys(deviceNo int64, ec, kem PreKey) error {
	_, err := tx.exec(`INSERT INTO signed_prekeys (device_no, ec_id, ec_public, ec_signature, kem_id, kem_public, kem_signature, stored)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (device_no) DO UPDATE SET ec_id = excluded.ec_id,
		ec_public = excluded.ec_public, ec_signature = excluded.ec_signature, kem_id = excluded.kem_id,
		kem_public = excluded.kem_public, kem_signature = excluded.kem_signature, stored = excluded.stored`,
		deviceNo, int64(ec.ID), ec.Public, ec.Signature, int64(kem.ID), kem.Public, kem.Signature, int64(tx.now))
	return err
}

// SignedPreKeys gives the keys that PutSignedPreKeys stored, and when.
func (tx *Tx) SignedPreKeys(deviceNo int64) (ec, kem PreKey, stored clearbox.Millis, err error) {
	var ecID, kemID, at int64
	err = tx.one(`SELECT ec_id, ec_public, ec_signature, kem_id, kem_public, kem_signature, stored FROM signed_prekeys WHERE device_no = $1`,
		args(deviceNo), &ecID, &ec.Public, &ec.Signature, &kemID, &kem.Public, &kem.Signature, &at)
	ec.ID, kem.ID = uint32(ecID), uint32(kemID)
	return ec, kem, clearbox.Millis(at), err
}

// AddOneTimePreKeys adds to a device's one-time keys. An id that is there
// already is left as it is, so an upload may be repeated. ErrQuota when more
// than MaxOneTimePreKeys of a kind would be kept: nothing may then be kept of
// the update.
func (tx *Tx) AddOneTimePreKeys(deviceNo int64, ec, kem []PreKey) error {
	for kind, keys := range map[string][]PreKey{kindEC: ec, kindKEM: kem} {
		for _, k := range keys {
			_, err := tx.exec(`INSERT INTO one_time_prekeys (device_no, kind, key_id, public_key, signature) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT DO NOTHING`, deviceNo, kind, int64(k.ID), k.Public, k.Signature)
			if err != nil {
				return err
			}
		}
	}
	ecs, kems, err := tx.PreKeyCounts(deviceNo)
	if err == nil && (ecs > MaxOneTimePreKeys || kems > MaxOneTimePreKeys) {
		return ErrQuota
	}
	return err
}

// ClearOneTimePreKeys drops all one-time keys of a device, before it uploads
// others in their place.
func (tx *Tx) ClearOneTimePreKeys(deviceNo int64) error {
	_, err := tx.exec("DELETE FROM one_time_prekeys WHERE device_no = $1", deviceNo)
	return err
}

// PreKeyCounts tells how many one-time keys are left.
func (tx *Tx) PreKeyCounts(deviceNo int64) (ec, kem int, err error) {
	var ecs, kems int64
	err = tx.one(`SELECT COALESCE(SUM(CASE WHEN kind = 'ec' THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN kind = 'kem' THEN 1 ELSE 0 END), 0)
		FROM one_time_prekeys WHERE device_no = $1`, args(deviceNo), &ecs, &kems)
	return int(ecs), int(kems), err
}

// TakePreKeys gives what a stranger needs to begin a session with a device:
// the signed EC key, a KEM key, and a one-time EC key or nil. With oneTime,
// one-time keys are taken, lowest id first, as long as more than reserve of
// their kind are left; the KEM key is the last-resort one otherwise. What is
// taken is deleted in the statement that reads it, so it is given once.
// ErrNotFound: the device has uploaded no keys, or is gone.
func (tx *Tx) TakePreKeys(deviceNo int64, oneTime bool, reserve int) (signed, kem PreKey, one *PreKey, err error) {
	signed, kem, _, err = tx.SignedPreKeys(deviceNo)
	if err != nil || !oneTime {
		return signed, kem, nil, err
	}
	if one, err = tx.takeOneTime(deviceNo, kindEC, reserve); err != nil {
		return PreKey{}, PreKey{}, nil, err
	}
	k, err := tx.takeOneTime(deviceNo, kindKEM, reserve)
	if err != nil {
		return PreKey{}, PreKey{}, nil, err
	}
	if k != nil {
		kem = *k
	}
	return signed, kem, one, nil
}

// takeOneTime takes a key if more than reserve are there: it skips reserve of
// them, counted from the highest id, and takes what then comes first.
func (tx *Tx) takeOneTime(deviceNo int64, kind string, reserve int) (*PreKey, error) {
	var k PreKey
	var id int64
	err := tx.write(`DELETE FROM one_time_prekeys WHERE device_no = $1 AND kind = $2 AND key_id = (
			SELECT MIN(key_id) FROM (SELECT key_id FROM one_time_prekeys WHERE device_no = $1 AND kind = $2
				ORDER BY key_id DESC LIMIT 1000 OFFSET $3) AS spare)
		RETURNING key_id, public_key, signature`, args(deviceNo, kind, int64(reserve)), &id, &k.Public, &k.Signature)
	if err == ErrNotFound {
		return nil, nil
	}
	k.ID = uint32(id)
	return &k, err
}

// PutClaim keeps the answer to a claim of prekeys, so that the same claim gets
// the same answer. peer is empty for a claim by a local user, whose claimID the
// caller makes unique (user and id). *ExistsError with Field "id".
func (tx *Tx) PutClaim(claimID string, peer clearbox.ServerName, targetNo int64, answer []byte, expires clearbox.Millis) error {
	n, err := tx.exec(`INSERT INTO claims (peer, claim_id, target_no, answer, expires) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		string(peer), claimID, targetNo, answer, int64(expires))
	if err == nil && n == 0 {
		return &ExistsError{Field: "id"}
	}
	return err
}

// Claim gives the answer that PutClaim kept; ErrNotFound after its expiry.
func (tx *Tx) Claim(claimID string, peer clearbox.ServerName) (answer []byte, targetNo int64, err error) {
	err = tx.one("SELECT answer, target_no FROM claims WHERE peer = $1 AND claim_id = $2 AND expires > $3",
		args(string(peer), claimID, int64(tx.now)), &answer, &targetNo)
	return answer, targetNo, err
}

// ExpireClaims deletes at most limit claims whose time is up.
func (tx *Tx) ExpireClaims(now clearbox.Millis, limit int) (int64, error) {
	return tx.exec(`DELETE FROM claims WHERE (peer, claim_id) IN (SELECT peer, claim_id FROM claims WHERE expires <= $1 ORDER BY expires LIMIT $2)`,
		int64(now), int64(limit))
}
