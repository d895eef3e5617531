package push

import (
	"context"
	"fmt"
	"math"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/storage"
)

// Unread counts what users have not read. It is safe for concurrent use, and the same in every process: all it knows is in
// the database.
type Unread struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store knows users and rooms. Required.
	Store *store.Store
}

// reading is how far a user has read a room, and with whom the user's notifications in it are counted.
type reading struct {
	// read is where the user has read the room up to as a whole, threads where that is further on in a thread, "" being the
	// main timeline.
	read    storage.EventNID
	threads map[string]storage.EventNID
	spans   []storage.PushSpan
}

// mainThread is how receipts name the main timeline.
const mainThread = "main"

// endOfTime is after all events.
const endOfTime storage.EventNID = math.MaxInt64

// readings returns how far a user has read rooms. Rooms the user is not joined to are left out.
//
// Each room's spans begin where the user came to the room: one for the time with each group the user has been counted
// with, and one for what only the user was notified of.
func readings(ctx context.Context, db storage.Querier, user storage.UserNID, rooms []storage.RoomNID) (map[storage.RoomNID]*reading, error) {
	marks, err := storage.PushMarks(ctx, db, user, rooms)
	if err != nil {
		return nil, err
	}
	out := make(map[storage.RoomNID]*reading)
	for _, m := range marks {
		r := out[m.RoomNID]
		if r == nil {
			// The first of a room's marks says whether the user is joined.
			if m.Kind != storage.PushMarkJoined {
				continue
			}
			r = &reading{spans: []storage.PushSpan{
				{RoomNID: m.RoomNID, Subject: storage.PushSubject(user), After: m.EventNID, Before: endOfTime},
				{RoomNID: m.RoomNID, Subject: storage.PushDefault, After: m.EventNID, Before: endOfTime},
			}}
			out[m.RoomNID] = r
		}
		r.mark(m)
	}
	return out, nil
}

func (r *reading) mark(m storage.PushMark) {
	switch m.Kind {
	case storage.PushMarkJoined:
		r.read = m.EventNID
	case storage.PushMarkRead:
		switch m.Thread {
		case "":
			r.read = max(r.read, m.EventNID)
		case mainThread:
			r.markThread("", m.EventNID)
		default:
			r.markThread(m.Thread, m.EventNID)
		}
	case storage.PushMarkSent:
		r.markThread(m.Thread, m.EventNID)
	case storage.PushMarkGroup:
		last := &r.spans[len(r.spans)-1]
		if m.EventNID <= last.After+1 {
			last.Subject = m.Subject
			break
		}
		last.Before = m.EventNID
		r.spans = append(r.spans, storage.PushSpan{RoomNID: m.RoomNID, Subject: m.Subject, After: m.EventNID - 1, Before: endOfTime})
	}
}

func (r *reading) markThread(thread string, event storage.EventNID) {
	if r.threads == nil {
		r.threads = make(map[string]storage.EventNID)
	}
	r.threads[thread] = max(r.threads[thread], event)
}

// unread returns the part of the spans that is not read, without those that count nothing.
func (r *reading) unread() []storage.PushSpan {
	var out []storage.PushSpan
	for _, s := range r.spans {
		s.After = max(s.After, r.read)
		if s.Subject != subjectNone && s.After+1 < s.Before {
			out = append(out, s)
		}
	}
	return out
}

// Unread implements sync.UnreadCounts.
func (u Unread) Unread(ctx context.Context, userID string, rooms []string) (map[string]sync.RoomCounts, error) {
	user, err := u.Store.UserNID(ctx, userID)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	known, err := u.Store.Rooms(ctx, rooms)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	nids, ids := make([]storage.RoomNID, 0, len(rooms)), make(map[storage.RoomNID]string, len(rooms))
	for _, r := range known {
		if r != nil {
			nids, ids[r.NID] = append(nids, r.NID), r.ID
		}
	}
	counts, err := u.counts(ctx, user, nids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]sync.RoomCounts)
	for _, c := range counts {
		n := sync.Counts{Notification: max(c.Notify, 0), Highlight: max(c.Highlight, 0)}
		if n == (sync.Counts{}) {
			continue
		}
		room := out[ids[c.RoomNID]]
		room.Total.Notification += n.Notification
		room.Total.Highlight += n.Highlight
		if c.Thread == "" {
			room.Main = n
		} else {
			if room.Threads == nil {
				room.Threads = make(map[string]sync.Counts)
			}
			room.Threads[c.Thread] = n
		}
		out[ids[c.RoomNID]] = room
	}
	return out, nil
}

// counts returns what a user has not read in rooms, by thread. It is two round trips, whatever the number of rooms.
func (u Unread) counts(ctx context.Context, user storage.UserNID, rooms []storage.RoomNID) ([]storage.PushUnreadCount, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	all, err := readings(ctx, u.DB, user, rooms)
	if err != nil {
		return nil, err
	}
	var spans []storage.PushSpan
	var read []storage.PushThreadRead
	for room, r := range all {
		spans = append(spans, r.unread()...)
		for thread, event := range r.threads {
			if event > r.read {
				read = append(read, storage.PushThreadRead{RoomNID: room, Thread: thread, EventNID: event})
			}
		}
	}
	if len(spans) == 0 {
		return nil, nil
	}
	return storage.PushUnread(ctx, u.DB, spans, read)
}

// UnreadRooms returns in how many rooms there is something a user was notified of and has not read.
func (u Unread) UnreadRooms(ctx context.Context, user storage.UserNID) (int64, error) {
	joined, err := u.joinedRooms(ctx, user)
	if err != nil {
		return 0, err
	}
	counts, err := u.counts(ctx, user, joined)
	if err != nil {
		return 0, err
	}
	unread := make(map[storage.RoomNID]int64)
	for _, c := range counts {
		unread[c.RoomNID] += max(c.Notify, 0)
	}
	n := int64(0)
	for _, notify := range unread {
		if notify > 0 {
			n++
		}
	}
	return n, nil
}
