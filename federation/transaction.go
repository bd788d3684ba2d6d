package federation

import (
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/fxamacker/cbor/v2"
)

// The wire forms. Text keys, definite lengths, no tags (RFC 8949, 4.2.1).
// Each item is a byte string with CBOR inside, so that one item that cannot be
// read leaves its neighbours readable (federation.md, 15, attack 10).
type wireTxn struct {
	Stream   []byte   `cbor:"stream"`
	Class    Class    `cbor:"class"`
	Lease    int64    `cbor:"lease"`
	FirstPos int64    `cbor:"first_pos"`
	Items    [][]byte `cbor:"items"`
}

type wireItem struct {
	ID        []byte         `cbor:"id,omitempty"`
	From      string         `cbor:"from,omitempty"`
	Device    int64          `cbor:"device,omitempty"`
	To        string         `cbor:"to,omitempty"`
	At        int64          `cbor:"at,omitempty"`
	Token     []byte         `cbor:"token,omitempty"`
	Ref       []byte         `cbor:"ref,omitempty"`
	Envelopes []wireEnvelope `cbor:"envelopes,omitempty"`
	Void      bool           `cbor:"void,omitempty"`
	Bounce    clearbox.Code  `cbor:"bounce,omitempty"`
	Knock     *wireKnock     `cbor:"knock,omitempty"`
	Group     []byte         `cbor:"group,omitempty"`
	Epoch     uint64         `cbor:"epoch,omitempty"`
	Multi     []byte         `cbor:"multi,omitempty"`
	Op        *wireGroupOp   `cbor:"op,omitempty"`
	Crit      []string       `cbor:"crit,omitempty"`
}

type wireKnock struct {
	From   string `cbor:"from"`
	Handle string `cbor:"handle"`
	To     string `cbor:"to"`
}

type wireEnvelope struct {
	Device       int64  `cbor:"device"`
	Registration uint16 `cbor:"registration"`
	Type         uint8  `cbor:"type"`
	Content      []byte `cbor:"content"`
}

type wireAnswer struct {
	Stream   []byte        `cbor:"stream"`
	FirstPos int64         `cbor:"first_pos"`
	Through  int64         `cbor:"accepted_through"`
	Verdicts []wireVerdict `cbor:"verdicts"`
}

type wireVerdict struct {
	Code           VerdictCode   `cbor:"v"`
	Reason         clearbox.Code `cbor:"reason,omitempty"`
	RetryAfter     int64         `cbor:"retry_after,omitempty"` // ms
	DevicesVersion int64         `cbor:"devices_version,omitempty"`
	Stale          []wireStale   `cbor:"stale,omitempty"`
}

type wireStale struct {
	UID     string `cbor:"uid"`
	Version int64  `cbor:"version"`
}

// critKnown are the item fields that a sender may mark as critical.
var critKnown = map[string]bool{
	"id": true, "from": true, "device": true, "to": true, "at": true, "envelopes": true, "void": true, "bounce": true,
	"token": true, "ref": true, "knock": true, "group": true, "epoch": true, "multi": true, "op": true,
}

var (
	encoder = mustMode(cbor.CoreDetEncOptions().EncMode())
	decoder = mustMode(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  1024,
		MaxMapPairs:       64,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode())
)

func mustMode[M any](mode M, err error) M {
	if err != nil {
		panic("federation: CBOR options: " + err.Error())
	}
	return mode
}

// EncodeTransaction gives the wire form. It fails with clearbox.CodeTooLarge
// when the result exceeds MaxTransaction.
func EncodeTransaction(t *Transaction) ([]byte, error) {
	w := wireTxn{Stream: t.Stream, Class: t.Class, Lease: t.Fence, FirstPos: t.FirstPos, Items: make([][]byte, len(t.Items))}
	for i := range t.Items {
		b, err := encoder.Marshal(itemToWire(&t.Items[i]))
		if err != nil {
			return nil, clearbox.Wrap(clearbox.CodeInternal, "the item could not be encoded", err)
		}
		w.Items[i] = b
	}
	b, err := encoder.Marshal(w)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the transaction could not be encoded", err)
	}
	if len(b) > MaxTransaction {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "a transaction has at most %d bytes", MaxTransaction)
	}
	return b, nil
}

func itemToWire(it *Item) wireItem {
	if it.Void {
		return wireItem{Void: true}
	}
	w := wireItem{
		ID: it.ID[:], From: it.Sender.String(), Device: int64(it.SenderDevice), To: it.Recipient.String(),
		At: int64(it.AcceptedAt), Token: it.Token, Ref: it.Ref, Envelopes: make([]wireEnvelope, len(it.Envelopes)), Bounce: it.Bounce, Crit: it.Crit,
	}
	if !it.Group.IsZero() {
		w.Group, w.Epoch, w.Multi = it.Group[:], it.Epoch, it.Multi
	}
	if it.Op != nil {
		op := groupOpToWire(it.Op)
		w.Op = &op
	}
	if k := it.Knock; k != nil {
		w.Knock = &wireKnock{From: k.From.String(), Handle: string(k.Handle), To: string(k.To)}
	}
	for i, e := range it.Envelopes {
		w.Envelopes[i] = wireEnvelope{Device: int64(e.Device), Registration: e.Registration, Type: uint8(e.Type), Content: e.Content}
	}
	return w
}

// DecodeTransaction reads a transaction. An item that cannot be understood is
// returned with Refused set and spoils nothing else; anything wrong with the
// frame around the items is an error with clearbox.CodeBadRequest or
// CodeTooLarge. The result shares no memory with b.
func DecodeTransaction(b []byte) (*Transaction, error) {
	if len(b) > MaxTransaction {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "a transaction has at most %d bytes", MaxTransaction)
	}
	var w wireTxn
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the transaction is not readable", err)
	}
	switch {
	case len(w.Stream) != 16:
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a stream id has 16 bytes")
	case !w.Class.Valid():
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the class is not known")
	case w.Lease < 0:
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the lease is negative")
	case w.FirstPos < 1 || w.FirstPos > maxPosition:
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a position is a number from 1")
	case len(w.Items) == 0 || len(w.Items) > MaxItems:
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a transaction has 1 to %d items", MaxItems)
	}
	t := &Transaction{Stream: w.Stream, Class: w.Class, Fence: w.Lease, FirstPos: w.FirstPos, Items: make([]Item, len(w.Items))}
	for i, raw := range w.Items {
		t.Items[i] = decodeItem(w.Class, raw)
	}
	return t, nil
}

// maxPosition leaves room for a batch to be added without overflow.
const maxPosition = 1 << 60

func decodeItem(class Class, raw []byte) Item {
	var w wireItem
	if err := decoder.Unmarshal(raw, &w); err != nil {
		return Item{Refused: clearbox.CodeBadRequest}
	}
	if w.Void {
		return Item{Void: true}
	}
	for _, name := range w.Crit {
		if !critKnown[name] {
			return Item{Refused: clearbox.CodeUnsupportedCritical}
		}
	}
	it, err := itemFromWire(class, &w)
	if err != nil {
		return Item{Refused: clearbox.CodeOf(err)}
	}
	return it
}

// itemBytes is the length of a token and of a ref.
const itemBytes = 16

func itemFromWire(class Class, w *wireItem) (Item, error) {
	var it Item
	if len(w.ID) != len(it.ID) {
		return it, clearbox.Errorf(clearbox.CodeBadRequest, "a message id has 16 bytes")
	}
	copy(it.ID[:], w.ID)
	if w.At < 0 {
		return it, clearbox.Errorf(clearbox.CodeBadRequest, "the time is negative")
	}
	it.AcceptedAt, it.Crit = clearbox.Millis(w.At), w.Crit
	if len(w.Token) != 0 && len(w.Token) != itemBytes || len(w.Ref) != 0 && len(w.Ref) != itemBytes {
		return it, clearbox.Errorf(clearbox.CodeBadRequest, "a token and a ref have %d bytes", itemBytes)
	}
	var err error
	switch grouped := len(w.Group) != 0 || w.Epoch != 0 || len(w.Multi) != 0; {
	case grouped && (w.Knock != nil || w.Bounce != "" || w.Op != nil):
		err = clearbox.Errorf(clearbox.CodeBadRequest, "a group is of messages alone")
	case w.Op != nil:
		err = it.groupFrom(class, w)
	case w.Knock != nil:
		err = it.knockFrom(class, w)
	case class != ClassMessage:
		err = clearbox.Errorf(clearbox.CodeBadRequest, "messages have a class of their own")
	case w.Bounce != "":
		err = it.bounceFrom(w)
	case grouped:
		err = it.groupedFrom(w)
	default:
		err = it.messageFrom(w)
	}
	return it, err
}

func (it *Item) knockFrom(class Class, w *wireItem) (err error) {
	switch {
	case class != ClassControl:
		return clearbox.Errorf(clearbox.CodeBadRequest, "knocks belong to the control class")
	case w.From != "" || w.Device != 0 || w.To != "" || len(w.Token) != 0 || len(w.Ref) != 0 || len(w.Envelopes) != 0 || w.Bounce != "":
		return clearbox.Errorf(clearbox.CodeBadRequest, "a knock says who asks whom and nothing else")
	}
	k := &Knock{}
	if k.From, err = clearbox.ParseUserID(w.Knock.From); err != nil {
		return err
	}
	if k.Handle, err = clearbox.ParseHandle(w.Knock.Handle); err != nil {
		return err
	}
	k.To, err = clearbox.ParseHandle(w.Knock.To)
	it.Knock = k
	return err
}

func (it *Item) bounceFrom(w *wireItem) (err error) {
	if len(w.Envelopes) != 0 || len(w.Token) != 0 || len(w.Bounce) > 64 {
		return clearbox.Errorf(clearbox.CodeBadRequest, "a bounce carries a code and nothing else")
	}
	if it.Sender, err = clearbox.ParseUserID(w.From); err != nil {
		return err
	}
	it.Bounce = w.Bounce
	if len(w.Ref) != 0 {
		if it.Ref = w.Ref; w.To != "" || w.Device != 0 {
			return clearbox.Errorf(clearbox.CodeBadRequest, "a bounce with a ref has no other recipient")
		}
		return nil
	}
	if it.Recipient, err = clearbox.ParseUserID(w.To); err != nil {
		return err
	}
	it.SenderDevice, err = clearbox.ParseDeviceID(w.Device)
	return err
}

// groupedFrom reads a message to members of a group: to all of them here, or to
// one.
func (it *Item) groupedFrom(w *wireItem) error {
	switch {
	case len(w.Group) != len(it.Group) || clearbox.GroupID(w.Group).IsZero() || w.Epoch == 0 || w.Epoch > maxPosition:
		return clearbox.Errorf(clearbox.CodeBadRequest, "a group has an id of 32 bytes and an epoch")
	case w.From != "" || w.Device != 0 || len(w.Token) != 0 || len(w.Ref) == 0:
		return clearbox.Errorf(clearbox.CodeBadRequest, "a message to a group is sealed, with a ref and without a token")
	case len(w.Multi) != 0 && (w.To != "" || len(w.Envelopes) != 0):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a message to many names its recipients inside")
	case len(w.Multi) > MaxMulti:
		return clearbox.Errorf(clearbox.CodeTooLarge, "a message to many has at most %d bytes", MaxMulti)
	}
	it.Group, it.Epoch, it.Ref = clearbox.GroupID(w.Group), w.Epoch, w.Ref
	if len(w.Multi) != 0 {
		it.Multi = w.Multi
		return nil
	}
	return it.messageFrom(w)
}

func (it *Item) messageFrom(w *wireItem) (err error) {
	if it.Recipient, err = clearbox.ParseUserID(w.To); err != nil {
		return err
	}
	sealed := w.From == "" && w.Device == 0
	switch {
	case sealed && (len(w.Token) == 0 && it.Group.IsZero() || len(w.Ref) == 0):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a sealed message has a token and a ref")
	case !sealed && len(w.Ref) != 0:
		return clearbox.Errorf(clearbox.CodeBadRequest, "a message with a sender has no ref")
	case !sealed:
		if it.Sender, err = clearbox.ParseUserID(w.From); err != nil {
			return err
		}
		if it.SenderDevice, err = clearbox.ParseDeviceID(w.Device); err != nil {
			return err
		}
	}
	if len(w.Token) != 0 {
		it.Token = w.Token
	}
	if len(w.Ref) != 0 {
		it.Ref = w.Ref
	}
	if len(w.Envelopes) == 0 || len(w.Envelopes) > clearbox.MaxDevices {
		return clearbox.Errorf(clearbox.CodeBadRequest, "an item has 1 to %d envelopes", clearbox.MaxDevices)
	}
	it.Envelopes = make([]ItemEnvelope, len(w.Envelopes))
	var seen [128]bool
	for i := range w.Envelopes {
		e := &w.Envelopes[i]
		d, err := clearbox.ParseDeviceID(e.Device)
		if err != nil {
			return err
		}
		if seen[d] {
			return clearbox.Errorf(clearbox.CodeBadRequest, "a device is named twice")
		}
		seen[d] = true
		if err := e.check(sealed); err != nil {
			return err
		}
		it.Envelopes[i] = ItemEnvelope{Device: d, Registration: e.Registration, Type: clearbox.ContentType(e.Type), Content: e.Content}
	}
	return nil
}

func (e *wireEnvelope) check(sealed bool) error {
	t := clearbox.ContentType(e.Type)
	switch {
	case e.Registration >= 1<<14:
		return clearbox.Errorf(clearbox.CodeBadRequest, "a registration id has 14 bits")
	case !t.Valid() || sealed != (t == clearbox.ContentSealed):
		return clearbox.Errorf(clearbox.CodeBadRequest, "the content type is not known here")
	case len(e.Content) == 0:
		return clearbox.Errorf(clearbox.CodeBadRequest, "an envelope is empty")
	case len(e.Content) > clearbox.MaxContent:
		return clearbox.Errorf(clearbox.CodeTooLarge, "an envelope has at most %d bytes", clearbox.MaxContent)
	case sealed && clearbox.SealedSize(len(e.Content)) != len(e.Content):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a sealed envelope is padded to a size bucket")
	}
	return nil
}

// EncodeAnswer gives the wire form, which is also what an Acceptor stores for
// repeats.
func EncodeAnswer(a *Answer) ([]byte, error) {
	w := wireAnswer{Stream: a.Stream, FirstPos: a.FirstPos, Through: a.AcceptedThrough, Verdicts: make([]wireVerdict, len(a.Verdicts))}
	for i, v := range a.Verdicts {
		w.Verdicts[i] = wireVerdict{Code: v.Code, Reason: v.Reason, RetryAfter: v.RetryAfter.Milliseconds(), DevicesVersion: v.DevicesVersion}
		for _, s := range v.Stale {
			w.Verdicts[i].Stale = append(w.Verdicts[i].Stale, wireStale{UID: string(s.UID), Version: s.Version})
		}
	}
	b, err := encoder.Marshal(w)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the answer could not be encoded", err)
	}
	return b, nil
}

// maxRetryAfter bounds what a peer may ask of us.
const maxRetryAfter = 24 * time.Hour

// DecodeAnswer reads an answer of a peer; errors have clearbox.CodeBadRequest.
func DecodeAnswer(b []byte) (*Answer, error) {
	if len(b) > MaxAnswer {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "an answer has at most %d bytes", MaxAnswer)
	}
	var w wireAnswer
	if err := decoder.Unmarshal(b, &w); err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadRequest, "the answer is not readable", err)
	}
	if len(w.Stream) != 16 || w.FirstPos < 1 || w.FirstPos > maxPosition || w.Through < 0 || len(w.Verdicts) > MaxItems {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range")
	}
	a := &Answer{Stream: w.Stream, FirstPos: w.FirstPos, AcceptedThrough: w.Through, Verdicts: make([]Verdict, len(w.Verdicts))}
	stale := 0
	for i, v := range w.Verdicts {
		switch v.Code {
		case VerdictOK, VerdictDup, VerdictDeferred, VerdictRejected:
		default:
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a verdict is not known")
		}
		if v.RetryAfter < 0 || v.DevicesVersion < 0 || len(v.Reason) > 64 {
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a verdict is out of range")
		}
		wait := min(v.RetryAfter, maxRetryAfter.Milliseconds())
		a.Verdicts[i] = Verdict{Code: v.Code, Reason: v.Reason, RetryAfter: time.Duration(wait) * time.Millisecond, DevicesVersion: v.DevicesVersion}
		if stale += len(v.Stale); stale > MaxStale {
			return nil, clearbox.Errorf(clearbox.CodeBadRequest, "an answer names at most %d people", MaxStale)
		}
		for _, s := range v.Stale {
			uid, err := clearbox.ParseUID(s.UID)
			if err != nil || s.Version < 0 {
				return nil, clearbox.Errorf(clearbox.CodeBadRequest, "a verdict is out of range")
			}
			a.Verdicts[i].Stale = append(a.Verdicts[i].Stale, Stale{UID: uid, Version: s.Version})
		}
	}
	return a, nil
}
