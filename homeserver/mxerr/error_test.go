package mxerr_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-im/weft/homeserver/mxerr"
)

func TestCopiesLeaveTheTemplateAlone(t *testing.T) {
	t.Parallel()
	e := mxerr.Forbidden.WithMessage("no").WithField("a", 1).WithStatus(401).Wrap(io.EOF)
	f := e.WithField("b", 2)
	if mxerr.Forbidden.Message != "Forbidden" || mxerr.Forbidden.Fields != nil || mxerr.Forbidden.Status != 403 || errors.Unwrap(mxerr.Forbidden) != nil {
		t.Errorf("the template changed: %+v", mxerr.Forbidden)
	}
	if len(e.Fields) != 1 || len(f.Fields) != 2 {
		t.Errorf("fields are shared: %v %v", e.Fields, f.Fields)
	}
	err := fmt.Errorf("join: %w", e)
	for name, ok := range map[string]bool{
		"same code":    errors.Is(err, mxerr.Forbidden),
		"other code":   !errors.Is(err, mxerr.NotFound),
		"cause":        errors.Is(err, io.EOF),
		"Code":         mxerr.Code(err) == "M_FORBIDDEN",
		"Code of none": mxerr.Code(io.EOF) == "",
	} {
		if !ok {
			t.Error(name)
		}
	}
	if got := err.Error(); got != "join: M_FORBIDDEN: no: EOF" {
		t.Errorf("Error() = %q", got)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  *mxerr.Error
		want string
	}{
		{mxerr.NotFound, `{"errcode":"M_NOT_FOUND","error":"Not found"}`},
		{mxerr.NotFound.Wrap(errors.New("secret")), `{"errcode":"M_NOT_FOUND","error":"Not found"}`},
		{mxerr.UserLocked, `{"errcode":"M_USER_LOCKED","error":"This account has been locked","soft_logout":true}`},
		{mxerr.RetryAfter(1500 * time.Millisecond), `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1500}`},
		{mxerr.RetryAfter(time.Microsecond), `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1}`},
		{mxerr.NotFound.WithField("errcode", "x"), `{"errcode":"M_NOT_FOUND","error":"Not found"}`},
	} {
		got, err := json.Marshal(tc.err)
		if err != nil || string(got) != tc.want {
			t.Errorf("got %s (%v), want %s", got, err, tc.want)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		body   string
		want   mxerr.Error
	}{
		{403, `{"errcode":"M_FORBIDDEN","error":"no"}`, mxerr.Error{Status: 403, Code: "M_FORBIDDEN", Message: "no"}},
		{429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":5}`, mxerr.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Fields: map[string]any{"retry_after_ms": 5.0}}},
		{502, `<html>`, mxerr.Error{Status: 502, Code: "M_UNKNOWN", Message: "Bad Gateway"}},
		{404, `{"errcode":5}`, mxerr.Error{Status: 404, Code: "M_UNKNOWN", Message: "Not Found"}},
		{599, ``, mxerr.Error{Status: 599, Code: "M_UNKNOWN", Message: "Unexpected response"}},
	} {
		got := mxerr.Decode(tc.status, []byte(tc.body))
		if got.Status != tc.want.Status || got.Code != tc.want.Code || got.Message != tc.want.Message || cmp.Diff(tc.want.Fields, got.Fields) != "" {
			t.Errorf("%d %s: got %+v, want %+v", tc.status, tc.body, got, tc.want)
		}
	}
}
