// Package federation is the protocol between homeservers: the signed server
// document, the closed signature profile over HTTP requests and answers, the
// transactions that carry messages, the inbox that receives them and the
// sender that delivers them in order until they are answered.
//
// It keeps nothing on disk and knows no users. What must be durable it asks of
// the small interfaces declared here (Outbox, Acceptor, Peers, SelfState,
// Directory), and what must reach the network goes through Transport.
package federation

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/clearbox-im/clearbox"
)

// Limits of the wire, protocol version 1. Both ends rely on them.
const (
	MaxItems       = 256       // items in one transaction
	MaxTransaction = 1 << 20   // bytes of one encoded transaction
	MaxAnswer      = 64 << 10  // bytes of one answer to a transaction
	MaxInFlight    = 4         // transactions of one class under way to one peer
	MaxDocument    = 64 << 10  // bytes of a signed server document
	MaxSmallBody   = 64 << 10  // bytes of any other request body
	MaxDirectory   = 1 << 20   // bytes of an answer with device lists or bundles
	MaxMulti       = 192 << 10 // bytes of a message for many recipients
	MaxStale       = 256       // people whose devices differ, in one answer
)

// Class separates streams with different promises.
type Class string

// The durable classes. The message class carries envelopes and bounces, the
// control class what people do not wait for, such as knocks. Each has its own
// stream: neither waits for the other.
const (
	ClassControl Class = "control"
	ClassMessage Class = "message"
)

// Valid tells whether c is one of the classes above.
func (c Class) Valid() bool { return c == ClassControl || c == ClassMessage }

// Item is one message for one person at the receiving server, with the
// envelopes for all of the person's devices, or one for all members of a group
// there; or a bounce, or a knock, or an operation of a group.
type Item struct {
	ID           clearbox.MessageID
	Sender       clearbox.UserID   // zero when sealed, and of a knock
	SenderDevice clearbox.DeviceID // 0 when sealed, of a knock, and of the bounce of a sealed message
	Recipient    clearbox.UserID   // zero of a knock, and of the bounce of a sealed message
	AcceptedAt   clearbox.Millis   // stamped by the sender's server when it accepted the submission
	Token        []byte            // 16 bytes: the recipient's delivery token or the id of their knock; nil: none
	Ref          []byte            // 16 bytes of the sender's server, of a sealed message and of its bounce
	Envelopes    []ItemEnvelope    // at most clearbox.MaxDevices
	Group        clearbox.GroupID  // of a sealed message among members of a group, in place of Token; else zero
	Epoch        uint64            // the state of the group in which it was sent
	Multi        []byte            // of one to all members of the receiving server, in place of Recipient and Envelopes: crypto/fanout's form for many recipients
	Void         bool              // withdrawn after its position was assigned; every other field is ignored
	Bounce       clearbox.Code     // no message: Sender did not get the message ID of Recipient, or of whom Ref means, for this reason; no envelopes
	Knock        *Knock            // no message: somebody asks to be accepted; of the control class
	Op           *GroupOp          // no message: what a hub tells of a group; of the control class
	Crit         []string          // names of fields the receiver must know (federation.md, 14)

	// Refused is set by the decoder, never sent: the item could not be
	// understood and must get the verdict rejected with this code. Its other
	// fields must not be used.
	Refused clearbox.Code
}

// Sealed tells whether it is a message whose sender stands inside only.
func (it *Item) Sealed() bool {
	return it.Sender.IsZero() && it.Knock == nil && it.Op == nil && it.Bounce == "" && !it.Void && it.Refused == ""
}

// Knock is somebody's wish to be accepted by the owner of a handle at the
// receiving server. The id of its item is the token of the answer.
type Knock struct {
	From   clearbox.UserID // of the server that speaks
	Handle clearbox.Handle // theirs
	To     clearbox.Handle // whom they ask, who need not exist
}

// ItemEnvelope is the ciphertext for one device.
type ItemEnvelope struct {
	Device       clearbox.DeviceID
	Registration uint16 // the registration id the sender encrypted for, 14 bits
	Type         clearbox.ContentType
	Content      []byte // at most clearbox.MaxContent bytes
}

// Size is an upper bound of the item's encoded size in bytes.
func (it *Item) Size() int {
	n := itemOverhead + len(it.Sender.Server) + len(it.Recipient.Server) + 2*len(it.Bounce)
	if k := it.Knock; k != nil {
		n += knockOverhead + len(k.From.Server) + len(k.Handle) + len(k.To)
	}
	if it.Op != nil {
		n += it.Op.size()
	}
	for i := range it.Envelopes {
		n += envelopeOverhead + len(it.Envelopes[i].Content)
	}
	for _, c := range it.Crit {
		n += 3 + len(c)
	}
	if !it.Group.IsZero() {
		n += groupOverhead + len(it.Multi)
	}
	return n
}

// weight is the number of envelopes as which an item counts: of a message to many
// one, and one for every 16 recipients that it says it has.
func (it *Item) weight() int {
	if len(it.Multi) > 1 {
		n, _ := binary.Uvarint(it.Multi[1:])
		return 1 + int(min(n, MaxMulti/66)/16)
	}
	return max(len(it.Envelopes), 1)
}

const (
	itemOverhead     = 240 // two uids, ids, token, ref, keys, lengths
	knockOverhead    = 64
	groupOverhead    = 72
	envelopeOverhead = 56
)

// Transaction is one batch on a stream. Item i has position FirstPos+i.
type Transaction struct {
	Stream   []byte // 16 random bytes, the epoch of the sender's numbering
	Class    Class
	Fence    int64 // the sender's lease; a receiver refuses a lower one than it has seen
	FirstPos int64 // from 1
	Items    []Item
}

// LastPos is the position of the last item.
func (t *Transaction) LastPos() int64 { return t.FirstPos + int64(len(t.Items)) - 1 }

// VerdictCode is the outcome of one item.
type VerdictCode string

// The verdicts (federation.md, 7).
const (
	VerdictOK       VerdictCode = "ok"       // stored for at least one device
	VerdictDup      VerdictCode = "dup"      // seen before
	VerdictDeferred VerdictCode = "deferred" // not stored; send again after RetryAfter under a new position
	VerdictRejected VerdictCode = "rejected" // never; Reason says why
)

// Verdict is the receiver's answer for one item.
type Verdict struct {
	Code           VerdictCode
	Reason         clearbox.Code // for rejected and deferred
	RetryAfter     time.Duration // for deferred; whole milliseconds
	DevicesVersion int64         // the recipient's current device list version, for ok and no_device
	Stale          []Stale       // of a message to many: whose devices are others than it was made for
}

// Stale names somebody of the answering server with the version of their current
// device list.
type Stale struct {
	UID     clearbox.UID
	Version int64
}

// Answer is the receiver's signed answer to one transaction.
type Answer struct {
	Stream          []byte
	FirstPos        int64
	AcceptedThrough int64     // the stream's last position at the receiver when it answered
	Verdicts        []Verdict // one per item, in order
}

// Lease is the right to send on (peer, class). Its fence is higher than that
// of every lease before it.
type Lease struct {
	Stream []byte
	Fence  int64
	Next   int64 // the position that the next new item gets
}

// Batch is what is dispatched as one transaction.
type Batch struct {
	FirstPos int64
	Items    []Item
	Rows     []int64 // the outbox's own row of each item; not sent
}

// LastPos is the position of the last item.
func (b *Batch) LastPos() int64 { return b.FirstPos + int64(len(b.Items)) - 1 }

// Outcome is what is known of an attempt that got no verdicts.
type Outcome int

// The outcomes. An item is certain not to have arrived only where none of its
// attempts was OutcomeUnknown.
const (
	OutcomeUnknown  Outcome = iota // no answer of the peer: it may have taken the batch
	OutcomeNotTaken                // the peer said, signed, that it did not take it
	OutcomeRefused                 // it said so because it wants none of this server's; or our own table let nothing out
)

// Outbox is the durable queue towards peers. The sender calls it from one
// goroutine per (peer, class); different pairs call it at the same time.
// An error from any method makes the sender drop its lease, wait and begin
// again with Lease and Pending, so every method must be safe to repeat.
type Outbox interface {
	// Lease takes (peer, class) over: it raises the fence durably and returns the stream,
	// creating one when there is none.
	Lease(ctx context.Context, peer clearbox.ServerName, class Class) (Lease, error)

	// Pending gives the dispatched and unanswered batches in order of position, each with the
	// items and positions it was dispatched with; withdrawn items as Void.
	Pending(ctx context.Context, peer clearbox.ServerName, class Class, lease Lease) ([]*Batch, error)

	// Take assigns the next positions to at most maxItems due items of at most maxBytes
	// (by Item.Size) and returns after that is durable. It returns nil when nothing is due.
	// One item is always taken even if it alone is larger than maxBytes.
	Take(ctx context.Context, peer clearbox.ServerName, class Class, lease Lease, maxItems, maxBytes int) (*Batch, error)

	// Settle records the verdicts durably: deletes, bounces or defers each item. Batches of a stream
	// are settled in order. A verdict for a void item is ignored. len(verdicts) == len(batch.Items).
	Settle(ctx context.Context, peer clearbox.ServerName, class Class, lease Lease, batch *Batch, verdicts []Verdict) error

	// Failed counts one attempt that got no verdicts, and says what is known of it.
	Failed(ctx context.Context, peer clearbox.ServerName, class Class, batch *Batch, outcome Outcome) error

	// Repeat is called before a batch of Pending, or a part of one, is sent again: from then on, durably,
	// the items may arrive, whatever became of earlier attempts. It refuses when an item was settled or
	// withdrawn since.
	Repeat(ctx context.Context, peer clearbox.ServerName, class Class, lease Lease, batch *Batch) error

	// Rewind is called when the receiver expects a position that no pending batch holds, or has accepted
	// one that was not given out yet (one side was restored from a backup). It opens a new stream id, gives the pending items new positions from 1 in
	// their order, durably, and returns the lease with the new stream; the fence may stay.
	Rewind(ctx context.Context, peer clearbox.ServerName, class Class, lease Lease, expected int64) (Lease, error)

	// Due names the peers that have something due or dispatched in class. The sender asks every 30 s,
	// so that a lost nudge and an item deferred before a restart cost time and nothing else.
	Due(ctx context.Context, class Class) ([]clearbox.ServerName, error)
}

// Acceptor stores what peers send.
type Acceptor interface {
	// Accept stores the transaction's items and the stream's last position in one durable update and
	// answers with one verdict per item. Sender and recipient checks are its own; peer is the server
	// that signed. It returns *FencedError when the fence is lower than one seen before, *GapError
	// when FirstPos is beyond last position + 1, and the stored first answer when the batch was seen.
	// Positions at or below the last one in a batch that reaches beyond it are dup and not stored again.
	// A stream id not seen before begins at position 1 and replaces the one before it.
	Accept(ctx context.Context, peer clearbox.ServerName, txn *Transaction) (*Answer, error)

	// Resume is called when the peer takes a lease on a stream. From then on, durably, no transaction
	// with a lower fence is accepted. It tells which stream of that class was accepted last and up to which
	// position, and returns *FencedError when a higher fence was seen.
	Resume(ctx context.Context, peer clearbox.ServerName, own Position) (Position, error)
}

// Account is what a server tells a peer about one of its users.
type Account struct {
	User       clearbox.UserID
	Handle     clearbox.Handle
	DeviceList []byte // signed (crypto/keys.DeviceList)
	Version    int64
	Token      []byte // 16 bytes: the delivery token, of people who may be written to without a knock; else nil
}

// PreKey is one public prekey with its signature (empty for a one-time EC key).
type PreKey struct {
	ID        uint32 `cbor:"id"`
	Public    []byte `cbor:"public"`
	Signature []byte `cbor:"signature,omitempty"`
}

// Bundle is what a stranger needs to begin a session with one device.
type Bundle struct {
	Device       clearbox.DeviceID `cbor:"device"`
	Registration uint16            `cbor:"registration"`
	Identity     []byte            `cbor:"identity"`
	Signed       PreKey            `cbor:"signed"`
	OneTime      *PreKey           `cbor:"one_time,omitempty"`
	KEM          PreKey            `cbor:"kem"`
}

// Directory serves peers' questions about local users. It answers alike for
// users that are unknown, banned or erased (clearbox.CodeRecipientUnavailable).
type Directory interface {
	PeerResolve(ctx context.Context, peer clearbox.ServerName, handle clearbox.Handle) (Account, error)
	PeerDevices(ctx context.Context, peer clearbox.ServerName, uid clearbox.UID) (Account, error)
	// PeerClaim gives one-time keys to who shows the person's delivery token, the id of a knock of theirs at the peer,
	// or the permit of a group in which they are and the peer has somebody.
	PeerClaim(ctx context.Context, peer clearbox.ServerName, claimID string, uid clearbox.UID, token []byte, devices []clearbox.DeviceID) ([]Bundle, error)
}
