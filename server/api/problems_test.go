package api_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/clearbox-im/clearbox/server/api"
)

// TestProblemPage: the address in a problem's type leads to a section of
// docs/problems.md that begins with its status, and no section is of a code that
// does not exist.
func TestProblemPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	statuses := api.Statuses()
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)\n\n(\d+)\. [A-Z]`).FindAllStringSubmatch(string(page), -1) {
		seen[m[1]] = true
		if fmt.Sprint(statuses[m[1]]) != m[2] {
			t.Errorf("%s has status %d and not %s", m[1], statuses[m[1]], m[2])
		}
	}
	for code := range statuses {
		if !seen[code] {
			t.Errorf("%s is not explained in docs/problems.md", code)
		}
	}
}
