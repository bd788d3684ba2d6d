package wire_test

import (
	"bytes"
	"testing"

	"github.com/clearbox-im/clearbox/server/wire"
)

func seeds(f *testing.F) {
	for _, c := range clientFrames() {
		for _, format := range []wire.Format{wire.CBOR, wire.JSON} {
			b, err := wire.AppendClientFrame(nil, format, c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(format == wire.JSON, b)
		}
	}
	for _, s := range serverFrames() {
		for _, format := range []wire.Format{wire.CBOR, wire.JSON} {
			b, err := wire.AppendServerFrame(nil, format, s)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(format == wire.JSON, b)
		}
	}
}

func formatOf(isJSON bool) wire.Format {
	if isJSON {
		return wire.JSON
	}
	return wire.CBOR
}

// What is read can be written in both formats, is read back the same, and is
// written the same way again.
func FuzzClientFrame(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, isJSON bool, data []byte) {
		c, err := wire.ParseClientFrame(formatOf(isJSON), data)
		if err != nil {
			return
		}
		stable(t, c, func(format wire.Format, b []byte) (any, error) { return wire.ParseClientFrame(format, b) })
	})
}

func FuzzServerFrame(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, isJSON bool, data []byte) {
		s, err := wire.ParseServerFrame(formatOf(isJSON), data)
		if err != nil {
			return
		}
		for _, format := range []wire.Format{wire.CBOR, wire.JSON} {
			b, err := wire.AppendServerFrame(nil, format, s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := wire.ParseServerFrame(format, b); err != nil {
				t.Fatalf("%v of %+v: %v", format, s, err)
			}
		}
	})
}

// stable compares what is written, since an absent and an empty list are the
// same on the wire.
func stable(t *testing.T, v any, parse func(wire.Format, []byte) (any, error)) {
	t.Helper()
	for _, format := range []wire.Format{wire.CBOR, wire.JSON} {
		b, err := wire.Append(format, nil, v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(format, b)
		if err != nil {
			t.Fatalf("%v: %v", format, err)
		}
		for _, f2 := range []wire.Format{wire.CBOR, wire.JSON} {
			want, err := wire.Append(f2, nil, v)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.Append(f2, nil, again)
			if err != nil || !bytes.Equal(want, got) {
				t.Fatalf("%v: written differently: %x, %x, %v", format, want, got, err)
			}
		}
	}
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"handle":"a","password":"b","device":{"device":1,"at":2,"signature":"AAAA"}}`,
		`{"refresh_token":"x"}`, `{"items":[{"id":"a","conversation":"AAAA","body":"AAAA"}]}`, `{"ids":["aaaqeayeaudaocajbifqydiob4"]}`,
		`{"claim_id":"aaaqeayeaudaocajbifqydiob4","user":"aaaqeayeaudaocajbifqydiob4@a.test","devices":[1]}`,
		`{"uid":"aaaqeayeaudaocajbifqydiob4","handle":"a","password":"p","device_name":"d","device_list":"AAAA","keys":{"signed":{"id":1,"key":"AAAA","signature":"AAAA"}},"notice":{"version":"1","hash":"h"}}`,
		`{"object":"aaaqeayeaudaocajbifqydiob4","size":9,"reader":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`, `{"digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
		`{"id":"aaaqeayeaudaocajbifqydiob4","body":"AAAA"}`, `{"n":1,"body":"AAAA"}`, `{"device":{"device":1,"at":2,"signature":"AAAA"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, body := range []any{new(wire.Login), new(wire.Registration), new(wire.Refresh), new(wire.HistoryUpload), new(wire.StatusQuery), new(wire.KeyClaim), new(wire.Keys), new(wire.DeviceListUpload), new(wire.Submission), new(wire.LinkOpen), new(wire.LinkMessage), new(wire.LinkSession), new(wire.NewMedia), new(wire.MediaFinish)} {
			if wire.Decode(wire.JSON, data, body) != nil {
				continue
			}
			b, err := wire.Append(wire.JSON, nil, body)
			if err != nil {
				t.Fatal(err)
			}
			if err := wire.Decode(wire.JSON, b, body); err != nil {
				t.Fatalf("%T %s: %v", body, b, err)
			}
		}
	})
}
