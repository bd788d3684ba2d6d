package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/clearbox-im/clearbox"
)

// The vault's keys. A person is named by the UUID of the service id, which is
// a hash of uid@server; numbers are hexadecimal with leading zeros so that
// order of keys is order of numbers.
//
//	account                     the account and this device
//	tokens                      the session
//	count/<name>                counters
//	contact/<uuid>              contact
//	addr/<name@server>          uid@server of who was found by that address
//	session/<uuid>/<device>     ratchet record
//	prekey/e|s|k/<id>           own private prekeys: one-time, signed, Kyber
//	prekey/used/<...>           uses of last-resort prekeys
//	prekey/state                ids and times of rotation
//	msg/<uuid>/<order>          message in the conversation with uuid
//	id/<uuid>/<message id>      where the message with that sender and id is
//	new/<order>                 incoming messages not shown yet
//	fate/<order>                own messages that ended in a way nobody was shown yet
//	out/<uuid>/<order>          what is to be sent to uuid
//	await/<message id>          own messages whose fate the server still knows better
//	receipt/<uuid>/<message id> delivered receipts not yet sent
//	held/<uuid>/<order>         envelopes waiting until a changed identity is accepted
//	token/own                   the own delivery token
//	certificate                 the own sender certificate
//	roots/<server>              what vouches for people of a server
//	sealed/<server>/<order>     envelopes waiting for such roots
//	knock/<id>                  own knocks that were not answered
//	wait/<uuid>/<order>         like out/, until uuid has accepted us
//	alias/<uuid>                uid@server that a provisional contact became
//	request/<uuid>              a knock of uuid that waits for an answer
//	answer/<knock id>           what the own server is to be told of a knock
//	lost/<uuid>/<order>         messages of uuid that could not be read and are asked for
//	healing                     counts of such messages
//	pace                        how often own devices were asked for them, and given them
//	askown                      there if own devices are to be asked for all that was decided
//	archive/keys                secrets of the archive, archive/state how far it is
//	archive/dirty/<key>         records that the archive lacks
//	check/<uuid>                whose list of devices is to be looked at
//	doubt/<uuid>                new keys of uuid that their list is to say something about
//	renewal                     identities that are to be the account's
//	synced/<key>                what own devices agree on about a record
//	syncwait/<order>            what an own device said that is not on the list yet
//	blocks                      there if the own server is to be told who is blocked
//	conv/<conversation>         timer, mute, pins and draft of a conversation
//	late/<conversation>/<...>   changes to messages that are not here yet
//	event/<uuid>/<...>          what somebody did to lines that were shown, not shown yet
//	reach/<order>/<uuid>        how far an own message to a group came with a member
//	told/<number>               the last receipts, not shown yet
//	again/<message id>          own messages that went to a member of a group again under that id
//	gone/<time>/<order>         when messages disappear, with their conversation
//	report/<uuid>/<message id>  messages of uuid that were reported from here
//	drop/<object>               files whose messages were taken back, still at the own server
//	upload/<SHA-256>            files on their way to the own server, by their content
//	settings                    what the person chose
//	profile                     the own card and its key
//
// A conversation is named by the UUID of the person, or by g and the group's id:
// wherever uuid stands for a conversation above, that may stand too.
const (
	keyAccount    = "account"
	keyTokens     = "tokens"
	keyPreKeys    = "prekey/state"
	keySeq        = "count/seq"   // highest seq stored
	keyOrder      = "count/order" // last order given
	prefixMsg     = "msg/"
	prefixID      = "id/"
	prefixNew     = "new/"
	prefixFate    = "fate/"
	prefixOut     = "out/"
	prefixAwait   = "await/"
	prefixHeld    = "held/"
	prefixRcpt    = "receipt/"
	prefixContac  = "contact/"
	prefixAddr    = "addr/"
	prefixSealed  = "sealed/"
	prefixKnock   = "knock/"
	prefixWait    = "wait/"
	prefixAlias   = "alias/"
	prefixReq     = "request/"
	prefixAnswer  = "answer/"
	prefixLost    = "lost/"
	prefixSession = "session/"
	prefixConv    = "conv/"
	prefixLate    = "late/"
	prefixEvent   = "event/"
	prefixGone    = "gone/"
	prefixUpload  = "upload/"
	prefixDrop    = "drop/"
	prefixReport  = "report/"

	keyOwnToken    = "token/own"
	keyCertificate = "certificate"
	keyBlocks      = "blocks"
	keyHealing     = "healing"
	keySettings    = "settings"
	keyProfile     = "profile"
	keyIgnored     = "count/ignored" // changes by people who may not
	keyForget      = "count/forget"  // deletions that are in the vault's files yet
)

func contactKey(uuid string) string { return prefixContac + uuid }
func messageKey(uuid string, order uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefixMsg, uuid, order)
}
func outKey(uuid string, order uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefixOut, uuid, order)
}
func newKey(order uint64) string  { return fmt.Sprintf("%s%016x", prefixNew, order) }
func fateKey(order uint64) string { return fmt.Sprintf("%s%016x", prefixFate, order) }
func heldKey(uuid string, order uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefixHeld, uuid, order)
}
func idKey(uuid string, id clearbox.MessageID) string { return prefixID + uuid + "/" + id.String() }
func receiptKey(uuid string, id clearbox.MessageID) string {
	return prefixRcpt + uuid + "/" + id.String()
}
func waitKey(uuid string, order uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefixWait, uuid, order)
}
func lostKey(uuid string, order uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefixLost, uuid, order)
}

// ofGroup tells whether a key of outKey is that of a whole group.
func ofGroup(key string) bool                        { return strings.HasPrefix(key, prefixOut+"g") }
func knockKey(id clearbox.MessageID) string          { return prefixKnock + id.String() }
func requestKey(uuid string) string                  { return prefixReq + uuid }
func rootsKey(server clearbox.ServerName) string     { return "roots/" + string(server) }
func sealedPrefix(server clearbox.ServerName) string { return prefixSealed + string(server) + "/" }
func sealedKey(server clearbox.ServerName, order uint64) string {
	return fmt.Sprintf("%s%016x", sealedPrefix(server), order)
}

// serverOf cuts the server out of a key of sealedKey.
func serverOf(key string) clearbox.ServerName {
	server, _, _ := strings.Cut(key[len(prefixSealed):], "/")
	return clearbox.ServerName(server)
}

// orderOf cuts the order out of a key that ends with one; 0 if it does not.
func orderOf(key string) uint64 {
	n, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 16, 64)
	if err != nil {
		return 0
	}
	return n
}
func awaitKey(id clearbox.MessageID) string { return prefixAwait + id.String() }

// The CBOR modes are built once and never change.
var (
	recordOut = mustEncode()
	recordIn  = mustDecode(cbor.ExtraDecErrorNone)
)

// mustEncode and mustDecode panic when options contradict each other, which is
// a mistake in this file.
func mustEncode() cbor.EncMode {
	o := cbor.CoreDetEncOptions() // RFC 8949, 4.2.1
	o.TextMarshaler = cbor.TextMarshalerTextString
	m, err := o.EncMode()
	if err != nil {
		panic("core: " + err.Error())
	}
	return m
}

func mustDecode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  4096,
		MaxMapPairs:       64,
		UTF8:              cbor.UTF8RejectInvalid,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		TextUnmarshaler:   cbor.TextUnmarshalerTextString,
		ExtraReturnErrors: extra,
	}.DecMode()
	if err != nil {
		panic("core: " + err.Error())
	}
	return m
}

// load reads the record at key; nil if there is none.
func load[T any](r Reader, key string) (*T, error) {
	b, err := r.Get(key)
	if errors.Is(err, ErrNoValue) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse[T](b)
}

func parse[T any](b []byte) (*T, error) {
	v := new(T)
	if err := recordIn.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("read a record of the vault: %w", err)
	}
	return v, nil
}

// save writes v at key.
func save(tx Tx, key string, v any) error {
	b, err := recordOut.Marshal(v)
	if err != nil {
		return fmt.Errorf("write a record of the vault: %w", err)
	}
	return tx.Put(key, b)
}

// count reads a counter; 0 if there is none.
func count(r Reader, key string) (uint64, error) {
	b, err := r.Get(key)
	if errors.Is(err, ErrNoValue) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, errors.New("a counter of the vault is malformed")
	}
	return binary.BigEndian.Uint64(b), nil
}

func setCount(tx Tx, key string, n uint64) error {
	return tx.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

// nextOrder gives the next number of the one local order of messages.
func nextOrder(tx Tx) (uint64, error) {
	n, err := count(tx, keyOrder)
	if err != nil {
		return 0, err
	}
	return n + 1, setCount(tx, keyOrder, n+1)
}

// heads gives, for a prefix whose keys go on with a conversation and a slash,
// each conversation once, in order.
func heads(r Reader, prefix string) ([]string, error) {
	var out []string
	after := ""
	for {
		entries, err := r.List(Range{Prefix: prefix, After: after, Limit: 1})
		if err != nil || len(entries) == 0 {
			return out, err
		}
		uuid := uuidOf(prefix, entries[0].Key)
		out = append(out, uuid)
		after = prefix + uuid + "/\xff"
	}
}

// uuidOf cuts the conversation out of a key.
func uuidOf(prefix, key string) string {
	head, _, _ := strings.Cut(key[len(prefix):], "/")
	return head
}
