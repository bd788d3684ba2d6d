package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
)

// Sync is what own devices tell each other, in contents of KindSync.
type Sync struct {
	Contacts []SyncContact `cbor:"1,keyasint,omitempty"`
	Read     []Ref         `cbor:"2,keyasint,omitempty"` // lines that the person has seen
	Token    []byte        `cbor:"3,keyasint,omitempty"` // the account's delivery token
	TokenAt  int64         `cbor:"4,keyasint,omitempty"`
	Records  []SyncRecord  `cbor:"5,keyasint,omitempty"`
	Archive  *archiveKeys  `cbor:"6,keyasint,omitempty"` // the secrets under which own devices archive
	Renewal  []byte        `cbor:"7,keyasint,omitempty"` // the private identity that the account is to have
}

// SyncContact is what the person decided about somebody. The newest decision holds;
// At numbers them, by the clock of the device where it was taken.
type SyncContact struct {
	User     clearbox.UserID `cbor:"1,keyasint"`
	Address  string          `cbor:"2,keyasint,omitempty"`
	Accepted bool            `cbor:"3,keyasint,omitempty"`
	Blocked  bool            `cbor:"4,keyasint,omitempty"`
	Trust    Trust           `cbor:"5,keyasint"`
	Marked   clearbox.Millis `cbor:"6,keyasint,omitempty"` // when Trust was marked
	// Identity and Root are the keys that were compared, where Trust is verified.
	Identity []byte `cbor:"7,keyasint,omitempty"`
	Root     []byte `cbor:"8,keyasint,omitempty"`
	At       int64  `cbor:"9,keyasint"`
}

// SyncRecord is a setting: a record of the vault, or a part of one.
type SyncRecord struct {
	Key   string `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint,omitempty"`
	At    int64  `cbor:"3,keyasint"`
}

// Limits of one Sync.
const (
	maxSyncContacts = 64
	maxSyncRecords  = 16
	maxSyncRecord   = MaxText  // bytes of one: that of a draft
	syncBytes       = 68 << 10 // of records in one content, which holds that much beside its other parts
)

// synced tells what goes as a record: the settings as they are, of conversations
// their parts.
func synced(key string) bool {
	_, _, part := partOf(key)
	return key == keySettings || key == keyProfile || part
}

const (
	prefixSynced   = "synced/"   // what own devices were told last, by the record's key
	prefixSyncWait = "syncwait/" // what an own device said that is not on the known list
)

// agreed is what own devices agree on about a record.
type agreed struct {
	At     int64  `cbor:"1,keyasint"`
	Digest []byte `cbor:"2,keyasint"`
}

// heldSync waits until the list of own devices was fetched.
type heldSync struct {
	Device clearbox.DeviceID `cbor:"1,keyasint"`
	Sync   Sync              `cbor:"2,keyasint"`
}

func (y *Sync) check() error {
	switch {
	case len(y.Contacts) > maxSyncContacts || len(y.Read) > maxReceipts || len(y.Records) > maxSyncRecords:
		return errors.New("too long")
	case y.Token != nil && len(y.Token) != len(clearbox.DeliveryToken{}):
		return errors.New("token")
	case y.Renewal != nil && len(y.Renewal) != curve.PrivateKeySize:
		return errors.New("renewal")
	}
	if y.Archive != nil && (len(y.Archive.Archive) != 32 || len(y.Archive.Account) != 32) {
		return errors.New("archive")
	}
	for _, r := range y.Records {
		if !synced(r.Key) || len(r.Key) > 256 || len(r.Value) > maxSyncRecord {
			return errors.New("record")
		}
	}
	for _, c := range y.Contacts {
		if c.User.IsZero() || len(c.Address) > 400 {
			return errors.New("contact")
		}
	}
	return nil
}

// portable is what of a contact is a decision of the person.
func (c *contact) portable() SyncContact {
	out := SyncContact{User: c.User, Address: c.Address, Accepted: c.Accepted, Blocked: c.Blocked, Trust: c.Trust, Marked: c.Marked}
	if c.Trust == TrustVerified {
		out.Identity, out.Root = c.Identity, c.Root
	}
	return out
}

func digest(v any) ([]byte, error) {
	b, err := recordOut.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:16], nil
}

// noted is called at the end of each transaction with what it wrote: own devices
// are told of decisions, and what is to be archived is marked. It tells whether
// anything was queued.
func (b *Brain) noted(r *recorder) (queued bool, err error) {
	if len(r.touched)+len(r.shown) == 0 {
		return false, nil
	}
	s, err := b.me()
	if err != nil {
		return false, nil // nobody to tell yet
	}
	keys := make([]string, 0, len(r.touched))
	for key := range r.touched {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	if err := markDirty(r.Tx, keys); err != nil {
		return false, err
	}
	if len(s.others()) == 0 {
		return false, nil
	}
	var y Sync
	for _, key := range keys {
		if err := b.addTo(r.Tx, &y, key); err != nil {
			return false, err
		}
	}
	y.Read = r.shown
	return b.tellOwn(r.Tx, s, &y)
}

// addTo adds what changed about the record at key, if anything that matters did.
func (b *Brain) addTo(tx Tx, y *Sync, key string) error {
	switch {
	case strings.HasPrefix(key, prefixContac):
		c, err := load[contact](tx, key)
		if err != nil || c == nil || c.Provisional {
			return err
		}
		p := c.portable()
		at, err := b.renumber(tx, key, p)
		if err != nil || at == 0 {
			return err
		}
		p.At = at
		y.Contacts = append(y.Contacts, p)
	case key == keyOwnToken:
		t, err := load[ownToken](tx, key)
		if err != nil || t == nil {
			return err
		}
		at, err := b.renumber(tx, key, t.Token)
		if err != nil || at == 0 {
			return err
		}
		y.Token, y.TokenAt = t.Token, at
	case strings.HasPrefix(key, prefixConv):
		return b.addParts(tx, y, key)
	case synced(key):
		value, err := optional(tx.Get(key))
		if err != nil || len(value) > maxSyncRecord {
			return err
		}
		at, err := b.renumber(tx, key, value)
		if err != nil || at == 0 {
			return err
		}
		y.Records = append(y.Records, SyncRecord{key, value, at})
	}
	return nil
}

// renumber notes v as what own devices agree on about key; 0 if they do already.
func (b *Brain) renumber(tx Tx, key string, v any) (int64, error) {
	sum, err := digest(v)
	if err != nil {
		return 0, err
	}
	was, err := load[agreed](tx, prefixSynced+key)
	if err != nil || was != nil && bytes.Equal(was.Digest, sum) {
		return 0, err
	}
	next := agreed{At: int64(b.now()), Digest: sum}
	if was != nil {
		next.At = max(next.At, was.At+1)
	}
	return next.At, save(tx, prefixSynced+key, next)
}

// tellOwn queues y for the own other devices, in as many contents as it takes.
func (b *Brain) tellOwn(tx Tx, s *self, y *Sync) (bool, error) {
	queued := false
	for len(y.Contacts)+len(y.Read)+len(y.Records) > 0 || y.Token != nil || y.Archive != nil {
		part := &Sync{Token: y.Token, TokenAt: y.TokenAt, Archive: y.Archive}
		part.Contacts, y.Contacts = cut(y.Contacts, maxSyncContacts)
		part.Read, y.Read = cut(y.Read, maxReceipts)
		if len(part.Contacts)+len(part.Read) == 0 {
			part.Records, y.Records = cut(y.Records, fitting(y.Records))
		}
		y.Token, y.Archive = nil, nil
		if _, err := b.enqueueSync(tx, s, part); err != nil {
			return queued, err
		}
		queued = true
	}
	return queued, nil
}

// enqueueSync queues one content for the own other devices, and gives its key.
func (b *Brain) enqueueSync(tx Tx, s *self, y *Sync) (key string, err error) {
	id, err := clearbox.NewMessageID(b.opts.Random)
	if err != nil {
		return "", err
	}
	order, err := nextOrder(tx)
	if err != nil {
		return "", err
	}
	content := &Content{Kind: KindSync, ID: id, Sent: b.now(), From: s.User, To: s.User, Address: s.address().String(), Sync: y}
	it := &outItem{ID: id, To: s.User, Kind: KindSync}
	if it.Content, err = EncodeContent(content); err != nil {
		return "", err
	}
	key = outKey(s.uuid, order)
	return key, b.queueItem(tx, s, key, it)
}

// fitting gives how many of the first records go into one content: one at least.
func fitting(all []SyncRecord) (n int) {
	size := 0
	for n < min(len(all), maxSyncRecords) {
		if size += len(all[n].Key) + len(all[n].Value) + 16; size > syncBytes && n > 0 {
			break
		}
		n++
	}
	return n
}

func cut[T any](all []T, n int) (head, rest []T) {
	n = min(n, len(all))
	return all[:n:n], all[n:]
}

// readSync takes what an own device says. One that is not on the list waits until
// the list was fetched: who is not on it then is not heard.
func (b *Brain) readSync(tx Tx, s *self, device clearbox.DeviceID, y *Sync, got *arrivals) error {
	if y == nil || y.check() != nil {
		return nil
	}
	for _, d := range s.others() {
		if clearbox.DeviceID(d.ID) == device {
			return b.takeSync(quiet(tx), s, y, got)
		}
	}
	order, err := nextOrder(tx)
	if err != nil {
		return err
	}
	got.tasks = true
	return save(tx, prefixSyncWait+newKey(order)[len(prefixNew):], heldSync{device, *y})
}

// tendSyncs reads what waited for the list of own devices.
func (b *Brain) tendSyncs(ctx context.Context) error {
	var waiting []Entry
	err := b.vault.View(ctx, func(r Reader) (err error) {
		waiting, err = r.List(Range{Prefix: prefixSyncWait})
		return err
	})
	if err != nil || len(waiting) == 0 {
		return err
	}
	if _, err := b.Devices(ctx); err != nil {
		return err
	}
	s, err := b.me()
	if err != nil {
		return err
	}
	var got arrivals
	err = b.vault.Update(ctx, func(tx Tx) error {
		got = arrivals{}
		for _, e := range waiting {
			h, err := parse[heldSync](e.Value)
			if err != nil {
				return err
			}
			if err := tx.Delete(e.Key); err != nil {
				return err
			}
			if !slices.ContainsFunc(s.list.Active(), func(d deviceEntry) bool { return clearbox.DeviceID(d.ID) == h.Device }) {
				continue
			}
			if err := b.takeSync(quiet(tx), s, &h.Sync, &got); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		b.actOn(got)
	}
	return err
}

// takeSync applies what is newer than what is known here. tx is below the journal,
// so that it is not told back; the archive hears of it.
func (b *Brain) takeSync(tx Tx, s *self, y *Sync, got *arrivals) error {
	for i := range y.Contacts {
		if err := b.takeContact(tx, s, &y.Contacts[i], got); err != nil {
			return err
		}
	}
	for _, r := range y.Records {
		if err := b.takeRecord(tx, r, got); err != nil {
			return err
		}
	}
	if y.Token != nil {
		newer, err := b.agree(tx, keyOwnToken, y.TokenAt, y.Token)
		if err != nil {
			return err
		}
		if newer {
			got.tasks = true // both upload it: one of the two may be gone
			if err := save(tx, keyOwnToken, ownToken{Token: y.Token}); err != nil {
				return err
			}
		}
	}
	if y.Renewal != nil {
		if err := b.takeRenewal(tx, s, y.Renewal, got); err != nil {
			return err
		}
	}
	if y.Archive != nil {
		known, err := load[archiveKeys](tx, keyArchive)
		if err != nil {
			return err
		}
		if known == nil || known.Made < y.Archive.Made {
			got.tasks = true
			if err := y.Archive.adopt(tx); err != nil {
				return err
			}
		}
	}
	for _, ref := range y.Read {
		m, key, err := findMessage(tx, uuidOfUser(ref.Author), ref.ID)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		before := m.Gone
		if err := errors.Join(tx.Delete(newKey(m.Order)), startClock(tx, m, b.now())); err != nil {
			return err
		}
		if m.Gone != before {
			if err := save(tx, key, m); err != nil {
				return err
			}
		}
		got.shown = true
	}
	return nil
}

// takeRecord applies a setting.
func (b *Brain) takeRecord(tx Tx, r SyncRecord, got *arrivals) error {
	key, name, part := partOf(r.Key)
	if !part || name != partTimer { // a timer has its own order
		if newer, err := b.agree(tx, r.Key, r.At, r.Value); err != nil || !newer {
			return err
		}
	}
	got.shown = true
	if part {
		return b.takePart(tx, key, name, r.Value)
	}
	var err error
	if r.Value == nil {
		err = tx.Delete(r.Key)
	} else {
		err = tx.Put(r.Key, r.Value)
	}
	return errors.Join(err, markDirty(tx, []string{r.Key}))
}

// agree notes what another device says about key, if it is newer than what is
// agreed on.
func (b *Brain) agree(tx Tx, key string, at int64, v any) (bool, error) {
	sum, err := digest(v)
	if err != nil {
		return false, err
	}
	was, err := load[agreed](tx, prefixSynced+key)
	if err != nil {
		return false, err
	}
	if was != nil && (was.At > at || was.At == at && bytes.Compare(was.Digest, sum) >= 0) {
		return false, nil
	}
	return true, save(tx, prefixSynced+key, agreed{at, sum})
}

// takeContact applies a decision about somebody.
func (b *Brain) takeContact(tx Tx, s *self, in *SyncContact, got *arrivals) error {
	if in.User == s.User {
		return nil
	}
	uuid := uuidOfUser(in.User)
	at := in.At
	in.At = 0
	newer, err := b.agree(tx, contactKey(uuid), at, *in)
	if err != nil || !newer {
		return err
	}
	c, err := sessionsOf(tx, s, in.User).contact()
	if err != nil {
		return err
	}
	if c.Blocked != in.Blocked {
		if err := b.blocksChanged(tx); err != nil {
			return err
		}
		if in.Blocked {
			if err := errors.Join(tx.Delete(requestKey(uuid)), b.dropReceipts(tx, uuid)); err != nil {
				return err
			}
		}
		got.tasks = true
	}
	if in.Accepted && !c.Accepted {
		got.receipts = true
		if err := tx.Delete(requestKey(uuid)); err != nil {
			return err
		}
	}
	c.Accepted, c.Blocked = in.Accepted, in.Blocked
	if c.Address == "" && in.Address != "" {
		c.Address = in.Address
		if err := tx.Put(prefixAddr+in.Address, []byte(in.User.String())); err != nil {
			return err
		}
	}
	if in.Marked > c.Marked {
		c.mark(in)
	}
	sum, err := digest(c.portable()) // so that the difference, if any, is not told back
	if err != nil {
		return err
	}
	got.shown, got.queue = true, true
	return errors.Join(save(tx, prefixSynced+contactKey(uuid), agreed{at, sum}),
		save(tx, contactKey(uuid), c), markDirty(tx, []string{contactKey(uuid)}))
}

// mark takes over whether the contact's keys were compared. Where the keys that
// were compared are not those that are known here, they take their place.
func (c *contact) mark(in *SyncContact) {
	c.Marked = in.Marked
	if in.Trust != TrustVerified {
		c.Trust = TrustUnverified
		return
	}
	if len(in.Identity) == 0 || len(in.Root) == 0 {
		return
	}
	if (!bytes.Equal(c.Identity, in.Identity) || !bytes.Equal(c.Root, in.Root)) && !(bytes.Equal(c.Root, in.Root) && c.known(in.Identity)) {
		if c.Changed != nil && bytes.Equal(c.Changed.Identity, in.Identity) && bytes.Equal(c.Changed.Root, in.Root) {
			c.pins = *c.Changed
		} else {
			c.pins = pins{Identity: in.Identity, Root: in.Root}
		}
	}
	c.Changed, c.Trust = nil, TrustVerified
}
