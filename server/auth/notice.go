package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/clearbox-im/clearbox"
)

// Notice is the privacy notice that a person acknowledges at registration, and
// to which consents refer.
type Notice struct {
	Version  string // chosen by the organisation; another text needs another version
	Language string // BCP 47, such as "en"
	Text     string
	Hash     string // lower-case hex of the SHA-256 of what is shown: see sum
}

// NewNotice fills in the hash.
func NewNotice(version, language, text string) Notice {
	n := Notice{Version: version, Language: language, Text: text}
	n.Hash = hex.EncodeToString(n.sum())
	return n
}

// sum is the hash of all that a person is shown: the text, and for each purpose
// in its order a line feed, the name, a colon, a blank and its sentence. What is
// stored with an acknowledgement or a consent proves the very words.
func (n Notice) sum() []byte {
	h := sha256.New() // whose writes do not fail
	io.WriteString(h, n.Text)
	for _, p := range Purposes() {
		io.WriteString(h, "\n"+string(p)+": "+p.Text(n.Language))
	}
	return h.Sum(nil)
}

// acknowledged checks that ack names exactly this notice.
func (n Notice) acknowledged(ack NoticeAck) error {
	if ack.Version == n.Version && ack.Hash == n.Hash {
		return nil
	}
	text := "acknowledge the current privacy notice first"
	if ack.Version == "" {
		text = "the privacy notice must be acknowledged"
	}
	return &clearbox.Error{Code: clearbox.CodeNoticeRequired, Text: text, Field: "/notice"}
}

// Consent is where a person stands on one purpose.
type Consent struct {
	Purpose       Purpose
	Granted       bool            // and given under the current notice
	Stale         bool            // granted under an older notice: off until it is given again
	NoticeVersion string          // of the last decision; empty when there was none
	At            clearbox.Millis // of the last decision; 0 when there was none
}
