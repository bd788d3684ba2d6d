package group

// Lose passes over n messages, as if they had been encrypted and lost.
func (s *Sender) Lose(n int) {
	for range n {
		s.chain.step()
	}
}

// Exhaust moves the chain to its last number.
func (s *Sender) Exhaust() { s.chain.next = 1<<32 - 2 }

// SetChain gives the chain another number.
func (s *Sender) SetChain(number uint32) { s.number = number }

// Kept returns how many keys are kept for each chain, newest first.
func (r *Receiver) Kept() []int {
	var all []int
	for _, s := range r.states {
		all = append(all, len(s.kept)/keptSize)
	}
	return all
}
