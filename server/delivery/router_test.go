package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/delivery"
	"github.com/clearbox-im/clearbox/storage"
)

func TestSubmitReachesEveryDevice(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1, 2), w.person("bob", 1, 3)
	rc, err := w.send(alice.devices[0], newID(t), to(bob.user, "hi", 1, 3), to(alice.user, "copy", 2))
	must(t, err)
	if rc.Status != delivery.StatusAccepted || rc.AcceptedAt == 0 {
		t.Fatalf("receipt %+v", rc)
	}
	for _, d := range bob.devices {
		if got := w.contents(d, 0); !slices.Equal(got, []string{"hi"}) {
			t.Errorf("bob's device %d has %q", d.Device, got)
		}
	}
	if got := w.contents(alice.devices[1], 0); !slices.Equal(got, []string{"copy"}) {
		t.Errorf("alice's other device has %q", got)
	}
	if got := w.contents(alice.devices[0], 0); got != nil {
		t.Errorf("the sending device has %q", got)
	}
}

func TestSameIDSameAnswerOtherBodyConflict(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	id := newID(t)
	first, err := w.send(alice.devices[0], id, to(bob.user, "hi", 1))
	must(t, err)
	again, err := w.send(alice.devices[0], id, to(bob.user, "hi", 1))
	must(t, err)
	if first != again {
		t.Errorf("first %+v, again %+v", first, again)
	}
	_, err = w.send(alice.devices[0], id, to(bob.user, "other", 1))
	if clearbox.CodeOf(err) != clearbox.CodeConflict {
		t.Errorf("another body: %v", err)
	}
	// Also when the recipient's devices have changed since.
	must(t, w.store.Update(context.Background(), func(tx *storage.Tx) error {
		_, err := tx.RemoveDevice(bob.devices[0].UserNo, 1)
		return err
	}))
	again, err = w.send(alice.devices[0], id, to(bob.user, "hi", 1))
	if err != nil || again != first {
		t.Errorf("repeat after a device change: %+v, %v", again, err)
	}
}

func TestStaleDevicesStoreNothing(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1, 2)
	id := newID(t)
	for _, c := range []struct {
		name           string
		devices        []clearbox.DeviceID
		missing, extra []clearbox.DeviceRef
	}{
		{"missing", []clearbox.DeviceID{1}, []clearbox.DeviceRef{{ID: 2, Registration: 102}}, nil},
		{"extra", []clearbox.DeviceID{1, 2, 3}, nil, []clearbox.DeviceRef{{ID: 3, Registration: 103}}},
		{"none", nil, []clearbox.DeviceRef{{ID: 1, Registration: 101}, {ID: 2, Registration: 102}}, nil},
	} {
		_, err := w.send(alice.devices[0], id, to(bob.user, "hi", c.devices...))
		var stale *clearbox.StaleDevicesError
		if !errors.As(err, &stale) || !slices.Equal(stale.Missing, c.missing) || !slices.Equal(stale.Extra, c.extra) || stale.User != bob.user {
			t.Errorf("%s: %v %+v", c.name, err, stale)
		}
	}
	wrong := to(bob.user, "hi", 1, 2)
	wrong.Envelopes[0].Registration++
	var stale *clearbox.StaleDevicesError
	if _, err := w.send(alice.devices[0], id, wrong); !errors.As(err, &stale) || len(stale.Missing) != 1 || len(stale.Extra) != 1 {
		t.Errorf("reinstalled device: %v %+v", err, stale)
	}
	if got := w.contents(bob.devices[0], 0); got != nil {
		t.Errorf("a refused submission stored %q", got)
	}
	// The same id is free again.
	if _, err := w.send(alice.devices[0], id, to(bob.user, "hi", 1, 2)); err != nil {
		t.Error(err)
	}
	// A device that is added behind the router's back is seen at once.
	must(t, w.store.Update(context.Background(), func(tx *storage.Tx) error {
		return tx.AddDevice(&storage.DeviceRecord{UserNo: bob.devices[0].UserNo, ID: 4, Registration: 104, Key: make([]byte, 32)})
	}))
	if _, err := w.send(alice.devices[0], newID(t), to(bob.user, "hi", 1, 2)); !errors.As(err, &stale) || len(stale.Missing) != 1 || stale.Missing[0].ID != 4 {
		t.Errorf("added device: %v", err)
	}
}

func TestBadSubmissionsAreRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	good := func() delivery.Submission {
		return delivery.Submission{ID: newID(t), To: []delivery.Recipient{to(bob.user, "hi", 1)}}
	}
	for _, c := range []struct {
		name  string
		spoil func(*delivery.Submission)
		code  clearbox.Code
	}{
		{"no id", func(s *delivery.Submission) { s.ID = clearbox.MessageID{} }, clearbox.CodeBadRequest},
		{"nobody", func(s *delivery.Submission) { s.To = nil }, clearbox.CodeBadRequest},
		{"twice", func(s *delivery.Submission) { s.To = append(s.To, s.To[0]) }, clearbox.CodeBadRequest},
		{"device twice", func(s *delivery.Submission) { s.To[0].Envelopes = append(s.To[0].Envelopes, s.To[0].Envelopes[0]) }, clearbox.CodeBadRequest},
		{"device 0", func(s *delivery.Submission) { s.To[0].Envelopes[0].Device = 0 }, clearbox.CodeBadRequest},
		{"device 128", func(s *delivery.Submission) { s.To[0].Envelopes[0].Device = 128 }, clearbox.CodeBadRequest},
		{"registration", func(s *delivery.Submission) { s.To[0].Envelopes[0].Registration = 1 << 14 }, clearbox.CodeBadRequest},
		{"type", func(s *delivery.Submission) { s.To[0].Envelopes[0].Type = 1 }, clearbox.CodeBadRequest},
		{"empty", func(s *delivery.Submission) { s.To[0].Envelopes[0].Content = nil }, clearbox.CodeBadRequest},
		{"large", func(s *delivery.Submission) { s.To[0].Envelopes[0].Content = make([]byte, clearbox.MaxContent+1) }, clearbox.CodeTooLarge},
		{"unknown person", func(s *delivery.Submission) { s.To[0].User.UID = "aaaaaaaaaaaaaaaaaaaaaaaaaa" }, clearbox.CodeRecipientUnavailable},
		{"no peering", func(s *delivery.Submission) { s.To[0].User.Server = "c.test" }, clearbox.CodePeerBlocked},
	} {
		s := good()
		c.spoil(&s)
		if _, err := w.router.Submit(context.Background(), alice.devices[0], s); clearbox.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	p := alice.devices[0]
	p.Device, p.DeviceNo = 0, 0
	if _, err := w.router.Submit(context.Background(), p, good()); clearbox.CodeOf(err) != clearbox.CodeForbidden {
		t.Errorf("without a device: %v", err)
	}
	if got := w.contents(bob.devices[0], 0); got != nil {
		t.Errorf("stored %q", got)
	}
}

// A full mailbox costs its own message only, also in the midst of a batch.
func TestFullMailboxSparesItsNeighbours(t *testing.T) {
	w := newWorld(t, worldOptions{mails: 3})
	alice, bob, carol := w.person("alice", 1), w.person("bob", 1), w.person("carol", 1)
	for range 3 {
		_, err := w.send(alice.devices[0], newID(t), to(bob.user, "x", 1))
		must(t, err)
	}
	var wg sync.WaitGroup
	for i := range 60 {
		s := delivery.Submission{ID: newID(t), To: []delivery.Recipient{to(bob.user, "x", 1)}}
		if i%20 == 0 {
			s.To[0] = to(carol.user, fmt.Sprint(i), 1)
		}
		wg.Add(1)
		w.router.SubmitAsync(context.Background(), alice.devices[0], s, func(_ delivery.Receipt, err error) {
			defer wg.Done()
			if want := map[bool]clearbox.Code{true: "", false: clearbox.CodeMailboxFull}[i%20 == 0]; clearbox.CodeOf(err) != want {
				t.Errorf("message %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if got := w.contents(carol.devices[0], 0); !slices.Equal(got, []string{"0", "20", "40"}) {
		t.Errorf("carol has %q", got)
	}
}

func TestOrderOfCallsIsOrderOfMail(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	m := w.router.Mailbox(bob.devices[0])
	defer m.Close()
	var want []string
	var wg sync.WaitGroup
	for i := range 1000 {
		want = append(want, fmt.Sprint(i))
		wg.Add(1)
		w.router.SubmitAsync(context.Background(), alice.devices[0],
			delivery.Submission{ID: newID(t), To: []delivery.Recipient{to(bob.user, fmt.Sprint(i), 1)}},
			func(_ delivery.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			})
	}
	var got []string
	after := int64(0)
	for len(got) < len(want) {
		<-m.Wake()
		for {
			ds, err := m.Read(context.Background(), after, 7, 1<<20)
			must(t, err)
			if len(ds) == 0 {
				break
			}
			for _, d := range ds {
				after = d.Seq
				got = append(got, string(d.Envelope.Content))
			}
			must(t, m.Ack(context.Background(), after))
		}
	}
	wg.Wait()
	if !slices.Equal(got, want) {
		t.Error("the order changed, or something was lost or repeated")
	}
	// What is submitted now is stored behind the acknowledgements.
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "last", 1))
	must(t, err)
	if rest := w.contents(bob.devices[0], 0); !slices.Equal(rest, []string{"last"}) {
		t.Errorf("%d entries are there, want the last", len(rest))
	}
}

func TestAcknowledgementOfTheUndeliveredIsRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice, bob := w.person("alice", 1), w.person("bob", 1)
	_, err := w.send(alice.devices[0], newID(t), to(bob.user, "hi", 1))
	must(t, err)
	m := w.router.Mailbox(bob.devices[0])
	defer m.Close()
	if err := m.Ack(context.Background(), 99); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
		t.Errorf("acknowledging the future: %v", err)
	}
	if got := contents(t, m, 0); !slices.Equal(got, []string{"hi"}) {
		t.Errorf("got %q", got)
	}
}
