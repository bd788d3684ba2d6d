package api

import (
	"net/http"

	"github.com/clearbox-im/clearbox/server/wire"
)

// class is what a caller is to the role table.
type class int

// The classes, the columns of the table.
const (
	byAnyone   class = iota // no token, or not asked for one
	byNoDevice              // a session without a device, whatever its role
	byMember
	byModerator
	byRights
	byDPO
	byAdmin
	byLocal // the Unix socket of the machine's admin
	classes
)

// grant says on whose things an operation may work.
type grant uint8

// The grants. A thing that is nobody's, such as the list of peers, is other.
const (
	none  grant = 0
	own   grant = 1
	other grant = 2
	both  grant = own | other
)

// grants is one row of the role table: anonymous, noDevice, member, moderator,
// rights, dpo, admin, local.
type grants [classes]grant

// operation is one route of the API.
type operation struct {
	method, path string
	may          grants
	maxBody      int64 // bytes; 0: no body is read
	run          func(*call) error
	// mine tells whether the object of the call is the caller's own; nil: it is
	// own when the caller is known and other when not, and for admin routes other.
	mine func(*call) (bool, error)
}

// operations is the whole API: every route, who may use it on whose things,
// and how large a body it takes. The router enforces it and a test walks it.
func operations() []operation {
	var (
		//               anon   nodev memb  mod   right dpo   admin local
		public  = grants{other, both, both, both, both, both, both, both}
		entry   = grants{other, both, both, both, both, both, both, none}
		socket  = grants{other, none, both, both, both, both, both, none}
		account = grants{none, own, own, own, own, own, own, none}
		device  = grants{none, none, own, own, own, own, own, none}
		people  = grants{none, none, both, both, both, both, both, none}
		admins  = grants{none, none, none, none, none, none, both, both}
		// Nobody does these to the own account, so that an admin remains.
		moderators = grants{none, none, none, other, none, none, other, both}
		governors  = grants{none, none, none, none, none, none, other, both}
		doormen    = grants{none, none, none, both, none, none, both, both}
		readers    = grants{none, none, none, both, both, both, both, both}
		overseers  = grants{none, none, none, none, none, both, both, both}
		judges     = grants{none, none, none, other, none, none, none, both} // of reports; not of those about oneself
		machine    = grants{none, none, none, none, none, none, none, both}
	)
	const small, keys, send, history, part, grouped = wire.MaxBody, wire.MaxKeysBody, wire.MaxFrame, wire.MaxHistoryBody, wire.MaxMediaPart, wire.MaxGroupBody
	const get, post, put, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	return []operation{
		{get, "/livez", public, 0, live, nil},
		{get, "/readyz", public, 0, ready, nil},
		{get, "/version", public, 0, version, nil},
		{get, "/openapi.yaml", public, 0, openAPI, nil},
		{get, "/.well-known/clearbox", public, 0, wellKnown, nil},
		{get, "/.well-known/jwks.json", public, 0, jwks, nil},
		{get, "/notice", public, 0, notice, nil},

		{post, "/auth/register", entry, keys, register, nil},
		{post, "/auth/login", entry, small, login, nil},
		{post, "/auth/refresh", entry, small, refresh, nil},
		{post, "/auth/reset", entry, small, reset, nil},
		{post, "/auth/logout", account, 0, logout, nil},
		{post, "/auth/password", account, small, changePassword, nil},
		{post, "/auth/ticket", device, 0, ticket, nil},

		{get, "/me", device, 0, me, nil},
		{put, "/me/notice", device, small, acknowledge, nil},
		{get, "/me/consents", device, 0, consents, nil},
		{put, "/me/consents/{purpose}", device, small, grantConsent, nil},
		{del, "/me/consents/{purpose}", device, 0, withdrawConsent, nil},

		{get, "/devices", account, 0, devices, nil},
		// Without a device where somebody recovers: the root key signs the list.
		{put, "/devices/list", account, keys, publishDevices, nil},
		{del, "/devices/{id}", account, 0, removeDevice, nil},
		{post, "/devices/link", entry, wire.MaxLinkBody, openLink, nil},
		{post, "/devices/link/{id}/new", entry, wire.MaxLinkBody, sayNew, nil},
		{get, "/devices/link/{id}/old", entry, 0, hearOld, nil},
		{post, "/devices/link/{id}/session", entry, small, linkSession, nil},
		{post, "/devices/link/{id}/old", device, wire.MaxLinkBody, sayOld, nil},
		{get, "/devices/link/{id}/new", device, 0, hearNew, nil},
		{put, "/keys", device, keys, uploadKeys, nil},
		{get, "/keys/status", device, 0, keyStatus, nil},
		{get, "/keys/standing", device, 0, standingKeys, nil},
		{post, "/keys/claim", people, small, claimKeys, nil},
		{get, "/users/{id}", people, 0, lookup, myself},

		{post, "/contacts/knocks", device, small, knock, nil},
		{post, "/contacts/knocks/{id}", device, small, answerKnock, nil},
		{put, "/contacts/token", device, small, setToken, nil},
		{get, "/contacts/blocks", device, 0, readBlocks, nil},
		{put, "/contacts/blocks", device, keys, writeBlocks, nil},
		{get, "/contacts/certificate", device, 0, senderCertificate, nil},
		{get, "/servers/{name}", device, 0, serverInfo, nil},

		{post, "/messages/send", device, send, sendMessage, nil},
		{post, "/messages/status", device, small, messageStatus, nil},
		{get, "/messages/history", account, 0, readHistory, nil},
		{post, "/messages/history", device, history, writeHistory, nil},
		{del, "/messages/history", device, 0, deleteHistory, nil},
		{get, "/sync", device, 0, syncMail, nil},
		// The socket resolves its caller itself: the token may be in the URL.
		{get, "/ws", socket, 0, openSocket, nil},

		{post, "/media", device, small, createMedia, nil},
		{get, "/media/{object}", device, 0, mediaState, nil},
		{put, "/media/{object}", device, part, appendMedia, nil},
		{post, "/media/{object}", device, small, finishMedia, nil},
		{del, "/media/{object}", device, 0, deleteMedia, nil},
		{get, "/media/{server}/{object}", device, 0, readMedia, nil},

		{post, "/groups/create", device, grouped, createGroup, nil},
		{get, "/groups", device, 0, listGroups, nil},
		{get, "/groups/{id}", device, 0, readGroup, nil},
		{get, "/groups/{id}/ops", device, 0, readGroupOps, nil},
		{post, "/groups/{id}/ops", device, grouped, submitGroupOp, nil},
		{post, "/reports", device, send, report, nil},
		{get, "/gdpr/export", public, 0, notYet, nil},
		{del, "/gdpr/delete", public, 0, notYet, nil},

		{get, "/admin/status", overseers, 0, adminStatus, nil},
		{get, "/admin/users", readers, 0, adminUsers, nil},
		{post, "/admin/users", admins, small, adminCreateUser, nil},
		{post, "/admin/users/{handle}/ban", moderators, small, adminBan, myHandle},
		{post, "/admin/users/{handle}/unban", moderators, small, adminUnban, myHandle},
		{post, "/admin/users/{handle}/role", governors, small, adminRole, myHandle},
		{post, "/admin/users/{handle}/reset", governors, small, adminReset, myHandle},
		{get, "/admin/invites", doormen, 0, adminInvites, nil},
		{post, "/admin/invites", doormen, small, adminCreateInvite, nil},
		{del, "/admin/invites/{id}", doormen, 0, adminRevokeInvite, nil},
		{get, "/admin/peers", overseers, 0, adminPeers, nil},
		{post, "/admin/peers/invite", admins, small, adminInvitePeer, nil},
		{post, "/admin/peers/accept", admins, small, adminAcceptPeer, nil},
		{post, "/admin/peers/{server}/test", admins, 0, adminTestPeer, nil},
		{post, "/admin/peers/{server}/suspend", admins, 0, adminSuspendPeer, nil},
		{post, "/admin/peers/{server}/resume", admins, 0, adminResumePeer, nil},
		{post, "/admin/peers/{server}/conformance", admins, 0, adminConformance, nil},
		{post, "/admin/peers/{server}/repin", admins, small, adminRepinPeer, nil},
		{post, "/admin/peers/{server}/set", admins, small, adminSetPeer, nil},
		{post, "/admin/peers/{server}/defederate", admins, 0, adminDefederatePeer, nil},
		{del, "/admin/peers/{server}", admins, 0, adminRemovePeer, nil},
		{get, "/admin/fed/blocks", overseers, 0, adminBlocks, nil},
		{post, "/admin/fed/blocks", admins, small, adminBlock, nil},
		{post, "/admin/fed/unblock", admins, small, adminUnblock, nil},
		{get, "/admin/fed/alerts", overseers, 0, adminAlerts, nil},
		{post, "/admin/fed/alerts/resolve", admins, small, adminResolveAlerts, nil},
		{get, "/admin/fed/status", overseers, 0, adminFederation, nil},
		{post, "/admin/fed/retry", admins, small, adminRetry, nil},
		{get, "/admin/identity", overseers, 0, adminIdentity, nil},
		{post, "/admin/identity/rotate", admins, 0, adminRotateIdentity, nil},
		{post, "/admin/identity/offline", machine, small, adminIdentityOffline, nil},
		{post, "/admin/identity/online", machine, 0, adminIdentityOnline, nil},
		{post, "/admin/identity/keys/{kid}/revoke", admins, 0, adminRevokeKey, nil},
		{get, "/admin/fed/dead", overseers, 0, adminDead, nil},
		{get, "/admin/fed/dead/{no}", overseers, 0, adminDeadLetter, nil},
		{post, "/admin/fed/dead/requeue", admins, small, adminRequeueDead, nil},
		{post, "/admin/fed/dead/drop", admins, small, adminDropDead, nil},
		{get, "/admin/groups", overseers, 0, adminGroups, nil},
		{get, "/admin/groups/{id}", overseers, 0, adminGroup, nil},
		{del, "/admin/groups/{id}", admins, 0, adminDeleteGroup, nil},
		{get, "/admin/reports", judges, 0, adminReports, nil},
		{get, "/admin/reports/{no}", judges, 0, adminReport, nil},
		{post, "/admin/reports/{no}/close", judges, small, adminCloseReport, nil},
		{get, "/admin/audit", overseers, 0, adminAudit, nil},
		{post, "/admin/reload", admins, 0, adminReload, nil},
	}
}
