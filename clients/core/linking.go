package core

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Linking is a conversation of two devices in a room of their server (vault.Link
// has the cryptography). What is said there:
//
//	new  1  announcement
//	own  1  hello
//	new  2  the number
//	own  2  provision, sealed; or refused, one byte, where the person said no
//	own  …  the vault's records: a container in pieces, each after a byte that
//	        says whether more follow
//	new  3  reply: the public keys of the new device, in a container
//	own  …  the signed list, and what was written meanwhile, likewise
//	new  4  done
//
// Nothing is lasting before the list is signed: whatever breaks before that leaves
// the account as it was, and people begin again.

// Sizes of linking.
const (
	linkPiece   = 256 << 10 // bytes of a container in one message
	linkLinger  = time.Second
	linkPreKeys = 10 // one-time prekeys of a kind that come with the reply; Run uploads the others
)

// Contexts of the containers.
const (
	contextHistory = "clearbox link history"
	contextReply   = "clearbox link reply"
	contextTail    = "clearbox link tail"
)

var linkRefused = []byte{0}

// provision is what makes a new device one of the account.
type provision struct {
	User     clearbox.UserID   `cbor:"1,keyasint"`
	Handle   clearbox.Handle   `cbor:"2,keyasint"`
	Identity []byte            `cbor:"3,keyasint"`
	Root     []byte            `cbor:"4,keyasint"`
	List     []byte            `cbor:"5,keyasint"` // before the new device
	Device   clearbox.DeviceID `cbor:"6,keyasint"` // what it will be
	Order    uint64            `cbor:"7,keyasint"` // its first order
	Token    []byte            `cbor:"8,keyasint"` // the account's delivery token
	History  []byte            `cbor:"9,keyasint"` // secret of the containers to the new device
	Reply    []byte            `cbor:"10,keyasint"`
	Archive  *archiveKeys      `cbor:"11,keyasint,omitempty"`
}

// reply is what the new device is to be listed with.
type reply struct {
	Key          []byte `cbor:"1,keyasint"`
	Registration uint16 `cbor:"2,keyasint"`
	Name         string `cbor:"3,keyasint"`
	Keys         []byte `cbor:"4,keyasint"` // wire.Keys in CBOR
}

// tail begins the last container.
type tail struct {
	List []byte `cbor:"1,keyasint"` // with the new device
}

// Errors of linking.
var (
	// ErrLinkRefused: the person said on the other device that the confirmation
	// differs.
	ErrLinkRefused = errors.New("the other device refused: nothing was handed over")
	// ErrLinkSwapped: what the server gave is not what the new device shows.
	ErrLinkSwapped = errors.New("the key at the server is not that of the device that shows this code: somebody tampers with it")
)

// Linked tells what was handed over.
type Linked struct {
	Device   clearbox.DeviceID
	Name     string
	Messages int
}

// Linking is a new device that waits to be linked.
type Linking struct {
	b      *Brain
	link   *vault.Link
	server clearbox.ServerName
	room   room
}

// BeginLink opens a room at the brain's server, over an empty vault. The new
// device then shows Code. Nothing is stored before Finish.
func (b *Brain) BeginLink(ctx context.Context) (*Linking, error) {
	b.mu.Lock()
	taken := b.self != nil
	b.mu.Unlock()
	if taken {
		return nil, clearbox.Errorf(clearbox.CodeConflict, "this profile has an account already")
	}
	known, err := b.Discover(ctx)
	if err != nil {
		return nil, err
	}
	link, err := vault.NewLink(b.opts.Random, string(known.Server))
	if err != nil {
		return nil, err
	}
	l := &Linking{b: b, link: link, server: known.Server, room: room{b: b, id: link.Offer().ID, said: 1}}
	open := wire.LinkOpen{ID: link.Offer().ID, Body: link.Announcement()}
	return l, b.exchange(ctx, "POST", "/devices/link", "", open, new(wire.LinkOpened))
}

// Code is what the person carries to the other device: the text of a QR code.
func (l *Linking) Code() string { return l.link.Offer().Text() }

// Finish waits for the other device and takes the account over. confirm is shown
// what both devices show. name is what the new device is called. When it returns
// nil, the vault holds the account, with its history and a session.
func (l *Linking) Finish(ctx context.Context, name string, confirm func(vault.Confirmation)) (Linked, error) {
	hello, err := l.room.hear(ctx)
	if err != nil {
		return Linked{}, err
	}
	number, shown, err := l.link.Hear(hello)
	if err != nil {
		return Linked{}, clearbox.Wrap(clearbox.CodeBadSignature, "what came is not from a device that has seen this code", err)
	}
	if err := l.room.say(ctx, number); err != nil {
		return Linked{}, err
	}
	confirm(shown)
	sealed, err := l.room.hear(ctx)
	if err != nil {
		return Linked{}, err
	}
	if bytes.Equal(sealed, linkRefused) {
		return Linked{}, ErrLinkRefused
	}
	plain, err := l.link.Open(sealed)
	if err != nil {
		return Linked{}, clearbox.Wrap(clearbox.CodeBadSignature, "the account's keys do not come from the device that was confirmed", err)
	}
	p, err := parse[provision](plain)
	if err != nil {
		return Linked{}, err
	}
	if p.User.Server != l.server {
		return Linked{}, clearbox.Errorf(clearbox.CodeBadSignature, "the account is of another server")
	}
	out := Linked{Device: p.Device, Name: name}
	if err := l.take(ctx, p, contextHistory, nil, &out.Messages); err != nil {
		return out, err
	}
	next, err := l.answer(ctx, p, name)
	if err != nil {
		return out, err
	}
	return out, l.settle(ctx, p, next, &out.Messages)
}

// take reads a container that comes in pieces, into the vault. first is given its
// first frame.
func (l *Linking) take(ctx context.Context, p *provision, named string, first func([]byte) error, messages *int) error {
	r, err := vault.NewReader(&pieces{ctx: ctx, room: &l.room})
	if err != nil {
		return tampered(err)
	}
	if err := r.Open(p.History, []byte(named)); err != nil {
		return clearbox.Wrap(clearbox.CodeBadSignature, "the history was tampered with", err)
	}
	if first != nil {
		frame, err := r.Next()
		if err == nil {
			err = first(frame)
		}
		if err != nil {
			return tampered(err)
		}
	}
	return tampered(readRecords(r, func(batch []record) error {
		return l.b.vault.Update(ctx, func(tx Tx) error {
			n, err := takeIn(quiet(tx), batch, true)
			*messages += n
			return err
		})
	}))
}

// tampered gives what a container's reader found a code.
func tampered(err error) error {
	for _, found := range []error{vault.ErrAltered, vault.ErrSecret, vault.ErrFrame, vault.ErrContainer} {
		if errors.Is(err, found) {
			return clearbox.Wrap(clearbox.CodeBadSignature, "what the other device sent was tampered with", err)
		}
	}
	return err
}

// answer makes this device's keys and tells the other one the public ones.
func (l *Linking) answer(ctx context.Context, p *provision, name string) (*self, error) {
	b := l.b
	key, err := keys.NewSigningKey(b.opts.Random)
	if err != nil {
		return nil, err
	}
	a := &account{
		User: p.User, Handle: p.Handle, Device: p.Device, DeviceName: name,
		Identity: p.Identity, Root: p.Root, DeviceKey: key.Seed(), List: p.List,
	}
	if a.Registration, err = newRegistrationID(b.opts.Random); err != nil {
		return nil, err
	}
	s, err := b.parse(a)
	if err != nil {
		return nil, err
	}
	if err := s.owns(); err != nil {
		return nil, err
	}
	upload, err := b.makePreKeys(ctx, s, min(linkPreKeys, b.preKeys), true)
	if err != nil {
		return nil, err
	}
	mine := reply{Key: key.Public().(ed25519.PublicKey), Registration: a.Registration, Name: name}
	if mine.Keys, err = wire.Append(wire.CBOR, nil, upload); err != nil {
		return nil, err
	}
	frame, err := recordOut.Marshal(&mine)
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := vault.NewWriter(&sealed, b.opts.Random, p.Reply, vault.Header{Kind: vault.KindHistory}, []byte(contextReply))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.WriteFrame(frame), w.Close()); err != nil {
		return nil, err
	}
	return s, l.room.say(ctx, sealed.Bytes())
}

// owns tells whether the private keys are those that the list names.
func (s *self) owns() error {
	if s.list.Account != s.User.String() || s.list.Identity != s.identity.Public() || !bytes.Equal(s.list.Root, s.root.Public().(ed25519.PublicKey)) {
		return clearbox.Errorf(clearbox.CodeBadSignature, "the keys are not those of the account's list of devices")
	}
	return nil
}

// lists tells whether the list has this device, with its key.
func (s *self) lists(l *keys.DeviceList) bool {
	for _, d := range l.Active() {
		if clearbox.DeviceID(d.ID) == s.Device {
			return d.Registration == s.Registration && bytes.Equal(d.Key, s.deviceKey.Public().(ed25519.PublicKey))
		}
	}
	return false
}

// settle takes the rest, stores the account and begins a session.
func (l *Linking) settle(ctx context.Context, p *provision, s *self, messages *int) error {
	b := l.b
	a := s.account
	err := l.take(ctx, p, contextTail, func(frame []byte) error {
		t, err := parse[tail](frame)
		if err != nil {
			return err
		}
		list, err := keys.ParseDeviceList(t.List)
		if err != nil {
			return err
		}
		if err := list.Follows(s.list); err != nil || !s.lists(list) {
			return clearbox.Wrap(clearbox.CodeBadSignature, "the new list of devices does not have this device", err)
		}
		a.List = t.List
		return nil
	}, messages)
	if err != nil {
		return err
	}
	a.Registering = true
	if s, err = b.parse(&a); err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		return errors.Join(save(tx, keyAccount, &a), setCount(tx, keyOrder, p.Order),
			save(tx, keyOwnToken, ownToken{Token: p.Token, Uploaded: true}), p.Archive.adopt(tx))
	})
	if err != nil {
		return err
	}
	b.setSelf(s)
	at := b.now()
	var t wire.Tokens
	err = b.exchange(ctx, "POST", l.room.path("session"), "", wire.LinkSession{Device: s.proof(at)}, &t)
	if err != nil {
		return fmt.Errorf("this device is linked, and has no session yet (log in with the password): %w", err)
	}
	if err := b.registered(ctx, s, &t); err != nil {
		return err
	}
	return l.room.say(ctx, []byte{1})
}

// proof shows that this device holds its key.
func (s *self) proof(at clearbox.Millis) wire.DeviceProof {
	return wire.DeviceProof{Device: s.Device, At: at,
		Signature: ed25519.Sign(s.deviceKey, wire.LoginProof(s.User.Server, s.User.UID, s.Device, at))}
}
