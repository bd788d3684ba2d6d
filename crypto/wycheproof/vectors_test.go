package wycheproof

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"slices"
	"testing"

	"github.com/c2sp/wycheproof"
)

// octets is a byte string, hexadecimal in the files.
type octets []byte

// UnmarshalText reads hexadecimal.
func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

type result string

const (
	valid      result = "valid"
	invalid    result = "invalid"
	acceptable result = "acceptable"
)

// vector is what all suites have in common.
type vector struct {
	ID      int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  result   `json:"result"`
}

func (v vector) has(flag string) bool { return slices.Contains(v.Flags, flag) }

// group is a list of vectors T with parameters P.
type group[P, T any] struct {
	Parameters P
	Tests      []T
}

// UnmarshalJSON reads the parameters from the same object as the tests.
func (g *group[P, T]) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &g.Parameters); err != nil {
		return err
	}
	var tests struct {
		Tests []T `json:"tests"`
	}
	err := json.Unmarshal(b, &tests)
	g.Tests = tests.Tests
	return err
}

// load reads a suite and fails unless it is of the algorithm and holds as many
// vectors as it says.
func load[P, T any](t *testing.T, file, algorithm string) []group[P, T] {
	t.Helper()
	b, err := fs.ReadFile(wycheproof.TestVectors, file)
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Algorithm     string        `json:"algorithm"`
		NumberOfTests int           `json:"numberOfTests"`
		TestGroups    []group[P, T] `json:"testGroups"`
	}
	if err := json.Unmarshal(b, &suite); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range suite.TestGroups {
		n += len(g.Tests)
	}
	if suite.Algorithm != algorithm || n == 0 || n != suite.NumberOfTests {
		t.Fatalf("%s: %d vectors of %s, announced %d of %s", file, n, suite.Algorithm, suite.NumberOfTests, algorithm)
	}
	return suite.TestGroups
}

// tally counts vectors by result and judges them.
type tally map[result]int

// judge fails when a valid vector was refused or an invalid one accepted. An
// acceptable one must have been judged by the suite itself.
func (c tally) judge(t *testing.T, v vector, accepted bool) {
	t.Helper()
	c[v.Result]++
	switch v.Result {
	case valid:
		if !accepted {
			t.Errorf("vector %d (%s %v) is valid and was refused", v.ID, v.Comment, v.Flags)
		}
	case invalid:
		if accepted {
			t.Errorf("vector %d (%s %v) is invalid and was accepted", v.ID, v.Comment, v.Flags)
		}
	default:
		t.Errorf("vector %d (%s %v) is %s: decide what to do with it", v.ID, v.Comment, v.Flags, v.Result)
	}
}

func (c tally) report(t *testing.T) {
	t.Helper()
	t.Logf("%d valid accepted, %d invalid refused, %d acceptable decided", c[valid], c[invalid], c[acceptable])
}
