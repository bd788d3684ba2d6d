// Package config is responsible for the homeserver's configuration: the struct,
// its defaults, strict reading of YAML with every mistake named at once, the
// overrides by environment and flag, and the example file, which is rendered
// from the comments in this file. It opens no network and starts nothing.
package config

import (
	"time"

	"github.com/clearbox-im/clearbox"
)

// Config is the whole configuration. The comments of its fields are what
// config.example.yaml, `clearbox init` and `clearbox config explain` show.
//
// Tags: config is the key; required, enum, min, max restrict the value; later
// lists values that a coming release understands; example is shown where there
// is no default; reload says that SIGHUP applies a change
// (all others need a restart); path marks files and folders, which are resolved
// against the folder of the configuration file; secret marks files that nobody
// else on the machine may read.
type Config struct {
	// Who this homeserver is and where it keeps its data.
	Server Server `config:"server"`
	// Who runs this homeserver. Peers and users are shown this.
	Organisation Organisation `config:"organisation"`
	// Where the homeserver listens.
	Listen Listen `config:"listen"`
	// The certificate for clients and peers.
	TLS TLS `config:"tls"`
	// The server's own keys, made by `clearbox init`. Back them up: without the
	// root key nothing in the data folder can be read again.
	Keys Keys `config:"keys"`
	// Who may create an account.
	Registration Registration `config:"registration"`
	// The privacy notice that everybody acknowledges when registering.
	Notice Notice `config:"notice"`
	// How passwords are hashed (argon2id).
	Passwords Passwords `config:"passwords"`
	// How long logins last.
	Tokens Tokens `config:"tokens"`
	// How long things are kept.
	Retention Retention `config:"retention"`
	// Limits and quotas. A limit of 0 is off.
	Limits Limits `config:"limits"`
	// Other organisations' homeservers.
	Federation Federation `config:"federation"`
	// What protects the metadata of messages between organisations.
	Privacy Privacy `config:"privacy"`
	// What is logged, to standard error.
	Log Log `config:"log"`
}

// Server is the section "server".
type Server struct {
	// The organisation's domain; the part behind the @ in every address. It
	// cannot be changed later.
	Name clearbox.ServerName `config:"name" required:"true" example:"chat.example.org"`
	// The folder of the database, the key store and the admin socket.
	DataDir string `config:"data_dir" path:"true"`
	// The address at which clients and peers reach this server, when it is not
	// https:// and the name above.
	PublicURL string `config:"public_url" example:"https://clearbox.example.org:8443"`
	// How long a stopping server waits for requests that are under way.
	DrainTimeout time.Duration `config:"drain_timeout" min:"1s" max:"10m" reload:"true"`
}

// Organisation is the section "organisation".
type Organisation struct {
	// The controller's name, as in the privacy notice.
	Name string `config:"name" example:"Example Clinic"`
	// The country of the controller, two letters (ISO 3166-1).
	Country string `config:"country" example:"AT"`
	// Where questions about privacy go: a mail address or a web page.
	Contact string `config:"contact" example:"privacy@example.org"`
	// Where peers reach the data protection officer. Default: the contact.
	DPO string `config:"dpo" example:"dpo@example.org"`
	// The countries whose law applies to the data, two letters each. Default: the
	// country above.
	Jurisdictions []string `config:"jurisdictions" example:"[AT, DE]"`
}

// Listen is the section "listen".
type Listen struct {
	// Addresses for clients and peers, as host:port. An empty host means all.
	Addresses []string `config:"addresses" example:"[\":443\"]"`
	// Reverse proxies in front of this server, as IP addresses or prefixes. Only
	// they may say on whose behalf they ask (X-Forwarded-For).
	TrustedProxies []string `config:"trusted_proxies" example:"[\"10.0.0.0/8\"]"`
	// The Unix socket for the admin commands. Default: admin.sock in the data
	// folder. Only the user that runs the server can open it.
	AdminSocket string `config:"admin_socket" path:"true" example:"/run/clearbox/admin.sock"`
	// Where a monitoring system reads figures in the OpenMetrics format, without
	// TLS, at /metrics. Off when empty. The address must be a loopback one.
	Metrics string `config:"metrics" example:"127.0.0.1:9464"`
	// Whether listen.metrics may be another address than a loopback one: whoever
	// reaches it reads the figures, the names of peers among them.
	MetricsAnywhere bool `config:"metrics_anywhere"`
}

// TLS is the section "tls".
type TLS struct {
	// The certificate with its chain, PEM. Read again on reload.
	CertFile string `config:"cert_file" path:"true" required:"true" reload:"true" example:"tls/cert.pem"`
	// The certificate's private key, PEM. Read again on reload.
	KeyFile string `config:"key_file" path:"true" secret:"true" required:"true" reload:"true" example:"tls/key.pem"`
	// The oldest TLS version that clients may use. Peers always need 1.3.
	Min string `config:"min" enum:"1.3,1.2"`
}

// Keys is the section "keys".
type Keys struct {
	// Seals everybody's data keys.
	RootKeyFile string `config:"root_key_file" path:"true" secret:"true"`
	// Signs the server document; its fingerprint is what peers pin. It may be
	// away: `clearbox identity export --offline`.
	IdentityKeyFile string `config:"identity_key_file" path:"true" secret:"true"`
}

// Registration is the section "registration".
type Registration struct {
	// invite: with an invite; open: anybody; closed: nobody.
	Mode string `config:"mode" enum:"invite,open,closed" reload:"true"`
	// How long an invite is valid when nothing else is asked for.
	InviteTTL time.Duration `config:"invite_ttl" min:"1m" max:"90d" reload:"true"`
}

// Notice is the section "notice".
type Notice struct {
	// The version of the text. Change it whenever the text changes.
	Version string `config:"version" reload:"true"`
	// The language of the text (BCP 47).
	Language string `config:"language" reload:"true"`
	// A file with the text. Default: a short text that says who can read what.
	File string `config:"file" path:"true" reload:"true" example:"notice.txt"`
	// The text itself, instead of a file.
	Text string `config:"text" reload:"true" example:"Your messages are encrypted between the devices. ..."`
}

// Passwords is the section "passwords".
type Passwords struct {
	// Memory for one hash.
	Memory Size `config:"memory" min:"19MiB" max:"4GiB"`
	// Passes over the memory.
	Iterations int `config:"iterations" min:"1" max:"100"`
	// Hashes at the same time; each needs its memory. More logins wait.
	Concurrency int `config:"concurrency" min:"1" max:"256"`
}

// Tokens is the section "tokens".
type Tokens struct {
	// Access tokens.
	Access time.Duration `config:"access" min:"1m" max:"1h"`
	// Refresh tokens: how long a device may stay away before it logs in again.
	Refresh time.Duration `config:"refresh" min:"1h" max:"365d"`
	// Tickets for opening a WebSocket.
	Ticket time.Duration `config:"ticket" min:"5s" max:"5m"`
}

// Retention is the section "retention".
type Retention struct {
	// Messages that a device did not fetch.
	Undelivered time.Duration `config:"undelivered" min:"1d" max:"365d"`
	// Answers to submissions, so that a repeated one is not stored twice. At
	// least as long as messages for peers are kept.
	Idempotency time.Duration `config:"idempotency" min:"1d" max:"365d"`
	// Messages for peers that cannot be reached. Then the sender is told.
	Outbox time.Duration `config:"outbox" min:"1h" max:"30d"`
	// Attachments that people here have sent. Then they are gone for everybody.
	Attachments time.Duration `config:"attachments" min:"1h" max:"365d"`
}

// Limits is the section "limits".
type Limits struct {
	// Envelopes waiting for one person.
	MailboxEnvelopes int `config:"mailbox_envelopes" min:"0" max:"10000000"`
	// Bytes waiting for one person.
	MailboxSize Size `config:"mailbox_size" min:"0B" max:"1TiB"`
	// Items waiting for one peer.
	PeerQueueItems int `config:"peer_queue_items" min:"0" max:"100000000"`
	// Bytes waiting for one peer.
	PeerQueueSize Size `config:"peer_queue_size" min:"0B" max:"1TiB"`
	// Envelopes that one peer may bring in a second; five times as many in a burst.
	PeerEnvelopesPerSecond int `config:"peer_envelopes_per_second" min:"0" max:"10000000"`
	// Bytes that one peer may bring in a second; five times as many in a burst.
	PeerBytesPerSecond Size `config:"peer_bytes_per_second" min:"0B" max:"100GiB"`
	// Messages that one account may send in a second; five times as many in a burst.
	AccountMessagesPerSecond int `config:"account_messages_per_second" min:"0" max:"1000000"`
	// Logins, registrations and resets from one network address in a minute.
	AddressLoginsPerMinute int `config:"address_logins_per_minute" min:"0" max:"1000000"`
	// Requests from one network address in a second; five times as many in a burst.
	AddressRequestsPerSecond int `config:"address_requests_per_second" min:"0" max:"1000000"`
	// Open WebSockets.
	Connections int `config:"connections" min:"0" max:"10000000"`
	// Items in one account's encrypted archive.
	ArchiveItems int `config:"archive_items" min:"0" max:"100000000"`
	// Bytes in one account's encrypted archive.
	ArchiveSize Size `config:"archive_size" min:"0B" max:"1TiB"`
	// Bytes of one attachment, as encrypted.
	AttachmentSize Size `config:"attachment_size" min:"0B" max:"8GiB"`
	// Bytes of all attachments that one account keeps here.
	AccountAttachmentsSize Size `config:"account_attachments_size" min:"0B" max:"100TiB"`
	// Bytes of attachments that one peer may fetch in a second; five times as many
	// in a burst.
	PeerAttachmentsPerSecond Size `config:"peer_attachments_per_second" min:"0B" max:"100GiB"`
	// Free disk space below which nothing new is accepted.
	DiskReserve Size `config:"disk_reserve" min:"0B" max:"1TiB"`
}

// Federation is the section "federation".
type Federation struct {
	// closed: no peers; allowlist: peers that were invited or accepted with
	// `clearbox peer`, and those listed below; open: besides, any server that is
	// not blocked becomes a peer by the first contact, on probation for 7 days.
	Mode string `config:"mode" enum:"allowlist,closed,open"`
	// Names under which peers may address this server, as host or host:port.
	// Default: host and port of the public address.
	Authorities []string `config:"authorities" example:"[clearbox.example.org]"`
	// How to talk to peers. auto: HTTP/3 where both sides have it and the network
	// lets UDP pass, else HTTP/2; h2 and h3: only that. Unless it is h2, peers may
	// come by HTTP/3 at the UDP ports of listen.addresses.
	Transport string `config:"transport" enum:"auto,h2,h3"`
	// More certificate authorities that peers' certificates may come from, PEM.
	CAFile string `config:"ca_file" path:"true" example:"tls/partners-ca.pem"`
	// Compares with peers what servers that both know show them, so that a server
	// that shows different keys to different peers is found out. Peers learn
	// nothing about peers that they do not have themselves.
	Gossip bool `config:"gossip"`
	// After this time without success the sender is told that a message is late.
	DelayedAfter time.Duration `config:"delayed_after" min:"1s" max:"14d"`
	// Rules for servers that nobody here agreed with, in mode open.
	Open Open `config:"open"`
	// What is known about peers beforehand. Nothing is looked up for them.
	Peers []Peer `config:"peers"`
}

// The modes of federation.
const (
	ModeAllowlist = "allowlist"
	ModeClosed    = "closed"
	ModeOpen      = "open"
)

// Open is the section "federation.open".
type Open struct {
	// On what legal basis messages are exchanged with people and organisations
	// that are not known beforehand (GDPR, Art. 6 and 44 to 49). Required in mode
	// open; it is written into the audit log.
	LegalBasis string `config:"legal_basis" example:"Art. 6(1)(b): the users ask for it; countries with an adequacy decision only"`
	// The countries that such a server may be in, two letters each, as its signed
	// document says. Default: all.
	Countries []string `config:"countries" example:"[AT, DE]"`
	// Envelopes that such a peer may bring in a second, five times as many in a
	// burst; a twentieth during probation.
	PeerEnvelopesPerSecond int `config:"peer_envelopes_per_second" min:"1" max:"10000000"`
	// Bytes that such a peer may bring in a second; the same.
	PeerBytesPerSecond Size `config:"peer_bytes_per_second" min:"1KiB" max:"100GiB"`
}

// Peer is one item of federation.peers.
type Peer struct {
	// The peer's domain.
	Server clearbox.ServerName `config:"server" required:"true" example:"partner.example"`
	// Its base addresses.
	Endpoints []string `config:"endpoints" example:"[\"https://clearbox.partner.example\"]"`
	// The fingerprint of its identity key (SHA-256, 64 hexadecimal digits).
	Pin string `config:"pin" example:"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"`
	// The country it is in, two letters (ISO 3166-1).
	Country string `config:"country" example:"DE"`
	// Whether its addresses may be private or loopback ones.
	AllowPrivate bool `config:"allow_private"`
	// Who may write to whom. both; in: its people to ours only; out: ours to its
	// only. Default: as set with `clearbox peer set`, else both.
	Direction string `config:"direction" enum:"both,in,out" example:"both"`
	// What is exchanged with it beyond messages: presence, typing.
	Features []string `config:"features" example:"[presence, typing]"`
	// Envelopes that it may bring in a second, instead of
	// limits.peer_envelopes_per_second.
	EnvelopesPerSecond int `config:"envelopes_per_second" min:"0" max:"10000000" example:"500"`
	// Bytes that it may bring in a second, instead of limits.peer_bytes_per_second.
	BytesPerSecond Size `config:"bytes_per_second" min:"0B" max:"100GiB" example:"2MiB"`
}

// Privacy is the section "privacy".
type Privacy struct {
	// The most that messages to a peer wait, for a random time, before they leave,
	// so that who watches both ends of a line cannot match who sent with what
	// leaves. Every message between organisations becomes later by half of it on
	// average. 0 is off.
	BatchDelay time.Duration `config:"batch_delay" min:"0s" max:"2s"`
}

// Log is the section "log".
type Log struct {
	// json or text.
	Format string `config:"format" enum:"json,text"`
	// debug is for developers; info is what an operator acts upon.
	Level string `config:"level" enum:"debug,info,warn,error" reload:"true"`
	// Hides names, user ids and network addresses.
	Privacy bool `config:"privacy" reload:"true"`
}

// Default is the configuration of an empty file. It lacks what is required.
func Default() *Config {
	const day = 24 * time.Hour
	return &Config{
		Server:       Server{DataDir: "data", DrainTimeout: 20 * time.Second},
		Listen:       Listen{Addresses: []string{":443"}},
		TLS:          TLS{Min: "1.3"},
		Keys:         Keys{RootKeyFile: "keys/root.key", IdentityKeyFile: "keys/identity.key"},
		Registration: Registration{Mode: "invite", InviteTTL: 3 * day},
		Notice:       Notice{Version: "1", Language: "en"},
		Passwords:    Passwords{Memory: 64 * MiB, Iterations: 3, Concurrency: 2},
		Tokens:       Tokens{Access: 15 * time.Minute, Refresh: 30 * day, Ticket: 30 * time.Second},
		Retention:    Retention{Undelivered: 30 * day, Idempotency: 30 * day, Outbox: 14 * day, Attachments: 30 * day},
		Limits: Limits{
			MailboxEnvelopes: 20_000, MailboxSize: 256 * MiB,
			PeerQueueItems: 500_000, PeerQueueSize: GiB,
			PeerEnvelopesPerSecond: 20_000, PeerBytesPerSecond: 40 * MiB,
			AccountMessagesPerSecond: 200, AddressLoginsPerMinute: 60, AddressRequestsPerSecond: 200,
			Connections:  20_000,
			ArchiveItems: 100_000, ArchiveSize: 256 * MiB,
			AttachmentSize: 100 * MiB, AccountAttachmentsSize: 2 * GiB, PeerAttachmentsPerSecond: 20 * MiB,
			DiskReserve: 256 * MiB,
		},
		Federation: Federation{Mode: "allowlist", Transport: "auto", Gossip: true, DelayedAfter: 4 * time.Hour,
			Open: Open{PeerEnvelopesPerSecond: 200, PeerBytesPerSecond: 5 * MiB}},
		Log: Log{Format: "text", Level: "info", Privacy: true},
	}
}
