package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// claim asks for the prekeys of devices. The claim's id is made from what it
// is for, so that a repeat after a lost answer or a crash uses up no more keys.
func (b *Brain) claim(ctx context.Context, it *outItem, need []target) (map[target]*keys.Bundle, error) {
	out := map[target]*keys.Bundle{}
	for len(need) > 0 {
		user := need[0].user
		claim := wire.KeyClaim{User: user}
		if user == it.To {
			token, err := b.tokenFor(ctx, it)
			if err != nil {
				return nil, err
			}
			claim.Token = token
		}
		h := sha256.New()
		pin, err := b.pinOf(ctx, user) // under new keys it is another claim
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(h, "clearbox claim\x00%s\x00%s\x00%x", it.ID, user, pin)
		wanted := map[clearbox.DeviceID]target{}
		for len(need) > 0 && need[0].user == user {
			claim.Devices = append(claim.Devices, int(need[0].device))
			fmt.Fprintf(h, "\x00%d.%d", need[0].device, need[0].registration)
			wanted[need[0].device] = need[0]
			need = need[1:]
		}
		copy(claim.ClaimID[:], h.Sum(nil))
		var answer wire.Bundles
		if err := b.call(ctx, "POST", "/keys/claim", claim, &answer); err != nil {
			return nil, err
		}
		got := 0
		for i := range answer.Bundles {
			t, ok := wanted[answer.Bundles[i].Device]
			bundle, err := bundleOf(&answer.Bundles[i])
			if err != nil {
				return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the recipient's keys do not verify", err)
			}
			if ok && bundle.Registration == t.registration {
				out[t] = bundle
				got++
			}
		}
		if got < len(wanted) || !b.pinned(ctx, user, out) {
			// Somebody reinstalled or changed keys a moment ago: look again.
			if err := b.lookAgain(ctx, user); err != nil {
				return nil, err
			}
			if got < len(wanted) {
				return nil, clearbox.Errorf(clearbox.CodeUnavailable, "a device of the recipient has no keys yet")
			}
		}
	}
	return out, nil
}

// tokenFor gives what an item's recipient lets us write with; nil where none is
// needed or known.
func (b *Brain) tokenFor(ctx context.Context, it *outItem) (token []byte, err error) {
	s, err := b.me()
	if err != nil || !s.elsewhere(it.To) {
		return nil, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		c, err := load[contact](r, contactKey(uuidOfUser(it.To)))
		if err == nil && c != nil {
			token = c.Token
		}
		return err
	})
	if it.Pass != nil {
		token = it.Pass
	}
	return token, err
}

// pinned tells whether the bundles of user carry the pinned identity.
func (b *Brain) pinned(ctx context.Context, user clearbox.UserID, bundles map[target]*keys.Bundle) bool {
	pin, err := b.pinOf(ctx, user)
	ok := err == nil
	for t, bundle := range bundles {
		if pin != nil && t.user == user && !bytes.Equal(bundle.Identity.Bytes(), pin) {
			ok = false
			delete(bundles, t)
		}
	}
	return ok
}

// pinOf gives the identity that user is known by, oneself included; nil where there
// is none yet.
func (b *Brain) pinOf(ctx context.Context, user clearbox.UserID) (pin []byte, err error) {
	s, err := b.me()
	if err != nil || user == s.User {
		if err == nil {
			pin = s.identity.Public().Bytes()
		}
		return pin, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		c, err := load[contact](r, contactKey(uuidOfUser(user)))
		if err == nil && c != nil {
			pin = c.Identity
		}
		return err
	})
	return pin, err
}

// lookAgain asks for the newest device list of somebody, oneself included.
func (b *Brain) lookAgain(ctx context.Context, user clearbox.UserID) error {
	s, err := b.me()
	if err != nil {
		return err
	}
	if user == s.User {
		_, err = b.Devices(ctx)
	} else {
		_, err = b.refresh(ctx, user)
	}
	return err
}

// bundleOf checks the shape of a bundle; Initiate checks its signatures.
func bundleOf(w *wire.Bundle) (*keys.Bundle, error) {
	out := &keys.Bundle{Registration: w.Registration, Device: uint8(w.Device)}
	var err error
	if out.Identity, err = curve.ParsePublicKey(w.Identity); err != nil {
		return nil, err
	}
	out.Signed.ID, out.Signed.Signature = w.Signed.ID, w.Signed.Signature
	if out.Signed.Key, err = curve.ParsePublicKey(w.Signed.Key); err != nil {
		return nil, err
	}
	if w.OneTime != nil {
		one := keys.OneTimePreKey{ID: w.OneTime.ID}
		if one.Key, err = curve.ParsePublicKey(w.OneTime.Key); err != nil {
			return nil, err
		}
		out.OneTime = &one
	}
	out.KEM.ID, out.KEM.Signature = w.KEM.ID, w.KEM.Signature
	if out.KEM.Key, err = keys.ParseKEMPublicKey(w.KEM.Key); err != nil {
		return nil, err
	}
	return out, nil
}
