package core

import (
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/server/wire"
)

// SetPreKeys makes b keep fewer one-time prekeys than a product does: drawing
// them takes most of a test's time.
func SetPreKeys(b *Brain, n int) { b.preKeys = n }

// RegisterAs is Register with a uid that is given: what an account looks like
// that lost all of its keys and was set up again. since is when its device says
// that it was added, if not now.
func RegisterAs(b *Brain, ctx context.Context, r Registration, uid clearbox.UID, since ...time.Time) error {
	s, err := b.newAccount(ctx, r)
	if err != nil {
		return err
	}
	a := s.account
	a.User.UID = uid
	list := *s.list
	list.Account = a.User.String()
	for _, t := range since {
		list.Devices = slices.Clone(list.Devices)
		list.Devices[0].Added = t.UnixMilli()
	}
	if a.List, err = list.Sign(s.root); err != nil {
		return err
	}
	if s, err = b.parse(&a); err != nil {
		return err
	}
	if err := b.vault.Update(ctx, func(tx Tx) error { return save(tx, keyAccount, &a) }); err != nil {
		return err
	}
	b.setSelf(s)
	return b.Register(ctx, r)
}

// Link puts another device of b's account into an empty vault and has b's
// server list it.
func Link(ctx context.Context, b *Brain, vault Vault, name string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	key, err := keys.NewSigningKey(b.opts.Random)
	if err != nil {
		return err
	}
	next := *s.list
	now := int64(b.now())
	next.Version, next.Issued = next.Version+1, now
	id := next.NextID()
	registration, err := newRegistrationID(b.opts.Random)
	if err != nil {
		return err
	}
	next.Devices = append(append([]keys.DeviceEntry(nil), next.Devices...), keys.DeviceEntry{
		ID: id, Registration: registration, Key: key.Public().(ed25519.PublicKey), Added: now,
	})
	a := s.account
	a.Device, a.DeviceName, a.Registration, a.DeviceKey = clearbox.DeviceID(id), name, registration, key.Seed()
	if a.List, err = next.Sign(s.root); err != nil {
		return err
	}
	if err := vault.Update(ctx, func(tx Tx) error { return save(tx, keyAccount, &a) }); err != nil {
		return err
	}
	second, err := New(ctx, vault, b.network, b.opts)
	if err != nil {
		return err
	}
	own, err := second.me()
	if err != nil {
		return err
	}
	upload, err := second.makePreKeys(ctx, own, 10, true)
	if err != nil {
		return err
	}
	return b.call(ctx, "PUT", "/devices/list", wire.DeviceListUpload{
		DeviceList: a.List, Added: []wire.AddedDevice{{Device: a.Device, Name: name, Keys: *upload}},
	}, nil)
}

// IdentityKey is the account's: what its server would need to read its mail.
func IdentityKey(b *Brain) *curve.PrivateKey { return b.self.identity }

// SendAccept answers a knock as a forger may: pass is shown to the server, knock
// and address stand inside the encryption.
func SendAccept(ctx context.Context, b *Brain, to clearbox.UserID, pass, knock clearbox.MessageID, address string) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		c, err := sessionsOf(tx, s, to).contact()
		if err != nil {
			return err
		}
		c.Token = pass[:]
		if err := save(tx, contactKey(uuidOfUser(to)), c); err != nil {
			return err
		}
		own, err := b.ownToken(tx)
		if err != nil {
			return err
		}
		id, err := clearbox.NewMessageID(b.opts.Random)
		if err != nil {
			return err
		}
		order, err := nextOrder(tx)
		if err != nil {
			return err
		}
		it := &outItem{ID: id, To: to, Kind: KindAccept, Pass: pass[:]}
		it.Content, err = EncodeContent(&Content{
			Kind: KindAccept, ID: id, Sent: b.now(), From: s.User, To: to, Address: address, Token: own.Token, Knock: &knock,
		})
		if err != nil {
			return err
		}
		return b.queueItem(tx, s, outKey(uuidOfUser(to), order), it)
	})
	wake(b.queueWake)
	return err
}

// SendRenew asks to for messages as a damaged or a hostile device may: ids of
// which failed is said to be the device that wrote them.
func SendRenew(ctx context.Context, b *Brain, to clearbox.UserID, failed clearbox.DeviceID, ids ...clearbox.MessageID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	e := ratchet.DecryptionError{Device: uint32(failed)}
	err = b.vault.Update(ctx, func(tx Tx) error {
		return b.enqueueQuiet(tx, s, &Content{Kind: KindRenew, To: to, Unread: ids, Failed: [][]byte{e.PlaintextContent()}})
	})
	wake(b.queueWake)
	return err
}

// SendContent sends what a modified client may: the content as it is given, with
// an id and a time where it has none.
func SendContent(ctx context.Context, b *Brain, to clearbox.UserID, c Content) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if c.ID == (clearbox.MessageID{}) {
		if c.ID, err = clearbox.NewMessageID(b.opts.Random); err != nil {
			return err
		}
	}
	if c.Sent == 0 {
		c.Sent = b.now()
	}
	c.To = to
	err = b.vault.Update(ctx, func(tx Tx) error {
		order, err := nextOrder(tx)
		if err != nil {
			return err
		}
		it := &outItem{ID: c.ID, To: to, Kind: c.Kind} // under another number at the servers, which drop repeats
		if it.Outer, err = clearbox.NewMessageID(b.opts.Random); err != nil {
			return err
		}
		if it.Content, err = b.compose(tx, s, &c); err != nil {
			return err
		}
		return b.queueItem(tx, s, outKey(uuidOfUser(to), order), it)
	})
	wake(b.queueWake)
	return err
}

// ProfileOf is what contacts are given of b's account.
func ProfileOf(ctx context.Context, b *Brain) (out *SealedProfile) {
	_ = b.vault.View(ctx, func(r Reader) error {
		own, err := load[ownCard](r, keyProfile)
		if err == nil && own != nil {
			out, err = own.seal(b.opts.Random, b.self.User)
		}
		return err
	})
	return out
}

// Fill puts n messages of somebody into b's vault.
func Fill(ctx context.Context, b *Brain, from clearbox.UserID, n int, text string) error {
	return b.vault.Update(ctx, func(tx Tx) error {
		for range n {
			id, err := clearbox.NewMessageID(b.opts.Random)
			if err != nil {
				return err
			}
			m := &Message{ID: id, Conversation: from, Sender: from, SenderDevice: 1, Kind: MessageText, Text: text, Sent: b.now(), Stored: b.now(), State: StateReceived}
			if err := addMessage(tx, uuidOfUser(from), uuidOfUser(from), m); err != nil {
				return err
			}
		}
		return nil
	})
}

// SenderKeyOf takes the key out of what the vault keeps of an own sender key.
func SenderKeyOf(raw []byte) []byte {
	own, err := parse[ownSender](raw)
	if err != nil {
		return nil
	}
	return own.Key
}

// DeviceKey is the one that signs operations of groups.
func DeviceKey(b *Brain) ed25519.PrivateKey { return b.self.deviceKey }

// Backdate has a message in b's vault say that it was sent earlier.
func Backdate(ctx context.Context, b *Brain, target Ref, by time.Duration) error {
	return b.vault.Update(ctx, func(tx Tx) error {
		m, key, err := findMessage(tx, uuidOfUser(target.Author), target.ID)
		if err != nil {
			return err
		}
		m.Sent -= clearbox.Millis(by.Milliseconds())
		return save(tx, key, m)
	})
}

// SendKeyRequest asks a device for its sender key in a group, as somebody may whom
// the server calls a member.
func SendKeyRequest(ctx context.Context, b *Brain, in clearbox.GroupID, epoch uint64, to clearbox.UserID, d clearbox.DeviceID, ids ...clearbox.MessageID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	err = b.vault.Update(ctx, func(tx Tx) error {
		return b.enqueueInGroup(tx, s, &group{ID: in, Epoch: epoch}, d, &Content{Kind: KindKeyRequest, To: to, Unread: ids}, nil)
	})
	wake(b.queueWake)
	return err
}
