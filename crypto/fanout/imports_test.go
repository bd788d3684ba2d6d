package fanout_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A homeserver links this folder, so it holds nothing with which a message could
// be read: no cipher, no key derivation, no session. Every import is listed.
func TestImports(t *testing.T) {
	const ours = "github.com/clearbox-im/clearbox/crypto/"
	allowed := map[string][]string{
		".":           {"bytes", "encoding/binary", "errors", "fmt", "slices", ours + "keys"},
		"field":       {"errors", "fmt", "math", "google.golang.org/protobuf/encoding/protowire", ours + "curve"},
		"certificate": {"bytes", "errors", "fmt", "io", "time", ours + "curve", ours + "keys", ours + "fanout/field"},
	}
	folders, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := map[string]bool{}
	for _, file := range append(folders, here...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		folder := filepath.Dir(file)
		if allowed[folder] == nil {
			t.Errorf("%s: a package that this test does not know", folder)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(allowed[folder], imp) {
				t.Errorf("%s imports %s", file, imp)
			}
		}
		checked[folder] = true
	}
	if len(checked) != len(allowed) {
		t.Errorf("only %d packages found", len(checked))
	}
}
