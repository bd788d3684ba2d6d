package sealed_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/fanout"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/sealed"
)

// What the official package sealed is split as the package splits it, and opens.
func TestRecorded(t *testing.T) {
	b, err := os.ReadFile("../testdata/vectors/sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Root, Sender, Certificate, Body, Whole []byte

		Expires    int64
		Device     uint8
		Recipients []struct {
			Account, Private, V1, V2 []byte
			Device                   uint8
			Registration             uint16
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	root, err := curve.ParsePublicKey(v.Root)
	if err != nil {
		t.Fatal(err)
	}
	m, err := fanout.Parse(v.Whole, fanout.Limits{})
	if err != nil || len(m.Recipients()) != 4 || len(v.Recipients) != 3 {
		t.Fatalf("%v", err)
	}
	for _, r := range v.Recipients {
		identity, err := curve.NewPrivateKey(r.Private)
		if err != nil {
			t.Fatal(err)
		}
		place, ok := m.Find(keys.ServiceID(r.Account))
		if !ok || m.Recipients()[place].Devices[0] != (fanout.Device{ID: r.Device, Registration: r.Registration}) {
			t.Fatalf("%+v", m.Recipients())
		}
		received, err := m.AppendReceived(nil, place)
		if err != nil || !bytes.Equal(received, r.V2) {
			t.Fatalf("another received form: %v", err)
		}
		me := &sealed.Receiver{Account: keys.ServiceID(r.Account), Device: r.Device, Identity: identity}
		for _, message := range [][]byte{r.V1, r.V2} {
			c, err := me.Open(message, time.UnixMilli(v.Expires), root)
			if err != nil {
				t.Fatal(err)
			}
			s := c.Sender.Subject()
			if c.Type != sealed.TypePreKey || c.Hint != sealed.HintResendable || string(c.Group) != "group" || !bytes.Equal(c.Body, v.Body) ||
				!bytes.Equal(c.Sender.Bytes(), v.Certificate) || s.Account != keys.ServiceID(v.Sender) || s.Device != v.Device {
				t.Errorf("%+v", c)
			}
		}
	}
}
