package federation

import (
	"bytes"
	"cmp"
	"context"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
)

// Invite implements room.Remote. The invite is made here, signed by the invited user's server too, and then written: a
// server that wants no invite, or is not there, keeps it out of the room.
//
// Errors: those of the rules, and of the other server; M_CONNECTION_FAILED where that cannot be reached.
//
// Spec: server-server API, "Inviting to a room" (v1.19).
func (m *RemoteRooms) Invite(ctx context.Context, roomID string, d writer.Draft) (writer.Result, error) {
	var none writer.Result
	r, err := m.store.Room(ctx, roomID)
	if err != nil {
		return none, fmt.Errorf("find room %s: %w", roomID, err)
	}
	head, err := m.store.Head(ctx, r.NID)
	if err != nil {
		return none, fmt.Errorf("read head of %s: %w", roomID, err)
	}
	if d.SkipUnchanged {
		old, err := m.unchanged(ctx, r, head, d)
		if err != nil || old != nil {
			return resultOf(old), err
		}
	}
	invite, err := buildAt(ctx, m.store, m.cfg.Signer, r, head, m.memberDraft(d))
	if err != nil {
		return none, err
	}
	tuples := []event.Tuple{{Type: event.TypeMember, StateKey: d.Sender}}
	for _, t := range strippedTypes {
		tuples = append(tuples, event.Tuple{Type: t})
	}
	shown, err := m.store.StateEvents(ctx, head.StateRoot, tuples)
	if err != nil {
		return none, fmt.Errorf("read state: %w", err)
	}
	in := Invite{RoomVersion: r.Version.ID, Event: invite.JSON()}
	for _, e := range shown {
		if e != nil {
			in.State = append(in.State, e.JSON())
		}
	}
	server := event.ServerName(*d.StateKey)
	raw, err := m.cfg.Client.Invite(ctx, server, roomID, invite.ID(), in)
	if err != nil {
		return none, inviteError(ctx, err)
	}
	signed, err := m.signedInvite(ctx, server, invite, raw)
	if err != nil {
		return none, mxerr.ConnectionFailed.WithMessage("The user's server did not sign the invite").Wrap(err)
	}
	results, err := m.cfg.Writer.Receive(ctx, roomID, writer.Received{Event: signed, Relay: true})
	if err != nil {
		return none, err
	}
	if results[0].Rejected || results[0].SoftFailed {
		return none, mxerr.Forbidden.WithMessage("The room does not allow the invite any more")
	}
	return results[0], nil
}

// inviteError says why another server did not sign an invite.
func inviteError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if mx := answered(err); mx != nil {
		return passOn(mx)
	}
	return mxerr.ConnectionFailed.WithMessage("The user's server cannot be reached").Wrap(err)
}

// unchanged returns the current event that a draft would only repeat, nil if there is none.
func (m *RemoteRooms) unchanged(ctx context.Context, r *store.Room, head *store.Head, d writer.Draft) (*store.Event, error) {
	old, err := m.store.StateEvent(ctx, head.StateRoot, d.Type, *d.StateKey)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if old == nil || old.Sender() != d.Sender {
		return nil, nil
	}
	content, err := r.Version.Canonical(d.Content)
	if err != nil || !bytes.Equal(content, old.Content()) {
		return nil, nil
	}
	return old, nil
}

// memberDraft is a writer's draft as an event's.
func (m *RemoteRooms) memberDraft(d writer.Draft) event.Draft {
	return event.Draft{
		Sender: d.Sender, Type: d.Type, StateKey: d.StateKey, Content: d.Content,
		OriginServerTS: cmp.Or(d.OriginServerTS, m.cfg.Now().UnixMilli()),
	}
}

func resultOf(e *store.Event) writer.Result {
	if e == nil {
		return writer.Result{}
	}
	return writer.Result{EventID: e.ID(), Duplicate: true}
}

// signedInvite checks that an invite came back with the other server's signature, and otherwise as it was.
func (m *RemoteRooms) signedInvite(ctx context.Context, server string, invite *event.Event, raw []byte) (*event.Event, error) {
	e, err := event.Parse(invite.Version(), raw)
	if err != nil {
		return nil, err
	}
	// In room versions 1 and 2 the id says nothing of what the event holds.
	if e.ID() != invite.ID() || e.HashMismatch() || e.ReferenceHash() != invite.ReferenceHash() {
		return nil, fmt.Errorf("%w: another event came back", errBadResponse)
	}
	if err := e.VerifySignatures(ctx, m.ingest.cfg.Keys); err != nil {
		return nil, err
	}
	return e, e.VerifySignedBy(ctx, m.ingest.cfg.Keys, server)
}

// strippedTypes are the pieces of state that others see of a room they are invited to or knock on (client-server API,
// "Stripped state").
var strippedTypes = [...]string{
	event.TypeCreate, "m.room.name", "m.room.avatar", "m.room.topic", event.TypeJoinRules, "m.room.canonical_alias", "m.room.encryption",
}
