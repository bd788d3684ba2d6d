package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Sizes of attachments in bytes.
const (
	// ChunkSize is how much plaintext is verified, and released, at a time.
	ChunkSize = 64 << 10
	// MaxAttachment is the longest plaintext.
	MaxAttachment = 1 << 40

	attachmentMACSize = 32
	sealedChunkSize   = ChunkSize + attachmentMACSize
	minAttachment     = 4 << 10
)

const labelAttachment = "clearbox attachment v1\x00"

// Errors about attachments. What ends early gives io.ErrUnexpectedEOF.
var (
	// ErrAttachment: altered, reordered, longer than it says, or of another key.
	ErrAttachment = errors.New("vault: attachment not authentic")
	// ErrSize: a size that no attachment has, or a plaintext of another size than
	// announced.
	ErrSize = errors.New("vault: size of the attachment")
)

// AttachmentKey encrypts and authenticates one attachment: 32 bytes for AES-256,
// 32 for HMAC-SHA256. It never serves a second content.
type AttachmentKey [64]byte

// NewAttachmentKey makes a key from 64 bytes of random.
func NewAttachmentKey(random io.Reader) (k AttachmentKey, err error) {
	return k, fill(random, k[:])
}

// Format keeps the key out of anything printed with package fmt.
func (AttachmentKey) Format(f fmt.State, _ rune) { io.WriteString(f, "vault.AttachmentKey(secret)") }

// Attachment is what the recipient is told, inside the encrypted message.
type Attachment struct {
	Key    AttachmentKey
	Size   int64    // of the plaintext
	Digest [32]byte // SHA-256 of the whole ciphertext, as the server has it
}

// PaddedAttachment is the size to which a plaintext of n bytes is padded with
// zeros: by the rule of pad, at least 4 KiB. Together with the key's fresh
// randomness this is all that a server learns of the content.
func PaddedAttachment(n int64) int64 { return pad(n, minAttachment) }

// SealedAttachment is the size of the ciphertext of n bytes.
func SealedAttachment(n int64) int64 {
	padded := PaddedAttachment(n)
	return padded + chunks(padded)*attachmentMACSize
}

func chunks(padded int64) int64 { return (padded + ChunkSize - 1) / ChunkSize }

// attachmentCipher seals and opens chunks. A chunk is AES-256-CBC without
// padding of its own (sizes are multiples of 16), then HMAC-SHA256 over label,
// number of the chunk, padded size of the whole, and ciphertext. So no chunk can
// take another's place, and the end cannot be cut off. The IV is a MAC, too, of
// label and number: nobody without the key can predict it, and a chunk can be
// read without the one before.
type attachmentCipher struct {
	block  cipher.Block
	mac    hash.Hash
	padded int64
}

func newAttachmentCipher(k *AttachmentKey, size int64) (*attachmentCipher, error) {
	if size < 0 || size > MaxAttachment {
		return nil, ErrSize
	}
	block, err := aes.NewCipher(k[:32])
	if err != nil {
		panic("vault: 32 bytes are an AES key")
	}
	return &attachmentCipher{block, hmac.New(sha256.New, k[32:]), PaddedAttachment(size)}, nil
}

// sum is the MAC of label, kind and numbers, and b. The two kinds keep IVs and
// MACs apart.
func (c *attachmentCipher) sum(kind byte, chunk int64, b []byte) []byte {
	head := make([]byte, 0, len(labelAttachment)+17)
	head = append(head, labelAttachment...)
	head = append(head, kind)
	head = binary.BigEndian.AppendUint64(head, uint64(chunk))
	head = binary.BigEndian.AppendUint64(head, uint64(c.padded))
	c.mac.Reset()
	c.mac.Write(head)
	c.mac.Write(b)
	return c.mac.Sum(nil)
}

func (c *attachmentCipher) iv(chunk int64) []byte { return c.sum(0, chunk, nil)[:aes.BlockSize] }

// size is the length of a chunk's plaintext, padding included.
func (c *attachmentCipher) size(chunk int64) int {
	return int(min(ChunkSize, c.padded-chunk*ChunkSize))
}

// seal encrypts b in place and appends its MAC, for which there is room.
func (c *attachmentCipher) seal(chunk int64, b []byte) []byte {
	cipher.NewCBCEncrypter(c.block, c.iv(chunk)).CryptBlocks(b, b)
	return append(b, c.sum(1, chunk, b)...)
}

// open checks a sealed chunk and then decrypts it in place.
func (c *attachmentCipher) open(chunk int64, b []byte) ([]byte, error) {
	b, mac := b[:len(b)-attachmentMACSize], b[len(b)-attachmentMACSize:]
	if !hmac.Equal(mac, c.sum(1, chunk, b)) {
		return nil, ErrAttachment
	}
	cipher.NewCBCDecrypter(c.block, c.iv(chunk)).CryptBlocks(b, b)
	return b, nil
}

// Encrypter is a Reader that gives the ciphertext of an attachment.
type Encrypter struct {
	cipher *attachmentCipher
	key    AttachmentKey
	from   io.Reader
	size   int64
	left   int64 // of the plaintext
	next   int64 // chunk
	ready  []byte
	buffer [sealedChunkSize]byte
	digest hash.Hash
	err    error
}

// NewEncrypter encrypts the size bytes that from has. The key is a fresh one. What
// is read is SealedAttachment(size) bytes; from that ends early gives
// io.ErrUnexpectedEOF, one that has more ErrSize, a size out of range ErrSize. The
// same key, size and plaintext give the same ciphertext, so that an upload that
// broke off can go on.
func NewEncrypter(key AttachmentKey, size int64, from io.Reader) (*Encrypter, error) {
	c, err := newAttachmentCipher(&key, size)
	if err != nil {
		return nil, err
	}
	return &Encrypter{cipher: c, key: key, from: from, size: size, left: size, digest: sha256.New()}, nil
}

// Read implements io.Reader.
func (e *Encrypter) Read(b []byte) (int, error) {
	for len(e.ready) == 0 {
		if e.err == nil {
			e.err = e.fillChunk()
		}
		if e.err != nil {
			return 0, e.err
		}
	}
	n := copy(b, e.ready)
	e.ready = e.ready[n:]
	return n, nil
}

func (e *Encrypter) fillChunk() error {
	if e.next == chunks(e.cipher.padded) {
		return io.EOF
	}
	b := e.buffer[:e.cipher.size(e.next)]
	n := min(int64(len(b)), e.left)
	if _, err := io.ReadFull(e.from, b[:n]); err != nil {
		return early(err)
	}
	clear(b[n:])
	e.left -= n
	if e.left == 0 {
		if err := ended(e.from, ErrSize); err != nil {
			return err
		}
	}
	e.ready = e.cipher.seal(e.next, b)
	e.digest.Write(e.ready)
	e.next++
	return nil
}

// Attachment describes what was encrypted, after Read has given io.EOF.
func (e *Encrypter) Attachment() *Attachment {
	a := &Attachment{Key: e.key, Size: e.size}
	e.digest.Sum(a.Digest[:0])
	return a
}

// early turns an end in the wrong place into io.ErrUnexpectedEOF.
func early(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ended reads on and expects the end; more gives the error otherwise.
func ended(r io.Reader, otherwise error) error {
	var one [1]byte
	switch _, err := io.ReadFull(r, one[:]); err {
	case io.EOF:
		return nil
	case nil:
		return otherwise
	default:
		return err
	}
}

// Decrypter is a Reader that gives the plaintext of an attachment or of a range of
// it. A chunk is verified before any of it is given.
type Decrypter struct {
	cipher *attachmentCipher
	from   io.Reader
	left   int64 // of the plaintext
	skip   int   // of the first chunk
	next   int64 // chunk
	ready  []byte
	buffer [sealedChunkSize]byte
	digest hash.Hash // nil for a range
	want   [32]byte
	err    error
}

// Decrypt reads the whole ciphertext from r. The last chunk is given only when the
// digest is right and r has ended. Errors are ErrAttachment, ErrSize,
// io.ErrUnexpectedEOF and those of r; after one of them what was given before is
// authentic, and not all.
func (a *Attachment) Decrypt(r io.Reader) (*Decrypter, error) {
	c, err := newAttachmentCipher(&a.Key, a.Size)
	if err != nil {
		return nil, err
	}
	return &Decrypter{cipher: c, from: r, left: a.Size, digest: sha256.New(), want: a.Digest}, nil
}

// Range says which bytes of the ciphertext, from and up to but without to, are
// needed for length bytes of plaintext at offset. It gives ErrSize for a range that is
// empty or not inside the attachment.
func (a *Attachment) Range(offset, length int64) (from, to int64, err error) {
	if a.Size < 0 || a.Size > MaxAttachment || offset < 0 || length < 1 || length > a.Size || offset > a.Size-length {
		return 0, 0, ErrSize
	}
	first, last := offset/ChunkSize, (offset+length-1)/ChunkSize
	return first * sealedChunkSize, min((last+1)*sealedChunkSize, SealedAttachment(a.Size)), nil
}

// DecryptRange reads the bytes that Range named from r and gives length bytes of
// plaintext. Chunks are verified one by one, the digest of the whole is not: the
// server could have mixed chunks of two contents only if the sender had used one
// key twice.
func (a *Attachment) DecryptRange(offset, length int64, r io.Reader) (*Decrypter, error) {
	if _, _, err := a.Range(offset, length); err != nil {
		return nil, err
	}
	c, err := newAttachmentCipher(&a.Key, a.Size)
	if err != nil {
		return nil, err
	}
	return &Decrypter{cipher: c, from: r, left: length, skip: int(offset % ChunkSize), next: offset / ChunkSize}, nil
}

// Read implements io.Reader.
func (d *Decrypter) Read(b []byte) (int, error) {
	for len(d.ready) == 0 {
		if d.err == nil {
			d.err = d.openChunk()
		}
		if d.err != nil {
			return 0, d.err
		}
	}
	n := copy(b, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

func (d *Decrypter) openChunk() error {
	all := chunks(d.cipher.padded)
	if d.next == all || d.digest == nil && d.left == 0 {
		return io.EOF
	}
	b := d.buffer[:d.cipher.size(d.next)+attachmentMACSize]
	if _, err := io.ReadFull(d.from, b); err != nil {
		return early(err)
	}
	if d.digest != nil {
		d.digest.Write(b)
	}
	plain, err := d.cipher.open(d.next, b)
	if err != nil {
		return err
	}
	d.next++
	if d.digest != nil && d.next == all {
		if err := ended(d.from, ErrAttachment); err != nil {
			return err
		}
		if !hmac.Equal(d.digest.Sum(nil), d.want[:]) {
			return ErrAttachment
		}
	}
	plain = plain[d.skip:]
	d.skip = 0
	d.ready = plain[:min(int64(len(plain)), d.left)]
	d.left -= int64(len(d.ready))
	return nil
}
