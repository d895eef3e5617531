package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// Leave implements room.Remote. Where no server of the room takes the leave, the user leaves all the same, as far as this
// server can tell: nobody has to stay invited by a server that is gone.
func (m *RemoteRooms) Leave(ctx context.Context, j room.RemoteJoin) error {
	res, err := once(ctx, m, "leave "+j.RoomID+" "+j.UserID, func(ctx context.Context) (writer.Result, error) {
		var leave *event.Event
		err := m.attempt(ctx, "leave", j.RoomID, j.Servers, func(server string) (err error) {
			leave, err = m.leaveThrough(ctx, server, j)
			return err
		})
		if _, ok := mxerr.As(err); ok {
			leave, err = m.leaveAlone(ctx, j)
		}
		if err != nil {
			return writer.Result{}, err
		}
		return m.cfg.Writer.ReceiveOutOfBand(ctx, writer.OutOfBand{Event: leave})
	})
	if err != nil {
		return err
	}
	return m.seen(ctx, res)
}

// leaveThrough leaves a room by the help of one server.
func (m *RemoteRooms) leaveThrough(ctx context.Context, server string, j room.RemoteJoin) (*event.Event, error) {
	v, err := m.roomVersion(ctx, j.RoomID)
	if err != nil {
		return nil, err
	}
	t, err := m.cfg.Client.MakeLeave(ctx, server, j.RoomID, j.UserID)
	if err != nil {
		return nil, err
	}
	if said, err := templateVersion(t, v.ID); err != nil || said != v {
		return nil, fmt.Errorf("%w: the room has another version", errBadResponse)
	}
	leave, err := fillTemplate(v, t.Event, j.RoomID, j.UserID, j.Content, m.cfg.Now().UnixMilli(), m.cfg.Signer)
	if err != nil {
		return nil, err
	}
	return leave, m.cfg.Client.SendLeave(ctx, server, j.RoomID, leave.ID(), leave.JSON())
}

// roomVersion returns the version of a room that is known here.
func (m *RemoteRooms) roomVersion(ctx context.Context, roomID string) (*event.Version, error) {
	r, err := m.store.Room(ctx, roomID)
	if err != nil {
		return nil, ours(fmt.Errorf("find room %s: %w", roomID, err))
	}
	return r.Version, nil
}

// leaveAlone makes a leave that follows the event by which the user is invited or has knocked. No other server sees it.
//
// Errors: M_FORBIDDEN where the user has nothing to leave.
func (m *RemoteRooms) leaveAlone(ctx context.Context, j room.RemoteJoin) (*event.Event, error) {
	r, err := m.store.Room(ctx, j.RoomID)
	if err != nil {
		return nil, fmt.Errorf("find room %s: %w", j.RoomID, err)
	}
	member, err := m.store.Membership(ctx, r.NID, j.UserID)
	if err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", j.UserID, j.RoomID, err)
	}
	if member == nil || member.Membership == storage.MembershipBan {
		return nil, mxerr.Forbidden.WithMessage("The user is not in the room")
	}
	found, err := m.store.Events(ctx, []storage.EventNID{member.EventNID})
	if err != nil {
		return nil, fmt.Errorf("read membership event: %w", err)
	}
	if found[0] == nil {
		return nil, fmt.Errorf("membership event of %s: %w", j.UserID, storage.ErrNotFound)
	}
	before := found[0].Event
	auth := append(slices.Clone(before.AuthEvents()), before.ID())
	if n := len(auth); n > event.MaxAuthEvents {
		auth = auth[n-event.MaxAuthEvents:]
	}
	leave, err := event.Build(r.Version, event.Draft{
		RoomID: r.ID, Sender: j.UserID, Type: event.TypeMember, StateKey: &j.UserID, Content: j.Content,
		PrevEvents: []string{before.ID()}, AuthEvents: auth, RefHashes: map[string]string{before.ID(): refHash(before)},
		Depth: before.Depth() + 1, OriginServerTS: m.cfg.Now().UnixMilli(),
	}, m.cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("make leave: %w", err)
	}
	return leave, nil
}

// Knock implements room.Remote.
func (m *RemoteRooms) Knock(ctx context.Context, j room.RemoteJoin) error {
	res, err := once(ctx, m, "knock "+j.RoomID+" "+j.UserID, func(ctx context.Context) (writer.Result, error) {
		var out writer.OutOfBand
		err := m.attempt(ctx, "knock", j.RoomID, j.Servers, func(server string) (err error) {
			out, err = m.knockThrough(ctx, server, j)
			return err
		})
		if err != nil {
			return writer.Result{}, err
		}
		return m.cfg.Writer.ReceiveOutOfBand(ctx, out)
	})
	if err != nil {
		return err
	}
	return m.seen(ctx, res)
}

// knockThrough knocks on a room by the help of one server.
func (m *RemoteRooms) knockThrough(ctx context.Context, server string, j room.RemoteJoin) (out writer.OutOfBand, err error) {
	var versions []string
	for _, v := range event.Versions() {
		if v.Knock {
			versions = append(versions, v.ID)
		}
	}
	t, err := m.cfg.Client.MakeKnock(ctx, server, j.RoomID, j.UserID, versions)
	if err != nil {
		return out, err
	}
	v, err := templateVersion(t, "")
	if err != nil || !v.Knock {
		return out, errors.Join(errBadResponse, err)
	}
	if out.Event, err = fillTemplate(v, t.Event, j.RoomID, j.UserID, j.Content, m.cfg.Now().UnixMilli(), m.cfg.Signer); err != nil {
		return out, err
	}
	state, err := m.cfg.Client.SendKnock(ctx, server, j.RoomID, out.Event.ID(), out.Event.JSON())
	if err != nil {
		return out, err
	}
	out.Stripped = stripState(state)
	return out, nil
}
