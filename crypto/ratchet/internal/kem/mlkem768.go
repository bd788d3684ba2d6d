package kem

import (
	"crypto/mlkem"
	"crypto/sha3"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/pke/kyber/kyber768"
)

// Sizes in bytes of what the two sides of a split encapsulation exchange.
// ML-KEM Braid, 2.2: the header comes first and suffices for the first part of
// the ciphertext; the vector is needed for the second.
const (
	SeedSize   = mlkem.SeedSize // key owner's secret
	HeaderSize = 64             // rho || SHA3-256(encapsulation key)
	VectorSize = 1152           // the encoded vector t-hat
	Part1Size  = 960            // compressed u
	Part2Size  = 128            // compressed v
	CoinsSize  = 64             // encapsulator's secret: message || randomness
	rhoSize    = 32
)

// ErrVector reports a vector that does not belong to its header or is not an
// encapsulation key at all.
var ErrVector = errors.New("kem: vector does not fit its header")

// SplitKey is the key owner's half: what it must keep (the seed) and what it
// streams to the other side.
type SplitKey struct {
	Seed   [SeedSize]byte
	Header [HeaderSize]byte
	Vector [VectorSize]byte
}

// GenerateSplit makes a key from 64 bytes of random.
func GenerateSplit(random io.Reader) (*SplitKey, error) {
	k := new(SplitKey)
	if _, err := io.ReadFull(random, k.Seed[:]); err != nil {
		return nil, fmt.Errorf("kem: random: %w", err)
	}
	dk, err := mlkem.NewDecapsulationKey768(k.Seed[:])
	if err != nil {
		return nil, fmt.Errorf("kem: %w", err)
	}
	ek := dk.EncapsulationKey().Bytes() // FIPS 203, algorithm 13: t-hat || rho
	copy(k.Vector[:], ek[:VectorSize])
	copy(k.Header[:rhoSize], ek[VectorSize:])
	hash := sha3.Sum256(ek)
	copy(k.Header[rhoSize:], hash[:])
	return k, nil
}

// DecapsulateSplit returns the shared secret of 32 bytes from both parts of the
// ciphertext.
func DecapsulateSplit(seed *[SeedSize]byte, part1 *[Part1Size]byte, part2 *[Part2Size]byte) ([]byte, error) {
	dk, err := mlkem.NewDecapsulationKey768(seed[:])
	if err != nil {
		return nil, fmt.Errorf("kem: %w", err)
	}
	var ct [Part1Size + Part2Size]byte
	copy(ct[:], part1[:])
	copy(ct[Part1Size:], part2[:])
	shared, err := dk.Decapsulate(ct[:])
	if err != nil {
		return nil, fmt.Errorf("kem: %w", err)
	}
	return shared, nil
}

// EncapsulateHeader does the first part of an encapsulation, knowing the header
// alone, from 32 bytes of random. The coins are secret and must be kept for
// EncapsulateVector.
func EncapsulateHeader(random io.Reader, header *[HeaderSize]byte) (coins *[CoinsSize]byte, part1 *[Part1Size]byte, shared []byte, err error) {
	coins = new([CoinsSize]byte)
	if _, err := io.ReadFull(random, coins[:32]); err != nil {
		return nil, nil, nil, fmt.Errorf("kem: random: %w", err)
	}
	// FIPS 203, algorithm 17: (K, r) = G(m || H(ek)).
	var in [64]byte
	copy(in[:], coins[:32])
	copy(in[32:], header[rhoSize:])
	g := sha3.Sum512(in[:])
	clear(in[:])
	copy(coins[32:], g[32:])

	// u depends on rho and r only, so any vector gives the right first part.
	var ct [Part1Size + Part2Size]byte
	var zero [VectorSize]byte
	if err := encrypt(&ct, &zero, header, coins); err != nil {
		return nil, nil, nil, err
	}
	part1 = new([Part1Size]byte)
	copy(part1[:], ct[:Part1Size])
	return coins, part1, g[:32:32], nil
}

// CheckVector reports whether vector completes header to a valid encapsulation
// key (FIPS 203, 7.2, both the modulus check and the hash).
func CheckVector(header *[HeaderSize]byte, vector *[VectorSize]byte) error {
	var ek [VectorSize + rhoSize]byte
	copy(ek[:], vector[:])
	copy(ek[VectorSize:], header[:rhoSize])
	if sha3.Sum256(ek[:]) != [32]byte(header[rhoSize:]) {
		return ErrVector
	}
	if _, err := mlkem.NewEncapsulationKey768(ek[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrVector, err)
	}
	return nil
}

// EncapsulateVector does the second part, once the vector is known and checked.
func EncapsulateVector(coins *[CoinsSize]byte, header *[HeaderSize]byte, vector *[VectorSize]byte) (*[Part2Size]byte, error) {
	var ct [Part1Size + Part2Size]byte
	if err := encrypt(&ct, vector, header, coins); err != nil {
		return nil, err
	}
	part2 := new([Part2Size]byte)
	copy(part2[:], ct[Part1Size:])
	return part2, nil
}

func encrypt(ct *[Part1Size + Part2Size]byte, vector *[VectorSize]byte, header *[HeaderSize]byte, coins *[CoinsSize]byte) error {
	var ek [VectorSize + rhoSize]byte
	copy(ek[:], vector[:])
	copy(ek[VectorSize:], header[:rhoSize])
	var pk kyber768.PublicKey
	if err := pk.UnpackMLKEM(ek[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrVector, err)
	}
	pk.EncryptTo(ct[:], coins[:32], coins[32:])
	return nil
}
