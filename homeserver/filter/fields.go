package filter

import (
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Fields is a compiled event_fields list: which properties of an event a response keeps. The zero value keeps all.
type Fields struct {
	root *fieldNode
}

// fieldNode is one property; a node without children keeps the whole value.
type fieldNode struct {
	children map[string]*fieldNode
}

// CompileFields compiles dot-separated property paths; a backslash keeps a following dot or backslash from being a
// separator or an escape. A nil list keeps everything, an empty one too: a client that wanted nothing would not ask.
//
// Errors: mxerr.BadJSON for an empty path segment or too many paths.
//
// Spec: appendices, "Dot-separated property paths" (v1.19).
func CompileFields(paths []string) (Fields, error) {
	if len(paths) == 0 {
		return Fields{}, nil
	}
	if len(paths) > MaxListLength {
		return Fields{}, bad(fmt.Sprintf("event_fields may have at most %d entries", MaxListLength))
	}
	root := &fieldNode{}
	for _, p := range paths {
		segs := splitPath(p)
		n := root
		for i, s := range segs {
			if s == "" {
				return Fields{}, bad("event_fields has an empty path segment")
			}
			child, ok := n.children[s]
			switch {
			case !ok:
				if n.children == nil {
					n.children = make(map[string]*fieldNode)
				}
				child = &fieldNode{}
				if i < len(segs)-1 {
					child.children = make(map[string]*fieldNode)
				}
				n.children[s] = child
			case i == len(segs)-1:
				child.children = nil // the whole value wins over parts of it named before
			case child.children == nil:
				child = nil // ... and over parts named after
			}
			if child == nil {
				break
			}
			n = child
		}
	}
	return Fields{root: root}, nil
}

// All reports whether all fields are kept.
func (f Fields) All() bool { return f.root == nil }

// Append appends event, a JSON object, to dst with only the kept properties, in their order. Properties that are not
// there are left out; an object of which nothing is left is left out too.
func (f Fields) Append(dst, event []byte) []byte {
	if f.root == nil {
		return append(dst, event...)
	}
	return appendKept(dst, gjson.ParseBytes(event), f.root)
}

func appendKept(dst []byte, obj gjson.Result, n *fieldNode) []byte {
	dst = append(dst, '{')
	first := true
	obj.ForEach(func(k, v gjson.Result) bool {
		child, ok := n.children[k.Str]
		if !ok {
			return true
		}
		mark := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(append(dst, k.Raw...), ':')
		if child.children == nil {
			dst = append(dst, v.Raw...)
			first = false
			return true
		}
		start := len(dst)
		if v.IsObject() {
			dst = appendKept(dst, v, child)
		}
		if len(dst)-start <= len("{}") {
			dst = dst[:mark]
			return true
		}
		first = false
		return true
	})
	return append(dst, '}')
}

func splitPath(p string) []string {
	var out []string
	var seg strings.Builder
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '\\' && i+1 < len(p) && (p[i+1] == '.' || p[i+1] == '\\'):
			i++
			seg.WriteByte(p[i])
		case p[i] == '.':
			out = append(out, seg.String())
			seg.Reset()
		default:
			seg.WriteByte(p[i])
		}
	}
	return append(out, seg.String())
}
