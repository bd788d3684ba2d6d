package vault_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/vault"
)

// TestFormatsStay holds the formats: what was backed up, sent or written down must
// be read for ever. Another sum here is another protocol, which needs a new version
// and a line in the change log.
func TestFormatsStay(t *testing.T) {
	a, _ := encrypted(t, 100_000)
	derived := recoveryKey(t, 1).Derive(vault.PurposeArchive)
	announcement := sha256.Sum256(newLink(t, 1).Announcement())
	whole := sha256.Sum256(container(t, []byte("one"), content(70_000)))
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"attachment":   {a.Digest[:], "f3ec8d25f5b634934c0608de47baa158fd2a87b58b3224110eeaf32b55ecf73d"},
		"container":    {whole[:], "7f5de459745a750133f322d37b07b65b625d46796011205dd860798df5cafecc"},
		"recovery key": {derived[:], "18546ecbcb73bbf7c4acc53fe5057f30c21474d5675ec26e86d3ee06e180ec1c"},
		"announcement": {announcement[:], "b2ef85c873d87e6b075dbc239494062f804c73fb90bc5b2984e30503e5a6ec88"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := newLink(t, 1).Offer().Text(); got != "clearbox-link:1/a.test/nlthqp2pxxurw3vyrnz2jdwsi4/zix3jcyqyybmraatwqhgcqstaoaulqzq4spiq6g2eiz2tilvir3a" {
		t.Errorf("offer: %s", got)
	}
}
