package kem

import "crypto/sha3"

// HeaderOf builds the header that an attacker would send for a vector.
func HeaderOf(vector *[VectorSize]byte, rho [32]byte) (header [HeaderSize]byte) {
	copy(header[:], rho[:])
	hash := sha3.Sum256(append(vector[:], rho[:]...))
	copy(header[32:], hash[:])
	return header
}
