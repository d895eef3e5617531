package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// JoinSink takes the events of the response to a join as they arrive. In which order state and auth chain come is up to
// the server. The events' bytes are the callee's to keep. An error ends the call and is returned.
type JoinSink struct {
	// State takes an event of the room's state before the join. Required.
	State func(event json.RawMessage) error
	// AuthChain takes an event of the auth chain of the state. Required.
	AuthChain func(event json.RawMessage) error
}

// JoinResult is what a server answers to a join beside the events.
type JoinResult struct {
	// Origin is the name the server gives itself, "" where it does not.
	Origin string
	// Event is the join with what the server has added to it, nil where it sends none back.
	Event json.RawMessage
	// MembersOmitted says that most members' events are missing from the state.
	MembersOmitted bool
	// ServersInRoom are the servers in the room before the join, if MembersOmitted.
	ServersInRoom []string
}

const (
	sendJoinTimeout     = 15 * time.Minute
	maxSendJoinResponse = 1 << 30
	// maxJoinMember bounds one member of the response that is no list of events, and one event of such a list. It is above
	// the 64 KiB of an event because a server may add much under unsigned.
	maxJoinMember = 1 << 20
	// maxJoinServers bounds the list of servers.
	maxJoinServers = 100_000
)

// SendJoin submits a signed join. omitMembers says that the state may come without the members. The response is read as a
// stream: what it takes in memory is one event, whatever the size of the room.
func (c *Client) SendJoin(ctx context.Context, server, roomID, eventID string, event json.RawMessage, omitMembers bool, sink JoinSink) (*JoinResult, error) {
	q := call{
		method: http.MethodPut, server: server, path: joinPath(v2+"/send_join", roomID, eventID), body: event,
		timeout: sendJoinTimeout, maxBytes: maxSendJoinResponse,
	}
	if omitMembers {
		q.query = "omit_members=true"
	}
	var out *JoinResult
	var sinkErr error
	read := func(wrapped bool) func(io.Reader) error {
		return func(body io.Reader) (err error) {
			out, sinkErr, err = decodeSendJoin(body, wrapped, sink)
			return err
		}
	}
	err := c.stream(ctx, q, read(false))
	if unserved(err) {
		q.path, q.query = joinPath(v1+"/send_join", roomID, eventID), ""
		err = c.stream(ctx, q, read(true))
	}
	if sinkErr != nil {
		return nil, sinkErr
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

var errSink = errors.New("the events were not taken")

// decodeSendJoin reads the response to a join. wrapped is for the first version of the endpoint: [200, {...}]. sinkErr is
// the error of the sink, if that was the cause.
func decodeSendJoin(body io.Reader, wrapped bool, sink JoinSink) (out *JoinResult, sinkErr, err error) {
	d := &joinDecoder{s: newJSONScanner(body), out: &JoinResult{}, stateKey: "state"}
	if wrapped {
		if err := d.s.openArray(); err != nil {
			return nil, nil, err
		}
		if more, err := d.s.element(); err != nil || !more {
			return nil, nil, errors.Join(errBadResponse, err)
		}
		if _, err := d.s.value(maxJoinMember); err != nil {
			return nil, nil, err
		}
		if more, err := d.s.element(); err != nil || !more {
			return nil, nil, errors.Join(errBadResponse, err)
		}
	}
	err = d.object(sink)
	if errors.Is(err, errSink) {
		return nil, d.sinkErr, err
	}
	if err != nil {
		return nil, nil, err
	}
	if !d.state || !d.authChain {
		return nil, nil, fmt.Errorf("%w: state or auth chain is missing", errBadResponse)
	}
	return d.out, nil, nil
}

// StreamState is State that reads the response as a stream, as SendJoin does.
func (c *Client) StreamState(ctx context.Context, server, roomID, eventID string, sink JoinSink) error {
	q := call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/state", roomID), query: url.Values{"event_id": {eventID}}.Encode(),
		timeout: sendJoinTimeout, maxBytes: maxSendJoinResponse,
	}
	var sinkErr error
	err := c.stream(ctx, q, func(body io.Reader) error {
		d := &joinDecoder{s: newJSONScanner(body), out: &JoinResult{}, stateKey: "pdus"}
		err := d.object(sink)
		if sinkErr = d.sinkErr; err == nil && (!d.state || !d.authChain) {
			err = fmt.Errorf("%w: state or auth chain is missing", errBadResponse)
		}
		return err
	})
	if sinkErr != nil {
		return sinkErr
	}
	return err
}

type joinDecoder struct {
	s                *jsonScanner
	out              *JoinResult
	state, authChain bool
	sinkErr          error
	// stateKey is the name of the member that has the state.
	stateKey string
}

func (d *joinDecoder) object(sink JoinSink) error {
	if err := d.s.openObject(); err != nil {
		return err
	}
	for {
		key, more, err := d.s.key()
		if err != nil || !more {
			return err
		}
		switch key {
		case d.stateKey:
			if d.state {
				return fmt.Errorf("%w: state is there twice", errBadResponse)
			}
			d.state = true
			err = d.events(sink.State)
		case "auth_chain":
			if d.authChain {
				return fmt.Errorf("%w: auth_chain is there twice", errBadResponse)
			}
			d.authChain = true
			err = d.events(sink.AuthChain)
		case "servers_in_room":
			err = d.servers()
		default:
			err = d.member(key)
		}
		if err != nil {
			return err
		}
	}
}

func (d *joinDecoder) events(take func(json.RawMessage) error) error {
	if err := d.s.openArray(); err != nil {
		return err
	}
	for {
		more, err := d.s.element()
		if err != nil || !more {
			return err
		}
		event, err := d.s.value(maxJoinMember)
		if err != nil {
			return err
		}
		if err := take(event); err != nil {
			d.sinkErr = err
			return errSink
		}
	}
}

func (d *joinDecoder) servers() error {
	if d.s.null() {
		return nil
	}
	if err := d.s.openArray(); err != nil {
		return err
	}
	d.out.ServersInRoom = nil
	for {
		more, err := d.s.element()
		if err != nil || !more {
			return err
		}
		raw, err := d.s.value(maxJoinMember)
		if err != nil {
			return err
		}
		var server string
		if err := decodeResponse(raw, &server); err != nil {
			return err
		}
		if len(d.out.ServersInRoom) == maxJoinServers {
			return fmt.Errorf("%w: more than %d servers", errBadResponse, maxJoinServers)
		}
		d.out.ServersInRoom = append(d.out.ServersInRoom, server)
	}
}

func (d *joinDecoder) member(key string) error {
	raw, err := d.s.value(maxJoinMember)
	if err != nil {
		return err
	}
	switch key {
	case "origin":
		return decodeResponse(raw, &d.out.Origin)
	case "members_omitted", "org.matrix.msc3706.partial_state":
		return decodeResponse(raw, &d.out.MembersOmitted)
	case "event":
		if string(raw) != "null" {
			d.out.Event = raw
		}
	}
	return nil
}
