package federation_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// shelf gives one attachment.
type shelf struct {
	object clearbox.ObjectID
	secret [32]byte
	all    []byte
}

func (s *shelf) PeerMedia(_ context.Context, _ clearbox.ServerName, q federation.MediaQuestion) (federation.MediaPiece, error) {
	if q.Object != s.object || q.Secret != s.secret {
		return federation.MediaPiece{}, clearbox.Errorf(clearbox.CodeNotFound, "none")
	}
	from := min(q.From, int64(len(s.all)))
	return federation.MediaPiece{Size: int64(len(s.all)), Digest: sha256.Sum256(s.all), Data: s.all[from:min(from+int64(q.Most), int64(len(s.all)))]}, nil
}

func (n *node) openShelf(s *shelf, perSecond int) {
	n.inbox.Store(federation.NewInbox(n.self, n.client, n.acceptor, n.dir, federation.InboxOptions{Now: n.now, Contact: n.sender.Wake, Media: s, MediaBytesPerSecond: perSecond}))
}

func aShelf(size int) *shelf {
	s := &shelf{object: clearbox.ObjectID{1}, secret: [32]byte{2}, all: make([]byte, size)}
	for i := range s.all {
		s.all[i] = byte(i * 13 >> 5)
	}
	return s
}

func fetchAll(ctx context.Context, c *federation.Client, s *shelf) ([]byte, error) {
	var got []byte
	for {
		p, err := c.Media(ctx, "b.test", federation.MediaQuestion{Object: s.object, Secret: s.secret, From: int64(len(got)), Most: federation.MaxMediaPiece})
		if err != nil {
			return got, err
		}
		got = append(got, p.Data...)
		if int64(len(got)) == p.Size {
			return got, nil
		}
	}
}

func TestMediaInPieces(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		s := aShelf(3<<20 + 5)
		ctx := w.t.Context()
		q := federation.MediaQuestion{Object: s.object, Secret: s.secret, Most: 10}
		if _, err := a.client.Media(ctx, "b.test", q); clearbox.CodeOf(err) != clearbox.CodePeerUnreachable {
			t.Errorf("a peer that knows no attachments: %v", err)
		}
		b.openShelf(s, 0)
		if got, err := fetchAll(ctx, a.client, s); err != nil || !bytes.Equal(got, s.all) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		q.From = int64(len(s.all)) + 7
		if p, err := a.client.Media(ctx, "b.test", q); err != nil || len(p.Data) != 0 || p.Size != int64(len(s.all)) {
			t.Errorf("behind the end: %+v %v", p, err)
		}
		q.Secret[0]++
		if _, err := a.client.Media(ctx, "b.test", q); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("another secret: %v", err)
		}
		if _, err := a.client.Media(ctx, "stranger.test", q); clearbox.CodeOf(err) != clearbox.CodeUnknownPeer {
			t.Errorf("a server that is no peer: %v", err)
		}
	})
}

// A peer gets so many bytes of attachments in a second, and who fetches waits as
// it is told.
func TestMediaBudget(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		const perSecond = 1 << 20
		s := aShelf(20 << 20)
		b.openShelf(s, perSecond)
		from := time.Now()
		if got, err := fetchAll(w.t.Context(), a.client, s); err != nil || len(got) != len(s.all) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		least := time.Duration(len(s.all)-5*perSecond) * time.Second / perSecond // what is beyond the burst
		if took := time.Since(from); took < least || took > 2*least {
			t.Errorf("20 MiB at 1 MiB/s took %v, without the burst it is %v", took, least)
		}
	})
}

// Attachments that do not come say nothing about messages, and a sign of life of
// the peer lets them come again.
func TestMediaHasACircuitOfItsOwn(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		s := aShelf(1000)
		b.openShelf(s, 0)
		q := federation.MediaQuestion{Object: s.object, Secret: s.secret, Most: 10}
		w.set(func(x *wire) { x.cut = true })
		before := w.attempts()
		for range 50 {
			if _, err := a.client.Media(w.t.Context(), "b.test", q); clearbox.CodeOf(err) != clearbox.CodePeerUnreachable {
				t.Fatal(err)
			}
		}
		if n := w.attempts() - before; n != 1 {
			t.Errorf("a circuit that is open let %d questions through", n)
		}
		w.set(func(x *wire) { x.cut = false })
		if _, err := a.client.Devices(w.t.Context(), clearbox.UserID{UID: knownUID, Server: "b.test"}); err != nil {
			t.Errorf("a question beside it: %v", err)
		}
		if _, err := a.client.Media(w.t.Context(), "b.test", q); err != nil {
			t.Errorf("after an answer: %v", err)
		}
	})
}

// The origin may lie about everything that it signs; what it says stays within
// one piece, one question and the time for it.
func TestMediaOfAHostileOrigin(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		s := aShelf(3 << 20)
		b.openShelf(s, 0)
		q := federation.MediaQuestion{Object: s.object, Secret: s.secret, Most: 1000}
		for what, change := range map[string]func(resp *http.Response){
			"endless": func(resp *http.Response) { resp.Body = io.NopCloser(endless{}) },
			"changed": func(resp *http.Response) { resp.Body = io.NopCloser(bytes.NewReader(make([]byte, 1100))) },
			"cut":     func(resp *http.Response) { resp.Body = io.NopCloser(io.LimitReader(resp.Body, 500)) },
		} {
			w.set(func(x *wire) {
				x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
					if req.URL.Path == federation.PathMedia {
						change(resp)
					}
				}
			})
			if p, err := a.client.Media(w.t.Context(), "b.test", q); err == nil {
				t.Errorf("%s: %d bytes were taken", what, len(p.Data))
			}
			a.client.Contact("b.test")
		}
		w.set(func(x *wire) { x.answer, x.tar = nil, map[clearbox.ServerName]bool{"b.test": true} })
		from := time.Now()
		if _, err := a.client.Media(w.t.Context(), "b.test", q); clearbox.CodeOf(err) != clearbox.CodePeerUnreachable || time.Since(from) > 20*time.Second {
			t.Errorf("a tarpit: %v after %v", err, time.Since(from))
		}
		w.set(func(x *wire) { x.tar = nil })
		wait(t, time.Minute)
	})
}

func TestMediaAnswersThatAreRefused(t *testing.T) {
	q := federation.MediaQuestion{Object: clearbox.ObjectID{1}, From: 100, Most: 50}
	good := federation.MediaWire{Size: 1000, Digest: make([]byte, 32), From: 100, Data: make([]byte, 50)}
	if p, err := federation.DecodeMediaPiece(federation.EncodeWire(t, good), &q); err != nil || p.Size != 1000 {
		t.Fatal(p, err)
	}
	for what, change := range map[string]func(w *federation.MediaWire){
		"another place":        func(w *federation.MediaWire) { w.From = 0 },
		"more than was asked":  func(w *federation.MediaWire) { w.Data = make([]byte, 51) },
		"dripping":             func(w *federation.MediaWire) { w.Data = make([]byte, 1) },
		"nothing":              func(w *federation.MediaWire) { w.Data = nil },
		"more than there is":   func(w *federation.MediaWire) { w.Size = 120 },
		"no size":              func(w *federation.MediaWire) { w.Size = -1 },
		"larger than anything": func(w *federation.MediaWire) { w.Size = 1 << 50 },
		"half a digest":        func(w *federation.MediaWire) { w.Digest = make([]byte, 16) },
	} {
		w := good
		change(&w)
		if _, err := federation.DecodeMediaPiece(federation.EncodeWire(t, w), &q); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func FuzzMedia(f *testing.F) {
	q := federation.MediaQuestion{Object: clearbox.ObjectID{1}, Secret: [32]byte{2}, From: 3, Most: 4}
	raw, err := federation.EncodeMediaQuestion(&q)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(federation.EncodeWire(f, federation.MediaWire{Size: 1000, Digest: make([]byte, 32), From: 3, Data: make([]byte, 4)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := federation.DecodeMediaPiece(raw, &q); err == nil && (len(p.Data) > q.Most || p.Size < 0) {
			t.Errorf("%+v", p)
		}
		got, err := federation.DecodeMediaQuestion(raw)
		if err != nil {
			return
		}
		again, err := federation.EncodeMediaQuestion(got)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := federation.DecodeMediaQuestion(again); err != nil || *twice != *got {
			t.Errorf("%+v %v", twice, err)
		}
	})
}
