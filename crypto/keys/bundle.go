package keys

import (
	"errors"
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// SignedPreKey is a device's medium-term X25519 key with the identity's XEdDSA
// signature over its serialized form.
type SignedPreKey struct {
	ID        uint32
	Key       curve.PublicKey
	Signature []byte // 64 bytes
}

// OneTimePreKey is an X25519 key that its device uses for one session only. It
// is not signed: whoever swaps it makes the first message unreadable, not
// readable.
type OneTimePreKey struct {
	ID  uint32
	Key curve.PublicKey
}

// KEMPreKey is a Kyber1024 key, one-time or last-resort, with the identity's
// XEdDSA signature over its serialized form.
type KEMPreKey struct {
	ID        uint32
	Key       KEMPublicKey
	Signature []byte // 64 bytes
}

// Bundle is what a server hands out so that a session with one device can be
// started while the device is away. Nothing in it may be believed before Verify
// returned nil, and Identity only as far as it equals the pinned one.
type Bundle struct {
	Registration uint16
	Device       uint8
	Identity     curve.PublicKey
	Signed       SignedPreKey
	OneTime      *OneTimePreKey // nil when the server had none left
	KEM          KEMPreKey
}

// BundleField names the part of a bundle that a check refused.
type BundleField string

// The parts of a bundle.
const (
	FieldRegistration    BundleField = "registration"
	FieldDevice          BundleField = "device"
	FieldIdentity        BundleField = "identity"
	FieldSigned          BundleField = "signed_prekey"
	FieldSignedSignature BundleField = "signed_prekey_signature"
	FieldOneTime         BundleField = "one_time_prekey"
	FieldKEM             BundleField = "kem_prekey"
	FieldKEMSignature    BundleField = "kem_prekey_signature"
)

// BundleError tells which part of a bundle or which prekey was refused and why.
type BundleError struct {
	Field BundleField
	Cause error
}

// Error names the field and the cause; it contains no key.
func (e *BundleError) Error() string {
	return fmt.Sprintf("keys: bundle refused, %s: %v", e.Field, e.Cause)
}

// Unwrap gives the cause, such as ErrSignature or curve.ErrTorsion.
func (e *BundleError) Unwrap() error { return e.Cause }

// Causes of a BundleError beside those of packages curve and keys.
var (
	// ErrRange: a device or registration id outside its range.
	ErrRange = errors.New("out of range")
	// ErrSignature: the signature is not the identity's over this key.
	ErrSignature = errors.New("the signature does not verify")
)

// Verify checks everything that can be checked of a bundle: ranges, forms, that
// each X25519 key is one an honest device can have made (curve.PublicKey.CheckBase)
// and the signatures of the signed prekey and of the KEM prekey by Identity. The
// error is a *BundleError. It does not tell whose identity it is.
func (b *Bundle) Verify() error {
	if b.Registration < MinRegistration || b.Registration > MaxRegistration {
		return &BundleError{FieldRegistration, ErrRange}
	}
	if b.Device < MinDevice || b.Device > MaxDevice {
		return &BundleError{FieldDevice, ErrRange}
	}
	if err := b.Identity.CheckBase(); err != nil {
		return &BundleError{FieldIdentity, err}
	}
	if b.OneTime != nil {
		if err := VerifyOneTimePreKey(*b.OneTime); err != nil {
			return err
		}
	}
	if err := VerifySignedPreKey(b.Identity, b.Signed); err != nil {
		return err
	}
	return VerifyKEMPreKey(b.Identity, b.KEM)
}

// VerifyOneTimePreKey checks that k is a key an honest device can have made. The
// error is a *BundleError.
func VerifyOneTimePreKey(k OneTimePreKey) error {
	if err := k.Key.CheckBase(); err != nil {
		return &BundleError{FieldOneTime, err}
	}
	return nil
}

// VerifySignedPreKey checks k and its signature by identity. The error is a
// *BundleError.
func VerifySignedPreKey(identity curve.PublicKey, k SignedPreKey) error {
	if err := k.Key.CheckBase(); err != nil {
		return &BundleError{FieldSigned, err}
	}
	if !curve.Verify(identity, k.Key.Bytes(), k.Signature) {
		return &BundleError{FieldSignedSignature, ErrSignature}
	}
	return nil
}

// VerifyKEMPreKey checks the form of k and its signature by identity. The error
// is a *BundleError.
func VerifyKEMPreKey(identity curve.PublicKey, k KEMPreKey) error {
	if !k.Key.valid() {
		return &BundleError{FieldKEM, ErrKEMPublicKey}
	}
	if !curve.Verify(identity, k.Key, k.Signature) {
		return &BundleError{FieldKEMSignature, ErrSignature}
	}
	return nil
}
