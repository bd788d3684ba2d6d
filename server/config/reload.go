package config

import (
	"reflect"
	"strings"
)

// Change is one key that differs between two configurations.
type Change struct {
	Key    string `json:"key"`
	Old    string `json:"old"` // as written in YAML
	New    string `json:"new"`
	Reload bool   `json:"reload"` // false: it takes a restart
}

// Diff lists what differs, in the order of the file.
func Diff(old, new *Config) []Change {
	var changes []Change
	eachKey(func(k Key) {
		a, b := reflect.ValueOf(old).Elem().FieldByIndex(k.index), reflect.ValueOf(new).Elem().FieldByIndex(k.index)
		if reflect.DeepEqual(a.Interface(), b.Interface()) || a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
			return
		}
		c := Change{Key: k.Path, Reload: k.Reload}
		if k.Kind != KindSections {
			c.Old, c.New = formatValue(a), formatValue(b)
		}
		changes = append(changes, c)
	})
	return changes
}

// Applied is what a server that runs with old may run with after reading new:
// new where SIGHUP applies a change, old elsewhere. Neither argument is changed;
// lists are shared.
func Applied(old, new *Config) *Config {
	merged := *old
	eachKey(func(k Key) {
		if k.Reload {
			reflect.ValueOf(&merged).Elem().FieldByIndex(k.index).Set(reflect.ValueOf(new).Elem().FieldByIndex(k.index))
		}
	})
	return &merged
}

// Reloadable names the keys that SIGHUP applies, in the order of the file.
func Reloadable() []string {
	var names []string
	eachKey(func(k Key) {
		if k.Reload {
			names = append(names, k.Path)
		}
	})
	return names
}

func eachKey(fn func(Key)) {
	for _, k := range Schema() {
		if k.Kind != KindSection && !strings.Contains(k.Path, "[]") {
			fn(k)
		}
	}
}
