package chain_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/crypto/chain"
)

// bodies has one of each kind, with everything that a body can hold.
func bodies() map[string]chain.Body {
	rules := chain.Policy{MayAdd: chain.MembersAdd, Disappear: 86400, MaxMembers: 500, Countries: []string{"AT", "DE"}, Servers: []string{"a.test", "b.test"}}
	two := []chain.Invitee{invitee(bob, chain.RoleAdmin), invitee(carol, chain.RoleMember)}
	chain.SortInvitees(two)
	ids := []chain.Member{bob.id, carol.id}
	chain.SortMembers(ids)
	by := chain.Countersignature{Server: "b.test", Key: public(key("b.test")), Signature: bytes.Repeat([]byte{7}, ed25519.SignatureSize)}
	return map[string]chain.Body{
		"create":   chain.Create{Hub: "a.test", Nonce: [16]byte{9}, Commitment: alice.opening.Commitment(), Policy: rules, Info: []byte("title")},
		"add":      chain.Add{Invitees: two},
		"accept":   chain.Accept{},
		"decline":  chain.Decline{},
		"remove":   chain.Remove{Members: ids},
		"role":     chain.SetRole{Member: bob.id, Role: chain.RoleAdmin},
		"policy":   chain.SetPolicy{Policy: rules},
		"info":     chain.SetInfo{Sealed: []byte("sealed")},
		"device":   chain.Introduce{},
		"hub-move": chain.HubMove{Hub: "b.test", By: []chain.Countersignature{by}},
		"close":    chain.Close{},
	}
}

func withBody(b chain.Body) *chain.Op {
	o := &chain.Op{Epoch: 7, Actor: alice.id, Signer: public(alice.phone), List: 3, Time: morning, Body: b}
	if b.Kind() == chain.KindCreate {
		o.Epoch = 1
	} else {
		o.Group, o.Prev = chain.HashOf([]byte("group")), chain.HashOf([]byte("before"))
	}
	return o
}

func TestWireForm(t *testing.T) {
	for name, b := range bodies() {
		t.Run(name, func(t *testing.T) {
			o := withBody(b)
			if o.Body.Kind().String() != name {
				t.Errorf("the kind is called %s", o.Body.Kind())
			}
			raw := sign(t, alice.phone, o)
			golden(t, name+".bin", raw)
			got, err := chain.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, o) {
				t.Errorf("read back as %+v", got)
			}
			for i := range raw {
				if _, err := chain.Parse(raw[:i]); !errors.Is(err, chain.ErrOperation) {
					t.Fatalf("cut at %d: %v", i, err)
				}
			}
			if _, err := chain.Parse(append(bytes.Clone(raw), 0)); !errors.Is(err, chain.ErrOperation) {
				t.Errorf("with a byte more: %v", err)
			}
			for i := range raw {
				forged := bytes.Clone(raw)
				forged[i] ^= 0x40
				if _, err := chain.Parse(forged); err == nil {
					t.Errorf("a changed byte %d passes", i)
				}
			}
			clear(raw)
			if !reflect.DeepEqual(got, o) {
				t.Error("the operation shares memory with what it was read from")
			}
		})
	}
}

// Each rule of form is held by Sign, and by Parse when somebody else's program
// signed all the same.
func TestRulesOfForm(t *testing.T) {
	many := func(n int) (out []chain.Member) {
		for i := range n {
			out = append(out, chain.Member{1, byte(i >> 8), byte(i)})
		}
		return out
	}
	invitees := func(n int) (a chain.Add) {
		for _, m := range many(n) {
			a.Invitees = append(a.Invitees, chain.Invitee{Member: m, Role: chain.RoleMember})
		}
		return a
	}
	rules := func(change func(*chain.Policy)) chain.SetPolicy {
		p := policy()
		change(&p)
		return chain.SetPolicy{Policy: p}
	}
	op := func(change func(*chain.Op)) *chain.Op {
		o := withBody(chain.SetInfo{})
		change(o)
		return o
	}
	for name, o := range map[string]*chain.Op{
		"epoch 0":                    op(func(o *chain.Op) { o.Epoch = 0 }),
		"epoch 1 without create":     op(func(o *chain.Op) { o.Epoch = 1 }),
		"epoch too high":             op(func(o *chain.Op) { o.Epoch = chain.MaxOperations + 1 }),
		"no group":                   op(func(o *chain.Op) { o.Group = chain.Hash{} }),
		"no prev":                    op(func(o *chain.Op) { o.Prev = chain.Hash{} }),
		"no actor":                   op(func(o *chain.Op) { o.Actor = chain.Member{} }),
		"list 0":                     op(func(o *chain.Op) { o.List = 0 }),
		"list huge":                  op(func(o *chain.Op) { o.List = chain.MaxTime + 1 }),
		"time 0":                     op(func(o *chain.Op) { o.Time = 0 }),
		"time huge":                  op(func(o *chain.Op) { o.Time = chain.MaxTime + 1 }),
		"time negative":              op(func(o *chain.Op) { o.Time = -1 }),
		"nobody invited":             withBody(chain.Add{}),
		"too many invited":           withBody(invitees(chain.MaxInvitees + 1)),
		"invited twice":              withBody(chain.Add{Invitees: []chain.Invitee{invitee(bob, 1), invitee(bob, 1)}}),
		"invited nobody":             withBody(chain.Add{Invitees: []chain.Invitee{{Role: 1}}}),
		"invited owner":              withBody(invite(bob, chain.RoleOwner)),
		"invited role 0":             withBody(invite(bob, 0)),
		"nobody removed":             withBody(chain.Remove{}),
		"too many removed":           withBody(chain.Remove{Members: many(chain.MaxRemoved + 1)}),
		"removed twice":              withBody(chain.Remove{Members: []chain.Member{bob.id, bob.id}}),
		"role 0":                     withBody(chain.SetRole{Member: bob.id}),
		"role 4":                     withBody(chain.SetRole{Member: bob.id, Role: 4}),
		"role of nobody":             withBody(chain.SetRole{Role: 1}),
		"info too long":              withBody(chain.SetInfo{Sealed: make([]byte, chain.MaxInfo+1)}),
		"nobody may add":             withBody(rules(func(p *chain.Policy) { p.MayAdd = 0 })),
		"disappear too late":         withBody(rules(func(p *chain.Policy) { p.Disappear = chain.MaxDisappear + 1 })),
		"one member at most":         withBody(rules(func(p *chain.Policy) { p.MaxMembers = 1 })),
		"too many members":           withBody(rules(func(p *chain.Policy) { p.MaxMembers = chain.MaxMembers + 1 })),
		"country in small letters":   withBody(rules(func(p *chain.Policy) { p.Countries = []string{"de"} })),
		"country of three letters":   withBody(rules(func(p *chain.Policy) { p.Countries = []string{"DEU"} })),
		"countries out of order":     withBody(rules(func(p *chain.Policy) { p.Countries = []string{"DE", "AT"} })),
		"country twice":              withBody(rules(func(p *chain.Policy) { p.Countries = []string{"DE", "DE"} })),
		"too many servers":           withBody(rules(func(p *chain.Policy) { p.Servers = manyNames(chain.MaxPolicyEntries + 1) })),
		"server in capitals":         withBody(rules(func(p *chain.Policy) { p.Servers = []string{"A.test"} })),
		"server without a name":      withBody(rules(func(p *chain.Policy) { p.Servers = []string{""} })),
		"hub without a name":         withBody(chain.HubMove{}),
		"hub with a blank":           withBody(chain.HubMove{Hub: "a b"}),
		"hub with a long name":       withBody(chain.HubMove{Hub: strings.Repeat("a", chain.MaxName+1)}),
		"countersigned out of order": withBody(chain.HubMove{Hub: "a.test", By: []chain.Countersignature{countersigned("b"), countersigned("a")}}),
		"create without a hub":       withBody(chain.Create{Policy: policy()}),
		"create without a policy":    withBody(chain.Create{Hub: "a.test"}),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := chain.Sign(alice.phone, o); !errors.Is(err, chain.ErrOperation) {
				t.Errorf("Sign: %v", err)
			}
			if _, err := chain.Parse(chain.SignUnchecked(alice.phone, o)); !errors.Is(err, chain.ErrOperation) {
				t.Errorf("Parse: %v", err)
			}
		})
	}
	if _, err := chain.Sign(bob.phone, withBody(chain.Close{})); !errors.Is(err, chain.ErrOperation) {
		t.Errorf("signed with another key: %v", err)
	}
	if _, err := chain.Sign(alice.phone, op(func(o *chain.Op) { o.Body = nil })); !errors.Is(err, chain.ErrOperation) {
		t.Errorf("without a body: %v", err)
	}
}

func countersigned(server string) chain.Countersignature {
	return chain.Countersignature{Server: server, Key: public(key(server)), Signature: make([]byte, ed25519.SignatureSize)}
}

func manyNames(n int) (out []string) {
	for i := range n {
		out = append(out, string([]byte{byte('a' + i/26), byte('a' + i%26)})+".test")
	}
	return out
}

// The largest operation fits the limit.
func TestLargestOperation(t *testing.T) {
	h := chain.HubMove{Hub: strings.Repeat("h", chain.MaxName)}
	for _, n := range manyNames(chain.MaxCountersignatures) {
		h.By = append(h.By, countersigned(n+strings.Repeat("x", chain.MaxName-len(n))))
	}
	raw := sign(t, alice.phone, withBody(h))
	if len(raw) > chain.MaxOperationSize {
		t.Errorf("%d bytes", len(raw))
	}
	rules := policy()
	rules.Servers = nil
	for _, n := range manyNames(chain.MaxPolicyEntries) {
		rules.Servers = append(rules.Servers, n+strings.Repeat("x", chain.MaxName-len(n)))
	}
	create := chain.Create{Hub: h.Hub, Policy: rules, Info: make([]byte, chain.MaxInfo)}
	if _, err := chain.Parse(sign(t, alice.phone, withBody(create))); err != nil {
		t.Errorf("the largest create: %v", err)
	}
	if _, err := chain.Parse(make([]byte, chain.MaxOperationSize+1)); !errors.Is(err, chain.ErrOperation) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestOpeningForm(t *testing.T) {
	raw := alice.opening.Encode()
	golden(t, "opening.bin", raw)
	got, err := chain.ParseOpening(raw)
	if err != nil || !reflect.DeepEqual(got, &alice.opening) {
		t.Fatalf("read back as %+v, %v", got, err)
	}
	long := alice.opening
	long.Account = strings.Repeat("a", chain.MaxAccount+1)
	none := alice.opening
	none.Account = ""
	nobody := alice.opening
	nobody.Member = chain.Member{}
	for name, b := range map[string][]byte{
		"nothing": nil, "cut": raw[:len(raw)-1], "a byte more": append(bytes.Clone(raw), 0), "format": append([]byte{2}, raw[1:]...),
		"long account": long.Encode(), "no account": none.Encode(), "no member": nobody.Encode(),
	} {
		if _, err := chain.ParseOpening(b); !errors.Is(err, chain.ErrOpening) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is read is written as the same bytes, and no operation that a stranger
// makes is applied to a group.
func FuzzParse(f *testing.F) {
	for _, b := range bodies() {
		f.Add(sign(f, alice.phone, withBody(b)))
	}
	h := peopled(f)
	for _, raw := range h.ops {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if next, err := h.state.Apply(raw); err == nil {
			t.Errorf("applied: epoch %d", next.Epoch)
		}
		o, err := chain.Parse(raw)
		if err != nil {
			return
		}
		again := chain.SignUnchecked(alice.phone, o)
		if !bytes.Equal(again[:len(again)-ed25519.SignatureSize], raw[:len(raw)-ed25519.SignatureSize]) {
			t.Error("two encodings of one operation")
		}
	})
}

// What is read is written as the same bytes.
func FuzzParseOpening(f *testing.F) {
	f.Add(alice.opening.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := chain.ParseOpening(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(o.Encode(), raw) {
			t.Error("two encodings of one opening")
		}
	})
}
