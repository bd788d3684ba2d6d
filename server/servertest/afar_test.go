package servertest_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/servertest"
	"github.com/clearbox-im/clearbox/server/wire"
)

// bare is a person whose frames the test speaks itself.
type bare struct {
	*authtest.Person
	w     *servertest.World
	line  core.Network
	end   func()
	token string
}

func joinBare(w *servertest.World, makers *authtest.World, handle clearbox.Handle, server clearbox.ServerName) *bare {
	w.T.Helper()
	p := &bare{Person: makers.PersonAt(handle, server), w: w}
	p.line, p.end = w.Line(string(handle), w.House(server))
	var notice wire.PrivacyNotice
	p.do("GET", "/notice", nil, &notice)
	keys := p.Keys(2)
	in := wire.Registration{
		UID: p.User.UID, Handle: string(handle), Password: authtest.Password, DeviceName: "phone", DeviceList: p.Signed(),
		Notice:   wire.NoticeAck{Version: notice.Version, Hash: notice.Hash, Language: "en"},
		Consents: []string{string(auth.PurposePresence), string(auth.PurposeFederatedPresence)},
		Keys: wire.Keys{
			Signed: &wire.PreKey{ID: keys.Signed.ID, Key: keys.Signed.Public, Signature: keys.Signed.Signature},
			KEM:    &wire.PreKey{ID: keys.LastResort.ID, Key: keys.LastResort.Public, Signature: keys.LastResort.Signature},
		},
	}
	var tokens wire.Tokens
	p.do("POST", "/auth/register", in, &tokens)
	p.token = tokens.Access
	return p
}

func (p *bare) do(method, path string, in, out any) {
	p.w.T.Helper()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			p.w.T.Fatal(err)
		}
	}
	res, err := p.line.Do(p.w.T.Context(), core.Request{Method: method, Path: path, Token: p.token, Body: body})
	if err != nil || res.Status >= 300 {
		p.w.T.Fatalf("%s %s: %v %d %s", method, path, err, res.Status, res.Body)
	}
	if out != nil {
		if err := json.Unmarshal(res.Body, out); err != nil {
			p.w.T.Fatal(err)
		}
	}
}

// socket is an open one whose frames are read as they come, pings too.
type socket struct {
	core.Stream
	frames chan *wire.ServerFrame // capacity 100; closed at the end
}

// open gives a socket after its welcome.
func (p *bare) open() *socket {
	p.w.T.Helper()
	stream, err := p.line.Open(p.w.T.Context(), p.token)
	if err != nil {
		p.w.T.Fatal(err)
	}
	s := &socket{stream, make(chan *wire.ServerFrame, 100)}
	go func() {
		defer close(s.frames)
		for {
			b, err := stream.Receive(context.Background())
			if err != nil {
				return
			}
			f, err := wire.ParseServerFrame(wire.CBOR, b)
			if err != nil {
				p.w.T.Error(err)
				return
			}
			s.frames <- f
		}
	}()
	if f := p.next(s); f.Type != wire.FrameWelcome {
		p.w.T.Fatalf("%+v", f)
	}
	return s
}

func (p *bare) next(s *socket) *wire.ServerFrame {
	p.w.T.Helper()
	select {
	case f := <-s.frames:
		if f != nil {
			return f
		}
	case <-time.After(2 * time.Minute):
	}
	p.w.T.Fatal("no frame came")
	return nil
}

func (p *bare) send(s *socket, f *wire.ClientFrame) {
	p.w.T.Helper()
	b, err := wire.AppendClientFrame(nil, wire.CBOR, f)
	if err == nil {
		err = s.Send(p.w.T.Context(), b)
	}
	if err != nil {
		p.w.T.Fatal(err)
	}
}

// rows counts the rows of every table of a house, and fails if one holds the
// marker.
func rows(w *servertest.World, h *servertest.House, marker []byte) map[string]int {
	w.T.Helper()
	db, err := sql.Open("sqlite", "file:"+h.Conf.DatabasePath()+"?mode=ro")
	if err != nil {
		w.T.Fatal(err)
	}
	defer db.Close()
	tables, err := db.Query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		w.T.Fatal(err)
	}
	var names []string
	for tables.Next() {
		var name string
		if err := tables.Scan(&name); err != nil {
			w.T.Fatal(err)
		}
		names = append(names, name)
	}
	tables.Close()
	out := map[string]int{}
	for _, name := range names {
		found, err := db.Query("SELECT * FROM " + name)
		if err != nil {
			w.T.Fatal(err)
		}
		columns, err := found.Columns()
		if err != nil {
			w.T.Fatal(err)
		}
		cells := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		for out[name] = 0; found.Next(); out[name]++ {
			if err := found.Scan(into...); err != nil {
				w.T.Fatal(err)
			}
			for i := range cells {
				if bytes.Contains(cells[i], marker) {
					w.T.Errorf("%s: %s.%s holds a signal", h.Name, name, columns[i])
				}
			}
		}
		found.Close()
	}
	if len(out) < 20 {
		w.T.Fatalf("only %d tables were looked into", len(out))
	}
	return out
}

// Presence and typing cross from one organisation to the other, where both
// people and both administrators allow it, and leave nothing in any table of
// either server.
func TestPresenceAndTypingLeaveNothing(t *testing.T) {
	servertest.Run(t, []clearbox.ServerName{"a.test", "b.test"}, func(w *servertest.World) {
		makers := authtest.New(w.T, auth.Options{})
		makers.Clock.Fly(time.Until(makers.Clock.Now()) * -1)
		a, b := w.House("a.test"), w.House("b.test")
		features := []string{wire.FeaturePresence, wire.FeatureTyping}
		a.Admin("POST", "/admin/peers/b.test/set", wire.AdminPeerSet{Features: &features}, nil)
		b.Admin("POST", "/admin/peers/a.test/set", wire.AdminPeerSet{Features: &features}, nil)
		alice, bob := joinBare(w, makers, "alice", "a.test"), joinBare(w, makers, "bob", "b.test")
		defer alice.end()
		defer bob.end()
		token := []byte("sixteen bytes ok")
		bob.do("PUT", "/contacts/token", wire.TokenUpdate{Token: token}, nil)
		at, there := alice.open(), bob.open()
		defer at.Close()
		defer there.Close()
		time.Sleep(2 * time.Minute) // greetings are over

		marker := []byte("the marker of a keystroke")
		before := [2]map[string]int{rows(w, a, marker), rows(w, b, marker)}
		alice.send(at, &wire.ClientFrame{Type: wire.FrameWatch, Users: []clearbox.UserID{bob.User}, Tokens: []wire.WatchToken{{User: bob.User, Token: token}}})
		if f := alice.next(at); f.Type != wire.FrameOnline || f.User != bob.User || f.Presence != wire.PresenceActive || !*f.Online {
			t.Errorf("%+v", f)
		}
		content := append(bytes.Clone(marker), make([]byte, clearbox.MinSealed-len(marker))...)
		alice.send(at, &wire.ClientFrame{Type: wire.FrameSignal, To: &wire.Recipient{User: bob.User, Token: token, Envelopes: []wire.Outgoing{
			{Device: 1, Registration: 1001, Type: clearbox.ContentSealed, Content: content},
		}}})
		f := bob.next(there)
		if f.Type != wire.FrameSignal || f.Signal == nil || f.Signal.Origin != "a.test" || !bytes.Equal(f.Signal.Content, content) || !f.Signal.Sender.IsZero() {
			t.Fatalf("%+v", f)
		}
		time.Sleep(time.Minute)
		for i, h := range []*servertest.House{a, b} {
			if got := rows(w, h, marker); fmt.Sprint(got) != fmt.Sprint(before[i]) {
				t.Errorf("%s: rows %v, before %v", h.Name, got, before[i])
			}
		}
		// Bob withdraws: within a minute he is away.
		bob.do("DELETE", "/me/consents/"+string(auth.PurposeFederatedPresence), nil, nil)
		if f := alice.next(at); f.Type != wire.FrameOnline || f.Presence != wire.PresenceAway || *f.Online {
			t.Errorf("%+v", f)
		}
	})
}
