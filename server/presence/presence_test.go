package presence_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/presence"
)

var (
	alice = clearbox.UserID{UID: "alice", Server: "a.test"}
	bob   = clearbox.UserID{UID: "bob", Server: "a.test"}
)

// watcher collects what a watch tells, such as "alice on".
func watcher(h *presence.Hub) (*presence.Watch, func() []string) {
	var mu sync.Mutex
	var told []string
	w := h.Watch(func(u clearbox.UserID, online bool) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, string(u.UID)+map[bool]string{true: " on", false: " off"}[online])
	})
	return w, func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := told
		told = nil
		return out
	}
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: told %v, want %v", what, got, want)
	}
}

func TestWatchersSeeArrivalsOfThoseWhoConsented(t *testing.T) {
	h := presence.New()
	w, told := watcher(h)
	h.Arrive(alice, true)
	w.Set([]clearbox.UserID{alice, bob, alice})
	expect(t, "at first", told(), "alice on")
	h.Arrive(alice, true)
	h.Leave(alice)
	expect(t, "a second socket comes and goes", told())
	h.Leave(alice)
	expect(t, "the last socket goes", told(), "alice off")
	h.Arrive(bob, false)
	expect(t, "without consent", told())
	if h.Online(bob) {
		t.Error("bob is seen without consent")
	}
	h.SetVisible(bob, true)
	expect(t, "consent is given", told(), "bob on")
	h.SetVisible(bob, false)
	expect(t, "consent is withdrawn", told(), "bob off")
	h.Leave(bob)
	expect(t, "and bob goes", told())
}

func TestWatchSetReplacesAndCloseForgets(t *testing.T) {
	h := presence.New()
	w, told := watcher(h)
	w.Set([]clearbox.UserID{alice})
	w.Set([]clearbox.UserID{bob})
	h.Arrive(alice, true)
	expect(t, "alice is not watched any more", told())
	w.Close()
	h.Arrive(bob, true)
	expect(t, "nobody is watched", told())
	h.Leave(alice)
	h.Leave(bob)
	h.SetVisible(bob, true)
	if n := h.Len(); n != 0 {
		t.Errorf("%d people are remembered after all left", n)
	}
	if h.Online(bob) {
		t.Error("bob is online without a socket")
	}
}

func TestHubConcurrently(t *testing.T) {
	h := presence.New()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			w, _ := watcher(h)
			defer w.Close()
			for range 200 {
				w.Set([]clearbox.UserID{alice, bob})
				h.Arrive(alice, true)
				h.SetVisible(alice, true)
				h.Leave(alice)
			}
		})
	}
	group.Wait()
	if n := h.Len(); n != 0 {
		t.Errorf("%d people are remembered after all left", n)
	}
}
