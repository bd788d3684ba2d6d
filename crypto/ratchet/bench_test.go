package ratchet_test

import (
	"testing"
)

// One operation is a pair: encrypt on one end, decrypt on the other, with
// records written and read each time.

func BenchmarkAlternatingPair(b *testing.B) {
	x, y := established(b)
	b.ReportAllocs()
	for b.Loop() {
		y.read(x, x.send(y, "a message of ordinary length, one line"))
		x, y = y, x
	}
}

func BenchmarkOneWayPair(b *testing.B) {
	x, y := established(b)
	b.ReportAllocs()
	for b.Loop() {
		y.read(x, x.send(y, "a message of ordinary length, one line"))
	}
}

func BenchmarkInitiate(b *testing.B) {
	x, y := newEnd(b, "alice", 1), newEnd(b, "bob", 1)
	bundle := y.bundle(1, false, false)
	for b.Loop() {
		x.store.SetSession(y.address(), nil)
		x.initiate(y, bundle)
	}
}

func BenchmarkAccept(b *testing.B) {
	x, y := newEnd(b, "alice", 1), newEnd(b, "bob", 1)
	x.initiate(y, y.bundle(1, false, false))
	first := x.send(y, "hello")
	fresh := y.store.Clone()
	for b.Loop() {
		y.store = fresh.Clone()
		y.read(x, first)
	}
}
