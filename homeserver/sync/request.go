package sync

import (
	"io"
	"time"

	"github.com/weft-im/weft/homeserver/requester"
)

// Request is one /sync request.
type Request struct {
	// Requester is whose view is asked for. Required.
	Requester *requester.Requester
	// Since is the next_batch of an earlier response, or "" for an initial sync.
	Since string
	// Filter is a filter as a JSON object, the id of a stored one, or "".
	Filter string
	// FullState asks for all state of all rooms, whatever Since is, at once.
	FullState bool
	// UseStateAfter asks for the state at the end of the timeline instead of its start.
	UseStateAfter bool
	// ProposedStateAfter has the state of UseStateAfter stand under the name it had as a proposal (MSC4222).
	ProposedStateAfter bool
	// SetPresence is "online", "offline" or "unavailable". "" stands for "online".
	SetPresence string
	// Timeout bounds how long the request waits when there is nothing new. Zero answers at once.
	Timeout time.Duration
	// Stop, if not nil, ends the wait when it is closed: a process that stops has the client ask another one.
	Stop <-chan struct{}
}

// Response is the answer to a request. It is written once.
type Response struct {
	// NextBatch is the token the response leads up to.
	NextBatch string

	write func(w io.Writer) error
}

// Write writes the response as JSON, piece by piece where it is long.
func (r *Response) Write(w io.Writer) error { return r.write(w) }
