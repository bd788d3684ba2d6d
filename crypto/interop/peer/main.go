// Command peer is the Go side of the interoperability tests: it holds devices
// in memory and does what the harness asks, one JSON object a line on standard
// input and output. It is for tests only and keeps nothing.
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
	"strings"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/crypto/ratchet/ratchettest"
)

// device is one simulated device.
type device struct {
	*ratchet.Device
	store *ratchettest.Store
}

// world holds everything the harness made.
type world struct {
	devices   map[string]*device
	snapshots map[string]*ratchettest.Store
	groups
}

// request carries the arguments of every operation; each uses a few.
type request struct {
	Op         string      `json:"op"`
	Device     string      `json:"device"`
	Name       string      `json:"name"` // of an address
	Number     uint8       `json:"number"`
	Peer       *address    `json:"peer"`
	Type       uint8       `json:"type"`
	Body       []byte      `json:"body"`
	Key        []byte      `json:"key"`
	Other      []byte      `json:"other"`
	Signature  []byte      `json:"signature"`
	ID         uint32      `json:"id"`
	OneTime    bool        `json:"oneTime"`
	LastResort bool        `json:"lastResort"`
	Seed       []byte      `json:"seed"`   // 32 bytes: makes the device's randomness repeatable
	Chains     int         `json:"chains"` // receiving chains kept; 0 is the protocol's limit
	Now        int64       `json:"now"`    // milliseconds
	Bundle     *bundleJSON `json:"bundle"`
	Iterations int         `json:"iterations"` // also: messages to encrypt, bytes to derive
	LocalID    []byte      `json:"localId"`
	RemoteID   []byte      `json:"remoteId"`
	Registered uint16      `json:"registration"`
}

type address struct {
	Name   string `json:"name"`
	Device uint8  `json:"device"`
}

type bundleJSON struct {
	Registration    uint16  `json:"registration"`
	Device          uint8   `json:"device"`
	Identity        []byte  `json:"identity"`
	SignedID        uint32  `json:"signedId"`
	Signed          []byte  `json:"signed"`
	SignedSignature []byte  `json:"signedSignature"`
	OneTimeID       *uint32 `json:"oneTimeId,omitempty"`
	OneTime         []byte  `json:"oneTime,omitempty"`
	KEMID           uint32  `json:"kemId"`
	KEM             []byte  `json:"kem"`
	KEMSignature    []byte  `json:"kemSignature"`
}

// reply is an answer: Fields of the operation, or Error and Text.
type reply map[string]any

func main() {
	w := &world{
		devices:   map[string]*device{},
		snapshots: map[string]*ratchettest.Store{},
		groups:    groups{map[string]*group.Sender{}, map[string]*group.Receiver{}},
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<24)
	out := bufio.NewWriter(os.Stdout)
	for in.Scan() {
		var q request
		var r reply
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			r = reply{"error": "request", "text": err.Error()}
		} else if r, err = w.do(&q); err != nil {
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
		{ratchet.ErrNoSession, "no-session"},
		{ratchet.ErrDuplicate, "duplicate"},
		{ratchet.ErrMAC, "mac"},
		{ratchet.ErrJump, "jump"},
		{ratchet.ErrAddress, "address"},
		{ratchet.ErrKEMReused, "kem-reused"},
		{ratchet.ErrPostQuantum, "post-quantum"},
		{ratchet.ErrMalformed, "malformed"},
		{curve.ErrLowOrder, "low-order"},
		{group.ErrDuplicate, "duplicate"},
		{group.ErrNoKey, "no-key"},
		{group.ErrSignature, "signature"},
		{group.ErrJump, "jump"},
		{group.ErrDistribution, "distribution"},
		{group.ErrMalformed, "malformed"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	var version *ratchet.VersionError
	var groupVersion *group.VersionError
	var prekey *ratchet.UnknownPreKeyError
	var identity *ratchet.IdentityChangedError
	var bundle *keys.BundleError
	var scannable *keys.ScannableVersionError
	switch {
	case errors.As(err, &version), errors.As(err, &groupVersion):
		return "version"
	case errors.As(err, &prekey):
		return "unknown-prekey"
	case errors.As(err, &identity):
		return "identity-changed"
	case errors.As(err, &bundle):
		return "bundle"
	case errors.As(err, &scannable):
		return "scannable-version"
	}
	return "other"
}

func (w *world) do(q *request) (reply, error) {
	switch q.Op {
	case "sign", "verify", "public", "dh", "kem-check", "kem-public", "safety-number", "decryption-error", "parse-plaintext", "hkdf":
		return primitive(q)
	case "device":
		return w.newDevice(q)
	}
	if strings.HasPrefix(q.Op, "group-") {
		return w.groups.do(q)
	}
	d := w.devices[q.Device]
	if d == nil {
		return nil, fmt.Errorf("no device %q", q.Device)
	}
	var peer ratchet.Address
	if q.Peer != nil {
		peer = ratchet.Address{Name: q.Peer.Name, Device: q.Peer.Device}
	}
	now := time.UnixMilli(q.Now)
	switch q.Op {
	case "bundle":
		return d.bundle(q)
	case "kem-secret":
		k, err := d.store.KEMPreKey(q.ID)
		if err != nil || k == nil {
			return nil, fmt.Errorf("no prekey %d", q.ID)
		}
		return reply{"secret": k.Secret}, nil
	case "load-kem":
		return reply{}, d.loadKEM(q)
	case "initiate":
		b, err := q.Bundle.bundle()
		if err != nil {
			return nil, err
		}
		return reply{}, d.Initiate(d.store, now, peer, b)
	case "encrypt":
		c, err := d.Encrypt(d.store, now, peer, q.Body)
		if err != nil {
			return nil, err
		}
		return d.describe(reply{"type": c.Type, "body": c.Body}, peer)
	case "decrypt":
		o, err := d.Decrypt(d.store, peer, ratchet.Type(q.Type), q.Body)
		if err != nil {
			return nil, err
		}
		return d.describe(reply{"plaintext": o.Plaintext, "identity": o.Identity.Bytes(), "began": o.Began}, peer)
	case "archive":
		return reply{}, d.Archive(d.store, peer)
	case "inspect":
		return d.describe(reply{}, peer)
	case "drop-session":
		d.store.SetSession(peer, nil)
		return reply{}, nil
	case "pin":
		k, err := curve.ParsePublicKey(q.Key)
		if err != nil {
			return nil, err
		}
		d.store.SetPin(peer.Name, k)
		return reply{}, nil
	case "snapshot":
		w.snapshots[q.Device] = d.store.Clone()
		return reply{}, nil
	case "restore":
		s := w.snapshots[q.Device]
		if s == nil {
			return nil, fmt.Errorf("no snapshot of %q", q.Device)
		}
		d.store = s.Clone()
		return reply{}, nil
	}
	return nil, fmt.Errorf("unknown operation %q", q.Op)
}

// random is the system's source, or a repeatable one when a seed is given.
func (q *request) random() (io.Reader, error) {
	if q.Seed == nil {
		return crand.Reader, nil
	}
	if len(q.Seed) != 32 {
		return nil, errors.New("a seed has 32 bytes")
	}
	return rand.NewChaCha8([32]byte(q.Seed)), nil
}

func (w *world) newDevice(q *request) (reply, error) {
	random, err := q.random()
	if err != nil {
		return nil, err
	}
	identity, err := curve.GeneratePrivateKey(random)
	if q.Key != nil {
		identity, err = curve.NewPrivateKey(q.Key)
	}
	if err != nil {
		return nil, err
	}
	w.devices[q.Device] = &device{
		Device: &ratchet.Device{
			Address:      ratchet.Address{Name: q.Name, Device: q.Number},
			Identity:     identity,
			Registration: q.Registered,
			Random:       random,
			Limits:       ratchet.Limits{ReceivingChains: q.Chains},
		},
		store: new(ratchettest.Store),
	}
	return reply{"identity": identity.Public().Bytes()}, nil
}

func (d *device) describe(r reply, peer ratchet.Address) (reply, error) {
	stored, err := d.store.Session(peer)
	if err != nil {
		return nil, err
	}
	info, err := d.Inspect(stored, time.UnixMilli(0))
	if err != nil {
		return nil, err
	}
	r["epoch"], r["phase"], r["archived"] = info.Epoch, info.Phase, info.Archived
	r["ratchetKey"], r["applied"] = info.RatchetKey.Bytes(), d.store.Applied()
	return r, nil
}

func (d *device) loadKEM(q *request) error {
	k := &ratchet.KEMSecret{Secret: q.Key, LastResort: q.LastResort}
	public, err := ratchet.KEMPublicKey(k)
	if err != nil {
		return err
	}
	if string(public) != string(q.Other) {
		return errors.New("the secret key carries another public key")
	}
	d.store.AddKEMPreKey(q.ID, k)
	return nil
}

func (d *device) bundle(q *request) (reply, error) {
	b, err := d.store.Publish(d.Random, d.Device, q.ID, q.OneTime, q.LastResort)
	if err != nil {
		return nil, err
	}
	j := &bundleJSON{
		Registration:    b.Registration,
		Device:          b.Device,
		Identity:        b.Identity.Bytes(),
		SignedID:        b.Signed.ID,
		Signed:          b.Signed.Key.Bytes(),
		SignedSignature: b.Signed.Signature,
		KEMID:           b.KEM.ID,
		KEM:             b.KEM.Key,
		KEMSignature:    b.KEM.Signature,
	}
	if b.OneTime != nil {
		j.OneTimeID, j.OneTime = &b.OneTime.ID, b.OneTime.Key.Bytes()
	}
	return reply{"bundle": j}, nil
}

func (j *bundleJSON) bundle() (*keys.Bundle, error) {
	if j == nil {
		return nil, errors.New("no bundle given")
	}
	identity, err := curve.ParsePublicKey(j.Identity)
	if err != nil {
		return nil, err
	}
	signed, err := curve.ParsePublicKey(j.Signed)
	if err != nil {
		return nil, err
	}
	kem, err := keys.ParseKEMPublicKey(j.KEM)
	if err != nil {
		return nil, err
	}
	b := &keys.Bundle{
		Registration: j.Registration,
		Device:       j.Device,
		Identity:     identity,
		Signed:       keys.SignedPreKey{ID: j.SignedID, Key: signed, Signature: j.SignedSignature},
		KEM:          keys.KEMPreKey{ID: j.KEMID, Key: kem, Signature: j.KEMSignature},
	}
	if j.OneTimeID != nil {
		one, err := curve.ParsePublicKey(j.OneTime)
		if err != nil {
			return nil, err
		}
		b.OneTime = &keys.OneTimePreKey{ID: *j.OneTimeID, Key: one}
	}
	return b, nil
}
