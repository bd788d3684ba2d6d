package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written with a unit such as 256MiB.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// String is the shortest exact form, such as 40MiB.
func (s Size) String() string {
	for _, u := range []struct {
		name string
		size Size
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// ParseSize accepts a whole number with one of B, KiB, MiB, GiB, TiB. The error
// says what is expected.
func ParseSize(text string) (Size, error) {
	const want = "expected a size with a unit, such as 256MiB (B, KiB, MiB, GiB, TiB)"
	digits := strings.TrimLeft(text, "0123456789")
	number, unit := text[:len(text)-len(digits)], strings.TrimSpace(digits)
	if number == "" {
		return 0, errors.New(want)
	}
	var one Size
	switch unit {
	case "B":
		one = 1
	case "KiB":
		one = KiB
	case "MiB":
		one = MiB
	case "GiB":
		one = GiB
	case "TiB":
		one = TiB
	case "":
		return 0, fmt.Errorf("%s has no unit; %s", number, want)
	case "k", "K", "KB", "kB", "kb", "m", "M", "MB", "mb", "g", "G", "GB", "gb", "t", "T", "TB", "tb", "kib", "mib", "gib", "tib":
		return 0, fmt.Errorf("the unit %q is ambiguous; write %s%siB", unit, number, strings.ToUpper(unit[:1]))
	default:
		return 0, fmt.Errorf("unknown unit %q; %s", unit, want)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/int64(one) {
		return 0, errors.New("the size is too large")
	}
	return Size(n) * one, nil
}

// ParseDuration accepts whole numbers with units, largest first, such as 15m,
// 1h30m or 30d. A day has 24 hours. The error says what is expected.
func ParseDuration(text string) (time.Duration, error) {
	const want = "expected a duration with a unit, such as 15m (ms, s, m, h, d)"
	if text == "" {
		return 0, errors.New(want)
	}
	var total, last time.Duration
	for rest := text; rest != ""; {
		after := strings.TrimLeft(rest, "0123456789")
		number := rest[:len(rest)-len(after)]
		if number == "" {
			return 0, errors.New(want)
		}
		rest = strings.TrimLeft(after, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
		unit := after[:len(after)-len(rest)]
		one, ok := durationUnit(unit)
		if unit == "" && rest == "" {
			return 0, fmt.Errorf("%s has no unit; %s", number, want)
		}
		if !ok || last != 0 && one >= last {
			return 0, errors.New(want)
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/one) {
			return 0, errors.New("the duration is too long")
		}
		total += time.Duration(n) * one
		last = one
	}
	return total, nil
}

func durationUnit(unit string) (time.Duration, bool) {
	switch unit {
	case "ms":
		return time.Millisecond, true
	case "s":
		return time.Second, true
	case "m":
		return time.Minute, true
	case "h":
		return time.Hour, true
	case "d":
		return 24 * time.Hour, true
	}
	return 0, false
}

// FormatDuration is the form that ParseDuration reads, such as 30d or 1h30m;
// fractions of a millisecond are dropped.
func FormatDuration(d time.Duration) string {
	if d < time.Millisecond {
		return "0s"
	}
	var b strings.Builder
	for _, unit := range []string{"d", "h", "m", "s", "ms"} {
		one, _ := durationUnit(unit)
		if n := d / one; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit)
			d -= n * one
		}
	}
	return b.String()
}
