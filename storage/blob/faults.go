package blob

import "sync"

// Step names a durable step.
type Step string

// The steps.
const (
	StepCreate     Step = "create"
	StepWrite      Step = "write"
	StepSync       Step = "sync"
	StepRename     Step = "rename"
	StepSyncFolder Step = "sync_folder"
	StepRemove     Step = "remove"
)

// Faults makes steps fail, in tests.
type Faults struct {
	mu   sync.Mutex // guards hook
	hook func(step Step, after bool) error
}

// Set installs what is asked before (after = false) and after each step. An
// error before keeps the step from happening, one after lets it happen and
// reports a failure. nil takes it away.
func (f *Faults) Set(hook func(step Step, after bool) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *Faults) ask(step Step, after bool) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(step, after)
}

// do takes one step.
func (s *Store) do(step Step, fn func() error) error {
	if err := s.faults.ask(step, false); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return s.faults.ask(step, true)
}
