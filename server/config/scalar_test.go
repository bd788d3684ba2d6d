package config_test

import (
	"testing"
	"time"

	"github.com/clearbox-im/clearbox/server/config"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "15m": 15 * time.Minute, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "1d2h3m4s5ms": 26*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Millisecond,
	} {
		got, err := config.ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v", text, got, err)
		}
		if back := config.FormatDuration(got); back != text {
			t.Errorf("FormatDuration(%v) = %q, want %q", got, back, text)
		}
	}
	for _, text := range []string{"", "15", "m", "15 m", "1.5h", "-1h", "1m1h", "1m1m", "15min", "1h30", "999999999999999999d", "200000d", "99999999999999999999s", "1h ", "١m"} {
		if got, err := config.ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]config.Size{"0B": 0, "1B": 1, "1023B": 1023, "1KiB": 1024, "256MiB": 256 << 20, "3GiB": 3 << 30, "1TiB": 1 << 40} {
		got, err := config.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v", text, got, err)
		}
		if back := got.String(); back != text {
			t.Errorf("%d prints as %q, want %q", got, back, text)
		}
	}
	for _, text := range []string{"", "1", "KiB", "1.5MiB", "-1B", "1MB", "1k", "9223372036854775808B", "8388608TiB", "1 2B", "1MiBx"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %v, want an error", text, got)
		}
	}
}
