package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// access is how far a user may read a room.
type access struct {
	room *store.Room
	// member is the user's place in the room, nil for those who never had one.
	member *store.Member
	// left is the event that ended the user's stay, nil while they are joined and where everybody may look in. Its state,
	// and the events up to it, are the last they may see.
	left *store.Event
	// peek is set for those who look into a world-readable room.
	peek bool
}

// joined reports whether the user is in the room now.
func (a *access) joined() bool {
	return a.member != nil && a.member.Membership == storage.MembershipJoin
}

// room finds a room by id.
//
// Errors: M_INVALID_PARAM for what is no room id, M_NOT_FOUND for rooms this server does not know.
func (s *Service) room(ctx context.Context, roomID string) (*store.Room, error) {
	if len(roomID) > id.MaxLength || len(roomID) < 2 || roomID[0] != '!' {
		return nil, mxerr.InvalidParam.WithMessage("That is not a room ID")
	}
	r, err := s.store.Room(ctx, roomID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("Unknown room").Wrap(err)
	}
	if err != nil {
		return nil, fmt.Errorf("find room %s: %w", roomID, err)
	}
	return r, nil
}

// readable finds a room that the user may read at least in part: they are joined, they were, or anyone may.
//
// Errors: M_INVALID_PARAM for what is no room id, M_FORBIDDEN otherwise, for rooms that are not there too, so that the
// answer does not tell whether they are.
func (s *Service) readable(ctx context.Context, who *Requester, roomID string) (*access, error) {
	denied := mxerr.Forbidden.WithMessage(fmt.Sprintf("User %s is not in the room, and room previews are disabled", who.UserID))
	r, err := s.room(ctx, roomID)
	if errors.Is(err, mxerr.NotFound) {
		return nil, denied
	}
	if err != nil {
		return nil, err
	}
	a := &access{room: r}
	if a.member, err = s.store.Membership(ctx, r.NID, who.UserID); err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", who.UserID, roomID, err)
	}
	if a.joined() {
		return a, nil
	}
	hv, err := s.current(ctx, r, event.TypeHistoryVisibility, "")
	if err != nil {
		return nil, err
	}
	if hv != nil && gjson.GetBytes(hv.Content(), "history_visibility").Str == view.WorldReadable {
		a.peek = true
		return a, nil
	}
	if a.member == nil || a.member.Membership != storage.MembershipLeave && a.member.Membership != storage.MembershipBan {
		return nil, denied
	}
	forgotten, err := s.forgotten(ctx, r, a.member.UserNID)
	if err != nil {
		return nil, err
	}
	if forgotten {
		return nil, denied
	}
	last, err := s.views.LastJoined(ctx, r.NID, who.UserID)
	if err != nil {
		return nil, err
	}
	if last <= 0 {
		return nil, denied
	}
	es, err := s.store.Events(ctx, []storage.EventNID{last})
	if err != nil {
		return nil, fmt.Errorf("read the event that ended the stay of %s in %s: %w", who.UserID, roomID, err)
	}
	if a.left = es[0]; a.left == nil {
		return nil, denied
	}
	return a, nil
}

// forgotten reports whether a user has forgotten a room. The row is read each time: what one process forgets, the caches
// of the others do not learn from any stream.
func (s *Service) forgotten(ctx context.Context, r *store.Room, user storage.UserNID) (bool, error) {
	rows, err := storage.GetMembers(ctx, s.cfg.DB, r.NID, []storage.UserNID{user})
	if err != nil {
		return false, fmt.Errorf("read membership in %s: %w", r.ID, err)
	}
	return len(rows) == 1 && rows[0].Forgotten, nil
}

// CheckReadable tells whether a user may read a room at least in part.
//
// Errors: M_INVALID_PARAM for what is no room id, M_FORBIDDEN, for unknown rooms too.
func (s *Service) CheckReadable(ctx context.Context, who *Requester, roomID string) error {
	_, err := s.readable(ctx, who, roomID)
	return err
}

// member finds a room that the user is joined to. Errors are those of readable.
func (s *Service) member(ctx context.Context, who *Requester, roomID string) (*store.Room, error) {
	denied := mxerr.Forbidden.WithMessage(fmt.Sprintf("User %s is not in the room", who.UserID))
	r, err := s.room(ctx, roomID)
	if errors.Is(err, mxerr.NotFound) {
		return nil, denied
	}
	if err != nil {
		return nil, err
	}
	m, err := s.store.Membership(ctx, r.NID, who.UserID)
	if err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", who.UserID, roomID, err)
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return nil, denied
	}
	return r, nil
}

// root returns the state a user may read: the current one, or that just after they left.
func (s *Service) root(ctx context.Context, a *access) (store.Root, error) {
	if a.left != nil {
		r, err := s.store.StateAfter(ctx, a.left)
		if err != nil {
			return store.Root{}, fmt.Errorf("find the state after %s: %w", a.left.ID(), err)
		}
		return r, nil
	}
	h, err := s.store.Head(ctx, a.room.NID)
	if err != nil {
		return store.Root{}, fmt.Errorf("read head of %s: %w", a.room.ID, err)
	}
	return h.StateRoot, nil
}

// current returns a piece of a room's current state, nil where there is none, also in rooms of which no state is known.
func (s *Service) current(ctx context.Context, r *store.Room, typ, stateKey string) (*store.Event, error) {
	e, err := s.store.CurrentStateEvent(ctx, r.NID, typ, stateKey)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", typ, r.ID, err)
	}
	return e, nil
}

// levels returns the room's current power levels.
func (s *Service) levels(ctx context.Context, r *store.Room) (*event.PowerLevels, error) {
	es, err := s.store.CurrentState(ctx, r.NID, &store.StateFilter{Tuples: []event.Tuple{
		{Type: event.TypeCreate}, {Type: event.TypePowerLevels},
	}})
	if err != nil {
		return nil, fmt.Errorf("read power levels of %s: %w", r.ID, err)
	}
	var create, pl *event.Event
	for _, e := range es {
		switch e.Type() {
		case event.TypeCreate:
			create = e.Event
		case event.TypePowerLevels:
			pl = e.Event
		}
	}
	if create == nil {
		return nil, fmt.Errorf("room %s has no m.room.create", r.ID)
	}
	return event.NewPowerLevels(create, pl), nil
}

// locallyJoined reports whether this server has anybody in a room, so that it may act in it by itself.
func (s *Service) locallyJoined(ctx context.Context, r *store.Room) (bool, error) {
	st, err := s.stats(ctx, r)
	return err == nil && st.LocalJoined > 0, err
}

// stats returns what a room shows of itself, of which there may be nothing.
func (s *Service) stats(ctx context.Context, r *store.Room) (*storage.RoomStats, error) {
	st, err := s.store.Stats(ctx, []storage.RoomNID{r.NID})
	if err != nil {
		return nil, fmt.Errorf("read statistics of %s: %w", r.ID, err)
	}
	if st[0] == nil {
		return &storage.RoomStats{}, nil
	}
	return st[0], nil
}

// IsJoined reports whether a user is in a room; nobody is in rooms that are not there.
//
// Errors: M_INVALID_PARAM for what is no room id.
func (s *Service) IsJoined(ctx context.Context, who *Requester, roomID string) (bool, error) {
	_, err := s.member(ctx, who, roomID)
	if errors.Is(err, mxerr.Forbidden) {
		return false, nil
	}
	return err == nil, err
}
