package keys

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Limits of a device list. They are part of the protocol.
const (
	MaxActiveDevices = 8   // devices of one account at a time
	MaxDeviceEntries = 512 // devices that one account ever had
	MaxFormer        = 32  // identities that one account had before its present one
	MaxAccount       = 280 // bytes of uid@server
	MaxTime          = 1<<53 - 1
)

// DeviceEntry is one device that an account has or had.
type DeviceEntry struct {
	ID           uint8             // MinDevice to MaxDevice
	Registration uint16            // MinRegistration to MaxRegistration
	Key          ed25519.PublicKey // the device's own key; it signs requests and group operations
	Added        int64             // milliseconds since 1970, by the clock of the device that signed
	Removed      int64             // likewise; 0 while the device is active
}

// DeviceList says which devices belong to an account. The account's root key
// signs it, so a homeserver can withhold a list but cannot add a device to it.
//
// Devices is the whole history in the order of addition: an entry is only ever
// appended, and only its Removed changes, once. An id names one active device at
// a time; it may be given again after its device was removed, but NextID prefers
// ids that were never used. A device key never appears twice.
type DeviceList struct {
	Account  string // uid@server, as bytes that this package does not interpret
	Version  int64  // 1 or higher; grows with each list
	Identity curve.PublicKey
	Root     ed25519.PublicKey
	Former   []FormerIdentity // what Identity was before, the oldest first; only appended
	Devices  []DeviceEntry
	Issued   int64 // milliseconds since 1970
}

// FormerIdentity is an identity that an account has replaced. Endorsement is its
// own word that the root is its account's: so whoever knows the account by that
// identity alone, as a group does, can tell that the list is theirs. There is none
// where the private key was lost; the root's word is enough for who knows the root.
type FormerIdentity struct {
	Identity    curve.PublicKey
	Until       int64  // milliseconds since 1970, by the clock of the device that signed
	Endorsement []byte // 64 bytes, XEdDSA by Identity over a label, the account and the root; zeros: none
}

func (f *FormerIdentity) endorsed() bool {
	return !bytes.Equal(f.Endorsement, make([]byte, endorsementSize))
}

// Errors of device lists.
var (
	// ErrDeviceList: malformed, out of a limit or contradicting itself. It is
	// wrapped with the reason.
	ErrDeviceList = errors.New("keys: device list refused")
	// ErrDeviceListSignature: well-formed, but not signed by the root key in it.
	ErrDeviceListSignature = errors.New("keys: device list is not signed by its root key")
	// ErrOtherAccount: Follows was given the list of another account.
	ErrOtherAccount = errors.New("keys: device list of another account")
	// ErrOtherRoot: the root key is not the one of the list before.
	ErrOtherRoot = errors.New("keys: device list has another root key")
	// ErrVersionNotNewer: the version is not above that of the list before.
	ErrVersionNotNewer = errors.New("keys: device list is not newer")
	// ErrHistory: an entry of the list before is missing, changed, moved, or
	// came back after its removal.
	ErrHistory = errors.New("keys: device list rewrites its history")
)

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDeviceList, fmt.Sprintf(format, args...))
}

// Active returns the devices that were not removed, in order of addition. The
// entries share their keys with l.
func (l *DeviceList) Active() []DeviceEntry {
	var active []DeviceEntry
	for _, d := range l.Devices {
		if d.Removed == 0 {
			active = append(active, d)
		}
	}
	return active
}

// NextID proposes the id for a device to be added: the lowest that was never
// used, else the one whose holder was removed first in the list. It is 0 when
// all ids are active, which the limit of active devices rules out for valid
// lists.
func (l *DeviceList) NextID() uint8 {
	var used, active [MaxDevice + 1]bool
	for _, d := range l.Devices {
		if d.ID <= MaxDevice {
			used[d.ID] = true
			active[d.ID] = active[d.ID] || d.Removed == 0
		}
	}
	for id := MinDevice; id <= MaxDevice; id++ {
		if !used[id] {
			return uint8(id)
		}
	}
	// Skip ids that were given again later, so that they take turns.
	last := make(map[uint8]int)
	for i, d := range l.Devices {
		last[d.ID] = i
	}
	for i, d := range l.Devices {
		if d.ID <= MaxDevice && !active[d.ID] && last[d.ID] == i {
			return d.ID
		}
	}
	return 0
}

// Follows tells whether l may take the place of prev, a list that the caller
// already trusts: same account, same root, a higher version (some may have been
// missed), and the history of prev continued, that of its identities included.
// Both must have come out of ParseDeviceList. The identity may differ, since the
// root vouches for the new one and the old one endorsed the root; what that means
// for a verified contact is the caller's decision.
func (l *DeviceList) Follows(prev *DeviceList) error {
	switch {
	case l.Account != prev.Account:
		return ErrOtherAccount
	case !bytes.Equal(l.Root, prev.Root):
		return ErrOtherRoot
	case l.Version <= prev.Version:
		return ErrVersionNotNewer
	case len(l.Devices) < len(prev.Devices):
		return ErrHistory
	}
	for i, was := range prev.Devices {
		is := l.Devices[i]
		if is.ID != was.ID || is.Registration != was.Registration || is.Added != was.Added ||
			!bytes.Equal(is.Key, was.Key) || was.Removed != 0 && is.Removed != was.Removed {
			return ErrHistory
		}
	}
	return l.followsIdentity(prev)
}

// followsIdentity tells whether the identities of l continue those of prev.
func (l *DeviceList) followsIdentity(prev *DeviceList) error {
	if len(l.Former) < len(prev.Former) {
		return ErrHistory
	}
	for i, was := range prev.Former {
		if is := l.Former[i]; is.Identity != was.Identity || is.Until != was.Until || !bytes.Equal(is.Endorsement, was.Endorsement) {
			return ErrHistory
		}
	}
	more := l.Former[len(prev.Former):]
	if l.Identity == prev.Identity && len(more) == 0 || len(more) > 0 && more[0].Identity == prev.Identity {
		return nil
	}
	return ErrHistory
}

// Renew makes identity the account's, in place of the one whose private key is
// old, or nil if that was lost, as of now in milliseconds. The caller raises the
// version and signs. It is an error that wraps ErrDeviceList where old is not the
// present identity, or there were too many; randomness that fails is the only
// other one.
func (l *DeviceList) Renew(random io.Reader, old *curve.PrivateKey, identity curve.PublicKey, now int64) error {
	if old != nil && old.Public() != l.Identity {
		return refuse("the identity to be replaced is another one")
	}
	if len(l.Former) >= MaxFormer {
		return refuse("an account replaces its identity %d times at most", MaxFormer)
	}
	endorsement := make([]byte, endorsementSize)
	if old != nil {
		var err error
		if endorsement, err = old.Sign(random, endorsing(l.Account, l.Root)); err != nil {
			return fmt.Errorf("keys: endorse the root: %w", err)
		}
	}
	l.Former = append(slices.Clip(l.Former), FormerIdentity{Identity: l.Identity, Until: now, Endorsement: endorsement})
	l.Identity = identity
	return nil
}

// endorsing is what an identity signs when it is replaced.
func endorsing(account string, root ed25519.PublicKey) []byte {
	m := make([]byte, 0, len(endorsementLabel)+len(account)+1+len(root))
	m = append(append(m, endorsementLabel...), account...)
	return append(append(m, 0), root...)
}

// Vouches tells whether identity, 33 bytes, is the account's, or was and endorsed
// its root.
func (l *DeviceList) Vouches(identity []byte) bool {
	k, err := curve.ParsePublicKey(identity)
	if err != nil {
		return false
	}
	for _, f := range l.Former {
		if f.Identity == k {
			return f.endorsed()
		}
	}
	return k == l.Identity
}

// Replaced tells whether identity was the account's and is not any more, and
// until when, in milliseconds since 1970.
func (l *DeviceList) Replaced(identity curve.PublicKey) (until int64, ok bool) {
	for _, f := range l.Former {
		if f.Identity == identity {
			return f.Until, true
		}
	}
	return 0, false
}

// SafetyID is the identifier of this account for SafetyNumber: its service id
// followed by its root key. With the root inside, two people who compared their
// safety number have compared the key that may replace an identity as well.
func (l *DeviceList) SafetyID() []byte {
	id := AccountServiceID(l.Account)
	return append(id[:], l.Root...)
}

// check holds every rule of a list that stands alone. Sign and ParseDeviceList
// share it, so what can be signed can be read and the reverse.
func (l *DeviceList) check() error {
	if err := checkAccount(l.Account); err != nil {
		return err
	}
	if l.Version < 1 || l.Version > MaxTime {
		return refuse("version %d", l.Version)
	}
	if err := l.Identity.CheckBase(); err != nil {
		return fmt.Errorf("%w: identity: %w", ErrDeviceList, err)
	}
	if len(l.Root) != ed25519.PublicKeySize {
		return refuse("root key of %d bytes", len(l.Root))
	}
	if l.Issued < 1 || l.Issued > MaxTime {
		return refuse("issued at %d", l.Issued)
	}
	if len(l.Devices) < 1 || len(l.Devices) > MaxDeviceEntries {
		return refuse("%d devices in its history", len(l.Devices))
	}
	if err := l.checkFormer(); err != nil {
		return err
	}
	var active [MaxDevice + 1]bool
	count := 0
	seen := make(map[string]bool, len(l.Devices))
	for i, d := range l.Devices {
		if d.ID < MinDevice || d.ID > MaxDevice {
			return refuse("entry %d: device id %d", i, d.ID)
		}
		if d.Registration < MinRegistration || d.Registration > MaxRegistration {
			return refuse("entry %d: registration id %d", i, d.Registration)
		}
		if len(d.Key) != ed25519.PublicKeySize {
			return refuse("entry %d: key of %d bytes", i, len(d.Key))
		}
		if seen[string(d.Key)] || bytes.Equal(d.Key, l.Root) {
			return refuse("entry %d: a device key that is in use", i)
		}
		seen[string(d.Key)] = true
		if d.Added < 1 || d.Added > MaxTime || d.Removed < 0 || d.Removed > MaxTime {
			return refuse("entry %d: time out of range", i)
		}
		if active[d.ID] {
			return refuse("entry %d: device id %d is active already", i, d.ID)
		}
		if d.Removed == 0 {
			active[d.ID] = true
			count++
		}
	}
	if count > MaxActiveDevices {
		return refuse("%d active devices", count)
	}
	return nil
}

// checkFormer holds the identities before the present one.
func (l *DeviceList) checkFormer() error {
	if len(l.Former) > MaxFormer {
		return refuse("%d former identities", len(l.Former))
	}
	seen := map[curve.PublicKey]bool{l.Identity: true}
	for i, f := range l.Former {
		if err := f.Identity.CheckBase(); err != nil {
			return fmt.Errorf("%w: former identity %d: %w", ErrDeviceList, i, err)
		}
		if seen[f.Identity] {
			return refuse("former identity %d: it is named twice", i)
		}
		seen[f.Identity] = true
		if f.Until < 1 || f.Until > MaxTime {
			return refuse("former identity %d: time out of range", i)
		}
		if len(f.Endorsement) != endorsementSize || f.endorsed() && !curve.Verify(f.Identity, endorsing(l.Account, l.Root), f.Endorsement) {
			return refuse("former identity %d: it did not endorse the root", i)
		}
	}
	return nil
}

// checkAccount wants local@server in printable ASCII; the rest is a matter of
// names and not of keys.
func checkAccount(s string) error {
	if len(s) > MaxAccount {
		return refuse("account of %d bytes", len(s))
	}
	at := 0
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return refuse("account with a byte that is not printable ASCII")
		}
		if s[i] == '@' {
			at++
			if i == 0 || i == len(s)-1 {
				return refuse("account without two parts")
			}
		}
	}
	if at != 1 {
		return refuse("account without two parts")
	}
	return nil
}
