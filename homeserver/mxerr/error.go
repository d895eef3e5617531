// Package mxerr holds Matrix errors as values: an HTTP status, an errcode and a message a client may show.
//
// The place that knows the rule makes the error and callers carry it by wrapping:
//
//	return mxerr.Forbidden.WithMessage("You are not invited to this room")
//	return mxerr.NotFound.WithMessage("Unknown room").Wrap(err)
//
// The package variables are templates and are never changed: each With method returns a copy. Two errors are the same to
// errors.Is when their codes are equal, so errors.Is(err, mxerr.NotFound) finds any M_NOT_FOUND however it is worded.
// One adapter, in package homeserver, turns an error into a response.
//
// Spec: client-server API, "Standard error response" (v1.19).
package mxerr

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"time"
)

// Error is one Matrix error. It is immutable by convention: take a copy with a With method, never set a field of a shared value.
type Error struct {
	// Status is the HTTP status of the response, for example 403.
	Status int
	// Code is the errcode, for example "M_FORBIDDEN".
	Code string
	// Message is the human-readable "error" string. It reaches the client: no secrets, no internals.
	Message string
	// Fields are the further keys some codes define (retry_after_ms, soft_logout, room_version...). "errcode" and
	// "error" in it are ignored.
	Fields map[string]any

	cause error
}

// Error returns the code, the message and the cause, for logs.
func (e *Error) Error() string {
	s := e.Code + ": " + e.Message
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the wrapped cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is a Matrix error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// WithMessage returns a copy with another message.
func (e *Error) WithMessage(msg string) *Error {
	c := *e
	c.Message = msg
	return &c
}

// WithStatus returns a copy with another HTTP status, for the endpoints whose description departs from the usual one.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.Status = status
	return &c
}

// WithField returns a copy whose response carries one more key.
func (e *Error) WithField(key string, value any) *Error {
	c := *e
	c.Fields = make(map[string]any, len(e.Fields)+1)
	maps.Copy(c.Fields, e.Fields)
	c.Fields[key] = value
	return &c
}

// Wrap returns a copy that carries err as its cause. The cause is logged, never sent.
func (e *Error) Wrap(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// MarshalJSON returns the standard error response: errcode, error, then the further fields.
func (e *Error) MarshalJSON() ([]byte, error) {
	if len(e.Fields) == 0 {
		return json.Marshal(struct {
			Code    string `json:"errcode"`
			Message string `json:"error"`
		}{e.Code, e.Message})
	}
	m := make(map[string]any, len(e.Fields)+2)
	maps.Copy(m, e.Fields)
	m["errcode"], m["error"] = e.Code, e.Message
	return json.Marshal(m)
}

// As returns the first Matrix error in err's chain.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Code returns the errcode of the first Matrix error in err's chain, or "".
func Code(err error) string {
	if e, ok := As(err); ok {
		return e.Code
	}
	return ""
}

// Decode reads a standard error response as received from another server or process. A body that is none (a proxy's
// page, say) becomes an M_UNKNOWN of that status.
func Decode(status int, body []byte) *Error {
	var m map[string]any
	if json.Unmarshal(body, &m) == nil {
		code, _ := m["errcode"].(string)
		msg, _ := m["error"].(string)
		if code != "" {
			delete(m, "errcode")
			delete(m, "error")
			if len(m) == 0 {
				m = nil
			}
			return &Error{Status: status, Code: code, Message: msg, Fields: m}
		}
	}
	msg := http.StatusText(status)
	if msg == "" {
		msg = "Unexpected response"
	}
	return &Error{Status: status, Code: Unknown.Code, Message: msg}
}

// RetryAfter returns the M_LIMIT_EXCEEDED response for a request that may be tried again after d. The adapter also sends
// it as the Retry-After header, in whole seconds rounded up.
func RetryAfter(d time.Duration) *Error {
	return LimitExceeded.WithField("retry_after_ms", max(d.Milliseconds(), 1))
}
