package chain

import (
	"crypto/ed25519"
	"encoding/binary"
)

// The signed form of an operation, all numbers big-endian:
//
//	 1  format, 1
//	 1  kind
//	32  group         8  epoch        32  prev
//	16  actor        32  signer        8  list        8  time, ms
//	 …  body, by kind:
//	      create   1+n hub  16 nonce  32 commitment  policy  2+n info
//	      add      1 count, then for each: 16 member  32 commitment  1 role
//	      remove   2 count, then 16 member each
//	      role     16 member  1 role
//	      policy   policy
//	      info     2+n sealed
//	      hub-move 1+n hub  1 count, then for each: 1+n server  32 key  64 signature
//	      accept, decline, device and close have none
//	64  Ed25519 signature by signer over the label below and all the above
//
//	policy: 1 who may add  4 disappear, s  2 max members  1 count, 2 country each  1 count, 1+n server each
//
// There is one encoding of an operation, and nothing may follow it.
const opFormat = 1

// Labels come before what is signed or hashed, so that it means nothing in any
// other place. They are not transmitted.
const (
	opLabel         = "clearbox group operation v1\x00"
	hubMoveLabel    = "clearbox group hub move v1\x00"
	commitmentLabel = "clearbox group member v1\x00"
)

const opFixed = 1 + 1 + 32 + 8 + 32 + 16 + ed25519.PublicKeySize + 8 + 8

// Sign returns the signed form of o in a new slice. The same operation and key
// give the same bytes. An operation against the rules of its form is an error
// that wraps ErrOperation; so is a device that is not the private key of o.Signer.
func Sign(device ed25519.PrivateKey, o *Op) ([]byte, error) {
	if len(device) != ed25519.PrivateKeySize || !o.Signer.Equal(device.Public()) {
		return nil, refuse("it names another device key than the one that is to sign")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	b := o.encode()
	if len(b)+ed25519.SignatureSize > MaxOperationSize {
		return nil, refuse("%d bytes", len(b)+ed25519.SignatureSize)
	}
	return append(b, ed25519.Sign(device, labelled(opLabel, b))...), nil
}

// encode gives the signed form without the signature, with room for it.
func (o *Op) encode() []byte {
	b := make([]byte, 0, opFixed+256+ed25519.SignatureSize)
	b = append(b, opFormat, byte(o.Body.Kind()))
	b = append(b, o.Group[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Epoch)
	b = append(b, o.Prev[:]...)
	b = append(b, o.Actor[:]...)
	b = append(b, o.Signer...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.List))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Time))
	return o.Body.append(b)
}

func labelled(label string, body []byte) []byte {
	m := make([]byte, 0, len(label)+len(body))
	return append(append(m, label...), body...)
}

func (c Create) append(b []byte) []byte {
	b = appendName(b, c.Hub)
	b = append(b, c.Nonce[:]...)
	b = append(b, c.Commitment[:]...)
	b = c.Policy.append(b)
	return appendBytes(b, c.Info)
}

func (a Add) append(b []byte) []byte {
	b = append(b, byte(len(a.Invitees)))
	for _, v := range a.Invitees {
		b = append(b, v.Member[:]...)
		b = append(b, v.Commitment[:]...)
		b = append(b, byte(v.Role))
	}
	return b
}

func (Accept) append(b []byte) []byte    { return b }
func (Decline) append(b []byte) []byte   { return b }
func (Introduce) append(b []byte) []byte { return b }
func (Close) append(b []byte) []byte     { return b }

func (r Remove) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Members)))
	for _, m := range r.Members {
		b = append(b, m[:]...)
	}
	return b
}

func (s SetRole) append(b []byte) []byte   { return append(append(b, s.Member[:]...), byte(s.Role)) }
func (s SetPolicy) append(b []byte) []byte { return s.Policy.append(b) }
func (s SetInfo) append(b []byte) []byte   { return appendBytes(b, s.Sealed) }

func (h HubMove) append(b []byte) []byte {
	b = appendName(b, h.Hub)
	b = append(b, byte(len(h.By)))
	for _, c := range h.By {
		b = appendName(b, c.Server)
		b = append(b, c.Key...)
		b = append(b, c.Signature...)
	}
	return b
}

func (p Policy) append(b []byte) []byte {
	b = append(b, byte(p.MayAdd))
	b = binary.BigEndian.AppendUint32(b, p.Disappear)
	b = binary.BigEndian.AppendUint16(b, uint16(p.MaxMembers))
	b = append(b, byte(len(p.Countries)))
	for _, c := range p.Countries {
		b = append(b, c...)
	}
	b = append(b, byte(len(p.Servers)))
	for _, s := range p.Servers {
		b = appendName(b, s)
	}
	return b
}

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// Parse reads the signed form, checks the rules of its form and verifies the
// signature with the key in it. Whether the operation may follow a history is
// State.Apply's to say. Errors wrap ErrOperation or are ErrSignature. The
// operation shares no memory with raw.
func Parse(raw []byte) (*Op, error) {
	if len(raw) > MaxOperationSize {
		return nil, refuse("%d bytes", len(raw))
	}
	r := &reader{rest: raw}
	if format := r.byte(); !r.short && format != opFormat {
		return nil, refuse("format %d", format)
	}
	kind := Kind(r.byte())
	o := new(Op)
	copy(o.Group[:], r.take(len(o.Group)))
	o.Epoch = r.uint64()
	copy(o.Prev[:], r.take(len(o.Prev)))
	o.Actor = r.member()
	o.Signer = r.key()
	o.List = int64(r.uint64())
	o.Time = int64(r.uint64())
	body, ok := r.body(kind)
	if !ok {
		return nil, refuse("kind %d", kind)
	}
	o.Body = body
	signed := raw[:len(raw)-len(r.rest)]
	signature := r.take(ed25519.SignatureSize)
	if r.short {
		return nil, refuse("it ends early")
	}
	if len(r.rest) != 0 {
		return nil, refuse("%d bytes after its end", len(r.rest))
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if !ed25519.Verify(o.Signer, labelled(opLabel, signed), signature) {
		return nil, ErrSignature
	}
	return o, nil
}

// body reads what kind has; ok is false for an unknown kind.
func (r *reader) body(kind Kind) (_ Body, ok bool) {
	switch kind {
	case KindCreate:
		c := Create{Hub: r.name()}
		copy(c.Nonce[:], r.take(len(c.Nonce)))
		c.Commitment = r.hash()
		c.Policy = r.policy()
		c.Info = r.bytes()
		return c, true
	case KindAdd:
		var a Add
		for range r.byte() {
			v := Invitee{Member: r.member(), Commitment: r.hash(), Role: Role(r.byte())}
			if r.short {
				break
			}
			a.Invitees = append(a.Invitees, v)
		}
		return a, true
	case KindAccept:
		return Accept{}, true
	case KindDecline:
		return Decline{}, true
	case KindRemove:
		var v Remove
		for range r.uint16() {
			m := r.member()
			if r.short {
				break
			}
			v.Members = append(v.Members, m)
		}
		return v, true
	case KindRole:
		return SetRole{Member: r.member(), Role: Role(r.byte())}, true
	case KindPolicy:
		return SetPolicy{Policy: r.policy()}, true
	case KindInfo:
		return SetInfo{Sealed: r.bytes()}, true
	case KindDevice:
		return Introduce{}, true
	case KindHubMove:
		h := HubMove{Hub: r.name()}
		for range r.byte() {
			c := Countersignature{Server: r.name(), Key: r.key(), Signature: append([]byte(nil), r.take(ed25519.SignatureSize)...)}
			if r.short {
				break
			}
			h.By = append(h.By, c)
		}
		return h, true
	case KindClose:
		return Close{}, true
	}
	return nil, false
}

func (r *reader) policy() Policy {
	p := Policy{MayAdd: Adders(r.byte()), Disappear: r.uint32(), MaxMembers: int(r.uint16())}
	for range r.byte() {
		c := r.take(2)
		if r.short {
			break
		}
		p.Countries = append(p.Countries, string(c))
	}
	for range r.byte() {
		s := r.name()
		if r.short {
			break
		}
		p.Servers = append(p.Servers, s)
	}
	return p
}

// reader takes fields from the front of rest. After the first field that is not
// wholly there it is short and gives zero values only.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || len(r.rest) < n {
		r.short = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// uint64 reads eight bytes; what fits no range of ours is refused by the checks.
func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) key() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), r.take(ed25519.PublicKeySize)...)
}

func (r *reader) hash() (h Hash) {
	copy(h[:], r.take(len(h)))
	return h
}

func (r *reader) member() (m Member) {
	copy(m[:], r.take(len(m)))
	return m
}

func (r *reader) name() string { return string(r.take(int(r.byte()))) }

func (r *reader) bytes() []byte { return append([]byte(nil), r.take(int(r.uint16()))...) }
