package sealed_test

import (
	"fmt"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/group"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
)

// A message to 1,000 members on 10 servers leaves the client as one upload of at
// most 80 bytes for each device beside the payload, and everyone reads it.
func TestGroupMessageIsOneUpload(t *testing.T) {
	const members, servers = 1000, 10
	w := newWorld(t, 11)
	sender := w.person(t, "sender@s0.test")
	own, err := group.New(w.random, group.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	receiver := group.NewReceiver(own.ID())
	if err := receiver.Process(own.Distribution()); err != nil {
		t.Fatal(err)
	}
	content := w.content(t, sender)
	content.Type, content.Group = sealed.TypeSenderKey, []byte("a group")
	if content.Body, err = own.Encrypt(w.random, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}

	var people []*sealed.Receiver
	var to []sealed.Recipient
	home := map[keys.ServiceID]int{}
	devices := 0
	for i := range members {
		p := w.person(t, fmt.Sprintf("member%d@s%d.test", i, i%servers))
		people = append(people, p)
		home[p.Account] = i % servers
		r := recipient(p)
		for d := range i % 3 {
			r.Devices = append(r.Devices, fanout.Device{ID: uint8(d + 2), Registration: uint16(d + 100)})
		}
		devices += len(r.Devices)
		to = append(to, r)
	}
	upload, err := sealed.SealV2(w.random, sender.Identity, content, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := fanout.Parse(upload, fanout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	payload := m.ReceivedSize() - fanout.MaterialSize
	if over := len(upload) - payload; over > 80*members || over > 80*devices {
		t.Fatalf("%d bytes beside the payload for %d members with %d devices", over, members, devices)
	}

	parts := fanout.Split(m, func(id keys.ServiceID) (int, bool) { return home[id], true })
	if len(parts) != servers {
		t.Fatalf("%d parts", len(parts))
	}
	for _, part := range parts {
		inPart, err := fanout.Parse(part.Bytes, fanout.Limits{})
		if err != nil || len(inPart.Recipients()) != members/servers {
			t.Fatalf("%d members, %v", len(inPart.Recipients()), err)
		}
		for place, whole := range part.Places {
			if place%25 != 0 {
				continue
			}
			received, err := inPart.AppendReceived(nil, place)
			if err != nil || len(received) != m.ReceivedSize() {
				t.Fatalf("%d bytes, %v", len(received), err)
			}
			c, err := people[whole].Open(received, accepted, w.Root)
			if err != nil || !same(c, content) {
				t.Fatalf("member %d: %v", whole, err)
			}
			if text, err := receiver.Clone().Decrypt(c.Body); err != nil || len(text) != 500 {
				t.Fatalf("member %d: %v", whole, err)
			}
		}
	}
}
