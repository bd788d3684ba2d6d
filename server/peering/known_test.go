package peering_test

import (
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/wire"
)

func TestKnown(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab, a, b *site) {
		known := func(name clearbox.ServerName, state wire.ServerState) wire.ServerInfo {
			t.Helper()
			info, err := a.service.Known(t.Context(), name)
			must(t, err)
			if info.State != state || info.Server != name {
				t.Fatalf("%s: %+v, want %s", name, info, state)
			}
			return info
		}
		root := func(info wire.ServerInfo, of *site) {
			t.Helper()
			want, err := of.self.SenderRoot()
			must(t, err)
			pub := want.Public()
			if len(info.Roots) != 1 || string(info.Roots[0].Key) != string(pub.Bytes()) || info.Roots[0].Expires <= info.Roots[0].NotBefore {
				t.Fatalf("%s: roots %+v", info.Server, info.Roots)
			}
		}
		if info := known("c.test", wire.ServerNotPeered); len(info.Roots) != 0 || info.Country != "" {
			t.Errorf("of a stranger: %+v", info)
		}
		inv := a.invite("b.test")
		known("b.test", wire.ServerNotPeered)
		_, err := b.accept(inv.Token)
		must(t, err)
		info := known("b.test", wire.ServerReachable)
		root(info, b)
		if info.Country != "DE" || info.Since != 0 {
			t.Errorf("%+v", info)
		}
		root(known("a.test", wire.ServerOwn), a)

		seen := clearbox.Millis(time.Now().UnixMilli())
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{LastSeen: seen, Failures: 2, LastError: clearbox.CodePeerUnreachable}))
		if info := known("b.test", wire.ServerUnreachable); info.Since != seen {
			t.Errorf("unreachable since %d, want %d", info.Since, seen)
		}
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{Failures: 2, LastError: clearbox.CodePeerUnreachable, Since: seen - 5}))
		if info := known("b.test", wire.ServerUnreachable); info.Since != seen-5 {
			t.Errorf("unreachable since %d, want %d", info.Since, seen-5)
		}
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{Failures: 2, LastError: clearbox.CodePeerBlocked, Since: seen - 7}))
		if info := known("b.test", wire.ServerSuspended); info.Since != seen-7 || info.Here { // there
			t.Errorf("suspended there since %d, want %d", info.Since, seen-7)
		}
		must(t, a.table.SaveStatus(t.Context(), "b.test", federation.Status{}))
		must(t, a.service.Suspend(t.Context(), deed("peer.suspend"), "b.test"))
		here := known("b.test", wire.ServerSuspended)
		root(here, b) // what came may still be opened
		if !here.Here {
			t.Errorf("suspended here: %+v", here)
		}
		must(t, a.service.Remove(t.Context(), deed("peer.remove"), "b.test"))
		root(known("b.test", wire.ServerNotPeered), b)
	})
}
