package directory

import "context"

// FetchAhead is what Run does every minute.
func (s *Service) FetchAhead(ctx context.Context) { s.fetchAhead(ctx) }
