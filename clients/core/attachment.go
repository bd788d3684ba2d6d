package core

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// MaxFile is the longest file that this version sends or fetches, in bytes of
// ciphertext. What the own server takes is usually less.
const MaxFile = 8 << 30

const (
	labelReader = "clearbox attachment reader v1"

	firstPart = 512 << 10 // bytes of one request; doubled after each that succeeds
	mostPart  = 4 << 20
	leastPart = 64 << 10

	partTries   = 8 // failures in a row
	firstPause  = time.Second
	mostPause   = 15 * time.Second
	resumeAfter = 25 * 24 * time.Hour // an upload that is older begins anew: the server forgets it
)

// Upload is a file that is to be sent.
type Upload struct {
	Data io.ReaderAt
	Size int64 // bytes
	// What the recipients are told, all of it optional. Servers see none of it.
	Name          string
	Mime          string
	Width, Height int
	Thumbnail     []byte // a small picture, at most MaxThumbnail bytes

	Progress func(done, total int64) // in bytes of ciphertext; may be nil
}

// pendingUpload is an upload that has begun, kept under the file's SHA-256: the
// key never serves another content, and with the same key and content the same
// ciphertext comes out again, so that it can go on where it ended.
type pendingUpload struct {
	Object  clearbox.ObjectID `cbor:"1,keyasint"`
	Key     []byte            `cbor:"2,keyasint"`
	Started clearbox.Millis   `cbor:"3,keyasint"`
}

// errMoved says that the server's idea of how far an upload is has changed.
var errMoved = errors.New("core: the upload stands elsewhere")

// SendFile uploads a file, encrypted, and then writes p with it into the
// conversation, as Post does. Until then nobody learns of it. What broke off, even
// by a crash, goes on when the same file is sent again. Data is read several times. Errors are those of Post, CodeTooLarge,
// CodeQuota and CodeStoreFull of the own server.
func (b *Brain) SendFile(ctx context.Context, in ConversationID, p Post, u *Upload) (*Message, error) {
	s, err := b.me()
	if err != nil {
		return nil, err
	}
	if len(u.Name) > MaxFileName || len(u.Mime) > maxMime || len(u.Thumbnail) > MaxThumbnail {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the name of the file is too long")
	}
	if u.Size < 0 || vault.SealedAttachment(u.Size) > MaxFile {
		return nil, clearbox.Errorf(clearbox.CodeTooLarge, "the file is too large")
	}
	mark, pending, err := b.uploadOf(ctx, u)
	if err != nil {
		return nil, err
	}
	a, err := b.upload(ctx, u, pending)
	if err != nil {
		return nil, err
	}
	p.File = &File{
		Object: pending.Object.String(), Origin: s.User.Server, Key: pending.Key, Digest: a.Digest[:], Size: a.Size, Padded: vault.PaddedAttachment(a.Size),
		Mime: u.Mime, Name: u.Name, Width: u.Width, Height: u.Height, Thumbnail: u.Thumbnail,
	}
	m, err := b.Post(ctx, in, p)
	if err != nil {
		return nil, err
	}
	return m, b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(mark) })
}

// uploadOf finds the upload of the same content that has begun, or begins one.
func (b *Brain) uploadOf(ctx context.Context, u *Upload) (mark string, up *pendingUpload, err error) {
	h := sha256.New()
	if n, err := io.Copy(h, contextReader{ctx, io.NewSectionReader(u.Data, 0, u.Size)}); err != nil || n != u.Size {
		return "", nil, errors.Join(err, clearbox.Errorf(clearbox.CodeBadRequest, "the file could not be read to its end"))
	}
	mark = prefixUpload + hex.EncodeToString(h.Sum(nil))
	key, err := vault.NewAttachmentKey(b.opts.Random)
	if err != nil {
		return "", nil, err
	}
	object, err := clearbox.NewObjectID(b.opts.Random)
	if err != nil {
		return "", nil, err
	}
	now := b.now()
	err = b.vault.Update(ctx, func(tx Tx) error {
		if up, err = load[pendingUpload](tx, mark); err != nil {
			return err
		}
		if up != nil && len(up.Key) == len(key) && now-up.Started < clearbox.Millis(resumeAfter.Milliseconds()) {
			return nil
		}
		up = &pendingUpload{Object: object, Key: bytes.Clone(key[:]), Started: now}
		return save(tx, mark, up)
	})
	return mark, up, err
}

// upload brings all of the ciphertext to the own server.
func (b *Brain) upload(ctx context.Context, u *Upload, up *pendingUpload) (*vault.Attachment, error) {
	key := vault.AttachmentKey(up.Key)
	secret := readerSecret(key)
	hash := sha256.Sum256(secret)
	total := vault.SealedAttachment(u.Size)
	var anew bool
	for {
		var st wire.Media
		err := b.patiently(ctx, func() error {
			return b.call(ctx, "POST", "/media", &wire.NewMedia{Object: up.Object, Size: total, Reader: hash[:]}, &st)
		})
		if err != nil {
			return nil, err
		}
		enc, err := vault.NewEncrypter(key, u.Size, contextReader{ctx, io.NewSectionReader(u.Data, 0, u.Size)})
		if err != nil {
			return nil, err
		}
		err = b.pushFrom(ctx, u, up.Object, enc, st.Offset, total)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, err
		}
		a := enc.Attachment()
		err = b.patiently(ctx, func() error {
			return b.call(ctx, "POST", "/media/"+up.Object.String(), &wire.MediaFinish{Digest: a.Digest[:]}, nil)
		})
		if clearbox.CodeOf(err) == clearbox.CodeBadRequest && !anew {
			anew = true // it arrived damaged, and the server has thrown it away
			continue
		}
		if err != nil {
			return nil, err
		}
		return a, nil
	}
}

// pushFrom sends what the encrypter gives from an offset on, and reads it to its
// end.
func (b *Brain) pushFrom(ctx context.Context, u *Upload, object clearbox.ObjectID, enc *vault.Encrypter, at, total int64) error {
	if _, err := io.CopyN(io.Discard, enc, at); err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	u.told(at, total)
	part := int64(firstPart)
	var buf []byte
	for at < total {
		n := min(part, total-at)
		if int64(len(buf)) < n {
			buf = make([]byte, n)
		}
		if _, err := io.ReadFull(enc, buf[:n]); err != nil {
			return fmt.Errorf("read the file: %w", err)
		}
		smooth, err := b.pushPart(ctx, object, at, buf[:n])
		if err != nil {
			return err
		}
		if part = max(part/2, leastPart); smooth {
			part = min(4*part, mostPart)
		}
		at += n
		u.told(at, total)
	}
	if n, err := io.Copy(io.Discard, enc); err != nil || n > 0 {
		return fmt.Errorf("read the file: %w", errors.Join(err, vault.ErrSize))
	}
	return nil
}

func (u *Upload) told(done, total int64) {
	if u.Progress != nil {
		u.Progress(done, total)
	}
}

// pushPart sends one part. After a failure it asks how much of it has arrived.
// smooth tells whether there was none.
func (b *Brain) pushPart(ctx context.Context, object clearbox.ObjectID, at int64, part []byte) (smooth bool, err error) {
	end := at + int64(len(part))
	path := "/media/" + object.String()
	tries := 0
	err = b.patiently(ctx, func() error {
		if tries++; tries > 1 {
			var st wire.Media
			if err := b.call(ctx, "GET", path, nil, &st); err != nil {
				return err
			}
			if st.Offset < at || st.Offset > end {
				return errMoved
			}
			part, at = part[st.Offset-at:], st.Offset
			if len(part) == 0 {
				return nil
			}
		}
		_, err := b.callRaw(ctx, Request{Method: "PUT", Path: fmt.Sprintf("%s?offset=%d", path, at), Body: part, Type: "application/octet-stream"})
		if clearbox.CodeOf(err) == clearbox.CodeConflict {
			return clearbox.Wrap(clearbox.CodeUnavailable, "the upload stands elsewhere", err) // an answer that was lost: look
		}
		return err
	})
	return tries == 1, err
}

// patiently repeats what fails for reasons that pass.
func (b *Brain) patiently(ctx context.Context, try func() error) error {
	pause := firstPause
	for n := 1; ; n++ {
		err := try()
		code := clearbox.CodeOf(err)
		if err == nil || n == partTries || code != clearbox.CodeUnavailable && code != clearbox.CodeRateLimited {
			return err
		}
		wait := pause
		var r *refusal
		if errors.As(err, &r) && r.retryAfter > 0 {
			wait = min(time.Duration(r.retryAfter)*time.Second, mostPause)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, mostPause)
	}
}

// readerSecret is what opens the object to readers at its server. It follows from
// the key and tells nothing of it.
func readerSecret(k vault.AttachmentKey) []byte {
	secret, err := hkdf.Key(sha256.New, k[:], nil, labelReader, 32)
	if err != nil {
		panic("core: HKDF gives this many bytes")
	}
	return secret
}

// Fetch writes a file that is in a message to w, through the own server. Every
// byte that it writes is authentic; only after it has returned nil they are all of
// them, so a caller shows nothing before. progress may be nil; it is told bytes of
// ciphertext. Errors: CodeNotFound when the sender's server has it no more,
// CodePeerUnreachable, CodeBadSignature when it was changed or cut on its way, and
// those of w.
func (b *Brain) Fetch(ctx context.Context, f *File, w io.Writer, progress func(done, total int64)) error {
	if err := f.check(); err != nil {
		return err
	}
	object, err := clearbox.ParseObjectID(f.Object)
	if err != nil {
		return err
	}
	if f.Size > MaxFile || vault.SealedAttachment(f.Size) > MaxFile {
		return clearbox.Errorf(clearbox.CodeTooLarge, "the file is too large")
	}
	a := vault.Attachment{Key: vault.AttachmentKey(f.Key), Size: f.Size, Digest: [32]byte(f.Digest)}
	r := &parts{
		b: b, ctx: ctx, path: "/media/" + string(f.Origin) + "/" + object.String(), secret: base64.RawURLEncoding.EncodeToString(readerSecret(a.Key)),
		total: vault.SealedAttachment(f.Size), part: firstPart, progress: progress,
	}
	d, err := a.Decrypt(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, d)
	if errors.Is(err, vault.ErrAttachment) || errors.Is(err, io.ErrUnexpectedEOF) {
		return clearbox.Wrap(clearbox.CodeBadSignature, "the file was changed or cut on its way: it is not what was sent", err)
	}
	return err
}

// parts reads an object part by part.
type parts struct {
	b            *Brain
	ctx          context.Context // of the one call of Fetch that it serves
	path, secret string
	at, total    int64
	part         int64
	ready        []byte
	progress     func(done, total int64)
}

// Read implements io.Reader.
func (p *parts) Read(b []byte) (int, error) {
	if len(p.ready) == 0 {
		if p.at == p.total {
			return 0, io.EOF
		}
		if err := p.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.ready)
	p.ready = p.ready[n:]
	return n, nil
}

func (p *parts) fetch() error {
	tries := 0
	err := p.b.patiently(p.ctx, func() error {
		if tries++; tries > 1 {
			p.part = max(p.part/2, leastPart)
		}
		n := min(p.part, p.total-p.at)
		res, err := p.b.callRaw(p.ctx, Request{Method: "GET", Path: p.path, Header: map[string]string{
			wire.HeaderMediaSecret: p.secret, "Range": fmt.Sprintf("bytes=%d-%d", p.at, p.at+n-1),
		}})
		if clearbox.CodeOf(err) == clearbox.CodeRange {
			return io.ErrUnexpectedEOF // it is shorter than the message says
		}
		if err == nil && int64(len(res.Body)) != n {
			return io.ErrUnexpectedEOF
		}
		p.ready = res.Body
		return err
	})
	if err != nil {
		return err
	}
	if tries == 1 {
		p.part = min(2*p.part, mostPart)
	}
	p.at += int64(len(p.ready))
	if p.progress != nil {
		p.progress(p.at, p.total)
	}
	return nil
}

// mustDrop notes that a file of one's own is to be deleted from the own server,
// since its message was taken back.
func mustDrop(tx Tx, s *self, f *File) error {
	if f == nil || f.Origin != s.User.Server {
		return nil
	}
	return tx.Put(prefixDrop+f.Object, []byte{})
}

// dropFiles deletes such files: nobody gets them any more, wherever they are.
func (b *Brain) dropFiles(ctx context.Context) error {
	var waiting []Entry
	err := b.vault.View(ctx, func(r Reader) (err error) {
		waiting, err = r.List(Range{Prefix: prefixDrop})
		return err
	})
	for _, e := range waiting {
		if err = b.call(ctx, "DELETE", "/media/"+e.Key[len(prefixDrop):], nil, nil); err != nil && clearbox.CodeOf(err) != clearbox.CodeNotFound {
			return err
		}
		if err = b.vault.Update(ctx, func(tx Tx) error { return tx.Delete(e.Key) }); err != nil {
			return err
		}
		b.changed()
	}
	return err
}

// contextReader ends with ctx.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}
