package keystore

// Cached counts the persons in the cache.
func (k *Keystore) Cached() int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return len(k.cache)
}
