package logging

import (
	"context"
	"log/slog"
	"time"
)

// stamped gives every line the time of the clock that was handed in.
type stamped struct {
	slog.Handler
	now func() time.Time
}

func (s stamped) Handle(ctx context.Context, r slog.Record) error {
	r.Time = s.now().UTC()
	return s.Handler.Handle(ctx, r)
}

func (s stamped) WithAttrs(attrs []slog.Attr) slog.Handler {
	return stamped{s.Handler.WithAttrs(attrs), s.now}
}

func (s stamped) WithGroup(name string) slog.Handler {
	return stamped{s.Handler.WithGroup(name), s.now}
}
