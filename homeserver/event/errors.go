package event

import (
	"errors"
	"fmt"
)

// ErrTooLarge is wrapped by errors about an event over 65,536 bytes, or a field over 255. Over the client-server API it
// is M_TOO_LARGE.
var ErrTooLarge = errors.New("event too large")

// ErrBadJSON is wrapped by errors about bytes that are not JSON, not UTF-8, or not allowed by canonical JSON in the room
// version. Over the client-server API it is M_BAD_JSON.
var ErrBadJSON = errors.New("bad JSON")

// ErrKeyNotFound is what a [KeyRing] returns for a key that it cannot find, or that was not valid at the time asked for.
var ErrKeyNotFound = errors.New("signing key not found")

// FormatError says why bytes are not an event of their room version. Such an event is dropped on receipt.
type FormatError struct {
	// Field is the name of the property at fault, empty if it is the event as a whole.
	Field string
	// Reason says what is wrong with it.
	Reason string
	// Err is ErrTooLarge, ErrBadJSON or nil.
	Err error
}

// Error describes the fault.
func (e *FormatError) Error() string {
	if e.Field == "" {
		return "malformed event: " + e.Reason
	}
	return fmt.Sprintf("malformed event: %s: %s", e.Field, e.Reason)
}

// Unwrap returns ErrTooLarge, ErrBadJSON or nil.
func (e *FormatError) Unwrap() error { return e.Err }

// SignatureError says which server's signature an event lacks.
type SignatureError struct {
	// Server is the name of the server that should have signed.
	Server string
	// Reason says what is wrong.
	Reason string
	// Err is the cause where there is one: ErrKeyNotFound, or what the KeyRing returned.
	Err error
}

// Error describes the fault.
func (e *SignatureError) Error() string {
	return fmt.Sprintf("signature of %s: %s", e.Server, e.Reason)
}

// Unwrap returns the cause.
func (e *SignatureError) Unwrap() error { return e.Err }

// AuthError says which authorisation rule rejects an event.
type AuthError struct {
	// Rule is the number of the rule in the specification of the room version, such as "5.3.2".
	Rule string
	// Reason says in words why the event is not allowed.
	Reason string
}

// Error describes the rejection.
func (e *AuthError) Error() string {
	return fmt.Sprintf("not allowed by auth rule %s: %s", e.Rule, e.Reason)
}
