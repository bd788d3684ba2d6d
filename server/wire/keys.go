package wire

import (
	"strconv"

	"github.com/clearbox-im/clearbox"
)

// PreKey is one public prekey of a device. Keys carry their type byte: 33
// bytes for X25519 (0x05), 1569 for Kyber1024 (0x08).
type PreKey struct {
	ID        uint32 `json:"id"` // 24 bits, not 0
	Key       []byte `json:"key"`
	Signature []byte `json:"signature,omitempty"` // XEdDSA by the account's identity; absent for one-time X25519
}

// Keys is the body of PUT /keys: what is there replaces (signed, last resort)
// or is added to (one-time) what the server holds for this device.
type Keys struct {
	Signed     *PreKey  `json:"signed,omitempty"`       // X25519
	KEM        *PreKey  `json:"kem,omitempty"`          // Kyber1024, last resort
	OneTime    []PreKey `json:"one_time,omitempty"`     // X25519
	OneTimeKEM []PreKey `json:"one_time_kem,omitempty"` // Kyber1024
}

// Check tells whether the keys have the right shape; signatures are checked by
// the server's directory.
func (k *Keys) Check() error {
	var f faults
	f.check(k.Signed != nil || k.KEM != nil || len(k.OneTime) > 0 || len(k.OneTimeKEM) > 0, "", "has no key")
	f.check((k.Signed == nil) == (k.KEM == nil), "/kem", "comes together with signed or not at all")
	k.check(&f, "")
	return f.result()
}

const (
	ecKeyBytes     = 33
	kemKeyBytes    = 1569
	signatureBytes = 64
)

func (k *Keys) check(f *faults, pointer string) {
	if k.Signed != nil {
		k.Signed.check(f, pointer+"/signed", ecKeyBytes, signatureBytes)
	}
	if k.KEM != nil {
		k.KEM.check(f, pointer+"/kem", kemKeyBytes, signatureBytes)
	}
	checkOneTime(f, pointer+"/one_time", k.OneTime, ecKeyBytes, 0)
	checkOneTime(f, pointer+"/one_time_kem", k.OneTimeKEM, kemKeyBytes, signatureBytes)
}

func checkOneTime(f *faults, pointer string, keys []PreKey, keyBytes, sigBytes int) {
	f.check(len(keys) <= MaxPreKeys, pointer, bounded(MaxPreKeys, "elements"))
	seen := make(map[uint32]bool, len(keys))
	for i := range keys {
		keys[i].check(f, at(pointer, i), keyBytes, sigBytes)
		f.check(!seen[keys[i].ID], at(pointer, i)+"/id", "appears twice")
		seen[keys[i].ID] = true
	}
}

func (k *PreKey) check(f *faults, pointer string, keyBytes, sigBytes int) {
	f.check(len(k.Key) == keyBytes, pointer+"/key", "has "+strconv.Itoa(keyBytes)+" bytes")
	f.check(len(k.Signature) == sigBytes, pointer+"/signature", "has "+strconv.Itoa(sigBytes)+" bytes")
	f.check(k.ID > 0 && k.ID < 1<<24, pointer+"/id", "is a number of 24 bits, not 0")
}

// KeyStatus is the answer of GET /keys/status: what the server holds for the
// calling device, and of PUT /keys.
type KeyStatus struct {
	OneTime    int  `json:"one_time"`
	OneTimeKEM int  `json:"one_time_kem"`
	Low        bool `json:"low"` // upload more
	Max        int  `json:"max"` // one-time keys kept of a kind
}

// StandingKeys is the answer of GET /keys/standing: the public keys of all devices
// of the account that its identity has signed for longer than one session. Who
// gives the account a new identity signs them anew.
type StandingKeys struct {
	Devices []StandingKey `json:"devices"`
}

// StandingKey is one device's.
type StandingKey struct {
	Device clearbox.DeviceID `json:"device"`
	Signed PreKey            `json:"signed"` // X25519
	KEM    PreKey            `json:"kem"`    // Kyber1024, last resort
}

// KeyClaim is the body of POST /keys/claim. The same claim id within 24 hours
// gets the same keys.
type KeyClaim struct {
	ClaimID clearbox.MessageID `json:"claim_id"`          // 128 random bits
	User    clearbox.UserID    `json:"user"`              //
	Devices []int              `json:"devices,omitempty"` // absent: all
	Token   []byte             `json:"token,omitempty"`   // delivery token, for people of other servers; without it there are no one-time keys

	Group *clearbox.GroupRef `json:"group,omitempty"` // in place of a token: a group in which both are
}

// Check tells whether everything is there.
func (k *KeyClaim) Check() error {
	var f faults
	f.check(k.ClaimID != clearbox.MessageID{}, "/claim_id", "is required")
	f.check(!k.User.IsZero(), "/user", "is required")
	f.check(len(k.Devices) <= clearbox.MaxDevices, "/devices", bounded(clearbox.MaxDevices, "elements"))
	f.check(k.Token == nil || len(k.Token) == tokenBytes, "/token", "has 16 bytes")
	f.check(k.Token == nil || k.Group == nil, "/token", "or a group is shown, not both")
	f.check(k.Group == nil || !k.Group.ID.IsZero() && k.Group.Epoch > 0 && k.Group.Epoch < 1<<53, "/group", "has an id and an epoch from 1")
	for i, d := range k.Devices {
		_, err := clearbox.ParseDeviceID(int64(d))
		f.addError(at("/devices", i), err)
	}
	return f.result()
}

// DeviceIDs is Devices in its own type.
func (k *KeyClaim) DeviceIDs() []clearbox.DeviceID {
	out := make([]clearbox.DeviceID, 0, len(k.Devices))
	for _, d := range k.Devices {
		out = append(out, clearbox.DeviceID(d))
	}
	return out
}

// Bundles is the answer of POST /keys/claim.
type Bundles struct {
	User    clearbox.UserID `json:"user"`
	Bundles []Bundle        `json:"bundles"`
}

// Bundle is what starts a session with one device. The identity key stands in
// the account's signed device list; the caller compares.
type Bundle struct {
	Device       clearbox.DeviceID `json:"device"`
	Registration uint16            `json:"registration"`
	Identity     []byte            `json:"identity"`           // X25519 with its type byte
	Signed       PreKey            `json:"signed"`             // X25519
	OneTime      *PreKey           `json:"one_time,omitempty"` // X25519; absent when used up
	KEM          PreKey            `json:"kem"`                // Kyber1024, one-time or last resort
}

// Account is the answer of GET /users/{id}: what one needs to write to somebody.
type Account struct {
	User       clearbox.UserID `json:"user"`
	Address    string          `json:"address,omitempty"` // when the account was asked for by address
	DeviceList []byte          `json:"device_list"`       // signed by the account's root key
	Version    int64           `json:"version"`
	// Withdrawn devices were removed at the server before their owner signed a
	// new list: leave them out.
	Withdrawn []int `json:"withdrawn,omitempty"`
	// Token is the delivery token of somebody elsewhere who agreed to be written
	// to by strangers. For others who are not known yet the answer is
	// consent_required, whether they exist or not: knock.
	Token []byte `json:"token,omitempty"`
}

// Devices is the answer of GET /devices.
type Devices struct {
	Devices    []Device `json:"devices"`
	DeviceList []byte   `json:"device_list"` // the current signed list
	Version    int64    `json:"version"`
}

// Device is one of the caller's own devices.
type Device struct {
	Device       clearbox.DeviceID `json:"device"`
	Registration uint16            `json:"registration"`
	Name         string            `json:"name,omitempty"`
	Added        clearbox.Millis   `json:"added"`
	LastSeenDay  clearbox.Millis   `json:"last_seen_day,omitempty"` // by day, not finer
	Current      bool              `json:"current,omitempty"`       // the caller
}

// DeviceListUpload is the body of PUT /devices/list: the next signed list, and
// for each device that it adds its keys; with a new identity, the keys of every
// device. Devices that it removes are logged out at once and their mail is
// dropped.
type DeviceListUpload struct {
	DeviceList []byte        `json:"device_list"`
	Added      []AddedDevice `json:"added,omitempty"`
}

// AddedDevice comes with the list that adds it, or that has a new identity. The
// name of a device that is there already stays.
type AddedDevice struct {
	Device clearbox.DeviceID `json:"device"`
	Name   string            `json:"name"`
	Keys   Keys              `json:"keys"` // signed and kem are required
}

// Check tells whether everything is there.
func (d *DeviceListUpload) Check() error {
	var f faults
	f.bytes("/device_list", d.DeviceList, MaxDeviceList)
	f.check(len(d.Added) <= clearbox.MaxDevices, "/added", bounded(clearbox.MaxDevices, "elements"))
	var seen [256]bool
	for i := range d.Added {
		a, p := &d.Added[i], at("/added", i)
		f.check(a.Device >= 1 && a.Device <= 127, p+"/device", "must be a number from 1 to 127")
		f.check(!seen[a.Device], p+"/device", "appears twice")
		seen[a.Device] = true
		f.text(p+"/name", a.Name, MaxDeviceName)
		a.Keys.check(&f, p+"/keys")
		f.check(a.Keys.Signed != nil, p+"/keys/signed", "is required")
		f.check(a.Keys.KEM != nil, p+"/keys/kem", "is required")
	}
	return f.result()
}

// DeviceListStored answers an upload.
type DeviceListStored struct {
	Version int64 `json:"version"`
}
