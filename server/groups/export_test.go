package groups

import "context"

// Follow looks once at what has arrived.
func (s *Service) Follow(ctx context.Context) (int, error) { return s.follow(ctx) }
