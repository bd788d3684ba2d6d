package curve_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

// TestPeerVectors reads keys, shared secrets and signatures made by
// @signalapp/libsignal-client 0.103.0 through its public interface.
func TestPeerVectors(t *testing.T) {
	b, err := os.ReadFile("../testdata/vectors/curve_peer.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Private, Public, Peer, Shared, Message, Signature string }
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	signs := make(map[byte]int)
	for i, v := range vectors {
		k, err := curve.NewPrivateKey(unhex(t, v.Private))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(k.Bytes(), unhex(t, v.Private)) || !bytes.Equal(k.Public().Bytes(), unhex(t, v.Public)) {
			t.Errorf("vector %d: the key pair is another one here", i)
		}
		peer, err := curve.ParsePublicKey(unhex(t, v.Peer))
		if err != nil {
			t.Fatal(err)
		}
		if err := peer.CheckBase(); err != nil {
			t.Errorf("vector %d: %v", i, err)
		}
		secret, err := k.DH(peer)
		if err != nil || !bytes.Equal(secret, unhex(t, v.Shared)) {
			t.Errorf("vector %d: another shared secret, %v", i, err)
		}
		signature := unhex(t, v.Signature)
		signs[signature[63]>>7]++
		if !curve.Verify(k.Public(), unhex(t, v.Message), signature) {
			t.Errorf("vector %d: signature refused", i)
		}
		if curve.Verify(peer, unhex(t, v.Message), signature) {
			t.Errorf("vector %d: signature accepted under another key", i)
		}
	}
	if signs[0] == 0 || signs[1] == 0 {
		t.Errorf("signs of A in the vectors: %v", signs)
	}
}
