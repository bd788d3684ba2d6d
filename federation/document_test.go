package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

var base = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func identity(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

func document(seq int64) *federation.Document {
	pub := identity(9).Public().(ed25519.PublicKey)
	return &federation.Document{
		Server: "a.test", Seq: seq, Issued: clearbox.Millis(base.UnixMilli()), Expires: clearbox.Millis(base.Add(federation.MaxDocumentLife).UnixMilli()),
		Endpoints: []federation.Endpoint{{URL: "https://chat.a.test:8443"}},
		Keys: []federation.Key{{
			Kty: "OKP", Crv: "Ed25519", KID: "fs-1", X: base64.RawURLEncoding.EncodeToString(pub), Purpose: federation.PurposeFedSign,
			NotBefore: clearbox.Millis(base.UnixMilli()), Expires: clearbox.Millis(base.Add(90 * 24 * time.Hour).UnixMilli()),
		}},
		Protocol: federation.Protocol{Min: "1.0", Max: "1.0"},
		Legal:    federation.Legal{Controller: "A", Country: "DE"},
	}
}

func signed(t testing.TB, d *federation.Document, ids ...ed25519.PrivateKey) []byte {
	t.Helper()
	raw, err := d.Sign(ids...)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestDocument(t *testing.T) {
	raw := signed(t, document(5), identity(1))
	d, err := federation.ParseDocument(raw)
	if err != nil {
		t.Fatal(err)
	}
	pin := d.Pin()
	if err := d.Check("a.test", pin, base); err != nil {
		t.Error(err)
	}
	if _, ok := d.FedSign("fs-1", base); !ok {
		t.Error("the signing key is not found")
	}
	if _, ok := d.FedSign("fs-1", base.Add(92*24*time.Hour)); ok {
		t.Error("an expired key is found")
	}
	for name, c := range map[string]struct {
		err  error
		want clearbox.Code
	}{
		"another server":   {d.Check("b.test", pin, base), clearbox.CodeBadSignature},
		"another identity": {d.Check("a.test", [32]byte{1}, base), clearbox.CodeIdentityChanged},
		"from the future":  {d.Check("a.test", pin, base.Add(-2*time.Hour)), clearbox.CodeClockSkew},
		"expired":          {d.Check("a.test", pin, base.Add(8*24*time.Hour)), clearbox.CodeExpired},
	} {
		if clearbox.CodeOf(c.err) != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

// An older document, and another one under the same sequence.
func TestDocumentRollback(t *testing.T) {
	parse := func(d *federation.Document) *federation.Document {
		p, err := federation.ParseDocument(signed(t, d, identity(1)))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	five, again := parse(document(5)), parse(document(5))
	other := document(5)
	other.Legal.Controller = "B"
	var rollback *federation.RollbackError
	if err := five.Follows(again); err != nil {
		t.Errorf("the same document: %v", err)
	}
	if err := parse(document(6)).Follows(five); err != nil {
		t.Errorf("a newer document: %v", err)
	}
	if err := parse(document(4)).Follows(five); !errors.As(err, &rollback) {
		t.Errorf("an older document: %v", err)
	}
	if err := parse(other).Follows(five); !errors.As(err, &rollback) {
		t.Errorf("another document under the same sequence: %v", err)
	}
}

func TestIdentityRotation(t *testing.T) {
	old, err := federation.ParseDocument(signed(t, document(5), identity(1)))
	if err != nil {
		t.Fatal(err)
	}
	both, err := federation.ParseDocument(signed(t, document(6), identity(2), identity(1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Check("a.test", old.Pin(), base); err != nil || both.Pin() == old.Pin() {
		t.Errorf("a new identity that the old one signed: %v", err)
	}
	alone, err := federation.ParseDocument(signed(t, document(6), identity(2)))
	if err != nil {
		t.Fatal(err)
	}
	var pin *federation.PinError
	if err := alone.Check("a.test", old.Pin(), base); !errors.As(err, &pin) {
		t.Errorf("a new identity alone: %v", err)
	}
}

func TestDocumentRefused(t *testing.T) {
	change := func(fn func(*federation.Document)) []byte {
		d := document(5)
		fn(d)
		return signed(t, d, identity(1))
	}
	genuine := signed(t, document(5), identity(1))
	var form struct {
		Payload    string              `json:"payload"`
		Signatures []map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(genuine, &form); err != nil {
		t.Fatal(err)
	}
	payload, _ := base64.RawURLEncoding.DecodeString(form.Payload)
	resign := func(payload string) []byte {
		id := identity(1)
		sig := ed25519.Sign(id, append([]byte("clearbox server document v1\x00"), payload...))
		form.Payload = base64.RawURLEncoding.EncodeToString([]byte(payload))
		form.Signatures[0]["sig"] = base64.RawURLEncoding.EncodeToString(sig)
		b, _ := json.Marshal(form)
		return b
	}
	without := func(sigs []map[string]string) []byte {
		b, _ := json.Marshal(map[string]any{"payload": base64.RawURLEncoding.EncodeToString(payload), "signatures": sigs})
		return b
	}
	tampered := bytes.Replace(genuine, []byte(`"sig":"`), []byte(`"sig":"A`), 1)
	for name, raw := range map[string][]byte{
		"empty":             {},
		"no JSON":           []byte("CBOR"),
		"two values":        append(bytes.Clone(genuine), "{}"...),
		"tampered":          tampered,
		"no signature":      without([]map[string]string{}),
		"unknown algorithm": without([]map[string]string{{"alg": "ml-dsa-65", "key": "AA", "sig": "AA"}}),
		"signed by another": without([]map[string]string{func() map[string]string {
			id := identity(2)
			return map[string]string{
				"alg": "ed25519", "key": base64.RawURLEncoding.EncodeToString(id.Public().(ed25519.PublicKey)),
				"sig": base64.RawURLEncoding.EncodeToString(ed25519.Sign(id, append([]byte("clearbox server document v1\x00"), payload...))),
			}
		}()}),
		"without the domain": without([]map[string]string{{
			"alg": "ed25519", "key": form.Signatures[0]["key"], "sig": base64.RawURLEncoding.EncodeToString(ed25519.Sign(identity(1), payload)),
		}}),
		"a name twice":    resign(strings.Replace(string(payload), `"seq":5`, `"seq":5,"seq":9`, 1)),
		"a name in caps":  resign(strings.Replace(string(payload), `"seq":5`, `"SEQ":5`, 1)),
		"deep":            resign(strings.Replace(string(payload), `"seq":5`, `"seq":5,"x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20), 1)),
		"eight days":      change(func(d *federation.Document) { d.Expires = d.Issued + 8*86400_000 }),
		"ends first":      change(func(d *federation.Document) { d.Expires = d.Issued - 1 }),
		"sequence 0":      change(func(d *federation.Document) { d.Seq = 0 }),
		"bad name":        change(func(d *federation.Document) { d.Server = "A.test" }),
		"no endpoint":     change(func(d *federation.Document) { d.Endpoints = nil }),
		"http endpoint":   change(func(d *federation.Document) { d.Endpoints[0].URL = "http://a.test" }),
		"endpoint path":   change(func(d *federation.Document) { d.Endpoints[0].URL = "https://a.test/x" }),
		"endpoint user":   change(func(d *federation.Document) { d.Endpoints[0].URL = "https://u@a.test" }),
		"endpoint port":   change(func(d *federation.Document) { d.Endpoints[0].URL = "https://a.test:443" }),
		"no key":          change(func(d *federation.Document) { d.Keys = nil }),
		"a line end":      change(func(d *federation.Document) { d.Keys[0].X = d.Keys[0].X[:8] + "\n" + d.Keys[0].X[8:] }),
		"short key":       change(func(d *federation.Document) { d.Keys[0].X = "AAAA" }),
		"another curve":   change(func(d *federation.Document) { d.Keys[0].Crv = "X25519" }),
		"key id":          change(func(d *federation.Document) { d.Keys[0].KID = "a b" }),
		"keys of one id":  change(func(d *federation.Document) { d.Keys = append(d.Keys, d.Keys[0]) }),
		"many keys":       change(func(d *federation.Document) { d.Keys = make([]federation.Key, 17) }),
		"a country":       change(func(d *federation.Document) { d.Legal.Country = "de" }),
		"a version":       change(func(d *federation.Document) { d.Protocol.Min = "1" }),
		"a long text":     change(func(d *federation.Document) { d.Legal.Controller = strings.Repeat("x", 300) }),
		"too many words":  change(func(d *federation.Document) { d.Protocol.Features = make([]string, 33) }),
		"larger than all": bytes.Repeat([]byte(" "), federation.MaxDocument+1),
	} {
		if _, err := federation.ParseDocument(raw); err == nil {
			t.Errorf("%s: accepted", name)
		} else if c := clearbox.CodeOf(err); c == clearbox.CodeInternal {
			t.Errorf("%s: internal error %v", name, err)
		}
	}
	// An unknown field, and an unknown second signature, are room for later versions.
	if _, err := federation.ParseDocument(resign(strings.Replace(string(payload), `"seq":5`, `"seq":5,"later":{"x":1}`, 1))); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestSelfKeepsItsSequence(t *testing.T) {
	now := base
	state := &blob{}
	open := func(legal federation.Legal) *federation.Document {
		t.Helper()
		s, err := federation.OpenSelf(t.Context(), "a.test", identity(1), state, federation.SelfOptions{
			Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Legal: legal, Now: func() time.Time { return now }, Random: seeded{rng(1)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return s.Document()
	}
	first := open(federation.Legal{})
	if again := open(federation.Legal{}); again.Seq != first.Seq || again.Hash() != first.Hash() {
		t.Error("a restart issued another document")
	}
	changed := open(federation.Legal{Country: "FR"})
	if changed.Seq <= first.Seq {
		t.Error("a change did not raise the sequence")
	}
	h := first.Hash()
	if changed.Prev != base64.RawURLEncoding.EncodeToString(h[:]) {
		t.Error("the new document does not name its predecessor")
	}
	backup := bytes.Clone(state.b)
	now = now.Add(25 * time.Hour)
	later := open(federation.Legal{Country: "FR"})
	if later.Seq <= changed.Seq {
		t.Error("a day did not raise the sequence")
	}
	now = now.Add(time.Hour)
	state.b = backup
	if restored := open(federation.Legal{Country: "FR"}); restored.Seq <= later.Seq {
		t.Error("a restore from a backup lowered the sequence")
	}
	now = base.Add(-time.Hour)
	if back := open(federation.Legal{Country: "IT"}); back.Seq <= changed.Seq {
		t.Error("a clock that stepped back lowered the sequence")
	}
}
