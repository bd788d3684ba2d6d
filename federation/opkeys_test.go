package federation_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/federation"
)

// For more than two lives of the keys, looked at every day: each purpose has a
// key in use, it was published a day before, it stays long enough, and what a
// root of sender certificates signed can still be judged 44 days after its end.
func TestOperationalKeysRotateByPurpose(t *testing.T) {
	now := base
	state := &blob{}
	random := seeded{rng(1)} // one stream: each key is another
	open := func() *federation.Self {
		t.Helper()
		s, err := federation.OpenSelf(t.Context(), "a.test", identity(1), state, federation.SelfOptions{
			Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Now: func() time.Time { return now }, Random: random,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	published := map[string]time.Time{} // by key id
	used := map[federation.KeyPurpose][]string{}
	type certificate struct {
		at   clearbox.Millis
		root curve.PublicKey
	}
	var certificates []certificate
	for range 250 {
		s := open()
		doc := s.Document()
		for _, k := range doc.Keys {
			if _, ok := published[k.KID]; !ok {
				published[k.KID] = now
			}
		}
		if len(doc.Keys) > 10 {
			t.Fatalf("the document has %d keys", len(doc.Keys))
		}
		for _, p := range []federation.KeyPurpose{federation.PurposeFedSign, federation.PurposeReceipt, federation.PurposeAudit} {
			key := s.Signer(p)
			i := slices.IndexFunc(doc.Keys, func(k federation.Key) bool { return k.KID == key.KID })
			if i < 0 || doc.Keys[i].Purpose != p || doc.Keys[i].X != base64.RawURLEncoding.EncodeToString(key.Private.Public().(ed25519.PublicKey)) {
				t.Fatalf("day %s: the %s key in use is not in the document", now.Format(time.DateOnly), p)
			}
			if !slices.Contains(used[p], key.KID) {
				if len(used[p]) > 0 && now.Sub(published[key.KID]) < 24*time.Hour {
					t.Errorf("%s: used %s after it was published", p, now.Sub(published[key.KID]))
				}
				used[p] = append(used[p], key.KID)
			}
		}
		if _, ok := doc.FedSign(s.Signer(federation.PurposeReceipt).KID, now); ok {
			t.Error("a receipt key may sign requests")
		}
		root, err := s.SenderRoot()
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, certificate{clearbox.Millis(now.UnixMilli()), root.Public()})
		for _, c := range certificates {
			if age := now.Sub(time.UnixMilli(int64(c.at))); age <= 44*24*time.Hour && !slices.Contains(doc.SenderRoots(c.at), c.root) {
				t.Fatalf("a certificate of %s ago cannot be judged", age)
			}
		}
		now = now.Add(24 * time.Hour)
	}
	for p, kids := range used {
		if len(kids) != 4 {
			t.Errorf("%s used %d keys in 250 days", p, len(kids))
		}
	}
	roots := map[curve.PublicKey]bool{}
	for _, c := range certificates {
		roots[c.root] = true
	}
	if len(roots) != 4 {
		t.Errorf("%d roots of sender certificates in 250 days", len(roots))
	}
	first := certificates[0]
	if slices.Contains(open().Document().SenderRoots(clearbox.Millis(now.UnixMilli())), first.root) {
		t.Error("the first root is good for a certificate of today")
	}
}

// A store from before the other purposes gets their keys and keeps its own.
func TestOperationalKeysOfAnOlderStore(t *testing.T) {
	state := &blob{}
	random := seeded{rng(1)}
	open := func() *federation.Self {
		t.Helper()
		s, err := federation.OpenSelf(t.Context(), "a.test", identity(1), state, federation.SelfOptions{
			Endpoints: []federation.Endpoint{{URL: "https://a.test"}}, Now: func() time.Time { return base }, Random: random,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := open()
	state.b = federation.OnlyFedSign(state.b)
	after := open()
	if after.SigningKey().KID != before.SigningKey().KID {
		t.Error("the signing key was thrown away")
	}
	if after.Document().Seq <= before.Document().Seq || len(after.Document().Keys) != 4 {
		t.Errorf("document %d has %d keys", after.Document().Seq, len(after.Document().Keys))
	}
}
