package sync

import (
	"context"
	gosync "sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Bounds of what is kept of the lighter streams, in rows.
const (
	keptReceipts    = 50_000
	keptAccountData = 100_000
)

// The account data that changes what a user is shown: global data, and the tags of a room.
const (
	ignoredUsersType = "m.ignored_user_list"
	directType       = "m.direct"
	tagsType         = "m.tag"
)

// hub is what all requests of the process share: the positions, the tail, the change caches, the active users and their
// waiting requests. One lock guards all of it, so that a snapshot is one point in all streams.
type hub struct {
	client *replication.Client
	log    zerolog.Logger

	mu       gosync.RWMutex
	started  [token.Streams]bool
	pos      [token.Streams]replication.Position // what the handlers here have seen
	tail     *tail
	receipts receiptTail
	account  *changeLog
	rooms    map[string]*room
	views    map[string]*view
	loads    int // views made, to sweep now and then
}

func newHub(client *replication.Client, tailBytes int, log zerolog.Logger) *hub {
	return &hub{
		client:   client,
		log:      log,
		tail:     newTail(tailBytes),
		receipts: receiptTail{limit: keptReceipts},
		account:  newChangeLog(keptAccountData),
		rooms:    map[string]*room{},
		views:    map[string]*view{},
	}
}

// follow has the client hand its rows over.
func (h *hub) follow() error {
	events, err := replication.Follow(h.client, streams.Events(), replication.FollowConfig[*streams.EventRow]{OnGap: h.eventsGap})
	if err != nil {
		return err
	}
	events.Handle(h.onEvents)
	receipts, err := replication.Follow(h.client, streams.Receipts(), replication.FollowConfig[streams.ReceiptsRow]{OnGap: h.receiptsGap})
	if err != nil {
		return err
	}
	receipts.Handle(h.onReceipts)
	account, err := replication.Follow(h.client, streams.AccountData(), replication.FollowConfig[streams.AccountDataRow]{OnGap: h.accountGap})
	if err != nil {
		return err
	}
	account.Handle(h.onAccountData)
	typing, err := replication.Follow(h.client, streams.Typing(), replication.FollowConfig[streams.TypingRow]{OnGap: h.typingGap})
	if err != nil {
		return err
	}
	typing.Handle(h.onTyping)
	return nil
}

// start notes where a stream stood before its first row came here: everything behind that will be seen. The lock is held.
func (h *hub) start(st token.Stream) {
	if h.started[st] {
		return
	}
	h.started[st] = true
	// The client moves a position after its handlers have returned, so nothing behind this one has been missed.
	p := h.client.Position(st.String())
	h.pos[st] = p
	switch st {
	case token.Events:
		h.tail.floor = p
	case token.Receipts:
		h.receipts.floor = p
	case token.AccountData:
		h.account.floor = p
	}
}

// handled notes that the rows of a writer up to id are here. The lock is held.
func (h *hub) handled(st token.Stream, writer string, id int64) {
	h.pos[st] = h.pos[st].Advance(writer, id)
}

// now returns the positions of all streams. The lock is held, for reading at least.
//
// What the handlers have seen may be ahead of what the client says, for the row that is being handled; the client in turn
// knows of writers that moved on without a row. Neither can be ahead of what is here.
func (h *hub) now() token.Sync {
	var t token.Sync
	for st := range token.Streams {
		t = t.With(st, h.pos[st].Merge(h.client.Position(st.String())))
	}
	return t
}

func (h *hub) onEvents(_ context.Context, u replication.Update[*streams.EventRow]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Events)
	for _, row := range u.Rows {
		h.addEvent(&entry{writer: u.Writer, nid: row.Token, row: row.Value})
	}
	h.handled(token.Events, u.Writer, u.Token)
	h.tail.trim(func(e *entry) {
		if r := h.rooms[e.row.RoomID]; r != nil {
			r.remove(e)
			h.release(r)
		}
	})
}

func (h *hub) addEvent(e *entry) {
	if hidden := e.row.Flags &^ flagOutlier; hidden != 0 {
		return
	}
	h.tail.add(e)
	r := h.room(e.row.RoomID, storage.RoomNID(e.row.RoomNID))
	if e.row.Flags&flagOutlier == 0 {
		r.insert(e)
		for v := range r.views {
			v.wake()
		}
	}
	if e.row.StateReset {
		// Members may have come and gone without an event of their own in the stream.
		for v := range r.views {
			h.drop(v)
		}
	}
	if e.isMember() {
		if v := h.views[*e.row.StateKey]; v != nil {
			v.member(h, r, e)
			v.wake()
		}
	}
}

func (h *hub) eventsGap(_ context.Context, writer string, after, upTo int64) {
	h.log.Warn().Str("writer", writer).Int64("after", after).Int64("position", upTo).Msg("events were missed: starting over with an empty tail")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Events)
	h.handled(token.Events, writer, upTo)
	limit := h.tail.limit
	h.tail = newTail(limit)
	h.tail.floor = h.pos[token.Events]
	for _, v := range h.views {
		h.drop(v)
	}
	for _, r := range h.rooms {
		r.entries, r.recent = nil, 0
		h.release(r)
	}
}

func (h *hub) onReceipts(_ context.Context, u replication.Update[streams.ReceiptsRow]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Receipts)
	for _, row := range u.Rows {
		r := h.room(row.Value.RoomID, 0)
		e := &receiptEntry{mark: mark{u.Writer, row.Token}, room: r, row: row.Value}
		r.receipts = append(r.receipts, e)
		h.receipts.add(e, func(old *receiptEntry) {
			old.room.removeReceipt(old)
			h.release(old.room)
		})
		if row.Value.ReceiptType == privateReceipt {
			if v := h.views[row.Value.UserID]; v != nil {
				v.wake()
			}
			continue
		}
		for v := range r.views {
			v.wake()
		}
	}
	h.handled(token.Receipts, u.Writer, u.Token)
}

func (h *hub) receiptsGap(_ context.Context, writer string, _, upTo int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Receipts)
	h.handled(token.Receipts, writer, upTo)
	h.receipts = receiptTail{limit: h.receipts.limit, floor: h.pos[token.Receipts]}
	for _, r := range h.rooms {
		r.receipts = nil
		h.release(r)
	}
	h.wakeAll()
}

func (h *hub) onAccountData(_ context.Context, u replication.Update[streams.AccountDataRow]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.AccountData)
	for _, row := range u.Rows {
		h.account.add(row.Value.UserID, u.Writer, row.Token)
		v := h.views[row.Value.UserID]
		if v == nil {
			continue
		}
		v.forget(row.Value.DataType, row.Value.RoomID == nil)
		v.wake()
	}
	h.handled(token.AccountData, u.Writer, u.Token)
}

func (h *hub) accountGap(_ context.Context, writer string, _, upTo int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.AccountData)
	h.handled(token.AccountData, writer, upTo)
	h.account.reset(h.pos[token.AccountData])
	for _, v := range h.views {
		v.ignored.forget()
		v.direct.forget()
		v.tags.forget()
	}
	h.wakeAll()
}

func (h *hub) onTyping(_ context.Context, u replication.Update[streams.TypingRow]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Typing)
	for _, row := range u.Rows {
		r := h.room(row.Value.RoomID, 0)
		r.typing = &typingState{mark{u.Writer, row.Token}, row.Value.UserIDs}
		for v := range r.views {
			v.wake()
		}
	}
	h.handled(token.Typing, u.Writer, u.Token)
}

func (h *hub) typingGap(_ context.Context, writer string, _, upTo int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(token.Typing)
	h.handled(token.Typing, writer, upTo)
	// Its writer started anew, with nobody typing. Clients that were told otherwise are told that.
	for _, r := range h.rooms {
		if r.typing != nil {
			r.typing = &typingState{mark: mark{writer, upTo}}
		}
	}
	h.wakeAll()
}

// advance notes how far the rows of another stream have been handled, and wakes the users concerned.
func (h *hub) advance(st token.Stream, writer string, id int64, users []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start(st)
	h.handled(st, writer, id)
	for _, u := range users {
		if v := h.views[u]; v != nil {
			v.wake()
		}
	}
}

// wakeIn wakes everybody who is joined to one of the rooms.
func (h *hub) wakeIn(rooms []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range rooms {
		if r := h.rooms[id]; r != nil {
			for v := range r.views {
				v.wake()
			}
		}
	}
}

// waiting reports whether a request waits.
func (h *hub) waiting() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, v := range h.views {
		if v.waiters > 0 {
			return true
		}
	}
	return false
}

func (h *hub) wakeAll() {
	for _, v := range h.views {
		v.wake()
	}
}

// room returns the room of an id, made if need be. nid may be 0 where the caller does not know it.
func (h *hub) room(id string, nid storage.RoomNID) *room {
	r := h.rooms[id]
	if r == nil {
		r = &room{id: id, views: map[*view]struct{}{}}
		h.rooms[id] = r
	}
	if r.nid == 0 {
		r.nid = nid // once it is set, snapshots read it without the lock
	}
	return r
}

// release forgets a room nothing is known of.
func (h *hub) release(r *room) {
	if r.idle() && h.rooms[r.id] == r {
		delete(h.rooms, r.id)
	}
}

// sweepEvery is how many new views there are between two looks for idle ones, idleAfter how long one is kept.
const (
	sweepEvery = 64
	idleAfter  = 10 * time.Minute
)

// sweep drops the views of users who have not asked for a while. The lock is held.
func (h *hub) sweep(now time.Time) {
	if h.loads++; h.loads%sweepEvery != 0 {
		return
	}
	for _, v := range h.views {
		if v.waiters == 0 && now.Sub(v.used) > idleAfter {
			h.drop(v)
		}
	}
}

// drop forgets a view. Requests that hold it load it anew the next time. The lock is held.
func (h *hub) drop(v *view) {
	if h.views[v.userID] == v {
		delete(h.views, v.userID)
	}
	v.dropped = true
	for _, vr := range v.rooms {
		delete(vr.room.views, v)
		h.release(vr.room)
	}
	v.wake()
}
