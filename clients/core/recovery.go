package core

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Recovered is what came back.
type Recovered struct {
	Device   clearbox.DeviceID
	Messages int
	At       clearbox.Millis // when the newest part of it was archived
	// Missing tells that the archive is not whole: the server does not have all
	// that it was given, or altered it. What could be verified was taken.
	Missing bool
}

// ErrNothingArchived: the server has nothing that this recovery key opens.
var ErrNothingArchived = errors.New("the server has nothing that this recovery key opens")

// Recovery is what a person without any device has.
type Recovery struct {
	Server     clearbox.ServerName // as Discover gave it
	Handle     clearbox.Handle
	Password   string
	Key        vault.RecoveryKey
	DeviceName string
}

// Recover makes this empty vault a new device of an account, with the password and
// the recovery key: it has the account's keys, contacts and history then. The
// devices that were lost stay on the list until they are removed.
func (b *Brain) Recover(ctx context.Context, r Recovery) (Recovered, error) {
	b.mu.Lock()
	taken := b.self != nil
	b.mu.Unlock()
	if taken {
		return Recovered{}, clearbox.Errorf(clearbox.CodeConflict, "this profile has an account already")
	}
	var t wire.Tokens
	err := b.exchange(ctx, "POST", "/auth/login", "", wire.Login{Handle: string(r.Handle), Password: r.Password}, &t)
	if err != nil {
		return Recovered{}, err
	}
	user := t.User
	if user.Server != r.Server {
		return Recovered{}, clearbox.Errorf(clearbox.CodeBadSignature, "the server answered with an account of another server")
	}
	re := &restoring{b: b, token: t.Access, user: user, keys: keysFrom(r.Key, b.now()), chains: map[string]*strand{}}
	if err := re.fetch(ctx); err != nil {
		return Recovered{}, err
	}
	if re.account == nil {
		return Recovered{}, ErrNothingArchived
	}
	re.compare()
	if err := re.write(ctx); err != nil {
		return Recovered{}, err
	}
	s, err := re.enlist(ctx, r.DeviceName)
	if err != nil {
		return Recovered{}, err
	}
	if err := b.login(ctx, s, r.Password); err != nil {
		return Recovered{}, fmt.Errorf("device %d is on the list and has no session yet: %w", s.Device, err)
	}
	re.out.Device = s.Device
	return re.out, nil
}

// strand is one device's part of the archive, as far as it was read.
type strand struct {
	next    uint64
	head    []byte
	at      clearbox.Millis // of its newest item
	broken  bool
	records map[string][]byte // as the items leave them; nil if deleted
}

// restoring is one recovery.
type restoring struct {
	b       *Brain
	token   string
	user    clearbox.UserID
	keys    *archiveKeys
	chains  map[string]*strand
	all     []*accountItem
	account *accountItem // with the newest list
	order   uint64       // the last that was given
	out     Recovered
}

// fetch reads the whole archive, oldest first.
func (re *restoring) fetch(ctx context.Context) error {
	cursor := ""
	for {
		page, err := re.b.historyPage(ctx, re.token, cursor, "forward", 32)
		if err != nil {
			return err
		}
		for i := range page.Items {
			it := &page.Items[i]
			switch {
			case strings.HasPrefix(it.ID, itemAccount):
				re.readAccount(it)
			case strings.HasPrefix(it.ID, itemChain):
				re.readItem(it)
			}
		}
		if page.Next == "" {
			return nil
		}
		if page.Next == cursor {
			return clearbox.Errorf(clearbox.CodeInternal, "the server repeats a page of the archive")
		}
		cursor = page.Next
	}
}

// readAccount takes an account item that the key opens.
func (re *restoring) readAccount(it *wire.HistoryItem) {
	r, err := vault.NewReader(bytes.NewReader(it.Body))
	if err != nil || r.Open(re.keys.Account, []byte("clearbox account\x00"+it.ID)) != nil {
		return // under another key
	}
	frame, err := r.Next()
	if err != nil {
		re.out.Missing = true
		return
	}
	a, err := parse[accountItem](frame)
	if err != nil || a.User != re.user {
		re.out.Missing = true
		return
	}
	re.all = append(re.all, a)
	list, err := keys.ParseDeviceList(a.List)
	if err != nil {
		return
	}
	if re.account != nil {
		best, err := keys.ParseDeviceList(re.account.List)
		if err == nil && (best.Version > list.Version || best.Version == list.Version && re.account.At >= a.At) {
			return
		}
	}
	re.account = a
}

// readItem takes one item of a chain, if it follows the one before.
func (re *restoring) readItem(it *wire.HistoryItem) {
	r, err := vault.NewReader(bytes.NewReader(it.Body))
	if err == nil {
		err = r.Open(re.keys.Archive, itemContext(re.user, it.ID))
	}
	if err != nil {
		return // under another key, or nothing at all: a hole in its chain, if it was part of one
	}
	name, _, _ := strings.Cut(it.ID[len(itemChain):], "_")
	c := re.chains[name]
	if c == nil {
		c = &strand{records: map[string][]byte{}}
		re.chains[name] = c
	}
	frame, err := r.Next()
	if err != nil {
		c.broken = true
		return
	}
	head, err := parse[itemHead](frame)
	if err != nil || hex.EncodeToString(head.Chain) != name || head.Index != c.next || !bytes.Equal(head.Before, c.head) {
		c.broken = true
		return
	}
	var all []record
	err = readRecords(r, func(batch []record) error {
		all = append(all, batch...)
		return nil
	})
	if err != nil {
		c.broken = true
		return
	}
	for _, one := range all {
		c.records[one.Key] = one.Value
	}
	sum := sha256.Sum256(it.Body)
	c.next, c.head, c.at = c.next+1, sum[:], head.At
	re.out.At = max(re.out.At, head.At)
}

// write puts what all chains have into the vault: each message once, in the order
// in which it was stored, whichever device did so; of the rest, what the device that
// archived last has.
func (re *restoring) write(ctx context.Context) error {
	chains := make([]*strand, 0, len(re.chains))
	for _, c := range re.chains {
		chains = append(chains, c)
	}
	slices.SortFunc(chains, func(x, y *strand) int { return cmp.Compare(x.at, y.at) })
	type named struct {
		conversation, sender string
		id                   clearbox.MessageID
	}
	rest := map[string][]byte{}
	seen := map[named]*Message{}
	var lines []*Message
	for _, c := range chains {
		for key, value := range c.records {
			if !strings.HasPrefix(key, prefixMsg) {
				rest[key] = value
				continue
			}
			if value == nil {
				continue
			}
			m, err := parse[Message](value)
			if err != nil {
				return err
			}
			who := named{uuidOf(prefixMsg, key), uuidOfUser(m.Sender), m.ID}
			if m.ID == (clearbox.MessageID{}) { // a note: its moment tells it from others
				who.id, who.sender = clearbox.MessageID{}, fmt.Sprint(m.Kind, m.Stored)
			}
			if was := seen[who]; was != nil {
				order, stored := was.Order, was.Stored
				*was = *m
				was.Order, was.Stored = order, min(stored, m.Stored)
				continue
			}
			seen[who] = m
			lines = append(lines, m)
		}
	}
	slices.SortFunc(lines, func(x, y *Message) int { return cmp.Or(cmp.Compare(x.Stored, y.Stored), cmp.Compare(x.Order, y.Order)) })
	var all []record
	for key, value := range rest {
		if value != nil {
			all = append(all, record{key, value})
		}
	}
	for i, m := range lines {
		m.Order = uint64(i + 1)
		value, err := recordOut.Marshal(m)
		if err != nil {
			return err
		}
		all = append(all, record{messageKey(m.In().key(), m.Order), value})
	}
	re.order = uint64(len(lines))
	for len(all) > 0 {
		var batch []record
		batch, all = cut(all, takeBatch)
		err := re.b.vault.Update(ctx, func(tx Tx) error {
			n, err := takeIn(quiet(tx), batch, true)
			re.out.Messages += n
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compare holds what was read against what the account items say was uploaded.
func (re *restoring) compare() {
	for _, a := range re.all {
		c := re.chains[hex.EncodeToString(a.Chain)]
		if a.Next > 0 && (c == nil || c.next < a.Next || c.next == a.Next && !bytes.Equal(c.head, a.Head)) {
			re.out.Missing = true
		}
	}
	for _, c := range re.chains {
		re.out.Missing = re.out.Missing || c.broken
	}
}

// enlist makes this device one of the account.
func (re *restoring) enlist(ctx context.Context, name string) (*self, error) {
	b := re.b
	var have wire.Devices
	if err := b.exchange(ctx, "GET", "/devices", re.token, nil, &have); err != nil {
		return nil, err
	}
	list, err := keys.ParseDeviceList(have.DeviceList)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the server's list of your devices does not verify", err)
	}
	known, err := keys.ParseDeviceList(re.account.List)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(have.DeviceList, re.account.List) {
		switch err := list.Follows(known); {
		case errors.Is(err, keys.ErrVersionNotNewer):
			return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the server shows an older list of your devices than it had", err)
		case err != nil:
			return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the server's list of your devices is not that of your account", err)
		}
	}
	identity := re.identityOf(list)
	if identity == nil {
		return nil, clearbox.Errorf(clearbox.CodeBadSignature,
			"your account's keys were renewed after this was archived: link this device from one that you have (cbx link), which has the new ones")
	}
	key, err := keys.NewSigningKey(b.opts.Random)
	if err != nil {
		return nil, err
	}
	a := &account{
		User: re.user, Handle: re.account.Handle, DeviceName: name, Device: clearbox.DeviceID(list.NextID()),
		Identity: identity, Root: re.account.Root, DeviceKey: key.Seed(), List: have.DeviceList, Registering: true,
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
	next, now := *list, int64(b.now())
	next.Version, next.Issued, next.Devices = list.Version+1, max(now, list.Issued), slices.Clone(list.Devices)
	gone := withdrawn(list, have.Devices)
	strike(&next, now, gone)
	next.Devices = append(next.Devices, keys.DeviceEntry{
		ID: uint8(a.Device), Registration: a.Registration, Key: key.Public().(ed25519.PublicKey), Added: now,
	})
	if a.List, err = next.Sign(s.root); err != nil {
		return nil, err
	}
	upload, err := b.makePreKeys(ctx, s, min(linkPreKeys, b.preKeys), true)
	if err != nil {
		return nil, err
	}
	put := wire.DeviceListUpload{DeviceList: a.List, Added: []wire.AddedDevice{{Device: a.Device, Name: name, Keys: *upload}}}
	if err := b.exchange(ctx, "PUT", "/devices/list", re.token, put, nil); err != nil {
		return nil, err
	}
	if s, err = b.parse(a); err != nil {
		return nil, err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		if re.account.Token != nil {
			if err := save(tx, keyOwnToken, ownToken{Token: re.account.Token}); err != nil {
				return err
			}
		}
		return errors.Join(save(tx, keyAccount, a), setCount(tx, keyOrder, nextGeneration(re.order)), re.keys.adopt(tx), noteRemoval(tx, gone), tx.Put(keyAskOwn, []byte{1}))
	})
	if err == nil {
		b.setSelf(s)
	}
	return s, err
}

// identityOf gives the private identity that a list names, if the archive has it.
func (re *restoring) identityOf(list *keys.DeviceList) []byte {
	for _, a := range re.all {
		for _, seed := range append([][]byte{a.Identity}, a.Coming...) {
			if k, err := curve.NewPrivateKey(seed); err == nil && k.Public() == list.Identity {
				return seed
			}
		}
	}
	return nil
}

// withdrawn gives the devices of the list that the server does not have any more.
func withdrawn(list *keys.DeviceList, have []wire.Device) (gone []clearbox.DeviceID) {
	for _, d := range list.Active() {
		if !slices.ContainsFunc(have, func(h wire.Device) bool { return h.Device == clearbox.DeviceID(d.ID) }) {
			gone = append(gone, clearbox.DeviceID(d.ID))
		}
	}
	return gone
}
