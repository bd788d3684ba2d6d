package storage_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
	"pgregory.net/rapid"
)

func holdKey(q storage.PeerClass, key []byte) string { return fmt.Sprint(q, string(key)) }

func (m *model) queue(rt *rapid.T) storage.PeerClass {
	return rapid.SampledFrom(modelQueues).Draw(rt, "queue")
}

// pick selects items of a queue in row order.
func (m *model) pick(q storage.PeerClass, ok func(*storage.OutboxItem) bool) []*storage.OutboxItem {
	var out []*storage.OutboxItem
	for _, it := range m.outbox {
		if it.Peer == q.Peer && it.Class == q.Class && ok(it) {
			out = append(out, it)
		}
	}
	return out
}

func values(its []*storage.OutboxItem) []storage.OutboxItem {
	var out []storage.OutboxItem
	for _, it := range its {
		out = append(out, *it)
	}
	return out
}

// someRows draws rows, now and then one that is not there.
func (m *model) someRows(rt *rapid.T) []int64 {
	rows := []int64{1 << 40}
	for _, it := range m.outbox {
		rows = append(rows, it.Row)
	}
	return rapid.SliceOfNDistinct(rapid.SampledFrom(rows), 1, 3, rapid.ID[int64]).Draw(rt, "rows")
}

func (m *model) find(row int64) *storage.OutboxItem {
	for _, it := range m.outbox {
		if it.Row == row {
			return it
		}
	}
	return nil
}

func dispatched(it *storage.OutboxItem) bool { return it.Pos > 0 }

func (m *model) compareOutbox(rt *rapid.T, tx *storage.Tx) {
	var rows []int64
	for _, it := range m.outbox {
		rows = append(rows, it.Row)
	}
	got, err := tx.OutboxRows(rows)
	check(rt, err)
	equal(rt, "outbox", got, values(m.outbox))
	var stats []storage.OutboxStat
	for _, q := range modelQueues {
		its := m.pick(q, func(*storage.OutboxItem) bool { return true })
		st := storage.OutboxStat{PeerClass: q, Count: int64(len(its))}
		var due, held, sent *storage.OutboxItem
		for _, it := range its {
			st.Bytes += int64(len(it.Sealed.Payload) + len(it.Sealed.Wrapped))
			switch {
			case it.Pos > 0:
				if sent == nil || it.Pos < sent.Pos {
					sent = it
				}
			case it.DeferredUntil == 0:
				due = cmp.Or(due, it)
			case held == nil || it.DeferredUntil < held.DeferredUntil:
				held = it
			}
		}
		for _, it := range []*storage.OutboxItem{due, held, sent} {
			if it != nil && (st.Oldest == 0 || it.Accepted < st.Oldest) {
				st.Oldest = it.Accepted
			}
		}
		n, bytes, err := tx.OutboxSize(q.Peer, q.Class)
		check(rt, err)
		equal(rt, "queue size", [2]int64{n, bytes}, [2]int64{st.Count, st.Bytes})
		if st.Count > 0 {
			stats = append(stats, st)
		}
		got, err := tx.Dispatched(q.Peer, q.Class)
		check(rt, err)
		want := m.pick(q, dispatched)
		slices.SortFunc(want, func(a, b *storage.OutboxItem) int { return cmp.Compare(a.Pos, b.Pos) })
		equal(rt, "dispatched", got, values(want))
		o, err := tx.OutStream(q.Peer, q.Class)
		check(rt, err)
		s := m.stream(q)
		equal(rt, "next position", o.NextPos, s.next)
		equal(rt, "stream", string(o.Stream), string(s.stream))
	}
	gotStats, err := tx.OutboxStats()
	check(rt, err)
	slices.SortFunc(stats, func(a, b storage.OutboxStat) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Class, b.Class))
	})
	equal(rt, "statistics", gotStats, stats)
}

func (m *model) stream(q storage.PeerClass) *modelStream {
	if m.streams[q] == nil {
		m.streams[q] = &modelStream{next: 1}
	}
	return m.streams[q]
}

func (m *model) PutOutbox(rt *rapid.T) {
	q := m.queue(rt)
	it := &storage.OutboxItem{
		Peer: q.Peer, Class: q.Class, SenderNo: m.user.No, SenderKey: m.user.Key, MessageID: messageID(m.n),
		Sealed:  storage.Sealed{Payload: make([]byte, rapid.IntRange(1, 40).Draw(rt, "size")), Wrapped: []byte("w")},
		Expires: m.millis() + clearbox.Millis(rapid.Int64Range(0, 400).Draw(rt, "lives")),
		HoldKey: []byte(rapid.SampledFrom([]string{"bob", "carol"}).Draw(rt, "recipient")),
	}
	m.n++
	m.update(rt, func(tx *storage.Tx) error { return tx.PutOutbox(it) })
	equal(rt, "held with the others", it.DeferredUntil, m.holds[holdKey(q, it.HoldKey)])
	for _, other := range m.outbox {
		if other.Row >= it.Row {
			rt.Fatalf("row %d came after row %d", it.Row, other.Row)
		}
	}
	m.outbox = append(m.outbox, it)
}

// Dispatch is what a sender does: take a batch, give it positions.
func (m *model) Dispatch(rt *rapid.T) {
	q := m.queue(rt)
	limit, maxBytes := rapid.IntRange(1, 4).Draw(rt, "limit"), rapid.IntRange(0, 100).Draw(rt, "bytes")
	s := m.stream(q)
	var batch []storage.OutboxItem
	m.update(rt, func(tx *storage.Tx) (err error) {
		if batch, err = tx.OutboxBatch(q.Peer, q.Class, limit, maxBytes); err != nil || len(batch) == 0 {
			return err
		}
		var rows []int64
		for _, it := range batch {
			rows = append(rows, it.Row)
		}
		return tx.AssignPositions(q.Peer, q.Class, s.stream, s.next, rows)
	})
	for key, until := range m.holds {
		for _, it := range m.outbox {
			if until <= m.millis() && holdKey(q, it.HoldKey) == key && it.Peer == q.Peer && it.Class == q.Class {
				it.DeferredUntil = 0
			}
		}
		if until <= m.millis() && (key == holdKey(q, []byte("bob")) || key == holdKey(q, []byte("carol"))) {
			delete(m.holds, key)
		}
	}
	var want []*storage.OutboxItem
	bytes := 0
	for _, it := range m.pick(q, func(it *storage.OutboxItem) bool { return it.Pos == 0 && it.DeferredUntil == 0 }) {
		bytes += len(it.Sealed.Payload) + len(it.Sealed.Wrapped)
		if len(want) == limit || bytes > maxBytes && len(want) > 0 {
			break
		}
		want = append(want, it)
	}
	equal(rt, "batch", batch, values(want))
	for _, it := range want {
		it.Pos = s.next
		s.next++
	}
}

func (m *model) AssignFromTheWrongPlace(rt *rapid.T) {
	q := m.queue(rt)
	s := m.stream(q)
	err := m.s.Update(context.Background(), func(tx *storage.Tx) error {
		return tx.AssignPositions(q.Peer, q.Class, s.stream, s.next+1, nil)
	})
	is(rt, "a position out of order", err, storage.ErrNotFound)
}

func (m *model) NewStream(rt *rapid.T) {
	if rapid.IntRange(0, 3).Draw(rt, "now") != 0 {
		rt.Skip()
	}
	q := m.queue(rt)
	s := m.stream(q)
	s.stream, s.next = []byte(fmt.Sprint("stream ", m.n)), 1
	m.n++
	m.update(rt, func(tx *storage.Tx) error {
		o, err := tx.BumpFence(q.Peer, q.Class)
		if err != nil {
			return err
		}
		if _, err := tx.Undispatch(q.Peer, q.Class); err != nil {
			return err
		}
		o.Stream, o.NextPos = s.stream, s.next
		return tx.SetOutStream(q.Peer, q.Class, o)
	})
	for _, it := range m.pick(q, dispatched) {
		it.Pos = 0
	}
}

func (m *model) DeleteOutbox(rt *rapid.T) {
	rows := m.someRows(rt)
	m.update(rt, func(tx *storage.Tx) error { return tx.DeleteOutbox(rows) })
	m.outbox = slices.DeleteFunc(m.outbox, func(it *storage.OutboxItem) bool { return slices.Contains(rows, it.Row) })
}

func (m *model) VoidOutbox(rt *rapid.T) {
	rows := m.someRows(rt)
	m.update(rt, func(tx *storage.Tx) error { return tx.VoidOutbox(rows) })
	m.outbox = slices.DeleteFunc(m.outbox, func(it *storage.OutboxItem) bool {
		if !slices.Contains(rows, it.Row) {
			return false
		}
		it.Void, it.Sealed = true, storage.Sealed{}
		return it.Pos == 0
	})
}

func (m *model) DeferOutbox(rt *rapid.T) {
	rows := m.someRows(rt)
	until := m.millis() + clearbox.Millis(rapid.Int64Range(1, 200).Draw(rt, "until"))
	m.update(rt, func(tx *storage.Tx) error { return tx.DeferOutbox(rows, until) })
	for _, row := range rows {
		it := m.find(row)
		if it == nil {
			continue
		}
		q := storage.PeerClass{Peer: it.Peer, Class: it.Class}
		it.Pos, it.Outcome = 0, storage.OutcomeOpen
		m.holds[holdKey(q, it.HoldKey)] = until
		for _, other := range m.pick(q, func(o *storage.OutboxItem) bool { return o.Pos == 0 && string(o.HoldKey) == string(it.HoldKey) }) {
			other.DeferredUntil = until
		}
	}
}

func (m *model) TryAndTell(rt *rapid.T) {
	rows := m.someRows(rt)
	outcome := storage.Outcome(rapid.Int64Range(1, 3).Draw(rt, "outcome"))
	m.update(rt, func(tx *storage.Tx) error {
		if err := tx.TriedOutbox(rows, tx.Now(), outcome); err != nil {
			return err
		}
		return tx.MarkDelayed(rows[:1])
	})
	for i, row := range rows {
		if it := m.find(row); it != nil {
			it.Attempts++
			it.LastTry = m.millis()
			if it.FirstTry == 0 {
				it.FirstTry = it.LastTry
			}
			it.Delayed = it.Delayed || i == 0
			if it.Outcome != storage.OutcomeUnknown {
				it.Outcome = outcome
			}
		}
	}
}

func (m *model) RepeatOutbox(rt *rapid.T) {
	rows := m.someRows(rt)
	m.update(rt, func(tx *storage.Tx) error { return tx.RepeatOutbox(rows) })
	for _, row := range rows {
		switch it := m.find(row); {
		case it == nil:
		case it.Outcome == storage.OutcomeNotTaken || it.Outcome == storage.OutcomeRefused:
			it.Outcome = storage.OutcomeOpen
		default:
			it.Outcome = storage.OutcomeUnknown
		}
	}
}

func (m *model) OutboxTimes(rt *rapid.T) {
	before := m.millis() - 100
	m.view(rt, func(tx *storage.Tx) error {
		expired, err := tx.OutboxExpired(m.millis(), 100)
		check(rt, err)
		var want []*storage.OutboxItem
		for _, it := range m.outbox {
			if it.Expires <= m.millis() && !it.Void {
				want = append(want, it)
			}
		}
		slices.SortFunc(want, func(a, b *storage.OutboxItem) int { return cmp.Or(cmp.Compare(a.Expires, b.Expires), byRow(a, b)) })
		equal(rt, "expired items", expired, values(want))
		undelayed, err := tx.OutboxUndelayed(before, 100)
		check(rt, err)
		want = nil
		for _, it := range m.outbox {
			if it.Accepted <= before && !it.Delayed && !it.Void {
				want = append(want, it)
			}
		}
		slices.SortFunc(want, func(a, b *storage.OutboxItem) int { return cmp.Or(cmp.Compare(a.Accepted, b.Accepted), byRow(a, b)) })
		equal(rt, "items that wait long", undelayed, values(want))
		due, err := tx.OutboxDue()
		check(rt, err)
		var wantDue []storage.PeerClass
		for _, q := range modelQueues {
			held := false
			for _, key := range []string{"bob", "carol"} {
				until, ok := m.holds[holdKey(q, []byte(key))]
				held = held || ok && until <= m.millis()
			}
			any := len(m.pick(q, func(*storage.OutboxItem) bool { return true })) > 0
			if any && held || len(m.pick(q, func(it *storage.OutboxItem) bool { return it.Pos > 0 || it.DeferredUntil == 0 })) > 0 {
				wantDue = append(wantDue, q)
			}
		}
		slices.SortFunc(wantDue, func(a, b storage.PeerClass) int {
			return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Class, b.Class))
		})
		equal(rt, "queues with something due", due, wantDue)
		return nil
	})
}
