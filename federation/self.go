package federation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Life of documents (federation.md, 4).
const (
	reissueAfter = 24 * time.Hour // age at which a document is issued again
	selfRecheck  = time.Hour
)

// SelfState keeps what Self must not lose: the operational keys and the last
// document. The blob holds private keys; the implementation seals it at rest.
type SelfState interface {
	LoadSelf(ctx context.Context) ([]byte, error) // nil when there is none
	SaveSelf(ctx context.Context, blob []byte) error
}

// SelfOptions configure Self; Endpoints is required.
type SelfOptions struct {
	Endpoints []Endpoint
	Legal     Legal
	Features  []string
	Previous  ed25519.PrivateKey // the identity before a rotation, or nil
	Now       func() time.Time   // default time.Now
	Random    io.Reader          // default crypto/rand
	Log       *slog.Logger       // default discards
}

// Self is this homeserver towards its peers: it signs requests and answers
// with the current operational key and publishes the server document. It is
// safe for concurrent use.
type Self struct {
	server   clearbox.ServerName
	identity ed25519.PrivateKey
	state    SelfState
	opts     SelfOptions

	issue sync.Mutex // one issuer at a time; held across SaveSelf

	mu    sync.RWMutex // guards the fields below
	blob  selfBlob
	doc   *Document
	keys  []ed25519.PrivateKey // parallel to blob.Keys, nil for keys of another curve
	onDoc func()
}

type selfBlob struct {
	Seq      int64     `json:"seq"`
	Content  []byte    `json:"content"` // hash of what the document says besides sequence and times
	Document []byte    `json:"document"`
	Keys     []selfKey `json:"keys"`
}

// OpenSelf loads the operational keys and the document, or makes them, and
// issues a new document when the old one is older than a day or says something
// else than the options do.
func OpenSelf(ctx context.Context, server clearbox.ServerName, identity ed25519.PrivateKey, state SelfState, opts SelfOptions) (*Self, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Random == nil {
		opts.Random = rand.Reader
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Self{server: server, identity: identity, state: state, opts: opts}
	blob, err := state.LoadSelf(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the server's own keys: %w", err)
	}
	if blob != nil {
		if err := json.Unmarshal(blob, &s.blob); err != nil {
			return nil, fmt.Errorf("read the server's own keys: %w", err)
		}
		s.adopt(s.blob)
		if s.doc, err = ParseDocument(s.blob.Document); err != nil {
			return nil, fmt.Errorf("read the server's own document: %w", err)
		}
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Server is the own server name.
func (s *Self) Server() clearbox.ServerName { return s.server }

// Document is the current document. The caller must not change it.
func (s *Self) Document() *Document {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.doc
}

// Run issues the document again before it grows old and rotates the
// operational key. It blocks until ctx ends.
func (s *Self) Run(ctx context.Context) error {
	tick := time.NewTicker(selfRecheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := s.refresh(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("server document not renewed", "code", string(clearbox.CodeOf(err)), "error", err.Error())
			}
		}
	}
}

// OnDocument registers fn to be called after each new document, such as
// Sender.Greet so that peers hear of it. It is meant for assembly, before Run.
func (s *Self) OnDocument(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onDoc = fn
}

// refresh issues a new document if one is due and rotates keys if they are.
func (s *Self) refresh(ctx context.Context) error {
	s.issue.Lock()
	defer s.issue.Unlock()
	s.mu.RLock()
	blob, doc := s.blob, s.doc
	s.mu.RUnlock()

	now := s.opts.Now()
	keys, rotated, err := rotateKeys(blob.Keys, now, s.opts.Random)
	if err != nil {
		return err
	}
	content, err := s.content()
	if err != nil {
		return err
	}
	fresh := doc != nil && string(blob.Content) == string(content) && !rotated &&
		now.Sub(time.UnixMilli(int64(doc.Issued))) < reissueAfter && now.UnixMilli() < int64(doc.Expires)
	if fresh {
		return nil
	}
	next := &Document{
		Server: s.server,
		// The clock's seconds as a floor keep the sequence rising after a restore from a backup.
		Seq:       max(blob.Seq+1, now.Unix()),
		Issued:    clearbox.Millis(now.UnixMilli()),
		Expires:   clearbox.Millis(now.Add(MaxDocumentLife).UnixMilli()),
		Endpoints: s.opts.Endpoints,
		Protocol:  Protocol{Min: Version, Max: Version, Features: s.opts.Features},
		Legal:     s.opts.Legal,
	}
	if doc != nil {
		h := doc.Hash()
		next.Prev = b64.EncodeToString(h[:])
	}
	for i := range keys {
		k, err := keys[i].public()
		if err != nil {
			return err
		}
		next.Keys = append(next.Keys, k)
	}
	identities := []ed25519.PrivateKey{s.identity}
	if s.opts.Previous != nil {
		identities = append(identities, s.opts.Previous)
	}
	raw, err := next.Sign(identities...)
	if err != nil {
		return err
	}
	if _, err := ParseDocument(raw); err != nil {
		return fmt.Errorf("issue the server document: %w", err) // an endpoint or a text out of bounds
	}
	saved := selfBlob{Seq: next.Seq, Content: content, Document: raw, Keys: keys}
	enc, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("encode the server's own keys: %w", err)
	}
	if err := s.state.SaveSelf(ctx, enc); err != nil {
		return fmt.Errorf("save the server's own keys: %w", err)
	}
	s.mu.Lock()
	s.adopt(saved)
	s.doc = next
	told := s.onDoc
	s.mu.Unlock()
	if told != nil {
		told()
	}
	return nil
}

// adopt needs mu for writing, or an s that nobody else holds yet.
func (s *Self) adopt(blob selfBlob) {
	s.blob = blob
	s.keys = make([]ed25519.PrivateKey, len(blob.Keys))
	for i := range blob.Keys {
		if rule, ok := ruleOf(blob.Keys[i].purpose()); ok && rule.curve == curveEd25519 {
			s.keys[i] = ed25519.NewKeyFromSeed(blob.Keys[i].Seed)
		}
	}
}

// content hashes what decides whether a new document is needed besides time
// and keys.
func (s *Self) content() ([]byte, error) {
	b, err := json.Marshal([]any{s.identity.Public(), s.opts.Previous != nil, s.opts.Endpoints, s.opts.Legal, s.opts.Features, Version})
	if err != nil {
		return nil, fmt.Errorf("encode the server document: %w", err)
	}
	h := sha256.Sum256(b)
	return h[:], nil
}
