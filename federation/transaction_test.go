package federation_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/fxamacker/cbor/v2"
)

var update = flag.Bool("update", false, "write the golden files anew; a changed one is a changed protocol")

// What is on the wire, byte for byte.
func TestGolden(t *testing.T) {
	answer, err := federation.EncodeAnswer(&federation.Answer{Stream: bytes.Repeat([]byte{1}, 16), FirstPos: 7, AcceptedThrough: 10, Verdicts: []federation.Verdict{
		{Code: federation.VerdictOK, DevicesVersion: 3}, {Code: federation.VerdictDup},
		{Code: federation.VerdictDeferred, Reason: clearbox.CodeMailboxFull, RetryAfter: 1500 * time.Millisecond},
		{Code: federation.VerdictRejected, Reason: clearbox.CodeRecipientUnavailable},
	}})
	if err != nil {
		t.Fatal(err)
	}
	peering, err := federation.EncodePeering(&federation.PeeringRequest{Secret: make([]byte, 16), Document: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"items": goldenItems(t, federation.ClassMessage, sealedItem(t), bounceByRef(t)), "knock": goldenItems(t, federation.ClassControl, knock(t)),
		"group":       goldenItems(t, federation.ClassControl, groupOp(t), groupEnd(t)),
		"transaction": goldenWithFixedTimes(t), "answer": answer, "peering": peering, "document": signed(t, document(5), identity(2), identity(1)),
	} {
		file := filepath.Join("testdata", "golden", name+".hex")
		text := wrap(hex.EncodeToString(got))
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != text {
			t.Errorf("%s differs from its golden file", name)
		}
	}
}

func wrap(s string) string {
	var b strings.Builder
	for len(s) > 96 {
		b.WriteString(s[:96] + "\n")
		s = s[96:]
	}
	return b.String() + s + "\n"
}

func sealedItem(t testing.TB) federation.Item {
	t.Helper()
	bob, err := clearbox.ParseUserID(string(knownUID) + "@b.test")
	if err != nil {
		t.Fatal(err)
	}
	return federation.Item{
		ID: messageID(1), Recipient: bob, AcceptedAt: clearbox.Millis(base.UnixMilli()), Token: bytes.Repeat([]byte{2}, 16), Ref: bytes.Repeat([]byte{3}, 16),
		Envelopes: []federation.ItemEnvelope{{Device: 1, Registration: 5, Type: clearbox.ContentSealed, Content: bytes.Repeat([]byte{4}, clearbox.MinSealed)}},
	}
}

func groupItem(t testing.TB) federation.Item {
	it := sealedItem(t)
	it.Recipient, it.Envelopes, it.Token = clearbox.UserID{}, nil, nil
	it.Group, it.Epoch, it.Multi, it.Crit = clearbox.GroupID{31: 5}, 3, bytes.Repeat([]byte{6}, 300), []string{"multi"}
	return it
}

// Whose devices are others than thought comes back with the verdict, of at most
// so many people in one answer.
func TestStaleInAnswers(t *testing.T) {
	a := &federation.Answer{Stream: make([]byte, 16), FirstPos: 1, Verdicts: []federation.Verdict{
		{Code: federation.VerdictOK, Stale: []federation.Stale{{UID: knownUID, Version: 3}}}, {Code: federation.VerdictOK},
	}}
	raw, err := federation.EncodeAnswer(a)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := federation.DecodeAnswer(raw); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, stale := range map[string][]federation.Stale{
		"too many":           slices.Repeat(a.Verdicts[0].Stale, federation.MaxStale+1),
		"no uid":             {{UID: "x", Version: 1}},
		"a negative version": {{UID: knownUID, Version: -1}},
	} {
		a.Verdicts[0].Stale = stale
		raw, err := federation.EncodeAnswer(a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := federation.DecodeAnswer(raw); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func bounceByRef(t testing.TB) federation.Item {
	it := sealedItem(t)
	return federation.Item{ID: it.ID, Sender: it.Recipient, AcceptedAt: it.AcceptedAt, Ref: it.Ref, Bounce: clearbox.CodeExpired, Crit: []string{"bounce"}}
}

func knock(t testing.TB) federation.Item {
	it := sealedItem(t)
	from := clearbox.UserID{UID: it.Recipient.UID, Server: "a.test"}
	return federation.Item{ID: it.ID, AcceptedAt: it.AcceptedAt, Knock: &federation.Knock{From: from, Handle: "alice", To: "bob"}}
}

func groupOp(t testing.TB) federation.Item {
	it := sealedItem(t)
	return federation.Item{ID: it.ID, AcceptedAt: it.AcceptedAt, Op: &federation.GroupOp{
		Group: clearbox.GroupID{1, 2}, Op: bytes.Repeat([]byte{5}, 200), Openings: [][]byte{bytes.Repeat([]byte{6}, 110)},
	}}
}

func groupEnd(t testing.TB) federation.Item {
	it := sealedItem(t)
	return federation.Item{ID: it.ID, AcceptedAt: it.AcceptedAt, Op: &federation.GroupOp{Group: clearbox.GroupID{1, 2}, Ended: true}}
}

// goldenItems is a transaction of the items, which must come back as they are.
func goldenItems(t testing.TB, class federation.Class, items ...federation.Item) []byte {
	t.Helper()
	txn := &federation.Transaction{Stream: bytes.Repeat([]byte{1}, 16), Class: class, Fence: 3, FirstPos: 7, Items: items}
	b, err := federation.EncodeTransaction(txn)
	if err != nil {
		t.Fatal(err)
	}
	back, err := federation.DecodeTransaction(b)
	if err != nil || !reflect.DeepEqual(back, txn) {
		t.Errorf("%s: came back as %+v, %v", class, back, err)
	}
	return b
}

func goldenWithFixedTimes(t *testing.T) []byte {
	txn, err := federation.DecodeTransaction(goldenTransaction(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range txn.Items {
		txn.Items[i].AcceptedAt = clearbox.Millis(base.UnixMilli())
	}
	b, err := federation.EncodeTransaction(txn)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTransactionsThatAreRefusedWhole(t *testing.T) {
	item := []byte{0xa1, 0x64, 'v', 'o', 'i', 'd', 0xf5}
	frame := func(change func(m map[string]any)) []byte {
		m := map[string]any{"stream": make([]byte, 16), "class": "message", "lease": 1, "first_pos": 1, "items": [][]byte{item}}
		change(m)
		b, err := cbor.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := frame(func(map[string]any) {})
	if _, err := federation.DecodeTransaction(good); err != nil {
		t.Fatal(err)
	}
	if _, err := federation.DecodeTransaction(frame(func(m map[string]any) { m["later"] = 1 })); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		code clearbox.Code
	}{
		"empty":             {nil, clearbox.CodeBadRequest},
		"cut off":           {good[:len(good)-1], clearbox.CodeBadRequest},
		"more behind":       {append(bytes.Clone(good), 0), clearbox.CodeBadRequest},
		"too long":          {make([]byte, federation.MaxTransaction+1), clearbox.CodeTooLarge},
		"a key twice":       {append([]byte{0xa6, 0x65, 'c', 'l', 'a', 's', 's', 0x67, 'm', 'e', 's', 's', 'a', 'g', 'e'}, good[1:]...), clearbox.CodeBadRequest},
		"a key in capitals": {frame(func(m map[string]any) { m["Stream"] = m["stream"]; delete(m, "stream") }), clearbox.CodeBadRequest},
		"indefinite":        {[]byte{0xbf, 0xff}, clearbox.CodeBadRequest},
		"a tag":             {append([]byte{0xc1}, good...), clearbox.CodeBadRequest},
		"short stream":      {frame(func(m map[string]any) { m["stream"] = make([]byte, 15) }), clearbox.CodeBadRequest},
		"class":             {frame(func(m map[string]any) { m["class"] = "ephemeral" }), clearbox.CodeBadRequest},
		"position 0":        {frame(func(m map[string]any) { m["first_pos"] = 0 }), clearbox.CodeBadRequest},
		"huge position":     {frame(func(m map[string]any) { m["first_pos"] = int64(1) << 62 }), clearbox.CodeBadRequest},
		"negative lease":    {frame(func(m map[string]any) { m["lease"] = -1 }), clearbox.CodeBadRequest},
		"no item":           {frame(func(m map[string]any) { m["items"] = [][]byte{} }), clearbox.CodeBadRequest},
		"257 items":         {frame(func(m map[string]any) { m["items"] = make([][]byte, 257) }), clearbox.CodeBadRequest},
		"a wrong type":      {frame(func(m map[string]any) { m["items"] = "x" }), clearbox.CodeBadRequest},
	} {
		if _, err := federation.DecodeTransaction(c.raw); clearbox.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestItemsThatAreRefusedAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m map[string]any)
		code   clearbox.Code
	}{
		"good":            {func(m map[string]any) {}, ""},
		"a token":         {func(m map[string]any) { m["token"] = make([]byte, 16) }, ""},
		"a ref":           {func(m map[string]any) { m["ref"] = make([]byte, 16) }, clearbox.CodeBadRequest},
		"a short id":      {func(m map[string]any) { m["id"] = []byte{1} }, clearbox.CodeBadRequest},
		"a bad sender":    {func(m map[string]any) { m["from"] = "alice@a.test" }, clearbox.CodeBadRequest},
		"a bad recipient": {func(m map[string]any) { m["to"] = "x" }, clearbox.CodeBadRequest},
		"device 0":        {func(m map[string]any) { m["device"] = 0 }, clearbox.CodeBadRequest},
		"device 128":      {func(m map[string]any) { m["device"] = 128 }, clearbox.CodeBadRequest},
		"a negative time": {func(m map[string]any) { m["at"] = -1 }, clearbox.CodeBadRequest},
		"no envelope":     {func(m map[string]any) { m["envelopes"] = []any{} }, clearbox.CodeBadRequest},
		"nine envelopes":  {func(m map[string]any) { m["envelopes"] = make([]any, 9) }, clearbox.CodeBadRequest},
		"a device twice":  {func(m map[string]any) { m["envelopes"] = []any{envelope(1, 10), envelope(1, 10)} }, clearbox.CodeBadRequest},
		"empty content":   {func(m map[string]any) { m["envelopes"] = []any{envelope(1, 0)} }, clearbox.CodeBadRequest},
		"large content":   {func(m map[string]any) { m["envelopes"] = []any{envelope(1, clearbox.MaxContent+1)} }, clearbox.CodeTooLarge},
		"a wrong type":    {func(m map[string]any) { m["from"] = 5 }, clearbox.CodeBadRequest},
		"unknown field":   {func(m map[string]any) { m["later"] = 1 }, ""},
		"known critical":  {func(m map[string]any) { m["crit"] = []string{"to"} }, ""},
		"unknown crit":    {func(m map[string]any) { m["later"] = 1; m["crit"] = []string{"later"} }, clearbox.CodeUnsupportedCritical},
	} {
		m := map[string]any{
			"id": make([]byte, 16), "from": string(knownUID) + "@a.test", "device": 1, "to": string(knownUID) + "@b.test", "at": 1,
			"envelopes": []any{envelope(1, 10)},
		}
		c.change(m)
		if got := refusedAs(t, "message", m); got != c.code {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// refusedAs decodes one item of a class, beside one that cannot be read.
func refusedAs(t *testing.T, class string, item map[string]any) clearbox.Code {
	t.Helper()
	raw, err := cbor.Marshal(item)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := cbor.Marshal(map[string]any{"stream": make([]byte, 16), "class": class, "lease": 1, "first_pos": 1, "items": [][]byte{raw, {0xff}}})
	if err != nil {
		t.Fatal(err)
	}
	txn, err := federation.DecodeTransaction(frame)
	if err != nil {
		t.Fatal(err)
	}
	if txn.Items[1].Refused != clearbox.CodeBadRequest {
		t.Errorf("the item beside it: %q", txn.Items[1].Refused)
	}
	return txn.Items[0].Refused
}

// What is sealed, a bounce of it and a knock have each their own members and no
// others, and a class has its own items.
func TestItemsOfEachKind(t *testing.T) {
	const bad = clearbox.CodeBadRequest
	sealedEnvelope := func(size int) map[string]any {
		return map[string]any{"device": 1, "registration": 5, "type": 6, "content": make([]byte, size)}
	}
	kinds := map[string]func() map[string]any{
		"sealed": func() map[string]any {
			return map[string]any{"id": make([]byte, 16), "to": string(knownUID) + "@b.test", "at": 1, "token": make([]byte, 16), "ref": make([]byte, 16),
				"envelopes": []any{sealedEnvelope(256)}}
		},
		"group": func() map[string]any {
			return map[string]any{"id": make([]byte, 16), "at": 1, "ref": make([]byte, 16), "group": bytes.Repeat([]byte{1}, 32), "epoch": 1, "multi": make([]byte, 100), "crit": []string{"multi"}}
		},
		"bounce": func() map[string]any {
			return map[string]any{"id": make([]byte, 16), "from": string(knownUID) + "@a.test", "at": 1, "ref": make([]byte, 16), "bounce": "expired", "crit": []string{"bounce"}}
		},
		"knock": func() map[string]any {
			return map[string]any{"id": make([]byte, 16), "at": 1, "knock": map[string]any{"from": string(knownUID) + "@a.test", "handle": "alice", "to": "bob"}}
		},
	}
	op := func(change func(m map[string]any)) map[string]any {
		m := map[string]any{"group": bytes.Repeat([]byte{1}, 32), "op": make([]byte, 200), "openings": [][]byte{make([]byte, 110)}}
		change(m)
		return map[string]any{"id": make([]byte, 16), "at": 1, "op": m}
	}
	kinds["op"] = func() map[string]any { return op(func(map[string]any) {}) }
	within := func(key string, v any) func(map[string]any) {
		return func(m map[string]any) { m["op"].(map[string]any)[key] = v }
	}
	ended := func(m map[string]any) {
		m["op"] = map[string]any{"group": bytes.Repeat([]byte{1}, 32), "ended": true}
	}
	set := func(key string, v any) func(map[string]any) { return func(m map[string]any) { m[key] = v } }
	asks := func(from, handle, to string) func(map[string]any) {
		return set("knock", map[string]any{"from": from, "handle": handle, "to": to})
	}
	for name, c := range map[string]struct {
		kind, class string
		change      func(m map[string]any)
		code        clearbox.Code
	}{
		"sealed":                       {"sealed", "message", func(map[string]any) {}, ""},
		"sealed control":               {"sealed", "control", func(map[string]any) {}, bad},
		"sealed without a token":       {"sealed", "message", func(m map[string]any) { delete(m, "token") }, bad},
		"sealed with a short token":    {"sealed", "message", set("token", make([]byte, 15)), bad},
		"sealed without a ref":         {"sealed", "message", func(m map[string]any) { delete(m, "ref") }, bad},
		"sealed with a long ref":       {"sealed", "message", set("ref", make([]byte, 17)), bad},
		"sealed with a device":         {"sealed", "message", set("device", 1), bad},
		"sealed with a sender":         {"sealed", "message", set("from", string(knownUID)+"@a.test"), bad},
		"sealed of no bucket":          {"sealed", "message", set("envelopes", []any{sealedEnvelope(257)}), bad},
		"sealed with an open envelope": {"sealed", "message", set("envelopes", []any{envelope(1, 256)}), bad},
		"sealed with a knock":          {"sealed", "message", asks(string(knownUID)+"@a.test", "alice", "bob"), bad},
		"group":                        {"group", "message", func(map[string]any) {}, ""},
		"group and nothing to read":    {"group", "message", func(m map[string]any) { delete(m, "multi") }, bad},
		"group of a large message":     {"group", "message", set("multi", make([]byte, federation.MaxMulti+1)), clearbox.CodeTooLarge},
		"group with an epoch too high": {"group", "message", set("epoch", uint64(1)<<61), bad},
		"group with a knock":           {"group", "message", asks(string(knownUID)+"@a.test", "alice", "bob"), bad},
		"group with envelopes":         {"group", "message", set("envelopes", []any{sealedEnvelope(256)}), bad},
		"bounce":                       {"bounce", "message", func(map[string]any) {}, ""},
		"bounce control":               {"bounce", "control", func(map[string]any) {}, bad},
		"bounce with to":               {"bounce", "message", set("to", string(knownUID)+"@b.test"), bad},
		"bounce with a token":          {"bounce", "message", set("token", make([]byte, 16)), bad},
		"bounce without a sender":      {"bounce", "message", func(m map[string]any) { delete(m, "from") }, bad},
		"bounce without a ref":         {"bounce", "message", func(m map[string]any) { delete(m, "ref") }, bad},
		"bounce with a long code":      {"bounce", "message", set("bounce", strings.Repeat("x", 65)), bad},
		"knock":                        {"knock", "control", func(map[string]any) {}, ""},
		"knock message":                {"knock", "message", func(map[string]any) {}, bad},
		"knock with to":                {"knock", "control", set("to", string(knownUID)+"@b.test"), bad},
		"knock with a token":           {"knock", "control", set("token", make([]byte, 16)), bad},
		"knock with a bounce":          {"knock", "control", set("bounce", "expired"), bad},
		"operation":                    {"op", "control", func(map[string]any) {}, ""},
		"operation message":            {"op", "message", func(map[string]any) {}, bad},
		"operation with to":            {"op", "control", set("to", string(knownUID)+"@b.test"), bad},
		"operation with a token":       {"op", "control", set("token", make([]byte, 16)), bad},
		"operation with a knock":       {"op", "control", asks(string(knownUID)+"@a.test", "alice", "bob"), bad},
		"operation with a short id":    {"op", "control", within("group", make([]byte, 31)), bad},
		"operation without an id":      {"op", "control", within("group", make([]byte, 32)), bad},
		"operation with nothing":       {"op", "control", within("op", []byte{}), bad},
		"operation op too large":       {"op", "control", within("op", make([]byte, federation.MaxGroupOp+1)), clearbox.CodeTooLarge},
		"operation opening too large":  {"op", "control", within("openings", [][]byte{make([]byte, federation.MaxOpening+1)}), bad},
		"operation with many openings": {"op", "control", within("openings", make([][]byte, federation.MaxOpenings+1)), clearbox.CodeTooLarge},
		"operation ended":              {"op", "control", ended, ""},
		"operation ended with an op":   {"op", "control", within("ended", true), bad},
		"knock of nobody":              {"knock", "control", asks("alice@a.test", "alice", "bob"), bad},
		"knock without a name":         {"knock", "control", asks(string(knownUID)+"@a.test", "", "bob"), clearbox.CodeBadHandle},
		"knock at nobody":              {"knock", "control", asks(string(knownUID)+"@a.test", "alice", "Bob!"), clearbox.CodeBadHandle},
	} {
		m := kinds[c.kind]()
		c.change(m)
		if got := refusedAs(t, c.class, m); got != c.code {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func envelope(device, size int) map[string]any {
	return map[string]any{"device": device, "registration": 5, "type": 2, "content": make([]byte, size)}
}

// Size is an upper bound, and not a wasteful one.
func TestSize(t *testing.T) {
	long := clearbox.ServerName(strings.Repeat("a", 60) + ".test")
	for _, size := range []int{1, 200, 1024, clearbox.MaxContent} {
		it := newOutbox(0).add(long, long).item
		it.Envelopes = nil
		for d := range clearbox.MaxDevices {
			it.Envelopes = append(it.Envelopes, federation.ItemEnvelope{Device: clearbox.DeviceID(d + 1), Registration: 16000, Type: 3, Content: make([]byte, size)})
		}
		it.Token, it.Ref = make([]byte, 16), make([]byte, 16)
		it.Crit = []string{"to", "from"}
		b, err := federation.EncodeTransaction(&federation.Transaction{Stream: make([]byte, 16), Class: federation.ClassMessage, FirstPos: 1, Items: []federation.Item{it}})
		if err != nil {
			t.Fatal(err)
		}
		if s := it.Size(); s < len(b)-80 || s > len(b)+300 {
			t.Errorf("content %d: size %d, encoded with its frame %d", size, s, len(b))
		}
	}
}
