package core

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// Card is what somebody wants to be called and how they want to look. It is their
// own word: nobody confirms it.
type Card struct {
	Name   string `cbor:"1,keyasint"`
	Avatar []byte `cbor:"2,keyasint,omitempty"` // SHA-256 of a picture, or nil
	// Revision is when they set it, by their clock: a later one replaces it.
	Revision clearbox.Millis `cbor:"3,keyasint"`
}

// SealedProfile is a Card under the profile key of its owner, with the key: it
// goes to contacts alone. Who is blocked does not learn the next key.
type SealedProfile struct {
	Key    []byte `cbor:"1,keyasint"` // 32 bytes
	Sealed []byte `cbor:"2,keyasint"` // 12 bytes of nonce, and the Card under AES-256-GCM
}

const profileKeySize = 32

// ownCard is the own Card with the key that it is under.
type ownCard struct {
	Key  []byte `cbor:"1,keyasint"`
	Card Card   `cbor:"2,keyasint"`
}

func (c *Card) check() error {
	switch {
	case c.Name == "" || len(c.Name) > MaxName || !utf8.ValidString(c.Name):
		return clearbox.Errorf(clearbox.CodeBadRequest, "a name has 1 to %d bytes of UTF-8", MaxName)
	case len(c.Avatar) != 0 && len(c.Avatar) != 32:
		return clearbox.Errorf(clearbox.CodeBadRequest, "a picture is named by its SHA-256")
	}
	for _, r := range c.Name {
		if unicode.IsControl(r) {
			return clearbox.Errorf(clearbox.CodeBadRequest, "a name has no control characters")
		}
	}
	return nil
}

// cardCipher binds a Card to the account that it is of.
func cardCipher(key []byte, of clearbox.UserID) (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, []byte("clearbox profile\x00" + of.String()), err
}

func (o *ownCard) seal(random io.Reader, of clearbox.UserID) (*SealedProfile, error) {
	aead, label, err := cardCipher(o.Key, of)
	if err != nil {
		return nil, err
	}
	plain, err := recordOut.Marshal(o.Card)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, err
	}
	return &SealedProfile{Key: o.Key, Sealed: aead.Seal(nonce, nonce, plain, label)}, nil
}

// open gives the Card of a person; an error if it is not theirs.
func (p *SealedProfile) open(of clearbox.UserID) (*Card, error) {
	aead, label, err := cardCipher(p.Key, of)
	if err != nil {
		return nil, err
	}
	if len(p.Sealed) < aead.NonceSize() {
		return nil, errors.New("core: a profile that is cut short")
	}
	plain, err := aead.Open(nil, p.Sealed[:aead.NonceSize()], p.Sealed[aead.NonceSize():], label)
	if err != nil {
		return nil, err
	}
	c, err := parse[Card](plain)
	if err != nil {
		return nil, err
	}
	return c, c.check()
}

// SetProfile sets what contacts see of this account. Accepted contacts are told,
// those that are accepted later as well.
func (b *Brain) SetProfile(ctx context.Context, name string, avatar []byte) error {
	if _, err := b.me(); err != nil {
		return err
	}
	c := Card{Name: name, Avatar: avatar}
	if err := c.check(); err != nil {
		return err
	}
	err := b.vault.Update(ctx, func(tx Tx) error {
		own, err := load[ownCard](tx, keyProfile)
		if err != nil {
			return err
		}
		if own == nil {
			own = new(ownCard)
		}
		c.Revision = max(b.now(), own.Card.Revision+1)
		own.Card = c
		return b.saveCard(tx, own, own.Key == nil)
	})
	if err != nil {
		return err
	}
	b.changed()
	return b.tellProfile(ctx)
}

// saveCard stores the own Card, under a new key if asked.
func (b *Brain) saveCard(tx Tx, own *ownCard, newKey bool) error {
	if newKey {
		own.Key = make([]byte, profileKeySize)
		if _, err := io.ReadFull(b.opts.Random, own.Key); err != nil {
			return err
		}
	}
	return save(tx, keyProfile, own)
}

// changeProfileKey draws a new profile key after somebody was shut out; contacts
// are told the card again, under it.
func (b *Brain) changeProfileKey(tx Tx) error {
	own, err := load[ownCard](tx, keyProfile)
	if err != nil || own == nil {
		return err
	}
	own.Card.Revision = max(b.now(), own.Card.Revision+1)
	return b.saveCard(tx, own, true)
}

// Card gives what this account is called; nil if nothing was set.
func (b *Brain) Card(ctx context.Context) (c *Card, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		own, err := load[ownCard](r, keyProfile)
		if err == nil && own != nil {
			c = &own.Card
		}
		return err
	})
	return c, err
}

// cardsAtOnce is how many contacts are told in one transaction.
const cardsAtOnce = 32

// tellProfile tells contacts the own Card who do not know it yet.
func (b *Brain) tellProfile(ctx context.Context) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	for {
		told := 0
		err := b.vault.Update(ctx, func(tx Tx) error {
			told = 0
			own, err := load[ownCard](tx, keyProfile)
			if err != nil || own == nil {
				return err
			}
			entries, err := tx.List(Range{Prefix: prefixContac})
			if err != nil {
				return err
			}
			for _, e := range entries {
				c, err := parse[contact](e.Value)
				if err != nil {
					return err
				}
				if told == cardsAtOnce || !c.Accepted || c.Blocked || c.Changed != nil || c.Provisional || c.CardSent >= own.Card.Revision ||
					s.elsewhere(c.User) && c.Token == nil {
					continue
				}
				told++
				if err := b.giveCard(tx, s, e.Key, c, own); err != nil {
					return err
				}
			}
			return nil
		})
		if told > 0 {
			wake(b.queueWake)
			b.changed()
		}
		if err != nil || told < cardsAtOnce {
			return err
		}
	}
}

func (b *Brain) giveCard(tx Tx, s *self, key string, c *contact, own *ownCard) error {
	sealed, err := own.seal(b.opts.Random, s.User)
	if err != nil {
		return fmt.Errorf("seal the profile: %w", err)
	}
	c.CardSent = own.Card.Revision
	if err := save(tx, key, c); err != nil {
		return err
	}
	return b.enqueueQuiet(tx, s, &Content{Kind: KindProfile, To: c.User, Profile: sealed})
}

// takeProfile keeps what somebody wants to be called.
func (b *Brain) takeProfile(tx Tx, uuid string, c *Content, got *arrivals) error {
	card, err := c.Profile.open(c.From)
	if err != nil {
		return b.ignored(tx)
	}
	who, err := load[contact](tx, contactKey(uuid))
	if err != nil || who == nil || who.Card != nil && who.Card.Revision >= card.Revision {
		return err
	}
	news := who.Card == nil || who.Card.Name != card.Name
	who.Card = card
	if err := save(tx, contactKey(uuid), who); err != nil || !news || !who.Accepted {
		return err
	}
	got.shown = true
	return b.note(tx, &event{Kind: KindProfile, User: who.User, Actor: who.User, At: c.Sent})
}
