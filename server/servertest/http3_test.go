package servertest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// protocol is how one house reaches the other now, as its admin sees it.
func protocol(h *servertest.House) (row wire.AdminFedQueue) {
	var st wire.AdminFedStatus
	h.Admin("GET", "/admin/fed/status", nil, &st)
	for _, p := range st.Peers {
		row = p
	}
	return row
}

func figure(h *servertest.House, name string) (v float64) {
	for _, line := range strings.Split(h.Figures(), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, _ = fmt.Sscan(rest, &v) // 0 shows up in the test
		}
	}
	return v
}

// Two organisations speak HTTP/3. When UDP is blocked between them, messages
// go on over HTTP/2 without anybody's doing, the way is marked, and what was
// under way is neither lost nor doubled.
func TestHTTP3AndBackAgain(t *testing.T) {
	servertest.RunInAir(t, two, 1, func(w *servertest.World) {
		alice, bob := w.Join("alice@a.test"), w.Join("bob@b.test")
		a := w.House("a.test")
		alice.Say(bob, "hello over HTTP/3")
		w.Wait("bob has it", 5*time.Minute, func() bool { return len(bob.Heard(alice)) == 1 })
		if p := protocol(a); p.Protocol != "h3" || p.H3BrokenUntil != 0 {
			t.Errorf("%+v", p)
		}
		if n := figure(a, `clearbox_fed_requests_total{outcome="answered",proto="h3"}`); n == 0 {
			t.Error("no request over HTTP/3 is counted")
		}
		if n := figure(w.House("b.test"), `clearbox_fed_served_total{proto="h3"}`); n == 0 {
			t.Error("the other side counts none")
		}

		for _, way := range [][2]string{{"a.test", "b.test"}, {"b.test", "a.test"}} {
			w.Air.Set(way[0], way[1], servertest.Weather{Drop: 1})
		}
		for i := range 10 {
			alice.Say(bob, fmt.Sprintf("said without UDP, %d", i))
		}
		took := w.Wait("they arrive", time.Minute, func() bool { return len(bob.Heard(alice)) == 11 })
		t.Logf("%v after UDP was blocked under a live connection", took)
		if p := protocol(a); p.Protocol != "h2" || p.H3BrokenUntil == 0 {
			t.Errorf("%+v", p)
		}
		if n := figure(a, "clearbox_fed_h3_marks_total"); n < 1 {
			t.Error("no mark is counted")
		}

		w.Air.Clear()
		w.Wait("HTTP/3 is taken up again", time.Hour, func() bool {
			time.Sleep(time.Minute)
			alice.Say(bob, "how is the weather at "+time.Now().String())
			return protocol(a).Protocol == "h3"
		})
		if heard := bob.Heard(alice); !slices.Contains(heard, "said without UDP, 9") {
			t.Errorf("%q", heard)
		}
	})
}
