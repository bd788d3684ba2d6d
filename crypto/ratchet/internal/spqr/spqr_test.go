package spqr_test

import (
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/ratchet/internal/spqr"
)

var limits = spqr.Limits{Jump: 25_000, Kept: 2_000}

// side is one end of a ratchet that goes through storage after every step, as
// sessions do.
type side struct {
	t      *testing.T
	stored []byte
	random *rand.ChaCha8
	seen   map[spqr.Phase]bool
}

func pair(t *testing.T, seed byte) (a, b *side) {
	random := rand.NewChaCha8([32]byte{seed})
	var key [32]byte
	random.Read(key[:])
	start := func(initiator bool) *side {
		return &side{t, spqr.New(key[:], initiator).Append(nil), random, map[spqr.Phase]bool{}}
	}
	return start(true), start(false)
}

func (s *side) load() *spqr.State {
	s.t.Helper()
	state, err := spqr.Parse(s.stored)
	if err != nil {
		s.t.Fatal(err)
	}
	s.seen[state.Phase()] = true
	return state
}

type sent struct {
	wire []byte
	key  [32]byte
}

func (s *side) send() sent {
	s.t.Helper()
	state := s.load()
	wire, key, err := state.Send(s.random, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.stored = state.Append(nil)
	return sent{wire, key}
}

func (s *side) receive(m sent) error {
	state := s.load()
	parsed, err := spqr.ParseMessage(m.wire)
	if err != nil {
		return err
	}
	key, err := state.Open(parsed, limits)
	if err != nil {
		return err
	}
	if key != m.key {
		s.t.Fatalf("epoch %d, counter %d: keys differ", parsed.Epoch, parsed.Counter)
	}
	if err := state.Receive(parsed); err != nil {
		return err
	}
	s.stored = state.Append(nil)
	return nil
}

func TestAlternatingReachesManyEpochs(t *testing.T) {
	a, b := pair(t, 1)
	for range 600 {
		for _, d := range [][2]*side{{a, b}, {b, a}} {
			if err := d[1].receive(d[0].send()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if e := a.load().Epoch(); e < 8 {
		t.Fatalf("epoch %d after 600 round trips", e)
	}
}

// Loss, reordering and random directions must never give a wrong key, and all
// phases and kinds occur.
func TestLossAndReordering(t *testing.T) {
	a, b := pair(t, 2)
	choose := rand.New(rand.NewPCG(1, 2))
	kinds := map[spqr.Kind]bool{}
	var flying [2][]sent
	for range 8_000 {
		from, to, queue := a, b, &flying[0]
		if choose.IntN(2) == 0 {
			from, to, queue = b, a, &flying[1]
		}
		m := from.send()
		parsed, err := spqr.ParseMessage(m.wire)
		if err != nil {
			t.Fatal(err)
		}
		kinds[parsed.Kind] = true
		if choose.IntN(10) >= 3 {
			*queue = append(*queue, m)
		}
		if len(*queue) > 6 {
			i := choose.IntN(len(*queue))
			m := (*queue)[i]
			*queue = append((*queue)[:i], (*queue)[i+1:]...)
			if err := to.receive(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if e := a.load().Epoch(); e < 30 {
		t.Errorf("only %d epochs", e)
	}
	if n := len(a.seen); n != 11 {
		t.Errorf("%d phases seen by A", n)
	}
	if n := len(b.seen); n != 11 {
		t.Errorf("%d phases seen by B", n)
	}
	if len(kinds) != 7 {
		t.Errorf("%d kinds seen", len(kinds))
	}
}
