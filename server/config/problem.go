package config

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// Problem is one mistake: where it is, what is wrong, what to do.
type Problem struct {
	Where   string `json:"where"`             // the file, or the name of an environment variable or flag
	Line    int    `json:"line,omitempty"`    // from 1; 0 when the mistake is not in the file
	Column  int    `json:"column,omitempty"`  // from 1, in characters
	Key     string `json:"key,omitempty"`     // such as tokens.access, or federation.peers[0].pin
	Text    string `json:"text"`              // what is wrong
	Hint    string `json:"hint,omitempty"`    // what to do
	Excerpt string `json:"excerpt,omitempty"` // the line, without its end
}

// String has the position first, as compilers do, then the excerpt with a caret.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Where)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	if p.Line > 0 && p.Excerpt != "" {
		line, column := cut(p.Excerpt, p.Column)
		fmt.Fprintf(&b, "\n%6d | %s\n       | %s^", p.Line, line, indentLike(line, column))
	}
	return b.String()
}

// cut shortens a long line to the part around the column.
func cut(line string, column int) (string, int) {
	const width = 100
	r := []rune(line)
	if len(r) <= width {
		return line, column
	}
	from := max(0, min(column-1-width/2, len(r)-width))
	return string(r[from : from+width]), column - from
}

// indentLike is white space as wide as the line before the column: tabs stay tabs.
func indentLike(line string, column int) string {
	var b strings.Builder
	n := 1
	for _, r := range line {
		if n >= column {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
		n++
	}
	for ; n < column && n < 200; n++ {
		b.WriteByte(' ')
	}
	return b.String()
}

// Errors is everything that is wrong with a configuration, in the order of the
// file, what is outside of the file first.
type Errors struct{ Problems []Problem }

// Error lists all problems.
func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Brief lists at most n problems in one line each, without excerpts.
func (e *Errors) Brief(n int) string {
	var lines []string
	for i, p := range e.Problems {
		if i == n {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Problems)-n))
			break
		}
		first, _, _ := strings.Cut(p.String(), "\n")
		lines = append(lines, first)
	}
	return strings.Join(lines, "\n")
}

// Summary counts them, in one line.
func (e *Errors) Summary() string {
	if len(e.Problems) == 1 {
		return "1 mistake in the configuration"
	}
	return fmt.Sprintf("%d mistakes in the configuration", len(e.Problems))
}

// orNil is e as an error, or nil when nothing is wrong.
func (e *Errors) orNil() error {
	if len(e.Problems) == 0 {
		return nil
	}
	sort.SliceStable(e.Problems, func(i, j int) bool {
		a, b := e.Problems[i], e.Problems[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return e
}

// source is a file's text and finds lines in it.
type source struct {
	name  string
	lines []string
}

func newSource(name string, data []byte) source {
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	return source{name: name, lines: strings.Split(text, "\n")}
}

// at makes a Problem at a position, which is moved into the text if it lies outside.
func (s source) at(p position, key, text, hint string) Problem {
	line := min(max(p.line, 1), len(s.lines))
	excerpt := s.lines[line-1]
	if !utf8.ValidString(excerpt) {
		excerpt = strings.ToValidUTF8(excerpt, "\uFFFD")
	}
	column := min(max(p.column, 1), utf8.RuneCountInString(excerpt)+1)
	return Problem{Where: s.name, Line: line, Column: column, Key: key, Text: text, Hint: hint, Excerpt: excerpt}
}

// nowhere makes a Problem about something that the file does not mention: it
// points to its beginning and shows no line.
func (s source) nowhere(key, text, hint string) Problem {
	return Problem{Where: s.name, Line: 1, Column: 1, Key: key, Text: text, Hint: hint}
}

type position struct{ line, column int }
