// Command pairs measures how many messages a second one core encrypts and decrypts:
// one pair is a message made on one device and read on another, with the session's
// record read and written on both sides each time, as in a client. It runs natively
// and, compiled to WebAssembly, in Node, and prints one JSON line. It is part of
// make bench-client and not shipped.
package main

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/clearbox-im/clearbox/crypto/curve"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/ratchet"
	"github.com/clearbox-im/clearbox/crypto/ratchet/ratchettest"
)

func main() {
	window := flag.Duration("window", time.Second, "length of one measurement")
	windows := flag.Int("windows", 5, "measurements of each kind, of which the median counts")
	flag.Parse()
	runtime.GOMAXPROCS(1) // a second and core
	if err := run(*window, *windows); err != nil {
		fmt.Fprintln(os.Stderr, "pairs:", err)
		os.Exit(1)
	}
}

// line is the result, in the form that make bench prints.
type line struct {
	Scenario    string `json:"scenario"`
	Alternating int    `json:"alternating_per_s"` // the two sides speak in turn: every message turns the ratchet
	OneWay      int    `json:"oneway_per_s"`      // one side speaks
}

func run(window time.Duration, windows int) error {
	out := line{Scenario: "client-native"}
	if runtime.GOARCH == "wasm" {
		out.Scenario = "client-wasm"
	}
	var err error
	if out.Alternating, err = measure(window, windows, true); err != nil {
		return err
	}
	if out.OneWay, err = measure(window, windows, false); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// measure returns the median of pairs a second.
func measure(window time.Duration, windows int, alternating bool) (int, error) {
	x, y, err := session()
	if err != nil {
		return 0, err
	}
	text := []byte("a message of ordinary length, one line")
	var rates []int
	for range windows {
		start, pairs := time.Now(), 0
		for ; time.Since(start) < window; pairs++ {
			if err := x.tell(y, text); err != nil {
				return 0, err
			}
			if alternating {
				x, y = y, x
			}
		}
		rates = append(rates, int(float64(pairs)/time.Since(start).Seconds()))
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

// end is one device.
type end struct {
	ratchet.Device
	store ratchettest.Store
}

func newEnd(account string) (*end, error) {
	identity, err := curve.GeneratePrivateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &end{Device: ratchet.Device{
		Address:      ratchet.AddressOf(keys.AccountServiceID(account), 1),
		Identity:     identity,
		Registration: 1,
		Random:       rand.Reader,
	}}, nil
}

// session returns two devices that have heard each other.
func session() (x, y *end, err error) {
	if x, err = newEnd("x@a.test"); err != nil {
		return nil, nil, err
	}
	if y, err = newEnd("y@b.test"); err != nil {
		return nil, nil, err
	}
	bundle, err := y.store.Publish(rand.Reader, &y.Device, 1, true, false)
	if err != nil {
		return nil, nil, err
	}
	if err := x.Initiate(&x.store, time.Now(), y.Address, bundle); err != nil {
		return nil, nil, err
	}
	if err := x.tell(y, []byte("hello")); err != nil {
		return nil, nil, err
	}
	return x, y, y.tell(x, []byte("hello back"))
}

// tell is one pair.
func (e *end) tell(to *end, text []byte) error {
	m, err := e.Encrypt(&e.store, time.Now(), to.Address, text)
	if err != nil {
		return err
	}
	read, err := to.Decrypt(&to.store, e.Address, m.Type, m.Body)
	if err == nil && string(read.Plaintext) != string(text) {
		err = fmt.Errorf("another text was read than written")
	}
	return err
}
