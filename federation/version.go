package federation

import (
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
)

// The protocol versions of this build as they stand in the signed document and
// in the clearbox-version header: major.minor. The major stands in the paths.
const (
	MinVersion = "1.1"
	Version    = "1.1"
)

// splitVersion reads what versionPattern matches; anything else is 0.0.
func splitVersion(s string) (major, minor int) {
	if !versionPattern.MatchString(s) {
		return 0, 0
	}
	a, b, _ := strings.Cut(s, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}

// versionBelow tells whether a is lower than b.
func versionBelow(a, b string) bool {
	aMajor, aMinor := splitVersion(a)
	bMajor, bMinor := splitVersion(b)
	return aMajor < bMajor || aMajor == bMajor && aMinor < bMinor
}

// Common is the highest version that both ranges hold (federation.md, 14); the
// error has CodeUnsupportedVersion.
func Common(a, b Protocol) (string, error) {
	high := a.Max
	if versionBelow(b.Max, high) {
		high = b.Max
	}
	if major, _ := splitVersion(high); major != 1 || versionBelow(high, a.Min) || versionBelow(high, b.Min) {
		return "", clearbox.Errorf(clearbox.CodeUnsupportedVersion, "the two servers speak no common version of the protocol: %s to %s and %s to %s", a.Min, a.Max, b.Min, b.Max)
	}
	return high, nil
}
