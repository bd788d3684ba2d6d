package storage

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// DeviceRecord is a device of a local account. No is global and never reused;
// ID may be taken again after a removal.
type DeviceRecord struct {
	No           int64
	UserNo       int64
	ID           clearbox.DeviceID
	Registration uint16
	Key          []byte // Ed25519 public key
	Name         string // sealed under the account's key
	Added        clearbox.Millis
	LastSeenDay  clearbox.Millis // to the day: gdpr.md 12
	Removed      clearbox.Millis // 0 while active
	AckedSeq     int64           // mail up to here was acknowledged
	NextSeq      int64           // what the next mail will get
}

// maxDeviceNo leaves 31 bits for the device in a mail's id.
const maxDeviceNo = 1<<31 - 1

// AddDevice stores a device with an empty mailbox and sets d.No. A zero Added
// means now. *ExistsError with Field "device" when the account has an active
// device of this id.
func (tx *Tx) AddDevice(d *DeviceRecord) error {
	if d.Added == 0 {
		d.Added = tx.now
	}
	key, err := tx.userKey(d.UserNo)
	if err != nil {
		return err
	}
	name, err := tx.seal(key, PurposeProfile, "devices", "name", deviceRow(d.UserNo, d.ID), []byte(d.Name))
	if err != nil {
		return err
	}
	err = tx.write(`INSERT INTO devices (user_no, device_id, registration, public_key, name, added, last_seen_day, removed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0) ON CONFLICT DO NOTHING RETURNING no`,
		args(d.UserNo, int64(d.ID), int64(d.Registration), d.Key, name, int64(d.Added), int64(d.LastSeenDay)), &d.No)
	if err == ErrNotFound {
		return &ExistsError{Field: "device"}
	}
	if err != nil {
		return err
	}
	if d.No > maxDeviceNo {
		return errors.New("storage: device numbers are used up")
	}
	d.Removed, d.AckedSeq, d.NextSeq = 0, 0, 1
	_, err = tx.exec(`INSERT INTO mailboxes (device_no, next_seq, acked_seq, mails, bytes, next_expiry) VALUES ($1, 1, 0, 0, 0, $2)`,
		d.No, neverExpires)
	if err != nil {
		return err
	}
	return tx.peopleChanged()
}

func deviceRow(userNo int64, id clearbox.DeviceID) string {
	return strconv.FormatInt(userNo, 10) + "/" + strconv.Itoa(int(id))
}

// RemoveDevice ends a device: its mail, prekeys and name are deleted and its
// sessions revoked; the row keeps its number from being given again. It returns
// the ids of the sessions that were alive.
func (tx *Tx) RemoveDevice(userNo int64, id clearbox.DeviceID) (sessions []string, err error) {
	var no int64
	err = tx.write(`UPDATE devices SET removed = $1, name = $2, public_key = $3 WHERE user_no = $4 AND device_id = $5 AND removed = 0 RETURNING no`,
		args(max(1, int64(tx.now)), []byte{}, []byte{}, userNo, int64(id)), &no)
	if err != nil {
		return nil, err
	}
	first, last := mailRange(no)
	if err := tx.releaseBodies(first, last); err != nil {
		return nil, err
	}
	if _, err := tx.exec("DELETE FROM mail WHERE id >= $1 AND id <= $2", first, last); err != nil {
		return nil, err
	}
	for _, q := range [...]string{
		"DELETE FROM mailboxes WHERE device_no = $1",
		"DELETE FROM signed_prekeys WHERE device_no = $1",
		"DELETE FROM one_time_prekeys WHERE device_no = $1",
	} {
		if _, err := tx.exec(q, no); err != nil {
			return nil, err
		}
	}
	if err := tx.peopleChanged(); err != nil {
		return nil, err
	}
	return tx.RevokeDeviceSessions(no)
}

const deviceQuery = `SELECT d.no, d.user_no, d.device_id, d.registration, d.public_key, d.name, d.added, d.last_seen_day, d.removed,
	COALESCE(m.acked_seq, 0), COALESCE(m.next_seq, 0), u.key_id
	FROM devices d JOIN users u ON u.no = d.user_no LEFT JOIN mailboxes m ON m.device_no = d.no WHERE d.removed = 0 AND `

// Devices gives an account's active devices in order of their id.
func (tx *Tx) Devices(userNo int64) ([]DeviceRecord, error) {
	return tx.devices(deviceQuery+"d.user_no = $1 ORDER BY d.device_id", userNo)
}

// Device gives one active device.
func (tx *Tx) Device(userNo int64, id clearbox.DeviceID) (DeviceRecord, error) {
	return firstDevice(tx.devices(deviceQuery+"d.user_no = $1 AND d.device_id = $2", userNo, int64(id)))
}

// DeviceByNo gives one active device by its number.
func (tx *Tx) DeviceByNo(no int64) (DeviceRecord, error) {
	return firstDevice(tx.devices(deviceQuery+"d.no = $1", no))
}

func firstDevice(ds []DeviceRecord, err error) (DeviceRecord, error) {
	if err != nil {
		return DeviceRecord{}, err
	}
	if len(ds) == 0 {
		return DeviceRecord{}, ErrNotFound
	}
	return ds[0], nil
}

func (tx *Tx) devices(query string, a ...any) ([]DeviceRecord, error) {
	var ds []DeviceRecord
	var d DeviceRecord
	var id, registration, added, seen, removed int64
	var name, key []byte
	dest := []any{&d.No, &d.UserNo, &id, &registration, &d.Key, &name, &added, &seen, &removed, &d.AckedSeq, &d.NextSeq, &key}
	err := tx.each(query, a, dest, func() error {
		d.ID, d.Registration = clearbox.DeviceID(id), uint16(registration)
		d.Added, d.LastSeenDay, d.Removed = clearbox.Millis(added), clearbox.Millis(seen), clearbox.Millis(removed)
		plain, err := tx.open(keyID(key), PurposeProfile, "devices", "name", deviceRow(d.UserNo, d.ID), name)
		if err != nil {
			return fmt.Errorf("open a device name: %w", err)
		}
		d.Name = string(plain)
		ds = append(ds, d)
		return nil
	})
	return ds, err
}

// UnusedDevices gives number, account and id of at most limit active devices that
// were last seen before a day, without the one of each account that was seen last.
func (tx *Tx) UnusedDevices(before clearbox.Millis, limit int) ([]DeviceRecord, error) {
	const seen = "CASE WHEN %s.last_seen_day > %s.added THEN %s.last_seen_day ELSE %s.added END"
	query := `SELECT d.no, d.user_no, d.device_id FROM devices d WHERE d.removed = 0 AND d.last_seen_day < $1 AND d.added < $1
		AND EXISTS (SELECT 1 FROM devices e WHERE e.user_no = d.user_no AND e.removed = 0 AND e.no <> d.no
			AND (` + strings.ReplaceAll(seen, "%s", "e") + ` > ` + strings.ReplaceAll(seen, "%s", "d") + `
				OR ` + strings.ReplaceAll(seen, "%s", "e") + ` = ` + strings.ReplaceAll(seen, "%s", "d") + ` AND e.no > d.no)) ORDER BY d.no LIMIT $2`
	var out []DeviceRecord
	var d DeviceRecord
	var id int64
	err := tx.each(query, args(int64(before), int64(limit)), []any{&d.No, &d.UserNo, &id}, func() error {
		d.ID = clearbox.DeviceID(id)
		out = append(out, d)
		return nil
	})
	return out, err
}

// TouchDevice notes the day on which the device was last seen. It writes only
// when the day changed.
func (tx *Tx) TouchDevice(no int64, day clearbox.Millis) error {
	var seen int64
	if err := tx.one("SELECT last_seen_day FROM devices WHERE no = $1", args(no), &seen); err != nil {
		return err
	}
	if seen == int64(day) {
		return nil
	}
	return tx.change("UPDATE devices SET last_seen_day = $1 WHERE no = $2", int64(day), no)
}
