package main

import (
	"runtime"
	"runtime/debug"

	"github.com/clearbox-im/clearbox/server/wire"
)

type versionCommand struct{}

func (c *versionCommand) Run(x *call) error {
	v := x.build()
	x.show(v, func() {
		x.printf("clearbox %s", v.Version)
		if v.Commit != "" {
			x.printf(" (%s)", v.Commit)
		}
		x.printf(", %s\n", v.Go)
	})
	return nil
}

// build says what was built, from the linker and the toolchain.
func (m *Main) build() wire.Version {
	v := wire.Version{Version: m.Version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v.Commit = s.Value[:12]
		}
	}
	if v.Version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version // `go install` at a version
	}
	return v
}
