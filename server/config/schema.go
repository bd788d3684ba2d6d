package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Key describes one key of the configuration.
type Key struct {
	Path     string   `json:"key"`                // such as tokens.access; federation.peers[].pin for items of a list
	Doc      string   `json:"doc"`                // the comment of its field
	Kind     Kind     `json:"kind"`               //
	Default  string   `json:"default,omitempty"`  // as it is written in YAML; empty when there is none
	Example  string   `json:"example,omitempty"`  // as it is written in YAML; empty when there is none
	Enum     []string `json:"allowed,omitempty"`  // allowed values, if listed
	Later    []string `json:"later,omitempty"`    // values that are not available yet
	Min      string   `json:"min,omitempty"`      // as written
	Max      string   `json:"max,omitempty"`      // as written
	Required bool     `json:"required,omitempty"` //
	Reload   bool     `json:"reload"`             // SIGHUP applies a change
	File     bool     `json:"file,omitempty"`     // a path, resolved against the folder of the configuration file
	Secret   bool     `json:"secret,omitempty"`   // nobody else on the machine may read the file
	Env      string   `json:"env,omitempty"`      // the environment variable that overrides it; empty for lists of sections

	index []int // of the field, from Config; for items of a list, from the item
}

// Kind is the type of a key's value, as it is explained to people.
type Kind string

// The kinds.
const (
	KindSection  Kind = "section"
	KindText     Kind = "text"
	KindBool     Kind = "true or false"
	KindNumber   Kind = "whole number"
	KindDuration Kind = "duration"
	KindSize     Kind = "size"
	KindTexts    Kind = "list of texts"
	KindSections Kind = "list of sections"
)

// Schema is every key in the order of the struct; sections come before their keys.
func Schema() []Key {
	docs := fieldDocs()
	return walkType(reflect.TypeFor[Config](), reflect.ValueOf(Default()).Elem(), "", nil, docs)
}

func walkType(t reflect.Type, defaults reflect.Value, prefix string, index []int, docs map[string]string) []Key {
	var keys []Key
	for i := range t.NumField() {
		f := t.Field(i)
		k := Key{
			Path: prefix + f.Tag.Get("config"), Doc: docs[t.Name()+"."+f.Name], Kind: kindOf(f.Type),
			Example: f.Tag.Get("example"), Min: f.Tag.Get("min"), Max: f.Tag.Get("max"),
			Required: f.Tag.Get("required") != "", Reload: f.Tag.Get("reload") != "",
			File: f.Tag.Get("path") != "", Secret: f.Tag.Get("secret") != "",
			index: append(append([]int(nil), index...), i),
		}
		if e := f.Tag.Get("enum"); e != "" {
			k.Enum = strings.Split(e, ",")
		}
		if l := f.Tag.Get("later"); l != "" {
			k.Later = strings.Split(l, ",")
		}
		if !defaults.Field(i).IsZero() || k.Kind == KindBool || k.Kind == KindDuration && prefix != "" && !strings.Contains(prefix, "[]") {
			k.Default = formatValue(defaults.Field(i))
		}
		if k.Kind != KindSection && k.Kind != KindSections && !strings.Contains(prefix, "[]") {
			k.Env = "CLEARBOX_" + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))
		}
		keys = append(keys, k)
		switch k.Kind {
		case KindSection:
			keys = append(keys, walkType(f.Type, defaults.Field(i), k.Path+".", k.index, docs)...)
		case KindSections:
			item := f.Type.Elem()
			keys = append(keys, walkType(item, reflect.New(item).Elem(), k.Path+"[].", nil, docs)...)
		}
	}
	return keys
}

func kindOf(t reflect.Type) Kind {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return KindDuration
	case reflect.TypeFor[Size]():
		return KindSize
	}
	switch t.Kind() {
	case reflect.Struct:
		return KindSection
	case reflect.String:
		return KindText
	case reflect.Bool:
		return KindBool
	case reflect.Int:
		return KindNumber
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return KindSections
		}
		return KindTexts
	}
	panic(fmt.Sprintf("config: no kind for %s", t))
}

// schemaIndex finds keys by path and children by section.
type schemaIndex struct {
	keys   []Key
	byPath map[string]Key
}

func newSchemaIndex() schemaIndex {
	s := schemaIndex{keys: Schema(), byPath: map[string]Key{}}
	for _, k := range s.keys {
		s.byPath[k.Path] = k
	}
	return s
}

// children are the names directly below a section ("" is the root).
func (s schemaIndex) children(section string) []string {
	prefix := ""
	if section != "" {
		prefix = section + "."
	}
	var names []string
	for _, k := range s.keys {
		if rest, ok := strings.CutPrefix(k.Path, prefix); ok && rest != "" && !strings.ContainsAny(rest, ".[") {
			names = append(names, rest)
		}
	}
	return names
}
