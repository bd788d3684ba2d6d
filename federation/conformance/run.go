package conformance

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// Result is the outcome of one check.
type Result struct {
	Name string
	OK   bool
	Want string
	Got  string
	Took time.Duration
}

// Runner runs the checks against one peer.
type Runner struct {
	Maker
	// Document is the peer's, fetched and checked against its pin.
	Document *federation.Document
	// Do sends one request to the peer; the URL begins with Base.
	Do func(*http.Request) (*http.Response, error)
	// Greeting is a body for federation.PathHello as this server sends it.
	Greeting []byte
	// Now is the time as the peer has it.
	Now func() time.Time
}

const (
	maxAnswer = 256 << 10        // bytes of an answer
	checkTime = 20 * time.Second // for one check
	maxPauses = 3                // times that a peer may ask to slow down, for one check
	maxPause  = 5 * time.Second
)

// Run makes every check, the good ones first. It ends early with ctx, with the
// results so far.
func (r *Runner) Run(ctx context.Context) []Result {
	checks := []struct {
		name, want string
		do         func(context.Context) (string, bool)
	}{
		{"the server document", "200, signed by the identity", r.document},
		{"a greeting", "200, signed", func(ctx context.Context) (string, bool) { return r.greet(ctx, r.Greeting) }},
		{"a greeting with an unknown field", "200, signed", func(ctx context.Context) (string, bool) { return r.greet(ctx, withField(r.Greeting)) }},
	}
	cases := Cases()
	results := make([]Result, 0, len(checks)+len(cases))
	for _, c := range checks {
		results = append(results, r.check(ctx, c.name, c.want, c.do))
	}
	for i := range cases {
		c := &cases[i]
		if ctx.Err() != nil {
			break
		}
		results = append(results, r.check(ctx, c.Name, c.Want.text(), func(ctx context.Context) (string, bool) { return r.attack(ctx, c) }))
	}
	return results
}

func (r *Runner) check(ctx context.Context, name, want string, do func(context.Context) (string, bool)) Result {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	from := r.Now()
	got, ok := do(ctx)
	return Result{Name: name, OK: ok, Want: want, Got: got, Took: r.Now().Sub(from)}
}

func (w *Want) text() string {
	s := strconv.Itoa(w.Status) + " " + string(w.Code)
	if w.Signed {
		s += ", signed"
	}
	return s
}

// withField adds a field that no version knows to a CBOR map of less than 23.
func withField(greeting []byte) []byte {
	if len(greeting) == 0 || greeting[0] < 0xa0 || greeting[0] >= 0xb7 {
		return greeting
	}
	out := append([]byte{greeting[0] + 1}, greeting[1:]...)
	return append(out, 0x65, 'l', 'a', 't', 'e', 'r', 0x01) // "later": 1
}

func (r *Runner) document(ctx context.Context) (string, bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Base+federation.PathServer, nil)
	if err != nil {
		return err.Error(), false
	}
	status, _, body, err := r.send(&Request{HTTP: req})
	if err != nil {
		return err.Error(), false
	}
	if status != http.StatusOK {
		return strconv.Itoa(status), false
	}
	doc, err := federation.ParseDocument(body)
	if err == nil {
		err = doc.Check(r.Destination, r.Document.Pin(), r.Now())
	}
	if err == nil {
		err = doc.Follows(r.Document)
	}
	if err != nil {
		return err.Error(), false
	}
	return fmt.Sprintf("200, document %d", doc.Seq), true
}

func (r *Runner) greet(ctx context.Context, body []byte) (string, bool) {
	req, err := r.Make(&Case{Name: "greeting"}, body, r.Now())
	if err != nil {
		return err.Error(), false
	}
	status, h, answer, err := r.send(req.with(ctx))
	if err != nil {
		return err.Error(), false
	}
	if err := federation.VerifyAnswer(status, h, answer, req.Signature, r.keys); err != nil {
		return fmt.Sprintf("%d, %v", status, err), false
	}
	if status != http.StatusOK {
		return fmt.Sprintf("%d %s", status, codeIn(answer)), false
	}
	hello, err := federation.DecodeHello(answer)
	if err != nil || len(hello.Hash) != 32 || hello.Seq < 1 {
		return "200, with a greeting that is not understood", false
	}
	return "200, signed", true
}

func (r *Runner) attack(ctx context.Context, c *Case) (string, bool) {
	req, err := r.Make(c, r.Greeting, r.Now())
	if err != nil {
		return err.Error(), false
	}
	req = req.with(ctx)
	if c.Twice {
		status, _, answer, err := r.send(req)
		if err != nil {
			return "the first time: " + err.Error(), false
		}
		if status != http.StatusOK {
			return fmt.Sprintf("the first time: %d %s", status, codeIn(answer)), false
		}
	}
	status, h, answer, err := r.send(req)
	if err != nil {
		return err.Error(), false
	}
	signed := federation.VerifyAnswer(status, h, answer, req.HTTP.Header.Get("Signature"), r.keys) == nil
	got := Want{Status: status, Code: codeIn(answer), Signed: signed}
	return got.text(), got.Status == c.Want.Status && got.Code == c.Want.Code && (signed || !c.Want.Signed)
}

func (r *Request) with(ctx context.Context) *Request {
	r.HTTP = r.HTTP.WithContext(ctx)
	return r
}

func (r *Runner) keys(kid string) (ed25519.PublicKey, bool) { return r.Document.FedSign(kid, r.Now()) }

// send sends the request and reads the answer. A peer that asks to slow down is
// asked again.
func (r *Runner) send(req *Request) (int, http.Header, []byte, error) {
	for pauses := 0; ; pauses++ {
		req.rewind()
		if len(req.Body) == 0 {
			req.HTTP.Body, req.HTTP.GetBody = http.NoBody, nil
		}
		resp, err := r.Do(req.HTTP)
		if err != nil {
			return 0, nil, nil, err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		resp.Body.Close()
		if err != nil {
			return 0, nil, nil, err
		}
		if resp.StatusCode != http.StatusTooManyRequests || pauses == maxPauses {
			return resp.StatusCode, resp.Header, body, nil
		}
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		select {
		case <-time.After(min(max(time.Duration(seconds)*time.Second, 100*time.Millisecond), maxPause)):
		case <-req.HTTP.Context().Done():
			return 0, nil, nil, req.HTTP.Context().Err()
		}
	}
}

// codeIn is the code of a problem document, or "".
func codeIn(body []byte) clearbox.Code {
	var p struct {
		Code clearbox.Code `json:"code"`
	}
	if json.Unmarshal(body, &p) != nil || len(p.Code) > 64 {
		return ""
	}
	return p.Code
}
