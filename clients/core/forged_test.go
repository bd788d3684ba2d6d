package core_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/fanout/field"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
	"github.com/clearbox-im/clearbox/server/wire"
)

// certify has a server vouch for a key as somebody's.
func (w *world) certify(by clearbox.ServerName, who clearbox.UserID, key curve.PublicKey) *certificate.Sender {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.authority(by)
	c, err := a.server.Issue(cryptoRandom, a.key, certificate.Subject{
		Account: keys.AccountServiceID(who.String()), Device: 1, Identity: key, Expires: time.Now().Add(time.Hour),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func newKey(t *testing.T) *curve.PrivateKey {
	key, err := curve.GeneratePrivateKey(cryptoRandom)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sealWith seals as version 1 of sealed sender says, with a key that need not be
// the certificate's. Package sealed refuses that.
func sealWith(t *testing.T, key *curve.PrivateKey, to curve.PublicKey, sender *certificate.Sender, body []byte) []byte {
	ephemeral := newKey(t)
	layer := func(by *curve.PrivateKey, salt ...[]byte) []byte {
		secret, err := by.DH(to)
		if err != nil {
			t.Fatal(err)
		}
		out, err := hkdf.Key(sha256.New, secret, bytes.Join(salt, nil), "", 96)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	seal := func(keys, b []byte) []byte {
		block, err := aes.NewCipher(keys[32:64])
		if err != nil {
			t.Fatal(err)
		}
		cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(b, b)
		mac := hmac.New(sha256.New, keys[64:])
		mac.Write(b)
		return append(b, mac.Sum(nil)[:10]...)
	}
	content := field.AppendUint(nil, 1, uint64(sealed.TypeWhisper))
	content = field.AppendData(field.AppendData(content, 2, sender.Bytes()), 3, body)
	outer := layer(ephemeral, []byte("UnidentifiedDelivery"), to.Bytes(), ephemeral.Public().Bytes())
	static := seal(outer, key.Public().Bytes())
	out := field.AppendData([]byte{sealed.TypeV1}, 1, ephemeral.Public().Bytes())
	out = field.AppendData(out, 2, bytes.Clone(static))
	return field.AppendData(out, 3, seal(layer(key, outer[:32], static), content))
}

// TestStolenCertificate: whoever has a certificate of somebody else, and not
// their key, can say nothing in their name.
func TestStolenCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		bob.contact("ada@a.test")
		hers := core.IdentityKey(ada.brain).Public()
		b := sealWith(t, newKey(t), core.IdentityKey(bob.brain).Public(), w.certify("a.test", ada.user, hers), []byte("noise"))
		w.give(bob, "a.test", time.Now(), padded(b))
		bob.start()
		settle(3 * time.Minute)
		if got := bob.reasons(core.SomebodyAt("a.test")); !slices.Equal(got, []clearbox.Code{"certificate_stolen"}) {
			t.Errorf("reasons %v", got)
		}
		if got := bob.reasons(ada.user); len(got) != 0 {
			t.Errorf("in ada's conversation: %v", got)
		}
		bob.stop()
	})
}

// TestCertificateOfAnotherKey: a server that vouches for another key as its
// user's, and seals her true message anew with it, is found out by the session.
// What she seals herself is read as before.
func TestCertificateOfAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := pair(t)
		bob.contact("ada@a.test")
		ada.start()
		ada.send(bob, "sealed anew")
		settle(5 * time.Second)
		w.mu.Lock()
		env := w.accounts[bob.user].devices[1].mail[0].Envelope
		root := w.authority("a.test").root.Public()
		w.mu.Unlock()
		r := sealed.Receiver{Account: keys.AccountServiceID(bob.user.String()), Device: 1, Identity: core.IdentityKey(bob.brain)}
		unpadded := bytes.TrimRight(env.Content, "\x00")
		inside, err := r.Open(unpadded[:len(unpadded)-1], time.Now(), root)
		if err != nil {
			t.Fatal(err)
		}
		other := newKey(t)
		inside.Sender = w.certify("a.test", ada.user, other.Public())
		b, err := sealed.SealV1(cryptoRandom, other, r.Identity.Public(), inside)
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		env.Content = padded(b)
		w.mu.Unlock()
		bob.start()
		settle(3 * time.Minute)
		if got := bob.reasons(ada.user); !slices.Equal(got, []clearbox.Code{"wrong_identity"}) {
			t.Errorf("reasons %v", got)
		}
		ada.send(bob, "sealed by ada")
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"<undecryptable>", "sealed by ada"})
		ada.stop()
		bob.stop()
	})
}

// TestAcceptOfAnother: an answer to a knock counts if it comes from the server
// that was asked, is to the knock that was made, and names the address that was
// knocked at. Each is looked at by itself.
func TestAcceptOfAnother(t *testing.T) {
	for _, x := range []struct {
		name, by, address string
		otherKnock, taken bool
	}{
		{name: "all is right", by: "eve@b.test", address: "bob@b.test", taken: true}, // b.test's word for who that is
		{name: "another server", by: "eve@c.test", address: "bob@b.test"},
		{name: "another knock", by: "eve@b.test", address: "bob@b.test", otherKnock: true},
		{name: "another address", by: "eve@b.test", address: "eve@b.test"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ada, bob := strangers(t)
				eve := newPerson(t, w, x.by)
				eve.closed = true
				eve.join().start()
				ada.start()
				id := ada.write(bob, "for bob alone")
				settle(time.Minute)
				made := w.mailOf(bob)[0].Knock.ID
				knock := made
				if x.otherKnock {
					knock[0] ^= 1
				}
				if err := core.SendAccept(ctx, eve.brain, ada.user, made, knock, x.address); err != nil {
					t.Fatal(err)
				}
				settle(2 * time.Minute)
				if got := eve.heard(ada); (len(got) == 1) != x.taken || len(got) > 1 {
					t.Errorf("eve heard %q", got)
				}
				if s := ada.state(id); (s == core.StateQueued) == x.taken {
					t.Errorf("the message is %s", s)
				}
				if !x.taken { // and the true answer is still taken
					bob.start()
					settle(time.Second)
					bob.accepts()
					settle(2 * time.Minute)
					want(t, "bob heard", bob.heard(ada), []string{"for bob alone"})
					bob.stop()
				}
				ada.stop()
				eve.stop()
			})
		})
	}
}

// TestNewerToken: what was refused with a token that changed meanwhile goes out
// once more with the one that was learnt since, and nobody is asked.
func TestNewerToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ada, bob := strangers(t)
		carol := newPerson(t, w, "carol@c.test")
		carol.closed = true
		carol.join()
		for _, p := range []*person{ada, bob, carol} {
			p.start()
		}
		ada.write(bob, "one")
		carol.write(bob, "uno")
		settle(time.Minute)
		bob.accepts()
		settle(time.Minute)
		bob.stop()
		id := ada.write(bob, "two")
		settle(time.Minute)
		w.mu.Lock()
		first := w.accounts[ada.user].sent[id]
		w.accounts[bob.user].devices[1].mail = nil // it is at a.test still
		knocks := w.knocks
		w.mu.Unlock()
		if first == nil {
			t.Fatal("nothing was sent")
		}

		bob.open()
		bob.start()
		if err := bob.brain.Block(ctx, carol.user); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		w.mu.Lock()
		token := w.accounts[bob.user].token
		w.accounts[bob.user].tokenBefore = nil // a day later
		w.mu.Unlock()
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: id, Recipient: bob.user, Code: clearbox.CodeConsentRequired})
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		if s := ada.state(id); s != core.StateDelivered {
			t.Errorf("the message is %s", s)
		}
		w.mu.Lock()
		if bytes.Contains(first.body, token) || w.knocks != knocks {
			t.Errorf("the first went with the newer token, or %d knocks more were made", w.knocks-knocks)
		}
		w.mu.Unlock()
		// The same refusal again is about the attempt before, and changes nothing.
		w.notify(ada.user, wire.Notice{Kind: wire.NoticeUndeliverable, ID: id, Recipient: bob.user, Code: clearbox.CodeConsentRequired})
		settle(time.Minute)
		want(t, "bob heard", bob.heard(ada), []string{"one", "two"})
		for _, p := range []*person{ada, bob, carol} {
			p.stop()
		}
	})
}
