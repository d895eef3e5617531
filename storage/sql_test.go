package storage_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/weft-im/weft/storage/storagetest"
)

// TestStatementsFitTheSchema prepares every constant of this package whose name
// ends in SQL, so that a statement that names a missing column or mixes up types
// is found before it is run.
func TestStatementsFitTheSchema(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	consts := stringConstants(t, ".")
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	prepared := 0
	for name, sql := range consts {
		if !strings.HasSuffix(name, "SQL") || isFragment(sql) {
			continue
		}
		prepared++
		if _, err := conn.Conn().Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Logf("%d statements", prepared)
	if prepared < 10 {
		t.Errorf("found only %d statements", prepared)
	}
}

// isFragment tells whether a constant is part of statements and none itself, or
// a format of one.
func isFragment(sql string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(sql), " ")
	switch first, _, _ = strings.Cut(first, "\n"); first {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH":
		return strings.Contains(sql, "%s") || strings.Contains(sql, "%[")
	}
	return true
}

// stringConstants returns the values of the package-level string constants of the
// package in dir.
func stringConstants(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	exprs := map[string]ast.Expr{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, name := range value.Names {
					if i < len(value.Values) {
						exprs[name.Name] = value.Values[i]
					}
				}
			}
		}
	}
	var eval func(e ast.Expr) (string, bool)
	eval = func(e ast.Expr) (string, bool) {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, err := strconv.Unquote(e.Value)
			return s, err == nil && e.Kind == token.STRING
		case *ast.Ident:
			return eval(exprs[e.Name])
		case *ast.ParenExpr:
			return eval(e.X)
		case *ast.BinaryExpr:
			x, okX := eval(e.X)
			y, okY := eval(e.Y)
			return x + y, okX && okY && e.Op == token.ADD
		}
		return "", false
	}
	values := map[string]string{}
	for name, e := range exprs {
		if s, ok := eval(e); ok {
			values[name] = s
		}
	}
	return values
}
