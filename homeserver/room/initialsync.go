package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// InitialRoom is a room as the deprecated /initialSync and /rooms/{roomId}/initialSync show it.
type InitialRoom struct {
	RoomID      string            `json:"room_id"`
	Membership  string            `json:"membership,omitempty"`
	Messages    *InitialMessages  `json:"messages,omitempty"`
	State       json.RawMessage   `json:"state,omitempty"`
	Visibility  string            `json:"visibility,omitempty"`
	AccountData []json.RawMessage `json:"account_data"`
	// Invite is the invite where the user is invited, Inviter who sent it.
	Invite  json.RawMessage `json:"invite,omitempty"`
	Inviter string          `json:"inviter,omitempty"`
	// Presence and Receipts are empty: they come with /sync.
	Presence []json.RawMessage `json:"presence"`
	Receipts []json.RawMessage `json:"receipts"`
}

// InitialMessages are the last events of a room, oldest first, with the tokens around them.
type InitialMessages struct {
	Start string          `json:"start"`
	End   string          `json:"end"`
	Chunk json.RawMessage `json:"chunk"`
}

// InitialSync is the answer to the deprecated /initialSync.
type InitialSync struct {
	End         string            `json:"end"`
	Rooms       []InitialRoom     `json:"rooms"`
	Presence    []json.RawMessage `json:"presence"`
	AccountData []json.RawMessage `json:"account_data"`
	Receipts    []json.RawMessage `json:"receipts"`
}

// Positions tells how far the streams have been read.
type Positions interface {
	// Current returns the point in all streams that this process has reached.
	Current() token.Sync
}

// RoomInitialSync returns a room's state and its last events, at most limit.
//
// Errors: M_FORBIDDEN, for unknown rooms too.
func (s *Service) RoomInitialSync(ctx context.Context, who *Requester, roomID string, limit int) (*InitialRoom, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	return s.initialRoom(ctx, who, a, limit)
}

func (s *Service) initialRoom(ctx context.Context, who *Requester, a *access, limit int) (*InitialRoom, error) {
	end, err := s.endOf(ctx, a)
	if err != nil {
		return nil, err
	}
	got := &walked{next: end}
	if limit = min(limit, MaxPage); limit > 0 {
		w := window{room: a.room, upTo: end, backwards: true, limit: limit, filter: &filter.Events{}}
		if got, err = s.walk(ctx, who, w); err != nil {
			return nil, err
		}
	}
	slices.Reverse(got.events)
	state, err := s.state(ctx, a, nil)
	if err != nil {
		return nil, err
	}
	visibility, err := s.Visibility(ctx, a.room.ID)
	if err != nil {
		return nil, err
	}
	data, err := s.accountData(ctx, who.UserID, a.room.ID)
	if err != nil {
		return nil, err
	}
	v, f := s.viewer(who), s.format()
	out := &InitialRoom{
		RoomID: a.room.ID,
		Messages: &InitialMessages{
			Start: tokenAt(got.next), End: tokenAt(end), Chunk: view.AppendArray(nil, got.events, v, f),
		},
		State:       view.AppendStateArray(nil, state, v, f),
		Visibility:  visibility,
		AccountData: data,
		Presence:    []json.RawMessage{},
		Receipts:    []json.RawMessage{},
	}
	if a.member != nil {
		out.Membership = nameOf(a.member.Membership)
	}
	return out, nil
}

// InitialSync returns all the user's rooms, each with its state and its last events, and with archived also those the
// user has left.
func (s *Service) InitialSync(ctx context.Context, who *Requester, limit int, archived bool) (*InitialSync, error) {
	end, err := s.currentToken()
	if err != nil {
		return nil, err
	}
	nid, err := s.store.UserNID(ctx, who.UserID)
	if err != nil {
		return nil, fmt.Errorf("find user: %w", err)
	}
	wanted := []storage.Membership{storage.MembershipJoin, storage.MembershipInvite}
	if archived {
		wanted = append(wanted, storage.MembershipLeave, storage.MembershipBan)
	}
	urs, err := s.store.UserRooms(ctx, nid, wanted...)
	if err != nil {
		return nil, fmt.Errorf("list rooms of %s: %w", who.UserID, err)
	}
	data, err := s.accountData(ctx, who.UserID, "")
	if err != nil {
		return nil, err
	}
	out := &InitialSync{
		End: end, Rooms: []InitialRoom{}, AccountData: data, Presence: []json.RawMessage{}, Receipts: []json.RawMessage{},
	}
	for _, ur := range urs {
		if ur.Forgotten {
			continue
		}
		r, err := s.store.RoomByNID(ctx, ur.RoomNID)
		if err != nil {
			return nil, fmt.Errorf("find room %d: %w", ur.RoomNID, err)
		}
		var ir *InitialRoom
		if ur.Membership == storage.MembershipInvite {
			ir, err = s.initialInvite(ctx, who, r, ur)
		} else {
			a, accessErr := s.readable(ctx, who, r.ID)
			if accessErr != nil {
				continue // left without ever having been in it: there is nothing to show
			}
			ir, err = s.initialRoom(ctx, who, a, limit)
		}
		if err != nil {
			return nil, err
		}
		out.Rooms = append(out.Rooms, *ir)
	}
	return out, nil
}

func (s *Service) initialInvite(ctx context.Context, who *Requester, r *store.Room, ur store.UserRoom) (*InitialRoom, error) {
	ir := &InitialRoom{
		RoomID: r.ID, Membership: event.MembershipInvite,
		AccountData: []json.RawMessage{}, Presence: []json.RawMessage{}, Receipts: []json.RawMessage{},
	}
	es, err := s.store.Events(ctx, []storage.EventNID{ur.EventNID})
	if err != nil {
		return nil, fmt.Errorf("read invite to %s: %w", r.ID, err)
	}
	if es[0] != nil {
		ir.Inviter = es[0].Sender()
		ir.Invite = view.AppendState(nil, es[0], s.viewer(who), s.format())
	}
	return ir, nil
}

// AnyEvent returns an event by its id alone.
//
// Errors: M_NOT_FOUND, also for events the user may not see.
func (s *Service) AnyEvent(ctx context.Context, who *Requester, eventID string) (json.RawMessage, error) {
	es, err := s.store.EventsByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("read event %s: %w", eventID, err)
	}
	if es[0] == nil {
		return nil, mxerr.NotFound.WithMessage("Could not find event " + eventID)
	}
	r, err := s.store.RoomByNID(ctx, es[0].RoomNID)
	if err != nil {
		return nil, fmt.Errorf("find room %d: %w", es[0].RoomNID, err)
	}
	return s.Event(ctx, who, r.ID, eventID)
}

// accountData returns a user's account data events of a room, of no room where roomID is "".
func (s *Service) accountData(ctx context.Context, userID, roomID string) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	user, err := s.store.UserNID(ctx, userID)
	if err != nil || user == 0 {
		return out, err
	}
	rows, err := storage.AccountDataSnapshot(ctx, s.cfg.DB, user, []string{roomID})
	if err != nil {
		return nil, fmt.Errorf("read account data of %s: %w", userID, err)
	}
	for _, r := range rows {
		out = append(out, mustJSON(map[string]any{"type": r.Type, "content": r.Content}))
	}
	return out, nil
}

func (s *Service) currentToken() (string, error) {
	var t token.Sync
	if s.cfg.Positions != nil {
		t = s.cfg.Positions.Current()
	}
	text, err := t.Encode(s.cfg.WriterIDs)
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	return text, nil
}
