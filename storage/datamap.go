package storage

import "slices"

// ColumnFate says what becomes of one column: gdpr.md 6 to 12. The record of
// processing and the exporter are generated from it, and a test fails when the
// live schema has a column that is missing here.
type ColumnFate struct {
	Table, Column string
	Personal      Personal
	Purpose       string // why it is kept
	Basis         Basis
	Export        Export
	Erase         Erase
	Retention     string // for how long
}

// Personal is how a column relates to people.
type Personal string

// The kinds.
const (
	NotPersonal Personal = "no"
	Pseudonym   Personal = "pseudonym" // a random or local number; a person only together with sealed columns
	SealedData  Personal = "sealed"    // readable with the person's key only
	BlindIndex  Personal = "index"     // a keyed hash
	PlainData   Personal = "plain"     // about a person, readable; no other form serves the purpose
)

// Basis is the legal basis (GDPR, article 6, paragraph 1).
type Basis string

// The bases.
const (
	BasisNone       Basis = "none needed"
	BasisContract   Basis = "6(1)(b) service that the person asked for"
	BasisConsent    Basis = "6(1)(a) consent"
	BasisObligation Basis = "6(1)(c) accountability, articles 5(2), 7(1) and 32"
	BasisInterest   Basis = "6(1)(f) security of the service"
)

// Export is whether the person's package (articles 15 and 20) holds it.
type Export string

// The answers.
const (
	ExportYes    Export = "yes"
	ExportNo     Export = "no"               // not personal, or of another person
	ExportSecret Export = "no: a credential" // would endanger the account
)

// Erase is what erasure does.
type Erase string

// The ways.
const (
	EraseNothing Erase = "nothing to do"
	EraseShred   Erase = "key destroyed at once, then the row deleted or emptied"
	EraseRow     Erase = "row deleted"
	EraseIndex   Erase = "set to nothing at once"
	EraseKeep    Erase = "kept: means nobody once the key is destroyed"
)

// Retentions that several tables share.
const (
	whileAccount = "while the account exists"
	untilAck     = "until the device acknowledged it, at most 30 days"
	untilPeer    = "until the peer's verdict, at most 14 days"
	untilKnock   = "14 days"
	untilMedia   = "until the person deletes it, at most 30 days"
	whileGroup   = "while the group exists here"
	operational  = "while the server runs"
)

// table is one table's entry; columns that share a fate share a line.
type table struct {
	name string
	rows []fate
}

type fate struct {
	columns []string
	ColumnFate
}

func same(personal Personal, purpose string, basis Basis, export Export, erase Erase, retention string, columns ...string) fate {
	return fate{columns, ColumnFate{Personal: personal, Purpose: purpose, Basis: basis, Export: export, Erase: erase, Retention: retention}}
}

// Datamap lists the fate of every column of the database.
func Datamap() []ColumnFate {
	var out []ColumnFate
	for _, t := range slices.Concat(peopleTables(), contactTables(), groupTables(), queueTables()) {
		for _, f := range t.rows {
			for _, c := range f.columns {
				row := f.ColumnFate
				row.Table, row.Column = t.name, c
				out = append(out, row)
			}
		}
	}
	return out
}

func peopleTables() []table {
	return []table{
		{"users", []fate{
			same(Pseudonym, "name the account", BasisContract, ExportYes, EraseKeep, "for ever, so that it is never given again", "no", "uid", "key_id", "state"),
			same(SealedData, "be found and recognised", BasisContract, ExportYes, EraseShred, whileAccount, "handle", "device_list"),
			same(BlindIndex, "be found by handle", BasisContract, ExportNo, EraseIndex, whileAccount, "handle_index"),
			same(SealedData, "sign in", BasisContract, ExportSecret, EraseShred, whileAccount, "password"),
			same(PlainData, "know what the account may do and agreed to", BasisContract, ExportYes, EraseKeep, whileAccount, "role", "devices_version", "notice_version", "created"),
		}},
		{"resets", []fate{
			same(Pseudonym, "set a forgotten password anew", BasisContract, ExportSecret, EraseRow, "until used or expired", "hash", "user_no", "expires"),
		}},
		{"devices", []fate{
			same(Pseudonym, "name the device", BasisContract, ExportYes, EraseKeep, "for ever, so that it is never given again", "no", "user_no", "device_id", "registration"),
			same(PlainData, "let others encrypt for the device", BasisContract, ExportYes, EraseRow, "until the device is removed", "public_key"),
			same(SealedData, "tell one's devices apart", BasisContract, ExportYes, EraseShred, "until the device is removed", "name"),
			same(PlainData, "find forgotten devices; to the day", BasisContract, ExportYes, EraseKeep, whileAccount, "added", "last_seen_day", "removed"),
		}},
		{"mailboxes", []fate{
			same(Pseudonym, "deliver in order and within the quota", BasisContract, ExportNo, EraseRow, "until the device is removed",
				"device_no", "next_seq", "acked_seq", "mails", "bytes", "next_expiry"),
		}},
		{"mail", []fate{
			same(Pseudonym, "deliver messages", BasisContract, ExportNo, EraseRow, untilAck, "id", "expires", "body_no", "body_size"),
			same(SealedData, "deliver messages; end-to-end encrypted inside", BasisContract, ExportNo, EraseShred, untilAck, "wrapped", "payload"),
		}},
		{"bodies", []fate{
			same(NotPersonal, "store a message to many once", BasisNone, ExportNo, EraseNothing, "until the last mail that points to it is gone", "no"),
			same(SealedData, "deliver messages to many; the key stands in their mail; end-to-end encrypted inside", BasisContract, ExportNo, EraseShred,
				"until the last mail that points to it is gone", "payload"),
		}},
		{"body_refs", []fate{
			same(NotPersonal, "know when nothing points to a body", BasisNone, ExportNo, EraseNothing, "until the last mail that points to it is gone", "body_no", "refs"),
		}},
		{"people_version", []fate{
			same(NotPersonal, "know that nobody's devices changed", BasisNone, ExportNo, EraseNothing, operational, "n"),
		}},
		{"signed_prekeys", []fate{
			same(PlainData, "let others begin a conversation", BasisContract, ExportNo, EraseRow, "until replaced or the device is removed",
				"device_no", "ec_id", "ec_public", "ec_signature", "kem_id", "kem_public", "kem_signature", "stored"),
		}},
		{"one_time_prekeys", []fate{
			same(PlainData, "let others begin a conversation", BasisContract, ExportNo, EraseRow, "until taken or the device is removed",
				"device_no", "kind", "key_id", "public_key", "signature"),
		}},
		{"claims", []fate{
			same(Pseudonym, "answer a repeated claim of prekeys alike", BasisContract, ExportNo, EraseRow, "24 hours", "peer", "claim_id", "target_no", "answer", "expires"),
		}},
		{"sessions", []fate{
			same(PlainData, "stay signed in, and end it everywhere at once", BasisContract, ExportYes, EraseRow, "30 days after the last use",
				"id", "user_no", "device_no", "created", "last_used", "expires", "revoked"),
		}},
		{"refresh_tokens", []fate{
			same(Pseudonym, "stay signed in, and notice a stolen token", BasisContract, ExportSecret, EraseRow, "with the session", "hash", "session_id", "expires", "used"),
		}},
		{"signing_keys", []fate{
			same(NotPersonal, "sign access tokens", BasisNone, ExportNo, EraseNothing, "until the last token that they signed expired",
				"id", "private_key", "public_key", "not_before", "expires"),
		}},
		{"invites", []fate{
			same(Pseudonym, "let invited people register", BasisContract, ExportNo, EraseRow, "12 months after the end",
				"id", "hash", "created_by", "role", "created", "expires", "used", "used_by", "revoked"),
			same(SealedData, "keep an invite for whom it is meant; under the server's key", BasisContract, ExportNo, EraseRow, "12 months after the end", "for_handle"),
		}},
		{"user_consents", []fate{
			same(PlainData, "show what was agreed to", BasisObligation, ExportYes, EraseRow, "3 years after the account's end",
				"no", "user_no", "purpose", "notice_version", "notice_hash", "language", "action", "at"),
		}},
		{"notice_acks", []fate{
			same(PlainData, "show that the notice was given", BasisObligation, ExportYes, EraseRow, "3 years after the account's end", "user_no", "version", "hash", "at"),
		}},
		{"audit_logs", []fate{
			same(Pseudonym, "account for what admins did", BasisObligation, ExportYes, EraseKeep, "12 months", "no", "actor_no", "object_no"),
			same(NotPersonal, "account for what admins did", BasisObligation, ExportYes, EraseNothing, "12 months", "at", "role", "action", "object", "purpose", "detail"),
		}},
		{"submissions", []fate{
			same(Pseudonym, "answer a repeated submission alike", BasisContract, ExportNo, EraseRow, "30 days",
				"user_no", "message_id", "body_hash", "answer", "state", "expires", "parts", "people"),
			same(BlindIndex, "tell a sender once of each person who did not get a message to many", BasisContract, ExportNo, EraseRow, "30 days", "told"),
		}},
		{"reports", []fate{
			same(Pseudonym, "act on abuse that a recipient proved; strikes are held where the sender belongs", BasisInterest, ExportYes, EraseRow, "180 days", "no", "user_no", "message_id", "received", "expires", "state"),
			same(NotPersonal, "see which server's people report", BasisNone, ExportNo, EraseRow, "180 days", "peer"),
			same(SealedData, "show a moderator the one message that a recipient revealed, and why", BasisInterest, ExportYes, EraseShred, "180 days", "body"),
		}},
		{"archives", []fate{
			same(Pseudonym, "page through the archive within the quota", BasisConsent, ExportNo, EraseRow, whileAccount, "user_no", "next_seq", "items", "bytes"),
		}},
		{"archive_items", []fate{
			same(Pseudonym, "keep the person's own archive", BasisConsent, ExportYes, EraseRow, "until the person deletes it or withdraws", "user_no", "seq", "id", "size", "created"),
			same(SealedData, "keep the person's own archive; end-to-end encrypted inside", BasisConsent, ExportYes, EraseShred, "until the person deletes it or withdraws", "conversation", "body"),
		}},
		{"media", []fate{
			same(Pseudonym, "keep attachments for those they were sent to; the files are end-to-end encrypted and die with the row", BasisContract, ExportYes, EraseRow, untilMedia,
				"object", "user_no", "size", "digest", "whole", "created", "expires"),
			same(Pseudonym, "give an attachment to those only who were told its secret", BasisContract, ExportSecret, EraseRow, untilMedia, "reader"),
		}},
	}
}

func contactTables() []table {
	return []table{
		{"delivery_tokens", []fate{
			same(Pseudonym, "let accepted contacts of other servers write", BasisContract, ExportNo, EraseRow, whileAccount, "user_no", "until"),
			same(SealedData, "let accepted contacts of other servers write", BasisContract, ExportSecret, EraseShred, "until replaced, and 24 hours", "token", "previous"),
		}},
		{"knocks", []fate{
			same(Pseudonym, "let in the answer of somebody who was asked", BasisContract, ExportNo, EraseRow, untilKnock, "user_no", "peer", "created", "expires", "closed"),
			same(BlindIndex, "let in the answer of somebody who was asked", BasisContract, ExportNo, EraseRow, untilKnock, "id_index", "address_index"),
		}},
		{"arrived_knocks", []fate{
			same(NotPersonal, "find out for whom a knock is after its server has an answer", BasisNone, ExportNo, EraseRow, "seconds", "no", "peer", "seal_id"),
			same(SealedData, "find out for whom a knock is; under the server's key", BasisContract, ExportNo, EraseRow, "seconds", "payload"),
		}},
		{"received_knocks", []fate{
			same(Pseudonym, "show a knock once, and not too many", BasisContract, ExportNo, EraseRow, untilKnock, "user_no", "peer", "expires", "closed"),
			same(BlindIndex, "show a knock once, and not too many", BasisContract, ExportNo, EraseRow, untilKnock, "id_index", "stranger_index"),
			same(SealedData, "block who knocked", BasisContract, ExportYes, EraseShred, untilKnock, "stranger"),
		}},
		{"blocks", []fate{
			same(Pseudonym, "keep the knocks of blocked people away", BasisContract, ExportNo, EraseRow, "until the person lifts the block", "user_no"),
			same(BlindIndex, "keep the knocks of blocked people away", BasisContract, ExportNo, EraseRow, "until the person lifts the block", "block_index"),
			same(SealedData, "show whom one has blocked", BasisContract, ExportYes, EraseShred, "until the person lifts the block", "name"),
		}},
	}
}

func groupTables() []table {
	return []table{
		{"groups", []fate{
			same(NotPersonal, "keep groups apart and know their servers", BasisNone, ExportNo, EraseNothing, "for ever, so that none comes back",
				"no", "id", "hub", "epoch", "head", "state", "reason", "created", "changed"),
		}},
		{"group_ops", []fate{
			same(NotPersonal, "know the operations in their order", BasisNone, ExportNo, EraseNothing, whileGroup, "group_no", "epoch"),
			same(Pseudonym, "prove to members and their servers who may be in the group; by random numbers and the keys of devices", BasisContract, ExportYes, EraseKeep, whileGroup, "op"),
		}},
		{"group_members", []fate{
			same(Pseudonym, "deliver to the members of a group", BasisContract, ExportNo, EraseRow, whileGroup, "group_no", "member", "user_no"),
			same(BlindIndex, "find a person's memberships when they are erased", BasisContract, ExportNo, EraseRow, whileGroup, "user_index"),
			same(SealedData, "know who the members are; of people of other servers under the server's key", BasisContract, ExportYes, EraseShred, whileGroup, "opening"),
		}},
		{"group_arrivals", []fate{
			same(NotPersonal, "verify what a hub says after it has its answer", BasisNone, ExportNo, EraseRow, "seconds, at most 14 days", "no", "peer", "arrived", "attempts", "due", "seal_id"),
			same(SealedData, "verify what a hub says; under the server's key", BasisContract, ExportNo, EraseRow, "seconds, at most 14 days", "payload"),
		}},
	}
}

func queueTables() []table {
	return []table{
		{"outbox", []fate{
			same(Pseudonym, "deliver messages to other servers", BasisContract, ExportNo, EraseRow, untilPeer,
				"row_no", "peer", "class", "pos", "deferred_until", "sender_no", "sender_key", "message_id", "accepted", "expires",
				"attempts", "first_try", "last_try", "delayed", "void", "deep", "outcome"),
			same(BlindIndex, "keep a recipient's messages in order", BasisContract, ExportNo, EraseRow, untilPeer, "hold_key"),
			same(SealedData, "deliver messages; end-to-end encrypted inside", BasisContract, ExportNo, EraseShred, untilPeer, "wrapped", "payload"),
		}},
		{"outbox_holds", []fate{
			same(NotPersonal, "keep a recipient's messages in order", BasisNone, ExportNo, EraseNothing, "until the hold is over", "peer", "class", "until"),
			same(BlindIndex, "keep a recipient's messages in order", BasisContract, ExportNo, EraseRow, "until the hold is over", "hold_key"),
		}},
		{"dead_letters", []fate{
			same(Pseudonym, "know what was not delivered to other servers, and have it sent again", BasisContract, ExportNo, EraseRow, "14 days",
				"no", "peer", "class", "code", "sender_no", "sender_key", "message_id", "accepted", "first_try", "last_try", "attempts", "died"),
			same(SealedData, "name the recipient when the sender is asked to send again", BasisContract, ExportNo, EraseShred, "14 days", "recipient"),
		}},
		{"out_streams", []fate{
			same(NotPersonal, "send in order", BasisNone, ExportNo, EraseNothing, operational, "peer", "class", "stream", "next_pos", "fence", "items", "bytes"),
		}},
		{"in_streams", []fate{
			same(NotPersonal, "accept once and in order", BasisNone, ExportNo, EraseNothing, operational, "peer", "class", "stream", "last_pos", "fence", "answers"),
		}},
		{"in_answers", []fate{
			same(NotPersonal, "answer a repeated batch alike: verdicts by position, no names", BasisNone, ExportNo, EraseNothing, "the newest 8 of a peer",
				"peer", "class", "slot", "stream", "first_pos", "count", "answer"),
		}},
		{"peers", []fate{
			same(NotPersonal, "federate", BasisNone, ExportNo, EraseNothing, "while the peering is known",
				"server", "state", "pin", "identity_key", "document", "seq", "endpoints", "country", "allow_private", "direction", "clock_offset",
				"last_seen", "last_try", "created", "failures", "next_try", "last_error", "trouble", "failing_since",
				"first_use", "probation_until", "features", "envelopes_per_second", "bytes_per_second", "state_since", "steps"),
		}},
		{"peer_blocks", []fate{
			same(NotPersonal, "exchange nothing with a server", BasisNone, ExportNo, EraseNothing, "until it ends", "name", "reason", "created", "expires"),
		}},
		{"peer_alerts", []fate{
			same(NotPersonal, "tell administrators about trouble with a peer", BasisNone, ExportNo, EraseNothing, "12 months after it was resolved",
				"peer", "kind", "since", "last", "count", "resolved"),
		}},
		{"peer_invites", []fate{
			same(NotPersonal, "begin a peering", BasisNone, ExportNo, EraseNothing, "12 months after the end", "hash", "server", "country", "expires", "used"),
		}},
		{"remote_users", []fate{
			same(BlindIndex, "find people of other servers", BasisContract, ExportNo, EraseRow, "30 days after the last use", "user_index", "address_index"),
			same(NotPersonal, "forget a removed peer's people", BasisNone, ExportNo, EraseRow, "30 days after the last use", "server", "version", "fetched"),
			same(SealedData, "write to people of other servers; under the server's key", BasisContract, ExportNo, EraseRow, "30 days after the last use", "uid", "handle", "device_list"),
		}},
		{"keys_ahead", []fate{
			same(BlindIndex, "begin conversations while the other server is away", BasisContract, ExportNo, EraseRow, "30 days after the last use", "user_index"),
			same(NotPersonal, "fetch keys before they are needed, and forget a removed peer's", BasisNone, ExportNo, EraseRow, "30 days after the last use", "server", "fetched", "used", "due"),
			same(SealedData, "begin conversations while the other server is away; under the server's key", BasisContract, ExportNo, EraseRow, "30 days after the last use", "uid", "bundles"),
		}},
		{"server_state", []fate{
			same(NotPersonal, "run the server", BasisNone, ExportNo, EraseNothing, operational, "key", "value"),
		}},
		{"goose_db_version", []fate{
			same(NotPersonal, "know the schema's version", BasisNone, ExportNo, EraseNothing, operational, "id", "version_id", "is_applied", "tstamp"),
		}},
	}
}
