package clearbox_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	threatRow  = regexp.MustCompile(`^\| ([0-9]+) \|.*\| (.*) \|$`)
	threatTest = regexp.MustCompile("`(TestThreat[0-9]{2}[A-Za-z]*)`")
	testFunc   = regexp.MustCompile(`(?m)^func (TestThreat[0-9]{2}[A-Za-z]*)\(`)
)

// laterIssues are what the rows without a test wait for.
var laterIssues = map[string]bool{"with attachments": true, "with erasure": true}

// TestThreatTable holds docs/threats.md to the tests: 26 rows, each with tests
// of its number that exist, or with the part of the product that it comes with;
// and each test of a threat stands in the table.
func TestThreatTable(t *testing.T) {
	there := threatTests(t)
	page, err := os.ReadFile("docs/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		m := threatRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		rows++
		if n, _ := strconv.Atoi(m[1]); n != rows {
			t.Errorf("row %s stands where row %d is expected", m[1], rows)
		}
		named := threatTest.FindAllStringSubmatch(m[2], -1)
		if len(named) == 0 && !laterIssues[m[2]] {
			t.Errorf("row %s has neither a test nor a reason: %q", m[1], m[2])
		}
		for _, n := range named {
			name := n[1]
			if number, _ := strconv.Atoi(name[len("TestThreat"):][:2]); number != rows {
				t.Errorf("row %s names %s, a test of another row", m[1], name)
			}
			if _, ok := there[name]; !ok {
				t.Errorf("row %s names %s, which does not exist", m[1], name)
			}
			delete(there, name)
		}
	}
	if rows != 26 {
		t.Errorf("the table has %d rows, want 26", rows)
	}
	for name, file := range there {
		t.Errorf("%s in %s is not in the table", name, file)
	}
}

// threatTests gives the file of each test of a threat in the module.
func threatTests(t *testing.T) map[string]string {
	out := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."), d.IsDir() && d.Name() == "node_modules":
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
			out[m[1]] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
