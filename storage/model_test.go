package storage_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
	"pgregory.net/rapid"
)

// TestModel drives mailboxes, submissions and the outbox with random steps and
// compares every answer with a model in memory. It goes on until there were as
// many steps as CLEARBOX_MODEL_STEPS says and prints one JSON line.
func TestModel(t *testing.T) {
	want := 0
	if n := os.Getenv("CLEARBOX_MODEL_STEPS"); n != "" {
		var err error
		want, err = strconv.Atoi(n)
		must(t, err)
	}
	dir := t.TempDir()
	empty := emptyDatabase(t)
	var runs, steps atomic.Int64
	check := func(rt *rapid.T) {
		path := filepath.Join(dir, fmt.Sprint(runs.Add(1), ".db"))
		must(t, os.WriteFile(path, empty, 0o600))
		m := newModel(rt, path)
		defer func() { must(t, m.s.Close()) }()
		actions := map[string]func(*rapid.T){}
		v := reflect.ValueOf(m)
		for i := range v.NumMethod() {
			do := v.Method(i).Interface().(func(*rapid.T))
			actions[v.Type().Method(i).Name] = func(rt *rapid.T) {
				steps.Add(1)
				m.now.Add(rapid.Int64Range(0, 40).Draw(rt, "passes"))
				do(rt)
			}
		}
		actions[""] = m.compare
		rt.Repeat(actions)
	}
	for {
		rapid.Check(t, check) // stops the test at the first difference
		if steps.Load() >= int64(want) {
			break
		}
	}
	t.Logf(`{"test":"model","steps":%d,"runs":%d,"differences":0}`, steps.Load(), runs.Load())
}

// emptyDatabase is a migrated file, so that not every run migrates one.
func emptyDatabase(t *testing.T) []byte {
	w := open(t)
	must(t, w.Store.Close())
	b, err := os.ReadFile(w.path)
	must(t, err)
	w.reopen()
	return b
}

// model is the store and what it should hold. Its exported methods are the
// steps.
type model struct {
	s       *storage.Store
	opts    storage.Options
	now     *atomic.Int64
	user    storage.User
	devices map[int64]*modelBox // by number
	nextID  clearbox.DeviceID
	subs    map[clearbox.MessageID]*storage.Submission
	outbox  []*storage.OutboxItem // in row order
	streams map[storage.PeerClass]*modelStream
	holds   map[string]clearbox.Millis // queue and hold key
	n       int
}

type modelBox struct {
	id          clearbox.DeviceID
	next, acked int64
	mails       []storage.Mail
}

type modelStream struct {
	stream []byte
	next   int64
}

const (
	modelMails = 6
	modelBytes = 120
)

var modelQueues = []storage.PeerClass{
	{Peer: "b.test", Class: storage.ClassMessage}, {Peer: "b.test", Class: storage.ClassControl}, {Peer: "c.test", Class: storage.ClassMessage},
}

func newModel(rt *rapid.T, path string) *model {
	m := &model{
		now: new(atomic.Int64), devices: map[int64]*modelBox{}, nextID: 1, subs: map[clearbox.MessageID]*storage.Submission{},
		streams: map[storage.PeerClass]*modelStream{}, holds: map[string]clearbox.Millis{},
	}
	m.now.Store(1000)
	m.opts = storage.Options{
		Path: path, Sealer: plainSealer{}, MailboxMails: modelMails, MailboxBytes: modelBytes,
		Index: func(label string, v []byte) []byte { h := sha256.Sum256(append([]byte(label), v...)); return h[:] },
		Now:   func() time.Time { return time.UnixMilli(m.now.Load()) },
	}
	m.open(rt)
	m.user = storage.User{UID: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Key: storage.KeyID{1}, Handle: "alice", Role: storage.RoleMember}
	m.update(rt, func(tx *storage.Tx) error { return tx.CreateUser(&m.user) })
	return m
}

func (m *model) open(rt *rapid.T) {
	s, err := storage.Open(context.Background(), m.opts)
	check(rt, err)
	m.s = s
}

func check(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}

func equal[T any](rt *rapid.T, what string, got, want T) {
	rt.Helper()
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

func is(rt *rapid.T, what string, got, want error) {
	rt.Helper()
	if !errors.Is(got, want) {
		rt.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func (m *model) update(rt *rapid.T, fn func(tx *storage.Tx) error) {
	rt.Helper()
	check(rt, m.s.Update(context.Background(), fn))
}

func (m *model) view(rt *rapid.T, fn func(tx *storage.Tx) error) {
	rt.Helper()
	check(rt, m.s.View(context.Background(), fn))
}

func (m *model) millis() clearbox.Millis { return clearbox.Millis(m.now.Load()) }

// anyDevice draws a device, now and then one that is not there.
func (m *model) anyDevice(rt *rapid.T) (int64, *modelBox) {
	nos := append(slices.Sorted(maps.Keys(m.devices)), 0)
	no := rapid.SampledFrom(nos).Draw(rt, "device")
	return no, m.devices[no]
}

func (b *modelBox) size() (n, bytes int64) {
	for _, x := range b.mails {
		bytes += int64(len(x.Sealed.Payload) + len(x.Sealed.Wrapped))
	}
	return int64(len(b.mails)), bytes
}

// compare reads everything back.
func (m *model) compare(rt *rapid.T) {
	m.view(rt, func(tx *storage.Tx) error {
		ds, err := tx.Devices(m.user.No)
		check(rt, err)
		equal(rt, "devices", len(ds), len(m.devices))
		for _, d := range ds {
			b := m.devices[d.No]
			equal(rt, "device id", d.ID, b.id)
			equal(rt, "next sequence", d.NextSeq, b.next)
			equal(rt, "acknowledged", d.AckedSeq, b.acked)
			mails, err := tx.MailAfter(d.No, 0, 1000, 1<<20)
			check(rt, err)
			equal(rt, "mails", len(mails), len(b.mails))
			for i := range mails {
				equal(rt, "mail", mails[i], b.mails[i])
			}
			n, bytes, err := tx.MailboxSize(d.No)
			check(rt, err)
			wantN, wantBytes := b.size()
			equal(rt, "mailbox size", [2]int64{n, bytes}, [2]int64{wantN, wantBytes})
		}
		rows, err := tx.Int("SELECT COUNT(*) FROM mail")
		check(rt, err)
		var want int64
		for _, b := range m.devices {
			want += int64(len(b.mails))
		}
		equal(rt, "rows of mail", rows, want)
		m.compareOutbox(rt, tx)
		return nil
	})
}

func (m *model) AddDevice(rt *rapid.T) {
	if len(m.devices) >= 4 {
		rt.Skip()
	}
	d := storage.DeviceRecord{UserNo: m.user.No, ID: m.nextID, Key: []byte("k")}
	m.nextID = m.nextID%127 + 1
	for no := range m.devices {
		if m.devices[no].id == d.ID {
			rt.Skip()
		}
	}
	m.update(rt, func(tx *storage.Tx) error { return tx.AddDevice(&d) })
	if m.devices[d.No] != nil {
		rt.Fatalf("device number %d was given twice", d.No)
	}
	m.devices[d.No] = &modelBox{id: d.ID, next: 1}
}

func (m *model) RemoveDevice(rt *rapid.T) {
	no, b := m.anyDevice(rt)
	if b == nil {
		err := m.s.Update(context.Background(), func(tx *storage.Tx) error { _, err := tx.RemoveDevice(m.user.No, 0); return err })
		is(rt, "remove nothing", err, storage.ErrNotFound)
		return
	}
	m.update(rt, func(tx *storage.Tx) error { _, err := tx.RemoveDevice(m.user.No, b.id); return err })
	delete(m.devices, no)
}

func (m *model) PutMail(rt *rapid.T) {
	no, b := m.anyDevice(rt)
	p := storage.Sealed{Payload: make([]byte, rapid.IntRange(1, 40).Draw(rt, "size")), Wrapped: []byte("w")}
	p.Payload[0] = byte(m.n)
	m.n++
	notice := rapid.IntRange(0, 5).Draw(rt, "notice") == 0
	expires := m.millis() + clearbox.Millis(rapid.Int64Range(0, 300).Draw(rt, "lives"))
	var seq int64
	err := m.s.Update(context.Background(), func(tx *storage.Tx) (err error) {
		if notice {
			seq, err = tx.PutNotice(no, p, expires)
		} else {
			seq, err = tx.PutMail(no, p, expires)
		}
		return err
	})
	if b == nil {
		is(rt, "mail for nobody", err, storage.ErrNotFound)
		return
	}
	n, bytes := b.size()
	if !notice && (n >= modelMails || bytes+int64(len(p.Payload)+1) > modelBytes) {
		is(rt, "mail for a full mailbox", err, storage.ErrMailboxFull)
		return
	}
	check(rt, err)
	equal(rt, "sequence", seq, b.next)
	b.next++
	b.mails = append(b.mails, storage.Mail{Seq: seq, Sealed: p, Expires: expires})
}

func (m *model) MailAfter(rt *rapid.T) {
	no, b := m.anyDevice(rt)
	seq := rapid.Int64Range(-1, 30).Draw(rt, "after")
	limit, maxBytes := rapid.IntRange(0, 5).Draw(rt, "limit"), rapid.IntRange(0, 100).Draw(rt, "bytes")
	var got []storage.Mail
	m.view(rt, func(tx *storage.Tx) (err error) {
		got, err = tx.MailAfter(no, seq, limit, maxBytes)
		return err
	})
	var want []storage.Mail
	if b != nil {
		bytes := 0
		for _, x := range b.mails {
			if x.Seq <= seq {
				continue
			}
			bytes += len(x.Sealed.Payload) + len(x.Sealed.Wrapped)
			if len(want) == limit || bytes > maxBytes && len(want) > 0 {
				break
			}
			want = append(want, x)
		}
	}
	equal(rt, "a page of mail", got, want)
}

func (m *model) AckMail(rt *rapid.T) {
	no, b := m.anyDevice(rt)
	upTo := rapid.Int64Range(-1, 30).Draw(rt, "up to")
	var n int64
	err := m.s.Update(context.Background(), func(tx *storage.Tx) (err error) {
		n, err = tx.AckMail(no, upTo)
		return err
	})
	if b == nil {
		is(rt, "acknowledge nobody's", err, storage.ErrNotFound)
		return
	}
	check(rt, err)
	before := len(b.mails)
	b.mails = slices.DeleteFunc(b.mails, func(x storage.Mail) bool { return x.Seq <= upTo })
	b.acked = max(b.acked, min(upTo, b.next-1))
	equal(rt, "acknowledged", n, int64(before-len(b.mails)))
}

func (m *model) ExpireMail(rt *rapid.T) {
	limit := rapid.IntRange(0, 8).Draw(rt, "limit")
	var got []storage.ExpiredMail
	m.update(rt, func(tx *storage.Tx) (err error) {
		got, err = tx.ExpireMail(tx.Now(), limit)
		return err
	})
	due := 0
	for _, b := range m.devices {
		for _, x := range b.mails {
			if x.Expires <= m.millis() {
				due++
			}
		}
	}
	equal(rt, "expired", len(got), min(due, limit))
	for _, x := range got {
		b := m.devices[x.DeviceNo]
		i := slices.IndexFunc(b.mails, func(y storage.Mail) bool { return y.Seq == x.Seq })
		if i < 0 || x.Expires > m.millis() {
			rt.Fatalf("expired %+v, which is not due", x)
		}
		equal(rt, "expired mail", x.Mail, b.mails[i])
		b.mails = slices.Delete(b.mails, i, i+1)
	}
}

func (m *model) PutSubmission(rt *rapid.T) {
	s := &storage.Submission{
		UserNo: m.user.No, ID: messageID(rapid.IntRange(1, 12).Draw(rt, "id")), Answer: []byte{byte(m.n)},
		Expires: m.millis() + clearbox.Millis(rapid.Int64Range(0, 300).Draw(rt, "lives")),
	}
	s.BodyHash[0] = byte(m.n)
	m.n++
	err := m.s.Update(context.Background(), func(tx *storage.Tx) error { return tx.PutSubmission(s) })
	if m.subs[s.ID] != nil {
		is(rt, "a repeated submission", err, storage.ErrExists)
		return
	}
	check(rt, err)
	m.subs[s.ID] = s
}

func (m *model) SetSubmissionState(rt *rapid.T) {
	id := messageID(rapid.IntRange(1, 12).Draw(rt, "id"))
	err := m.s.Update(context.Background(), func(tx *storage.Tx) error {
		return tx.SetSubmissionState(m.user.No, id, storage.SubmissionAtPeer)
	})
	if s := m.subs[id]; s != nil {
		check(rt, err)
		s.State = storage.SubmissionAtPeer
		return
	}
	is(rt, "an unknown submission", err, storage.ErrNotFound)
}

func (m *model) ReadSubmissions(rt *rapid.T) {
	var ids []clearbox.MessageID
	for i := range 14 {
		ids = append(ids, messageID(i))
	}
	m.view(rt, func(tx *storage.Tx) error {
		states, err := tx.SubmissionStates(m.user.No, ids)
		check(rt, err)
		equal(rt, "known submissions", len(states), len(m.subs))
		for id, want := range m.subs {
			equal(rt, "state", states[id], want.State)
			got, err := tx.Submission(m.user.No, id)
			check(rt, err)
			equal(rt, "submission", got, *want)
		}
		_, err = tx.Submission(m.user.No+1, messageID(1))
		is(rt, "another's submission", err, storage.ErrNotFound)
		return nil
	})
}

func (m *model) ExpireSubmissions(rt *rapid.T) {
	var n int64
	m.update(rt, func(tx *storage.Tx) (err error) {
		n, err = tx.ExpireSubmissions(tx.Now(), 100)
		return err
	})
	before := len(m.subs)
	maps.DeleteFunc(m.subs, func(_ clearbox.MessageID, s *storage.Submission) bool { return s.Expires <= m.millis() })
	equal(rt, "forgotten", n, int64(before-len(m.subs)))
}

func (m *model) Restart(rt *rapid.T) {
	if rapid.IntRange(0, 3).Draw(rt, "now") != 0 {
		rt.Skip()
	}
	check(rt, m.s.Close())
	m.open(rt)
}

func byRow(a, b *storage.OutboxItem) int { return cmp.Compare(a.Row, b.Row) }
