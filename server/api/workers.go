package api

import "sync"

// workers run jobs on goroutines that come and go: a job never waits for
// another, and a goroutine that finished one waits for the next, so that its
// grown stack is used again. Idle sockets need none.
type workers struct {
	jobs chan func() // unbuffered: taken only by a goroutine that waits
	done chan struct{}
	idle chan struct{} // capacity: goroutines that may wait
	wait sync.WaitGroup
}

// maxIdleWorkers is how many goroutines wait for jobs at most.
const maxIdleWorkers = 64

func newWorkers() *workers {
	return &workers{jobs: make(chan func()), done: make(chan struct{}), idle: make(chan struct{}, maxIdleWorkers)}
}

// run starts job at once and never blocks.
func (w *workers) run(job func()) {
	select {
	case w.jobs <- job:
	default:
		w.wait.Go(func() { w.work(job) })
	}
}

func (w *workers) work(job func()) {
	for {
		job()
		job = nil // what it held may be freed
		select {
		case w.idle <- struct{}{}:
		default:
			return
		}
		select {
		case job = <-w.jobs:
			<-w.idle
		case <-w.done:
			return
		}
	}
}

// stop ends the goroutines that wait, and returns when all have ended. run
// must not be called any more.
func (w *workers) stop() {
	close(w.done)
	w.wait.Wait()
}
