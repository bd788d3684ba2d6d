package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	aliceUID = "aaaqeayeaudaocajbifqydiob4"
	bobUID   = "ceirceirceirceirceirceirce"
)

var (
	alice = clearbox.UserID{UID: aliceUID, Server: "a.test"}
	bob   = clearbox.UserID{UID: bobUID, Server: "b.test"}
	msgID = clearbox.MessageID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
)

func submission() *wire.Submission {
	return &wire.Submission{ID: msgID, To: []wire.Recipient{{User: bob, Envelopes: []wire.Outgoing{
		{Device: 1, Registration: 0x1234, Type: clearbox.ContentPreKey, Content: []byte("opaque one")},
		{Device: 2, Registration: 7, Type: clearbox.ContentWhisper, Content: bytes.Repeat([]byte{0xfe}, 300)},
	}}}}
}

func clientFrames() map[string]*wire.ClientFrame {
	return map[string]*wire.ClientFrame{
		"send_message": {Type: wire.FrameSend, Ref: 9, Submission: submission()},
		"send_sealed": {Type: wire.FrameSend, Ref: 10, Submission: &wire.Submission{ID: msgID, To: []wire.Recipient{{
			User: bob, Token: []byte("sixteen bytes ok"),
			Envelopes: []wire.Outgoing{{Device: 2, Registration: 77, Type: clearbox.ContentSealed, Content: make([]byte, clearbox.MinSealed)}},
		}}}},
		"send_group": {Type: wire.FrameSend, Ref: 11, Submission: &wire.Submission{ID: msgID, To: []wire.Recipient{}, Multi: []byte("opaque"),
			Group: &clearbox.GroupRef{ID: clearbox.GroupID{31: 1}, Epoch: 300}}},
		"send_fellow": {Type: wire.FrameSend, Ref: 12, Submission: &wire.Submission{ID: msgID, Group: &clearbox.GroupRef{ID: clearbox.GroupID{31: 1}, Epoch: 3}, To: []wire.Recipient{{
			User: bob, Envelopes: []wire.Outgoing{{Device: 2, Registration: 77, Type: clearbox.ContentSealed, Content: make([]byte, clearbox.MinSealed)}},
		}}}},
		"ack":             {Type: wire.FrameAck, Seq: 1 << 40},
		"watch":           {Type: wire.FrameWatch, Ref: 2, Users: []clearbox.UserID{alice, bob}},
		"watch_elsewhere": {Type: wire.FrameWatch, Users: []clearbox.UserID{alice, bob}, Tokens: []wire.WatchToken{{User: bob, Token: []byte("sixteen bytes ok")}}},
		"signal": {Type: wire.FrameSignal, To: &wire.Recipient{User: alice, Envelopes: []wire.Outgoing{
			{Device: 2, Registration: 77, Type: clearbox.ContentWhisper, Content: []byte("opaque")},
		}}},
		"signal_sealed": {Type: wire.FrameSignal, To: &wire.Recipient{User: bob, Token: []byte("sixteen bytes ok"), Envelopes: []wire.Outgoing{
			{Device: 2, Registration: 77, Type: clearbox.ContentSealed, Content: make([]byte, clearbox.MinSealed)},
		}}},
	}
}

func serverFrames() map[string]*wire.ServerFrame {
	yes, no := true, false
	return map[string]*wire.ServerFrame{
		"error_members": {Type: wire.FrameError, Ref: 9, Problem: &wire.Problem{Type: wire.ProblemBase + "stale_devices", Title: "t", Status: 409, Code: clearbox.CodeStaleDevices,
			Stale:        &wire.StaleDevices{User: bob, Version: 4, Missing: []clearbox.DeviceRef{}, Extra: []clearbox.DeviceRef{{ID: 3, Registration: 5}}},
			StaleMembers: []wire.StaleDevices{{User: alice, Missing: []clearbox.DeviceRef{}, Extra: []clearbox.DeviceRef{}}}}},
		"error_epoch":   {Type: wire.FrameError, Ref: 9, Problem: &wire.Problem{Type: wire.ProblemBase + "group_changed", Title: "t", Status: 409, Code: clearbox.CodeGroupChanged, Epoch: 7}},
		"welcome":       {Type: wire.FrameWelcome, Session: "s1", Device: 3, MaxFrame: wire.MaxFrame, Acked: 77, ServerTime: 1790000000000},
		"sent":          {Type: wire.FrameSent, Ref: 9, Receipt: &wire.Receipt{ID: msgID, Status: wire.StateAccepted, AcceptedAt: 1790000000123}},
		"receive":       {Type: wire.FrameReceive, Seq: 78, Envelope: &wire.Envelope{ID: msgID, Sender: alice, SenderDevice: 1, Recipient: bob, Device: 2, Type: clearbox.ContentWhisper, AcceptedAt: 1790000000123, Content: []byte("opaque")}},
		"sealed":        {Type: wire.FrameReceive, Seq: 78, Envelope: &wire.Envelope{ID: msgID, Origin: "a.test", Recipient: bob, Device: 2, Type: clearbox.ContentSealed, AcceptedAt: 1790000000123, Content: []byte("opaque")}},
		"knock":         {Type: wire.FrameReceive, Seq: 80, Knock: &wire.Knock{ID: msgID, From: alice, Address: "alice@a.test", AcceptedAt: 1790000000123, Controller: "Clinic", Country: "AT"}},
		"notice":        {Type: wire.FrameReceive, Seq: 79, Notice: &wire.Notice{Kind: wire.NoticeUndeliverable, ID: msgID, Recipient: bob, Code: clearbox.CodeRecipientUnavailable, FirstTry: 1, LastTry: 2, Attempts: 3}},
		"status":        {Type: wire.FrameStatus, ID: msgID, State: wire.StateAtPeer},
		"online":        {Type: wire.FrameOnline, User: bob, Online: &yes},
		"presence":      {Type: wire.FrameOnline, User: bob, Online: &no, Presence: wire.PresenceRecent},
		"keys_low":      {Type: wire.FrameKeysLow},
		"signal":        {Type: wire.FrameSignal, Signal: &wire.Envelope{Sender: alice, SenderDevice: 1, Recipient: bob, Device: 2, Type: clearbox.ContentWhisper, AcceptedAt: 1790000000123, Content: []byte("opaque")}},
		"signal_sealed": {Type: wire.FrameSignal, Signal: &wire.Envelope{Origin: "a.test", Recipient: bob, Device: 2, Type: clearbox.ContentSealed, AcceptedAt: 1790000000123, Content: []byte("opaque")}},
		"draining":      {Type: wire.FrameDrain, RetryAfter: 1500},
		"error_problem": {Type: wire.FrameError, Ref: 9, Problem: &wire.Problem{Type: wire.ProblemBase + "stale_devices", Title: "t", Status: 409, Code: clearbox.CodeStaleDevices, RequestID: "r", Stale: &wire.StaleDevices{User: bob, Version: 4, Missing: []clearbox.DeviceRef{{ID: 3, Registration: 5}}, Extra: []clearbox.DeviceRef{}}}},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSuffix(want, []byte("\n")), got) {
		t.Errorf("%s:\n got %s\nwant %s", name, got, want)
	}
}

func TestFramesGolden(t *testing.T) {
	for name, c := range clientFrames() {
		checkGolden(t, "client_"+name, c, func(f wire.Format, b []byte) (any, error) { return wire.ParseClientFrame(f, b) },
			func(f wire.Format) ([]byte, error) { return wire.AppendClientFrame(nil, f, c) })
	}
	for name, s := range serverFrames() {
		checkGolden(t, "server_"+name, s, func(f wire.Format, b []byte) (any, error) { return wire.ParseServerFrame(f, b) },
			func(f wire.Format) ([]byte, error) { return wire.AppendServerFrame(nil, f, s) })
	}
}

func checkGolden(t *testing.T, name string, want any, parse func(wire.Format, []byte) (any, error), write func(wire.Format) ([]byte, error)) {
	t.Helper()
	for _, f := range []wire.Format{wire.JSON, wire.CBOR} {
		b, err := write(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := parse(f, b)
		if err != nil {
			t.Fatalf("%s %v: %v", name, f, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s %v: read back\n%+v, want\n%+v", name, f, got, want)
		}
		if f == wire.JSON {
			golden(t, name+".json", b)
		} else {
			golden(t, name+".cbor.hex", []byte(hex.EncodeToString(b)))
		}
	}
}

func TestDecodeJSONBadInput(t *testing.T) {
	ok := `{"type":"send_message","ref":1,"submission":{"id":"` + msgID.String() + `","to":[{"user":"` + bob.String() + `","envelopes":[{"device":1,"registration":1,"type":2,"content":"AAAA"}]}]}}`
	if _, err := wire.ParseClientFrame(wire.JSON, []byte(ok)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(ok, old) {
			t.Fatalf("the frame has no %q", old)
		}
		return strings.Replace(ok, old, new, 1)
	}
	const env = "/submission/to/0/envelopes/0"
	for name, tc := range map[string]struct {
		in, pointer string
		code        clearbox.Code
	}{
		"empty":               {"", "", ""},
		"cut off":             {ok[:len(ok)-1], "", ""},
		"trailing data":       {ok + "{}", "", ""},
		"trailing comma":      {replace(`"ref":1,`, `"ref":1,,`), "", ""},
		"not an object":       {"[]", "", ""},
		"null":                {"null", "", ""},
		"unknown field":       {replace(`"ref":1`, `"ref":1,"sender":"x"`), "/sender", ""},
		"unknown field deep":  {replace(`"device":1`, `"device":1,"sender":1`), env + "/sender", ""},
		"name in other case":  {replace(`"ref"`, `"Ref"`), "/Ref", ""},
		"field twice":         {replace(`"ref":1`, `"ref":1,"ref":2`), "/ref", ""},
		"string for number":   {replace(`"ref":1`, `"ref":"1"`), "/ref", ""},
		"fraction":            {replace(`"ref":1`, `"ref":1.0`), "/ref", ""},
		"exponent":            {replace(`"ref":1`, `"ref":1e2`), "/ref", ""},
		"negative":            {replace(`"ref":1`, `"ref":-1`), "/ref", ""},
		"leading zero":        {replace(`"ref":1`, `"ref":01`), "/ref", ""},
		"overflow":            {replace(`"device":1`, `"device":256`), env + "/device", ""},
		"number for string":   {replace(`"AAAA"`, `7`), env + "/content", ""},
		"bad base64":          {replace(`"AAAA"`, `"AA*A"`), env + "/content", ""},
		"base64 line end":     {replace(`"AAAA"`, `"AA\nAA"`), env + "/content", ""},
		"base64 loose bits":   {replace(`"AAAA"`, `"AB=="`), env + "/content", ""},
		"base64 url":          {replace(`"AAAA"`, `"__--"`), env + "/content", ""},
		"base64 unpadded":     {replace(`"AAAA"`, `"AA"`), env + "/content", ""},
		"empty content":       {replace(`"AAAA"`, `""`), env + "/content", ""},
		"null content":        {replace(`"AAAA"`, `null`), env + "/content", ""},
		"object for list":     {replace(`"to":[`, `"to":{"a":[`), "/submission/to", ""},
		"bad UTF-8":           {replace(`"send_message"`, "\"send\xff\""), "/type", ""},
		"bad UTF-8 name":      {replace(`"ref"`, "\"r\xff\""), "", ""},
		"half surrogate":      {replace(`"send_message"`, `"\ud800"`), "/type", ""},
		"control character":   {replace(`"send_message"`, "\"send\x01\""), "/type", ""},
		"bad escape":          {replace(`"send_message"`, `"\x"`), "/type", ""},
		"bad message id":      {replace(msgID.String(), "short"), "/submission/id", ""},
		"odd message id":      {replace(msgID.String(), msgID.String()[:25]+"b"), "/submission/id", ""},
		"bad user":            {replace(bob.String(), "bob@b.test"), "/submission/to/0/user", ""},
		"user without domain": {replace("@b.test", ""), "/submission/to/0/user", ""},
		"missing ref":         {replace(`"ref":1,`, ``), "/ref", ""},
		"missing submission":  {`{"type":"send_message","ref":1}`, "/submission", ""},
		"foreign member":      {replace(`"ref":1`, `"ref":1,"seq":4`), "/seq", ""},
		"unknown type":        {`{"type":"shout"}`, "/type", ""},
		"server's type":       {`{"type":"welcome"}`, "/type", ""},
		"ack of nothing":      {`{"type":"ack"}`, "/seq", ""},
		"device 0":            {replace(`"device":1`, `"device":0`), env + "/device", ""},
		"device 128":          {replace(`"device":1`, `"device":128`), env + "/device", ""},
		"registration":        {replace(`"registration":1`, `"registration":16384`), env + "/registration", ""},
		"content type":        {replace(`"type":2`, `"type":4`), env + "/type", ""},
		"content size":        {replace(`"AAAA"`, `"`+strings.Repeat("AAAA", clearbox.MaxContent/3+1)+`"`), env + "/content", clearbox.CodeTooLarge},
		"nesting":             {replace(`"ref":1`, `"ref":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)), "*", ""},
		"many elements":       {`{"type":"watch","users":[` + strings.Repeat(`"`+bob.String()+`",`, 4096) + `"` + bob.String() + `"]}`, "/users", ""},
		"watch without token": {`{"type":"watch","tokens":[{"user":"` + bob.String() + `","token":"AAAA"}]}`, "/tokens/0/token", ""},
		"many tokens":         {`{"type":"watch","tokens":[` + strings.Repeat(`{},`, 256) + `{}]}`, "*", ""},
		"signal to nobody":    {`{"type":"signal"}`, "/to", ""},
		"signal of nothing":   {`{"type":"signal","to":{"user":"` + bob.String() + `","envelopes":[]}}`, "/to/envelopes", ""},
		"signal with ref":     {`{"type":"signal","ref":1,"to":{"user":"` + bob.String() + `","envelopes":[{"device":1,"registration":1,"type":2,"content":"AAAA"}]}}`, "/ref", ""},
		"signal size":         {`{"type":"signal","to":{"user":"` + bob.String() + `","envelopes":[{"device":1,"registration":1,"type":2,"content":"` + strings.Repeat("AAAA", 342) + `"}]}}`, "/to/envelopes/0/content", clearbox.CodeTooLarge},
		"signal odd token":    {`{"type":"signal","to":{"user":"` + bob.String() + `","token":"AAAA","envelopes":[{"device":1,"registration":1,"type":2,"content":"AAAA"}]}}`, "/to/token", ""},
		"many users":          {`{"type":"watch","users":[` + strings.Repeat(`"`+bob.String()+`",`, 256) + `"` + bob.String() + `"]}`, "/users", ""},
		"too large":           {ok + strings.Repeat(" ", wire.MaxFrame), "", clearbox.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) { refused(t, wire.JSON, []byte(tc.in), tc.pointer, tc.code) })
	}
}

// refused demands an *InvalidError at pointer ("*": anywhere) with a code
// ("": bad_request).
func refused(t *testing.T, f wire.Format, in []byte, pointer string, code clearbox.Code) {
	t.Helper()
	_, err := wire.ParseClientFrame(f, in)
	var bad *wire.InvalidError
	if !errors.As(err, &bad) {
		t.Fatalf("got %v", err)
	}
	if code == "" {
		code = clearbox.CodeBadRequest
	}
	if got := clearbox.CodeOf(err); got != code {
		t.Errorf("code %s, want %s", got, code)
	}
	if pointer != "*" && bad.Errors[0].Pointer != pointer {
		t.Errorf("at %q (%s), want %q", bad.Errors[0].Pointer, bad.Errors[0].Detail, pointer)
	}
}

func TestDecodeCBORBadInput(t *testing.T) {
	ok, err := wire.AppendClientFrame(nil, wire.CBOR, &wire.ClientFrame{Type: wire.FrameAck, Seq: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseClientFrame(wire.CBOR, ok); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const typeAck, seq5 = "64 74797065 63 61636b", "63 736571 05"
	for name, tc := range map[string]struct {
		in      []byte
		pointer string
	}{
		"empty":             {nil, ""},
		"cut off":           {ok[:len(ok)-1], ""},
		"trailing data":     {append(bytes.Clone(ok), 0), ""},
		"not a map":         {unhex("80"), ""},
		"null":              {unhex("f6"), "/type"},
		"unknown field":     {unhex("a3" + typeAck + seq5 + "61 78 01"), ""},
		"name in case":      {unhex("a2" + typeAck + "63 534551 05"), ""},
		"integer key":       {unhex("a3" + typeAck + seq5 + "01 01"), ""},
		"field twice":       {unhex("a3" + typeAck + seq5 + seq5), ""},
		"text for number":   {unhex("a2" + typeAck + "63 736571 61 35"), "/seq"},
		"float for number":  {unhex("a2" + typeAck + "63 736571 fb 4014000000000000"), "/seq"},
		"negative ref":      {unhex("a3" + typeAck + seq5 + "63 726566 20"), "/ref"},
		"overflow":          {unhex("a2" + typeAck + "63 736571 1b ffffffffffffffff"), "/seq"},
		"tag":               {unhex("a2" + typeAck + "63 736571 c1 05"), ""},
		"bignum":            {unhex("a2" + typeAck + "63 736571 c2 41 05"), ""},
		"indefinite map":    {unhex("bf" + typeAck + seq5 + "ff"), ""},
		"indefinite text":   {unhex("a2 64 74797065 7f 63 61636b ff" + seq5), ""},
		"bytes for text":    {unhex("a2 64 74797065 43 61636b" + seq5), "/type"},
		"bad UTF-8":         {unhex("a2 64 74797065 63 61ff6b" + seq5), ""},
		"nesting":           {append(unhex("a2"+typeAck+"63 736571"), append(bytes.Repeat([]byte{0x81}, 100), 5)...), ""},
		"huge list claimed": {unhex("a2" + typeAck + "65 7573657273 9b 00000000ffffffff"), ""},
		"huge bytes":        {unhex("a2" + typeAck + "63 736571 5b 00000000ffffffff"), ""},
		"reserved":          {unhex("1c"), ""},
		"bad user":          {unhex("a2 64 74797065 65 7761746368 65 7573657273 81 61 78"), "*"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, wire.CBOR, tc.in, tc.pointer, "") })
	}
}

// An older client must live with what a newer server adds.
func TestAnswersMayGrow(t *testing.T) {
	if _, err := wire.ParseServerFrame(wire.JSON, []byte(`{"type":"news","x":{"y":[1,2.5e3,"\u00e4",null,true]},"seq":4}`)); err != nil {
		t.Error(err)
	}
	in, _ := hex.DecodeString("a36474797065646e65777363736571046178a16179820102")
	s, err := wire.ParseServerFrame(wire.CBOR, in)
	if err != nil || s.Seq != 4 {
		t.Error(s, err)
	}
	if _, err := wire.ParseServerFrame(wire.JSON, []byte(`{"type":"news","seq":4,"seq":5}`)); err == nil {
		t.Error("a field twice was accepted")
	}
}

func TestEscapesRead(t *testing.T) {
	var l wire.Login
	if err := wire.Decode(wire.JSON, []byte(` {"handle" : "a\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00" , "password":"p"} `), &l); err != nil {
		t.Fatal(err)
	}
	if want := "a\"\\/\b\f\n\r\tä😀"; l.Handle != want {
		t.Errorf("%q, want %q", l.Handle, want)
	}
}

func TestLoginProofIsUnambiguous(t *testing.T) {
	a := wire.LoginProof("a.test", "x", 1, 2)
	for _, b := range [][]byte{wire.LoginProof("a.tes", "tx", 1, 2), wire.LoginProof("a.test", "x", 2, 2), wire.LoginProof("a.test", "x", 1, 3)} {
		if bytes.Equal(a, b) {
			t.Error("two inputs, one proof")
		}
	}
	golden(t, "login_proof.hex", []byte(hex.EncodeToString(wire.LoginProof("a.test", aliceUID, 7, 1790000000000))))
}
