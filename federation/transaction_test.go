package federation_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
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
		raw, err := cbor.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := cbor.Marshal(map[string]any{"stream": make([]byte, 16), "class": "message", "lease": 1, "first_pos": 1, "items": [][]byte{raw, {0xff}}})
		if err != nil {
			t.Fatal(err)
		}
		txn, err := federation.DecodeTransaction(frame)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if txn.Items[0].Refused != c.code || txn.Items[1].Refused != clearbox.CodeBadRequest {
			t.Errorf("%s: %q", name, txn.Items[0].Refused)
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
