package vault

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/clearbox-im/clearbox/crypto/internal/hpke"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// Linking a further device takes five steps. The server relays three bodies that it
// cannot use, and people carry the offer from screen to camera.
//
//	new device                              old device
//	1 NewLink: offer as QR code or text,
//	  Announcement to the server        ->  2 Answer: compares the announcement with
//	                                          the offer, Hello to the server
//	3 Hear: reveals a number            ->  4 Reveal: checks it
//	  both show Confirmation, and the person compares
//	  5 Open                            <-  Seal: the account's keys
//
// The offer holds a hash of the announcement, so the server cannot put another key
// in its place. The confirmation covers everything, and with it a person who was
// shown somebody else's offer notices before any secret has left: it depends on
// numbers of both sides, each fixed before the other one is known (the announcement
// holds only a hash of the new device's), so that nobody in between can try until
// the confirmations agree by chance.
//
// Keys are agreed with HPKE (RFC 9180): MLKEM768-X25519, HKDF-SHA256,
// ChaCha20-Poly1305. A recording that is broken later shows nothing as long as one of
// ML-KEM and X25519 stands.
const (
	linkVersion = 1
	linkScheme  = "clearbox-link:"

	labelLink    = "clearbox device link v1\x00"
	labelReveal  = "clearbox device link number v1\x00"
	labelConfirm = "clearbox device link confirmation v1\x00"

	linkIDSize   = 16
	numberSize   = 32
	publicSize   = hpke.PublicSize
	encapsulated = hpke.EncapsulatedSize
	sealOverhead = hpke.Overhead
)

// Sizes of what passes the server, in bytes.
const (
	AnnouncementSize = publicSize + sha256.Size
	HelloSize        = encapsulated + sealOverhead
	RevealSize       = numberSize
	MaxProvision     = 64 << 10 // plaintext of Seal
)

// Errors of linking.
var (
	// ErrOffer: not the text of an offer.
	ErrOffer = errors.New("vault: not a link offer")
	// ErrLinkVersion: an offer of a later version.
	ErrLinkVersion = errors.New("vault: link offer of an unknown version")
	// ErrLinkKey: the key on the server is not the one that was offered.
	ErrLinkKey = errors.New("vault: the key of the new device was exchanged")
	// ErrLinkMessage: altered, or not from the other device.
	ErrLinkMessage = errors.New("vault: link message not authentic")
	// ErrLinkStep: called out of turn.
	ErrLinkStep = errors.New("vault: linking called out of turn")
)

// Offer is what the new device shows. It is no secret, but whoever answers it first
// is the one who links.
type Offer struct {
	Server string // where the announcement is: lower-case letters, digits and .:-[], up to 255 bytes
	ID     [linkIDSize]byte
	hash   [sha256.Size]byte
}

var linkEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Text is the form for a QR code, and to be pasted: scheme and version, server, id
// and hash, in lower case.
func (o *Offer) Text() string {
	return fmt.Sprintf("%s%d/%s/%s/%s", linkScheme, linkVersion, o.Server,
		strings.ToLower(linkEncoding.EncodeToString(o.ID[:])), strings.ToLower(linkEncoding.EncodeToString(o.hash[:])))
}

// ParseOffer reads the text form, in any case and with blanks around it. ErrOffer,
// or ErrLinkVersion for another number.
func ParseOffer(text string) (*Offer, error) {
	if len(text) > 512 {
		return nil, ErrOffer
	}
	rest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), linkScheme)
	parts := strings.Split(rest, "/")
	switch {
	case !ok:
		return nil, ErrOffer
	case parts[0] != fmt.Sprint(linkVersion):
		return nil, ErrLinkVersion
	case len(parts) != 4 || !validServer(parts[1]):
		return nil, ErrOffer
	}
	o := &Offer{Server: parts[1]}
	if !decode32(o.ID[:], parts[2]) || !decode32(o.hash[:], parts[3]) {
		return nil, ErrOffer
	}
	return o, nil
}

func validServer(s string) bool {
	return s != "" && len(s) <= 255 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.:-[]") == ""
}

// decode32 fills dst exactly, from the one encoding of it.
func decode32(dst []byte, text string) bool {
	b, err := linkEncoding.DecodeString(strings.ToUpper(text))
	return err == nil && copy(dst, b) == len(b) && len(b) == len(dst) &&
		strings.EqualFold(linkEncoding.EncodeToString(b), text)
}

// bound is what both sides agree to speak about, and what the offer's hash covers.
func (o *Offer) bound(announcement []byte) []byte {
	b := append([]byte(labelLink), linkVersion, byte(len(o.Server)))
	b = append(b, o.Server...)
	b = append(b, o.ID[:]...)
	return append(b, announcement...)
}

// Confirmation is what both sides show and the person compares.
type Confirmation [sha256.Size]byte

// Digits are six digits in two groups.
func (c Confirmation) Digits() string {
	n := binary.BigEndian.Uint64(c[:]) % 1_000_000
	return fmt.Sprintf("%03d %03d", n/1000, n%1000)
}

// Words are four words of the list of keys.FingerprintWords.
func (c Confirmation) Words() []string { return keys.FingerprintWords(c[:])[:4] }

// transcript is everything that both sides have seen.
type transcript struct {
	bound, hello []byte
}

func (t *transcript) confirmation(secret, number []byte) Confirmation {
	h := sha256.New()
	h.Write([]byte(labelConfirm))
	h.Write(secret)
	h.Write(number)
	h.Write(t.hello)
	h.Write(t.bound)
	return Confirmation(h.Sum(nil))
}

func numberHash(number []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(labelReveal), number...))
}

// Link is the new device's side.
type Link struct {
	offer        *Offer
	announcement []byte
	number       [numberSize]byte
	private      *hpke.PrivateKey
	context      *hpke.Recipient // after Hear
}

// NewLink begins to link this device at a server. It reads 80 bytes from random,
// whose error it returns; ErrOffer for what is no server.
func NewLink(random io.Reader, server string) (*Link, error) {
	if !validServer(server) {
		return nil, ErrOffer
	}
	l := &Link{offer: &Offer{Server: server}}
	var seed [32]byte
	defer clear(seed[:])
	for _, b := range [][]byte{l.offer.ID[:], l.number[:], seed[:]} {
		if err := fill(random, b); err != nil {
			return nil, err
		}
	}
	var err error
	if l.private, err = hpke.DeriveKey(seed[:]); err != nil {
		return nil, fmt.Errorf("vault: link key: %w", err)
	}
	commitment := numberHash(l.number[:])
	l.announcement = append(l.private.Public(), commitment[:]...)
	l.offer.hash = sha256.Sum256(l.offer.bound(l.announcement))
	return l, nil
}

// Offer is what to show.
func (l *Link) Offer() *Offer { return l.offer }

// Announcement is what to leave at the server under the offer's id,
// AnnouncementSize bytes.
func (l *Link) Announcement() []byte { return l.announcement }

// Hear takes the old device's Hello and returns what to reveal to it, and the
// confirmation to show. It answers one Hello only: ErrLinkStep for another one,
// ErrLinkMessage for what is none.
func (l *Link) Hear(hello []byte) (reveal []byte, c Confirmation, err error) {
	if l.context != nil {
		return nil, c, ErrLinkStep
	}
	if len(hello) != HelloSize {
		return nil, c, ErrLinkMessage
	}
	bound := l.offer.bound(l.announcement)
	context, err := hpke.NewRecipient(l.private, hello[:encapsulated], bound)
	if err != nil {
		return nil, c, ErrLinkMessage
	}
	if _, err := context.Open(hello[encapsulated:]); err != nil {
		return nil, c, ErrLinkMessage
	}
	secret, err := context.Export(labelConfirm, 32)
	if err != nil {
		return nil, c, ErrLinkMessage
	}
	l.context = context
	t := transcript{bound, hello}
	return l.number[:], t.confirmation(secret, l.number[:]), nil
}

// Open reads what the old device sealed. ErrLinkMessage if it is not from there.
func (l *Link) Open(sealed []byte) ([]byte, error) {
	if l.context == nil {
		return nil, ErrLinkStep
	}
	if len(sealed) > MaxProvision+sealOverhead {
		return nil, ErrLinkMessage
	}
	b, err := l.context.Open(sealed)
	if err != nil {
		return nil, ErrLinkMessage
	}
	return b, nil
}

// Linker is the old device's side.
type Linker struct {
	transcript
	commitment [sha256.Size]byte
	context    *hpke.Sender
	revealed   bool
}

// Answer begins to link the device that made the offer, whose announcement comes
// from the server: ErrLinkKey if it is another one. hello is for the new device.
// Randomness comes from the system, through crypto/internal/hpke.
func Answer(o *Offer, announcement []byte) (l *Linker, hello []byte, err error) {
	if len(announcement) != AnnouncementSize {
		return nil, nil, ErrLinkKey
	}
	bound := o.bound(announcement)
	if hash := sha256.Sum256(bound); subtle.ConstantTimeCompare(hash[:], o.hash[:]) != 1 {
		return nil, nil, ErrLinkKey
	}
	hello, context, err := hpke.NewSender(announcement[:publicSize], bound)
	if err != nil {
		return nil, nil, ErrLinkKey
	}
	hello = append(hello, context.Seal(nil)...)
	return &Linker{
		transcript: transcript{bound, hello},
		commitment: [sha256.Size]byte(announcement[publicSize:]),
		context:    context,
	}, hello, nil
}

// Reveal takes the new device's number and returns the confirmation to show.
// ErrLinkMessage if it is not the number that was announced.
func (l *Linker) Reveal(number []byte) (c Confirmation, err error) {
	hash := numberHash(number)
	if len(number) != numberSize || subtle.ConstantTimeCompare(hash[:], l.commitment[:]) != 1 {
		return c, ErrLinkMessage
	}
	secret, err := l.context.Export(labelConfirm, 32)
	if err != nil {
		return c, fmt.Errorf("vault: link: %w", err)
	}
	l.revealed = true
	return l.confirmation(secret, number), nil
}

// Seal encrypts up to MaxProvision bytes for the new device, ErrSize above. The
// caller calls it after the person has found the confirmations equal; before Reveal it
// gives ErrLinkStep.
func (l *Linker) Seal(message []byte) ([]byte, error) {
	if !l.revealed {
		return nil, ErrLinkStep
	}
	if len(message) > MaxProvision {
		return nil, ErrSize
	}
	return l.context.Seal(message), nil
}
