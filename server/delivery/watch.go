package delivery

import (
	"context"
	"slices"
	"sync"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/storage"
)

// State is how far one message has come.
type State struct {
	ID    clearbox.MessageID
	State Status
	// Recipient and Devices are set in live events: whose server took the
	// message, and that person's device list version there.
	Recipient      clearbox.UserID
	DevicesVersion int64
}

// Status tells how far the principal's messages have come; unknown ids are
// StatusUnknown. Nobody learns about another's messages.
func (r *Router) Status(ctx context.Context, p auth.Principal, ids []clearbox.MessageID) ([]State, error) {
	var known map[clearbox.MessageID]storage.SubmissionState
	err := r.store.View(ctx, func(tx *storage.Tx) (err error) {
		known, err = tx.SubmissionStates(p.UserNo, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]State, len(ids))
	for i, id := range ids {
		out[i] = State{ID: id, State: StatusUnknown}
		if s, ok := known[id]; ok {
			out[i].State = Status(s)
		}
	}
	return out, nil
}

// Watch receives live states of one person's messages. They are news, not
// truth: what does not fit into the channel is dropped, Status has it.
type Watch struct {
	C      chan State // capacity 256: a burst of one federation batch
	r      *Router
	userNo int64
}

type watchers struct {
	mu     sync.RWMutex // guards byUser
	byUser map[int64][]*Watch
}

// StatusEvents opens a watch on the messages of a local person; Close it.
func (r *Router) StatusEvents(userNo int64) *Watch {
	w := &Watch{C: make(chan State, 256), r: r, userNo: userNo}
	r.watchers.mu.Lock()
	defer r.watchers.mu.Unlock()
	r.watchers.byUser[userNo] = append(r.watchers.byUser[userNo], w)
	return w
}

// Close ends the watch; its channel is left open and empty.
func (w *Watch) Close() {
	ws := &w.r.watchers
	ws.mu.Lock()
	defer ws.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(ws.byUser[w.userNo]), func(o *Watch) bool { return o == w })
	if len(list) == 0 {
		delete(ws.byUser, w.userNo)
	} else {
		ws.byUser[w.userNo] = list
	}
}

func (ws *watchers) tell(userNo int64, s State) {
	ws.mu.RLock()
	defer ws.mu.RUnlock()
	for _, w := range ws.byUser[userNo] {
		select {
		case w.C <- s:
		default:
		}
	}
}
