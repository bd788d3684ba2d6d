package fanout_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
)

// account is the n-th test account, on one of three servers.
func account(n int) keys.ServiceID {
	return keys.AccountServiceID(fmt.Sprintf("user%d@%s", n, serverOf(n)))
}

func serverOf(n int) string { return []string{"a.test", "b.test", "c.test"}[n%3] }

// idBytes is the service id of the n-th account.
func idBytes(n int) []byte {
	id := account(n)
	return id[:]
}

// material is recognisable key material for the n-th account.
func material(n int) []byte {
	b := bytes.Repeat([]byte{byte(n), byte(n >> 8), 0xa5}, fanout.MaterialSize/3)
	return b
}

// shared is an ephemeral key and a ciphertext.
var shared = append(bytes.Repeat([]byte{0xee}, fanout.EphemeralSize), "the ciphertext and its tag"...)

// entry encodes one recipient.
func entry(n int, devices ...fanout.Device) []byte {
	b := fanout.AppendDevices(nil, account(n), devices)
	if len(devices) > 0 {
		b = append(b, material(n)...)
	}
	return b
}

func message(entries ...[]byte) []byte {
	return slices.Concat(fanout.AppendHead(nil, len(entries)), slices.Concat(entries...), shared)
}

func received(n int) []byte {
	return slices.Concat([]byte{fanout.TypeReceived}, material(n), shared)
}

func parse(t testing.TB, b []byte) *fanout.Message {
	t.Helper()
	m, err := fanout.Parse(b, fanout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	one   = fanout.Device{ID: 1, Registration: 1}
	two   = fanout.Device{ID: 127, Registration: 1<<14 - 1}
	three = fanout.Device{ID: 64, Registration: 300}
)

// The bytes of a small message, written out.
func TestForm(t *testing.T) {
	m := parse(t, slices.Concat(
		[]byte{0x23, 3},
		idBytes(1), []byte{1, 0x80, 1, 127, 0xbf, 0xff, 64, 0x01, 0x2c}, material(1),
		idBytes(2), []byte{0},
		idBytes(3), []byte{1, 0, 1}, material(3),
		shared,
	))
	want := []struct {
		n       int
		devices []fanout.Device
	}{{1, []fanout.Device{one, two, three}}, {2, nil}, {3, []fanout.Device{one}}}
	if len(m.Recipients()) != len(want) {
		t.Fatalf("%d recipients", len(m.Recipients()))
	}
	for i, w := range want {
		r := m.Recipients()[i]
		if r.ID != account(w.n) || !slices.Equal(r.Devices, w.devices) || r.Excluded() != (w.devices == nil) {
			t.Errorf("recipient %d: %+v", i, r)
		}
		if place, ok := m.Find(account(w.n)); !ok || place != i {
			t.Errorf("account %d found at %d, %v", w.n, place, ok)
		}
	}
	if _, ok := m.Find(account(4)); ok {
		t.Error("an account that is not named was found")
	}
	for place, n := range map[int]int{0: 1, 2: 3} {
		b, err := m.AppendReceived([]byte("before"), place)
		if err != nil || !bytes.Equal(b, append([]byte("before"), received(n)...)) || len(b) != 6+m.ReceivedSize() {
			t.Errorf("received form at %d: %x, %v", place, b, err)
		}
	}
	for _, place := range []int{-1, 1, 3} {
		if _, err := m.AppendReceived(nil, place); !errors.Is(err, fanout.ErrRecipients) {
			t.Errorf("place %d: %v", place, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := message(entry(1, one, two), entry(2))
	parse(t, good)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	many := func(n int) []byte {
		var entries [][]byte
		for i := range n {
			entries = append(entries, entry(i, one))
		}
		return message(entries...)
	}
	devices := func(n int) []fanout.Device {
		var all []fanout.Device
		for i := range n {
			all = append(all, fanout.Device{ID: uint8(i + 1), Registration: 1})
		}
		return all
	}
	parse(t, many(fanout.DefaultRecipients))
	parse(t, message(entry(1, devices(8)...)))
	long := func(n int) []byte {
		return slices.Concat([]byte{0x23, 1}, entry(1, one), make([]byte, fanout.EphemeralSize+n))
	}
	parse(t, long(fanout.DefaultCiphertext))
	parse(t, long(fanout.TagSize))
	for name, v := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":                        {nil, fanout.ErrMalformed},
		"the type alone":                 {[]byte{0x23}, fanout.ErrMalformed},
		"the received form":              {received(1), fanout.ErrMalformed},
		"type 0x22":                      {change(0, 0x22), fanout.ErrMalformed},
		"type 0x24":                      {change(0, 0x24), fanout.ErrMalformed},
		"no recipients":                  {message(), fanout.ErrMalformed},
		"excluded recipients only":       {message(entry(1), entry(2)), fanout.ErrMalformed},
		"more announced than there":      {change(1, 200), fanout.ErrMalformed},
		"a number in more bytes":         {slices.Concat([]byte{0x23, 0x82, 0x00}, good[2:]), fanout.ErrMalformed},
		"a number without end":           {append([]byte{0x23}, bytes.Repeat([]byte{0x80}, 20)...), fanout.ErrMalformed},
		"a number above 64 bits":         {append([]byte{0x23}, bytes.Repeat([]byte{0xff}, 11)...), fanout.ErrMalformed},
		"2^63 recipients":                {slices.Concat([]byte{0x23}, binary.AppendUvarint(nil, 1<<63), make([]byte, 100)), fanout.ErrLimit},
		"another kind of account":        {change(2, 1), fanout.ErrMalformed},
		"device 128":                     {change(19, 128), fanout.ErrMalformed},
		"device 0 after another":         {change(22, 0), fanout.ErrMalformed},
		"registration 0":                 {message(entry(1, fanout.Device{ID: 1})), fanout.ErrMalformed},
		"the reserved bit":               {change(20, 0xc0), fanout.ErrMalformed},
		"a device twice":                 {change(22, 1), fanout.ErrDuplicate},
		"a device twice, another number": {message(entry(1, two, fanout.Device{ID: 127, Registration: 5})), fanout.ErrDuplicate},
		"a recipient twice":              {message(entry(1, one), entry(2, one), entry(1, two)), fanout.ErrDuplicate},
		"a recipient excluded as well":   {message(entry(1, one), entry(1)), fanout.ErrDuplicate},
		"excluded twice":                 {message(entry(1), entry(2, one), entry(1)), fanout.ErrDuplicate},
		"nine devices":                   {message(entry(1, devices(9)...)), fanout.ErrLimit},
		"too many recipients":            {many(fanout.DefaultRecipients + 1), fanout.ErrLimit},
		"a ciphertext without a tag":     {long(fanout.TagSize - 1), fanout.ErrMalformed},
		"a long ciphertext":              {long(fanout.DefaultCiphertext + 1), fanout.ErrLimit},
		"longer than anything allowed":   {make([]byte, fanout.Limits{}.MaxSize()+1), fanout.ErrLimit},
	} {
		if m, err := fanout.Parse(v.b, fanout.Limits{}); !errors.Is(err, v.want) || m != nil {
			t.Errorf("%s: %v, want %v", name, err, v.want)
		}
	}
	// Cut anywhere, it is refused; only the ciphertext has no end of its own.
	for n := range len(good) - len(shared) + fanout.EphemeralSize + fanout.TagSize {
		if _, err := fanout.Parse(good[:n], fanout.Limits{}); !errors.Is(err, fanout.ErrMalformed) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func TestLimits(t *testing.T) {
	b := message(entry(1, one, two), entry(2, one))
	exact := fanout.Limits{Recipients: 2, Devices: 2, Ciphertext: len(shared) - fanout.EphemeralSize}
	if _, err := fanout.Parse(b, exact); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]fanout.Limits{
		"recipients": {Recipients: 1, Devices: 2, Ciphertext: exact.Ciphertext},
		"devices":    {Recipients: 2, Devices: 1, Ciphertext: exact.Ciphertext},
		"ciphertext": {Recipients: 2, Devices: 2, Ciphertext: exact.Ciphertext - 1},
	} {
		if _, err := fanout.Parse(b, l); !errors.Is(err, fanout.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var entries [][]byte
	for n := range fanout.DefaultRecipients {
		var all []fanout.Device
		for d := range fanout.DefaultDevices {
			all = append(all, fanout.Device{ID: uint8(d + 1), Registration: uint16(n + 1)})
		}
		entries = append(entries, entry(n, all...))
	}
	largest := slices.Concat(message(entries...), make([]byte, fanout.DefaultCiphertext-len(shared)+fanout.EphemeralSize))
	if m := parse(t, largest); len(m.Recipients()) != fanout.DefaultRecipients || m.ReceivedSize() != 96<<10 {
		t.Errorf("%d recipients, received form of %d bytes", len(m.Recipients()), m.ReceivedSize())
	}
	if most := (fanout.Limits{}).MaxSize(); len(largest) > most || len(largest) < most-5 {
		t.Errorf("the largest message has %d bytes, MaxSize says %d", len(largest), most)
	}
}

// What a stranger sends costs memory in proportion to what was sent, not to what
// it announces.
func TestAllocations(t *testing.T) {
	var entries [][]byte
	for n := range 1000 {
		entries = append(entries, entry(n, one))
	}
	good := message(entries...)
	if n := testing.AllocsPerRun(20, func() { fanout.Parse(good, fanout.Limits{}) }); n > 5 {
		t.Errorf("%v allocations for a good message", n)
	}
	announced := slices.Concat([]byte{0x23, 0xff, 0x07}, entry(1, one))
	if n := testing.AllocsPerRun(20, func() { fanout.Parse(announced, fanout.Limits{}) }); n > 4 {
		t.Errorf("%v allocations for a bad one", n)
	}
	m := parse(t, good)
	room := make([]byte, 0, len(good))
	places := make([]int, 500)
	for i := range places {
		places[i] = 2 * i
	}
	if n := testing.AllocsPerRun(20, func() { m.AppendPart(room, places) }); n > 1 {
		t.Errorf("%v allocations for a part", n)
	}
	if n := testing.AllocsPerRun(20, func() { m.AppendReceived(room, 5) }); n > 0 {
		t.Errorf("%v allocations for a received form", n)
	}
}

func TestAppendPart(t *testing.T) {
	m := parse(t, message(entry(1, one, two), entry(2), entry(3, three), entry(4, one)))
	b, err := m.AppendPart([]byte("before"), []int{3, 0})
	if err != nil || !bytes.Equal(b, append([]byte("before"), message(entry(4, one), entry(1, one, two))...)) {
		t.Errorf("%x, %v", b, err)
	}
	for name, places := range map[string][]int{
		"none":     nil,
		"excluded": {0, 1},
		"twice":    {0, 3, 0},
		"negative": {-1},
		"no place": {4},
		"too many": {0, 2, 3, 0, 0},
	} {
		if b, err := m.AppendPart(nil, places); !errors.Is(err, fanout.ErrRecipients) || b != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Three servers: everyone gets exactly what the whole message held for him, and
// no server a byte about another's accounts.
func TestSplit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var entries [][]byte
		servers := map[keys.ServiceID]string{}
		want := map[string]map[int][]fanout.Device{}
		for _, n := range random.Perm(300)[:1+random.IntN(200)] {
			devices := []fanout.Device{one, two, three}[:random.IntN(4)]
			if len(entries) == 0 {
				devices = []fanout.Device{three}
			}
			entries = append(entries, entry(n, devices...))
			servers[account(n)] = serverOf(n)
			if len(devices) > 0 {
				if want[serverOf(n)] == nil {
					want[serverOf(n)] = map[int][]fanout.Device{}
				}
				want[serverOf(n)][n] = devices
			}
		}
		whole := parse(t, message(entries...))
		local := "a.test"
		parts := fanout.Split(whole, func(id keys.ServiceID) (string, bool) { return servers[id], servers[id] != local })
		delete(want, local)
		if len(parts) != len(want) {
			t.Fatalf("%d parts, want %d", len(parts), len(want))
		}
		for _, part := range parts {
			m := parse(t, part.Bytes)
			if len(m.Recipients()) != len(want[part.Peer]) || len(part.Places) != len(m.Recipients()) || !slices.IsSorted(part.Places) {
				t.Fatalf("%s: %d recipients, want %d", part.Peer, len(m.Recipients()), len(want[part.Peer]))
			}
			for n, devices := range want[part.Peer] {
				place, ok := m.Find(account(n))
				if !ok || !slices.Equal(m.Recipients()[place].Devices, devices) {
					t.Fatalf("%s: account %d: %v", part.Peer, n, m.Recipients()[place])
				}
				b, err := m.AppendReceived(nil, place)
				if err != nil || !bytes.Equal(b, received(n)) {
					t.Fatalf("%s: account %d gets %x, %v", part.Peer, n, b, err)
				}
			}
			for id, server := range servers {
				if server != part.Peer && bytes.Contains(part.Bytes, id[1:]) {
					t.Fatalf("%s learns of an account of %s", part.Peer, server)
				}
			}
		}
	}
}

func TestSplitNobody(t *testing.T) {
	m := parse(t, message(entry(1, one), entry(2)))
	if parts := fanout.Split(m, func(keys.ServiceID) (int, bool) { return 0, false }); parts != nil {
		t.Errorf("%d parts", len(parts))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(entry(1, one, two, three), entry(2), entry(3, one)))
	f.Add(message(entry(1, one)))
	f.Add([]byte{0x23, 0x81, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := fanout.Parse(b, fanout.Limits{Recipients: 100, Devices: 4, Ciphertext: 1000})
		if err != nil {
			if m != nil || !errors.Is(err, fanout.ErrMalformed) && !errors.Is(err, fanout.ErrLimit) && !errors.Is(err, fanout.ErrDuplicate) {
				t.Fatalf("another refusal: %v", err)
			}
			return
		}
		// Printing what was read gives the very same bytes: there is one encoding.
		again := fanout.AppendHead(nil, len(m.Recipients()))
		var live []int
		for i, r := range m.Recipients() {
			again = fanout.AppendDevices(again, r.ID, r.Devices)
			if r.Excluded() {
				continue
			}
			live = append(live, i)
			got, err := m.AppendReceived(nil, i)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, got[1:1+fanout.MaterialSize]...)
			if len(got) != m.ReceivedSize() || !bytes.HasSuffix(b, got[1+fanout.MaterialSize:]) {
				t.Fatalf("received form %x", got)
			}
		}
		if !bytes.HasPrefix(b, again) || len(b) != len(again)+m.ReceivedSize()-1-fanout.MaterialSize {
			t.Fatalf("%x printed as %x", b, again)
		}
		part, err := m.AppendPart(nil, live)
		if err != nil {
			t.Fatal(err)
		}
		if len(live) == len(m.Recipients()) && !bytes.Equal(part, b) {
			t.Fatalf("the part of everyone is %x, not %x", part, b)
		}
		if _, err := fanout.Parse(part, fanout.Limits{Recipients: 100, Devices: 4, Ciphertext: 1000}); err != nil {
			t.Fatalf("the part of everyone: %v", err)
		}
	})
}

func BenchmarkParseAndSplit(b *testing.B) {
	var entries [][]byte
	servers := map[keys.ServiceID]string{}
	for n := range 1000 {
		entries = append(entries, entry(n, one))
		servers[account(n)] = serverOf(n)
	}
	whole := message(entries...)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := fanout.Parse(whole, fanout.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if parts := fanout.Split(m, func(id keys.ServiceID) (string, bool) { return servers[id], true }); len(parts) != 3 {
			b.Fatal(len(parts))
		}
	}
}
