package delivery

import (
	"context"
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

// watchers are told live states of one person's messages. They are news, not
// truth: what a watcher drops, Status has.
type watchers struct {
	mu     sync.RWMutex // guards byUser
	byUser map[int64]map[*func(State)]struct{}
}

// OnState has tell called with live states of a local person's messages until
// stop is called. tell must not block.
func (r *Router) OnState(userNo int64, tell func(State)) (stop func()) {
	ws, key := &r.watchers, &tell
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.byUser[userNo] == nil {
		ws.byUser[userNo] = map[*func(State)]struct{}{}
	}
	ws.byUser[userNo][key] = struct{}{}
	return func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		delete(ws.byUser[userNo], key)
		if len(ws.byUser[userNo]) == 0 {
			delete(ws.byUser, userNo)
		}
	}
}

func (ws *watchers) tell(userNo int64, s State) {
	ws.mu.RLock()
	defer ws.mu.RUnlock()
	for tell := range ws.byUser[userNo] {
		(*tell)(s)
	}
}
