package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
)

// A container holds frames, which are byte strings of the caller's, in order. Its
// outer form:
//
//	8   "CBVAULT1"; the last character is the version
//	1   kind
//	1   length of the hint
//	n   hint, readable by everyone, for example the parameters of a passphrase
//	32  salt
//	32  commitment: tells a wrong secret from altered bytes, and makes it
//	    impossible to build one container that two secrets open
//	    segments: AES-256-GCM of 64 KiB each, the last one of up to 64 KiB
//
// HKDF-SHA256(secret, salt, label || all above the salt || length of the context,
// 2 bytes || context, 64) gives the key and the commitment. The nonce of a segment
// is its number in 11 bytes and one byte that is 1 in the last segment, else 0
// (the STREAM construction; Hoang, Reyhanitabar, Rogaway, Vizár, 2015): a segment
// cannot be moved, and the end cannot be cut off.
//
// Inside the segments stand the frames, each after its length in 4 bytes, then
// FF FF FF FF and zeros up to a padded size (see pad, at least 256 bytes). So
// neither number nor lengths of frames are told, and the whole length is rounded.
const (
	containerMagic   = "CBVAULT1"
	labelContainer   = "clearbox container v1\x00"
	saltSize         = 32
	commitmentSize   = 32
	segmentSize      = 64 << 10
	segmentOverhead  = 16
	minContainer     = 256
	endOfFrames      = 1<<32 - 1
	containerKeySize = 32
)

// Limits of a container in bytes.
const (
	MaxHint    = 255
	MaxContext = 1 << 10
	MaxFrame   = 16 << 20
)

// Kind says what a container is for; the numbers stay.
type Kind uint8

// The kinds of containers.
const (
	KindArchive Kind = 1 // one item of the encrypted archive on the homeserver
	KindHistory Kind = 2 // history handed to a linked device
	KindExport  Kind = 3 // a file that a person keeps
	KindAccount Kind = 4 // the account's keys, under the recovery key
)

// Errors about containers.
var (
	// ErrContainer: not the beginning of a container, or one of an unknown version.
	ErrContainer = errors.New("vault: not a container")
	// ErrSecret: made with another secret, for another context, or its beginning
	// was altered.
	ErrSecret = errors.New("vault: wrong secret for this container")
	// ErrAltered: bytes were altered, moved or added, or the end is missing.
	ErrAltered = errors.New("vault: container altered or cut off")
	// ErrFrame: a frame above MaxFrame, or none where one was promised.
	ErrFrame = errors.New("vault: size of a frame")
)

// Header is the readable beginning of a container.
type Header struct {
	Kind Kind
	Hint []byte // up to MaxHint bytes
}

func (h Header) append(b []byte) []byte {
	b = append(b, containerMagic...)
	b = append(b, byte(h.Kind), byte(len(h.Hint)))
	return append(b, h.Hint...)
}

// containerKeys returns what seals the segments, and the commitment.
func containerKeys(secret, salt, head, context []byte) (cipher.AEAD, []byte) {
	info := append([]byte(labelContainer), head...)
	info = binary.BigEndian.AppendUint16(info, uint16(len(context)))
	info = append(info, context...)
	out := derive(secret, salt, string(info), containerKeySize+commitmentSize)
	defer clear(out[:containerKeySize])
	block, err := aes.NewCipher(out[:containerKeySize])
	if err != nil {
		panic("vault: 32 bytes are an AES key")
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("vault: AES makes GCM")
	}
	return aead, out[containerKeySize:]
}

func segmentNonce(number uint64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], number)
	if last {
		nonce[11] = 1
	}
	return nonce
}

// Writer makes a container. It is not safe for concurrent use.
type Writer struct {
	to     io.Writer
	aead   cipher.AEAD
	number uint64
	total  int64 // plaintext so far
	buffer []byte
	err    error
}

// NewWriter begins a container with a fresh salt of 32 bytes from random. secret is
// a uniform secret of 32 bytes: a derived one, or the result of Argon2id over a
// passphrase, whose parameters then go into the hint. context is known to both
// sides and not written, for example whose archive and which item it is; what is
// opened under another context is refused. ErrSize for a hint, context or secret of a
// length that cannot be.
func NewWriter(to io.Writer, random io.Reader, secret []byte, h Header, context []byte) (*Writer, error) {
	if len(secret) != 32 || len(h.Hint) > MaxHint || len(context) > MaxContext {
		return nil, ErrSize
	}
	var salt [saltSize]byte
	if err := fill(random, salt[:]); err != nil {
		return nil, err
	}
	head := h.append(nil)
	aead, commitment := containerKeys(secret, salt[:], head, context)
	head = append(head, salt[:]...)
	if _, err := to.Write(append(head, commitment...)); err != nil {
		return nil, err
	}
	return &Writer{to: to, aead: aead, buffer: make([]byte, 0, segmentSize+segmentOverhead)}, nil
}

// WriteFrame adds a frame of up to MaxFrame bytes, else ErrFrame. An error of the
// underlying writer stays.
func (w *Writer) WriteFrame(frame []byte) error {
	if w.err != nil {
		return w.err
	}
	if len(frame) > MaxFrame {
		return ErrFrame
	}
	w.write(binary.BigEndian.AppendUint32(nil, uint32(len(frame))))
	w.write(frame)
	return w.err
}

// Close pads and ends the container; it does not close the underlying writer. A
// container that was not closed cannot be read to its end.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.write(binary.BigEndian.AppendUint32(nil, endOfFrames))
	for zeros := pad(w.total, minContainer) - w.total; zeros > 0; {
		n := min(zeros, 4096)
		w.write(make([]byte, n))
		zeros -= n
	}
	w.flush(true)
	if w.err != nil {
		return w.err
	}
	w.err = errors.New("vault: the container is closed")
	return nil
}

func (w *Writer) write(b []byte) {
	for len(b) > 0 && w.err == nil {
		if len(w.buffer) == segmentSize { // more follows, so it is not the last one
			w.flush(false)
		}
		n := min(segmentSize-len(w.buffer), len(b))
		w.buffer = append(w.buffer, b[:n]...)
		w.total += int64(n)
		b = b[n:]
	}
}

func (w *Writer) flush(last bool) {
	if w.err != nil {
		return
	}
	sealed := w.aead.Seal(w.buffer[:0], segmentNonce(w.number, last), w.buffer, nil)
	w.number++
	_, w.err = w.to.Write(sealed)
	w.buffer = w.buffer[:0]
}

// Reader reads a container. Nothing of a segment is given before it was verified.
// It is not safe for concurrent use.
type Reader struct {
	header Header
	head   []byte
	salt   []byte
	commit []byte

	from    io.Reader
	aead    cipher.AEAD
	number  uint64
	ahead   []byte // read, not opened; holds one byte more than a segment if there is more
	plain   []byte
	last    bool
	done    error
	segment []byte
}

// NewReader reads the beginning of a container: then Header tells which secret is
// needed, and Open takes it. ErrContainer, or an error of from.
func NewReader(from io.Reader) (*Reader, error) {
	r := &Reader{from: from}
	r.head = make([]byte, len(containerMagic)+2)
	if _, err := io.ReadFull(from, r.head); err != nil {
		return nil, tooShort(err)
	}
	if string(r.head[:len(containerMagic)]) != containerMagic {
		return nil, ErrContainer
	}
	rest := make([]byte, int(r.head[len(r.head)-1])+saltSize+commitmentSize)
	if _, err := io.ReadFull(from, rest); err != nil {
		return nil, tooShort(err)
	}
	hint := rest[:len(rest)-saltSize-commitmentSize]
	r.header = Header{Kind(r.head[len(containerMagic)]), hint}
	r.head = append(r.head, hint...)
	r.salt, r.commit = rest[len(hint):len(hint)+saltSize], rest[len(hint)+saltSize:]
	return r, nil
}

// tooShort turns an end in the beginning into ErrContainer.
func tooShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrContainer
	}
	return err
}

// Header is what the container says of itself; it is authentic only after Open.
func (r *Reader) Header() Header { return r.header }

// Open takes the secret and the context, or refuses them with ErrSecret.
func (r *Reader) Open(secret, context []byte) error {
	if len(secret) != 32 || len(context) > MaxContext {
		return ErrSecret
	}
	aead, commitment := containerKeys(secret, r.salt, r.head, context)
	if subtle.ConstantTimeCompare(commitment, r.commit) != 1 {
		return ErrSecret
	}
	r.aead = aead
	return nil
}

// Next returns the next frame, which is the caller's, and io.EOF after the last
// one: then the container is whole, and nothing follows it. The errors are
// ErrAltered, ErrFrame, ErrSecret before Open, and those of the underlying reader.
// An error stays.
func (r *Reader) Next() ([]byte, error) {
	if r.aead == nil {
		return nil, ErrSecret
	}
	if r.done != nil {
		return nil, r.done
	}
	frame, err := r.frame()
	r.done = err
	return frame, err
}

func (r *Reader) frame() ([]byte, error) {
	var head [4]byte
	if err := r.take(head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == endOfFrames {
		return nil, r.padding()
	}
	if n > MaxFrame {
		return nil, ErrFrame
	}
	// Grown as verified bytes arrive: a length alone allocates nothing.
	frame := make([]byte, 0, min(n, segmentSize))
	for left := int(n); left > 0; {
		if len(r.plain) == 0 {
			if err := r.open(); err != nil {
				return nil, err
			}
		}
		k := min(left, len(r.plain))
		frame = append(frame, r.plain[:k]...)
		r.plain = r.plain[k:]
		left -= k
	}
	return frame, nil
}

// padding reads zeros to the end.
func (r *Reader) padding() error {
	for {
		for _, b := range r.plain {
			if b != 0 {
				return ErrAltered
			}
		}
		r.plain = nil
		if r.last {
			return io.EOF
		}
		if err := r.open(); err != nil {
			return err
		}
	}
}

func (r *Reader) take(b []byte) error {
	for len(b) > 0 {
		if len(r.plain) == 0 {
			if err := r.open(); err != nil {
				return err
			}
		}
		n := copy(b, r.plain)
		r.plain = r.plain[n:]
		b = b[n:]
	}
	return nil
}

// open reads one segment and a byte beyond it, which tells whether it is the last.
func (r *Reader) open() error {
	if r.last {
		return ErrFrame // frames promise more than there is
	}
	if r.segment == nil {
		r.segment = make([]byte, segmentSize+segmentOverhead+1)
	}
	had := copy(r.segment, r.ahead)
	n, err := io.ReadFull(r.from, r.segment[had:])
	n += had
	switch err {
	case nil:
	case io.EOF, io.ErrUnexpectedEOF:
		r.last = true
	default:
		return err
	}
	sealed := r.segment[:n]
	if !r.last {
		sealed = r.segment[:n-1]
		r.ahead = append(r.ahead[:0], r.segment[n-1])
	}
	plain, err := r.aead.Open(sealed[:0], segmentNonce(r.number, r.last), sealed, nil)
	if err != nil {
		return ErrAltered
	}
	r.number++
	r.plain = plain
	return nil
}

// SealedContainer is the length of a container with a hint of the given length and
// frames of the given lengths in sum.
func SealedContainer(hint int, frames int, sum int64) int64 {
	n := pad(sum+4*int64(frames)+4, minContainer)
	segments := max(1, (n+segmentSize-1)/segmentSize)
	return int64(len(containerMagic)+2+hint+saltSize+commitmentSize) + n + segments*segmentOverhead
}
