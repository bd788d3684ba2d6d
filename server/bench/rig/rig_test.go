package rig_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

var user = clearbox.UserID{UID: "ceirceirceirceirceirceirce", Server: "b.test"}

// What the bench patches must stay a frame that the server reads.
func TestTemplateIsAFrame(t *testing.T) {
	tmpl, err := rig.NewTemplate(&rig.Account{User: user, Registration: 77})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint32{0, 1, 255, 70_000} {
		f, err := wire.ParseClientFrame(wire.CBOR, tmpl.Message(9, n))
		if err != nil {
			t.Fatal(err)
		}
		out := f.Submission.To[0].Envelopes[0]
		e := rig.Event{Content: out.Content}
		sender, i, ok := e.Origin()
		if f.Ref != uint64(rig.FirstRef+n) || f.Submission.ID != tmpl.MessageID(n) || !ok || sender != 9 || i != n ||
			out.Registration != 77 || f.Submission.To[0].User != user {
			t.Errorf("message %d reads as ref %d, sender %d, number %d", n, f.Ref, sender, i)
		}
		again, err := wire.AppendClientFrame(nil, wire.CBOR, f)
		if err != nil || !bytes.Equal(again, tmpl.Message(9, n)) {
			t.Errorf("message %d is not deterministic CBOR", n)
		}
	}
}

// The short reader and the real one agree on every golden frame of the server.
func TestReadEventAgreesWithWire(t *testing.T) {
	files, err := filepath.Glob("../../wire/testdata/server_*.cbor.hex")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden frames", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatal(err)
		}
		want, err := wire.ParseServerFrame(wire.CBOR, frame)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rig.ReadEvent(frame)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Type != want.Type || got.Ref != want.Ref || got.Seq != want.Seq {
			t.Errorf("%s: got %+v", name, got)
		}
		if want.Envelope != nil && (!bytes.Equal(got.Content, want.Envelope.Content) || string(got.ID) != want.Envelope.ID.String()) {
			t.Errorf("%s: the envelope differs", name)
		}
		if want.Problem != nil && got.Code != want.Problem.Code {
			t.Errorf("%s: code %q", name, got.Code)
		}
		for n := range frame {
			if _, err := rig.ReadEvent(frame[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were accepted", name, n, len(frame))
			}
		}
	}
}

func TestAckIsAFrame(t *testing.T) {
	for _, seq := range []int64{1, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32} {
		f, err := wire.ParseClientFrame(wire.CBOR, rig.AppendAck(nil, seq))
		if err != nil || f.Type != wire.FrameAck || f.Seq != seq {
			t.Errorf("%d: %v %+v", seq, err, f)
		}
		want, err := wire.AppendClientFrame(nil, wire.CBOR, f)
		if err != nil || !bytes.Equal(want, rig.AppendAck(nil, seq)) {
			t.Errorf("%d is not deterministic CBOR", seq)
		}
	}
}

// The socket speaks with the WebSocket library that the server uses: sizes of
// every length form, bursts, fragments, pings, close codes.
func TestSocketAgainstTheLibrary(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 127, 4095, 4096, 65535, 65536, 300_000}
	authority, err := rig.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := authority.Server("a.test")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pong := make(chan error, 2) // two pings
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.SubprotocolCBOR}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for range sizes {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return
			}
			c.Write(r.Context(), kind, message)
		}
		for range 100 { // a burst
			c.Write(r.Context(), websocket.MessageBinary, []byte("burst"))
		}
		c.Write(r.Context(), websocket.MessageBinary, []byte("last"))
		go func() { pong <- c.Ping(r.Context()) }() // in one burst with the last message, or after it
		fragmented, err := c.Writer(r.Context(), websocket.MessageBinary)
		if err != nil {
			return
		}
		fragmented.Write([]byte("one "))
		fragmented.Write(bytes.Repeat([]byte("x"), 9000))
		fragmented.Close()
		go func() { pong <- c.Ping(r.Context()) }()
		c.Read(r.Context())
		c.Close(4003, "slow")
	}), ErrorLog: nil}
	go server.Serve(tls.NewListener(l, cfg))
	defer server.Close()

	home := &rig.Server{Name: "a.test", Address: l.Addr().String(), Authority: authority}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	sock, err := home.Dial(ctx, "token", rig.Via{Source: rig.Source(3)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	pings := 0
	sock.OnPing = func() { pings++ }
	for _, n := range sizes {
		sent := bytes.Repeat([]byte{byte(n), 7, 9}, n/3+1)[:n]
		sock.Queue(sent)
		if err := sock.Flush(); err != nil {
			t.Fatal(err)
		}
		got, _, err := sock.Next()
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back as %d: %v", n, len(got), err)
		}
	}
	for range 100 {
		if got, _, err := sock.Next(); err != nil || string(got) != "burst" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got, more, err := sock.Next(); err != nil || string(got) != "last" {
		t.Fatalf("%q, more %t, %v", got, more, err)
	}
	if got, _, err := sock.Next(); err != nil || len(got) != 9004 || !strings.HasPrefix(string(got), "one x") {
		t.Fatalf("a fragmented message came as %d bytes: %v", len(got), err)
	}
	go func() {
		for range 2 {
			if err := <-pong; err != nil {
				t.Errorf("a ping was not answered: %v", err)
			}
		}
		sock.Queue([]byte("go on"))
		sock.Flush()
	}()
	_, _, err = sock.Next()
	var closed *rig.CloseError
	if !errors.As(err, &closed) || closed.Code != wire.CloseSlow || closed.Reason != "slow" || pings != 2 {
		t.Errorf("the end came as %v after %d pings", err, pings)
	}
}

// A source address is a client of its own, and the same one every time.
func TestSourcesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for n := range 1000 {
		ip := rig.Source(n)
		if !ip.IsLoopback() || seen[ip.String()] || ip.Equal(net.IPv4(127, 0, 0, 1)) {
			t.Fatalf("source %d is %s", n, ip)
		}
		seen[ip.String()] = true
	}
}
