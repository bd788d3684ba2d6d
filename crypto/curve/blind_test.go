package curve_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/curve"
)

func TestBlind(t *testing.T) {
	asker, err := curve.NewBlind(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := curve.NewBlind(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const context = "test\x00"
	seen := map[string]bool{}
	for _, word := range []string{"", "a.test", "b.test", "c.test"} {
		asked := asker.Ask(context, []byte(word))
		evaluated, err := other.Evaluate(asked)
		if err != nil {
			t.Fatal(err)
		}
		got, err := asker.Reveal(evaluated)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, other.Word(context, []byte(word))) {
			t.Errorf("%q: the two sides got different values", word)
		}
		if bytes.Equal(got, other.Word(context, []byte(word+"x"))) || bytes.Equal(got, other.Word("another\x00", []byte(word))) {
			t.Errorf("%q: another word or context has the same value", word)
		}
		if again, _ := curve.NewBlind(rand.Reader); bytes.Equal(again.Ask(context, []byte(word)), asked) {
			t.Errorf("%q: the blinded word does not depend on the blinding", word)
		}
		if seen[string(got)] {
			t.Errorf("%q: the value of another word", word)
		}
		seen[string(got)] = true
	}
	identity := append([]byte{1}, make([]byte, 31)...)
	order2, _ := hex.DecodeString("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	for name, point := range map[string][]byte{
		"nothing": {}, "short": identity[:31], "the identity": identity, "order 2": order2, "no point": append([]byte{2}, make([]byte, 31)...),
	} {
		if _, err := other.Evaluate(point); err == nil {
			t.Errorf("%s is evaluated", name)
		}
		if _, err := other.Reveal(point); err == nil {
			t.Errorf("%s is revealed", name)
		}
	}
	if _, err := curve.NewBlind(bytes.NewReader(make([]byte, 64))); err == nil {
		t.Error("a zero scalar")
	}
}

// The value of a word under a fixed scalar: a change here is a change of protocol.
func TestBlindWordVector(t *testing.T) {
	b, err := curve.NewBlind(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	const want = "7fe60118209fc9098f89f88f9c1345dfe7172197688c263c42449529a0a8633f"
	if got := hex.EncodeToString(b.Word("clearbox gossip v1\x00", []byte("c.test"))); got != want {
		t.Error(got)
	}
}
