package federation

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
)

// FeatureGossip in a document says that its server answers gossip.
const FeatureGossip = "gossip"

// Bounds of gossip. Whoever asks learns about each name it asks for whether the
// other side has that peer, so names are few and answers are rare.
const (
	maxGossipAsked = 64               // names in one greeting
	maxGossipViews = 256              // views in one answer
	gossipEvery    = 10 * time.Minute // how often one peer is answered

	gossipWord = "clearbox gossip v1\x00"
	gossipView = "clearbox gossip view v1\x00"
	gossipTag  = 16 // bytes of a view that say whose it is to those who know the name
)

// Gossip compares what third servers show. The asker names its peers in a form
// that says nothing; the answer evaluates those under a key of this one exchange
// and carries what the answering side holds of its own peers, each sealed under
// what only an asker of that very name can compute (curve.Blind). So the asker
// learns about servers that both know, and the answering side learns nothing.
type Gossip struct {
	Asked     [][]byte `cbor:"asked,omitempty"`     // in a greeting
	Evaluated [][]byte `cbor:"evaluated,omitempty"` // in the answer, in the order of Asked
	Views     [][]byte `cbor:"views,omitempty"`     // in the answer, in no order
}

// view is what a server holds of a third one.
type view struct {
	Seq  int64    `cbor:"seq"`
	Hash []byte   `cbor:"hash"`
	Pins [][]byte `cbor:"pins"` // SHA-256 of each identity that signed
}

// asking is what the asker remembers until the answer.
type asking struct {
	blind *curve.Blind
	names []clearbox.ServerName // in the order in which they were asked
	asked [][]byte
}

func (a *asking) request() *Gossip {
	if a == nil {
		return nil
	}
	return &Gossip{Asked: a.asked}
}

// gossips tells whether third servers are spoken about with a peer: both sides
// allow it, and both have listed the other.
func (c *Client) gossips(p *Peer) bool {
	if !c.opts.Gossip || p.State != PeerActive || p.FirstUse {
		return false
	}
	doc := c.document(p)
	return doc != nil && slices.Contains(doc.Protocol.Features, FeatureGossip)
}

// others are the active peers but one, at most n of them, in no order.
func (c *Client) others(ctx context.Context, but clearbox.ServerName, n int) []clearbox.ServerName {
	active, err := c.peers.Active(ctx)
	if err != nil {
		return nil
	}
	names := slices.DeleteFunc(slices.Clone(active), func(s clearbox.ServerName) bool { return s == but })
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] }) // who comes into the answer is no secret
	return names[:min(n, len(names))]
}

// askAround prepares the question for a greeting; nil when there is none.
func (c *Client) askAround(ctx context.Context, server clearbox.ServerName) *asking {
	p, err := c.peers.Peer(ctx, server)
	if err != nil || !c.gossips(&p) {
		return nil
	}
	a := &asking{names: c.others(ctx, server, maxGossipAsked)}
	if len(a.names) == 0 {
		return nil
	}
	if a.blind, err = curve.NewBlind(c.opts.Random); err != nil {
		return nil // there is another greeting tomorrow
	}
	for _, name := range a.names {
		a.asked = append(a.asked, a.blind.Ask(gossipWord, []byte(name)))
	}
	return a
}

// gossip answers a question; nil when the peer gets none.
func (c *Client) gossip(ctx context.Context, server clearbox.ServerName, q *Gossip) *Gossip {
	if q == nil || len(q.Asked) == 0 || len(q.Asked) > maxGossipAsked {
		return nil
	}
	p, err := c.peers.Peer(ctx, server)
	if err != nil || !c.gossips(&p) || !c.mayTell(server) {
		return nil
	}
	blind, err := curve.NewBlind(c.opts.Random)
	if err != nil {
		return nil
	}
	answer := &Gossip{}
	for _, asked := range q.Asked {
		e, err := blind.Evaluate(asked)
		if err != nil {
			return nil
		}
		answer.Evaluated = append(answer.Evaluated, e)
	}
	for _, name := range c.others(ctx, server, maxGossipViews) {
		if v := c.viewOf(ctx, name); v != nil {
			answer.Views = append(answer.Views, sealView(v, name, blind.Word(gossipWord, []byte(name))))
		}
	}
	return answer
}

// mayTell takes a peer's one answer of the time.
func (c *Client) mayTell(server clearbox.ServerName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, now := c.entry(server), c.opts.Now()
	if !k.told.IsZero() && now.Sub(k.told) < gossipEvery && !now.Before(k.told) {
		return false
	}
	k.told = now
	return true
}

func (c *Client) viewOf(ctx context.Context, server clearbox.ServerName) *view {
	doc := c.Document(ctx, server)
	if doc == nil {
		return nil
	}
	hash := doc.Hash()
	v := &view{Seq: doc.Seq, Hash: hash[:]}
	for _, k := range doc.signers {
		pin := sha256.Sum256(k)
		v.Pins = append(v.Pins, pin[:])
	}
	return v
}

// viewKey gives the tag and the key of a view. A key seals one view.
func viewKey(name clearbox.ServerName, word []byte) (tag []byte, seal cipher.AEAD) {
	h := sha512.New()
	h.Write([]byte(gossipView))
	h.Write(word)
	h.Write([]byte(name))
	sum := h.Sum(nil)
	block, err := aes.NewCipher(sum[gossipTag : gossipTag+32])
	if err == nil {
		seal, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic("federation: AES-256-GCM: " + err.Error())
	}
	return sum[:gossipTag], seal
}

func sealView(v *view, name clearbox.ServerName, word []byte) []byte {
	plain, err := encoder.Marshal(v)
	if err != nil {
		panic("federation: a view cannot be encoded: " + err.Error())
	}
	tag, seal := viewKey(name, word)
	return seal.Seal(bytes.Clone(tag), make([]byte, seal.NonceSize()), plain, nil)
}

// listen compares the answer with what is held here.
func (c *Client) listen(ctx context.Context, teller clearbox.ServerName, a *asking, answer *Gossip) {
	if a == nil || answer == nil || len(answer.Evaluated) != len(a.names) || len(answer.Views) > maxGossipViews {
		return
	}
	views := map[string][]byte{}
	for _, v := range answer.Views {
		if len(v) > gossipTag {
			views[string(v[:gossipTag])] = v[gossipTag:]
		}
	}
	for i, name := range a.names {
		word, err := a.blind.Reveal(answer.Evaluated[i])
		if err != nil {
			return
		}
		tag, seal := viewKey(name, word)
		sealed, known := views[string(tag)]
		if !known {
			continue
		}
		var theirs view
		plain, err := seal.Open(nil, make([]byte, seal.NonceSize()), sealed, nil)
		if err != nil || decoder.Unmarshal(plain, &theirs) != nil {
			continue
		}
		c.confront(ctx, teller, name, &theirs)
	}
}

// confront judges two views of one server. During a rotation of its identity
// one side may know the old and the other the new one: the newer document is
// signed by both.
func (c *Client) confront(ctx context.Context, teller, name clearbox.ServerName, theirs *view) {
	ours := c.viewOf(ctx, name)
	if ours == nil {
		return
	}
	signed := slices.ContainsFunc(ours.Pins, func(pin []byte) bool {
		return slices.ContainsFunc(theirs.Pins, func(other []byte) bool { return bytes.Equal(pin, other) })
	})
	switch {
	case !signed:
		c.opts.Log.Error("split view: a server shows another identity to a peer", "peer", string(name), "told_by", string(teller))
		c.alert(name, AlertSplitView)
	case ours.Seq == theirs.Seq && !bytes.Equal(ours.Hash, theirs.Hash):
		c.opts.Log.Error("split view: a server shows another document under the same sequence to a peer", "peer", string(name), "told_by", string(teller), "seq", ours.Seq)
		c.alert(name, AlertSplitView)
	case theirs.Seq > ours.Seq:
		c.refetchLater(name)
	}
}
