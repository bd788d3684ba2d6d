package federation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/federation"
)

// replays is the line of figures that TestReplayReorderDuplicate prints.
type replays struct {
	Test     string         `json:"test"`
	Requests int            `json:"requests"` // signed, genuine
	Replayed int            `json:"replayed"` // byte for byte, at once up to ten minutes later
	Altered  int            `json:"altered"`
	Overtook int            `json:"overtook"`         // genuine ones that arrived out of order
	Twice    int            `json:"accepted_twice"`   // replays that were answered with success
	Forged   int            `json:"accepted_altered"` // altered ones that were
	Lost     int            `json:"lost"`             // items that did not arrive once and in order
	Codes    map[string]int `json:"codes"`            // how the bad ones were answered
}

// adversary sits on the wire and keeps every request that passes.
type adversary struct {
	b *node

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	kept  []captured
	line  replays
	first int64 // highest position that has passed
}

// TestReplayReorderDuplicate is R19: while a server sends, an adversary repeats
// its signed requests, lets them overtake each other and alters copies of them.
// It prints one JSON line. With CLEARBOX_LONG set there are 10,000 requests.
func TestReplayReorderDuplicate(t *testing.T) {
	requests := 200
	if os.Getenv("CLEARBOX_LONG") != "" {
		requests = 10_000
	}
	adv := &adversary{rng: rand.New(rand.NewPCG(19, uint64(requests))), line: replays{Test: "replay", Codes: map[string]int{}}}
	two(t, nil, func(w *world, a, b *node) {
		adv.b = b
		w.set(func(x *wire) {
			x.latency, x.jitter = 2*time.Millisecond, 20*time.Millisecond // four under way overtake each other
			x.ask = adv.pass
		})
		for adv.count() < requests {
			a.send("b.test", 1)
			wait(t, 3*time.Millisecond)
		}
		wait(t, time.Minute)
		w.set(func(x *wire) { x.ask = nil })
		if a.outbox.unsettled() != 0 {
			adv.line.Lost = a.outbox.unsettled()
		}
		sent := b.acceptor.count()
		for _, later := range []time.Duration{0, 2 * time.Minute, 10 * time.Minute} {
			wait(t, later)
			for i := range adv.kept {
				adv.repeat(&adv.kept[i])
			}
		}
		if n := b.acceptor.count(); n != sent {
			t.Errorf("%d items were accepted from replays", n-sent)
		}
	})
	adv.line.Requests = len(adv.kept)
	raw, err := json.Marshal(&adv.line)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(raw))
	l := &adv.line
	if l.Twice != 0 || l.Forged != 0 || l.Lost != 0 {
		t.Error("a replay or a forgery was accepted, or an item was lost")
	}
	if l.Requests < requests || l.Replayed < 3*requests || l.Altered < requests/2 || l.Overtook < requests/50 {
		t.Error("too little was tried: the figures prove nothing")
	}
}

func (v *adversary) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.kept)
}

// pass sees a request on its way to b.test; the genuine one goes on as it is.
func (v *adversary) pass(r *http.Request, body []byte) []byte {
	if r.URL.Path != federation.PathTxn || r.Header.Get("Clearbox-Origin") != "a.test" {
		return body
	}
	c := captured{r: r.Clone(context.Background()), body: bytes.Clone(body), b: v.b}
	v.mu.Lock()
	if txn, err := federation.DecodeTransaction(body); err == nil {
		if txn.FirstPos < v.first {
			v.line.Overtook++
		}
		v.first = max(v.first, txn.FirstPos)
	}
	var former *captured
	if n := len(v.kept); n > 0 {
		former = &v.kept[v.rng.IntN(n)]
	}
	v.kept = append(v.kept, c)
	draw := v.rng.IntN(4)
	v.mu.Unlock()
	if draw > 0 {
		v.forge(&c, former)
	}
	if former != nil {
		v.repeat(former)
	}
	return body
}

// repeat delivers a request that has passed once more.
func (v *adversary) repeat(c *captured) {
	again := captured{r: c.r.Clone(context.Background()), body: bytes.Clone(c.body), b: c.b}
	resp := again.deliver()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line.Replayed++
	if resp.StatusCode == http.StatusOK {
		v.line.Twice++
	}
	v.note("replay", resp)
}

// forge delivers an altered copy before the genuine request.
func (v *adversary) forge(c, former *captured) {
	f := captured{r: c.r.Clone(context.Background()), body: bytes.Clone(c.body), b: c.b}
	v.mu.Lock()
	what := v.rng.IntN(7)
	at := v.rng.IntN(len(f.body))
	v.mu.Unlock()
	switch {
	case what == 0:
		f.body[at] ^= 1
	case what == 1:
		f.body[at] ^= 0x80
		f.r.Header.Set("Content-Digest", digestOf(f.body))
	case what == 2:
		f.r.URL.Path = federation.PathHello
	case what == 3:
		f.r.Host = "c.test"
	case what == 4:
		f.r.URL.RawQuery = "again=1"
	case former == nil || bytes.Equal(former.body, f.body):
		f.replaceInput(`;nonce="`, `;nonce="A`)
	case what == 5: // the signature of one with the body of another
		f.body = bytes.Clone(former.body)
	default: // and with its digest
		f.body = bytes.Clone(former.body)
		f.r.Header.Set("Content-Digest", former.r.Header.Get("Content-Digest"))
	}
	resp := f.deliver()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line.Altered++
	if resp.StatusCode == http.StatusOK {
		v.line.Forged++
	}
	v.note("altered", resp)
}

// note counts a refusal by its code; v.mu is held.
func (v *adversary) note(what string, resp *http.Response) {
	var p struct {
		Code string `json:"code"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		p.Code = "none"
	}
	v.line.Codes[what+" "+p.Code]++
}
