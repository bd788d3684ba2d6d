package federation

import "crypto/sha256"

// BaseOf builds a signature base from any components with the functions that
// build the profile's.
func BaseOf(components [][2]string, params string) []byte {
	var b []byte
	for _, c := range components {
		b = line(b, c[0], c[1])
	}
	return append(append(b, `"@signature-params": `...), params...)
}

// Digest is the Content-Digest of a body.
func Digest(body []byte) string { return digestHeader(sha256.Sum256(body)) }
