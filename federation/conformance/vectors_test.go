package conformance_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/federation/conformance"
)

var update = flag.Bool("update", false, "write the vectors")

const folder = "../testdata/vectors"

// golden compares a file of vectors with what this build makes, or writes it.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	compare(t, name, b.Bytes())
}

func compare(t *testing.T, name string, made []byte) {
	t.Helper()
	path := filepath.Join(folder, name)
	if *update {
		if err := os.WriteFile(path, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, made) {
		t.Errorf("%s differs from what is made now: the protocol changed; if that is meant, run with -update and say so in the change log", name)
	}
}

// TestCasesArePublished: the attacks that the command makes are the ones that
// anybody can read.
func TestCasesArePublished(t *testing.T) {
	own, err := os.ReadFile("cases.json")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "attacks.json", own)
	names := map[string]bool{}
	for _, c := range conformance.Cases() {
		if names[c.Name] || c.Want.Status < 400 || c.Want.Code == "" {
			t.Errorf("%q is there twice, or wants nothing", c.Name)
		}
		names[c.Name] = true
	}
}

// world is what every file of vectors begins with: the two servers, whose test
// keys are public, and the time.
type vectorWorld struct {
	About string          `json:"about"`
	Now   clearbox.Millis `json:"now"`
	A, B  vectorServer
}

type vectorServer struct {
	Server       clearbox.ServerName `json:"server"`
	IdentitySeed string              `json:"identity_seed"` // hexadecimal, Ed25519
	Signing      struct {
		KeyID string `json:"keyid"`
		Seed  string `json:"seed"`
	} `json:"fed_sign"`
	Document json.RawMessage `json:"document"`
}

func (n *node) vector(seed byte) vectorServer {
	v := vectorServer{Server: n.name, IdentitySeed: hex.EncodeToString(identityOf(seed).Seed()), Document: n.self.Document().Signed()}
	key := n.self.SigningKey()
	v.Signing.KeyID, v.Signing.Seed = key.KID, hex.EncodeToString(key.Private.Seed())
	return v
}

func about(text string, a, b *node) vectorWorld {
	return vectorWorld{About: text, Now: clearbox.Millis(start.UnixMilli()), A: a.vector(1), B: b.vector(2)}
}

type requestVector struct {
	Name    string              `json:"name"`
	Method  string              `json:"method"`
	Host    string              `json:"host"`
	Target  string              `json:"target"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body,omitempty"`  // hexadecimal
	Zeros   int                 `json:"zeros,omitempty"` // or so many zero bytes
	Seen    bool                `json:"seen,omitempty"`  // it came before
	Status  int                 `json:"status"`
	Code    clearbox.Code       `json:"code,omitempty"`
}

type errorVector struct {
	Status int             `json:"status"`
	Type   string          `json:"content_type"`
	Signed bool            `json:"signed"`
	Body   json.RawMessage `json:"body"`
}

// The requests: one that is good and every attack, as bytes, with what b.test
// answers; the error bodies are collected on the way.
func TestVectorsOfRequests(t *testing.T) {
	a, b := two(t)
	r := runner(t, a, b, b.inbox)
	var list []requestVector
	errs := map[clearbox.Code]errorVector{}
	good := conformance.Case{Name: "a greeting", Want: conformance.Want{Status: http.StatusOK}}
	full := conformance.Case{Name: "a transaction", Path: federation.PathTxn, Body: hex.EncodeToString(transaction(t, 1, 1)), Want: conformance.Want{Status: http.StatusOK}}
	gap := conformance.Case{Name: "a transaction too far ahead", Path: federation.PathTxn, Body: hex.EncodeToString(transaction(t, 1, 9)), Want: conformance.Want{Status: http.StatusConflict, Code: clearbox.CodeGap}}
	fenced := conformance.Case{Name: "a transaction under an old lease", Path: federation.PathTxn, Body: hex.EncodeToString(transaction(t, 7, 1)), Want: conformance.Want{Status: http.StatusConflict, Code: clearbox.CodeFenced}}
	absent := conformance.Case{Name: "a person who is not there", Path: federation.PathDevices, Body: "a163756964781a" + hex.EncodeToString([]byte(strings.Repeat("a", 26))), Want: conformance.Want{Status: http.StatusNotFound, Code: clearbox.CodeRecipientUnavailable}}
	for _, c := range append([]conformance.Case{good, full, gap, fenced, absent}, conformance.Cases()...) {
		req, err := r.Make(&c, r.Greeting, start)
		if err != nil {
			t.Fatal(err)
		}
		v := requestVector{Name: c.Name, Method: req.HTTP.Method, Host: req.HTTP.Host, Target: req.HTTP.URL.RequestURI(), Headers: req.HTTP.Header, Seen: c.Twice, Status: c.Want.Status, Code: c.Want.Code}
		if strings.HasPrefix(c.Body, "zeros:") {
			v.Zeros = len(req.Body)
		} else {
			v.Body = hex.EncodeToString(req.Body)
		}
		list = append(list, v)
	}
	for _, v := range list {
		resp, body := v.play(t, b)
		if v.Seen {
			resp, body = v.play(t, b)
		}
		var p struct{ Code clearbox.Code }
		_ = json.Unmarshal(body, &p) // an answer that is no problem has no code
		if resp.StatusCode != v.Status || p.Code != v.Code {
			t.Errorf("%s: %d %s, want %d %s", v.Name, resp.StatusCode, p.Code, v.Status, v.Code)
		}
		if _, known := errs[p.Code]; p.Code != "" && !known {
			errs[p.Code] = errorVector{resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Signature") != "", body}
		}
	}
	golden(t, "requests.json", struct {
		vectorWorld
		Requests []requestVector `json:"requests"`
	}{about("Requests of a.test to b.test and what b.test answers, each at the time now and before any other unless it says seen", a, b), list})
	golden(t, "errors.json", struct {
		About  string                        `json:"about"`
		Errors map[clearbox.Code]errorVector `json:"errors"`
	}{"Error answers to the requests in requests.json, by code (RFC 9457)", errs})
}

// play sends the bytes of a vector to the node.
func (v *requestVector) play(t *testing.T, n *node) (*http.Response, []byte) {
	t.Helper()
	body, err := hex.DecodeString(v.Body)
	if err != nil {
		t.Fatal(err)
	}
	body = append(body, make([]byte, v.Zeros)...)
	req, err := http.NewRequest(v.Method, "https://"+v.Host+v.Target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = v.Headers
	resp, err := serve(n.inbox, req)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, answer
}

var stream = bytes.Repeat([]byte{0x5a}, 16)

func user(uid, server string) clearbox.UserID {
	return clearbox.UserID{UID: clearbox.UID(strings.Repeat(uid, 25) + "a"), Server: clearbox.ServerName(server)}
}

func message() federation.Item {
	return federation.Item{
		ID: clearbox.MessageID(bytes.Repeat([]byte{1}, 16)), Recipient: user("b", "b.test"), AcceptedAt: clearbox.Millis(start.UnixMilli()),
		Token: bytes.Repeat([]byte{2}, 16), Ref: bytes.Repeat([]byte{3}, 16),
		Envelopes: []federation.ItemEnvelope{{Device: 1, Registration: 5, Type: clearbox.ContentSealed, Content: bytes.Repeat([]byte{0x11}, clearbox.SealedSize(1))}},
	}
}

func transaction(t *testing.T, fence, first int64) []byte {
	t.Helper()
	raw, err := federation.EncodeTransaction(&federation.Transaction{Stream: stream, Class: federation.ClassMessage, Fence: fence, FirstPos: first, Items: []federation.Item{message()}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

type responseVector struct {
	Name    string              `json:"name"`
	Status  int                 `json:"status"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"` // hexadecimal
	Valid   bool                `json:"valid"`
}

// The answers: a good one, and what nobody may take for one.
func TestVectorsOfResponses(t *testing.T) {
	a, b := two(t)
	r := runner(t, a, b, b.inbox)
	answer := func(c conformance.Case) (*conformance.Request, *http.Response, []byte) {
		req, err := r.Make(&c, r.Greeting, start)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.Do(req.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		return req, resp, body
	}
	req, resp, body := answer(conformance.Case{Name: "a transaction", Path: federation.PathTxn, Body: hex.EncodeToString(transaction(t, 1, 1))})
	_, other, otherBody := answer(conformance.Case{Name: "a greeting"})
	_, refusal, refusalBody := answer(conformance.Case{Name: "no body", Body: "none"})
	var list []responseVector
	add := func(name string, valid bool, status int, h http.Header, body []byte, change func(h http.Header)) {
		h = h.Clone()
		h.Del("Cache-Control")
		if change != nil {
			change(h)
		}
		list = append(list, responseVector{name, status, h, hex.EncodeToString(body), valid})
	}
	bent := append(bytes.Clone(body[:len(body)-1]), body[len(body)-1]^1)
	add("the answer", true, 200, resp.Header, body, nil)
	add("another status", false, 201, resp.Header, body, nil)
	add("one bit of the body", false, 200, resp.Header, bent, nil)
	add("one bit of the body, and its digest", false, 200, resp.Header, bent, func(h http.Header) { h.Set("Content-Digest", federation.ContentDigest(bent)) })
	add("another content type", false, 200, resp.Header, body, func(h http.Header) { h.Set("Content-Type", "application/json") })
	add("unsigned", false, 200, resp.Header, body, func(h http.Header) { h.Del("Signature"); h.Del("Signature-Input") })
	add("alg added", false, 200, resp.Header, body, func(h http.Header) { h.Set("Signature-Input", h.Get("Signature-Input")+`;alg="ed25519"`) })
	add("not bound to a request", false, 200, resp.Header, body, func(h http.Header) {
		h.Set("Signature-Input", strings.Replace(h.Get("Signature-Input"), ` "signature";req`, "", 1))
	})
	add("compressed", false, 200, resp.Header, body, func(h http.Header) { h.Set("Content-Encoding", "gzip") })
	add("the answer to another request", false, 200, other.Header, otherBody, nil)
	add("the refusal of another request", false, refusal.StatusCode, refusal.Header, refusalBody, nil)
	for _, v := range list {
		body, _ := hex.DecodeString(v.Body)
		if err := federation.VerifyAnswer(v.Status, v.Headers, body, req.Signature, keysOf(r)); (err == nil) != v.Valid {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	golden(t, "responses.json", struct {
		vectorWorld
		Request   string           `json:"request_signature"`
		Responses []responseVector `json:"responses"`
	}{about("Answers of b.test to the request of a.test with that Signature header", a, b), req.Signature, list})
}

type documentVector struct {
	Name     string          `json:"name"`
	Document json.RawMessage `json:"document,omitempty"`
	Text     string          `json:"text,omitempty"` // where it is no JSON
	Verdict  string          `json:"verdict"`        // ok, or the code of the refusal
}

// The documents, judged at the time now by a peer that pinned the identity and
// holds the first one.
func TestVectorsOfDocuments(t *testing.T) {
	a, b := two(t)
	held := a.self.Document()
	next := func(change func(*federation.Document), signers ...ed25519.PrivateKey) []byte {
		d := *held
		d.Seq, d.Keys, d.Endpoints = held.Seq+1, slices.Clone(held.Keys), slices.Clone(held.Endpoints)
		h := held.Hash()
		d.Prev = base64.RawURLEncoding.EncodeToString(h[:])
		if change != nil {
			change(&d)
		}
		if signers == nil {
			signers = []ed25519.PrivateKey{identityOf(1)}
		}
		raw, err := d.Sign(signers...)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	list := []documentVector{}
	add := func(name, verdict string, raw []byte) {
		v := documentVector{Name: name, Verdict: verdict, Document: raw}
		if !json.Valid(raw) {
			v.Document, v.Text = nil, string(raw)
		}
		list = append(list, v)
	}
	day := clearbox.Millis(24 * time.Hour / time.Millisecond)
	add("the one that is held", "ok", held.Signed())
	add("a newer one", "ok", next(nil))
	add("a newer one of a new identity, signed by both", "ok", next(nil, identityOf(9), identityOf(1)))
	add("a newer one of a new identity alone", "identity_changed", next(nil, identityOf(9)))
	add("an older one", "bad_signature", next(func(d *federation.Document) { d.Seq = held.Seq - 1 }))
	add("another one under the same sequence", "bad_signature", next(func(d *federation.Document) { d.Seq = held.Seq }))
	add("about another server", "bad_signature", next(func(d *federation.Document) { d.Server = "c.test" }))
	add("expired", "expired", next(func(d *federation.Document) { d.Issued -= 8 * day; d.Expires = d.Issued + 7*day }))
	add("from the future", "clock_skew", next(func(d *federation.Document) { d.Issued += day; d.Expires = d.Issued + 7*day }))
	add("eight days long", "bad_request", next(func(d *federation.Document) { d.Expires = d.Issued + 8*day }))
	add("no endpoint", "bad_request", next(func(d *federation.Document) { d.Endpoints = nil }))
	add("an endpoint with a path", "bad_request", next(func(d *federation.Document) { d.Endpoints[0].URL = "https://a.test/x" }))
	add("an endpoint without TLS", "bad_request", next(func(d *federation.Document) { d.Endpoints[0].URL = "http://a.test" }))
	add("a key twice", "bad_request", next(func(d *federation.Document) { d.Keys = append(d.Keys, d.Keys[0]) }))
	add("a key on another curve than its purpose", "bad_request", next(func(d *federation.Document) { d.Keys[0].Crv = "X25519" }))
	add("a key of an unknown purpose", "ok", next(func(d *federation.Document) {
		d.Keys = append(d.Keys, federation.Key{Kty: "EC", Crv: "P-256", KID: "later-1", X: "", Purpose: "later", NotBefore: 1, Expires: 2})
	}))
	add("a country in small letters", "bad_request", next(func(d *federation.Document) { d.Legal.Country = "at" }))
	add("one bit of a signature", "bad_signature", bytes.Replace(next(nil), []byte(`"sig":"`), []byte(`"sig":"A`), 1)[:])
	add("no JSON", "bad_request", []byte("{"))
	add("something behind it", "bad_request", append(next(nil), " {}"...))
	for _, v := range list {
		raw := []byte(v.Document)
		if v.Text != "" {
			raw = []byte(v.Text)
		}
		verdict := "ok"
		doc, err := federation.ParseDocument(raw)
		if err == nil {
			err = doc.Check("a.test", held.Pin(), start)
		}
		if err == nil {
			err = doc.Follows(held)
		}
		if err != nil {
			verdict = string(clearbox.CodeOf(err))
		}
		if verdict != v.Verdict {
			t.Errorf("%s: %s, want %s", v.Name, verdict, v.Verdict)
		}
	}
	golden(t, "documents.json", struct {
		vectorWorld
		Documents []documentVector `json:"documents"`
	}{about("Documents of a.test, judged at the time now by a peer that pinned the identity of A and holds its document", a, b), list})
}

type itemVector struct {
	Name        string        `json:"name"`
	Class       string        `json:"class"`
	Item        string        `json:"item"`        // hexadecimal CBOR, the content of the byte string in a transaction
	Diagnostic  string        `json:"diagnostic"`  // RFC 8949, 8
	Transaction string        `json:"transaction"` // hexadecimal, with the item between two good ones; "" where the class has no others
	Refused     clearbox.Code `json:"refused,omitempty"`
}

// The items of a transaction, each between neighbours that must be read.
func TestVectorsOfItems(t *testing.T) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	type m = map[string]any
	id, token, ref := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16), bytes.Repeat([]byte{3}, 16)
	alice, bob := user("a", "a.test").String(), user("b", "b.test").String()
	at := start.UnixMilli()
	envelope := func(kind int) m {
		return m{"device": 1, "registration": 5, "type": kind, "content": bytes.Repeat([]byte{0x11}, clearbox.SealedSize(1))}
	}
	sealed := func(change func(m)) m {
		v := m{"id": id, "to": bob, "at": at, "token": token, "ref": ref, "envelopes": []m{envelope(int(clearbox.ContentSealed))}}
		if change != nil {
			change(v)
		}
		return v
	}
	list := []itemVector{}
	add := func(name string, class federation.Class, refused clearbox.Code, item any) {
		raw, ok := item.([]byte)
		if !ok {
			if raw, err = enc.Marshal(item); err != nil {
				t.Fatal(err)
			}
		}
		text, err := cbor.Diagnose(raw)
		if err != nil {
			text = "not CBOR"
		}
		list = append(list, itemVector{Name: name, Class: string(class), Item: hex.EncodeToString(raw), Diagnostic: text, Refused: refused})
	}
	const msg, ctl = federation.ClassMessage, federation.ClassControl
	bad := clearbox.CodeBadRequest
	add("a sealed message", msg, "", sealed(nil))
	add("void", msg, "", m{"void": true})
	add("a bounce with a ref", msg, "", m{"id": id, "from": alice, "at": at, "ref": ref, "bounce": "expired", "crit": []string{"bounce"}})
	add("a knock", ctl, "", m{"id": id, "at": at, "knock": m{"from": alice, "handle": "alice", "to": "bob"}, "crit": []string{"knock"}})
	group := func(change func(m)) m {
		v := m{"id": id, "at": at, "ref": ref, "group": bytes.Repeat([]byte{4}, 32), "epoch": 7, "multi": bytes.Repeat([]byte{5}, 64), "crit": []string{"multi"}}
		change(v)
		return v
	}
	add("a message to a group", msg, "", group(func(m) {}))
	add("a message to a member", msg, "", sealed(func(v m) {
		delete(v, "token")
		v["group"], v["epoch"], v["crit"] = bytes.Repeat([]byte{4}, 32), 7, []string{"group"}
	}))
	add("a group of 31 bytes", msg, bad, group(func(v m) { v["group"] = bytes.Repeat([]byte{4}, 31) }))
	add("a group of zeros", msg, bad, group(func(v m) { v["group"] = make([]byte, 32) }))
	add("a group without an epoch", msg, bad, group(func(v m) { delete(v, "epoch") }))
	add("an epoch without a group", msg, bad, sealed(func(v m) { v["epoch"] = 7 }))
	add("a message to a group with a recipient", msg, bad, group(func(v m) { v["to"] = bob }))
	add("a message to a group with a sender", msg, bad, group(func(v m) { v["from"], v["device"] = alice, 1 }))
	add("a message to a group with a token", msg, bad, group(func(v m) { v["token"] = token }))
	add("a message to a group without a ref", msg, bad, group(func(v m) { delete(v, "ref") }))
	add("a message to a group that is a bounce", msg, bad, group(func(v m) { v["bounce"] = "expired" }))
	add("a message to a group in the other class", ctl, bad, group(func(m) {}))
	add("an unknown field", msg, "", sealed(func(v m) { v["later"] = 1 }))
	add("a known critical field", msg, "", sealed(func(v m) { v["crit"] = []string{"token"} }))
	add("an unknown critical field", msg, clearbox.CodeUnsupportedCritical, sealed(func(v m) { v["crit"] = []string{"later"} }))
	add("no token", msg, bad, sealed(func(v m) { delete(v, "token") }))
	add("a short token", msg, bad, sealed(func(v m) { v["token"] = token[1:] }))
	add("no ref", msg, bad, sealed(func(v m) { delete(v, "ref") }))
	add("a short id", msg, bad, sealed(func(v m) { v["id"] = id[1:] }))
	add("no recipient", msg, bad, sealed(func(v m) { delete(v, "to") }))
	add("a recipient that is no address", msg, bad, sealed(func(v m) { v["to"] = "bob" }))
	add("no envelope", msg, bad, sealed(func(v m) { v["envelopes"] = []m{} }))
	add("too many envelopes", msg, bad, sealed(func(v m) {
		v["envelopes"] = slices.Repeat([]m{envelope(int(clearbox.ContentSealed))}, clearbox.MaxDevices+1)
	}))
	add("an unknown content type", msg, bad, sealed(func(v m) { v["envelopes"] = []m{envelope(99)} }))
	add("a size between two buckets", msg, bad, sealed(func(v m) {
		e := envelope(int(clearbox.ContentSealed))
		e["content"] = bytes.Repeat([]byte{0x11}, clearbox.SealedSize(1)+1)
		v["envelopes"] = []m{e}
	}))
	add("a device twice", msg, bad, sealed(func(v m) {
		v["envelopes"] = []m{envelope(int(clearbox.ContentSealed)), envelope(int(clearbox.ContentSealed))}
	}))
	add("a time before 1970", msg, bad, sealed(func(v m) { v["at"] = -1 }))
	add("a knock among messages", msg, bad, m{"id": id, "at": at, "knock": m{"from": alice, "handle": "alice", "to": "bob"}})
	add("a message among knocks", ctl, bad, sealed(nil))
	add("nothing", msg, bad, []byte{})
	add("no map", msg, bad, []byte{0x01})
	add("something behind it", msg, bad, append(must(enc.Marshal(sealed(nil))), 0))
	for i := range list {
		v := &list[i]
		raw, _ := hex.DecodeString(v.Item)
		neighbour := must(enc.Marshal(m{"void": true}))
		txn := must(enc.Marshal(m{"stream": stream, "class": v.Class, "lease": 1, "first_pos": 1, "items": [][]byte{neighbour, raw, neighbour}}))
		v.Transaction = hex.EncodeToString(txn)
		got, err := federation.DecodeTransaction(txn)
		if err != nil {
			t.Errorf("%s: the transaction: %v", v.Name, err)
			continue
		}
		if it := &got.Items[1]; it.Refused != v.Refused || !got.Items[0].Void || !got.Items[2].Void {
			t.Errorf("%s: refused %q, want %q", v.Name, it.Refused, v.Refused)
		}
	}
	golden(t, "items.json", struct {
		About string       `json:"about"`
		Items []itemVector `json:"items"`
	}{"Items of a transaction: what is read, and with which code the others are rejected; the transaction has the item between two void ones, which must be read", list})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
