package core_test

import (
	"slices"
	"testing"
)

// compare counts what of said was not heard, what was heard more than once or
// never said, and what was heard before something that was said earlier.
func compare(heard, said []string) (lost, duplicated, reordered int) {
	place := make(map[string]int, len(said))
	for i, text := range said {
		place[text] = i
	}
	seen := make(map[string]bool, len(heard))
	last := -1
	for _, text := range heard {
		at, known := place[text]
		if !known || seen[text] {
			duplicated++
			continue
		}
		seen[text] = true
		if at < last {
			reordered++
		}
		last = max(last, at)
	}
	return len(said) - len(seen), duplicated, reordered
}

func TestCompare(t *testing.T) {
	said := []string{"a", "b", "c"}
	for _, c := range []struct {
		heard []string
		want  []int
	}{
		{said, []int{0, 0, 0}},
		{[]string{"a", "c"}, []int{1, 0, 0}},
		{[]string{"a", "b", "b", "c"}, []int{0, 1, 0}},
		{[]string{"a", "c", "b"}, []int{0, 0, 1}},
		{[]string{"a", "x", "b", "c"}, []int{0, 1, 0}},
	} {
		lost, duplicated, reordered := compare(c.heard, said)
		if got := []int{lost, duplicated, reordered}; !slices.Equal(got, c.want) {
			t.Errorf("compare(%q) = %v, want %v", c.heard, got, c.want)
		}
	}
}
