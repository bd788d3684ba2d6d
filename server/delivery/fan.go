package delivery

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/storage"
)

// fan is what a message to a group becomes at this server: one body, and for
// each device a mail of fixed size that points to it. It may be stored more than
// once, when an update runs again.
type fan struct {
	id     clearbox.MessageID
	origin clearbox.ServerName
	ref    []byte // of the sender's server
	at     clearbox.Millis
	shared []byte // with what all received forms end; of the message
	body   []byte // the same, sealed
	key    []byte // of the body

	people *locals
	who    []clearbox.UserID // whom it is for, with a device or without
	to     []target          // once it is sealed in ascending order of their numbers
	mails  []storage.Pointer // of each, once it is sealed
	until  clearbox.Millis
}

// target is a device that gets it.
type target struct {
	user     clearbox.UserID
	no       int64
	device   clearbox.DeviceID
	material []byte // of the message
}

// newFan takes the body out of a message. The message must stay as it is.
func (r *Router) newFan(id clearbox.MessageID, origin clearbox.ServerName, ref []byte, at clearbox.Millis, m *fanout.Message) (f *fan, err error) {
	f = &fan{id: id, origin: origin, ref: ref, at: at, shared: m.Shared(), until: after(r.now(), r.opts.MailTTL)}
	f.body, f.key, err = storage.SealBody(r.opts.Random, f.shared)
	return f, err
}

// add has a device get it.
func (f *fan) add(user clearbox.UserID, d storage.RecipientDevice, material []byte) {
	f.to = append(f.to, target{user, d.No, d.ID, material})
}

// seal makes the mails. Devices of people who were erased a moment ago get none.
// A mail is short and its body has a key of its own, so it is sealed for its
// owner directly and has no content key.
func (f *fan) seal(r *Router) error {
	slices.SortFunc(f.to, func(a, b target) int { return cmp.Compare(a.no, b.no) })
	f.mails = make([]storage.Pointer, 0, len(f.to))
	plain := make([]byte, 0, 256)
	shredded := false
	for i := range f.to {
		t := &f.to[i]
		plain = appendPointer(plain[:0], f, t.material)
		sealed, err := r.keys.Seal(f.people.people[t.user].Key, storage.PurposeMailbox, pointerAD(f.id, t.device), plain)
		if errors.Is(err, storage.ErrShredded) {
			t.no, shredded = 0, true
			continue
		}
		if err != nil {
			return err
		}
		wrapped := append(make([]byte, 0, len(f.id)+len(sealed)), f.id[:]...)
		f.mails = append(f.mails, storage.Pointer{DeviceNo: t.no, Sealed: storage.Sealed{Wrapped: append(wrapped, sealed...)}})
	}
	if shredded {
		f.to = slices.DeleteFunc(f.to, func(t target) bool { return t.no == 0 })
	}
	return nil
}

// pointerAD tells a sealed pointer from a sealed content key (payloadAD).
func pointerAD(id clearbox.MessageID, device clearbox.DeviceID) []byte {
	return append(payloadAD(id, device), "body"...)
}

// appendPointer writes the stored form of a mail that points to a body: kind,
// id, ref, accepted at, origin, the body's key, the recipient's key material.
func appendPointer(b []byte, f *fan, material []byte) []byte {
	b = append(b, payloadPointer)
	b = append(b, f.id[:]...)
	b = append(b, f.ref[:refSize]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.at))
	b = appendText(b, string(f.origin))
	b = append(b, f.key...)
	return append(b, material...)
}

// unchanged tells, inside of an update, whether those whom it was sealed for
// have the same devices as then.
func (f *fan) unchanged(tx *storage.Tx, b *batch) (bool, error) {
	if f == nil {
		return true, nil
	}
	if b.people == 0 {
		n, err := tx.PeopleVersion()
		if err != nil {
			return false, err
		}
		b.people = n
	}
	if b.people == f.people.version {
		return true, nil
	}
	for _, u := range f.who {
		current, ok := b.local[u.UID]
		if !ok {
			var err error
			if current, err = tx.Recipient(u.UID); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return false, err
			}
			b.local[u.UID] = current
		}
		if !sameDevices(f.people.people[u], current) {
			return false, nil
		}
	}
	return true, nil
}

// store stores it and gives those who did not get it on any device.
func (f *fan) store(tx *storage.Tx) (full []clearbox.UserID, err error) {
	if f == nil {
		return nil, nil
	}
	if err := tx.PutShared(f.body, f.mails, f.until); err != nil {
		return nil, err
	}
	full = f.missed(func(i int) bool { return f.mails[i].Seq != 0 })
	return full, nil
}

// missed gives those of whom no device fulfils got, in their order.
func (f *fan) missed(got func(i int) bool) (out []clearbox.UserID) {
	some := make(map[clearbox.UserID]bool, len(f.who))
	for i := range f.to {
		if got(i) {
			some[f.to[i].user] = true
		}
	}
	for _, u := range f.who {
		if !some[u] {
			out = append(out, u)
		}
	}
	return out
}

// post tells the open readers after the commit. What they read is put together
// for them alone.
func (f *fan) post(r *Router) {
	if f == nil {
		return
	}
	for i := range f.mails {
		if f.mails[i].Seq == 0 || !r.mailboxes.reads(f.mails[i].DeviceNo) {
			continue
		}
		t := &f.to[i]
		r.mailboxes.post(f.mails[i].DeviceNo, Delivery{Seq: f.mails[i].Seq, ref: f.ref, Envelope: &clearbox.Envelope{
			ID: f.id, Origin: f.origin, Recipient: t.user, Device: t.device, Type: clearbox.ContentSealed, AcceptedAt: f.at,
			Content: fanout.AppendForm(nil, t.material, f.shared),
		}})
	}
}

// pointer is what stands in a mail that points to a body.
type pointer struct {
	key, material []byte
}

// complete gives a delivery the content of which its mail has a part.
func (d *Delivery) complete(body []byte) error {
	shared, err := storage.OpenBody(d.pointer.key, body)
	if err != nil {
		return err
	}
	d.Envelope.Content = fanout.AppendForm(nil, d.pointer.material, shared)
	d.pointer = nil
	return nil
}

// bodiesOf reads the bodies to which mails point, each once; nil: there is none
// any more.
func (r *Router) bodiesOf(tx *storage.Tx, mails []storage.Mail) (map[int64][]byte, error) {
	var out map[int64][]byte
	for i := range mails {
		no := mails[i].Body
		if no == 0 {
			continue
		}
		if out == nil {
			out = map[int64][]byte{}
		}
		if _, ok := out[no]; ok {
			continue
		}
		body, ok := r.bodies.get(no)
		if !ok {
			var err error
			if body, err = tx.Body(no); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return nil, err
			}
			r.bodies.keep(no, body)
		}
		out[no] = body
	}
	return out, nil
}

// parseMulti reads a message to many for members with the limits of this server.
// Nobody is excluded from what goes to a group, and it has one of the sizes that
// sealed messages have.
func parseMulti(b []byte) (*fanout.Message, error) {
	m, err := fanout.Parse(b, fanout.Limits{Devices: clearbox.MaxDevices})
	switch {
	case errors.Is(err, fanout.ErrLimit):
		return nil, field(clearbox.CodeTooLarge, "/multi", "a message to many has at most 1,024 recipients with 8 devices and 96 KiB")
	case err != nil:
		return nil, field(clearbox.CodeBadRequest, "/multi", "this is no message for many recipients")
	case clearbox.SealedSize(m.ReceivedSize()) != m.ReceivedSize():
		return nil, field(clearbox.CodeBadRequest, "/multi", "a sealed message is padded to a size bucket")
	}
	for i := range m.Recipients() {
		if m.Recipients()[i].Excluded() {
			return nil, field(clearbox.CodeBadRequest, "/multi", "no member is left out")
		}
	}
	return m, nil
}

// undeliverable tells a sender here, within an update, that members did not get
// a message; each of them once.
func (r *Router) undeliverable(tx *storage.Tx, sender clearbox.UserID, senderNo int64, id clearbox.MessageID, users []clearbox.UserID, code clearbox.Code) ([]*bounce, error) {
	to, err := tx.Recipient(sender.UID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && to.State == storage.UserErased {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*bounce
	for _, u := range users {
		b, err := r.bounceFor(sender, to.Key, &Notice{Kind: NoticeUndeliverable, ID: id, Recipient: u, Code: code})
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, nil
		}
		if err := b.apply(tx, senderNo); err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
