package federation_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

// faultLog remembers the fault of the last refused request.
type faultLog struct {
	slog.Handler
	mu   sync.Mutex
	last string
}

func (f *faultLog) Enabled(context.Context, slog.Level) bool { return true }
func (f *faultLog) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f *faultLog) WithGroup(string) slog.Handler            { return f }
func (f *faultLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "fault" {
			f.mu.Lock()
			f.last = a.Value.String()
			f.mu.Unlock()
		}
		return true
	})
	return nil
}

// captured is a genuine request of a.test to b.test, which attacks alter.
type captured struct {
	r    *http.Request
	body []byte
	key  federation.SigningKey
	a, b *node
}

// sign signs the request anew with whatever it holds now.
func (c *captured) sign(t *testing.T, at time.Time) {
	t.Helper()
	c.signAs(t, "a.test", "b.test", at)
}

func (c *captured) signAs(t *testing.T, origin, destination clearbox.ServerName, at time.Time) {
	t.Helper()
	if _, err := federation.SignRequest(c.r, c.body, origin, destination, c.key, at, seeded{rng(time.Now().UnixNano() + int64(len(c.body)))}); err != nil {
		t.Fatal(err)
	}
}

func (c *captured) replaceInput(old, new string) {
	c.r.Header.Set("Signature-Input", strings.Replace(c.r.Header.Get("Signature-Input"), old, new, 1))
}

func (c *captured) deliver() *http.Response {
	in := c.r.Clone(context.Background())
	in.RequestURI = c.r.URL.RequestURI()
	if in.Host == "" {
		in.Host = c.r.URL.Host
	}
	in.Body = io.NopCloser(bytes.NewReader(c.body))
	in.ContentLength = int64(len(c.body))
	rec := httptest.NewRecorder()
	c.b.inbox.Load().ServeHTTP(rec, in)
	return rec.Result()
}

func txnBody(t *testing.T, n *node, first int64) []byte {
	t.Helper()
	b, err := federation.EncodeTransaction(&federation.Transaction{
		Stream: n.outbox.stream, Class: federation.ClassMessage, Fence: 1, FirstPos: first,
		Items: []federation.Item{newOutbox(9).add(n.name, "b.test").item},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// The attacks. alter runs on a freshly signed request; the request must be
// answered with that code, for that reason, and change nothing.

// Path, method, host and destination swap.
func attacksOnTarget(t *testing.T) []attack {
	return []attack{
		{"another path", func(c *captured) { c.r.URL.Path = federation.PathHello }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"a query added", func(c *captured) { c.r.URL.RawQuery = "x=1" }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"an escaped path", func(c *captured) { c.r.URL.RawPath = "/fed/v1/t%78n" }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"method GET", func(c *captured) { c.r.Method = http.MethodGet }, 405, clearbox.CodeMethod, ""},
		{"method PUT", func(c *captured) { c.r.Method = http.MethodPut }, 405, clearbox.CodeMethod, ""},
		{"another host", func(c *captured) { c.r.Host = "evil.test" }, 401, clearbox.CodeBadSignature, federation.FaultAuthority},
		{"another of our ports", func(c *captured) { c.r.Host = "b.test:8443" }, 401, clearbox.CodeBadSignature, federation.FaultAuthority},
		{"signed for another host", func(c *captured) { c.r.URL.Host = "c.test"; c.sign(t, time.Now()); c.r.Host = "b.test" }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"another destination header", func(c *captured) { c.r.Header.Set("Clearbox-Destination", "c.test") }, 401, clearbox.CodeBadSignature, federation.FaultDestination},
		{"signed for another destination", func(c *captured) { c.signAs(t, "a.test", "c.test", time.Now()) }, 401, clearbox.CodeBadSignature, federation.FaultDestination},
		{"signed for another destination, header put right", func(c *captured) {
			c.signAs(t, "a.test", "c.test", time.Now())
			c.r.Header.Set("Clearbox-Destination", "b.test")
		}, 401, clearbox.CodeBadSignature, federation.FaultSignature},
	}
}

func attacksOnBody() []attack {
	return []attack{
		{"one bit of the body", func(c *captured) { c.body[len(c.body)/2] ^= 1 }, 401, clearbox.CodeBadSignature, federation.FaultDigest},
		{"body and digest replaced", func(c *captured) {
			c.body[len(c.body)/2] ^= 1
			c.r.Header.Set("Content-Digest", digestOf(c.body))
		}, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"body cut off", func(c *captured) { c.body = c.body[:len(c.body)-1] }, 401, clearbox.CodeBadSignature, federation.FaultDigest},
		{"a weaker digest beside it", func(c *captured) {
			c.r.Header.Set("Content-Digest", c.r.Header.Get("Content-Digest")+", md5=:AAAA:")
		}, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"no digest", func(c *captured) { c.r.Header.Del("Content-Digest") }, 401, clearbox.CodeBadSignature, federation.FaultDuplicate},
		{"another content type", func(c *captured) { c.r.Header.Set("Content-Type", "text/plain") }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
	}
}

// Algorithm and parameter games.
func attacksOnParameters() []attack {
	return []attack{
		{"alg added", func(c *captured) { c.replaceInput(`;tag=`, `;alg="hmac-sha256";tag=`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"alg ed25519 added at the end", func(c *captured) { c.replaceInput(`"clearbox-fed-1"`, `"clearbox-fed-1";alg="ed25519"`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a second label", func(c *captured) {
			c.r.Header.Set("Signature-Input", c.r.Header.Get("Signature-Input")+`, other=("@method");created=1;keyid="x"`)
			c.r.Header.Set("Signature", c.r.Header.Get("Signature")+", other=:AAAA:")
		}, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a second signature only", func(c *captured) {
			c.r.Header.Set("Signature", c.r.Header.Get("Signature")+", other=:AAAA:")
		}, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"another label", func(c *captured) {
			c.replaceInput("cbfed=", "sig1=")
			c.r.Header.Set("Signature", strings.Replace(c.r.Header.Get("Signature"), "cbfed=", "sig1=", 1))
		}, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"parameters in another order", func(c *captured) {
			c.replaceInput(`;tag="clearbox-fed-1"`, "")
			c.replaceInput(`;created=`, `;tag="clearbox-fed-1";created=`)
		}, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"components in another order", func(c *captured) { c.replaceInput(`"@method" "@authority"`, `"@authority" "@method"`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a component missing", func(c *captured) { c.replaceInput(` "clearbox-destination"`, "") }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a component more", func(c *captured) { c.replaceInput(`"@query"`, `"@query" "date"`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a component twice", func(c *captured) { c.replaceInput(`"@query"`, `"@query" "@query"`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a component with a parameter", func(c *captured) { c.replaceInput(`"content-type"`, `"content-type";bs`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"another tag", func(c *captured) { c.replaceInput("clearbox-fed-1", "clearbox-fed-2") }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"expires moved", func(c *captured) { c.replaceInput(`;expires=`, `;expires=1`) }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"created moved", func(c *captured) { c.replaceInput(`;created=`, `;created=1`) }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"created negative", func(c *captured) { c.replaceInput(`;created=`, `;created=-`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"the nonce changed", func(c *captured) { c.replaceInput(`;nonce="`, `;nonce="B`) }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"another nonce of the right form", func(c *captured) {
			in := c.r.Header.Get("Signature-Input")
			i := strings.Index(in, `nonce="`) + 7
			c.r.Header.Set("Signature-Input", in[:i]+base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{9}, 16))+in[i+22:])
		}, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"a nonce of 64 bits", func(c *captured) {
			in := c.r.Header.Get("Signature-Input")
			i := strings.Index(in, `nonce="`) + 7
			c.r.Header.Set("Signature-Input", in[:i]+in[i+11:])
		}, 401, clearbox.CodeBadSignature, federation.FaultForm},
	}
}

// White space, repeats, encodings.
func attacksOnForm(t *testing.T) []attack {
	return []attack{
		{"space after a semicolon", func(c *captured) { c.replaceInput(`;created`, `; created`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"two spaces in the list", func(c *captured) { c.replaceInput(`" "`, `"  "`) }, 401, clearbox.CodeBadSignature, federation.FaultComponents},
		{"a space at the end", func(c *captured) { c.r.Header.Set("Signature-Input", c.r.Header.Get("Signature-Input")+" ") }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"a space before a covered header", func(c *captured) { c.r.Header["Content-Type"] = []string{" application/cbor"} }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"a line in a covered header", func(c *captured) { c.r.Header["Clearbox-Version"] = []string{"1.0\n\"@path\": /"} }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"two signature inputs", func(c *captured) {
			c.r.Header["Signature-Input"] = append(c.r.Header["Signature-Input"], c.r.Header.Get("Signature-Input"))
		}, 401, clearbox.CodeBadSignature, federation.FaultDuplicate},
		{"two origins", func(c *captured) { c.r.Header["Clearbox-Origin"] = []string{"a.test", "c.test"} }, 401, clearbox.CodeBadSignature, federation.FaultDuplicate},
		{"two digests", func(c *captured) {
			c.r.Header["Content-Digest"] = []string{c.r.Header.Get("Content-Digest"), digestOf([]byte("x"))}
		}, 401, clearbox.CodeBadSignature, federation.FaultDuplicate},
		{"no signature", func(c *captured) { c.r.Header.Del("Signature") }, 401, clearbox.CodeBadSignature, federation.FaultDuplicate},
		{"an endless signature input", func(c *captured) { c.r.Header.Set("Signature-Input", strings.Repeat("a", 5000)) }, 413, clearbox.CodeTooLarge, federation.FaultLength},
		{"too large a body", func(c *captured) { c.body = make([]byte, federation.MaxTransaction+1); c.sign(t, time.Now()) }, 413, clearbox.CodeTooLarge, federation.FaultLength},
		{"a body that is no CBOR", func(c *captured) { c.body = []byte("{}"); c.sign(t, time.Now()) }, 400, clearbox.CodeBadRequest, ""},
		{"a signed body of another type", func(c *captured) { c.r.Header.Set("Content-Type", "application/json"); c.sign(t, time.Now()) }, 415, clearbox.CodeUnsupportedMedia, ""},
	}
}

func attacksByCompression(t *testing.T) []attack {
	return []attack{
		{"a compressed body", func(c *captured) {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, _ = w.Write(c.body)
			_ = w.Close()
			c.body = z.Bytes()
			c.sign(t, time.Now())
			c.r.Header.Set("Content-Encoding", "gzip")
		}, 415, clearbox.CodeUnsupportedMedia, federation.FaultEncoding},
	}
}

// Keys, origins and time.
func attacksOnKeys(t *testing.T) []attack {
	foreign := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x66}, 32))
	return []attack{
		{"another origin's key", func(c *captured) { c.r.Header.Set("Clearbox-Origin", "c.test") }, 401, clearbox.CodeUnknownKey, federation.FaultKey},
		{"an origin that is no peer", func(c *captured) { c.signAs(t, "stranger.test", "b.test", time.Now()) }, 403, clearbox.CodeUnknownPeer, ""},
		{"an origin that is no name", func(c *captured) { c.r.Header.Set("Clearbox-Origin", "127.0.0.1") }, 401, clearbox.CodeBadSignature, federation.FaultForm},
		{"a foreign key under a known id", func(c *captured) { c.key.Private = foreign; c.sign(t, time.Now()) }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"an unknown key id", func(c *captured) { c.key.KID = "fs-other"; c.sign(t, time.Now()) }, 401, clearbox.CodeUnknownKey, federation.FaultKey},
		{"the identity key as signing key", func(c *captured) { c.key.Private = c.a.identity; c.sign(t, time.Now()) }, 401, clearbox.CodeBadSignature, federation.FaultSignature},
		{"a version from the future", func(c *captured) { c.r.Header.Set("Clearbox-Version", "2.0") }, 400, clearbox.CodeBadRequest, federation.FaultVersion},

		// Time.
		{"61 s early", func(c *captured) { c.sign(t, time.Now().Add(62*time.Second)) }, 401, clearbox.CodeClockSkew, federation.FaultEarly},
		{"181 s late", func(c *captured) { c.sign(t, time.Now().Add(-182*time.Second)) }, 401, clearbox.CodeClockSkew, federation.FaultLate},
		{"an hour old", func(c *captured) { c.sign(t, time.Now().Add(-time.Hour)) }, 401, clearbox.CodeClockSkew, federation.FaultLate},
	}
}

type attack struct {
	name   string
	alter  func(c *captured)
	status int
	code   clearbox.Code
	fault  federation.Fault
}

// The rows of the threat model (federation.md, 15) that are attacks on single requests.
func TestThreat02TargetSwap(t *testing.T)         { refusesAll(t, attacksOnTarget(t), 11) }
func TestThreat03BodySwap(t *testing.T)           { refusesAll(t, attacksOnBody(), 6) }
func TestThreat04AlgorithmConfusion(t *testing.T) { refusesAll(t, attacksOnParameters(), 15) }
func TestThreat22CompressedBombs(t *testing.T)    { refusesAll(t, attacksByCompression(t), 1) }

func TestAttacksOnForm(t *testing.T) { refusesAll(t, attacksOnForm(t), 8) }
func TestAttacksOnKeys(t *testing.T) { refusesAll(t, attacksOnKeys(t), 8) }

// refusesAll runs at least that many attacks, and then the genuine request.
func refusesAll(t *testing.T, list []attack, least int) {
	log := &faultLog{}
	world3(t, nil, func(_ *world, a, b, _ *node) {
		b.log(log)
		if len(list) < least {
			t.Errorf("only %d attacks", len(list))
		}
		for _, k := range list {
			time.Sleep(2 * time.Second) // the buckets fill again
			c := newCaptured(t, a, b)
			log.last = ""
			k.alter(c)
			resp := c.deliver()
			if code := problemCode(t, resp); resp.StatusCode != k.status || code != k.code || log.last != string(k.fault) {
				t.Errorf("%s: %d %s fault %q, want %d %s fault %q", k.name, resp.StatusCode, code, log.last, k.status, k.code, k.fault)
			}
			if b.acceptor.batches != 0 {
				t.Fatalf("%s: something was accepted", k.name)
			}
		}
		time.Sleep(time.Second) // another nonce than the last attack's
		c := newCaptured(t, a, b)
		if resp := c.deliver(); resp.StatusCode != 200 || b.acceptor.batches != 1 {
			t.Errorf("the genuine request was answered with %d: the table proves nothing", resp.StatusCode)
		}
	})
}

// Row 1: resent byte for byte at once, after a second and after ten minutes.
func TestThreat01Replay(t *testing.T) {
	two(t, nil, func(w *world, a, b *node) {
		c := newCaptured(t, a, b)
		if resp := c.deliver(); resp.StatusCode != 200 || b.acceptor.batches != 1 {
			t.Fatalf("the genuine request was answered with %d", resp.StatusCode)
		}
		for _, again := range []struct {
			after time.Duration
			code  clearbox.Code
		}{{0, clearbox.CodeReplay}, {time.Second, clearbox.CodeReplay}, {178 * time.Second, clearbox.CodeReplay}, {10 * time.Minute, clearbox.CodeClockSkew}} {
			time.Sleep(again.after)
			resp := c.deliver()
			if code := problemCode(t, resp); resp.StatusCode != 401 || code != again.code || b.acceptor.batches != 1 || b.acceptor.repeats != 0 {
				t.Errorf("resent after %v: %d %s", again.after, resp.StatusCode, code)
			}
		}
		b.acceptor.delivered = nil // it was not in the outbox
	})
}

// log gives the node's inbox a log.
func (n *node) log(h slog.Handler) {
	n.inbox.Store(federation.NewInbox(n.self, n.client, n.acceptor, n.dir, federation.InboxOptions{Now: n.now, Contact: n.sender.Wake, Log: slog.New(h)}))
}

func newCaptured(t *testing.T, a, b *node) *captured {
	t.Helper()
	c := &captured{a: a, b: b, key: a.self.SigningKey(), body: txnBody(t, a, 1)}
	r, err := http.NewRequest(http.MethodPost, "https://b.test"+federation.PathTxn, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.r = r
	c.r.Header.Set("Content-Type", federation.TypeCBOR)
	c.sign(t, time.Now())
	return c
}

func problemCode(t *testing.T, resp *http.Response) clearbox.Code {
	t.Helper()
	body, _ := io.ReadAll(resp.Body)
	if ct := resp.Header.Get("Content-Type"); ct != federation.TypeProblem {
		if resp.StatusCode != 200 {
			t.Errorf("%d with content type %q", resp.StatusCode, ct)
		}
		return ""
	}
	var p struct{ Code clearbox.Code }
	if err := json.Unmarshal(body, &p); err != nil {
		t.Errorf("problem document: %v", err)
	}
	return p.Code
}

// Row 17: an answer that is altered, unsigned, moved to another request or
// from somebody else is no answer.
func TestThreat17ForgedAnswers(t *testing.T) {
	var kept *http.Response
	var keptBody []byte
	for _, k := range []struct {
		name  string
		alter func(resp *http.Response, body []byte) []byte
	}{
		{"unsigned", func(r *http.Response, b []byte) []byte {
			r.Header.Del("Signature")
			r.Header.Del("Signature-Input")
			return b
		}},
		{"a bit of the body", func(r *http.Response, b []byte) []byte { b[3] ^= 1; return b }},
		{"body and digest", func(r *http.Response, b []byte) []byte {
			b[3] ^= 1
			r.Header.Set("Content-Digest", digestOf(b))
			return b
		}},
		{"another status", func(r *http.Response, b []byte) []byte { r.StatusCode = 201; return b }},
		{"another type", func(r *http.Response, b []byte) []byte { r.Header.Set("Content-Type", "text/html"); return b }},
		{"alg added", func(r *http.Response, b []byte) []byte {
			r.Header.Set("Signature-Input", r.Header.Get("Signature-Input")+`;alg="ed25519"`)
			return b
		}},
		{"without ;req", func(r *http.Response, b []byte) []byte {
			r.Header.Set("Signature-Input", strings.Replace(r.Header.Get("Signature-Input"), ` "signature";req`, "", 1))
			return b
		}},
		{"compressed", func(r *http.Response, b []byte) []byte { r.Header.Set("Content-Encoding", "gzip"); return b }},
		{"another request's answer", func(r *http.Response, b []byte) []byte { r.Header = kept.Header; return keptBody }},
	} {
		two(t, nil, func(w *world, a, b *node) {
			w.set(func(x *wire) { // a genuine answer is kept for the last attack
				x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
					body, _ := io.ReadAll(resp.Body)
					resp.Body = io.NopCloser(bytes.NewReader(body))
					kept, keptBody = resp, bytes.Clone(body)
				}
			})
			a.send("b.test", 1)
			wait(t, time.Second)
			forged := 0
			w.set(func(x *wire) {
				x.answer = func(req *http.Request, _ []byte, resp *http.Response) {
					if req.URL.Path != federation.PathTxn {
						return
					}
					forged++
					body, _ := io.ReadAll(resp.Body)
					resp.Body = io.NopCloser(bytes.NewReader(k.alter(resp, body)))
				}
			})
			a.send("b.test", 1)
			wait(t, 4*time.Second)
			if forged == 0 || a.outbox.unsettled() != 1 {
				t.Errorf("%s: %d forged answers, %d unsettled", k.name, forged, a.outbox.unsettled())
			}
			w.set(func(x *wire) { x.answer = nil })
			wait(t, time.Minute)
		})
	}
}
