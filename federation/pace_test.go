package federation_test

import (
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
)

// The pace halves at each sign of too much and grows by equal steps.
func TestPace(t *testing.T) {
	p := federation.NewPace(4)
	window, whole := p.Now()
	if window != 4 || whole < federation.MaxTransaction*9/10 {
		t.Fatalf("at the start: %d of %d bytes", window, whole)
	}
	p.Limited()
	if w, b := p.Now(); w != 1 || b != whole/2 {
		t.Errorf("asked to wait: %d of %d", w, b)
	}
	p.Limited()
	_, low := p.Now()
	p.Landed(time.Millisecond)
	w1, b1 := p.Now()
	p.Landed(time.Millisecond)
	w2, b2 := p.Now()
	if w1 != 2 || w2 != 3 || b1-low != b2-b1 || b1 <= low {
		t.Errorf("two quick answers: %d of %d, %d of %d, from %d", w1, b1, w2, b2, low)
	}
	p.Landed(10 * time.Second)
	if w, b := p.Now(); w != 1 || b != b2 {
		t.Errorf("a late answer: %d of %d", w, b)
	}
	for range 100 {
		p.Slow()
		p.Limited()
	}
	if w, b := p.Now(); w != 1 || b < 16<<10 {
		t.Errorf("at the least: %d of %d", w, b)
	}
	for range 100 {
		p.Landed(time.Millisecond)
	}
	if w, b := p.Now(); w != 4 || b != whole {
		t.Errorf("at the end: %d of %d", w, b)
	}
}
