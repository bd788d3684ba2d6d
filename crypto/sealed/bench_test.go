package sealed_test

import (
	"fmt"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/sealed"
)

// A message to 1,000 devices: of as many people, of people with eight each.
func BenchmarkSealV2To1000Devices(b *testing.B) {
	for _, each := range []int{1, 8} {
		b.Run(fmt.Sprintf("%d_each", each), func(b *testing.B) {
			w := newWorld(b, 1)
			alice := w.person(b, "alice@a.test")
			c := w.content(b, alice)
			c.Body = make([]byte, 1<<10)
			var to []sealed.Recipient
			for i := range 1000 / each {
				r := recipient(w.person(b, fmt.Sprint(i)))
				for d := 1; d < each; d++ {
					r.Devices = append(r.Devices, fanout.Device{ID: uint8(d + 1), Registration: 1})
				}
				to = append(to, r)
			}
			b.ReportAllocs()
			for b.Loop() {
				out, err := sealed.SealV2(w.random, alice.Identity, c, to, nil)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(out)), "bytes/op")
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	w := newWorld(b, 1)
	alice, bob := w.person(b, "alice@a.test"), w.person(b, "bob@b.test")
	c := w.content(b, alice)
	c.Body = make([]byte, 1<<10)
	for version, seal := range w.versions(b) {
		sealedMessage := seal(alice, bob, c)
		b.Run(version, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bob.Open(sealedMessage, accepted, w.Root); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
