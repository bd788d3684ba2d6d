package delivery

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/fxamacker/cbor/v2"
)

// What lies in a queue is sealed under a content key of its own. The message id
// stands before the wrapped key, so that the associated data (message id and
// device; 0 in an outbox) can be rebuilt by whoever reads the row.

func payloadAD(id clearbox.MessageID, device clearbox.DeviceID) []byte {
	return append(append(make([]byte, 0, len(id)+1), id[:]...), byte(device))
}

// sealMail prepares a mailbox entry for one device of a local person; exactly
// one of e and n is given, and with a sealed e the ref that came with it.
func (r *Router) sealMail(key storage.KeyID, deviceNo int64, e *clearbox.Envelope, ref []byte, n *Notice, at clearbox.Millis) (mail, error) {
	m := mail{deviceNo: deviceNo, expires: after(at, r.opts.MailTTL), delivery: Delivery{Envelope: e, Notice: n}}
	var plain []byte
	var id clearbox.MessageID
	var device clearbox.DeviceID
	switch {
	case e != nil && ref != nil:
		id, device = e.ID, e.Device
		plain = appendSealed(make([]byte, 0, len(e.Content)+128), e, ref)
	case e != nil:
		id, device = e.ID, e.Device
		plain = appendEnvelope(make([]byte, 0, len(e.Content)+128), e)
	default:
		id = n.ID
		plain = appendNotice(nil, n)
	}
	sealed, err := storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(id, device), plain)
	if err != nil {
		return mail{}, err
	}
	sealed.Wrapped = append(id[:len(id):len(id)], sealed.Wrapped...)
	m.sealed = sealed
	return m, nil
}

// openMail is the inverse for the device that owns the mailbox.
func (r *Router) openMail(key storage.KeyID, device clearbox.DeviceID, m *storage.Mail) (Delivery, error) {
	var id clearbox.MessageID
	if len(m.Sealed.Wrapped) < len(id) {
		return Delivery{}, errPayload
	}
	copy(id[:], m.Sealed.Wrapped)
	if m.Body != 0 {
		plain, err := r.keys.Open(key, storage.PurposeMailbox, pointerAD(id, device), m.Sealed.Wrapped[len(id):])
		if err != nil {
			return Delivery{}, err
		}
		d, err := parsePayload(plain)
		d.Seq = m.Seq
		return d, err
	}
	sealed := storage.Sealed{Payload: m.Sealed.Payload, Wrapped: m.Sealed.Wrapped[len(id):]}
	plain, err := storage.OpenPayload(r.keys, key, payloadAD(id, device), sealed)
	if err != nil {
		// A notice is sealed for the person, not for one device.
		if plain, err = storage.OpenPayload(r.keys, key, payloadAD(id, 0), sealed); err != nil {
			return Delivery{}, err
		}
	}
	d, err := parsePayload(plain)
	d.Seq = m.Seq
	return d, err
}

// damaged tells whether what failed to open under key will never open: the key
// was destroyed, or it works and the entry does not open again. While the
// keystore itself is in trouble nothing is given up, nor in the moment in which
// the trouble ends.
func (r *Router) damaged(key storage.KeyID, err error, again func() error) bool {
	if errors.Is(err, storage.ErrShredded) || errors.Is(err, errPayload) {
		return true
	}
	_, probe := r.keys.Seal(key, storage.PurposeMailbox, nil, nil)
	switch {
	case errors.Is(probe, storage.ErrShredded):
		return true
	case probe != nil:
		return false
	}
	return again() != nil
}

// storedItem is an outbox payload. The stored form is ours alone, so it may
// differ from the wire's.
type storedItem struct {
	_         struct{} `cbor:",toarray"`
	Sender    string
	Device    uint8
	Recipient string
	At        int64
	Envelopes []storedEnvelope
	Token     []byte
	Ref       []byte
	Knock     []byte // as it waits at its receiver: encodeArrived
}

// formerItem is what a release before consent stored; plainItems tells it apart.
type formerItem struct {
	_         struct{} `cbor:",toarray"`
	Sender    string
	Device    uint8
	Recipient string
	At        int64
	Envelopes []storedEnvelope
}

// groupItem is what is stored of a message to a group, or to one of its members
// as such; groupItems tells it apart.
type groupItem struct {
	_         struct{} `cbor:",toarray"`
	Sender    string
	Device    uint8
	Recipient string // of one to a single member
	At        int64
	Envelopes []storedEnvelope
	Ref       []byte
	Group     []byte
	Epoch     uint64
	Multi     []byte
	Members   []string // for whom Multi is; not sent
}

const (
	plainItems = 0x85 // an array of five
	groupItems = 0x8a // and of ten
)

type storedEnvelope struct {
	_            struct{} `cbor:",toarray"`
	Device       uint8
	Registration uint16
	Type         uint8
	Content      []byte
}

// sealItem seals an item for the outbox row that has the id.
func (r *Router) sealItem(key storage.KeyID, row clearbox.MessageID, it *federation.Item) (storage.Sealed, error) {
	if !it.Group.IsZero() {
		return r.sealGroupItem(key, row, it, nil)
	}
	if it.Op != nil {
		plain, err := encodeStoredOp(it.Op, it.AcceptedAt)
		if err != nil {
			return storage.Sealed{}, fmt.Errorf("encode an outbox item: %w", err)
		}
		return storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(row, 0), append([]byte{opMarker}, plain...))
	}
	st := storedItem{
		Sender: it.Sender.String(), Device: uint8(it.SenderDevice), Recipient: it.Recipient.String(), At: int64(it.AcceptedAt), Token: it.Token, Ref: it.Ref,
	}
	if it.Bounce != "" { // stands as an envelope for no device
		st.Envelopes = []storedEnvelope{{Content: []byte(it.Bounce)}}
	}
	st.Envelopes = append(st.Envelopes, storedEnvelopes(it)...)
	if it.Knock != nil {
		var err error
		if st.Knock, err = encodeArrived(it); err != nil {
			return storage.Sealed{}, err
		}
	}
	plain, err := cbor.Marshal(&st)
	if err != nil {
		return storage.Sealed{}, fmt.Errorf("encode an outbox item: %w", err)
	}
	return storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(row, 0), plain)
}

func storedEnvelopes(it *federation.Item) (out []storedEnvelope) {
	for _, e := range it.Envelopes {
		out = append(out, storedEnvelope{Device: uint8(e.Device), Registration: e.Registration, Type: uint8(e.Type), Content: e.Content})
	}
	return out
}

// sealGroupItem is sealItem for a message to a group, or to one of its members.
// Whom it is for is kept beside it, so that the sender can be told whatever
// becomes of the group.
func (r *Router) sealGroupItem(key storage.KeyID, row clearbox.MessageID, it *federation.Item, members []clearbox.UserID) (storage.Sealed, error) {
	st := groupItem{
		Sender: it.Sender.String(), Device: uint8(it.SenderDevice), Recipient: it.Recipient.String(), At: int64(it.AcceptedAt),
		Envelopes: storedEnvelopes(it), Ref: it.Ref, Group: it.Group[:], Epoch: it.Epoch, Multi: it.Multi,
	}
	for _, u := range members {
		st.Members = append(st.Members, u.String())
	}
	plain, err := cbor.Marshal(&st)
	if err != nil {
		return storage.Sealed{}, fmt.Errorf("encode an outbox item: %w", err)
	}
	return storage.SealPayload(r.keys, r.opts.Random, key, payloadAD(row, 0), plain)
}

// openGroupItem gives the item and for whom it is.
func openGroupItem(id clearbox.MessageID, plain []byte) (it federation.Item, to []clearbox.UserID, err error) {
	var st groupItem
	if err := cbor.Unmarshal(plain, &st); err != nil {
		return it, nil, fmt.Errorf("decode an outbox item: %w", err)
	}
	it = federation.Item{ID: id, SenderDevice: clearbox.DeviceID(st.Device), AcceptedAt: clearbox.Millis(st.At), Ref: st.Ref, Epoch: st.Epoch}
	copy(it.Group[:], st.Group)
	if it.Sender, err = clearbox.ParseUserID(st.Sender); err != nil {
		return it, nil, err
	}
	if len(st.Multi) > 0 {
		it.Multi, it.Crit = st.Multi, []string{"multi"}
		for _, s := range st.Members {
			u, err := clearbox.ParseUserID(s)
			if err != nil {
				return it, nil, err
			}
			to = append(to, u)
		}
		return it, to, nil
	}
	it.Crit, it.Envelopes = []string{"group"}, wireEnvelopes(st.Envelopes)
	it.Recipient, err = clearbox.ParseUserID(st.Recipient)
	return it, []clearbox.UserID{it.Recipient}, err
}

func wireEnvelopes(stored []storedEnvelope) (out []federation.ItemEnvelope) {
	for _, e := range stored {
		out = append(out, federation.ItemEnvelope{
			Device: clearbox.DeviceID(e.Device), Registration: e.Registration, Type: clearbox.ContentType(e.Type), Content: e.Content,
		})
	}
	return out
}

// openFor is openItem, and tells for whom the item is.
func (r *Router) openFor(row *storage.OutboxItem) (federation.Item, []clearbox.UserID, error) {
	plain, err := storage.OpenPayload(r.keys, row.SenderKey, payloadAD(row.MessageID, 0), row.Sealed)
	if err != nil {
		return federation.Item{}, nil, err
	}
	if len(plain) > 0 && plain[0] == groupItems {
		return openGroupItem(row.MessageID, plain)
	}
	it, err := openPlain(row, plain)
	if it.Recipient.IsZero() {
		return it, nil, err
	}
	return it, []clearbox.UserID{it.Recipient}, err
}

// openItem is the inverse. The sender of a sealed message is in it: what goes to
// the peer is outward.
func (r *Router) openItem(row *storage.OutboxItem) (federation.Item, error) {
	it, _, err := r.openFor(row)
	return it, err
}

func openPlain(row *storage.OutboxItem, plain []byte) (federation.Item, error) {
	if len(plain) > 0 && plain[0] == opMarker {
		op, at, err := decodeStoredOp(plain[1:])
		if err != nil {
			return federation.Item{}, fmt.Errorf("decode an outbox item: %w", err)
		}
		return federation.Item{ID: row.MessageID, AcceptedAt: at, Op: op}, nil
	}
	st, err := readStored(plain)
	if err != nil {
		return federation.Item{}, fmt.Errorf("decode an outbox item: %w", err)
	}
	it := federation.Item{ID: row.MessageID, SenderDevice: clearbox.DeviceID(st.Device), AcceptedAt: clearbox.Millis(st.At)}
	if len(st.Knock) > 0 {
		k, to, err := decodeArrived(st.Knock)
		if err != nil {
			return federation.Item{}, err
		}
		return federation.Item{ID: k.ID, AcceptedAt: it.AcceptedAt, Knock: &federation.Knock{From: k.From, Handle: k.Handle, To: to}}, nil
	}
	if it.Sender, err = clearbox.ParseUserID(st.Sender); err != nil {
		return federation.Item{}, err
	}
	if len(st.Token) > 0 {
		it.Token = st.Token
	}
	if len(st.Ref) > 0 {
		it.Ref = st.Ref
	}
	if len(st.Envelopes) == 1 && st.Envelopes[0].Device == 0 {
		it.Bounce = clearbox.Code(st.Envelopes[0].Content)
		it.Crit = []string{"bounce"} // a peer that does not know bounces must not take it for a message
		if it.Ref != nil {
			return it, nil
		}
	}
	if it.Recipient, err = clearbox.ParseUserID(st.Recipient); err != nil || it.Bounce != "" {
		return it, err
	}
	it.Envelopes = wireEnvelopes(st.Envelopes)
	return it, nil
}

func readStored(plain []byte) (st storedItem, err error) {
	if len(plain) > 0 && plain[0] == plainItems {
		var old formerItem
		err = cbor.Unmarshal(plain, &old)
		return storedItem{Sender: old.Sender, Device: old.Device, Recipient: old.Recipient, At: old.At, Envelopes: old.Envelopes}, err
	}
	return st, cbor.Unmarshal(plain, &st)
}

// outward is the item as the peer gets it: of a sealed message not who sent it.
func outward(it federation.Item) federation.Item {
	if it.Ref != nil && it.Bounce == "" {
		it.Sender, it.SenderDevice = clearbox.UserID{}, 0
	}
	return it
}
