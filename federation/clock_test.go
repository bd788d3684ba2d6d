package federation_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// R8: 14 minutes apart works through the offset, 16 is refused with a signed
// skew, and the queue survives.
func TestThreat19ClockAttack(t *testing.T) {
	for _, c := range []struct {
		offset  time.Duration
		arrives bool
	}{{14 * time.Minute, true}, {-14 * time.Minute, true}, {16 * time.Minute, false}, {-16 * time.Minute, false}} {
		signed, unsigned := 0, 0
		two(t, func(w *world, a, b *node) {
			b.offset = c.offset
			w.wire.answer = func(req *http.Request, _ []byte, resp *http.Response) {
				body, _ := io.ReadAll(resp.Body)
				resp.Body = io.NopCloser(bytes.NewReader(body))
				switch {
				case req.URL.Host != "b.test" || !bytes.Contains(body, []byte(clearbox.CodeClockSkew)):
				case resp.StatusCode == 401 && resp.Header.Get("Signature") != "":
					signed++
				default:
					unsigned++
				}
			}
		}, func(w *world, a, b *node) {
			a.send("b.test", 10)
			wait(t, time.Minute)
			w.set(func(x *wire) { x.answer = nil })
			if signed == 0 || unsigned != 0 {
				t.Errorf("%v: %d refusals were signed, %d were not", c.offset, signed, unsigned)
			}
			if n := b.acceptor.count(); (n == 10) != c.arrives {
				t.Errorf("%v: delivered %d", c.offset, n)
			}
			if !c.arrives {
				if s := a.sender.Status("b.test"); s.LastError != clearbox.CodeClockSkew {
					t.Errorf("%v: last error %q", c.offset, s.LastError)
				}
				b.offset = 0
				a.sender.Retry("b.test")
				wait(t, time.Minute)
			}
		})
	}
}

// Both sides were apart for longer than documents live: each fetches the
// other's new document and goes on.
func TestDocumentsExpireDuringAnOutage(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) { x.cut = true })
		wait(t, 9*24*time.Hour)
		a.send("b.test", 5)
		w.set(func(x *wire) { x.cut = false })
		wait(t, time.Minute)
		if n := b.acceptor.count(); n != 5 {
			t.Errorf("delivered %d", n)
		}
	})
}

// Keys rotate while traffic goes on.
func TestAHundredDaysOfKeys(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		keys := map[string]bool{}
		for range 100 {
			keys[a.self.SigningKey().KID] = true
			a.send("b.test", 1)
			wait(t, 24*time.Hour)
		}
		if len(keys) < 2 || a.outbox.failed > 0 {
			t.Errorf("%d keys, %d failed attempts", len(keys), a.outbox.failed)
		}
	})
}

func TestSuspendedPeer(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		b.peers.change("a.test", func(p *federation.Peer) { p.State = federation.PeerSuspended })
		a.send("b.test", 5)
		wait(t, 30*time.Minute)
		if s := a.sender.Status("b.test"); b.acceptor.count() != 0 || s.LastError != clearbox.CodePeerBlocked {
			t.Errorf("delivered %d, last error %q", b.acceptor.count(), s.LastError)
		}
		b.peers.change("a.test", func(p *federation.Peer) { p.State = federation.PeerActive })
		b.sender.Greet()
		wait(t, 10*time.Second)
		if n := b.acceptor.count(); n != 5 {
			t.Errorf("delivered %d after the peering was resumed", n)
		}
	})
}
