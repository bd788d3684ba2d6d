package core

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
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
	Sealed []byte `cbor:"2,keyasint"` // salt, the Card under AES-256-CTR, HMAC-SHA-256 of both
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

// Sizes of a sealed Card besides its ciphertext, in bytes.
const (
	cardSalt = 16
	cardMAC  = sha256.Size
)

// cardKeys gives what a Card of an account is encrypted and authenticated with,
// for one salt.
func cardKeys(key, salt []byte, of clearbox.UserID) (stream cipher.Stream, mac hash.Hash, err error) {
	b, err := hkdf.Key(sha256.New, key, salt, "clearbox profile\x00"+of.String(), 32+aes.BlockSize+32) // RFC 5869
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(b[:32])
	if err != nil {
		return nil, nil, err
	}
	return cipher.NewCTR(block, b[32:32+aes.BlockSize]), hmac.New(sha256.New, b[32+aes.BlockSize:]), nil
}

func (o *ownCard) seal(random io.Reader, of clearbox.UserID) (*SealedProfile, error) {
	plain, err := recordOut.Marshal(o.Card)
	if err != nil {
		return nil, err
	}
	out := make([]byte, cardSalt+len(plain), cardSalt+len(plain)+cardMAC)
	if _, err := io.ReadFull(random, out[:cardSalt]); err != nil {
		return nil, err
	}
	stream, mac, err := cardKeys(o.Key, out[:cardSalt], of)
	if err != nil {
		return nil, err
	}
	stream.XORKeyStream(out[cardSalt:], plain)
	mac.Write(out)
	return &SealedProfile{Key: o.Key, Sealed: mac.Sum(out)}, nil
}

// errCard is a profile that is not its sender's.
var errCard = errors.New("core: a profile that does not verify")

// open gives the Card of a person; an error if it is not theirs.
func (p *SealedProfile) open(of clearbox.UserID) (*Card, error) {
	n := len(p.Sealed) - cardMAC
	if n < cardSalt {
		return nil, errCard
	}
	stream, mac, err := cardKeys(p.Key, p.Sealed[:cardSalt], of)
	if err != nil {
		return nil, err
	}
	mac.Write(p.Sealed[:n])
	if !hmac.Equal(mac.Sum(nil), p.Sealed[n:]) {
		return nil, errCard
	}
	plain := make([]byte, n-cardSalt)
	stream.XORKeyStream(plain, p.Sealed[cardSalt:n])
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
			return eachContact(tx, func(key string, c *contact) error {
				if told == cardsAtOnce || !c.Accepted || c.Blocked || c.Changed != nil || c.Provisional || c.CardSent >= own.Card.Revision ||
					s.elsewhere(c.User) && c.Token == nil {
					return nil
				}
				told++
				return b.giveCard(tx, s, key, c, own)
			})
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
