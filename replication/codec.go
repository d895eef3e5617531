package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Codec turns the rows of a stream into JSON, their form on the wire, and back. It must be
// safe for concurrent use.
type Codec[R any] interface {
	// AppendRow appends the JSON of row to dst. A newline in it is an error for the caller:
	// rows travel one a line.
	AppendRow(dst []byte, row R) ([]byte, error)
	// DecodeRow reads what AppendRow wrote. The row may keep data, which is not used again.
	DecodeRow(data []byte) (R, error)
}

// JSONCodec writes a row as encoding/json does.
func JSONCodec[R any]() Codec[R] { return jsonCodec[R]{} }

type jsonCodec[R any] struct{}

func (jsonCodec[R]) AppendRow(dst []byte, row R) ([]byte, error) {
	b, err := json.Marshal(row)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

func (jsonCodec[R]) DecodeRow(data []byte) (R, error) {
	var row R
	err := json.Unmarshal(data, &row)
	return row, err
}

// ArrayCodec writes a row as the array of its values, the form that most of Synapse's rows
// have: struct{A string; B int} as ["a",1]. R must be a struct; its exported fields are
// written in the order of their declaration. When reading, a row may have fewer values, as
// an older process writes (the rest stay zero), and more, as a newer one writes (the rest
// are dropped). It returns an error when R is not a struct.
func ArrayCodec[R any]() (Codec[R], error) {
	t := reflect.TypeFor[R]()
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("row type %s is not a struct", t)
	}
	c := arrayCodec[R]{}
	for i := range t.NumField() {
		if t.Field(i).IsExported() {
			c.fields = append(c.fields, i)
		}
	}
	return c, nil
}

// MustArrayCodec is ArrayCodec for stream declarations, where R is known to be a struct.
// It panics otherwise.
func MustArrayCodec[R any]() Codec[R] {
	c, err := ArrayCodec[R]()
	if err != nil {
		panic(err)
	}
	return c
}

type arrayCodec[R any] struct{ fields []int }

func (c arrayCodec[R]) AppendRow(dst []byte, row R) ([]byte, error) {
	v := reflect.ValueOf(&row).Elem()
	dst = append(dst, '[')
	for i, f := range c.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		b, err := json.Marshal(v.Field(f).Addr().Interface())
		if err != nil {
			return dst, err
		}
		dst = append(dst, b...)
	}
	return append(dst, ']'), nil
}

func (c arrayCodec[R]) DecodeRow(data []byte) (R, error) {
	var row R
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return row, err
	}
	if raw == nil {
		return row, errors.New("row is null")
	}
	v := reflect.ValueOf(&row).Elem()
	for i, f := range c.fields[:min(len(c.fields), len(raw))] {
		if err := json.Unmarshal(raw[i], v.Field(f).Addr().Interface()); err != nil {
			return row, fmt.Errorf("value %d: %w", i, err)
		}
	}
	return row, nil
}
