package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// How sender certificates are kept: a new one is asked for in the last hours of
// the old one, and nothing is sealed under one that may end before the server
// accepts the message.
const (
	certificateRenew  = 6 * time.Hour
	certificateMargin = 5 * time.Minute
)

// ownCertificate says to recipients elsewhere who wrote, on the word of the own
// homeserver.
type ownCertificate struct {
	Certificate []byte          `cbor:"1,keyasint"`
	Expires     clearbox.Millis `cbor:"2,keyasint"`
}

// Errors of wrap that the network mends.
var (
	errNeedsCertificate = errors.New("core: no valid sender certificate")
	errNeedsUpload      = errors.New("core: the server does not know the own delivery token")
	errNeedsConsent     = clearbox.Errorf(clearbox.CodeConsentRequired, "the recipient has not accepted you yet")
)

// elsewhere tells whether user is of another server, where everything is sealed.
func (s *self) elsewhere(user clearbox.UserID) bool { return user.Server != s.User.Server }

// wrap seals what goes to another server, under the present certificate and with
// the recipient's newest token. What was sealed before stays as it is while both
// are still good. The messages inside are not touched. The caller saves it.
func (b *Brain) wrap(tx Tx, s *self, it *outItem) error {
	if !s.elsewhere(it.To) {
		return nil
	}
	c, err := load[contact](tx, contactKey(uuidOfUser(it.To)))
	if err != nil {
		return err
	}
	token := it.Pass
	if token == nil && c != nil {
		token = c.Token
	}
	if token == nil && it.Group.IsZero() {
		return errNeedsConsent
	}
	own, err := b.ownToken(tx)
	if err != nil {
		return err
	}
	if !own.Uploaded {
		return errNeedsUpload
	}
	if it.Wrapped != nil && it.Until > b.soon(certificateMargin) && bytes.Equal(it.Token, token) {
		return nil
	}
	cert, err := load[ownCertificate](tx, keyCertificate)
	if err != nil {
		return err
	}
	if cert == nil || cert.Expires <= b.soon(certificateMargin) {
		return errNeedsCertificate
	}
	sender, err := certificate.ParseSender(cert.Certificate)
	if err != nil {
		return errors.Join(errNeedsCertificate, tx.Delete(keyCertificate))
	}
	identity, err := curve.ParsePublicKey(c.Identity)
	if err != nil {
		return fmt.Errorf("read a contact's identity: %w", err)
	}
	var sub wire.Submission
	if err := wire.Decode(wire.CBOR, it.Sealed, &sub); err != nil {
		return fmt.Errorf("read a queued message: %w", err)
	}
	sub.ID = it.outer()
	for i := range sub.To {
		to := &sub.To[i]
		if to.User != it.To {
			continue // own devices
		}
		to.Token = token
		for j := range to.Envelopes {
			if err := b.sealOne(s, identity, sender, &to.Envelopes[j]); err != nil {
				return err
			}
		}
	}
	if it.Wrapped, err = wire.Append(wire.CBOR, nil, &sub); err != nil {
		return fmt.Errorf("write a queued message: %w", err)
	}
	it.Until, it.Token = cert.Expires, token
	return nil
}

// soon is the moment that lies d ahead.
func (b *Brain) soon(d time.Duration) clearbox.Millis {
	return b.now() + clearbox.Millis(d.Milliseconds())
}

// sealOne puts one ratchet message into a sealed one, padded.
func (b *Brain) sealOne(s *self, to curve.PublicKey, sender *certificate.Sender, e *wire.Outgoing) error {
	kind, ok := sealed.TypeOfOuter(uint8(e.Type))
	if !ok {
		return errors.New("core: a message of this type cannot be sealed")
	}
	body, err := sealed.SealV1(b.opts.Random, s.identity, to, &sealed.Content{Type: kind, Sender: sender, Body: e.Content})
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if body = pad(body); body == nil {
		return clearbox.Errorf(clearbox.CodeTooLarge, "the message is too long")
	}
	e.Type, e.Content = clearbox.ContentSealed, body
	return nil
}

// padMark ends what is padded; zeros follow up to the bucket.
const padMark = 0x80

// pad fills b up to its size bucket; nil if it fits none.
func pad(b []byte) []byte {
	size := clearbox.SealedSize(len(b) + 1)
	if size == 0 {
		return nil
	}
	out := make([]byte, size)
	copy(out, b)
	out[len(b)] = padMark
	return out
}

// unpad is the inverse of pad; false for everything that pad did not make.
func unpad(b []byte) ([]byte, bool) {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	if n == 0 || b[n-1] != padMark || clearbox.SealedSize(n) != len(b) {
		return nil, false
	}
	return b[:n-1], true
}

// tendCertificate keeps a certificate at hand, so that a message need not wait
// for one.
func (b *Brain) tendCertificate(ctx context.Context) error {
	var cert *ownCertificate
	err := b.vault.View(ctx, func(r Reader) (err error) {
		cert, err = load[ownCertificate](r, keyCertificate)
		return err
	})
	if err != nil || cert != nil && cert.Expires > b.soon(certificateRenew) {
		return err
	}
	return b.fetchCertificate(ctx)
}

// fetchCertificate asks the own server for a certificate and keeps it.
func (b *Brain) fetchCertificate(ctx context.Context) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	var answer wire.SenderCertificate
	if err := b.call(ctx, "GET", "/contacts/certificate", nil, &answer); err != nil {
		return err
	}
	sender, err := certificate.ParseSender(answer.Certificate)
	if err != nil {
		return clearbox.Wrap(clearbox.CodeInternal, "the server's certificate for this device cannot be read", err)
	}
	subject := sender.Subject()
	if subject.Account == s.id && subject.Identity != s.identity.Public() {
		if _, err := b.Devices(ctx); err != nil { // perhaps it has a new one by now
			return err
		}
		if s, err = b.me(); err == nil && subject.Identity != s.identity.Public() {
			err = ErrMissedRenewal
		}
		if err != nil {
			return err
		}
	}
	if subject.Account != s.id || subject.Device != uint8(s.Device) || subject.Identity != s.identity.Public() {
		return clearbox.Errorf(clearbox.CodeInternal, "the server certified another device than this one")
	}
	expires := clearbox.Millis(subject.Expires.UnixMilli())
	if expires <= b.soon(certificateMargin) {
		return clearbox.Errorf(clearbox.CodeClockSkew, "the server's certificate for this device has ended already: is this device's clock right?")
	}
	return b.vault.Update(ctx, func(tx Tx) error {
		return save(tx, keyCertificate, ownCertificate{Certificate: answer.Certificate, Expires: expires})
	})
}
