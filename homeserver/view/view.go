// Package view shows stored events to one user: which of them the user may see, and as what JSON.
//
// Whether an event may be seen depends on the history visibility and on the user's membership in the state of the room
// at that event, so both are looked up in the state trees, for all events of a call together.
//
// Spec: client-server API, "Room History Visibility" and "Room Event Format" (v1.19).
package view

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// The values of history_visibility.
const (
	WorldReadable = "world_readable"
	Shared        = "shared"
	Invited       = "invited"
	Joined        = "joined"
)

var visibilityTuple = event.Tuple{Type: event.TypeHistoryVisibility}

// Views answers what users see. It holds no state of its own and is safe for concurrent use.
type Views struct {
	store *store.Store
}

// New returns views of the events of a store.
func New(s *store.Store) *Views { return &Views{store: s} }

// Viewer is who looks.
type Viewer struct {
	// UserID is the user. Required.
	UserID string
	// DeviceID is the device, which alone is told the transaction ids of what it sent; "" for none.
	DeviceID string
	// Ignored are users whose messages the user does not want to see. Their state events are shown all the same.
	Ignored map[string]bool
}

// Event is a stored event as one user sees it.
type Event struct {
	*store.Event
	// Visible says that the user may see the event.
	Visible bool
	// Membership is the user's membership once the event had happened: "leave" for those who never had one.
	Membership string
	// Prev is the event that a state event replaced, nil for others and for the first of its kind.
	Prev *store.Event
	// Related says that other events may relate to this one, which Bundle then looks up. Of leaves it unset.
	Related bool

	// Relations is unsigned["m.relations"], from Bundle; nil where nothing relates to the event.
	Relations json.RawMessage
}

// Of returns events as a user sees them, in the order of events, those that are not visible included.
//
// It costs one lookup of a few keys in the distinct states of the events, and one read of the events found there: with
// warm caches nothing.
func (v *Views) Of(ctx context.Context, who Viewer, events []*store.Event) ([]Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	states, err := v.statesBefore(ctx, who, events)
	if err != nil {
		return nil, fmt.Errorf("look up the state of %d events: %w", len(events), err)
	}
	out := make([]Event, len(events))
	lastJoined := map[storage.RoomNID]storage.EventNID{}
	for i, e := range events {
		st := states[i]
		before := point{visibilityOf(st.visibility), membershipOf(st.member)}
		after := before
		if e.Is(event.TypeHistoryVisibility, "") {
			after.visibility = visibilityOf(e)
		}
		if e.Is(event.TypeMember, who.UserID) {
			after.membership = membershipOf(e)
		}
		out[i] = Event{Event: e, Membership: after.membership, Visible: before.allows() || after.allows()}
		out[i].Prev = st.replaced
		if e.Flags.Hidden() || who.Ignored[e.Sender()] && !e.IsState() {
			out[i].Visible = false
			continue
		}
		if out[i].Visible || before.visibility != Shared && after.visibility != Shared {
			continue
		}
		last, known := lastJoined[e.RoomNID]
		if !known {
			if last, err = v.LastJoined(ctx, e.RoomNID, who.UserID); err != nil {
				return nil, err
			}
			lastJoined[e.RoomNID] = last
		}
		out[i].Visible = e.NID < last
	}
	return out, nil
}

// Visible is Of without the events that the user may not see.
func (v *Views) Visible(ctx context.Context, who Viewer, events []*store.Event) ([]Event, error) {
	all, err := v.Of(ctx, who, events)
	if err != nil {
		return nil, err
	}
	out := all[:0]
	for _, e := range all {
		if e.Visible {
			out = append(out, e)
		}
	}
	return out, nil
}

// StillJoined is what LastJoined returns for those who are joined: every event is before it.
const StillJoined storage.EventNID = math.MaxInt64

// LastJoined returns the number of the event that last ended the user's being joined to the room: math.MinInt64, before
// every event, for those who never were, StillJoined for those who are.
func (v *Views) LastJoined(ctx context.Context, room storage.RoomNID, userID string) (storage.EventNID, error) {
	m, err := v.store.Membership(ctx, room, userID)
	if err != nil {
		return 0, fmt.Errorf("read membership: %w", err)
	}
	switch {
	case m == nil:
		return math.MinInt64, nil
	case m.Membership == storage.MembershipJoin:
		return StillJoined, nil
	}
	nid := m.EventNID
	for {
		es, err := v.store.Events(ctx, []storage.EventNID{nid})
		if err != nil {
			return 0, fmt.Errorf("read membership event: %w", err)
		}
		if es[0] == nil || es[0].Flags&store.Outlier != 0 {
			return math.MinInt64, nil
		}
		prev, err := v.store.StateEvent(ctx, es[0].StateRoot, event.TypeMember, userID)
		if err != nil {
			return 0, fmt.Errorf("read membership before: %w", err)
		}
		switch {
		case prev == nil:
			return math.MinInt64, nil
		case membershipOf(prev) == event.MembershipJoin:
			return nid, nil
		}
		nid = prev.NID
	}
}

// point is what decides at one moment.
type point struct{ visibility, membership string }

func (p point) allows() bool {
	return p.visibility == WorldReadable || p.membership == event.MembershipJoin ||
		p.visibility == Invited && p.membership == event.MembershipInvite
}

// visibilityOf reads an m.room.history_visibility event; what is absent or not understood is "shared".
func visibilityOf(e *store.Event) string {
	if e != nil {
		switch s := gjson.GetBytes(e.Content(), "history_visibility").Str; s {
		case WorldReadable, Invited, Joined:
			return s
		}
	}
	return Shared
}

// membershipOf reads an m.room.member event; no event is "leave".
func membershipOf(e *store.Event) string {
	if e != nil {
		if s := gjson.GetBytes(e.Content(), "membership").Str; s != "" {
			return s
		}
	}
	return event.MembershipLeave
}

func memberTuple(userID string) event.Tuple {
	return event.Tuple{Type: event.TypeMember, StateKey: userID}
}
