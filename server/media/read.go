package media

import (
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage/blob"
)

// Range is a part of an object. The zero value is all of it.
type Range struct {
	From int64 // offset of the first byte
	To   int64 // offset behind the last byte; 0: the end of the object
}

// ParseRange reads a Range header. Ranges that begin at the end, several at
// once, and what is no range of bytes is ignored, as RFC 9110, 14.2, allows: ok
// is false then, and the answer is the whole object.
func ParseRange(header string) (r Range, ok bool) {
	const most = 15 // digits: far more than any object has, far less than overflows
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return Range{}, false
	}
	first, last, ok := strings.Cut(spec, "-")
	if !ok || !digits(first, most) || last != "" && !digits(last, most) {
		return Range{}, false
	}
	r.From, _ = strconv.ParseInt(first, 10, 64) // digits only
	if last != "" {
		r.To, _ = strconv.ParseInt(last, 10, 64)
		if r.To++; r.To <= r.From {
			return Range{}, false // RFC 9110, 14.1.1: not valid, so there is no range
		}
	}
	return r, true
}

func digits(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "0123456789") == ""
}

// RangeError says that the object ends before the range begins.
type RangeError struct{ Size int64 } // of the object in bytes

// Error says so.
func (e *RangeError) Error() string { return "the object ends before that" }

// Unwrap gives the error its code.
func (e *RangeError) Unwrap() error {
	return &clearbox.Error{Code: clearbox.CodeRange, Text: e.Error()}
}

// Stream is a part of an object on its way to a reader. Its owner calls Next
// until io.EOF, from one goroutine, and Close.
type Stream struct {
	Size   int64 // of the whole object in bytes
	Digest [32]byte
	From   int64 // offset of the first byte that comes
	Length int64 // bytes that come

	at     int64 // offset of what comes next
	next   func(ctx context.Context, at int64, most int) ([]byte, error)
	first  []byte // what was fetched to begin with
	finish func()
}

// Next gives the next bytes, which are valid until it is called again; io.EOF
// after the last. Errors are those of Read; after one the stream is of no use.
func (st *Stream) Next(ctx context.Context) ([]byte, error) {
	left := st.From + st.Length - st.at
	if left <= 0 {
		return nil, io.EOF
	}
	b := st.first
	if st.first = nil; len(b) == 0 {
		var err error
		if b, err = st.next(ctx, st.at, int(min(left, piece))); err != nil {
			return nil, err
		}
	}
	b = b[:min(int64(len(b)), left)]
	st.at += int64(len(b))
	return b, nil
}

// Close gives the reader's place back.
func (st *Stream) Close() { st.finish() }

// Read begins to read an object at server, this one or a peer, for who shows
// its secret. What lies elsewhere comes piece by piece, each as it is read, and
// nothing of it is kept; the peer learns which server asks and what for, not who. Errors:
// CodeNotFound, *RangeError, CodeRateLimited when the caller reads too many at
// once, and those of federation.
func (s *Service) Read(ctx context.Context, p auth.Principal, server clearbox.ServerName, object clearbox.ObjectID, secret [SecretSize]byte, r Range) (*Stream, error) {
	away := server != s.server
	if away && s.o.Remote == nil {
		return nil, clearbox.Errorf(clearbox.CodeUnknownPeer, "there is no connection with that server")
	}
	if !s.enter(p.UserNo, away) {
		return nil, clearbox.Errorf(clearbox.CodeRateLimited, tooManyAtOnce)
	}
	leave := func() { s.leave(p.UserNo, away) }
	begin := s.readHere
	if away {
		begin = func(ctx context.Context, object clearbox.ObjectID, secret [SecretSize]byte, r Range) (*Stream, error) {
			return s.readAway(ctx, server, object, secret, r)
		}
	}
	st, err := begin(ctx, object, secret, r)
	if err == nil && r.From >= st.Size {
		st.Close()
		err = &RangeError{Size: st.Size}
	}
	if err != nil {
		leave()
		return nil, err
	}
	end := st.Size
	if r.To > 0 {
		end = min(r.To, end)
	}
	st.From, st.at, st.Length = r.From, r.From, end-r.From
	finish := st.finish
	st.finish = func() {
		finish()
		leave()
	}
	return st, nil
}

func (s *Service) readHere(ctx context.Context, object clearbox.ObjectID, secret [SecretSize]byte, _ Range) (*Stream, error) {
	m, err := s.find(ctx, object, secret)
	if err != nil {
		return nil, err
	}
	o, err := s.blobs.Object(blob.Name(object))
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(m.Size, piece))
	next := func(_ context.Context, at int64, most int) ([]byte, error) {
		b := buf[:min(most, len(buf))]
		if _, err := o.ReadAt(b, at); err != nil {
			return nil, clearbox.Wrap(clearbox.CodeUnavailable, "the server's storage failed", err)
		}
		return b, nil
	}
	return &Stream{Size: m.Size, Digest: m.Digest, next: next, finish: func() { o.Close() }}, nil
}

// readAway asks for the first piece, so that what is wrong can still be said,
// and then for the others one ahead of the reader.
func (s *Service) readAway(ctx context.Context, server clearbox.ServerName, object clearbox.ObjectID, secret [SecretSize]byte, r Range) (*Stream, error) {
	q := federation.MediaQuestion{Object: object, Secret: secret, From: r.From, Most: piece}
	if r.To > 0 {
		q.Most = int(min(piece, r.To-r.From))
	}
	first, err := s.o.Remote.Media(ctx, server, q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{pieces: make(chan fetched), cancel: cancel, done: make(chan struct{})}
	end := first.Size
	if r.To > 0 {
		end = min(end, r.To)
	}
	q.From += int64(len(first.Data))
	go a.run(ctx, s.o.Remote, server, q, end, *first)
	return &Stream{Size: first.Size, Digest: first.Digest, first: first.Data, next: a.next, finish: a.close}, nil
}

// ahead fetches an object's pieces, one while the one before is on its way to
// the reader.
type ahead struct {
	pieces chan fetched // capacity 0: what is in the fetcher's hand is what is ahead
	cancel context.CancelFunc
	done   chan struct{} // closed when the fetcher has ended
}

type fetched struct {
	data []byte
	err  error
}

func (a *ahead) run(ctx context.Context, remote Remote, server clearbox.ServerName, q federation.MediaQuestion, end int64, first federation.MediaPiece) {
	defer close(a.done)
	for q.From < end {
		q.Most = int(min(piece, end-q.From))
		p, err := remote.Media(ctx, server, q)
		if err == nil && (p.Size != first.Size || p.Digest != first.Digest) {
			err = clearbox.Errorf(clearbox.CodePeerUnreachable, "the other server gave pieces of two attachments")
		}
		f := fetched{err: err}
		if err == nil {
			f.data = p.Data
			q.From += int64(len(p.Data))
		}
		select {
		case a.pieces <- f:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (a *ahead) next(ctx context.Context, _ int64, _ int) ([]byte, error) {
	select {
	case f := <-a.pieces:
		return f.data, f.err
	case <-a.done:
		return nil, clearbox.Errorf(clearbox.CodeUnavailable, "the transfer ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *ahead) close() {
	a.cancel()
	<-a.done
}

func (s *Service) enter(userNo int64, away bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads[userNo] >= maxReads || away && s.relays >= maxRelays {
		return false
	}
	s.reads[userNo]++
	if away {
		s.relays++
	}
	return true
}

func (s *Service) leave(userNo int64, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads[userNo]--; s.reads[userNo] == 0 {
		delete(s.reads, userNo)
	}
	if away {
		s.relays--
	}
}
