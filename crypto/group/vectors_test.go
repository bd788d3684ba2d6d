package group_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/group"
)

// A conversation recorded with the official package replays byte by byte: its
// messages are read, and ours are the ones that it read.
func TestRecordedGroup(t *testing.T) {
	b, err := os.ReadFile("../testdata/vectors/group.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Distribution []byte
		Seed         []byte
		Steps        []struct {
			Op, Error             string
			Seed, Body, Plaintext []byte
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	id := group.ID(v.Distribution)
	// Every step begins its randomness anew.
	random := func() *rand.ChaCha8 { return rand.NewChaCha8([32]byte(v.Seed)) }
	var own *group.Sender
	r := group.NewReceiver(id)
	done := map[string]int{}
	for i, s := range v.Steps {
		done[s.Op+s.Error]++
		switch s.Op {
		case "new":
			if own, err = group.New(rand.NewChaCha8([32]byte(s.Seed)), id); err != nil || !bytes.Equal(own.Distribution(), s.Body) {
				t.Fatalf("step %d: another sender key than recorded, %v", i, err)
			}
		case "process":
			if err := r.Process(s.Body); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		case "encrypt":
			m, err := own.Encrypt(random(), s.Plaintext)
			if err != nil || !bytes.Equal(m, s.Body) {
				t.Fatalf("step %d: another message than recorded, %v", i, err)
			}
		case "decrypt":
			text, err := r.Decrypt(s.Body)
			if s.Error == "duplicate" && err == group.ErrDuplicate {
				continue
			}
			if err != nil || s.Error != "" || !bytes.Equal(text, s.Plaintext) {
				t.Fatalf("step %d: %q, %v", i, text, err)
			}
		default:
			t.Fatalf("step %d: unknown operation %q", i, s.Op)
		}
	}
	if done["encrypt"] < 200 || done["decrypt"] < 100 || done["decryptduplicate"] == 0 || done["process"] != 3 {
		t.Fatalf("%v", done)
	}
}
