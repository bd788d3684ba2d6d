package auth

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/clearbox-im/clearbox"
)

// Notice is the privacy notice that a person acknowledges at registration, and
// to which consents refer.
type Notice struct {
	Version  string // chosen by the organisation; another text needs another version
	Language string // BCP 47, such as "en"
	Text     string
	Hash     string // lower-case hex of the SHA-256 of Text
}

// NewNotice fills in the hash.
func NewNotice(version, language, text string) Notice {
	sum := sha256.Sum256([]byte(text))
	return Notice{Version: version, Language: language, Text: text, Hash: hex.EncodeToString(sum[:])}
}

// sum is the hash as bytes.
func (n Notice) sum() []byte {
	sum := sha256.Sum256([]byte(n.Text))
	return sum[:]
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

// Purpose is something that a person may consent to. Each is off unless chosen.
type Purpose string

// The purposes.
const (
	PurposePresence          Purpose = "presence"           // people here see that one is online
	PurposeReadReceipts      Purpose = "read_receipts"      //
	PurposeFederatedPresence Purpose = "federated_presence" // people elsewhere see it
	PurposeDirectoryListing  Purpose = "directory_listing"  // found by others than by exact address
	PurposePushThirdParty    Purpose = "push_third_party"   // wake-ups through a vendor
	PurposeOpenReachability  Purpose = "open_reachability"  // strangers may write
	PurposeCrashReports      Purpose = "crash_reports"      //
	PurposeHistoryArchive    Purpose = "history_archive"    // the encrypted archive at the server
)

// Purposes lists all of them, in the order they are shown.
func Purposes() []Purpose {
	return []Purpose{
		PurposePresence, PurposeReadReceipts, PurposeFederatedPresence, PurposeDirectoryListing,
		PurposePushThirdParty, PurposeOpenReachability, PurposeCrashReports, PurposeHistoryArchive,
	}
}

// ParsePurpose accepts the purposes above.
func ParsePurpose(s string) (Purpose, error) {
	for _, p := range Purposes() {
		if string(p) == s {
			return p, nil
		}
	}
	return "", clearbox.Errorf(clearbox.CodeBadRequest, "there is no such purpose")
}

// Consent is where a person stands on one purpose.
type Consent struct {
	Purpose       Purpose
	Granted       bool            // and given under the current notice
	Stale         bool            // granted under an older notice: off until it is given again
	NoticeVersion string          // of the last decision; empty when there was none
	At            clearbox.Millis // of the last decision; 0 when there was none
}
