package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Render writes c as a commented file. Keys that differ from their default are
// set; the others stand there with their default, or an example, behind a #, so
// that a later release may improve a default.
func Render(w io.Writer, c *Config) error {
	r := renderer{schema: newSchemaIndex(), config: reflect.ValueOf(c).Elem(), defaults: reflect.ValueOf(Default()).Elem()}
	r.out.WriteString(`# The configuration of a ClearBox homeserver.
#
# Lines of the form "#key: value" show the default, or an example where there
# is none. Durations have a unit (ms, s, m, h, d), sizes too (B, KiB, MiB, GiB,
# TiB). Relative paths start at the folder of this file. Each key can be
# overridden by an environment variable: log.level by CLEARBOX_LOG_LEVEL.
# Check changes with ` + "`clearbox config check`" + `; apply them with SIGHUP or, for
# keys marked (restart), by restarting.
`)
	for _, k := range r.schema.keys {
		if strings.Contains(k.Path, "[]") {
			continue
		}
		r.key(k)
	}
	_, err := io.WriteString(w, r.out.String())
	return err
}

// Example is config.example.yaml.
func Example() []byte {
	c := Default()
	for _, k := range Schema() {
		if k.Required && !strings.Contains(k.Path, "[]") {
			reflect.ValueOf(c).Elem().FieldByIndex(k.index).SetString(k.Example)
		}
	}
	var b strings.Builder
	if err := Render(&b, c); err != nil {
		panic("config: a strings.Builder failed: " + err.Error())
	}
	return []byte(b.String())
}

type renderer struct {
	out              strings.Builder
	schema           schemaIndex
	config, defaults reflect.Value
}

func (r *renderer) key(k Key) {
	indent := strings.Repeat("  ", strings.Count(k.Path, "."))
	name := k.Path[strings.LastIndexByte(k.Path, '.')+1:]
	if k.Kind == KindSection {
		r.out.WriteByte('\n')
	}
	doc := k.Doc
	if k.Kind != KindSection && !k.Reload {
		doc += " (restart)"
	}
	for _, line := range wrap(doc, 78-len(indent)) {
		fmt.Fprintf(&r.out, "%s# %s\n", indent, line)
	}
	switch k.Kind {
	case KindSection:
		fmt.Fprintf(&r.out, "%s%s:\n", indent, name)
	case KindSections:
		r.list(k, indent, name)
	default:
		v := r.config.FieldByIndex(k.index)
		if !reflect.DeepEqual(v.Interface(), r.defaults.FieldByIndex(k.index).Interface()) {
			fmt.Fprintf(&r.out, "%s%s: %s\n", indent, name, formatValue(v))
			return
		}
		shown := k.Default
		if shown == "" {
			shown = exampleValue(k)
		}
		fmt.Fprintf(&r.out, "%s#%s: %s\n", indent, name, shown)
	}
}

// list writes the items that are set, or one commented example with its manual.
func (r *renderer) list(k Key, indent, name string) {
	items := r.config.FieldByIndex(k.index)
	fields := r.itemKeys(k)
	if items.Len() == 0 {
		fmt.Fprintf(&r.out, "%s#%s:\n", indent, name)
		for i, f := range fields {
			for _, line := range wrap(f.Doc, 72-len(indent)) {
				fmt.Fprintf(&r.out, "%s#    # %s\n", indent, line)
			}
			lead := "    "
			if i == 0 {
				lead = "  - "
			}
			shown := exampleValue(f)
			if f.Kind == KindBool {
				shown = "false"
			}
			fmt.Fprintf(&r.out, "%s#%s%s: %s\n", indent, lead, itemName(f), shown)
		}
		return
	}
	fmt.Fprintf(&r.out, "%s%s:\n", indent, name)
	for i := range items.Len() {
		lead := "  - "
		for _, f := range fields {
			if v := items.Index(i).FieldByIndex(f.index); !v.IsZero() {
				fmt.Fprintf(&r.out, "%s%s%s: %s\n", indent, lead, itemName(f), formatValue(v))
				lead = "    "
			}
		}
	}
}

func (r *renderer) itemKeys(list Key) []Key {
	var keys []Key
	for _, k := range r.schema.keys {
		if strings.HasPrefix(k.Path, list.Path+"[].") {
			keys = append(keys, k)
		}
	}
	return keys
}

func itemName(k Key) string { return k.Path[strings.LastIndexByte(k.Path, '.')+1:] }

// exampleValue is the example as YAML; those of texts are written bare in the tag.
func exampleValue(k Key) string {
	if k.Kind == KindText {
		return quote(k.Example)
	}
	return k.Example
}

// wrap breaks text into lines of at most width characters, at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// Setting is one key with its value in force.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"` // as written in YAML
	Origin Origin `json:"origin"`
}

// Effective lists every key with its value and origin, in the order of the
// file. Nothing needs masking: secrets are in files, and only their paths are
// configuration.
func (l *Loaded) Effective() []Setting {
	var settings []Setting
	for _, k := range Schema() {
		if k.Kind == KindSection || strings.Contains(k.Path, "[]") {
			continue
		}
		from, set := l.Origins[k.Path]
		if !set {
			from = Origin{Kind: "default"}
		}
		v := reflect.ValueOf(l.Config).Elem().FieldByIndex(k.index)
		value := ""
		switch {
		case k.Kind == KindSections:
			value = fmt.Sprintf("%d items", v.Len())
			if v.Len() == 1 {
				value = "1 item"
			}
		default:
			value = formatValue(v)
		}
		settings = append(settings, Setting{Key: k.Path, Value: value, Origin: from})
	}
	return settings
}

// Explain is the manual page of a key or a section, as text. It returns false
// when there is no such key; Nearest then helps.
func Explain(path string) (string, bool) {
	s := newSchemaIndex()
	k, ok := s.byPath[path]
	if !ok {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n", k.Path, k.Kind)
	for _, line := range wrap(k.Doc, 76) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if k.Kind == KindSection || k.Kind == KindSections {
		b.WriteString("\n")
		prefix := k.Path
		if k.Kind == KindSections {
			prefix += "[]"
		}
		for _, name := range s.children(prefix) {
			first, _, _ := strings.Cut(strings.ReplaceAll(s.byPath[prefix+"."+name].Doc, "\n", " "), ". ")
			fmt.Fprintf(&b, "  %-26s %s\n", name, strings.TrimSuffix(first, ".")+".")
		}
		return b.String(), true
	}
	b.WriteString("\n")
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-12s %s\n", name, value)
		}
	}
	if k.Required {
		row("required", "yes")
	}
	row("default", k.Default)
	row("allowed", strings.Join(k.Enum, ", "))
	if k.Min != "" {
		row("range", k.Min+" to "+k.Max)
	}
	if k.Default == "" {
		row("example", exampleValue(k))
	}
	row("variable", k.Env)
	if k.Secret {
		row("file", "readable by its owner only (mode 0600)")
	}
	if k.Reload {
		row("change", "applied by SIGHUP")
	} else {
		row("change", "needs a restart")
	}
	return b.String(), true
}
