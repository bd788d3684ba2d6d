package core_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGroupModel lets six people of three servers talk in a group while they come
// and go, lose their network and start again. The model is who was in it when
// something was written: each of them sees it once, in order of its sender, and
// nobody else ever does.
func TestGroupModel(t *testing.T) {
	for seed := range uint64(rounds(6, 1)) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			_, p := crew(t, "p0@a.test", "p1@b.test", "p2@c.test", "p3@a.test", "p4@b.test", "p5@c.test")
			id := circle(t, p[:3]...)
			for _, one := range p[3:] {
				one.start()
			}
			in := []bool{true, true, true, false, false, false}
			away := make([]bool, len(p))
			texts := map[string][]bool{} // who is to see it
			back := func(i int) {
				p[i].net.setAway(false)
				away[i] = false
			}
			for step := range rounds(60, 30) {
				i := random.IntN(len(p))
				switch what := random.IntN(10); {
				case what < 5 && in[i] && !away[i]:
					text := fmt.Sprintf("%03d", step)
					p[i].tell(id, text)
					texts[text] = slices.Clone(in)
					settle(time.Second)
				case what == 5 && i > 0 && !in[i]:
					for j := range p { // an invitation is processed by all who are there
						back(j)
					}
					settle(5 * time.Minute)
					p[0].bring(p[i], id)
					in[i] = true
				case what == 6 && i > 0 && in[i]:
					for j := range p {
						back(j)
					}
					settle(5 * time.Minute)
					if random.IntN(2) == 0 {
						if err := p[0].brain.RemoveFromGroup(ctx, id, p[i].user); err != nil {
							t.Fatal(seed, step, err)
						}
					} else if err := p[i].brain.LeaveGroup(ctx, id); err != nil {
						t.Fatal(seed, step, err)
					}
					in[i] = false
					settle(5 * time.Second)
				case what == 7 && i > 0:
					p[i].net.setAway(true)
					away[i] = true
				case what == 8:
					back(i)
				case what == 9:
					p[i].stop()
					p[i].reopen()
					p[i].start()
				}
			}
			for i := range p {
				back(i)
			}
			settle(time.Hour)
			for i, one := range p {
				last := map[string]string{}
				seen := map[string]bool{}
				if _, err := one.brain.Group(ctx, id); err != nil {
					continue // never was in it
				}
				for _, line := range one.within(id) {
					who, text, ok := strings.Cut(line, ": ")
					if !ok || seen[text] || text < last[who] {
						t.Errorf("seed %d: %s sees %q again, or late, or what cannot be read", seed, one.name, line)
					}
					seen[text], last[who] = true, text
					if to := texts[text]; ok && !to[i] {
						t.Errorf("seed %d: %s sees %q, which was not for them", seed, one.name, line)
					}
				}
				for text, to := range texts {
					if to[i] && !seen[text] {
						t.Errorf("seed %d: %s does not see %q", seed, one.name, text)
					}
				}
				if g := one.group(id); g.Alarm != "" || g.Behind {
					t.Errorf("seed %d: %s: %+v", seed, one.name, g)
				}
			}
			stopAll(p...)
		})
		if t.Failed() {
			return
		}
	}
}
