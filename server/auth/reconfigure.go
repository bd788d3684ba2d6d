package auth

import "time"

// rules are the options that may change while the server runs. They are
// replaced as a whole.
type rules struct {
	mode      Mode
	inviteTTL time.Duration
	notice    Notice
}

// Reconfigure changes who may register, how long invites last (0: as before)
// and the privacy notice. Whoever acknowledged another notice is asked anew,
// and consents given under it count as not granted until they are renewed.
func (s *Service) Reconfigure(mode Mode, inviteTTL time.Duration, notice Notice) {
	now := *s.rules.Load()
	now.mode, now.notice = mode, notice
	if inviteTTL > 0 {
		now.inviteTTL = inviteTTL
	}
	s.rules.Store(&now)
}

// Mode tells who may register.
func (s *Service) Mode() Mode { return s.rules.Load().mode }

// Notice is the privacy notice in force.
func (s *Service) Notice() Notice { return s.rules.Load().notice }
