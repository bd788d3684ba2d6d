package keys

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Iterations of the safety number's hash.
const (
	DefaultIterations = 5200 // what clients show
	MinIterations     = 2
	MaxIterations     = 1_000_000
)

// ScannableVersion is the version in the scannable form: 2, identifiers that are
// not telephone numbers. It does not change the digits.
const ScannableVersion = 2

// MaxSafetyID is the size in bytes of the longest identifier in a safety number.
const MaxSafetyID = 1024

const (
	maxScannable   = 256 // bytes; a scannable form has 74
	fingerprintLen = 32
	fingerprintVer = 0 // the two bytes before the first hash
)

// Errors of safety numbers.
var (
	// ErrIterations: outside MinIterations to MaxIterations.
	ErrIterations = errors.New("keys: iterations out of range")
	// ErrSafetyID: an identifier that is empty or longer than MaxSafetyID.
	ErrSafetyID = errors.New("keys: identifier out of range")
	// ErrScannable: what was scanned is not a safety number.
	ErrScannable = errors.New("keys: malformed scannable safety number")
)

// ScannableVersionError is a scanned safety number of another version. It says
// nothing about the keys: one of the two programs is too old.
type ScannableVersionError struct {
	Own, Scanned uint64
}

// Error names both versions.
func (e *ScannableVersionError) Error() string {
	return fmt.Sprintf("keys: scanned safety number has version %d, own has %d", e.Scanned, e.Own)
}

// Fingerprint is the safety number of two parties, seen from one of them.
type Fingerprint struct {
	local, remote [fingerprintLen]byte
}

// SafetyNumber computes the safety number of two identities under two stable
// identifiers. In ClearBox these are DeviceList.SafetyID; two parties see the
// same digits when each has the keys and ids of the other. Errors are
// ErrIterations and ErrSafetyID. It takes time in proportion to iterations,
// about 2 ms for DefaultIterations and both sides.
func SafetyNumber(iterations int, localID []byte, localKey curve.PublicKey, remoteID []byte, remoteKey curve.PublicKey) (*Fingerprint, error) {
	if iterations < MinIterations || iterations > MaxIterations {
		return nil, ErrIterations
	}
	for _, id := range [][]byte{localID, remoteID} {
		if len(id) == 0 || len(id) > MaxSafetyID {
			return nil, ErrSafetyID
		}
	}
	return &Fingerprint{
		local:  fingerprint(iterations, localID, localKey),
		remote: fingerprint(iterations, remoteID, remoteKey),
	}, nil
}

// fingerprint starts with SHA-512(0x0000, key, id, key) and hashes the result
// with the key again until there were that many hashes; 32 bytes are used.
func fingerprint(iterations int, id []byte, key curve.PublicKey) [fingerprintLen]byte {
	k := key.Bytes()
	first := binary.BigEndian.AppendUint16(nil, fingerprintVer)
	first = append(first, k...)
	first = append(first, id...)
	first = append(first, k...)
	h := sha512.Sum512(first)
	var next [sha512.Size + curve.PublicKeySize]byte
	copy(next[sha512.Size:], k)
	for range iterations - 1 {
		copy(next[:], h[:])
		h = sha512.Sum512(next[:])
	}
	return [fingerprintLen]byte(h[:fingerprintLen])
}

// Digits is the safety number as 60 decimal digits without blanks, the same for
// both parties. Clients show it in groups of five.
func (f *Fingerprint) Digits() string {
	a, b := digits(f.local), digits(f.remote)
	if b < a {
		a, b = b, a
	}
	return a + b
}

// digits shows the first 30 bytes as six numbers of five digits: five bytes,
// big-endian, modulo 100,000.
func digits(h [fingerprintLen]byte) string {
	out := make([]byte, 0, 30)
	for i := 0; i < 30; i += 5 {
		var n uint64
		for _, b := range h[i : i+5] {
			n = n<<8 | uint64(b)
		}
		out = fmt.Appendf(out, "%05d", n%100_000)
	}
	return string(out)
}

// Field numbers of the scannable form, a protobuf message
// {1 version, 2 {1 local fingerprint}, 3 {1 remote fingerprint}}.
const (
	fieldVersion protowire.Number = 1
	fieldLocal   protowire.Number = 2
	fieldRemote  protowire.Number = 3
	fieldContent protowire.Number = 1
)

// Scannable is the form for a two-dimensional code, about 74 bytes in a new
// slice. It shows local and remote as this party sees them.
func (f *Fingerprint) Scannable() []byte {
	var b []byte
	b = protowire.AppendTag(b, fieldVersion, protowire.VarintType)
	b = protowire.AppendVarint(b, ScannableVersion)
	b = appendSide(b, fieldLocal, f.local)
	return appendSide(b, fieldRemote, f.remote)
}

func appendSide(b []byte, field protowire.Number, h [fingerprintLen]byte) []byte {
	var inner []byte
	inner = protowire.AppendTag(inner, fieldContent, protowire.BytesType)
	inner = protowire.AppendBytes(inner, h[:])
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, inner)
}

// Compare tells whether scanned, taken from the other party's screen, is the
// mirror image of f: true means that both see the same two keys. A message of
// another version is a *ScannableVersionError and not "false"; anything else
// that is no safety number is ErrScannable.
func (f *Fingerprint) Compare(scanned []byte) (bool, error) {
	theirs, err := parseScannable(scanned)
	if err != nil {
		return false, err
	}
	return theirs.local == f.remote && theirs.remote == f.local, nil
}

// parseScannable accepts each field exactly once and no other.
func parseScannable(b []byte) (*Fingerprint, error) {
	if len(b) == 0 || len(b) > maxScannable {
		return nil, ErrScannable
	}
	// The version is looked for first: what another version looks like is not
	// known here.
	version, ok := scannedVersion(b)
	if !ok {
		return nil, ErrScannable
	}
	if version != ScannableVersion {
		return nil, &ScannableVersionError{Own: ScannableVersion, Scanned: version}
	}
	var f Fingerprint
	var seen [4]bool
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || number > fieldRemote || seen[number] {
			return nil, ErrScannable
		}
		seen[number] = true
		b = b[n:]
		if number == fieldVersion { // read above
			if kind != protowire.VarintType {
				return nil, ErrScannable
			}
			_, n = protowire.ConsumeVarint(b)
			b = b[n:]
			continue
		}
		if kind != protowire.BytesType {
			return nil, ErrScannable
		}
		inner, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, ErrScannable
		}
		b = b[n:]
		side := &f.local
		if number == fieldRemote {
			side = &f.remote
		}
		if !parseSide(inner, side) {
			return nil, ErrScannable
		}
	}
	if !seen[fieldVersion] || !seen[fieldLocal] || !seen[fieldRemote] {
		return nil, ErrScannable
	}
	return &f, nil
}

// scannedVersion walks over a protobuf message of any fields and returns the
// first version in it.
func scannedVersion(b []byte) (version uint64, ok bool) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, false
		}
		b = b[n:]
		if number == fieldVersion && kind == protowire.VarintType && !ok {
			version, n = protowire.ConsumeVarint(b)
			ok = n >= 0
		} else {
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return 0, false
		}
		b = b[n:]
	}
	return version, ok
}

func parseSide(inner []byte, into *[fingerprintLen]byte) bool {
	number, kind, n := protowire.ConsumeTag(inner)
	if n < 0 || number != fieldContent || kind != protowire.BytesType {
		return false
	}
	content, m := protowire.ConsumeBytes(inner[n:])
	if m < 0 || n+m != len(inner) || len(content) != fingerprintLen {
		return false
	}
	copy(into[:], content)
	return true
}
