package federation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func TestBackoff(t *testing.T) {
	const day = 24 * time.Hour
	for seed := range int64(50) {
		waits := federation.Waits(seeded{rng(seed)}, base, 20*day, false)
		if waits[0] < 5*time.Second || waits[0] > 8*time.Second {
			t.Errorf("first wait %v", waits[0])
		}
		var away time.Duration
		perDay := make([]int, 21)
		for _, w := range waits {
			limit := 15 * time.Minute
			switch {
			case away >= 14*day:
				limit = 6 * time.Hour
			case away >= day:
				limit = time.Hour
			}
			if w < 5*time.Second || w > limit || away >= 14*day && w != limit {
				t.Fatalf("after %v: wait %v", away, w)
			}
			perDay[away/day]++
			away += w
		}
		if n := slices.Max(perDay); n > 200 {
			t.Errorf("%d attempts in a day", n)
		}
	}
	if w := slices.Max(federation.Waits(seeded{rng(1)}, base, day, true)); w > 30*time.Second {
		t.Errorf("waits grew to %v while it was us who were cut off", w)
	}
}

// More than 80 % of at least five peers failing within a minute is an outage
// of our own; one answer ends it.
func TestOwnOutage(t *testing.T) {
	peer := func(i int) clearbox.ServerName { return clearbox.ServerName(fmt.Sprintf("p%d.test", i)) }
	h := federation.NewHealth()
	for i := range 4 {
		if out, _ := h.Note(peer(i), base, false); out {
			t.Error("four peers are too few to tell")
		}
	}
	if out, changed := h.Note(peer(4), base, false); !out || !changed {
		t.Error("five of five failing is an outage")
	}
	if out, changed := h.Note(peer(5), base.Add(time.Second), false); !out || changed {
		t.Error("said twice")
	}
	if out, changed := h.Note(peer(0), base.Add(2*time.Second), true); out || !changed {
		t.Error("an answer ends it")
	}
	h = federation.NewHealth()
	for i := range 10 {
		if out, _ := h.Note(peer(i), base, i >= 2); out {
			t.Error("two of ten")
		}
	}
	for i := range 10 {
		if out, _ := h.Note(peer(i), base.Add(time.Duration(i)*time.Minute), false); out {
			t.Error("failures minutes apart")
		}
	}
}
