package memvault

import (
	"slices"
	"strings"

	"github.com/clearbox-im/clearbox/clients/core"
)

// Op is one change of a transaction: a value, or a deletion when Delete is set.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Tx collects changes over an Image without touching it, and reads through
// them. It implements core.Tx. Not safe for concurrent use.
type Tx struct {
	image *Image
	ops   map[string]Op
}

// NewTx begins a transaction over image.
func NewTx(image *Image) *Tx { return &Tx{image: image, ops: map[string]Op{}} }

// Get implements core.Reader.
func (t *Tx) Get(key string) ([]byte, error) {
	if op, ok := t.ops[key]; ok {
		if op.Delete {
			return nil, core.ErrNoValue
		}
		return op.Value, nil
	}
	if v, ok := t.image.Get(key); ok {
		return v, nil
	}
	return nil, core.ErrNoValue
}

// Put implements core.Tx.
func (t *Tx) Put(key string, value []byte) error {
	t.ops[key] = Op{Key: key, Value: value}
	return nil
}

// Delete implements core.Tx.
func (t *Tx) Delete(key string) error {
	if _, ok := t.image.Get(key); ok {
		t.ops[key] = Op{Key: key, Delete: true}
	} else {
		delete(t.ops, key)
	}
	return nil
}

// List implements core.Reader: the image's entries and the transaction's own
// ones merged in order.
func (t *Tx) List(r core.Range) ([]core.Entry, error) {
	start, end, open := bounds(r)
	var own []string
	for key := range t.ops {
		if key >= start && (open || key < end) {
			own = append(own, key)
		}
	}
	if len(own) == 0 {
		return t.image.List(r), nil
	}
	slices.Sort(own)
	if r.Reverse {
		slices.Reverse(own)
	}
	before := func(a, b string) bool {
		if r.Reverse {
			a, b = b, a
		}
		return strings.Compare(a, b) < 0
	}
	var out []core.Entry
	full := func() bool { return r.Limit > 0 && len(out) >= r.Limit }
	flush := func(until string, all bool) {
		for len(own) > 0 && !full() && (all || before(own[0], until)) {
			if op := t.ops[own[0]]; !op.Delete {
				out = append(out, core.Entry{Key: op.Key, Value: op.Value})
			}
			own = own[1:]
		}
	}
	t.image.walk(r, func(e core.Entry) bool {
		flush(e.Key, false)
		if full() {
			return false
		}
		if _, overlaid := t.ops[e.Key]; !overlaid {
			out = append(out, e)
		}
		return !full()
	})
	flush("", true)
	return out, nil
}

// Ops gives the changes in order of their keys.
func (t *Tx) Ops() []Op {
	out := make([]Op, 0, len(t.ops))
	for _, op := range t.ops {
		out = append(out, op)
	}
	slices.SortFunc(out, func(a, b Op) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Apply carries changes out.
func (m *Image) Apply(ops []Op) {
	for _, op := range ops {
		if op.Delete {
			m.Delete(op.Key)
		} else {
			m.Put(op.Key, op.Value)
		}
	}
}
