// Command sealedpeer is the Go side of the interoperability tests of sealed
// sender: certificates, sealing, opening, and a homeserver's split. It answers
// one JSON object a line and keeps nothing; keys come with the question. It is
// for tests only.
package main

import (
	"bufio"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/crypto/sealed/sealedtest"
)

// request carries the arguments of every operation; each uses a few.
type request struct {
	Op          string            `json:"op"`
	Seed        []byte            `json:"seed"` // 32 bytes: makes randomness repeatable
	Key         []byte            `json:"key"`  // private
	Other       []byte            `json:"other"`
	Roots       [][]byte          `json:"roots"`
	ID          uint32            `json:"id"`
	Account     []byte            `json:"account"` // 17 bytes
	Number      uint8             `json:"number"`  // of a device
	Now         int64             `json:"now"`     // milliseconds
	Certificate []byte            `json:"certificate"`
	Type        uint8             `json:"type"` // outer
	Hint        uint32            `json:"hint"`
	Group       []byte            `json:"group"`
	Body        []byte            `json:"body"`
	Nonce       []byte            `json:"nonce"`
	Recipients  []recipientJSON   `json:"recipients"`
	Excluded    [][]byte          `json:"excluded"`
	Servers     map[string]string `json:"servers"` // account in base64 to peer
}

type recipientJSON struct {
	Account  []byte       `json:"account"`
	Identity []byte       `json:"identity,omitempty"`
	Devices  []deviceJSON `json:"devices"`
	Body     []byte       `json:"body,omitempty"` // received form
}

type deviceJSON struct {
	ID           uint8  `json:"id"`
	Registration uint16 `json:"registration"`
}

type reply map[string]any

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<24)
	out := bufio.NewWriter(os.Stdout)
	for in.Scan() {
		var q request
		var r reply
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			r = reply{"error": "request", "text": err.Error()}
		} else if r, err = q.do(); err != nil {
			r = reply{"error": errorName(err), "text": err.Error()}
		}
		line, err := json.Marshal(r)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		out.Write(append(line, '\n'))
		if err := out.Flush(); err != nil {
			os.Exit(1)
		}
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// errorName gives each error that the harness tells apart a fixed name.
func errorName(err error) string {
	for _, e := range []struct {
		err  error
		name string
	}{
		{certificate.ErrExpired, "expired"},
		{certificate.ErrUntrusted, "untrusted"},
		{certificate.ErrSignature, "signature"},
		{certificate.ErrReference, "reference"},
		{certificate.ErrMalformed, "certificate-malformed"},
		{fanout.ErrDuplicate, "duplicate"},
		{fanout.ErrLimit, "limit"},
		{fanout.ErrMalformed, "fanout-malformed"},
		{sealed.ErrOwn, "own"},
		{sealed.ErrSender, "sender"},
		{sealed.ErrDecrypt, "decrypt"},
		{sealed.ErrVersion, "version"},
		{sealed.ErrMalformed, "malformed"},
		{sealed.ErrContent, "content"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return "other"
}

func (q *request) random() (io.Reader, error) {
	if q.Seed == nil {
		return crand.Reader, nil
	}
	if len(q.Seed) != 32 {
		return nil, errors.New("a seed has 32 bytes")
	}
	return rand.NewChaCha8([32]byte(q.Seed)), nil
}

func (q *request) roots() ([]curve.PublicKey, error) {
	var roots []curve.PublicKey
	for _, b := range q.Roots {
		k, err := curve.ParsePublicKey(b)
		if err != nil {
			return nil, err
		}
		roots = append(roots, k)
	}
	return roots, nil
}

func serviceID(b []byte) (id keys.ServiceID, err error) {
	if len(b) != len(id) {
		return id, errors.New("an account has 17 bytes")
	}
	return keys.ServiceID(b), nil
}

func (q *request) do() (reply, error) {
	switch q.Op {
	case "gcmsiv":
		aead, err := sealedtest.NewGCMSIV(q.Key)
		if err != nil {
			return nil, err
		}
		sealed := aead.Seal(nil, q.Nonce, q.Body, q.Other)
		_, err = aead.Open(nil, q.Nonce, sealed, q.Other)
		return reply{"body": sealed}, err
	case "parse-server":
		c, err := certificate.ParseServer(q.Body)
		if err != nil {
			return nil, err
		}
		return reply{"id": c.ID(), "public": c.Key().Bytes()}, nil
	case "validate":
		return q.validate()
	case "split":
		return q.split()
	}
	random, err := q.random()
	if err != nil {
		return nil, err
	}
	key, err := curve.NewPrivateKey(q.Key)
	if err != nil {
		return nil, err
	}
	switch q.Op {
	case "issue-server", "issue-sender", "seal-v1":
		public, err := curve.ParsePublicKey(q.Other)
		if err != nil {
			return nil, err
		}
		return q.withPublic(random, key, public)
	case "seal-v2":
		return q.sealV2(random, key)
	case "open":
		return q.open(key)
	}
	return nil, fmt.Errorf("unknown operation %q", q.Op)
}

func (q *request) withPublic(random io.Reader, key *curve.PrivateKey, public curve.PublicKey) (reply, error) {
	switch q.Op {
	case "issue-server":
		c, err := certificate.IssueServer(random, key, q.ID, public)
		if err != nil {
			return nil, err
		}
		return reply{"body": c.Bytes()}, nil
	case "issue-sender":
		server, err := certificate.ParseServer(q.Certificate)
		if err != nil {
			return nil, err
		}
		account, err := serviceID(q.Account)
		if err != nil {
			return nil, err
		}
		c, err := server.Issue(random, key, certificate.Subject{
			Account: account, Device: q.Number, Identity: public, Expires: time.UnixMilli(q.Now),
		})
		if err != nil {
			return nil, err
		}
		return reply{"body": c.Bytes()}, nil
	}
	content, err := q.content()
	if err != nil {
		return nil, err
	}
	b, err := sealed.SealV1(random, key, public, content)
	return reply{"body": b}, err
}

func (q *request) content() (*sealed.Content, error) {
	sender, err := certificate.ParseSender(q.Certificate)
	if err != nil {
		return nil, err
	}
	kind, ok := sealed.TypeOfOuter(q.Type)
	if !ok {
		return nil, fmt.Errorf("type %d", q.Type)
	}
	return &sealed.Content{Type: kind, Sender: sender, Body: q.Body, Hint: sealed.Hint(q.Hint), Group: q.Group}, nil
}

func describe(c *certificate.Sender, r reply) reply {
	s := c.Subject()
	r["account"], r["uuid"], r["number"] = s.Account[:], s.Account.UUID(), s.Device
	r["identity"], r["expires"], r["server"] = s.Identity.Bytes(), s.Expires.UnixMilli(), c.Server().ID()
	return r
}

func (q *request) validate() (reply, error) {
	roots, err := q.roots()
	if err != nil {
		return nil, err
	}
	c, err := certificate.ParseSender(q.Body)
	if err != nil {
		return nil, err
	}
	return describe(c, reply{}), c.Validate(time.UnixMilli(q.Now), roots...)
}

func (q *request) open(key *curve.PrivateKey) (reply, error) {
	roots, err := q.roots()
	if err != nil {
		return nil, err
	}
	account, err := serviceID(q.Account)
	if err != nil {
		return nil, err
	}
	r := &sealed.Receiver{Account: account, Device: q.Number, Identity: key}
	c, err := r.Open(q.Body, time.UnixMilli(q.Now), roots...)
	if err != nil {
		return nil, err
	}
	return describe(c.Sender, reply{"type": c.Type.Outer(), "body": c.Body, "hint": c.Hint, "group": c.Group}), nil
}

func (q *request) sealV2(random io.Reader, key *curve.PrivateKey) (reply, error) {
	content, err := q.content()
	if err != nil {
		return nil, err
	}
	var to []sealed.Recipient
	for _, j := range q.Recipients {
		account, err := serviceID(j.Account)
		if err != nil {
			return nil, err
		}
		identity, err := curve.ParsePublicKey(j.Identity)
		if err != nil {
			return nil, err
		}
		r := sealed.Recipient{Account: account, Identity: identity}
		for _, d := range j.Devices {
			r.Devices = append(r.Devices, fanout.Device{ID: d.ID, Registration: d.Registration})
		}
		to = append(to, r)
	}
	var excluded []keys.ServiceID
	for _, b := range q.Excluded {
		account, err := serviceID(b)
		if err != nil {
			return nil, err
		}
		excluded = append(excluded, account)
	}
	b, err := sealed.SealV2(random, key, content, to, excluded)
	return reply{"body": b}, err
}

// split does what a homeserver does: the whole, and every peer's part, with what
// each recipient gets from it.
func (q *request) split() (reply, error) {
	m, err := fanout.Parse(q.Body, fanout.Limits{})
	if err != nil {
		return nil, err
	}
	whole, err := recipients(m)
	if err != nil {
		return nil, err
	}
	servers := map[keys.ServiceID]string{}
	for text, server := range q.Servers {
		var b []byte
		if err := json.Unmarshal([]byte(`"`+text+`"`), &b); err != nil {
			return nil, err
		}
		id, err := serviceID(b)
		if err != nil {
			return nil, err
		}
		servers[id] = server
	}
	parts := []reply{}
	for _, p := range fanout.Split(m, func(id keys.ServiceID) (string, bool) { s, ok := servers[id]; return s, ok }) {
		part, err := fanout.Parse(p.Bytes, fanout.Limits{})
		if err != nil {
			return nil, err
		}
		inPart, err := recipients(part)
		if err != nil {
			return nil, err
		}
		parts = append(parts, reply{"peer": p.Peer, "body": p.Bytes, "recipients": inPart})
	}
	return reply{"recipients": whole, "parts": parts}, nil
}

func recipients(m *fanout.Message) ([]recipientJSON, error) {
	var all []recipientJSON
	for i, r := range m.Recipients() {
		j := recipientJSON{Account: r.ID[:]}
		for _, d := range r.Devices {
			j.Devices = append(j.Devices, deviceJSON{d.ID, d.Registration})
		}
		if !r.Excluded() {
			b, err := m.AppendReceived(nil, i)
			if err != nil {
				return nil, err
			}
			j.Body = b
		}
		all = append(all, j)
	}
	return all, nil
}
