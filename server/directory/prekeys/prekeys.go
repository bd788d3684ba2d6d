// Package prekeys is responsible for what a device may publish so that others
// can start sessions with it: the forms, limits and signatures of prekeys. It
// does not store them and does not decide who gets them (server/directory).
package prekeys

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// Limits of what a device publishes.
const (
	MaxOneTime = 100     // one-time keys of each kind in one upload, and kept
	MaxID      = 1 << 24 // prekey ids are 1 to MaxID-1, as Signal clients make them
)

// PreKey is a public key that a device published. An EC key has 33 bytes with
// 0x05 in front, a KEM key 1569 with 0x08. Signature is XEdDSA by the account's
// identity over Public; one-time EC keys have none.
type PreKey struct {
	ID        uint32
	Public    []byte
	Signature []byte
}

// Upload is what a device publishes at once. Signed and LastResort come
// together or not at all and take the place of the ones before.
type Upload struct {
	Signed     *PreKey  // medium-term EC key
	LastResort *PreKey  // KEM key that is handed out when no one-time one is left
	OneTime    []PreKey // EC
	KEM        []PreKey // one-time KEM keys
}

// Bundle is what a claimer gets for one device. Without OneTime the session
// starts all the same, with weaker forward secrecy of its first message.
type Bundle struct {
	Device       clearbox.DeviceID
	Registration uint16
	Identity     []byte // 33 bytes
	Signed       PreKey
	OneTime      *PreKey
	KEM          PreKey
}

// Check verifies every key of u against identity, the account's identity key of
// 33 bytes. complete demands Signed and LastResort. It costs one XEdDSA
// verification per signed key. The error is a *clearbox.Error with the code
// bad_signature, bad_request or quota_exceeded and the field below at.
func (u *Upload) Check(identity curve.PublicKey, complete bool, at string) error {
	switch {
	case (u.Signed == nil) != (u.LastResort == nil):
		return refuse(clearbox.CodeBadRequest, at, "the signed and the last-resort prekey are published together", nil)
	case complete && u.Signed == nil:
		return refuse(clearbox.CodeBadRequest, at+"/signed", "a device publishes a signed and a last-resort prekey first", nil)
	case len(u.OneTime) > MaxOneTime:
		return refuse(clearbox.CodeQuota, at+"/one_time", "too many one-time prekeys", nil)
	case len(u.KEM) > MaxOneTime:
		return refuse(clearbox.CodeQuota, at+"/kem", "too many one-time KEM prekeys", nil)
	}
	if u.Signed != nil {
		if err := checkEC(identity, *u.Signed, true); err != nil {
			return place(err, at+"/signed")
		}
		if err := checkKEM(identity, *u.LastResort); err != nil {
			return place(err, at+"/last_resort")
		}
	}
	seen := make(map[uint32]bool, len(u.OneTime))
	for i, k := range u.OneTime {
		err := checkEC(identity, k, false)
		if err == nil && seen[k.ID] {
			err = errRepeated
		}
		if err != nil {
			return place(err, fmt.Sprintf("%s/one_time/%d", at, i))
		}
		seen[k.ID] = true
	}
	seen = make(map[uint32]bool, len(u.KEM)+1)
	if u.LastResort != nil {
		seen[u.LastResort.ID] = true
	}
	for i, k := range u.KEM {
		err := error(nil)
		if seen[k.ID] { // first, because a verification costs more
			err = errRepeated
		} else {
			err = checkKEM(identity, k)
		}
		if err != nil {
			return place(err, fmt.Sprintf("%s/kem/%d", at, i))
		}
		seen[k.ID] = true
	}
	return nil
}

// Check verifies that b is a bundle of device with the given identity: forms,
// ranges and both signatures. The error is a *clearbox.Error with bad_signature
// or bad_request.
func (b *Bundle) Check(identity curve.PublicKey) error {
	own, err := curve.ParsePublicKey(b.Identity)
	if err != nil || own != identity {
		return refuse(clearbox.CodeBadSignature, "/identity", "the bundle is of another identity", err)
	}
	if b.Registration < keys.MinRegistration || b.Registration > keys.MaxRegistration {
		return refuse(clearbox.CodeBadRequest, "/registration", "the registration id is out of range", nil)
	}
	if err := checkEC(identity, b.Signed, true); err != nil {
		return place(err, "/signed")
	}
	if b.OneTime != nil {
		if err := checkEC(identity, *b.OneTime, false); err != nil {
			return place(err, "/one_time")
		}
	}
	if err := checkKEM(identity, b.KEM); err != nil {
		return place(err, "/kem")
	}
	return nil
}

var (
	errRepeated = errors.New("the id appears twice")
	errID       = errors.New("the id is out of range")
)

func checkID(id uint32) error {
	if id == 0 || id >= MaxID {
		return errID
	}
	return nil
}

func checkEC(identity curve.PublicKey, k PreKey, signed bool) error {
	if err := checkID(k.ID); err != nil {
		return err
	}
	public, err := curve.ParsePublicKey(k.Public)
	if err != nil {
		return err
	}
	if !signed {
		if len(k.Signature) != 0 {
			return errors.New("a one-time EC prekey has no signature")
		}
		return keys.VerifyOneTimePreKey(keys.OneTimePreKey{ID: k.ID, Key: public})
	}
	return keys.VerifySignedPreKey(identity, keys.SignedPreKey{ID: k.ID, Key: public, Signature: k.Signature})
}

func checkKEM(identity curve.PublicKey, k PreKey) error {
	if err := checkID(k.ID); err != nil {
		return err
	}
	public, err := keys.ParseKEMPublicKey(k.Public)
	if err != nil {
		return err
	}
	return keys.VerifyKEMPreKey(identity, keys.KEMPreKey{ID: k.ID, Key: public, Signature: k.Signature})
}

func refuse(code clearbox.Code, field, text string, cause error) *clearbox.Error {
	return &clearbox.Error{Code: code, Text: text, Field: field, Cause: cause}
}

// place gives a refused key its field and its code.
func place(err error, field string) error {
	switch {
	case errors.Is(err, keys.ErrSignature):
		return refuse(clearbox.CodeBadSignature, field, "the prekey's signature does not verify", err)
	case errors.Is(err, errRepeated):
		return refuse(clearbox.CodeBadRequest, field, "the prekey's id appears twice", err)
	case errors.Is(err, errID):
		return refuse(clearbox.CodeBadRequest, field, "a prekey id is a number from 1 to 16777215", err)
	}
	return refuse(clearbox.CodeBadRequest, field, "the prekey is malformed", err)
}
