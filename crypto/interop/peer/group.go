package main

import (
	"fmt"

	"github.com/clearbox-im/clearbox/crypto/group"
)

// groups holds sender keys by the names that the harness gives them.
type groups struct {
	senders   map[string]*group.Sender
	receivers map[string]*group.Receiver
}

// do answers the operations of sender keys. Everything passes through its storage
// form before each use, as in a client.
func (g *groups) do(q *request) (reply, error) {
	switch q.Op {
	case "group-sender":
		id, err := distributionID(q.Key)
		if err != nil {
			return nil, err
		}
		random, err := q.random()
		if err != nil {
			return nil, err
		}
		s, err := group.New(random, id)
		if err != nil {
			return nil, err
		}
		g.senders[q.Device] = s
		return reply{"body": s.Distribution(), "chain": s.Chain()}, nil
	case "group-receiver":
		id, err := distributionID(q.Key)
		g.receivers[q.Device] = group.NewReceiver(id)
		return reply{}, err
	case "group-distribution", "group-encrypt":
		return g.speak(q)
	case "group-process", "group-decrypt":
		return g.listen(q)
	}
	return nil, fmt.Errorf("unknown operation %q", q.Op)
}

func (g *groups) speak(q *request) (reply, error) {
	s := g.senders[q.Device]
	if s == nil {
		return nil, fmt.Errorf("no sender %q", q.Device)
	}
	s, err := group.ParseSender(s.Append(nil))
	if err != nil {
		return nil, err
	}
	g.senders[q.Device] = s
	if q.Op == "group-distribution" {
		return reply{"body": s.Distribution()}, nil
	}
	random, err := q.random()
	if err != nil {
		return nil, err
	}
	var body []byte
	for range max(1, q.Iterations) { // all but the last one are lost
		if body, err = s.Encrypt(random, q.Body); err != nil {
			return nil, err
		}
	}
	return reply{"body": body}, nil
}

func (g *groups) listen(q *request) (reply, error) {
	r := g.receivers[q.Device]
	if r == nil {
		return nil, fmt.Errorf("no receiver %q", q.Device)
	}
	r, err := group.ParseReceiver(r.Append(nil))
	if err != nil {
		return nil, err
	}
	if q.Op == "group-process" {
		err = r.Process(q.Body)
		g.receivers[q.Device] = r
		return reply{}, err
	}
	plaintext, err := r.Decrypt(q.Body)
	if err != nil {
		return nil, err
	}
	g.receivers[q.Device] = r
	return reply{"plaintext": plaintext}, nil
}

func distributionID(b []byte) (id group.ID, err error) {
	if len(b) != len(id) {
		return id, fmt.Errorf("a distribution of %d bytes", len(b))
	}
	return group.ID(b), nil
}
