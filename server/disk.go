package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/clearbox-im/clearbox"
)

// disk refuses new messages while less than the reserve is free, so that the
// mail that is there can still be delivered and deleted. The reserve is a
// courtesy: a disk that is really full is met by the store.
type disk struct {
	path    string
	reserve uint64 // bytes; 0: no reserve
	low     atomic.Bool
}

const diskEvery = 5 * time.Second

func (d *disk) admit() error {
	if d.low.Load() {
		return clearbox.Errorf(clearbox.CodeStoreFull, "the server's disk is nearly full")
	}
	return nil
}

func (d *disk) run(ctx context.Context) error {
	if d.reserve == 0 {
		return nil
	}
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		if free, ok := freeBytes(d.path); ok {
			d.low.Store(free < d.reserve)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
