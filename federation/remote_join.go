package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/writer"
)

// Join implements room.Remote. Identical joins that run at the same time are made once.
func (m *RemoteRooms) Join(ctx context.Context, j room.RemoteJoin) error {
	key := "join " + j.RoomID + " " + j.UserID + " " + string(j.Content)
	res, err := once(ctx, m, key, func(ctx context.Context) (res writer.Result, err error) {
		err = m.attempt(ctx, "join", j.RoomID, j.Servers, func(server string) (err error) {
			res, err = m.joinThrough(ctx, server, j)
			return err
		})
		return res, err
	})
	if err != nil {
		return err
	}
	return m.seen(ctx, res)
}

// joinThrough joins a room by the help of one server.
func (m *RemoteRooms) joinThrough(ctx context.Context, server string, j room.RemoteJoin) (writer.Result, error) {
	var none writer.Result
	t, err := m.cfg.Client.MakeJoin(ctx, server, j.RoomID, j.UserID, knownVersions())
	if err != nil {
		return none, err
	}
	v, err := templateVersion(t, "1")
	if err != nil {
		return none, err
	}
	join, err := fillTemplate(v, t.Event, j.RoomID, j.UserID, j.Content, m.cfg.Now().UnixMilli(), m.cfg.Signer)
	if err != nil {
		return none, err
	}
	got := newJoinResponse(join)
	res, err := m.cfg.Client.SendJoin(ctx, server, j.RoomID, join.ID(), join.JSON(), m.cfg.OnPartial != nil, got.sink())
	if err != nil {
		return none, err
	}
	if join, err = m.vouched(ctx, join, res.Event); err != nil {
		return none, err
	}
	state, err := m.checkJoin(ctx, v, join, got)
	if err != nil {
		return none, err
	}
	if res.MembersOmitted {
		state.partial = &writer.Partial{Via: server, Servers: res.ServersInRoom}
	} else if got.left > 0 {
		state.partial = &writer.Partial{Via: server, Servers: got.servers}
	}
	if state.partial != nil && m.cfg.OnPartial == nil {
		return none, fmt.Errorf("%w: the members are missing", errBadResponse)
	}
	written, err := m.enter(ctx, server, v, join, state)
	if err == nil && state.partial != nil {
		m.cfg.OnPartial()
	}
	return written, err
}

// vouched returns the join as the other servers have it: with the signature of the server that vouches for it, where one
// does.
func (m *RemoteRooms) vouched(ctx context.Context, join *event.Event, raw json.RawMessage) (*event.Event, error) {
	v := join.Version()
	by := gjson.GetBytes(join.Content(), "join_authorised_via_users_server")
	if !v.Restricted || by.Type != gjson.String {
		return join, nil
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("%w: the join came back without the signature of the server that vouches for it", errBadResponse)
	}
	signed, err := event.Parse(v, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	}
	if signed.ID() != join.ID() || signed.HashMismatch() {
		return nil, fmt.Errorf("%w: another join came back", errBadResponse)
	}
	if err := signed.VerifySignatures(ctx, m.ingest.cfg.Keys); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	}
	return signed, nil
}

// joinState is what a join enters on: events that were checked.
type joinState struct {
	// stateIDs are the events of the state before the join.
	stateIDs []string
	// events are those of the state and of the auth chain.
	events []*event.Event
	// partial is set where most members are missing.
	partial *writer.Partial
}

// checkJoin checks the events that come with a join, each by itself, and that the join stands by them. Events that fail
// are left out: old rooms have some that nobody can verify any more.
func (m *RemoteRooms) checkJoin(ctx context.Context, v *event.Version, join *event.Event, got *joinResponse) (*joinState, error) {
	state, err := m.ingest.CheckAll(ctx, v, join.RoomID(), got.state)
	if err != nil {
		return nil, err
	}
	chain, err := m.ingest.CheckAll(ctx, v, join.RoomID(), got.chainOf(v, append(state, join)))
	if err != nil {
		return nil, err
	}
	out := &joinState{events: append(chain, state...)}
	pieces := make(event.AuthMap, len(state))
	for _, e := range state {
		if !e.IsState() || e.ID() == join.ID() {
			continue
		}
		if pieces[e.Tuple()] != nil {
			return nil, fmt.Errorf("%w: the state has a piece twice", errBadResponse)
		}
		pieces[e.Tuple()] = e
		out.stateIDs = append(out.stateIDs, e.ID())
	}
	// Of members that are left out those that authorise the join are in its auth chain.
	for _, e := range chain {
		if e.IsState() && e.Type() == event.TypeMember && pieces[e.Tuple()] == nil && slices.Contains(join.AuthEvents(), e.ID()) {
			pieces[e.Tuple()] = e
			out.stateIDs = append(out.stateIDs, e.ID())
		}
	}
	if err := checkCreate(v, pieces[event.Tuple{Type: event.TypeCreate}]); err != nil {
		return nil, err
	}
	var refused *event.AuthError
	if err := event.Authorise(join, pieces); errors.As(err, &refused) {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	} else if err != nil {
		return nil, err
	}
	return out, nil
}

// checkCreate checks that a room has an m.room.create event, and that it names the version that the server says.
func checkCreate(v *event.Version, create *event.Event) error {
	if create == nil {
		return fmt.Errorf("%w: the state has no good m.room.create event", errBadResponse)
	}
	version := "1"
	if said := gjson.GetBytes(create.Content(), "room_version"); said.Exists() {
		version = said.String()
	}
	if version != v.ID {
		return fmt.Errorf("%w: the room's version is not what the server says", errBadResponse)
	}
	return nil
}

// enter writes a join, and the room as it was before it.
func (m *RemoteRooms) enter(ctx context.Context, server string, v *event.Version, join *event.Event, state *joinState) (writer.Result, error) {
	var none writer.Result
	stored, err := m.ingest.StoreOutliers(ctx, []string{server}, v, join.RoomID(), state.events)
	if err != nil {
		return none, ours(err)
	}
	have := make(map[string]bool, len(stored))
	for _, e := range stored {
		have[e.ID()] = true
	}
	before := make([]string, 0, len(state.stateIDs))
	for _, id := range state.stateIDs {
		if have[id] {
			before = append(before, id)
		}
	}
	if err := m.cfg.Writer.PrepareRoom(ctx, v, join.RoomID()); err != nil {
		return none, ours(err)
	}
	results, err := m.cfg.Writer.Receive(ctx, join.RoomID(), writer.Received{
		Event: join, StateBefore: before, Anew: true, Partial: state.partial,
	})
	if err != nil {
		return none, ours(err)
	}
	if res := results[0]; res.Rejected || res.SoftFailed {
		return none, ours(mxerr.Forbidden.WithMessage("The room does not allow the join"))
	}
	return results[0], nil
}
