package transport

import (
	"context"
	"errors"
	"sync"
	"time"
)

// attempt is one way to the same end.
type attempt[T any] struct {
	// after is the head start of the attempt before this one. It ends early when all attempts that were
	// begun have failed.
	after time.Duration
	try   func(context.Context) (T, error)
}

// outcome of a race.
type outcome[T any] struct {
	winner int     // index of the attempt that was ready first; -1 when all failed
	value  T       // what it gave
	begun  int     // how many attempts were begun
	errs   []error // of each attempt, nil where it won, was not begun or was still under way
}

// run makes the attempts until the first is ready. The others are cancelled,
// and what they give all the same is dropped. Each runs on a goroutine that wg
// counts; race does not wait for those that lost.
func race[T any](ctx context.Context, wg *sync.WaitGroup, attempts []attempt[T], drop func(T)) outcome[T] {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type ended struct {
		index int
		value T
		err   error
	}
	var (
		mu   sync.Mutex // guards over
		over bool
		ends = make(chan ended, len(attempts)) // capacity: each ends once
	)
	begin := func(i int) {
		wg.Go(func() {
			value, err := attempts[i].try(ctx)
			mu.Lock()
			late := over
			over = over || err == nil
			mu.Unlock()
			if err == nil && late {
				drop(value)
				return
			}
			ends <- ended{i, value, err}
		})
	}
	out := outcome[T]{winner: -1, errs: make([]error, len(attempts))}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failed := 0; failed < len(attempts); {
		select {
		case <-timer.C:
			if out.begun < len(attempts) {
				begin(out.begun)
				out.begun++
			}
			if out.begun < len(attempts) {
				timer.Reset(attempts[out.begun].after)
			}
		case e := <-ends:
			if e.err == nil {
				out.winner, out.value = e.index, e.value
				return out
			}
			out.errs[e.index] = e.err
			if failed++; failed == out.begun {
				timer.Reset(0)
			}
		}
	}
	return out
}

// err is why all attempts failed; the last one's reason is the most telling.
func (o *outcome[T]) err() error {
	for i := len(o.errs) - 1; i >= 0; i-- {
		if o.errs[i] != nil {
			return o.errs[i]
		}
	}
	return errors.New("there was nothing to try")
}
