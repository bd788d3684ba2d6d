package presence

// Len is how many people the hub remembers.
func (h *Hub) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.people)
}
