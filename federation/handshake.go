package federation

import (
	"context"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
)

// v1Response is how version 1 of some endpoints wraps what version 2 answers (server-server API, "PUT /_matrix/
// federation/v1/send_join/{roomId}/{eventId}").
func v1Response(v any, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return []any{200, v}, nil
}

// signedMember reads the member event that a user of the asking server sends about themselves, and checks what can be
// checked without the room.
//
// Errors: M_INVALID_PARAM.
func (in *Inbound) signedMember(ctx context.Context, r *homeserver.Request, room *store.Room, membership string) (*event.Event, error) {
	raw, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	e, err := parseEvent(room.Version, raw)
	if err != nil {
		return nil, err
	}
	user, isState := e.StateKey()
	invalid := func(why string) error { return mxerr.InvalidParam.WithMessage(why) }
	switch {
	case e.ID() != r.Param("eventId"):
		return nil, invalid("The event ID does not match the event")
	case e.RoomID() != room.ID:
		return nil, invalid("The event is of another room")
	case !isState || e.Type() != event.TypeMember:
		return nil, invalid("The event is not an m.room.member event")
	case e.Membership() != membership:
		return nil, invalid("The membership is not " + membership)
	case user != e.Sender():
		return nil, invalid("The state key is not the sender")
	case event.ServerName(e.Sender()) != r.Origin():
		return nil, invalid("The sender is of another server")
	case e.HashMismatch():
		return nil, invalid("The content hash does not match")
	}
	if err := e.VerifySignedBy(ctx, in.ingest.cfg.Keys, r.Origin()); err != nil {
		return nil, badSignature(err)
	}
	return e, nil
}

// accept writes a member event that its sender's server has brought, and returns it as it is stored.
//
// Errors: M_FORBIDDEN where the room does not let it in.
func (in *Inbound) accept(ctx context.Context, origin string, room *store.Room, e *event.Event) (*store.Event, error) {
	results, err := in.cfg.Writer.Receive(ctx, room.ID, writer.Received{Event: e, Relay: true})
	var missing *writer.MissingEventsError
	if errors.As(err, &missing) {
		if err = in.ingest.complete(ctx, origin, room, e, missing, true); err == nil {
			results, err = in.cfg.Writer.Receive(ctx, room.ID, writer.Received{Event: e, Relay: true})
		}
	}
	if err != nil {
		return nil, err
	}
	if results[0].Rejected || results[0].SoftFailed {
		return nil, mxerr.Forbidden.WithMessage("The event is not allowed in the room")
	}
	es, err := in.store.PlacedByID(ctx, []string{e.ID()})
	if err != nil {
		return nil, fmt.Errorf("read event %s: %w", e.ID(), err)
	}
	if es[0] == nil {
		return nil, fmt.Errorf("event %s is not there once it is written", e.ID())
	}
	return es[0], nil
}
