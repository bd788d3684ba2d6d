package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of what Parse reads.
const (
	MaxFile     = 256 << 10 // bytes of a configuration file
	maxProblems = 100       // reported at once
	maxNesting  = 64        // levels of flow collections
	maxColons   = 8_000     // in the file: the YAML parser's time grows with the square of a mapping's keys
)

// Options of Parse and Load.
type Options struct {
	// Env is the environment as os.Environ gives it: CLEARBOX_LOG_LEVEL=debug
	// overrides log.level. Nil means none.
	Env []string
	// Set are overrides from the command line, key=value; they win over Env.
	Set []string
	// Dir is the folder that relative paths start from; empty leaves them as they are.
	Dir string
	// SkipFiles makes Load not look at the files that the configuration names.
	SkipFiles bool
}

// Origin says where a key's value came from.
type Origin struct {
	Kind  string `json:"kind"`            // "default", "file", "env" or "flag"
	Where string `json:"where,omitempty"` // file:line, or the variable's name
}

// Loaded is a configuration without mistakes, and where each value came from.
type Loaded struct {
	Config   *Config
	Origins  map[string]Origin // by key; keys that are missing here have their default
	Warnings []Problem         // allowed, but worth a look
}

// Parse reads a configuration. name stands in the messages. It touches no
// files. The error is *Errors and lists every mistake, except that after a
// syntax error the rest of the file cannot be judged.
func Parse(name string, data []byte, opt Options) (*Loaded, error) {
	p := parse(name, data, opt)
	if err := p.errs.orNil(); err != nil {
		return nil, err
	}
	return p.loaded(), nil
}

// parsing is one run of Parse: owned by one goroutine.
type parsing struct {
	src      source
	schema   schemaIndex
	config   *Config
	errs     Errors
	warnings []Problem
	origins  map[string]Origin
	values   map[string]position // of values in the file, by data path
	names    map[string]position // of keys in the file, by data path
	bad      map[string]bool     // keys that have a problem already
	more     int                 // problems beyond maxProblems
}

func parse(name string, data []byte, opt Options) *parsing {
	p := &parsing{
		schema: newSchemaIndex(), config: Default(), origins: map[string]Origin{},
		values: map[string]position{}, names: map[string]position{}, bad: map[string]bool{},
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	p.src = newSource(name, data)
	if p.file(data) {
		p.overrides(opt)
		p.required()
		p.check()
	}
	if opt.Dir != "" {
		p.resolve(opt.Dir)
	}
	if p.more > 0 {
		p.errs.Problems = append(p.errs.Problems, Problem{Where: name, Text: fmt.Sprintf("%d more mistakes are not shown", p.more)})
	}
	return p
}

func (p *parsing) loaded() *Loaded {
	return &Loaded{Config: p.config, Origins: p.origins, Warnings: p.warnings}
}

// file reads the YAML. It returns false when the file as a whole is unusable,
// so that nothing else can be said about it.
func (p *parsing) file(data []byte) bool {
	if len(data) > MaxFile {
		p.whole(position{1, 1}, fmt.Sprintf("the file has more than %s", Size(MaxFile)), "is this a configuration file?")
		return false
	}
	if pos, ok := firstInvalid(data); !ok {
		p.whole(pos, "the file is not UTF-8 text", "save it as UTF-8")
		return false
	}
	if pos, ok := tooDeep(data); !ok {
		p.whole(pos, "too many nested brackets", "")
		return false
	}
	if bytes.Count(data, []byte(":")) > maxColons {
		p.whole(position{1, 1}, "the file has too many keys", "is this a configuration file?")
		return false
	}
	file, err := parseYAML(data)
	if err != nil {
		var se *yaml.SyntaxError
		if errors.As(err, &se) && se.Token != nil && se.Token.Position != nil {
			p.whole(position{se.Token.Position.Line, se.Token.Position.Column}, "not valid YAML: "+se.Message, "the rest of the file was not checked")
		} else {
			p.whole(position{1, 1}, "not valid YAML", "")
		}
		return false
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if dir, ok := d.Body.(*ast.DirectiveNode); ok {
			p.whole(at(dir), "YAML directives are not used here", "remove the line")
			return false
		}
		if body != nil {
			p.whole(at(d.Body), "the file has a second document", "remove the line with --- above and what follows")
			return false
		}
		body = d.Body
	}
	if body != nil {
		return p.section(body, "", "", reflect.ValueOf(p.config).Elem())
	}
	return true
}

// parseYAML keeps a bug of the parser from ending the program: an admin's file
// must not stop a running server on reload.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the YAML parser failed: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func firstInvalid(data []byte) (position, bool) {
	pos := position{1, 1}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 || r == 0 {
			return pos, false
		}
		if r == '\n' {
			pos = position{pos.line + 1, 1}
		} else {
			pos.column++
		}
		i += n
	}
	return pos, true
}

// tooDeep bounds the parser's recursion; quoted brackets count too, which no
// real file notices.
func tooDeep(data []byte) (position, bool) {
	depth, indicators, pos := 0, 0, position{1, 1}
	for _, c := range data {
		pos.column++
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '-', '?', ':', '&', '!', '*':
			indicators++
		case '\n':
			pos, indicators = position{pos.line + 1, 1}, 0
		}
		if depth > maxNesting || indicators > 16*maxNesting {
			return pos, false
		}
	}
	return pos, true
}

func at(n ast.Node) position {
	// A block mapping's own token is its first colon; people look at the key.
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return at(m.Values[0].Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return position{t.Position.Line, t.Position.Column}
	}
	return position{1, 1}
}

func (p *parsing) whole(pos position, text, hint string) {
	p.add(p.src.at(pos, "", text, hint))
}

func (p *parsing) wrong(pos position, key, text, hint string) {
	p.bad[key] = true
	p.add(p.src.at(pos, key, text, hint))
}

func (p *parsing) add(problem Problem) {
	if len(p.errs.Problems) >= maxProblems {
		p.more++
		return
	}
	p.errs.Problems = append(p.errs.Problems, problem)
}

// section reads a mapping into v; false means that n is none. schemaPath has []
// for list items, dataPath the index.
func (p *parsing) section(n ast.Node, schemaPath, dataPath string, v reflect.Value) bool {
	switch n := n.(type) {
	case *ast.NullNode:
		// a section whose keys are all commented out
	case *ast.MappingNode:
		for _, mv := range n.Values {
			p.entry(mv, schemaPath, dataPath, v)
		}
	default:
		what := "the file"
		if dataPath != "" {
			what = "a section"
		}
		p.wrong(at(n), dataPath, fmt.Sprintf("%s holds lines such as key: value, found %s", what, describe(n)), "")
		return false
	}
	return true
}

func (p *parsing) entry(mv *ast.MappingValueNode, schemaPath, dataPath string, v reflect.Value) {
	pos := at(mv.Key)
	switch mv.Key.(type) {
	case *ast.MergeKeyNode, *ast.MappingKeyNode, *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		p.wrong(pos, dataPath, "merge keys, anchors, aliases, tags and complex keys are not used here", "write the key out")
		return
	}
	name := mv.Key.GetToken().Value
	sp, dp := join(schemaPath, name), join(dataPath, name)
	k, known := p.schema.byPath[sp]
	if !known {
		text, hint := p.schema.unknown(schemaPath, name)
		p.wrong(pos, dp, text, hint)
		return
	}
	if first, twice := p.names[dp]; twice {
		p.wrong(pos, dp, "appears twice", fmt.Sprintf("the first is in line %d; keep one", first.line))
		return
	}
	p.names[dp] = pos
	p.values[dp] = at(mv.Value)
	p.origins[dp] = Origin{Kind: "file", Where: fmt.Sprintf("%s:%d", p.src.name, pos.line)}
	p.value(mv.Value, k, dp, v.Field(k.index[len(k.index)-1]))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// value reads one value of any kind.
func (p *parsing) value(n ast.Node, k Key, dp string, v reflect.Value) {
	pos := at(n)
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		p.wrong(pos, dp, "anchors, aliases and tags are not used here", "write the value out")
		return
	}
	if k.Kind == KindSection {
		p.section(n, k.Path, dp, v)
		return
	}
	if _, ok := n.(*ast.NullNode); ok {
		hint := "give it one, or remove the line"
		if k.Default != "" {
			hint = fmt.Sprintf("remove the line for the default, %s", k.Default)
		}
		p.wrong(pos, dp, "has no value", hint)
		return
	}
	switch k.Kind {
	case KindSections:
		p.sections(n, k, dp, v)
	case KindTexts:
		p.texts(n, dp, v)
	default:
		text, ok := scalarText(n, k.Kind)
		if !ok {
			p.wrong(pos, dp, fmt.Sprintf("expected %s, found %s", expected(k), describe(n)), quoteHint(n, k.Kind))
			return
		}
		if what, hint := assign(k, v, text); what != "" {
			p.wrong(pos, dp, what, hint)
		}
	}
}

func (p *parsing) sections(n ast.Node, k Key, dp string, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		p.wrong(at(n), dp, fmt.Sprintf("expected a list, found %s", describe(n)), "begin each item with a hyphen")
		return
	}
	for i, item := range seq.Values {
		elem := reflect.New(v.Type().Elem()).Elem()
		path := fmt.Sprintf("%s[%d]", dp, i)
		p.names[path] = at(item)
		p.section(item, k.Path+"[]", path, elem)
		v.Set(reflect.Append(v, elem))
	}
}

func (p *parsing) texts(n ast.Node, dp string, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		hint := "write it as [\"...\"]"
		if s, isText := n.(*ast.StringNode); isText {
			hint = fmt.Sprintf("write it as [%s]", quote(s.Value))
		}
		p.wrong(at(n), dp, fmt.Sprintf("expected a list of texts, found %s", describe(n)), hint)
		return
	}
	list := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, item := range seq.Values {
		path := fmt.Sprintf("%s[%d]", dp, i)
		p.values[path] = at(item)
		text, ok := scalarText(item, KindText)
		if !ok {
			hint := quoteHint(item, KindText)
			if _, isMap := item.(*ast.MappingNode); isMap {
				hint = "put texts with a colon in quotes"
			}
			p.bad[dp] = true
			p.wrong(at(item), path, fmt.Sprintf("expected text, found %s", describe(item)), hint)
			continue
		}
		list = reflect.Append(list, reflect.ValueOf(text))
	}
	v.Set(list)
}

// scalarText is the node's text if its type fits the kind. Numbers stand for
// durations and sizes too: then the missing unit is what is reported.
func scalarText(n ast.Node, kind Kind) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, kind == KindText || kind == KindDuration || kind == KindSize
	case *ast.LiteralNode:
		return n.Value.Value, kind == KindText
	case *ast.BoolNode:
		return strconv.FormatBool(n.Value), kind == KindBool
	case *ast.IntegerNode:
		return n.GetToken().Value, kind == KindNumber || kind == KindDuration || kind == KindSize
	}
	return "", false
}

func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return "the text " + strconv.Quote(shorten(n.Value))
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.BoolNode:
		return strconv.FormatBool(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + shorten(n.GetToken().Value)
	case *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	case *ast.SequenceNode:
		return "a list"
	}
	return "something else"
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:37]) + "..."
	}
	return s
}

func quoteHint(n ast.Node, kind Kind) string {
	if kind != KindText {
		return ""
	}
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return fmt.Sprintf("put it in quotes: %q", shorten(n.GetToken().Value))
	}
	return ""
}

// required reports keys that have no value from anywhere.
func (p *parsing) required() {
	for _, k := range p.schema.keys {
		section, _, _ := strings.Cut(k.Path, "[].")
		if !k.Required {
			continue
		}
		if section == k.Path {
			if reflect.ValueOf(p.config).Elem().FieldByIndex(k.index).IsZero() && !p.bad[k.Path] {
				parent := k.Path[:strings.LastIndexByte(k.Path, '.')]
				p.bad[k.Path] = true
				p.add(p.problemAt(k.Path, "is required and missing", fmt.Sprintf("for example %s: %s", k.Path[len(parent)+1:], k.Example)))
			}
			continue
		}
		list := reflect.ValueOf(p.config).Elem().FieldByIndex(p.schema.byPath[section].index)
		for i := range list.Len() {
			item := fmt.Sprintf("%s[%d]", section, i)
			path := item + strings.TrimPrefix(k.Path, section+"[]")
			if list.Index(i).FieldByIndex(k.index).IsZero() && !p.bad[path] && !p.bad[item] {
				p.wrong(p.names[item], path, "is required and missing", "for example "+k.Example)
			}
		}
	}
}
