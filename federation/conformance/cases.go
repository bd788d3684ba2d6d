// Package conformance asks a live peer whether it keeps the protocol: requests
// that must succeed, and attacks that must be refused with the right code. The
// attacks are data (cases.json), so that an implementation in another language
// can use them as they are. Nothing of it changes anything at the peer.
//
// It opens no connection and knows no table of peers; both are handed in.
package conformance

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
)

//go:embed cases.json
var casesFile []byte

// Case is one attack on a greeting that would succeed otherwise: what is
// different before it is signed, what is changed afterwards, and what the
// receiver has to answer. What is not named is as it should be.
type Case struct {
	Name   string `json:"name"`
	Threat int    `json:"threat,omitempty"` // row of the threat model

	// Before signing.
	Method      string              `json:"method,omitempty"`
	Path        string              `json:"path,omitempty"`
	Query       string              `json:"query,omitempty"`
	Authority   string              `json:"authority,omitempty"`
	Type        string              `json:"type,omitempty"`
	Body        string              `json:"body,omitempty"` // hexadecimal, "none", or "zeros:N"
	Append      string              `json:"append,omitempty"`
	At          int64               `json:"at,omitempty"` // seconds from now
	Origin      clearbox.ServerName `json:"origin,omitempty"`
	Destination clearbox.ServerName `json:"destination,omitempty"`
	Version     string              `json:"version,omitempty"`
	KeyID       string              `json:"keyid,omitempty"`
	WrongKey    bool                `json:"wrong_key,omitempty"` // another key under the right id

	// Afterwards.
	Change []Change `json:"change,omitempty"`
	Twice  bool     `json:"twice,omitempty"` // sent before, byte for byte; the second answer counts

	Want Want `json:"want"`
}

// Change alters one thing of a signed request.
type Change struct {
	Header string   `json:"header,omitempty"`
	Set    []string `json:"set,omitempty"`     // the header's values; [] removes it
	Old    string   `json:"replace,omitempty"` // in the header's first value
	New    string   `json:"with,omitempty"`

	Method    string `json:"method,omitempty"`
	Path      string `json:"path,omitempty"`
	Query     string `json:"query,omitempty"`
	Authority string `json:"authority,omitempty"`
	FlipBody  bool   `json:"flip_body,omitempty"` // the lowest bit of the last byte
	Digest    bool   `json:"digest,omitempty"`    // made anew for the body as it is now
}

// Want is the answer.
type Want struct {
	Status int           `json:"status"`
	Code   clearbox.Code `json:"code,omitempty"`   // of the problem document
	Signed bool          `json:"signed,omitempty"` // the answer must be signed; otherwise it may be
}

// Cases are the published attacks.
func Cases() []Case {
	var list []Case
	dec := json.NewDecoder(bytes.NewReader(casesFile))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		panic("conformance: cases.json: " + err.Error()) // it is compiled in
	}
	return list
}

// Maker makes requests of one server to another.
type Maker struct {
	Origin, Destination clearbox.ServerName
	Base                string // of the destination, as in its document
	Version             string // that both speak
	Key, Other          federation.SigningKey
	Random              io.Reader
}

// Request is one request, ready to be sent.
type Request struct {
	HTTP      *http.Request // its body is Body
	Body      []byte
	Signature string // its Signature header before anything was changed
}

// Make makes the request of a case. greeting is a body for federation.PathHello.
func (m *Maker) Make(c *Case, greeting []byte, now time.Time) (*Request, error) {
	body, err := c.body(greeting)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	r, err := http.NewRequest(or(c.Method, http.MethodPost), m.Base+or(c.Path, federation.PathHello), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	authority := r.URL.Host
	r.URL.RawQuery, r.URL.Host = c.Query, or(c.Authority, authority)
	r.Header.Set("Content-Type", or(c.Type, federation.TypeCBOR))
	r.Header.Set("Clearbox-Version", or(c.Version, m.Version))
	key := m.Key
	if c.WrongKey {
		key = federation.SigningKey{KID: m.Key.KID, Private: m.Other.Private}
	}
	key.KID = or(c.KeyID, key.KID)
	signed := r
	if r.Method != http.MethodPost { // the profile signs POST; the method is changed afterwards
		signed = r.Clone(r.Context())
		signed.Method = http.MethodPost
	}
	sig, err := federation.SignRequest(signed, body, or(c.Origin, m.Origin), or(c.Destination, m.Destination), key, now.Add(time.Duration(c.At)*time.Second), m.Random)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	r.Header, r.URL.Host, r.Host = signed.Header, authority, authority
	out := &Request{HTTP: r, Body: body, Signature: sig}
	for i := range c.Change {
		if err := c.Change[i].apply(out); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	out.rewind()
	return out, nil
}

// rewind makes the body readable from its beginning.
func (r *Request) rewind() {
	r.HTTP.Body, r.HTTP.ContentLength = io.NopCloser(bytes.NewReader(r.Body)), int64(len(r.Body))
	r.HTTP.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
}

func or[T ~string](value, fallback T) T {
	if value == "" {
		return fallback
	}
	return value
}

// maxZeros bounds a body that is made of zeros.
const maxZeros = 2 << 20

func (c *Case) body(greeting []byte) ([]byte, error) {
	var body []byte
	switch count, zeros := strings.CutPrefix(c.Body, "zeros:"); {
	case c.Body == "":
		body = bytes.Clone(greeting)
	case c.Body == "none":
	case zeros:
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || n > maxZeros {
			return nil, fmt.Errorf("the body %q is not understood", c.Body)
		}
		body = make([]byte, n)
	default:
		var err error
		if body, err = hex.DecodeString(c.Body); err != nil {
			return nil, err
		}
	}
	more, err := hex.DecodeString(c.Append)
	return append(body, more...), err
}

func (c *Change) apply(r *Request) error {
	switch {
	case c.Header != "" && c.Set != nil:
		if len(c.Set) == 0 {
			r.HTTP.Header.Del(c.Header)
			break
		}
		r.HTTP.Header[http.CanonicalHeaderKey(c.Header)] = c.Set
	case c.Header != "":
		before := r.HTTP.Header.Get(c.Header)
		if !strings.Contains(before, c.Old) {
			return fmt.Errorf("%q does not stand in %s", c.Old, c.Header)
		}
		r.HTTP.Header.Set(c.Header, strings.Replace(before, c.Old, c.New, 1))
	case c.Method != "":
		r.HTTP.Method = c.Method
	case c.Path != "":
		r.HTTP.URL.Path = c.Path
	case c.Query != "":
		r.HTTP.URL.RawQuery = c.Query
	case c.Authority != "":
		r.HTTP.Host = c.Authority
	case c.FlipBody:
		r.Body = bytes.Clone(r.Body)
		r.Body[len(r.Body)-1] ^= 1
	case c.Digest:
		r.HTTP.Header.Set("Content-Digest", federation.ContentDigest(r.Body))
	default:
		return fmt.Errorf("a change that changes nothing")
	}
	return nil
}
