package core_test

import (
	"bytes"
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/clients/core"
	"github.com/clearbox-im/clearbox/server/wire"
)

// linkRoom is where two devices meet.
type linkRoom struct {
	account clearbox.UserID
	said    map[string][][]byte // by side
}

// serveRooms answers what has to do with linking; false for other paths. A session
// is needed for one side only.
func (w *world) serveRooms(ctx context.Context, server clearbox.ServerName, req core.Request) (out any, err error, ok bool) {
	path, query, _ := strings.Cut(req.Path, "?")
	rest, ok := strings.CutPrefix(path, "/devices/link")
	if !ok {
		return nil, nil, false
	}
	if rest == "" {
		in, err := decode[wire.LinkOpen](req.Body)
		if err != nil {
			return nil, err, true
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.relay != nil {
			in.Body = w.relay("new", 1, in.Body)
		}
		w.rooms[in.ID.String()] = &linkRoom{said: map[string][][]byte{"new": {in.Body}}}
		return &wire.LinkOpened{Expires: millis(time.Now().Add(10 * time.Minute))}, nil, true
	}
	id, side, _ := strings.Cut(rest[1:], "/")
	w.mu.Lock()
	r, s := w.rooms[id], w.access[req.Token]
	w.mu.Unlock()
	if r == nil {
		return nil, refusal(clearbox.CodeNotFound), true
	}
	if own := (side == "old") == (req.Method == "POST"); side != "session" && own && s == nil {
		return nil, refusal(clearbox.CodeUnauthorized), true
	}
	if side == "session" {
		out, err := w.linkSession(r, server, req.Body)
		return out, err, true
	}
	if req.Method == "POST" {
		return nil, w.say(r, s, side, req.Body), true
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err, true
	}
	after, err := strconv.Atoi(values.Get("after"))
	if err != nil {
		return nil, err, true
	}
	for range 2500 {
		w.mu.Lock()
		got := wire.LinkMessages{Messages: []wire.LinkMessage{}}
		for i, body := range r.said[side] {
			if i >= after && len(got.Messages) < 4 {
				got.Messages = append(got.Messages, wire.LinkMessage{N: int64(i + 1), Body: body})
			}
		}
		w.mu.Unlock()
		if len(got.Messages) > 0 {
			return &got, nil, true
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err(), true
		}
	}
	return &wire.LinkMessages{Messages: []wire.LinkMessage{}}, nil, true
}

func (w *world) say(r *linkRoom, s *session, side string, body []byte) error {
	in, err := decode[wire.LinkMessage](body)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s != nil && side == "old" {
		r.account = s.user
	}
	if int(in.N) == len(r.said[side]) {
		return nil // the answer was lost
	}
	if int(in.N) != len(r.said[side])+1 {
		return refusal(clearbox.CodeConflict)
	}
	if w.relay != nil {
		in.Body = w.relay(side, int(in.N), in.Body)
	}
	r.said[side] = append(r.said[side], in.Body)
	return nil
}

func (w *world) linkSession(r *linkRoom, server clearbox.ServerName, body []byte) (any, error) {
	in, err := decode[wire.LinkSession](body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begin(server, r.account, &in.Device)
}

// serveHistory answers what has to do with the archive; false for other paths.
func (w *world) serveHistory(s *session, method, path, query string, body []byte) (out any, err error, ok bool) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	acc := w.accounts[s.user]
	switch method + " " + path {
	case "PUT /me/consents/history_archive":
		acc.archiving = true
		return &wire.Consent{Purpose: "history_archive", Granted: true}, nil, true
	case "DELETE /me/consents/history_archive":
		acc.archiving = false
		return &wire.Consent{Purpose: "history_archive"}, nil, true
	case "POST /messages/history":
		in, err := decode[wire.HistoryUpload](body)
		if err != nil {
			return nil, err, true
		}
		if !acc.archiving {
			return nil, refusal(clearbox.CodeConsentRequired), true
		}
		for _, it := range in.Items {
			if !slices.ContainsFunc(acc.archive, func(h wire.HistoryItem) bool { return h.ID == it.ID }) {
				it.Seq = int64(len(acc.archive) + 1)
				acc.archive = append(acc.archive, it)
			}
		}
		return &wire.HistoryStored{Items: int64(len(acc.archive))}, nil, true
	case "DELETE /messages/history":
		acc.archive = slices.DeleteFunc(acc.archive, func(h wire.HistoryItem) bool {
			return values.Get("all") == "true" || slices.Contains(values["id"], h.ID)
		})
		return &wire.HistoryDeleted{}, nil, true
	case "GET /messages/history":
		return acc.page(values), nil, true
	}
	return nil, nil, false
}

func (a *account) page(values url.Values) *wire.HistoryPage {
	all := slices.Clone(a.archive)
	if values.Get("direction") == "backward" {
		slices.Reverse(all)
	}
	from, _ := strconv.Atoi(values.Get("cursor"))
	limit, _ := strconv.Atoi(values.Get("limit"))
	page := &wire.HistoryPage{Items: []wire.HistoryItem{}}
	for i := from; i < len(all) && i < from+limit; i++ {
		page.Items = append(page.Items, all[i])
	}
	if from+limit < len(all) {
		page.Next = strconv.Itoa(from + limit)
	}
	return page
}

// altered flips a bit of a copy.
func altered(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}
