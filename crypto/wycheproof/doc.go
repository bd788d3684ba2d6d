// Package wycheproof runs the Wycheproof vectors (github.com/c2sp/wycheproof,
// Apache-2.0) against every primitive under the end-to-end encryption: X25519,
// Ed25519, AES-CBC with PKCS#7 padding, AES-GCM, AES-GCM-SIV, HKDF-SHA256,
// HMAC-SHA256 and ML-KEM-768. X25519 and the Ed25519 equation run through
// crypto/curve, AES-GCM-SIV through crypto/sealed, the rest
// through the standard library packages that the product calls.
//
// It is a module of its own, so that the product does not depend on the vectors.
// Run it with: cd crypto/wycheproof && go test ./...
//
// Every valid vector must be accepted and every invalid one refused. Vectors
// marked acceptable are a choice; the tests state and enforce ours:
//
//   - X25519: a key agreement that gives all zeros is refused; public keys that
//     are not canonical or lie on the twist give the shared secret of the vector,
//     as RFC 7748 wants, and are refused where a base key is wanted.
//   - No other suite here has such vectors; one that appears fails the test.
//
// The package holds tests only.
package wycheproof
