package transport

import "time"

// How long a path counts as broken for HTTP/3 (federation.md, 6).
const (
	firstMark = 5 * time.Minute
	lastMark  = 24 * time.Hour
)

// mark says that HTTP/3 does not work towards one peer from one local network.
type mark struct {
	wait    time.Duration
	until   time.Time // then the path is probed; the mark stays until a probe succeeds
	cleared time.Time // of a probe that succeeded, zero while the mark stands
}

// set marks the path as broken from now on, for twice as long as the time
// before unless it has worked for longer than that in between.
func (m *mark) set(now time.Time) {
	if !m.cleared.IsZero() && now.Sub(m.cleared) > m.wait {
		m.wait = 0
	}
	m.wait = min(max(2*m.wait, firstMark), lastMark)
	m.until, m.cleared = now.Add(m.wait), time.Time{}
}

func (m *mark) clear(now time.Time) { m.cleared = now }

func (m *mark) standing() bool { return m != nil && m.cleared.IsZero() }

// due tells whether the path may be probed. A clock that was set back does not
// prolong a mark.
func (m *mark) due(now time.Time) bool {
	return m.standing() && (!now.Before(m.until) || m.until.Sub(now) > m.wait)
}
