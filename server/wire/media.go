package wire

import "github.com/clearbox-im/clearbox"

// MaxMediaPart bounds the body of PUT /media/{object}, in bytes.
const MaxMediaPart = 8 << 20

// The headers of attachments.
const (
	// HeaderMediaSecret carries, in base64url without padding, what opens an object to who reads it.
	HeaderMediaSecret = "Clearbox-Media-Secret"
	// HeaderUploadOffset tells how many bytes of an upload are at the server.
	HeaderUploadOffset = "Upload-Offset"
)

const hashBytes = 32

// NewMedia is the body of POST /media: an attachment that will be uploaded,
// encrypted. The same again gets the state of the upload.
type NewMedia struct {
	Object clearbox.ObjectID `json:"object"` // 128 random bits
	Size   int64             `json:"size"`   // bytes of ciphertext
	Reader []byte            `json:"reader"` // SHA-256 of the 32 random bytes that readers show
}

// Check tells whether everything is there.
func (m *NewMedia) Check() error {
	var f faults
	f.check(m.Object != clearbox.ObjectID{}, "/object", "is required")
	f.check(m.Size >= 1, "/size", "must be at least 1")
	f.check(len(m.Reader) == hashBytes, "/reader", "has 32 bytes")
	return f.result()
}

// MediaFinish is the body of POST /media/{object}: all of it is at the server.
type MediaFinish struct {
	Digest []byte `json:"digest"` // SHA-256 of the ciphertext
}

// Check tells whether it is a digest.
func (m *MediaFinish) Check() error {
	var f faults
	f.check(len(m.Digest) == hashBytes, "/digest", "has 32 bytes")
	return f.result()
}

// Media is the state of one's own attachment.
type Media struct {
	Object  clearbox.ObjectID `json:"object"`
	Size    int64             `json:"size"`   // bytes
	Offset  int64             `json:"offset"` // bytes that are at the server
	Whole   bool              `json:"whole"`  // readers get it
	Expires clearbox.Millis   `json:"expires"`
}
