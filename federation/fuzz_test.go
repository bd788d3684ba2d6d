package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/franking"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/fxamacker/cbor/v2"
)

func FuzzDocument(f *testing.F) {
	f.Add(signed(f, document(5), identity(1)))
	f.Add(signed(f, document(6), identity(2), identity(1)))
	f.Add([]byte(`{"payload":"e30","signatures":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := federation.ParseDocument(raw)
		if err != nil {
			if d != nil {
				t.Error("a document beside an error")
			}
			return
		}
		again, err := federation.ParseDocument(d.Signed())
		if err != nil || again.Hash() != d.Hash() {
			t.Errorf("parse, print, parse: %v", err)
		}
	})
}

func goldenTransaction(t testing.TB) []byte {
	t.Helper()
	o := newOutbox(0)
	txn := &federation.Transaction{Stream: o.stream, Class: federation.ClassMessage, Fence: 3, FirstPos: 7}
	for range 3 {
		txn.Items = append(txn.Items, o.add("a.test", "b.test").item)
	}
	txn.Items = append(txn.Items, federation.Item{Void: true})
	b, err := federation.EncodeTransaction(txn)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzHello reads greetings with everything that may stand in them.
func FuzzHello(f *testing.F) {
	full, err := federation.EncodeHello(&federation.Hello{
		Seq: 7, Hash: make([]byte, 32), Seen: make([]byte, 32), Clock: 1793534400000,
		Streams: []federation.Position{{Class: federation.ClassMessage, Stream: make([]byte, 16), Fence: 3, Last: 9}},
		Gossip:  &federation.Gossip{Asked: [][]byte{make([]byte, 32)}, Evaluated: [][]byte{make([]byte, 32)}, Views: [][]byte{make([]byte, 100)}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := federation.DecodeHello(b)
		if err != nil {
			return
		}
		again, err := federation.EncodeHello(h)
		if err != nil {
			t.Fatal(err)
		}
		h2, err := federation.DecodeHello(again)
		if err != nil {
			t.Fatalf("what was printed is not read: %v", err)
		}
		if third, err := federation.EncodeHello(h2); err != nil || !bytes.Equal(third, again) {
			t.Fatal("reading and printing is not stable")
		}
	})
}

func FuzzEphemeral(f *testing.F) {
	b, _, err := federation.EncodeEphemeral(fleetings())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, err := federation.DecodeEphemeral(raw)
		if err != nil {
			return
		}
		again, n, err := federation.EncodeEphemeral(items)
		if err != nil || n != len(items) {
			t.Fatalf("%d of %d items, %v", n, len(items), err)
		}
		if back, err := federation.DecodeEphemeral(again); err != nil || len(back) != len(items) {
			t.Fatalf("%d items became %d, %v", len(items), len(back), err)
		}
	})
}

func FuzzTransaction(f *testing.F) {
	f.Add(goldenTransaction(f))
	f.Add(goldenItems(f, federation.ClassMessage, sealedItem(f), bounceByRef(f)))
	f.Add(goldenItems(f, federation.ClassControl, knock(f)))
	f.Add(goldenItems(f, federation.ClassMessage, groupItem(f)))
	f.Add(goldenItems(f, federation.ClassControl, groupOp(f), groupEnd(f)))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		txn, err := federation.DecodeTransaction(raw)
		if err != nil {
			return
		}
		for i := range txn.Items {
			if txn.Items[i].Refused != "" {
				return // has no wire form
			}
		}
		out, err := federation.EncodeTransaction(txn)
		if err != nil {
			return // the strict form may be longer than what came in
		}
		again, err := federation.DecodeTransaction(out)
		if err != nil {
			t.Fatalf("parse, print, parse: %v", err)
		}
		if out2, err := federation.EncodeTransaction(again); err != nil || !bytes.Equal(out, out2) {
			t.Errorf("not stable: %v", err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	b, err := federation.EncodeAnswer(&federation.Answer{Stream: make([]byte, 16), FirstPos: 1, AcceptedThrough: 2, Verdicts: []federation.Verdict{
		{Code: federation.VerdictOK, DevicesVersion: 3}, {Code: federation.VerdictDeferred, Reason: clearbox.CodeMailboxFull, RetryAfter: time.Second},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := federation.DecodeAnswer(raw)
		if err != nil {
			return
		}
		out, err := federation.EncodeAnswer(a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := federation.DecodeAnswer(out); err != nil && len(out) <= federation.MaxAnswer {
			t.Errorf("parse, print, parse: %v", err)
		}
	})
}

// FuzzSignatureHeaders looks for any pair of headers but the genuine one that
// verifies.
func FuzzSignatureHeaders(f *testing.F) {
	body := []byte("body")
	key := federation.SigningKey{KID: "fs-1", Private: identity(9)}
	doc, err := federation.ParseDocument(signed(f, document(5), identity(1)))
	if err != nil {
		f.Fatal(err)
	}
	genuine := httptest.NewRequest(http.MethodPost, "/fed/v1/txn", nil)
	genuine.Host, genuine.URL.Host = "b.test", "b.test"
	genuine.Header.Set("Content-Type", federation.TypeCBOR)
	if _, err := federation.SignRequest(genuine, body, "a.test", "b.test", key, base, seeded{rng(3)}); err != nil {
		f.Fatal(err)
	}
	input, sig := genuine.Header.Get("Signature-Input"), genuine.Header.Get("Signature")
	f.Add(input, sig)
	f.Add(input+`;alg="ed25519"`, sig)
	f.Add(`cbfed=()`, `cbfed=:AA==:`)
	f.Fuzz(func(t *testing.T, in, s string) {
		v := &federation.Verifier{Server: "b.test", Authorities: []string{"b.test"}, Nonces: federation.NewNonces(0)}
		r := genuine.Clone(t.Context())
		r.Header.Set("Signature-Input", in)
		r.Header.Set("Signature", s)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		_, err := v.Verify(r, "a.test", func(kid string) (ed25519.PublicKey, bool) { return doc.FedSign(kid, base) }, base)
		if err == nil && (in != input || s != sig) {
			t.Errorf("accepted\n%q\n%q", in, s)
		}
		if err != nil && in == input && s == sig {
			t.Errorf("the genuine headers: %v", err)
		}
	})
}

// FuzzReport reads what peers report: what is accepted is within the limits, and
// reading and printing is stable.
func FuzzReport(f *testing.F) {
	id := make([]byte, 16)
	for _, v := range []any{
		map[string]any{"user": "aaaaaaaaaaaaaaaaaaaaaaaaaa@a.test", "id": id, "kind": 1, "sent": 5, "text": "hi", "key": make([]byte, 32), "reason": "rude"},
		map[string]any{"user": "aaaaaaaaaaaaaaaaaaaaaaaaaa@a.test", "id": id, "carrier": []byte("sixteen bytes..."), "kind": 15, "sent": -1, "file": make([]byte, 32), "key": make([]byte, 32)},
		map[string]any{"user": "nobody", "id": id[1:]},
	} {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := federation.DecodeReport(raw)
		if err != nil {
			return
		}
		if r.User.IsZero() || len(r.Key) != franking.KeySize || len(r.File) != 0 && len(r.File) != 32 || len(r.Text) > franking.MaxText || len(r.Reason) > federation.MaxReportReason {
			t.Errorf("accepted: %+v", r)
		}
		r.Proven()
		again, err := federation.EncodeReport(&r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := federation.DecodeReport(again); err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%+v became %+v, %v", r, back, err)
		}
	})
}

// FuzzGroups reads what peers ask and answer about groups: what is accepted is
// within the limits.
func FuzzGroups(f *testing.F) {
	for _, v := range []any{
		map[string]any{"group": make([]byte, 32), "op": []byte{1}, "openings": [][]byte{{2}}},
		map[string]any{"ops": [][]byte{{1}}, "openings": [][]byte{{2}}, "more": true},
	} {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := federation.DecodeHistory(raw); err == nil && (len(h.Ops) > federation.MaxHistoryOps || h.More && len(h.Ops) == 0) {
			t.Errorf("%d operations, more %v", len(h.Ops), h.More)
		}
		g, err := federation.DecodeGroupOp(raw)
		if err != nil {
			return
		}
		if (len(g.Op) == 0) != g.Ended || len(g.Op) > federation.MaxGroupOp || len(g.Openings) > federation.MaxOpenings {
			t.Errorf("accepted: %d bytes, %d openings, ended %v", len(g.Op), len(g.Openings), g.Ended)
		}
	})
}
