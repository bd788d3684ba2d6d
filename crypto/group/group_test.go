package group_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/group"
)

var distribution = group.ID{0xd1, 15: 1}

func source(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// talker is a device that speaks to a group.
type talker struct {
	t      testing.TB
	random io.Reader
	*group.Sender
}

func newTalker(t testing.TB, seed byte) *talker {
	t.Helper()
	random := source(seed)
	s, err := group.New(random, distribution)
	if err != nil {
		t.Fatal(err)
	}
	return &talker{t, random, s}
}

func (s *talker) say(text string) []byte {
	s.t.Helper()
	b, err := s.Encrypt(s.random, []byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// listener knows one talker's keys.
type listener struct {
	t testing.TB
	*group.Receiver
}

func (s *talker) listener() *listener {
	s.t.Helper()
	l := &listener{s.t, group.NewReceiver(distribution)}
	l.process(s)
	return l
}

func (l *listener) process(s *talker) {
	l.t.Helper()
	if err := l.Process(s.Distribution()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *listener) read(message []byte, want string) {
	l.t.Helper()
	got, err := l.Decrypt(message)
	if err != nil {
		l.t.Fatalf("reading %q: %v", want, err)
	}
	if string(got) != want {
		l.t.Fatalf("read %q, said %q", got, want)
	}
}

// refuse expects an error and a Receiver that is what it was.
func (l *listener) refuse(message []byte, want error) {
	l.t.Helper()
	before := l.Append(nil)
	if _, err := l.Decrypt(message); !errors.Is(err, want) {
		l.t.Fatalf("%v, want %v", err, want)
	}
	if !bytes.Equal(l.Append(nil), before) {
		l.t.Fatal("a refused message changed the receiver")
	}
}

func TestReadOnceInAnyOrder(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	one, two, three := s.say("1"), s.say("2"), s.say("3")
	l.read(three, "3")
	l.read(one, "1")
	l.read(two, "2")
	for _, m := range [][]byte{one, two, three} {
		l.refuse(m, group.ErrDuplicate)
	}
}

func TestHeads(t *testing.T) {
	s := newTalker(t, 1)
	s.Lose(7)
	want := group.Head{Distribution: distribution, Chain: s.Chain(), Iteration: 7}
	if h, err := group.ParseDistributionHead(s.Distribution()); err != nil || h != want {
		t.Fatalf("%+v, %v", h, err)
	}
	if h, err := group.ParseHead(s.say("x")); err != nil || h != want {
		t.Fatalf("%+v, %v", h, err)
	}
	if s.Sent() != 8 || s.ID() != distribution || s.Chain() > 1<<31-1 {
		t.Fatalf("%d sent, chain %d", s.Sent(), s.Chain())
	}
}

// Who joins reads from the distribution message on, and nothing before.
func TestLateJoin(t *testing.T) {
	s := newTalker(t, 1)
	early := s.listener()
	before := s.say("before")
	late := s.listener()
	after := s.say("after")
	late.refuse(before, group.ErrDuplicate)
	late.read(after, "after")
	early.read(after, "after")
	early.read(before, "before")
}

// Who left has no key for what is said with a new one.
func TestRotation(t *testing.T) {
	s := newTalker(t, 1)
	stays, leaves := s.listener(), s.listener()
	last := s.say("still all")
	fresh := newTalker(t, 2)
	stays.process(fresh)
	m := fresh.say("without one")
	leaves.refuse(m, group.ErrNoKey)
	stays.read(m, "without one")
	stays.read(last, "still all") // the former chain is kept for what is under way
}

func TestJump25000Passes25001Fails(t *testing.T) {
	for _, c := range []struct {
		lost int
		want error
	}{{group.MaxJump, nil}, {group.MaxJump + 1, group.ErrJump}} {
		t.Run(fmt.Sprint(c.lost), func(t *testing.T) {
			s := newTalker(t, 1)
			l := s.listener()
			first := s.say("first")
			s.Lose(c.lost - 1)
			m := s.say("far ahead")
			if c.want == nil {
				l.read(m, "far ahead")
				l.refuse(first, group.ErrDuplicate)
			} else {
				l.refuse(m, c.want)
				l.read(first, "first")
				l.read(m, "far ahead") // one nearer now
			}
		})
	}
}

func TestKeptKeys2000(t *testing.T) {
	for _, c := range []struct {
		gap  int
		want error
	}{{group.MaxKept, nil}, {group.MaxKept + 1, group.ErrDuplicate}} {
		t.Run(fmt.Sprint(c.gap), func(t *testing.T) {
			s := newTalker(t, 1)
			l := s.listener()
			first, second := s.say("first"), s.say("second")
			s.Lose(c.gap - 2)
			l.read(s.say("ahead"), "ahead")
			if c.want == nil {
				l.read(first, "first")
			} else {
				l.refuse(first, c.want)
			}
			l.read(second, "second")
		})
	}
}

func TestKeptKeysAddUpTo2000(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	early := s.say("early")
	s.Lose(1_500)
	l.read(s.say("ahead"), "ahead")
	middle := s.say("middle")
	s.Lose(1_500)
	l.read(s.say("further"), "further")
	if kept := l.Kept(); kept[0] != group.MaxKept {
		t.Fatalf("%v keys kept", kept)
	}
	l.refuse(early, group.ErrDuplicate)
	l.read(middle, "middle")
}

func TestFiveChains(t *testing.T) {
	l := &listener{t, group.NewReceiver(distribution)}
	var said [][]byte
	for i := range 6 {
		s := newTalker(t, byte(i+1))
		l.process(s)
		said = append(said, s.say(fmt.Sprint(i)))
	}
	l.refuse(said[0], group.ErrNoKey)
	for i := 1; i < 6; i++ {
		l.read(said[i], fmt.Sprint(i))
	}
}

// An old distribution message brought again lets nothing be read twice, and
// makes its chain the newest.
func TestKnownChainStays(t *testing.T) {
	s := newTalker(t, 1)
	old := s.Distribution()
	l := s.listener()
	one, two := s.say("1"), s.say("2")
	l.read(two, "2")
	if err := l.Process(old); err != nil {
		t.Fatal(err)
	}
	l.refuse(two, group.ErrDuplicate)
	l.read(one, "1")
	for i := range group.MaxStates {
		if i == 2 {
			l.process(s) // in between: now it is dropped two chains later
		}
		l.process(newTalker(t, byte(i+10)))
	}
	if !l.Knows(s.Chain()) {
		t.Fatal("the chain was dropped")
	}
}

func TestSameChainOtherKeyReplaces(t *testing.T) {
	a, b := newTalker(t, 1), newTalker(t, 2)
	b.SetChain(a.Chain())
	l := a.listener()
	m := a.say("a")
	l.process(b)
	l.refuse(m, group.ErrSignature)
	l.read(b.say("b"), "b")
	if kept := l.Kept(); len(kept) != 1 {
		t.Fatalf("%d chains", len(kept))
	}
}

func TestRefusals(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	m := s.say("a message of some length")
	for bit := range 8 * len(m) {
		b := bytes.Clone(m)
		b[bit/8] ^= 1 << (bit % 8)
		before := l.Append(nil)
		if _, err := l.Decrypt(b); err == nil {
			t.Fatalf("bit %d flipped and read", bit)
		}
		if !bytes.Equal(l.Append(nil), before) {
			t.Fatalf("bit %d flipped changed the receiver", bit)
		}
	}
	for n := range m {
		if _, err := l.Decrypt(m[:n]); err == nil {
			t.Fatalf("read after %d bytes", n)
		}
	}
	for _, version := range []byte{0, 1, 2, 4, 5, 15} {
		b := bytes.Clone(m)
		b[0] = version<<4 | 3
		var v *group.VersionError
		if _, err := l.Decrypt(b); !errors.As(err, &v) || v.Version != version {
			t.Fatalf("version %d: %v", version, err)
		}
	}
	l.refuse(append(bytes.Clone(m), 0), group.ErrMalformed)
	l.refuse(make([]byte, group.MaxMessage+1), group.ErrMalformed)
	other := &listener{t, group.NewReceiver(group.ID{9})}
	other.refuse(m, group.ErrDistribution)
	if err := other.Process(s.Distribution()); !errors.Is(err, group.ErrDistribution) {
		t.Fatal(err)
	}
	l.read(m, "a message of some length")
}

// A member who knows the chain key cannot speak for the sender.
func TestMembersCannotForge(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	// Everything of the sender's but the signing key.
	stored, own := s.Append(nil), newTalker(t, 2).Append(nil)
	copy(stored[len(stored)-32:], own[len(own)-32:])
	forger, err := group.ParseSender(stored)
	if err != nil {
		t.Fatal(err)
	}
	m, err := forger.Encrypt(s.random, []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	l.refuse(m, group.ErrSignature)
}

func TestPlaintextSizes(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	for _, n := range []int{0, 1, 15, 16, 17, 4096, group.MaxPlaintext} {
		text := string(bytes.Repeat([]byte{'p'}, n))
		m := s.say(text)
		if len(m) > group.MaxMessage {
			t.Fatalf("a message of %d bytes", len(m))
		}
		l.read(m, text)
	}
	sent := s.Sent()
	if _, err := s.Encrypt(s.random, make([]byte, group.MaxPlaintext+1)); err != group.ErrTooLong || s.Sent() != sent {
		t.Fatal(err)
	}
}

func TestExhausted(t *testing.T) {
	s := newTalker(t, 1)
	s.Exhaust()
	l := s.listener()
	l.read(s.say("the last"), "the last")
	if _, err := s.Encrypt(s.random, nil); err != group.ErrExhausted {
		t.Fatal(err)
	}
}

func TestRandomFails(t *testing.T) {
	for n := range 68 {
		if _, err := group.New(io.LimitReader(source(1), int64(n)), distribution); err == nil {
			t.Fatalf("a key from %d bytes", n)
		}
	}
	s := newTalker(t, 1)
	before := s.Append(nil)
	if _, err := s.Encrypt(io.LimitReader(source(1), 63), []byte("x")); err == nil || !bytes.Equal(s.Append(nil), before) {
		t.Fatal("no error, or a changed sender")
	}
}

func TestClone(t *testing.T) {
	s := newTalker(t, 1)
	l := s.listener()
	copied := &listener{t, l.Clone()}
	m := s.say("x")
	l.read(m, "x")
	copied.read(m, "x")
	copied.process(newTalker(t, 2))
	if len(l.Kept()) != 1 {
		t.Fatal("a copy changed its original")
	}
}
