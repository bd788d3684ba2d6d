// Package memvault keeps a vault's content in memory: Image is the ordered map
// that a vault on disk works on, Vault a complete vault for tests and for
// pages that forget everything when they close. It writes nothing anywhere.
package memvault

import (
	"slices"
	"sort"
	"strings"

	"github.com/clearbox-im/clearbox/clients/core"
)

// blockSize is the number of entries at which a block is split: small enough
// that inserting moves little, large enough that blocks stay few.
const blockSize = 512

// Image is an ordered map of keys to values. Its zero value is empty. Not safe
// for concurrent writing.
type Image struct {
	blocks [][]core.Entry // sorted, none empty
	count  int
	bytes  int64
}

// Len is the number of entries.
func (m *Image) Len() int { return m.count }

// Bytes is the length of all keys and values together.
func (m *Image) Bytes() int64 { return m.bytes }

// find gives the block that holds key or would, and the place in it.
func (m *Image) find(key string) (block, at int, found bool) {
	if len(m.blocks) == 0 {
		return 0, 0, false
	}
	// The last block whose first key is not greater.
	block = sort.Search(len(m.blocks), func(i int) bool { return m.blocks[i][0].Key > key }) - 1
	if block < 0 {
		block = 0
	}
	at, found = slices.BinarySearchFunc(m.blocks[block], key, func(e core.Entry, k string) int { return strings.Compare(e.Key, k) })
	return block, at, found
}

// Get gives the value of key.
func (m *Image) Get(key string) ([]byte, bool) {
	b, i, ok := m.find(key)
	if !ok {
		return nil, false
	}
	return m.blocks[b][i].Value, true
}

// Put sets the value of key and keeps value.
func (m *Image) Put(key string, value []byte) {
	b, i, ok := m.find(key)
	if ok {
		m.bytes += int64(len(value)) - int64(len(m.blocks[b][i].Value))
		m.blocks[b][i].Value = value
		return
	}
	m.count++
	m.bytes += int64(len(key) + len(value))
	if len(m.blocks) == 0 {
		m.blocks = [][]core.Entry{{{Key: key, Value: value}}}
		return
	}
	block := slices.Insert(m.blocks[b], i, core.Entry{Key: key, Value: value})
	m.blocks[b] = block
	if len(block) > blockSize {
		half := len(block) / 2
		right := append(make([]core.Entry, 0, blockSize+1), block[half:]...)
		clear(block[half:])
		m.blocks[b] = block[:half]
		m.blocks = slices.Insert(m.blocks, b+1, right)
	}
}

// Delete removes key and tells whether it was there.
func (m *Image) Delete(key string) bool {
	b, i, ok := m.find(key)
	if !ok {
		return false
	}
	m.count--
	m.bytes -= int64(len(key) + len(m.blocks[b][i].Value))
	m.blocks[b] = slices.Delete(m.blocks[b], i, i+1)
	if len(m.blocks[b]) == 0 {
		m.blocks = slices.Delete(m.blocks, b, b+1)
	}
	return true
}

// Ascend calls fn for every entry in order until it returns false.
func (m *Image) Ascend(fn func(core.Entry) bool) {
	for _, block := range m.blocks {
		for _, e := range block {
			if !fn(e) {
				return
			}
		}
	}
}

// bounds turns a range into a half-open interval of keys; end "" with open
// means no upper end.
func bounds(r core.Range) (start, end string, open bool) {
	start = r.Prefix
	if r.After != "" && r.After+"\x00" > start {
		start = r.After + "\x00" // the smallest key that is greater
	}
	end, open = prefixEnd(r.Prefix)
	if r.Before != "" && (open || r.Before < end) {
		end, open = r.Before, false
	}
	return start, end, open
}

// prefixEnd is the smallest key greater than all that begin with prefix.
func prefixEnd(prefix string) (end string, open bool) {
	b := []byte(prefix)
	for len(b) > 0 {
		if b[len(b)-1] < 0xff {
			b[len(b)-1]++
			return string(b), false
		}
		b = b[:len(b)-1]
	}
	return "", true
}

// walk calls fn for the entries of r in its order until fn returns false.
// Limit is the caller's.
func (m *Image) walk(r core.Range, fn func(core.Entry) bool) {
	start, end, open := bounds(r)
	if len(m.blocks) == 0 || !open && start >= end {
		return
	}
	if !r.Reverse {
		b, i, _ := m.find(start)
		for ; b < len(m.blocks); b, i = b+1, 0 {
			for ; i < len(m.blocks[b]); i++ {
				e := m.blocks[b][i]
				if !open && e.Key >= end || !fn(e) {
					return
				}
			}
		}
		return
	}
	b, i := len(m.blocks)-1, len(m.blocks[len(m.blocks)-1])
	if !open {
		b, i, _ = m.find(end)
	}
	for {
		for i--; i >= 0; i-- {
			e := m.blocks[b][i]
			if e.Key < start || !fn(e) {
				return
			}
		}
		if b--; b < 0 {
			return
		}
		i = len(m.blocks[b])
	}
}

// List gives the entries of r.
func (m *Image) List(r core.Range) []core.Entry {
	var out []core.Entry
	m.walk(r, func(e core.Entry) bool {
		out = append(out, e)
		return r.Limit == 0 || len(out) < r.Limit
	})
	return out
}
