package chain

import "crypto/ed25519"

// SignUnchecked signs what Sign refuses, as a program with other rules might.
func SignUnchecked(device ed25519.PrivateKey, o *Op) []byte {
	b := o.encode()
	return append(b, ed25519.Sign(device, labelled(opLabel, b))...)
}
