package push

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	gosync "sync"
	"time"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/storage"
)

// Unread counts what users have not read. It is safe for concurrent use, and the same in every process: all it knows is in
// the database. Counts that are asked for while others are being read are read together, for an event in a room of many
// has them asked for by all at once.
type Unread struct {
	db    *storage.DB
	store *store.Store

	mu      gosync.Mutex
	next    *unreadCall // the reading that is to be made when the one under way has ended
	reading bool
}

// unreadCall is one reading of counts, for all who wait for it.
type unreadCall struct {
	readers []storage.PushReader
	done    chan struct{}
	counts  map[storage.UserNID][]storage.PushUnreadCount
	err     error
}

const (
	// maxReaders bounds the readers of one reading, unless a single request has more.
	maxReaders = 5000
	// unreadTimeout bounds one reading.
	unreadTimeout = 20 * time.Second
)

// NewUnread returns what counts with a database and its store.
func NewUnread(db *storage.DB, st *store.Store) *Unread { return &Unread{db: db, store: st} }

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

// readings returns how far users have read rooms. Rooms a user is not joined to are left out.
//
// Each room's spans begin where the user came to the room: one for the time with each group the user has been counted
// with, and one for what only the user was notified of.
func readings(ctx context.Context, db storage.Querier, readers []storage.PushReader) (map[storage.PushReader]*reading, error) {
	marks, err := storage.PushMarks(ctx, db, readers)
	if err != nil {
		return nil, err
	}
	out := make(map[storage.PushReader]*reading)
	for _, m := range marks {
		r := out[m.PushReader]
		if r == nil {
			// The first of a room's marks says whether the user is joined.
			if m.Kind != storage.PushMarkJoined {
				continue
			}
			r = &reading{spans: []storage.PushSpan{
				{PushReader: m.PushReader, Subject: storage.PushSubject(m.UserNID), After: m.EventNID, Before: endOfTime},
				{PushReader: m.PushReader, Subject: storage.PushDefault, After: m.EventNID, Before: endOfTime},
			}}
			out[m.PushReader] = r
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
		r.spans = append(r.spans, storage.PushSpan{PushReader: m.PushReader, Subject: m.Subject, After: m.EventNID - 1, Before: endOfTime})
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
func (u *Unread) Unread(ctx context.Context, userID string, rooms []string) (map[string]sync.RoomCounts, error) {
	user, err := u.store.UserNID(ctx, userID)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", err)
	}
	known, err := u.store.Rooms(ctx, rooms)
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

// readersOf returns a user as the reader of rooms.
func readersOf(user storage.UserNID, rooms []storage.RoomNID) []storage.PushReader {
	out := make([]storage.PushReader, len(rooms))
	for i, r := range rooms {
		out[i] = storage.PushReader{UserNID: user, RoomNID: r}
	}
	return out
}

// counts returns what a user has not read in rooms, by thread. It is two round trips, whatever the number of rooms and of
// those who ask at the same time.
func (u *Unread) counts(ctx context.Context, user storage.UserNID, rooms []storage.RoomNID) ([]storage.PushUnreadCount, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	call := u.join(ctx, readersOf(user, rooms))
	select {
	case <-call.done:
		var out []storage.PushUnreadCount
		for _, c := range call.counts[user] {
			if slices.Contains(rooms, c.RoomNID) { // another request may have asked for others
				out = append(out, c)
			}
		}
		return out, call.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join adds readers to the next reading, which begins at once where none is under way.
func (u *Unread) join(ctx context.Context, readers []storage.PushReader) *unreadCall {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.next == nil || len(u.next.readers)+len(readers) > maxReaders {
		call := &unreadCall{done: make(chan struct{})}
		if u.next != nil {
			// Full: it is read beside the one under way.
			go u.readAll(context.WithoutCancel(ctx), u.next)
		}
		u.next = call
	}
	call := u.next
	call.readers = append(call.readers, readers...)
	if !u.reading {
		u.reading = true
		// The reading serves others too, so it does not end with the request that happens to come first.
		go u.run(context.WithoutCancel(ctx))
	}
	return call
}

// run makes readings until nobody waits for one.
func (u *Unread) run(ctx context.Context) {
	for {
		u.mu.Lock()
		call := u.next
		u.next = nil
		u.reading = call != nil
		u.mu.Unlock()
		if call == nil {
			return
		}
		u.readAll(ctx, call)
	}
}

func (u *Unread) readAll(ctx context.Context, call *unreadCall) {
	ctx, cancel := context.WithTimeout(ctx, unreadTimeout)
	defer cancel()
	defer close(call.done)
	// Several requests of a user may have asked for one room.
	slices.SortFunc(call.readers, func(a, b storage.PushReader) int {
		return cmp.Or(cmp.Compare(a.UserNID, b.UserNID), cmp.Compare(a.RoomNID, b.RoomNID))
	})
	all, err := readings(ctx, u.db, slices.Compact(call.readers))
	if err != nil {
		call.err = err
		return
	}
	var spans []storage.PushSpan
	var read []storage.PushThreadRead
	for reader, r := range all {
		spans = append(spans, r.unread()...)
		for thread, event := range r.threads {
			if event > r.read {
				read = append(read, storage.PushThreadRead{PushReader: reader, Thread: thread, EventNID: event})
			}
		}
	}
	if len(spans) == 0 {
		return
	}
	counts, err := storage.PushUnread(ctx, u.db, spans, read)
	if err != nil {
		call.err = err
		return
	}
	call.counts = make(map[storage.UserNID][]storage.PushUnreadCount)
	for _, c := range counts {
		call.counts[c.UserNID] = append(call.counts[c.UserNID], c)
	}
}

// UnreadRooms returns in how many rooms there is something a user was notified of and has not read.
func (u *Unread) UnreadRooms(ctx context.Context, user storage.UserNID) (int64, error) {
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
