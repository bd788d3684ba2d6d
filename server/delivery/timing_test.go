package delivery_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/directory"
	"github.com/clearbox-im/clearbox/storage"
)

// TestThreat13Timing asks as a peer would that wants to find out who is here: it
// knocks, shows wrong tokens and looks names up, at random for somebody and for
// nobody, and takes the time of each answer. How well the times tell the two
// apart is the area under the curve: the chance that one about somebody took
// longer than one about nobody, a half when they tell nothing. A name is asked
// for over a connection, as only a peer could; the pace that a peer is kept to,
// 120 a minute, is off.
//
// It prints one JSON line. With CLEARBOX_LONG set there are 10,000 questions of
// each kind and the bar holds; else it is only seen to run.
func TestThreat13Timing(t *testing.T) {
	questions, bar := 100, 1.0
	if os.Getenv("CLEARBOX_LONG") != "" {
		questions, bar = 10_000, 0.05
	}
	w := newWorld(t, worldOptions{})
	bob, far := w.person("bob", 1), w.stranger()
	w.setToken(bob, token(1))
	dirs := directory.New(w.store, auth.New(w.store, w.keys, home, auth.Options{}), home, directory.Options{LookupsPerMinute: -1, TokenOf: w.router.TokenOf})
	names := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, err := dirs.PeerResolve(r.Context(), away, clearbox.Handle(r.URL.Path[1:]))
		io.WriteString(rw, string(clearbox.CodeOf(err)))
	}))
	defer names.Close()
	nobody, bad := clearbox.UserID{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Server: home}, token(9)
	positions := map[stream]int64{}
	asked := 0
	hand := func(class federation.Class, it federation.Item) string {
		asked++
		peer := clearbox.ServerName(fmt.Sprintf("p%d.test", asked%40)) // of one, 1,000 knocks may wait
		if it.Knock != nil {
			it.Knock.From.Server = peer
		}
		at := stream{peer, class}
		positions[at]++
		batch := txn(1, 1, positions[at], it)
		batch.Class = class
		return w.accept(peer, batch)[0]
	}
	line := map[string]any{"questions": questions, "bar": bar}
	for name, ask := range map[string]func(somebody bool) string{
		"knock": func(somebody bool) string {
			it := knockItem(t, far, "far", "zed") // nobody has this name
			if somebody {
				it.Knock.To = "bob"
			}
			return hand(federation.ClassControl, it)
		},
		"wrong_token": func(somebody bool) string {
			it := sealedItem(t, nobody, bad[:], "x", 1)
			if somebody {
				it.Recipient = bob.user
			}
			return hand(federation.ClassMessage, it)
		},
		"resolve": func(somebody bool) string {
			h := clearbox.Handle("zed")
			if somebody {
				h = "bob"
			}
			resp, err := names.Client().Get(names.URL + "/" + string(h))
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			must(t, err)
			return string(body)
		},
	} {
		area := tellApart(t, questions, ask)
		line[name+"_area"] = math.Round(area*1e4) / 1e4
		if math.Abs(area-0.5) > bar {
			t.Errorf("%s: the times tell somebody from nobody: %.4f", name, area)
		}
	}
	must(t, w.store.View(bg, func(tx *storage.Tx) error { // the knocks did what they do
		_, from, _, err := tx.ReceivedKnocks(bob.devices[0].UserNo, away, far)
		if from > 3 {
			t.Errorf("%d open knocks", from)
		}
		return err
	}))
	raw, err := json.Marshal(line)
	must(t, err)
	fmt.Printf(`{"test":"timing",%s`+"\n", raw[1:]) // lines begin with their test
}

type stream struct {
	peer  clearbox.ServerName
	class federation.Class
}

// tellApart gives the area under the curve (Mann and Whitney). The answers
// themselves must be the same.
func tellApart(t *testing.T, questions int, ask func(somebody bool) string) float64 {
	t.Helper()
	type asked struct {
		somebody bool
		took     time.Duration
	}
	want := ask(true) // and warms up what is cached of both
	ask(false)
	times := make([]asked, questions)
	for i := range times {
		somebody := rand.IntN(2) == 1
		began := time.Now()
		got := ask(somebody)
		times[i] = asked{somebody, time.Since(began)}
		if got != want {
			t.Fatalf("answered %q, %q before", got, want)
		}
	}
	slices.SortFunc(times, func(a, b asked) int { return cmp.Compare(a.took, b.took) })
	var below, pairs, somebodies float64
	for _, a := range times {
		if a.somebody {
			pairs += below
			somebodies++
		} else {
			below++
		}
	}
	return pairs / (somebodies * below)
}
