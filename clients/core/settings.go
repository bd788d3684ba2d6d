package core

import "context"

// Settings are what a person chose for all conversations.
type Settings struct {
	// ReadReceipts tells accepted contacts when their messages were read. It is
	// off until somebody wants it.
	ReadReceipts bool `cbor:"1,keyasint,omitempty"`
}

func settingsOf(r Reader) (*Settings, error) {
	s, err := load[Settings](r, keySettings)
	if s == nil && err == nil {
		s = new(Settings)
	}
	return s, err
}

// Settings gives what the person chose.
func (b *Brain) Settings(ctx context.Context) (out Settings, err error) {
	err = b.vault.View(ctx, func(r Reader) error {
		s, err := settingsOf(r)
		if err == nil {
			out = *s
		}
		return err
	})
	return out, err
}

// SetSettings stores what the person chose.
func (b *Brain) SetSettings(ctx context.Context, s Settings) error {
	err := b.vault.Update(ctx, func(tx Tx) error { return save(tx, keySettings, s) })
	if err == nil {
		b.changed()
	}
	return err
}
