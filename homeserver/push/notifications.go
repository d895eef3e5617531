package push

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// Bounds of Notifications' limit.
const (
	DefaultNotifications = 20
	MaxNotifications     = 200
)

// Notification is an event that a user was notified of.
type Notification struct {
	Actions json.RawMessage `json:"actions"`
	// Event is the event, without room_id.
	Event  json.RawMessage `json:"event"`
	Read   bool            `json:"read"`
	RoomID string          `json:"room_id"`
	// TS is when the event arrived, in milliseconds since the epoch.
	TS int64 `json:"ts"`
}

// Notifications are notifications, the newest first.
type Notifications struct {
	Notifications []Notification `json:"notifications"`
	// NextToken is what to go on from, "" where there are no more.
	NextToken string `json:"next_token,omitempty"`
}

// Notifications returns what a user was notified of in the rooms the user is joined to, since joining them: before from, a
// token returned earlier, or the last ones where that is "". limit is brought within bounds. It is three round trips and
// the events, whatever the number of rooms. The error for a token that is none is M_INVALID_PARAM.
func (u *Unread) Notifications(ctx context.Context, who *requester.Requester, from string, limit int, onlyHighlights bool) (*Notifications, error) {
	before := endOfTime
	if from != "" {
		n, err := strconv.ParseInt(from, 10, 64)
		if err != nil || n <= 0 {
			return nil, mxerr.InvalidParam.WithMessage("from is not a token of this endpoint")
		}
		before = storage.EventNID(n)
	}
	limit = min(max(limit, 1), MaxNotifications)
	user, err := u.store.UserNID(ctx, who.UserID)
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", err)
	}
	joined, err := u.joinedRooms(ctx, user)
	if err != nil {
		return nil, err
	}
	all, err := readings(ctx, u.db, readersOf(user, joined))
	if err != nil {
		return nil, err
	}
	var spans []storage.PushSpan
	for _, r := range all {
		for _, s := range r.spans {
			if s.Subject != subjectNone {
				spans = append(spans, s)
			}
		}
	}
	rows, err := storage.PushNotifications(ctx, u.db, user, spans, before, onlyHighlights, limit+1)
	if err != nil {
		return nil, err
	}
	out := &Notifications{Notifications: []Notification{}}
	if len(rows) > limit {
		rows = rows[:limit]
		out.NextToken = strconv.FormatInt(int64(rows[limit-1].EventNID), 10)
	}
	nids := make([]storage.EventNID, len(rows))
	for i, r := range rows {
		nids[i] = r.EventNID
	}
	events, err := u.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", err)
	}
	viewer := view.Viewer{UserID: who.UserID, DeviceID: who.DeviceID}
	format := view.Format{OmitRoomID: true, NowTS: time.Now().UnixMilli()}
	for i, r := range rows {
		if events[i] == nil {
			continue
		}
		e := view.Event{Event: events[i], Membership: "join"}
		out.Notifications = append(out.Notifications, Notification{
			Actions: json.RawMessage(cmp.Or(r.Actions, plainActions)), Event: e.Append(nil, viewer, format),
			Read: all[storage.PushReader{UserNID: user, RoomNID: r.RoomNID}].hasRead(r.Thread, r.EventNID), RoomID: e.RoomID(), TS: e.ReceivedTS,
		})
	}
	return out, nil
}

// joinedRooms returns the rooms a user is joined to.
func (u *Unread) joinedRooms(ctx context.Context, user storage.UserNID) ([]storage.RoomNID, error) {
	joined, err := u.store.UserRooms(ctx, user, storage.MembershipJoin)
	if err != nil {
		return nil, fmt.Errorf("list joined rooms: %w", err)
	}
	rooms := make([]storage.RoomNID, len(joined))
	for i, r := range joined {
		rooms[i] = r.RoomNID
	}
	return rooms, nil
}

// hasRead reports whether an event of a thread has been read.
func (r *reading) hasRead(thread string, event storage.EventNID) bool {
	return event <= max(r.read, r.threads[thread])
}
