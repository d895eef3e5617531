package homeserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"unicode/utf8"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// Request is a request on its way to a Handler: the net/http one, the path parameters, who sent it, and bounded ways to
// read its query and body. It belongs to one handler call and must not outlive it.
type Request struct {
	*http.Request

	params    []string // values, in the order of names
	names     []string
	query     url.Values
	requester *Requester
	origin    string
	id        string
	clientIP  string
	maxBody   int64
	body      []byte
	bodyErr   error
	bodyRead  bool
}

// Param returns a path parameter by the name the endpoint's Path gives it, unescaped once. It is valid UTF-8 without
// NUL, and may be empty. A name the path does not have gives "".
func (r *Request) Param(name string) string {
	for i, n := range r.names {
		if n == name {
			return r.params[i]
		}
	}
	return ""
}

// Requester returns who makes the request, or nil where the endpoint asks for no user or (AuthOptional) none is given.
func (r *Request) Requester() *Requester { return r.requester }

// UserID returns the user of Requester, or "".
func (r *Request) UserID() string {
	if r.requester == nil {
		return ""
	}
	return r.requester.UserID
}

// Origin returns the server that signed the request of an AuthServer endpoint, or "".
func (r *Request) Origin() string { return r.origin }

// ID returns the request id, as the log and error responses repeat it.
func (r *Request) ID() string { return r.id }

// ClientIP returns the client's address without port: from X-Forwarded-For on listeners with x_forwarded, otherwise the
// peer's. It is "" for unix sockets without x_forwarded.
func (r *Request) ClientIP() string { return r.clientIP }

// Draining returns a channel that is closed when the process begins to stop. A long poll returns then what it has, so that
// the client can go on with another process. It is nil (never closed) outside of a process.
func (r *Request) Draining() <-chan struct{} {
	c, _ := r.Context().Value(drainingKey{}).(<-chan struct{})
	return c
}

type drainingKey struct{}

// Query returns the first value of a query parameter, or "". Values are valid UTF-8 without NUL.
func (r *Request) Query(name string) string { return r.values().Get(name) }

// QueryAll returns all values of a query parameter.
func (r *Request) QueryAll(name string) []string { return r.values()[name] }

// HasQuery reports whether a query parameter is present, be it empty.
func (r *Request) HasQuery(name string) bool { return r.values().Has(name) }

// QueryInt returns an integer query parameter, def where it is absent, M_INVALID_PARAM where it is no integer or
// negative.
func (r *Request) QueryInt(name string, def int64) (int64, error) {
	s := r.values().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, mxerr.InvalidParam.WithMessage("Query parameter " + name + " must be a non-negative integer")
	}
	return n, nil
}

// QueryBool returns a boolean query parameter ("true" or "false"), def where it is absent, M_INVALID_PARAM otherwise.
func (r *Request) QueryBool(name string, def bool) (bool, error) {
	switch r.values().Get(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, mxerr.InvalidParam.WithMessage("Query parameter " + name + " must be true or false")
}

func (r *Request) values() url.Values {
	if r.query == nil {
		if r.URL.RawQuery == "" {
			return nil
		}
		r.query = r.URL.Query()
	}
	return r.query
}

// RawBody returns the whole body, read once, at most the endpoint's MaxBody: M_TOO_LARGE above it. Callers must not
// change it.
func (r *Request) RawBody() ([]byte, error) {
	if !r.bodyRead {
		r.bodyRead = true
		r.body, r.bodyErr = readBody(r.Request, r.maxBody)
	}
	return r.body, r.bodyErr
}

// Decode reads the body as one JSON object into v: M_NOT_JSON where it is not an object in UTF-8 (an empty body
// included), M_BAD_JSON where a key has the wrong type.
func (r *Request) Decode(v any) error {
	body, err := r.RawBody()
	if err != nil {
		return err
	}
	return DecodeJSON(body, v)
}

// DecodeOptional is Decode for endpoints whose body may be absent: v then stays as it is.
func (r *Request) DecodeOptional(v any) error {
	body, err := r.RawBody()
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	return DecodeJSON(body, v)
}

// DecodeJSON reads a JSON object into v with the errors of Request.Decode.
func DecodeJSON(body []byte, v any) error {
	if !utf8.Valid(body) {
		return mxerr.NotJSON.WithMessage("Content is not valid UTF-8")
	}
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 {
		return mxerr.NotJSON
	}
	if trimmed[0] != '{' {
		if json.Valid(trimmed) {
			return mxerr.BadJSON.WithMessage("Content must be a JSON object")
		}
		return mxerr.NotJSON
	}
	if err := json.Unmarshal(trimmed, v); err != nil {
		var typeErr *json.UnmarshalTypeError
		var syntaxErr *json.SyntaxError
		switch {
		case errors.As(err, &typeErr) && typeErr.Field != "":
			return mxerr.BadJSON.WithMessage("Key " + strconv.Quote(typeErr.Field) + " must not be a JSON " + typeErr.Value).Wrap(err)
		case errors.As(err, &syntaxErr):
			return mxerr.NotJSON.Wrap(err)
		}
		if mx, ok := mxerr.As(err); ok { // a key's own UnmarshalJSON knew better
			return mx
		}
		return mxerr.BadJSON.Wrap(err)
	}
	return nil
}

// readBody reads at most limit bytes.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 {
		body = make([]byte, n)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	}
	switch {
	case err != nil:
		if ctxErr := r.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, mxerr.NotJSON.WithMessage("The request body could not be read").Wrap(err)
	case int64(len(body)) > limit:
		return nil, tooLarge(limit)
	}
	return body, nil
}

func tooLarge(limit int64) error {
	return mxerr.TooLarge.WithMessage("The request body may have at most " + strconv.FormatInt(limit, 10) + " bytes")
}
