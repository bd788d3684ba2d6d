package config

import (
	_ "embed"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
)

// structSource is this package's own struct: its comments are the manual.
//
//go:embed config.go
var structSource string

// fieldDocs gives "Type.Field" the comment above the field, one line per line.
func fieldDocs() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", structSource, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		panic("config: the embedded source does not parse: " + err.Error())
	}
	docs := map[string]string{}
	for _, d := range file.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			ts, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					docs[ts.Name.Name+"."+n.Name] = strings.TrimSpace(f.Doc.Text())
				}
			}
		}
	}
	return docs
}
