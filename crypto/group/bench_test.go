package group_test

import "testing"

// One operation is a message: encrypted once, read by one member.
func BenchmarkPair(b *testing.B) {
	s := newTalker(b, 1)
	l := s.listener()
	b.ReportAllocs()
	for b.Loop() {
		l.read(s.say("a message of ordinary length, one line"), "a message of ordinary length, one line")
	}
}
