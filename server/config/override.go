package config

import (
	"fmt"
	"reflect"
	"sort"
	"strings"
)

const envPrefix = "CLEARBOX_"

// EnvConfig is the variable that names the configuration file; it is no key.
const EnvConfig = "CLEARBOX_CONFIG"

// overrides applies the environment, then the command line.
func (p *parsing) overrides(opt Options) {
	byEnv := map[string]Key{}
	for _, k := range p.schema.keys {
		if k.Env != "" {
			byEnv[k.Env] = k
		}
	}
	env := append([]string(nil), opt.Env...)
	sort.Strings(env)
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || name == EnvConfig {
			continue
		}
		k, known := byEnv[name]
		if !known {
			if !kubernetesLink(name) {
				p.unknownEnv(name, byEnv)
			}
			continue
		}
		p.override(k, value, Origin{Kind: "env", Where: name})
	}
	for _, s := range opt.Set {
		path, value, ok := strings.Cut(s, "=")
		k, known := p.schema.byPath[path]
		switch {
		case !ok:
			p.add(Problem{Where: "--set", Text: fmt.Sprintf("expected key=value, found %q", shorten(s))})
		case !known:
			section, name := "", path
			if i := strings.LastIndexByte(path, '.'); i >= 0 {
				section, name = path[:i], path[i+1:]
			}
			text, hint := p.schema.unknown(section, name)
			p.add(Problem{Where: "--set", Key: path, Text: text, Hint: hint})
		case k.Env == "":
			p.add(Problem{Where: "--set", Key: path, Text: fmt.Sprintf("a %s can only be set in the file", k.Kind)})
		default:
			p.override(k, value, Origin{Kind: "flag", Where: "--set"})
		}
	}
}

// kubernetesLink tells whether the cluster made the variable for a service
// that happens to be called clearbox.
func kubernetesLink(name string) bool {
	return name == "CLEARBOX_PORT" || strings.HasPrefix(name, "CLEARBOX_PORT_") || strings.HasPrefix(name, "CLEARBOX_SERVICE_")
}

func (p *parsing) unknownEnv(name string, byEnv map[string]Key) {
	var names []string
	for n := range byEnv {
		names = append(names, n)
	}
	sort.Strings(names)
	hint := "unset it, or see `clearbox config explain`"
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	p.add(Problem{Where: name, Text: "this environment variable belongs to no key", Hint: hint})
}

// override sets one scalar or list of texts from outside of the file. What the
// file said about the key no longer counts, its mistakes do.
func (p *parsing) override(k Key, value string, from Origin) {
	v := reflect.ValueOf(p.config).Elem().FieldByIndex(k.index)
	p.origins[k.Path] = from
	if k.Kind == KindTexts {
		list := []string{}
		for _, item := range strings.Split(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		v.Set(reflect.ValueOf(list))
		return
	}
	if what, hint := assign(k, v, value); what != "" {
		p.bad[k.Path] = true
		p.add(Problem{Where: from.Where, Key: k.Path, Text: what, Hint: hint})
	}
}
