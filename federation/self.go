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
	Endpoints     []Endpoint
	Legal         Legal
	Features      []string
	Protocol      Protocol           // default MinVersion to Version; its features are ignored
	Previous      ed25519.PrivateKey // the identity before a rotation, or nil
	PreviousUntil clearbox.Millis    // when Previous stops to sign; 0 is never
	Now           func() time.Time   // default time.Now
	Random        io.Reader          // default crypto/rand
	Log           *slog.Logger       // default discards
}

// Identity is the key that signs server documents and, for a time after a
// rotation, the one before it.
type Identity struct {
	Key           ed25519.PrivateKey // nil: it is offline, documents signed in advance are published
	Previous      ed25519.PrivateKey // or nil
	PreviousUntil clearbox.Millis    // 0 is never
}

// signers are the keys that sign a document issued at now, the identity first.
func (id *Identity) signers(now time.Time) []ed25519.PrivateKey {
	if id.Previous != nil && (id.PreviousUntil == 0 || now.UnixMilli() < int64(id.PreviousUntil)) {
		return []ed25519.PrivateKey{id.Key, id.Previous}
	}
	return []ed25519.PrivateKey{id.Key}
}

// Self is this homeserver towards its peers: it signs requests and answers
// with the current operational key and publishes the server document. It is
// safe for concurrent use.
type Self struct {
	server clearbox.ServerName
	state  SelfState
	opts   SelfOptions

	issue  sync.Mutex // one issuer at a time; held across SaveSelf
	warned bool       // guarded by issue: that the words of the configuration wait for the identity

	mu       sync.RWMutex // guards the fields below
	identity Identity
	blob     selfBlob
	doc      *Document
	keys     []ed25519.PrivateKey // parallel to blob.Keys, nil for keys of another curve
	onDoc    func()
}

type selfBlob struct {
	Seq      int64     `json:"seq"`
	Content  []byte    `json:"content"` // hash of what the document says besides sequence and times
	Document []byte    `json:"document"`
	Keys     []selfKey `json:"keys"`

	Issued []issued        `json:"issued,omitempty"`        // documents that peers may still hold, the newest last
	Ahead  []advance       `json:"ahead,omitempty"`         // signed in advance for when the identity is offline
	Until  clearbox.Millis `json:"offline_until,omitempty"` // when the last of them ends; 0: the identity is at hand
}

// issued remembers a document that was published.
type issued struct {
	Hash    []byte          `json:"hash"`
	Max     string          `json:"max"` // the highest protocol version it offered
	Expires clearbox.Millis `json:"exp"`
}

// maxIssued is far more documents than a week sees.
const maxIssued = 64

// OpenSelf loads the operational keys and the document, or makes them, and
// issues a new document when the old one is older than a day or says something
// else than the options do. Without an identity key it publishes what GoOffline
// signed in advance; when there is nothing of that, the error is an
// *clearbox.Error with CodeNotFound.
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
	if opts.Protocol.Max == "" {
		opts.Protocol = Protocol{Min: MinVersion, Max: Version}
	}
	opts.Protocol.Features = opts.Features
	s := &Self{
		server: server, state: state, opts: opts,
		identity: Identity{Key: identity, Previous: opts.Previous, PreviousUntil: opts.PreviousUntil},
	}
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
	if identity == nil && s.blob.Until == 0 {
		return nil, clearbox.Errorf(clearbox.CodeNotFound, "the identity key is missing and no documents were signed in advance")
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

// Protocol is the range of versions spoken here.
func (s *Self) Protocol() Protocol { return s.opts.Protocol }

// Usable refuses when the current document has run out, which happens when the
// identity is offline for longer than documents were signed for. Peers would
// refuse what is signed then, so nothing is.
func (s *Self) Usable() error {
	if s.opts.Now().UnixMilli() >= int64(s.Document().Expires) {
		return clearbox.Errorf(clearbox.CodeExpired, "this server's own document has expired")
	}
	return nil
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
	blob, doc, identity := s.snapshot()
	if identity.Key == nil {
		return s.publish(ctx, blob)
	}
	return s.renew(ctx, blob, doc, &identity, false)
}

func (s *Self) snapshot() (selfBlob, *Document, Identity) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.blob, s.doc, s.identity
}

// renew needs issue and an identity at hand. blob is what the next one is made
// of; its keys may have been changed, which the caller tells.
func (s *Self) renew(ctx context.Context, blob selfBlob, doc *Document, identity *Identity, changed bool) error {
	now := s.opts.Now()
	keys, rotated, err := rotateKeys(blob.Keys, now, s.opts.Random)
	if err != nil {
		return err
	}
	content, err := s.content(identity, now)
	if err != nil {
		return err
	}
	fresh := doc != nil && string(blob.Content) == string(content) && !rotated && !changed && blob.Until == 0 &&
		now.Sub(time.UnixMilli(int64(doc.Issued))) < reissueAfter && now.UnixMilli() < int64(doc.Expires)
	if fresh {
		return nil
	}
	// The clock's seconds as a floor keep the sequence rising after a restore from a backup.
	seq := max(blob.Seq+int64(len(blob.Ahead))+1, now.Unix())
	next, err := s.compose(doc, seq, now, now.Add(MaxDocumentLife), keys, identity)
	if err != nil {
		return err
	}
	return s.save(ctx, selfBlob{Seq: next.Seq, Content: content, Document: next.raw, Keys: keys, Issued: blob.Issued}, next)
}

// compose signs the document that follows prev, which may be nil.
func (s *Self) compose(prev *Document, seq int64, issued, expires time.Time, keys []selfKey, identity *Identity) (*Document, error) {
	next := &Document{
		Server: s.server, Seq: seq,
		Issued: clearbox.Millis(issued.UnixMilli()), Expires: clearbox.Millis(expires.UnixMilli()),
		Endpoints: s.opts.Endpoints, Protocol: s.opts.Protocol, Legal: s.opts.Legal,
	}
	if prev != nil {
		h := prev.Hash()
		next.Prev = b64.EncodeToString(h[:])
	}
	for i := range keys {
		k, err := keys[i].public()
		if err != nil {
			return nil, err
		}
		next.Keys = append(next.Keys, k)
	}
	raw, err := next.Sign(identity.signers(issued)...)
	if err != nil {
		return nil, err
	}
	doc, err := ParseDocument(raw)
	if err != nil {
		return nil, fmt.Errorf("issue the server document: %w", err) // an endpoint or a text out of bounds
	}
	return doc, nil
}

// save makes blob durable, then the current one, and tells who waits for new
// documents. It needs issue.
func (s *Self) save(ctx context.Context, blob selfBlob, doc *Document) error {
	now := clearbox.Millis(s.opts.Now().UnixMilli())
	slack := clearbox.Millis(documentSlack.Milliseconds())
	var kept []issued
	for _, i := range blob.Issued {
		if i.Expires+slack >= now {
			kept = append(kept, i)
		}
	}
	hash := doc.Hash()
	kept = append(kept, issued{Hash: hash[:], Max: doc.Protocol.Max, Expires: doc.Expires})
	blob.Issued = kept[max(0, len(kept)-maxIssued):]
	enc, err := json.Marshal(blob)
	if err != nil {
		return fmt.Errorf("encode the server's own keys: %w", err)
	}
	if err := s.state.SaveSelf(ctx, enc); err != nil {
		return fmt.Errorf("save the server's own keys: %w", err)
	}
	s.mu.Lock()
	s.adopt(blob)
	s.doc = doc
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
func (s *Self) content(identity *Identity, now time.Time) ([]byte, error) {
	var signers [][]byte
	for _, k := range identity.signers(now) {
		signers = append(signers, k.Public().(ed25519.PublicKey))
	}
	return s.words(signers)
}

// words hashes what the options say, with the public keys that sign.
func (s *Self) words(signers [][]byte) ([]byte, error) {
	b, err := json.Marshal([]any{signers, s.opts.Endpoints, s.opts.Legal, s.opts.Protocol})
	if err != nil {
		return nil, fmt.Errorf("encode the server document: %w", err)
	}
	h := sha256.Sum256(b)
	return h[:], nil
}

// holding tells whether the hash is that of a document which this server issued
// and peers may still hold, and the highest version that it offered.
func (s *Self) holding(hash []byte) (version string, ours bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, i := range s.blob.Issued {
		if string(i.Hash) == string(hash) {
			return i.Max, true
		}
	}
	return "", false
}

// lowest is the lowest of the highest versions that documents offered which
// peers may still hold.
func (s *Self) lowest() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now, slack := clearbox.Millis(s.opts.Now().UnixMilli()), clearbox.Millis(documentSlack.Milliseconds())
	low := s.opts.Protocol.Max
	for _, i := range s.blob.Issued {
		if i.Expires+slack >= now && versionBelow(i.Max, low) {
			low = i.Max
		}
	}
	return low
}
