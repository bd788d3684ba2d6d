package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
)

// assign gives a scalar its value from text and checks what the tags demand. It
// returns what is wrong and what to do, or two empty texts. A wrong value is not
// assigned.
func assign(k Key, v reflect.Value, text string) (what, hint string) {
	switch k.Kind {
	case KindText:
		return assignText(k, v, text)
	case KindBool:
		if text != "true" && text != "false" {
			return fmt.Sprintf("expected true or false, found %q", shorten(text)), ""
		}
		v.SetBool(text == "true")
		return "", ""
	case KindNumber:
		n, ok := decimal(text)
		if !ok {
			return fmt.Sprintf("expected a whole number in decimal digits, found %q", shorten(text)), ""
		}
		return assignInt(k, v, n, func(bound string) int64 { b, _ := decimal(bound); return b })
	case KindDuration:
		d, err := ParseDuration(text)
		if err != nil {
			return err.Error(), ""
		}
		return assignInt(k, v, int64(d), func(bound string) int64 { b, _ := ParseDuration(bound); return int64(b) })
	case KindSize:
		s, err := ParseSize(text)
		if err != nil {
			return err.Error(), ""
		}
		return assignInt(k, v, int64(s), func(bound string) int64 { b, _ := ParseSize(bound); return int64(b) })
	}
	return "cannot be given as one text", ""
}

func assignText(k Key, v reflect.Value, text string) (what, hint string) {
	if strings.TrimSpace(text) == "" {
		return "is empty", "give it a value, or remove the line"
	}
	for _, l := range k.Later {
		if text == l {
			return fmt.Sprintf("%q is not available yet; it comes with a later release", text), "use " + orList(k.Enum)
		}
	}
	if len(k.Enum) > 0 && !contains(k.Enum, text) {
		hint := ""
		if near := nearest(text, k.Enum); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return fmt.Sprintf("expected %s, found %q", orList(k.Enum), shorten(text)), hint
	}
	if v.Type() == reflect.TypeFor[clearbox.ServerName]() {
		if _, err := clearbox.ParseServerName(text); err != nil {
			return err.Error(), ""
		}
	}
	if k.File && strings.ContainsRune(text, 0) {
		return "is not a path", ""
	}
	v.SetString(text)
	return "", ""
}

func assignInt(k Key, v reflect.Value, n int64, bound func(string) int64) (what, hint string) {
	if k.Min != "" && n < bound(k.Min) {
		return "is too small", fmt.Sprintf("the least is %s", k.Min)
	}
	if k.Max != "" && n > bound(k.Max) {
		return "is too large", fmt.Sprintf("the most is %s", k.Max)
	}
	v.SetInt(n)
	return "", ""
}

// decimal refuses what YAML dialects read differently: 0x1f, 007, 1_000.
func decimal(s string) (int64, bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// expected names a kind as a person would.
func expected(k Key) string {
	switch k.Kind {
	case KindText:
		if len(k.Enum) > 0 {
			return orList(k.Enum)
		}
		return "text"
	case KindNumber:
		return "a whole number"
	case KindDuration:
		return "a duration with a unit, such as " + sample(k, FormatDuration(15*time.Minute))
	case KindSize:
		return "a size with a unit, such as " + sample(k, (256*MiB).String())
	}
	return string(k.Kind)
}

func sample(k Key, otherwise string) string {
	if k.Default != "" {
		return k.Default
	}
	return otherwise
}

func orList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
