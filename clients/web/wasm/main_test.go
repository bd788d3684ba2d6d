package main_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/clearbox-im/clearbox/clients/core"
)

// TestWhole: the module whose size is measured has every part of the brain.
func TestWhole(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	brain := reflect.TypeFor[*core.Brain]()
	for i := range brain.NumMethod() {
		if part := "(*core.Brain)." + brain.Method(i).Name; !strings.Contains(string(source), "\t"+part+",\n") {
			t.Errorf("main.go does not link %s", part)
		}
	}
	if n := strings.Count(string(source), "\t(*core.Brain)."); n != brain.NumMethod() || n < 50 {
		t.Errorf("main.go lists %d parts, the brain has %d", n, brain.NumMethod())
	}
}
