package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/config"
	"github.com/clearbox-im/clearbox/server/peering"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/fxamacker/cbor/v2"
)

// source makes random bytes of a seeded generator.
type source struct{ *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.Uint32())
	}
	return len(p), nil
}

func malformedParsers(r *rand.Rand) ([]parser, error) {
	user := func(server clearbox.ServerName) clearbox.UserID {
		uid, _ := clearbox.NewUID(source{r})
		return clearbox.UserID{UID: uid, Server: server}
	}
	id, err := clearbox.NewMessageID(source{r})
	if err != nil {
		return nil, err
	}
	submission := wire.Submission{ID: id}
	for range 2 {
		submission.To = append(submission.To, wire.Recipient{User: user("b.test"), Envelopes: []wire.Outgoing{
			{Device: 1, Registration: 77, Type: clearbox.ContentPreKey, Content: make([]byte, 300)},
			{Device: 2, Registration: 78, Type: clearbox.ContentWhisper, Content: make([]byte, 90)},
		}})
	}
	var frames [2][][]byte // by format
	for i, f := range []wire.Format{wire.CBOR, wire.JSON} {
		for _, c := range []wire.ClientFrame{
			{Type: wire.FrameSend, Ref: 9, Submission: &submission},
			{Type: wire.FrameAck, Seq: 70000},
		} {
			b, err := wire.AppendClientFrame(nil, f, &c)
			if err != nil {
				return nil, err
			}
			frames[i] = append(frames[i], b)
		}
	}
	envelope, err := wire.Append(wire.JSON, nil, &submission)
	if err != nil {
		return nil, err
	}
	txn := &federation.Transaction{Stream: make([]byte, 16), Class: federation.ClassMessage, Fence: 3, FirstPos: 7}
	for range 3 {
		txn.Items = append(txn.Items, federation.Item{
			ID: id, Sender: user("a.test"), SenderDevice: 1, Recipient: user("b.test"), AcceptedAt: 1_790_000_000_000,
			Envelopes: []federation.ItemEnvelope{{Device: 1, Registration: 77, Type: clearbox.ContentWhisper, Content: make([]byte, 200)}},
		})
	}
	body, err := federation.EncodeTransaction(txn)
	if err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(source{r})
	if err != nil {
		return nil, err
	}
	p := &peerDoor{key: federation.SigningKey{KID: "fs-1", Private: private}, body: body, now: time.UnixMilli(1_790_000_000_000)}
	token := &peering.Token{Server: "a.test", Endpoints: []string{"https://a.test"}, Pin: make([]byte, 32), Secret: make([]byte, 16), Expires: 1_790_000_000_000}
	return []parser{
		{"frame", 30, func(r *rand.Rand) attempt {
			i := r.IntN(2)
			return frameAttempt([]wire.Format{wire.CBOR, wire.JSON}[i], mutate(r, frames[i][r.IntN(len(frames[i]))], i == 1))
		}},
		{"envelope", 20, func(r *rand.Rand) attempt { return envelopeAttempt(mutate(r, envelope, true)) }},
		{"signature", 15, p.signature},
		{"transaction", 20, p.transaction},
		{"config", 3, func(r *rand.Rand) attempt { return configAttempt(mutateLines(r, config.Example())) }},
		{"invite", 12, func(r *rand.Rand) attempt { return inviteAttempt(r, token) }},
	}, nil
}

func frameAttempt(f wire.Format, b []byte) attempt {
	return attempt{run: func() (bool, string) {
		_, err := wire.ParseClientFrame(f, b)
		return wellFormed(b, f == wire.JSON), codeOf(err)
	}}
}

func envelopeAttempt(b []byte) attempt {
	return attempt{run: func() (bool, string) {
		var s wire.Submission
		err := wire.Decode(wire.JSON, b, &s)
		return wellFormed(b, true), codeOf(err)
	}}
}

func wellFormed(b []byte, isJSON bool) bool {
	if isJSON {
		return json.Valid(b)
	}
	return cbor.Wellformed(b) == nil
}

func configAttempt(b []byte) attempt {
	return attempt{run: func() (bool, string) {
		_, err := config.Parse("config.yaml", b, config.Options{})
		var e *config.Errors
		if err == nil {
			return true, "accepted"
		}
		if !errors.As(err, &e) {
			return false, fmt.Sprintf("%T", err)
		}
		named := !slices.ContainsFunc(e.Problems, func(p config.Problem) bool { return p.Key == "" })
		if named {
			return true, "mistake in a key"
		}
		return false, "no YAML of this form"
	}}
}

// inviteAttempt damages the text of a token, or its fields below a checksum
// that fits.
func inviteAttempt(r *rand.Rand, token *peering.Token) attempt {
	text := token.String()
	if r.IntN(2) == 0 {
		b := damage(r, []byte(text))
		return attempt{sealed: true, run: func() (bool, string) {
			_, err := peering.ParseToken(string(b))
			return err == nil, codeOf(err)
		}}
	}
	raw, _ := cbor.Marshal(token)
	raw = mutate(r, raw, false)
	sum := sha256.Sum256(raw)
	text = "cbpeer1-" + base64.RawURLEncoding.EncodeToString(append(raw, sum[:4]...))
	return attempt{sealed: true, recomputed: true, run: func() (bool, string) {
		_, err := peering.ParseToken(text)
		return cbor.Wellformed(raw) == nil, codeOf(err)
	}}
}

// peerDoor is what a peer's requests meet.
type peerDoor struct {
	key  federation.SigningKey
	body []byte
	now  time.Time
}

func (p *peerDoor) request(r *rand.Rand, body []byte, change func(*http.Request)) (*http.Request, error) {
	req := &http.Request{Method: http.MethodPost, Host: "b.test", URL: &url.URL{Path: "/fed/v1/txn", Host: "b.test"}, Header: http.Header{}}
	req.Header.Set("Content-Type", federation.TypeCBOR)
	if change != nil {
		change(req)
	}
	_, err := federation.SignRequest(req, body, "a.test", "b.test", p.key, p.now, source{r})
	return req, err
}

// verify does what a homeserver does with a request, to the end of its body.
func (p *peerDoor) verify(req *http.Request, body []byte) (formed bool, err error) {
	v := &federation.Verifier{Server: "b.test", Authorities: []string{"b.test"}, Nonces: federation.NewNonces(8)}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	origin, err := v.Origin(req)
	if err == nil {
		_, err = v.Verify(req, origin, func(kid string) (ed25519.PublicKey, bool) {
			return p.key.Private.Public().(ed25519.PublicKey), kid == p.key.KID
		}, p.now)
	}
	if err == nil {
		_, err = federation.ReadBody(req, federation.MaxTransaction)
	}
	var pe *federation.ProfileError
	formed = true
	if errors.As(err, &pe) {
		switch pe.Fault {
		case federation.FaultMethod, federation.FaultDuplicate, federation.FaultForm, federation.FaultComponents, federation.FaultEncoding, federation.FaultLength:
			formed = false
		}
	}
	return formed, err
}

func faultOf(err error) string {
	var pe *federation.ProfileError
	if errors.As(err, &pe) {
		return string(pe.Code) + " (" + string(pe.Fault) + ")"
	}
	return codeOf(err)
}

// signature changes anything about a small request: its headers after it was
// signed, or what is signed.
func (p *peerDoor) signature(r *rand.Rand) attempt {
	body := []byte("body")
	again := r.IntN(2) == 0
	change := func(req *http.Request) {
		for range 1 + r.IntN(2) {
			switch names := headerNames(req.Header); r.IntN(8) {
			case 0:
				req.Method = []string{"GET", "PUT", "", "post", "POST\n"}[r.IntN(5)]
			case 1:
				req.Host = string(damage(r, []byte(req.Host)))
			case 2:
				req.URL.Path = string(damage(r, []byte(req.URL.Path)))
			case 3:
				req.URL.RawQuery = string(damage(r, []byte("a=1&b=2")))
			default:
				n := names[r.IntN(len(names))]
				v := req.Header[n][0]
				switch r.IntN(4) {
				case 0:
					req.Header[n] = []string{v, v}
				case 1:
					delete(req.Header, n)
				default:
					req.Header[n] = []string{string(damage(r, []byte(v)))}
				}
				if len(req.Header) == 0 {
					return
				}
			}
		}
	}
	signer := *p
	if again { // the clock, the key and the body may be wrong below a good signature too
		signer.now = p.now.Add(time.Duration(r.IntN(1200)-600) * time.Second)
		if r.IntN(4) == 0 {
			signer.key.KID = string(damage(r, []byte(p.key.KID)))
		}
	}
	before := change
	if !again {
		before = nil
	}
	req, err := signer.request(r, body, before)
	if err == nil && !again {
		change(req)
	}
	sent := body
	if r.IntN(4) == 0 {
		sent = damage(r, body)
	}
	return attempt{sealed: true, recomputed: again, run: func() (bool, string) {
		if err != nil {
			return false, "not signable: " + codeOf(err)
		}
		formed, err := p.verify(req.Clone(req.Context()), sent)
		return formed, faultOf(err)
	}}
}

func headerNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for n := range h {
		names = append(names, n)
	}
	slices.Sort(names)
	if len(names) == 0 {
		h["X"] = []string{"x"}
		return []string{"X"}
	}
	return names
}

// transaction changes the body, below the genuine signature or a new one.
func (p *peerDoor) transaction(r *rand.Rand) attempt {
	body := mutate(r, p.body, false)
	again := r.IntN(2) == 0
	signed := p.body
	if again {
		signed = body
	}
	req, err := p.request(r, signed, nil)
	return attempt{sealed: true, recomputed: again, run: func() (bool, string) {
		if err != nil {
			return false, codeOf(err)
		}
		if _, err := p.verify(req.Clone(req.Context()), body); err != nil {
			return false, faultOf(err)
		}
		t, err := federation.DecodeTransaction(body)
		if err == nil {
			for _, it := range t.Items {
				if it.Refused != "" {
					return true, "item refused: " + string(it.Refused)
				}
			}
		}
		return cbor.Wellformed(body) == nil, codeOf(err)
	}}
}

func codeOf(err error) string {
	if err == nil {
		return "accepted"
	}
	return string(clearbox.CodeOf(err))
}

// mutate damages bytes, or a value inside a form that stays good.
func mutate(r *rand.Rand, b []byte, isJSON bool) []byte {
	if r.IntN(3) == 0 {
		return damage(r, b)
	}
	var v any
	if isJSON {
		if json.Unmarshal(b, &v) != nil {
			return damage(r, b)
		}
	} else if cbor.Unmarshal(b, &v) != nil {
		return damage(r, b)
	}
	for range 1 + r.IntN(2) {
		v = altered(r, v)
	}
	out, err := []byte(nil), error(nil)
	if isJSON {
		out, err = json.Marshal(v)
	} else {
		out, err = cbor.Marshal(v)
	}
	if err != nil {
		return damage(r, b)
	}
	return out
}

// altered replaces, removes, repeats or adds something somewhere in v.
func altered(r *rand.Rand, v any) any {
	if r.IntN(8) == 0 {
		return strange(r)
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return alteredMap(r, v, keys)
	case map[any]any:
		m := map[string]any{}
		keys := []string{}
		for k, x := range v {
			m[fmt.Sprint(k)] = x
			keys = append(keys, fmt.Sprint(k))
		}
		slices.Sort(keys)
		return alteredMap(r, m, keys)
	case []any:
		if len(v) == 0 {
			return []any{strange(r)}
		}
		v = slices.Clone(v)
		i := r.IntN(len(v))
		switch r.IntN(4) {
		case 0:
			return slices.Delete(v, i, i+1)
		case 1:
			return append(v, v[i])
		default:
			v[i] = altered(r, v[i])
			return v
		}
	case string:
		return string(damage(r, []byte(v)))
	case []byte:
		var inner any
		if len(v) > 0 && v[0] >= 0xa0 && cbor.Unmarshal(v, &inner) == nil { // an item inside a transaction
			if out, err := cbor.Marshal(altered(r, inner)); err == nil {
				return out
			}
		}
		return damage(r, v)
	}
	return strange(r)
}

func alteredMap(r *rand.Rand, v map[string]any, keys []string) any {
	if len(keys) == 0 {
		return strange(r)
	}
	k := keys[r.IntN(len(keys))]
	switch r.IntN(6) {
	case 0:
		delete(v, k)
	case 1:
		v[string(damage(r, []byte(k)))] = strange(r)
	default:
		v[k] = altered(r, v[k])
	}
	return v
}

func strange(r *rand.Rand) any {
	all := []any{
		nil, true, 0, 1, -1, 255, 16384, int64(1) << 53, -(int64(1) << 62), 1.5, 1e300, "", "a", "\x00", "../..", strings.Repeat("x", 300),
		[]any{}, map[string]any{}, []any{[]any{[]any{[]any{[]any{[]any{[]any{[]any{[]any{}}}}}}}}}, "user@b.test", "\u202e", "AA==", []byte{0xff}, []byte{},
	}
	return all[r.IntN(len(all))]
}

// mutateLines damages a commented configuration: takes the mark off lines,
// changes values, indents, repeats and removes lines; or bytes.
func mutateLines(r *rand.Rand, b []byte) []byte {
	if r.IntN(3) == 0 {
		return damage(r, b)
	}
	lines := strings.Split(string(b), "\n")
	for range 1 + r.IntN(6) {
		i := r.IntN(len(lines))
		switch r.IntN(5) {
		case 0:
			lines = slices.Delete(lines, i, i+1)
		case 1:
			lines = slices.Insert(lines, i, lines[r.IntN(len(lines))])
		case 2:
			lines[i] = strings.Replace(lines[i], "#", "", 1)
		case 3:
			if k, _, ok := strings.Cut(strings.Replace(lines[i], "#", "", 1), ":"); ok {
				lines[i] = k + ": " + []string{"", "-1", "1e9", "[]", "{}", "yes", "'x'", "7d", "99999999GiB", "null", "|", "\"\\u0000\"", "*a", "&a b"}[r.IntN(14)]
			}
		default:
			lines[i] += []string{"", " x", ":", " #", "\t", "x: y"}[r.IntN(6)]
		}
		if len(lines) == 0 {
			break
		}
	}
	return []byte(strings.Join(lines, "\n"))
}
