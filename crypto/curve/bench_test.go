package curve_test

import (
	"crypto/rand"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

func BenchmarkGenerate(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newKey(b)
	}
}

func BenchmarkDH(b *testing.B) {
	k, p := newKey(b), newKey(b).Public()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.DH(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	k, message := newKey(b), make([]byte, 33)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Sign(rand.Reader, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	k, message := newKey(b), make([]byte, 33)
	p, s := k.Public(), sign(b, k, message)
	b.ReportAllocs()
	for b.Loop() {
		if !curve.Verify(p, message, s) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkCheckBase(b *testing.B) {
	p := newKey(b).Public()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.CheckBase(); err != nil {
			b.Fatal(err)
		}
	}
}
