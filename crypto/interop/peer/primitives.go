package main

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
)

// primitive does the operations that need no device.
func primitive(q *request) (reply, error) {
	switch q.Op {
	case "sign":
		k, err := curve.NewPrivateKey(q.Key)
		if err != nil {
			return nil, err
		}
		signature, err := k.Sign(rand.Reader, q.Body)
		return reply{"signature": signature}, err
	case "verify":
		k, err := curve.ParsePublicKey(q.Key)
		if err != nil {
			return nil, err
		}
		return reply{"valid": curve.Verify(k, q.Body, q.Signature)}, nil
	case "public":
		k, err := curve.NewPrivateKey(q.Key)
		if err != nil {
			return nil, err
		}
		return reply{"public": k.Public().Bytes()}, nil
	case "dh":
		k, err := curve.NewPrivateKey(q.Key)
		if err != nil {
			return nil, err
		}
		p, err := curve.ParsePublicKey(q.Other)
		if err != nil {
			return nil, err
		}
		secret, err := k.DH(p)
		return reply{"secret": secret}, err
	case "kem-check":
		_, err := keys.ParseKEMPublicKey(q.Key)
		return reply{"valid": err == nil}, nil
	case "kem-public":
		public, err := ratchet.KEMPublicKey(&ratchet.KEMSecret{Secret: q.Key})
		return reply{"public": []byte(public)}, err
	case "safety-number":
		return safetyNumber(q)
	case "hkdf":
		secret, err := hkdf.Key(sha256.New, q.Key, q.Other, string(q.Body), q.Iterations)
		return reply{"secret": secret}, err
	case "decryption-error":
		e, err := ratchet.NewDecryptionError(ratchet.Type(q.Type), q.Body, uint64(q.Now), q.Number)
		if err != nil {
			return nil, err
		}
		return describeError(e), nil
	case "parse-plaintext":
		e, err := ratchet.ParsePlaintextContent(q.Body)
		if err != nil {
			return nil, err
		}
		return describeError(e), nil
	}
	return nil, fmt.Errorf("unknown operation %q", q.Op)
}

func describeError(e *ratchet.DecryptionError) reply {
	r := reply{"timestamp": e.Timestamp, "device": e.Device, "content": e.PlaintextContent()}
	if e.RatchetKey != nil {
		r["ratchetKey"] = e.RatchetKey.Bytes()
	}
	return r
}

func safetyNumber(q *request) (reply, error) {
	local, err := curve.ParsePublicKey(q.Key)
	if err != nil {
		return nil, err
	}
	remote, err := curve.ParsePublicKey(q.Other)
	if err != nil {
		return nil, err
	}
	f, err := keys.SafetyNumber(q.Iterations, q.LocalID, local, q.RemoteID, remote)
	if err != nil {
		return nil, err
	}
	r := reply{"digits": f.Digits(), "scannable": f.Scannable()}
	if q.Body != nil {
		if r["matches"], err = f.Compare(q.Body); err != nil {
			return nil, err
		}
	}
	return r, nil
}
