package ratchet

import "github.com/clearbox-im/clearbox/crypto/curve"

// Store is what a Device needs to remember, usually one transaction of the
// client's vault. Secrets returned stay the store's; they are not changed.
//
// Methods that find nothing return nil without an error.
type Store interface {
	// Session returns the record kept for a peer, as last applied.
	Session(peer Address) ([]byte, error)
	// Pin returns the identity key that the peer's account is pinned to.
	// Accepting a changed identity is done by the client, by changing its pin.
	Pin(peer Address) (*curve.PublicKey, error)
	// OneTimePreKey, SignedPreKey and KEMPreKey return own prekeys by id.
	OneTimePreKey(id uint32) (*curve.PrivateKey, error)
	SignedPreKey(id uint32) (*curve.PrivateKey, error)
	KEMPreKey(id uint32) (*KEMSecret, error)
	// KEMUsed reports whether a use was applied before. It is asked for
	// last-resort prekeys only; one-time ones are deleted with their use.
	KEMUsed(use KEMUse) (bool, error)
	// Apply takes all changes of one call, or none. It must refuse the change
	// if the stored record's generation (see Generation; 0 when there is none)
	// is not Change.Before: another writer was faster, or the store is an old
	// copy. What a call returned, plaintext or ciphertext, may be shown or sent only
	// when the change is durable; until then the same message can be decrypted
	// again.
	Apply(change *Change) error
}

// KEMSecret is an own Kyber prekey.
type KEMSecret struct {
	Secret     []byte // 3,169 bytes
	LastResort bool   // used more than once; never deleted with a use
}

// KEMUse is one use of a Kyber prekey by a peer. A last-resort prekey must not
// serve the same use twice: that would be a replay.
type KEMUse struct {
	KEM    uint32 // Kyber prekey id
	Signed uint32 // signed prekey id
	Base   curve.PublicKey
}

// Change is everything that one call changes.
type Change struct {
	Peer   Address
	Record []byte // new session record; owned by the store
	Before uint64 // generation of the record that this one replaces

	Pin         *curve.PublicKey // identity to pin: the first one seen of this peer
	UsedOneTime *uint32          // one-time prekey to delete
	UsedKEM     *KEMUse          // to remember if LastResort, else the Kyber prekey is to be deleted
	LastResort  bool
}
