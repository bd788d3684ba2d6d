//go:build unix

package storage_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage"
)

// cpu is the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// measure runs work b.N times on n goroutines and reports messages a second and
// processor time a message.
func measure(b *testing.B, n int, work func(worker int)) {
	tokens := make(chan struct{}, 4*n) // so that handing out work does not wait
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for range tokens {
				work(w)
			}
		})
	}
	before, written := cpu(b), disk()
	for b.Loop() {
		tokens <- struct{}{}
	}
	close(tokens)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(disk()-written)/1024/float64(b.N), "written-KiB/op")
}

// disk is what this process has handed to write calls, 0 where the system does
// not tell.
func disk() (bytes int64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "wchar: "); ok {
			bytes, _ = strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return bytes
}

type pair struct {
	user   storage.User
	device storage.DeviceRecord
}

func people(w *world, n int) []pair {
	ps := make([]pair, n)
	for i := range ps {
		ps[i].user, ps[i].device = w.user(clearbox.Handle(fmt.Sprint("user", i)))
	}
	return ps
}

// traffic is a stream of messages among people.
type traffic struct {
	b      *testing.B
	w      *world
	people []pair
	sealed storage.Sealed
	ack    int64 // every ack-th message of a mailbox acknowledges it, in an update of its own
	sent   atomic.Int64
}

func newTraffic(b *testing.B, w *world, n int, ack int64) *traffic {
	payload := make([]byte, 1100)
	rand.Read(payload)
	return &traffic{b: b, w: w, people: people(w, n), sealed: storage.Sealed{Payload: payload, Wrapped: payload[:61]}, ack: ack}
}

func (t *traffic) send(int) {
	i := t.sent.Add(1)
	n := int64(len(t.people))
	from, to := &t.people[i%n], &t.people[(i+1)%n]
	sub := storage.Submission{UserNo: from.user.No, Answer: t.sealed.Payload[:64], Expires: clearbox.Millis(testStart + 30*86_400_000 + i/8)}
	rand.Read(sub.ID[:])
	var seq int64
	err := t.w.Update(context.Background(), func(tx *storage.Tx) (err error) {
		r, err := tx.Recipient(to.user.UID)
		if err != nil {
			return err
		}
		if err := tx.PutSubmission(&sub); err != nil {
			return err
		}
		seq, err = tx.PutMail(r.Devices[0].No, t.sealed, sub.Expires)
		return err
	})
	if err == nil && t.ack > 0 && seq%t.ack == 0 {
		err = t.w.Update(context.Background(), func(tx *storage.Tx) error {
			_, err := tx.AckMail(to.device.No, seq)
			return err
		})
	}
	if err != nil {
		t.b.Error(err)
	}
}

// BenchmarkSubmit is what a message costs the store: the recipient is looked
// up, the idempotency row and one mail of 1 KiB are written and, with ack, the
// mailbox acknowledged.
func BenchmarkSubmit(b *testing.B) {
	for _, ack := range []int64{0, 1, 8} {
		for _, n := range []int{1, 32, 256} {
			b.Run(fmt.Sprintf("ack=%d/concurrent=%d", ack, n), func(b *testing.B) {
				w := open(b)
				measure(b, n, newTraffic(b, w, 100, ack).send)
				st := w.Stats()
				b.ReportMetric(float64(st.Updates)/float64(st.Commits), "updates/commit")
			})
		}
	}
}

// BenchmarkSubmitTogether is 32 messages to 32 people in one update, with the
// recipients known, and an acknowledgement of each: what a caller reaches that
// collects messages itself.
func BenchmarkSubmitTogether(b *testing.B) {
	const together = 32
	w := open(b)
	t := newTraffic(b, w, 100, 0)
	before, n := cpu(b), 0
	for b.Loop() {
		w.update(func(tx *storage.Tx) error {
			for range together {
				n++
				to := &t.people[n%len(t.people)]
				sub := storage.Submission{UserNo: to.user.No, Answer: t.sealed.Payload[:64], Expires: clearbox.Millis(testStart + n/8)}
				rand.Read(sub.ID[:])
				if err := tx.PutSubmission(&sub); err != nil {
					return err
				}
				seq, err := tx.PutMail(to.device.No, t.sealed, testStart*2)
				if err != nil {
					return err
				}
				if _, err := tx.AckMail(to.device.No, seq-1); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-us/msg")
}

// BenchmarkCheckpoint is the same traffic under logs of different length. A
// longer log is copied back less often, and a page that changed often only
// once; a shorter one makes shorter pauses. p99 is of a message among 32.
func BenchmarkCheckpoint(b *testing.B) {
	for _, pages := range []int{1000, 4096, 16384} {
		b.Run(fmt.Sprint("pages=", pages), func(b *testing.B) {
			w := open(b, func(o *storage.Options) { o.LogPages = pages })
			t := newTraffic(b, w, 100, 1)
			var mu sync.Mutex
			var took []time.Duration
			measure(b, 32, func(n int) {
				begin := time.Now()
				t.send(n)
				mu.Lock()
				took = append(took, time.Since(begin))
				mu.Unlock()
			})
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			b.ReportMetric(float64(w.Stats().WALBytes>>20), "wal-MiB")
		})
	}
}

// BenchmarkDrain reads a mailbox of 10,000 mails of 1 KiB in pages of 256 and
// acknowledges each page.
func BenchmarkDrain(b *testing.B) {
	const mails = 10_000
	w := open(b)
	_, d := w.user("alice")
	payload := make([]byte, 1100)
	for b.Loop() {
		b.StopTimer()
		for range mails / 1000 {
			w.update(func(tx *storage.Tx) error {
				for range 1000 {
					if _, err := tx.PutMail(d.No, storage.Sealed{Payload: payload, Wrapped: payload[:61]}, testStart*2); err != nil {
						return err
					}
				}
				return nil
			})
		}
		b.StartTimer()
		var after int64
		n := 0
		for {
			var page []storage.Mail
			w.view(func(tx *storage.Tx) (err error) {
				page, err = tx.MailAfter(d.No, after, 256, 4<<20)
				return err
			})
			if len(page) == 0 {
				break
			}
			n += len(page)
			after = page[len(page)-1].Seq
			w.update(func(tx *storage.Tx) error {
				_, err := tx.AckMail(d.No, after)
				return err
			})
		}
		if n != mails {
			b.Fatal(n)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1000, "ms/10k")
}

// BenchmarkAck deletes 1,000 mails with one acknowledgement.
func BenchmarkAck(b *testing.B) {
	w := open(b)
	_, d := w.user("alice")
	payload := make([]byte, 1100)
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		var last int64
		w.update(func(tx *storage.Tx) (err error) {
			for range 1000 {
				if last, err = tx.PutMail(d.No, storage.Sealed{Payload: payload, Wrapped: payload[:61]}, testStart*2); err != nil {
					return err
				}
			}
			return nil
		})
		b.StartTimer()
		spent -= cpu(b)
		w.update(func(tx *storage.Tx) error {
			_, err := tx.AckMail(d.No, last)
			return err
		})
		spent += cpu(b)
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/1000, "cpu-us/mail")
}

// BenchmarkView is a small read: how much is left in a mailbox.
func BenchmarkView(b *testing.B) {
	w := open(b)
	_, d := w.user("alice")
	for b.Loop() {
		w.view(func(tx *storage.Tx) error {
			_, _, err := tx.MailboxSize(d.No)
			return err
		})
	}
}

// BenchmarkSeal is the protection of one payload of 1 KiB, outside the writer.
func BenchmarkSeal(b *testing.B) {
	w := open(b)
	u, _ := w.user("alice")
	payload := make([]byte, 1024)
	ad := []byte("message id and device")
	b.ReportAllocs()
	for b.Loop() {
		p, err := storage.SealPayload(w.keys, rand.Reader, u.Key, ad, payload)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := storage.OpenPayload(w.keys, u.Key, ad, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is what a start costs: of a new database, with its migrations,
// and of one that is there.
func BenchmarkOpen(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			w := open(b)
			must(b, w.Store.Close())
			w.Store = nil
			b.StopTimer()
			w.reopen()
			b.StartTimer()
		}
	})
	b.Run("known", func(b *testing.B) {
		w := open(b)
		for b.Loop() {
			w.reopen()
		}
	})
}

// number makes a message id.
func number(n int) (id clearbox.MessageID) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

// BenchmarkOutbox is what the way to a peer costs the store: queueing,
// dispatching and settling in an update each, n messages at a time.
func BenchmarkOutbox(b *testing.B) {
	const peer, class = "b.test", storage.ClassMessage
	for _, n := range []int{1, 16, 128} {
		b.Run(fmt.Sprint("together=", n), func(b *testing.B) {
			w := open(b)
			t := newTraffic(b, w, 10, 0)
			stream := []byte("stream")
			w.update(func(tx *storage.Tx) error {
				return tx.SetOutStream(peer, class, storage.OutStream{Stream: stream, NextPos: 1, Fence: 1})
			})
			next, rows := int64(1), make([]int64, n)
			holds := [][]byte{make([]byte, 32), t.sealed.Payload[:32]}
			began, messages := cpu(b), 0
			for b.Loop() {
				w.update(func(tx *storage.Tx) error {
					q, err := tx.OutQueue(peer, class)
					if err != nil {
						return err
					}
					for i := range n {
						it := &storage.OutboxItem{
							SenderNo: t.people[i%10].user.No, MessageID: number(messages + i), Sealed: t.sealed, Expires: testStart * 2, HoldKey: holds[i%2],
						}
						if err := tx.PutSubmission(&storage.Submission{UserNo: it.SenderNo, ID: it.MessageID, Expires: testStart * 2}); err != nil {
							return err
						}
						if err := q.Put(it); err != nil {
							return err
						}
					}
					return q.Close()
				})
				w.update(func(tx *storage.Tx) error {
					its, err := tx.OutboxBatch(peer, class, n, -1)
					for i := range its {
						rows[i] = its[i].Row
					}
					if err != nil {
						return err
					}
					return tx.AssignPositions(peer, class, stream, next, rows)
				})
				w.update(func(tx *storage.Tx) error {
					if _, err := tx.OutboxHeads(rows); err != nil {
						return err
					}
					if _, err := tx.SetOutboxTaken(rows); err != nil {
						return err
					}
					return tx.DeleteOutbox(rows)
				})
				next, messages = next+int64(n), messages+n
			}
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(messages), "cpu-us/msg")
		})
	}
}
