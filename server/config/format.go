package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// formatValue is a scalar or a list of texts as one line of YAML.
func formatValue(v reflect.Value) string {
	switch kindOf(v.Type()) {
	case KindDuration:
		return FormatDuration(time.Duration(v.Int()))
	case KindSize:
		return Size(v.Int()).String()
	case KindText:
		return quote(v.String())
	case KindBool:
		return strconv.FormatBool(v.Bool())
	case KindNumber:
		return strconv.FormatInt(v.Int(), 10)
	case KindTexts:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = quote(v.Index(i).String())
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return ""
}

// quote writes a text plainly where YAML reads it back as the same text, else
// in double quotes, whose escapes YAML shares with Go for what can occur here.
func quote(s string) string {
	plain := s != "" && !strings.ContainsAny(s[:1], "-.0123456789+~")
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-@+", r)
		plain = plain && ok
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
