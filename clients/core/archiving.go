package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// backUp uploads what is due.
func (b *Brain) backUp(ctx context.Context, s *self, k *archiveKeys, st *archiveState) error {
	due, _, err := b.dueRecords(ctx)
	if err != nil {
		return err
	}
	if len(due) == 0 && st.Account != "" && bytes.Equal(st.List, s.List) && st.Problem == "" {
		return nil
	}
	if ok, err := b.headIsThere(ctx, st); err != nil {
		return err
	} else if !ok {
		// The server was put back to an older state, or hides what it took.
		st.Lost = true
		if err := b.renewChain(ctx, st); err != nil {
			return err
		}
	} else if st.Next >= b.most.chain {
		if err := b.renewChain(ctx, st); err != nil {
			return err
		}
	}
	for {
		records, marks, err := b.dueRecords(ctx)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			break
		}
		if err := b.uploadItem(ctx, s, k, st, records, marks); err != nil {
			return err
		}
	}
	return b.uploadAccount(ctx, s, k, st)
}

// renewChain makes st the state of a new chain.
func (b *Brain) renewChain(ctx context.Context, st *archiveState) error {
	return b.vault.Update(ctx, func(tx Tx) error {
		next, err := b.newChain(tx, st)
		if err == nil {
			*st = *next
		}
		return err
	})
}

// dropChain deletes the chain that st's took the place of.
func (b *Brain) dropChain(ctx context.Context, st *archiveState) error {
	for index := uint64(0); index < st.OldNext; {
		query := url.Values{}
		for ; index < st.OldNext && len(query["id"]) < dropItems; index++ {
			query.Add("id", chainItem(st.Old, index))
		}
		if err := b.call(ctx, "DELETE", "/messages/history?"+query.Encode(), nil, nil); err != nil {
			return err
		}
	}
	st.Old, st.OldNext = nil, 0
	return b.vault.Update(ctx, func(tx Tx) error { return save(tx, keyArchiveState, st) })
}

// dueRecords gives the next records to archive, with their marks.
func (b *Brain) dueRecords(ctx context.Context) (records []record, marks []Entry, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		records, marks = nil, nil
		dirty, err := r.List(Range{Prefix: prefixDirty, Limit: 1000})
		if err != nil {
			return err
		}
		size := 0
		for _, e := range dirty {
			key := e.Key[len(prefixDirty):]
			value, err := optional(r.Get(key))
			if err != nil {
				return err
			}
			if size += len(key) + len(value) + 16; size > itemBytes && len(records) > 0 {
				return nil
			}
			if transient(key, value) {
				value = nil
			}
			records, marks = append(records, record{key, value}), append(marks, e)
		}
		return nil
	})
	return records, marks, err
}

// headIsThere tells whether the server still has the end of the own chain.
func (b *Brain) headIsThere(ctx context.Context, st *archiveState) (bool, error) {
	if st.Next == 0 {
		return true, nil
	}
	id, cursor := chainItem(st.Chain, st.Next-1), ""
	for range checkPages {
		page, err := b.historyPage(ctx, "", cursor, "backward", checkItems)
		if err != nil {
			return false, err
		}
		for _, it := range page.Items {
			if it.ID == id {
				sum := sha256.Sum256(it.Body)
				return bytes.Equal(sum[:], st.Head), nil
			}
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	return false, nil
}

// historyPage asks for a page of the archive, with token where there is no session.
func (b *Brain) historyPage(ctx context.Context, token, cursor, direction string, limit int) (*wire.HistoryPage, error) {
	path := fmt.Sprintf("/messages/history?direction=%s&limit=%d", direction, limit)
	if cursor != "" {
		path += "&cursor=" + url.QueryEscape(cursor)
	}
	page := new(wire.HistoryPage)
	if token != "" {
		return page, b.exchange(ctx, "GET", path, token, nil, page)
	}
	return page, b.call(ctx, "GET", path, nil, page)
}

// uploadItem adds an item to the own chain.
func (b *Brain) uploadItem(ctx context.Context, s *self, k *archiveKeys, st *archiveState, records []record, marks []Entry) error {
	id := chainItem(st.Chain, st.Next)
	head, err := recordOut.Marshal(&itemHead{Chain: st.Chain, Index: st.Next, Before: st.Head, Device: s.Device, At: b.now()})
	if err != nil {
		return err
	}
	var body bytes.Buffer
	w, err := vault.NewWriter(&body, b.opts.Random, k.Archive, vault.Header{Kind: vault.KindArchive}, itemContext(s.User, id))
	if err != nil {
		return err
	}
	if err := errors.Join(w.WriteFrame(head), writeRecords(w, records), w.Close()); err != nil {
		return err
	}
	if err := b.storeItem(ctx, id, st.Chain, body.Bytes()); err != nil {
		return err
	}
	sum := sha256.Sum256(body.Bytes())
	st.Next, st.Head, st.Problem = st.Next+1, sum[:], ""
	return b.vault.Update(ctx, func(tx Tx) error {
		for _, e := range marks {
			now, err := optional(tx.Get(e.Key))
			if err != nil {
				return err
			}
			if bytes.Equal(now, e.Value) { // else it changed meanwhile
				if err := tx.Delete(e.Key); err != nil {
					return err
				}
			}
		}
		return save(tx, keyArchiveState, st)
	})
}

func (b *Brain) storeItem(ctx context.Context, id string, about, body []byte) error {
	in := wire.HistoryUpload{Items: []wire.HistoryItem{{ID: id, Conversation: about, Body: body}}}
	return b.call(ctx, "POST", "/messages/history", in, new(wire.HistoryStored))
}

// uploadAccount uploads the account's keys with the end of the chain, in place of
// the account item before.
func (b *Brain) uploadAccount(ctx context.Context, s *self, k *archiveKeys, st *archiveState) error {
	it := accountItem{
		User: s.User, Handle: s.Handle, Identity: s.Identity, Root: s.Root, List: s.List,
		Device: s.Device, Chain: st.Chain, Next: st.Next, Head: st.Head, At: b.now(),
	}
	err := b.vault.View(ctx, func(r Reader) error {
		token, err := load[ownToken](r, keyOwnToken)
		if err != nil {
			return err
		}
		if token != nil {
			it.Token = token.Token
		}
		all, err := loadRenewals(r)
		if err != nil {
			return err
		}
		for _, m := range all.All {
			it.Coming = append(it.Coming, m.Identity)
		}
		it.Order, err = count(r, keyOrder)
		return err
	})
	if err != nil {
		return err
	}
	frame, err := recordOut.Marshal(&it)
	if err != nil {
		return err
	}
	number := make([]byte, 16)
	if _, err := io.ReadFull(b.opts.Random, number); err != nil {
		return err
	}
	id := itemAccount + hex.EncodeToString(number)
	var body bytes.Buffer
	w, err := vault.NewWriter(&body, b.opts.Random, k.Account, vault.Header{Kind: vault.KindAccount}, []byte("clearbox account\x00"+id))
	if err != nil {
		return err
	}
	if err := errors.Join(w.WriteFrame(frame), w.Close()); err != nil {
		return err
	}
	if err := b.storeItem(ctx, id, st.Chain, body.Bytes()); err != nil {
		return err
	}
	before := st.Account
	st.Account, st.At, st.List, st.Problem = id, it.At, s.List, ""
	if err := b.vault.Update(ctx, func(tx Tx) error { return save(tx, keyArchiveState, st) }); err != nil {
		return err
	}
	b.changed()
	if before != "" {
		if err := b.call(ctx, "DELETE", "/messages/history?id="+url.QueryEscape(before), nil, nil); err != nil {
			return err
		}
	}
	if st.Old == nil {
		return nil
	}
	return b.dropChain(ctx, st)
}

// transient tells whether a record is not for the archive: messages that disappear.
func transient(key string, value []byte) bool {
	if !strings.HasPrefix(key, prefixMsg) || value == nil {
		return false
	}
	m, err := parse[Message](value)
	return err == nil && m.written() && m.Expires > 0
}
