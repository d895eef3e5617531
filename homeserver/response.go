package homeserver

import (
	"io"
	"net/http"
)

// Response is a handler's result that wants more than "200 and this JSON".
type Response struct {
	// Status is the HTTP status. Defaults to 200.
	Status int
	// Header holds further headers, or nil.
	Header http.Header
	// ContentType is the body's type. Defaults to application/json.
	ContentType string
	// JSON is encoded as the body, or nil.
	JSON any
	// Body is the body as bytes. It wins over JSON.
	Body []byte
	// Write writes the body piece by piece, for bodies that should not be held in memory whole. It wins over Body. An
	// error it returns can no longer change the status: the connection is cut, so that the client sees a broken reply
	// and not a short one.
	Write func(w io.Writer) error
}

// Redirect returns a 302 to a URL.
func Redirect(url string) *Response {
	return &Response{Status: http.StatusFound, Header: http.Header{"Location": {url}}, ContentType: "text/plain; charset=utf-8", Body: []byte{}}
}
