package typing

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// writer is the truth about who is typing.
type writer struct {
	publisher *replication.Publisher[streams.TypingRow]
	now       func() time.Time
	wake      chan struct{} // the first deadline has changed

	mu        sync.Mutex
	token     int64
	forgotten int64 // rooms whose last change is at or below it may be missing
	rooms     map[string]*typingRoom
	deadlines deadlines
}

type typingRoom struct {
	token int64
	users map[string]time.Time // until when
}

func newWriter(c *replication.Client, now func() time.Time) (*writer, error) {
	start := now().UnixMilli()
	w := &writer{
		now: now, wake: make(chan struct{}, 1),
		token: start, forgotten: start, rooms: make(map[string]*typingRoom),
	}
	var err error
	w.publisher, err = replication.NewPublisher(c, streams.Typing(), replication.PublisherConfig{
		Position: start,
		// Another instance has written the stream before this one (or will after): tokens must grow all the same.
		OnForeignPosition: func(token int64) int64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.token = max(w.token, token)
			return w.token
		},
	})
	if err != nil {
		return nil, fmt.Errorf("publish typing: %w", err)
	}
	return w, nil
}

// set notes that a user is typing for some time, or has stopped. It publishes only where that is a change.
func (w *writer) set(roomID, userID string, timeout time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	room := w.rooms[roomID]
	if timeout <= 0 {
		if room == nil {
			return nil
		}
		if _, typing := room.users[userID]; !typing {
			return nil
		}
		delete(room.users, userID)
		return w.changed(roomID, room)
	}
	if room == nil {
		room = &typingRoom{users: make(map[string]time.Time)}
		w.rooms[roomID] = room
	}
	until := w.now().Add(timeout)
	_, typing := room.users[userID]
	room.users[userID] = until
	heap.Push(&w.deadlines, deadline{until, roomID, userID})
	if w.deadlines[0].at.Equal(until) {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	if typing {
		return nil
	}
	return w.changed(roomID, room)
}

// changed publishes a room. w.mu is held, so that rows are published in the order of their tokens.
func (w *writer) changed(roomID string, room *typingRoom) error {
	w.token++
	room.token = w.token
	return w.publisher.Publish(w.token, replication.Row[streams.TypingRow]{Token: w.token, Value: row(roomID, room)})
}

func row(roomID string, room *typingRoom) streams.TypingRow {
	users := slices.Sorted(maps.Keys(room.users))
	if users == nil {
		users = []string{}
	}
	return streams.TypingRow{RoomID: roomID, UserIDs: users}
}

// run has people stop typing when their time is up. It sleeps until the next deadline, and for as long as there is none.
func (w *writer) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-timer.C:
		}
		next, err := w.expire()
		if err != nil {
			return fmt.Errorf("typing: %w", err)
		}
		timer.Stop()
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// expire stops those whose time is up and returns how long it is until the next, 0 for never.
func (w *writer) expire() (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for len(w.deadlines) > 0 {
		d := w.deadlines[0]
		if d.at.After(now) {
			return max(d.at.Sub(now), time.Millisecond), nil
		}
		heap.Pop(&w.deadlines)
		room := w.rooms[d.roomID]
		if room == nil {
			continue
		}
		// Somebody who has gone on typing, or stopped, has a later deadline or none.
		if until, typing := room.users[d.userID]; !typing || until.After(now) {
			continue
		}
		delete(room.users, d.userID)
		if err := w.changed(d.roomID, room); err != nil {
			return 0, err
		}
	}
	w.prune(now)
	return 0, nil
}

// prune forgets rooms that have been empty for long. w.mu is held.
func (w *writer) prune(now time.Time) {
	if len(w.rooms) < 1000 {
		return
	}
	before := now.Add(-keepEmpty).UnixMilli()
	for id, room := range w.rooms {
		if len(room.users) == 0 && room.token < before {
			w.forgotten = max(w.forgotten, room.token)
			delete(w.rooms, id)
		}
	}
}

// updates returns the rooms that changed after a token, in the order of their last changes.
func (w *writer) updates(after int64) updatesReply {
	w.mu.Lock()
	defer w.mu.Unlock()
	reply := updatesReply{Token: w.token, Whole: after < w.forgotten, Rows: []replication.Row[streams.TypingRow]{}}
	for id, room := range w.rooms {
		if room.token > after {
			reply.Rows = append(reply.Rows, replication.Row[streams.TypingRow]{Token: room.token, Value: row(id, room)})
		}
	}
	slices.SortFunc(reply.Rows, func(a, b replication.Row[streams.TypingRow]) int { return int(a.Token - b.Token) })
	return reply
}

// deadlines is a heap of the times at which people stop typing. Entries are not taken out when somebody goes on or stops
// before: they are passed over when their time comes.
type deadlines []deadline

type deadline struct {
	at             time.Time
	roomID, userID string
}

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push implements heap.Interface.
func (d *deadlines) Push(x any) { *d = append(*d, x.(deadline)) }

// Pop implements heap.Interface.
func (d *deadlines) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}
