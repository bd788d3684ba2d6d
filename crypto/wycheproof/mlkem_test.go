package wycheproof

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"testing"
)

type mlkemParameters struct {
	ParameterSet string `json:"parameterSet"`
}

func mlkemSuite[T any](t *testing.T, file string) []T {
	t.Helper()
	var all []T
	for _, g := range load[mlkemParameters, T](t, file, "ML-KEM") {
		if g.Parameters.ParameterSet != "ML-KEM-768" {
			t.Fatalf("%s: parameter set %s", file, g.Parameters.ParameterSet)
		}
		all = append(all, g.Tests...)
	}
	return all
}

func TestMLKEMKeyGeneration(t *testing.T) {
	type test struct {
		vector
		Seed octets `json:"seed"`
		EK   octets `json:"ek"`
	}
	counts := make(tally)
	for _, v := range mlkemSuite[test](t, "mlkem_768_keygen_seed_test.json") {
		dk, err := mlkem.NewDecapsulationKey768(v.Seed)
		counts.judge(t, v.vector, err == nil && bytes.Equal(dk.EncapsulationKey().Bytes(), v.EK))
	}
	counts.report(t)
}

// The randomness m of encapsulation is an argument in the vectors.
func TestMLKEMEncapsulation(t *testing.T) {
	type test struct {
		vector
		M  octets `json:"m"`
		EK octets `json:"ek"`
		C  octets `json:"c"`
		K  octets `json:"K"`
	}
	counts := make(tally)
	for _, v := range mlkemSuite[test](t, "mlkem_768_encaps_test.json") {
		ek, err := mlkem.NewEncapsulationKey768(v.EK)
		if err != nil {
			counts.judge(t, v.vector, false)
			continue
		}
		secret, ciphertext, err := mlkemtest.Encapsulate768(ek, v.M)
		counts.judge(t, v.vector, err == nil && bytes.Equal(secret, v.K) && bytes.Equal(ciphertext, v.C))
	}
	counts.report(t)
}

// Key owners keep the seed. (The suite for decapsulation with expanded keys does
// not apply: neither the product nor the standard library reads them.)
func TestMLKEMDecapsulation(t *testing.T) {
	type test struct {
		vector
		Seed octets `json:"seed"`
		EK   octets `json:"ek"`
		C    octets `json:"c"`
		K    octets `json:"K"`
	}
	counts := make(tally)
	for _, v := range mlkemSuite[test](t, "mlkem_768_test.json") {
		dk, err := mlkem.NewDecapsulationKey768(v.Seed)
		if err != nil {
			counts.judge(t, v.vector, false)
			continue
		}
		secret, err := dk.Decapsulate(v.C)
		counts.judge(t, v.vector, err == nil && bytes.Equal(secret, v.K) &&
			(len(v.EK) == 0 || bytes.Equal(dk.EncapsulationKey().Bytes(), v.EK)))
	}
	counts.report(t)
}
