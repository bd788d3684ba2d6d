package federation

import (
	"context"
	"errors"
	"time"

	"github.com/clearbox-im/clearbox"
)

// An attachment lies at the server of who sent it, as ciphertext. A reader's
// server asks for it piece by piece, on behalf of somebody whom it does not
// name, and passes the pieces on without keeping them (federation.md, 13). Each
// piece is an answer like every other, signed as a whole and bound to its
// question, so nothing in the profile is made weaker for the sake of streaming.

// Limits of attachments between servers.
const (
	MaxMediaPiece  = 512 << 10 // bytes of one piece
	maxMediaAnswer = MaxMediaPiece + 1024

	// MaxMediaSize is the largest object that a server believes another has, in
	// bytes. What a server takes from its own people is configured.
	MaxMediaSize = 8 << 30

	secretBytes = 32 // of what opens an object

	// A peer that asks to wait is waited for this often and this long.
	mediaWaits = 4
	mediaWait  = 5 * time.Second
)

// MediaQuestion asks for a piece of an attachment.
type MediaQuestion struct {
	Object clearbox.ObjectID
	Secret [secretBytes]byte // from the message; who shows it may read the object
	From   int64             // offset in bytes
	Most   int               // bytes, at most MaxMediaPiece
}

// MediaPiece is the answer.
type MediaPiece struct {
	Size   int64    // of the whole object in bytes
	Digest [32]byte // SHA-256 of the whole object
	Data   []byte   // from the asked offset on; as much as was asked for, unless the object ends
}

// Media serves peers' questions about attachments of local people.
type Media interface {
	// PeerMedia gives a piece. Objects that are not there and secrets that are not theirs are
	// clearbox.CodeNotFound alike.
	PeerMedia(ctx context.Context, peer clearbox.ServerName, q MediaQuestion) (MediaPiece, error)
}

type mediaRequest struct {
	Object []byte `cbor:"object"`
	Secret []byte `cbor:"secret"`
	From   int64  `cbor:"from"`
	Most   int    `cbor:"most"`
}

type mediaAnswer struct {
	Size   int64  `cbor:"size"`
	Digest []byte `cbor:"digest"`
	From   int64  `cbor:"from"`
	Data   []byte `cbor:"data"`
}

// EncodeMediaQuestion gives the body of a question.
func EncodeMediaQuestion(q *MediaQuestion) ([]byte, error) {
	b, err := encoder.Marshal(mediaRequest{Object: q.Object[:], Secret: q.Secret[:], From: q.From, Most: q.Most})
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeInternal, "the question could not be encoded", err)
	}
	return b, nil
}

// DecodeMediaQuestion reads one. What it returns is within the limits.
func DecodeMediaQuestion(b []byte) (*MediaQuestion, error) {
	var w mediaRequest
	if err := decodeBody(b, &w); err != nil {
		return nil, err
	}
	if len(w.Object) != len(clearbox.ObjectID{}) || len(w.Secret) != secretBytes || w.From < 0 || w.From > MaxMediaSize || w.Most < 1 || w.Most > MaxMediaPiece {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the question is out of range")
	}
	return &MediaQuestion{Object: clearbox.ObjectID(w.Object), Secret: [secretBytes]byte(w.Secret), From: w.From, Most: w.Most}, nil
}

// DecodeMediaPiece reads the answer to q. One that has more than was asked for,
// or less unless the object ends, or is of another place is refused: neither an
// endless nor a dripping answer gets further than one piece.
func DecodeMediaPiece(b []byte, q *MediaQuestion) (*MediaPiece, error) {
	var w mediaAnswer
	if err := decodeBody(b, &w); err != nil {
		return nil, err
	}
	if w.Size < 0 || w.Size > MaxMediaSize || len(w.Digest) != 32 || w.From != q.From || len(w.Data) > q.Most {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the answer is out of range")
	}
	if int64(len(w.Data)) != min(max(w.Size-q.From, 0), int64(q.Most)) {
		return nil, clearbox.Errorf(clearbox.CodeBadRequest, "the answer has another length than it says")
	}
	return &MediaPiece{Size: w.Size, Digest: [32]byte(w.Digest), Data: w.Data}, nil
}

// media answers a peer. What it asks for counts against the bytes of attachments
// that it gets in a second.
func (in *Inbox) media(ctx context.Context, peer clearbox.ServerName, body []byte) ([]byte, error) {
	q, err := DecodeMediaQuestion(body)
	if err != nil {
		return nil, err
	}
	if wait := take(in.quotas.known(peer).media, q.Most, in.opts.Now()); wait > 0 {
		return nil, &tooFast{wait: wait}
	}
	p, err := in.opts.Media.PeerMedia(ctx, peer, *q)
	if err != nil {
		return nil, err
	}
	return encoder.Marshal(mediaAnswer{Size: p.Size, Digest: p.Digest[:], From: q.From, Data: p.Data})
}

// Media asks a peer for a piece of an attachment. A peer that says to wait is
// waited for, some seconds at most. Errors: clearbox.CodeNotFound when the peer
// says that it does not have it or that the secret is another; else those of
// Resolve. What goes wrong here says nothing about messages: attachments have a
// circuit of their own.
func (c *Client) Media(ctx context.Context, server clearbox.ServerName, q MediaQuestion) (*MediaPiece, error) {
	body, err := EncodeMediaQuestion(&q)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		answer, err := c.askRaw(ctx, server, CircuitMedia, PathMedia, body, maxMediaAnswer)
		if err == nil {
			return DecodeMediaPiece(answer, &q)
		}
		var r *RefusedError
		if !errors.As(err, &r) {
			return nil, questionError(err)
		}
		if r.Code == clearbox.CodeRateLimited && try < mediaWaits && r.RetryAfter <= mediaWait && sleep(ctx, max(r.RetryAfter, 10*time.Millisecond)) {
			continue
		}
		if r.Code == clearbox.CodeNotFound && r.Signed {
			return nil, clearbox.Wrap(clearbox.CodeNotFound, "the attachment is no longer there", err)
		}
		return nil, questionError(err)
	}
}
