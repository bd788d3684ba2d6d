package core_test

import (
	"bytes"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout/certificate"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/server/wire"
)

// authority issues sender certificates for people of one server.
type authority struct {
	root   *curve.PrivateKey
	key    *curve.PrivateKey
	server *certificate.Server
}

func newAuthority() *authority {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	a := new(authority)
	var err error
	a.root, err = curve.GeneratePrivateKey(cryptoRandom)
	must(err)
	a.key, err = curve.GeneratePrivateKey(cryptoRandom)
	must(err)
	a.server, err = certificate.IssueServer(cryptoRandom, a.root, 1, a.key.Public())
	must(err)
	return a
}

// authority gives a server's; the caller holds mu.
func (w *world) authority(server clearbox.ServerName) *authority {
	if w.authorities[server] == nil {
		w.authorities[server] = newAuthority()
	}
	return w.authorities[server]
}

func millis(t time.Time) clearbox.Millis { return clearbox.Millis(t.UnixMilli()) }

// serveContacts answers what has to do with consent; false for other paths.
func (w *world) serveContacts(s *session, method, path string, body []byte) (out any, err error, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	switch method + " " + path {
	case "GET /contacts/certificate":
		a := w.authority(s.user.Server)
		expires := time.Now().Add(certificate.Life)
		c, err := a.server.Issue(cryptoRandom, a.key, certificate.Subject{
			Account: keys.AccountServiceID(s.user.String()), Device: uint8(s.device), Identity: acc.parsed.Identity, Expires: expires,
		})
		if err != nil {
			return nil, err, true
		}
		w.certificates++
		return &wire.SenderCertificate{Certificate: c.Bytes(), Expires: millis(expires)}, nil, true
	case "PUT /contacts/token":
		t, err := decode[wire.TokenUpdate](body)
		if err == nil && !bytes.Equal(acc.token, t.Token) {
			acc.tokenBefore, acc.token = acc.token, t.Token
		}
		return nil, err, true
	case "GET /contacts/blocks":
		return &wire.Blocks{Users: append([]clearbox.UserID{}, acc.blocks...)}, nil, true
	case "PUT /contacts/blocks":
		b, err := decode[wire.Blocks](body)
		if err == nil {
			acc.blocks = b.Users
		}
		return nil, err, true
	case "POST /contacts/knocks":
		k, err := decode[wire.KnockRequest](body)
		if err != nil {
			return nil, err, true
		}
		return w.knock(s, k)
	}
	if id, found := strings.CutPrefix(path, "/contacts/knocks/"); found && method == "POST" {
		answer, err := decode[wire.KnockAnswer](body)
		if err != nil {
			return nil, err, true
		}
		number, err := clearbox.ParseMessageID(id)
		delete(acc.knocks, number)
		if answer.Action == wire.KnockBlock {
			acc.shut = true
		}
		return nil, err, true
	}
	if name, found := strings.CutPrefix(path, "/servers/"); found && method == "GET" {
		w.asked[clearbox.ServerName(name)]++
		if w.refuseServers != "" {
			return nil, refusal(w.refuseServers), true
		}
		a := w.authority(clearbox.ServerName(name))
		state := w.serverState
		if state == "" {
			state = wire.ServerReachable
		}
		return &wire.ServerInfo{Server: clearbox.ServerName(name), State: state, Country: w.country, Roots: []wire.SenderRoot{
			{Key: a.root.Public().Bytes(), NotBefore: 0, Expires: millis(time.Now().AddDate(1, 0, 0))},
		}}, nil, true
	}
	return nil, nil, false
}

// knock brings a knock to whoever has that address; the caller holds mu.
func (w *world) knock(s *session, k *wire.KnockRequest) (any, error, bool) {
	receipt := &wire.Receipt{ID: k.ID, Status: wire.StateAccepted, AcceptedAt: millis(time.Now())}
	acc := w.accounts[s.user]
	if _, again := acc.knocks[k.ID]; again {
		return receipt, nil, true
	}
	if w.refuseKnock != "" {
		return nil, refusal(w.refuseKnock), true
	}
	acc.knocks[k.ID] = true
	w.knocks++
	user, there := w.names[k.To]
	if !there {
		return receipt, nil, true
	}
	var name string
	for n, u := range w.names {
		if u == s.user {
			name = n
		}
	}
	for id := range w.accounts[user].devices {
		w.deliver(user, id, wire.ServerFrame{Type: wire.FrameReceive, Knock: &wire.Knock{
			ID: k.ID, From: s.user, Address: name, AcceptedAt: millis(time.Now()), Controller: "Clinic", Country: "AT",
		}})
	}
	return receipt, nil, true
}

// allows tells whether a token opens the way to to; the caller holds mu.
func (w *world) allows(to clearbox.UserID, token []byte) bool {
	acc := w.accounts[to]
	if len(token) != 16 {
		return false
	}
	return bytes.Equal(token, acc.token) || bytes.Equal(token, acc.tokenBefore) || acc.knocks[clearbox.MessageID(token)]
}
