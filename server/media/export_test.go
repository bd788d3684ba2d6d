package media

import "context"

// ExpireNow is what Run does every minute.
func (s *Service) ExpireNow(ctx context.Context) { s.expire(ctx) }

// SweepNow is what Run does every hour.
func (s *Service) SweepNow(ctx context.Context) { s.sweep(ctx) }
