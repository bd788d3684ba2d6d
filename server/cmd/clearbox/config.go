package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/clearbox-im/clearbox/server/config"
)

type configCommands struct {
	Check   configCheck   `cmd:"" help:"Check the configuration; every mistake is shown at once."`
	Print   configPrint   `cmd:"" help:"Print the configuration with all keys and comments."`
	Explain configExplain `cmd:"" help:"Explain a key or a section."`
}

type configCheck struct {
	File string `arg:"" optional:"" help:"File to check instead of --config."`
	Text bool   `help:"Check the text only, not the files that it names."`
}

type jsonCheck struct {
	OK       bool             `json:"ok"`
	File     string           `json:"file"`
	Problems []config.Problem `json:"problems"`
	Warnings []config.Problem `json:"warnings"`
}

func (c *configCheck) Run(x *call) error {
	if c.File != "" {
		x.global.Config = c.File
	}
	path := x.configPath()
	l, err := x.load(c.Text)
	result := jsonCheck{OK: err == nil, File: path, Problems: []config.Problem{}, Warnings: []config.Problem{}}
	var mistakes *config.Errors
	switch {
	case errors.As(err, &mistakes):
		result.Problems = mistakes.Problems
	case err != nil:
		return err
	default:
		result.Warnings = append(result.Warnings, l.Warnings...)
	}
	if x.global.JSON {
		x.writeJSON(x.out, result)
		if !result.OK {
			return &failure{code: exitUsage, silent: true}
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, w := range l.Warnings {
		x.printf("warning: %s\n", w.String())
	}
	x.printf("%s: OK\n", path)
	return nil
}

type configPrint struct {
	Effective bool `help:"Print key, value and where the value comes from, one line per key."`
}

func (c *configPrint) Run(x *call) error {
	l, err := x.load(true)
	if err != nil {
		return err
	}
	if c.Effective || x.global.JSON {
		settings := l.Effective()
		x.show(settings, func() {
			for _, s := range settings {
				from := s.Origin.Kind
				if s.Origin.Where != "" {
					from += " " + s.Origin.Where
				}
				x.printf("%-38s %-30s # %s\n", s.Key+":", s.Value, from)
			}
		})
		return nil
	}
	return config.Render(x.out, l.Config)
}

type configExplain struct {
	Key string `arg:"" optional:"" help:"Such as tokens.access, or a section such as tokens."`
}

func (c *configExplain) Run(x *call) error {
	if c.Key == "" {
		x.show(config.Schema(), func() {
			for _, k := range config.Schema() {
				if k.Kind == config.KindSection {
					x.printf("%-14s %s\n", k.Path, strings.ReplaceAll(k.Doc, "\n", " "))
				}
			}
			x.printf("\nSee also: clearbox config explain SECTION or SECTION.KEY\n")
		})
		return nil
	}
	page, ok := config.Explain(c.Key)
	if !ok {
		f := usage("there is no key %q", c.Key)
		if near := config.Nearest(c.Key); near != "" {
			f.text += fmt.Sprintf("; did you mean %s?", near)
			f.next = "clearbox config explain " + near
		} else {
			f.next = "clearbox config explain"
		}
		return f
	}
	for _, k := range config.Schema() {
		if k.Path == c.Key {
			x.show(k, func() { x.printf("%s", page) })
		}
	}
	return nil
}
