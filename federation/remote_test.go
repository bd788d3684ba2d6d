package federation_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

func TestDirectoryQuestions(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		ctx := w.t.Context()
		bob := clearbox.UserID{UID: knownUID, Server: "b.test"}
		got, err := a.client.Resolve(ctx, clearbox.Address{Handle: "bob", Server: "b.test"})
		if err != nil || got.User != bob || got.Handle != "bob" || got.Version != 7 || string(got.DeviceList) != "list" {
			t.Errorf("%+v %v", got, err)
		}
		if got, err = a.client.Devices(ctx, bob); err != nil || got.User != bob {
			t.Errorf("%+v %v", got, err)
		}
		bundles, err := a.client.Claim(ctx, bob, "claim-1", nil, []clearbox.DeviceID{2, 3})
		if err != nil || len(bundles) != 2 || bundles[1].Device != 3 || string(bundles[0].Identity) != "claim-1" {
			t.Errorf("%+v %v", bundles, err)
		}
		for _, shown := range [][]byte{bytes.Repeat([]byte{5}, 16), clearbox.GroupRef{ID: clearbox.GroupID{1}, Epoch: 9}.Permit()} {
			if _, err := a.client.Claim(ctx, bob, "claim-3", shown, nil); err != nil || !bytes.Equal(b.dir.shown, shown) {
				t.Errorf("shown %x, arrived %x, %v", shown, b.dir.shown, err)
			}
		}
		// Unknown by handle and unknown by uid look alike, whatever the directory calls them.
		_, err1 := a.client.Resolve(ctx, clearbox.Address{Handle: "eve", Server: "b.test"})
		_, err2 := a.client.Devices(ctx, clearbox.UserID{UID: "baaaaaaaaaaaaaaaaaaaaaaaaa", Server: "b.test"})
		if clearbox.CodeOf(err1) != clearbox.CodeRecipientUnavailable || clearbox.CodeOf(err2) != clearbox.CodeRecipientUnavailable || err1.Error() != err2.Error() {
			t.Errorf("%v, %v", err1, err2)
		}
		if _, err := a.client.Resolve(ctx, clearbox.Address{Handle: "bob", Server: "stranger.test"}); clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
			t.Errorf("a server that is no peer: %v", err)
		}
	})
}

// A queue that backs off does not stop questions, and a peer that is away is
// asked every ten seconds only.
func TestQuestionsToAPeerThatIsAway(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		bob := clearbox.UserID{UID: knownUID, Server: "b.test"}
		ask := func() clearbox.Code {
			_, err := a.client.Devices(w.t.Context(), bob)
			return clearbox.CodeOf(err)
		}
		w.set(func(x *wire) { x.cut = true })
		a.send("b.test", 1)
		wait(t, 2*time.Hour)
		before := w.attempts()
		for range 100 {
			if c := ask(); c != clearbox.CodePeerUnreachable {
				t.Fatalf("%q", c)
			}
			time.Sleep(time.Second)
		}
		if n := w.attempts() - before; n < 9 || n > 12 {
			t.Errorf("%d attempts in 100 s", n)
		}
		w.set(func(x *wire) { x.cut = false })
		time.Sleep(10 * time.Second)
		if c := ask(); c != "" || a.outbox.unsettled() != 1 {
			t.Errorf("%q with a queue that still waits (%d)", c, a.outbox.unsettled())
		}
		a.sender.Retry("b.test")
		wait(t, time.Second)
	})
}

// A peer that has answered whatever no queue made is there: a queue that backs
// off for long goes on.
func TestAnswersEndTheWait(t *testing.T) {
	bob := clearbox.UserID{UID: knownUID, Server: "b.test"}
	for name, contact := range map[string]func(t *testing.T, a, b *node) error{
		"a question": func(t *testing.T, a, _ *node) error {
			_, err := a.client.Devices(t.Context(), bob)
			return err
		},
		"a question about nobody": func(t *testing.T, a, _ *node) error {
			_, err := a.client.Devices(t.Context(), clearbox.UserID{UID: "baaaaaaaaaaaaaaaaaaaaaaaaa", Server: "b.test"})
			if clearbox.CodeOf(err) == clearbox.CodeRecipientUnavailable {
				return nil
			}
			return err
		},
		"an operator's greeting": func(t *testing.T, a, _ *node) error {
			_, err := a.client.Hello(t.Context(), "b.test")
			return err
		},
		"its document, asked for by a request with a new key": func(t *testing.T, a, b *node) error {
			c := newCaptured(t, b, a)
			c.r.URL.Host, c.r.Host, c.key.KID = "a.test", "a.test", "fs-new"
			c.signAs(t, "b.test", "a.test", time.Now())
			if code := problemCode(t, c.deliver()); code != clearbox.CodeUnknownKey {
				t.Fatalf("%q", code)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			two(t, func(w *world, a, b *node) { a.wakes = true }, func(w *world, a, b *node) {
				w.set(func(x *wire) { x.cut = true })
				a.send("b.test", 1)
				wait(t, 30*time.Hour)
				w.set(func(x *wire) { x.cut = false })
				if err := contact(w.t, a, b); err != nil {
					t.Fatal(err)
				}
				wait(t, 10*time.Second)
				if n := b.acceptor.count(); n != 1 {
					t.Errorf("delivered %d", n)
				}
			})
		})
	}
}

// Only the peer's own signed word is believed about its people.
func TestForgedDirectoryAnswer(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		w.set(func(x *wire) {
			x.answer = func(_ *http.Request, _ []byte, resp *http.Response) {
				resp.StatusCode = 404
				resp.Header.Del("Signature")
			}
		})
		_, err := a.client.Devices(w.t.Context(), clearbox.UserID{UID: knownUID, Server: "b.test"})
		if clearbox.CodeOf(err) != clearbox.CodePeerUnreachable {
			t.Errorf("%v", err)
		}
	})
}

func TestClaimsAreBounded(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		bob := clearbox.UserID{UID: knownUID, Server: "b.test"}
		for range 500 {
			_, _ = a.client.Claim(w.t.Context(), bob, "claim-2", nil, []clearbox.DeviceID{1})
		}
		if b.dir.calls > 60 {
			t.Errorf("%d claims reached the directory at once", b.dir.calls)
		}
	})
}

// Requests with unknown keys cost at most one fetch a minute.
func TestUnknownKeysFetchOnceAMinute(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		wait(t, 2*time.Minute)
		before := w.attempts()
		for range 100 {
			c := newCaptured(t, a, b)
			c.key.KID = "fs-none"
			c.sign(t, time.Now())
			if resp := c.deliver(); problemCode(t, resp) != clearbox.CodeUnknownKey {
				t.Fatal("not refused as an unknown key")
			}
			wait(t, 600*time.Millisecond)
		}
		if n := w.attempts() - before; n != 1 {
			t.Errorf("%d fetches in a minute", n)
		}
	})
}

// So do answers with unknown keys, and none of them is believed.
func TestAnswersWithUnknownKeys(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		wait(t, 2*time.Minute)
		fetches := 0
		w.set(func(x *wire) {
			x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
				if req.Method == http.MethodGet {
					fetches++
				}
				resp.Header.Set("Signature-Input", strings.Replace(resp.Header.Get("Signature-Input"), `keyid="fs-`, `keyid="fx-`, 1))
			}
		})
		for range 50 {
			if _, err := a.client.Hello(w.t.Context(), "b.test"); clearbox.CodeOf(err) != clearbox.CodeUnknownKey {
				t.Fatalf("%v", err)
			}
			time.Sleep(time.Second)
		}
		if fetches != 1 {
			t.Errorf("%d fetches in a minute", fetches)
		}
	})
}

func TestOpenDocuments(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		get := func(path string) *http.Response {
			r, err := http.NewRequest(http.MethodGet, "https://b.test"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			return b.receive(r, nil)
		}
		for path, want := range map[string]int{
			federation.PathServer: 200, federation.PathWellKnown: 200, "/fed/v1/nothing": 404, "/fed/v2/txn": 404, federation.PathTxn: 405, federation.PathPeering: 405,
		} {
			if resp := get(path); resp.StatusCode != want {
				t.Errorf("GET %s: %d", path, resp.StatusCode)
			}
		}
	})
}

func TestPeeringDoorIsClosedByDefault(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		c := newCaptured(t, a, b)
		c.r.URL.Path = federation.PathPeering
		c.sign(t, time.Now())
		if resp := c.deliver(); resp.StatusCode != 403 || problemCode(t, resp) != clearbox.CodeUnknownPeer {
			t.Errorf("%d", resp.StatusCode)
		}
	})
}
