package sync

import (
	"sort"
	gosync "sync"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// entryOverhead is about what an entry costs beside its JSON.
const entryOverhead = 1024

// flagOutlier is set for events whose place in the room is unknown: only their membership counts here.
const flagOutlier = 1

// entry is a row of the events stream in the tail. Its fields do not change, but for what mu guards.
type entry struct {
	writer string
	nid    int64
	row    *streams.EventRow

	mu gosync.Mutex
	// made is the event ready to be sent, nil until somebody needs it and after a redaction.
	made *rendered
	// redacted says that a redaction has been seen: the row's JSON must not be shown.
	redacted bool
}

func (e *entry) size() int { return len(e.row.JSON) + entryOverhead }

// in reports whether the entry lies behind since and not behind now.
func (e *entry) in(since, now replication.Position) bool {
	return !since.Covers(e.writer, e.nid) && now.Covers(e.writer, e.nid)
}

// isMember reports whether the row changes the place of the user in its state key.
func (e *entry) isMember() bool {
	return e.row.Type == event.TypeMember && e.row.StateKey != nil && (e.row.Current || e.row.Flags&flagOutlier != 0)
}

// room is what is known in memory of one room. The hub's lock guards it.
type room struct {
	id  string
	nid storage.RoomNID
	// entries are the rows of the tail, by number. last is the greatest of them, or of those trimmed since.
	entries []*entry
	last    int64
	// recent is the number of the room's newest event, 0 while that is not known.
	recent int64
	// views are the active users who are joined.
	views map[*view]struct{}
	// typing is the last row of the typing stream, nil while there was none.
	typing *typingState
	// receipts are the rows of the receipts stream kept, in order of arrival.
	receipts []*receiptEntry
}

func (r *room) idle() bool {
	return len(r.entries) == 0 && len(r.views) == 0 && r.typing == nil && len(r.receipts) == 0
}

// insert adds an entry in the order of numbers, which is that of arrival unless the room moved to another writer.
func (r *room) insert(e *entry) {
	n := len(r.entries)
	if n == 0 || r.entries[n-1].nid < e.nid {
		r.entries = append(r.entries, e)
	} else {
		i := sort.Search(n, func(i int) bool { return r.entries[i].nid > e.nid })
		r.entries = append(r.entries, nil)
		copy(r.entries[i+1:], r.entries[i:])
		r.entries[i] = e
	}
	r.last = max(r.last, e.nid)
	r.recent = max(r.recent, e.nid)
}

// remove takes an entry out: almost always the first.
func (r *room) remove(e *entry) {
	for i, x := range r.entries {
		if x == e {
			r.entries[i] = nil
			if i == 0 {
				r.entries = r.entries[1:]
			} else {
				r.entries = append(r.entries[:i], r.entries[i+1:]...)
			}
			return
		}
	}
}

// since returns the entries behind since and not behind now, by number.
func (r *room) since(since, now replication.Position) []*entry {
	if r.last <= since.Floor() {
		return nil
	}
	i := len(r.entries)
	for i > 0 && r.entries[i-1].nid > since.Floor() {
		i--
	}
	if i == len(r.entries) {
		return nil
	}
	if since.IsLevel() && now.Floor() >= r.last {
		return append([]*entry(nil), r.entries[i:]...)
	}
	var out []*entry
	for _, e := range r.entries[i:] {
		if e.in(since, now) {
			out = append(out, e)
		}
	}
	return out
}

// tail is the newest rows of the events stream. The hub's lock guards it.
type tail struct {
	limit int
	bytes int
	// fifo holds the entries in order of arrival, so for each writer in order; those before head are gone.
	fifo []*entry
	head int
	// floor is what the entries begin behind: every row behind it that has arrived is here.
	floor replication.Position
	// members are the rows that change a user's place in a room, by user, in order of arrival.
	members map[string][]*entry
	byID    map[string]*entry
	// redactions are redactions in the tail of events that were not in it when they arrived.
	redactions map[string]bool
}

func newTail(limit int) *tail {
	return &tail{limit: limit, members: map[string][]*entry{}, byID: map[string]*entry{}, redactions: map[string]bool{}}
}

// covers reports whether the tail has everything behind since.
func (t *tail) covers(since replication.Position) bool { return since.AtLeast(t.floor) }

func (t *tail) add(e *entry) {
	t.fifo = append(t.fifo, e)
	t.bytes += e.size()
	t.byID[e.row.EventID] = e
	if e.isMember() {
		t.members[*e.row.StateKey] = append(t.members[*e.row.StateKey], e)
	}
	if t.redactions[e.row.EventID] {
		e.redacted = true
	}
	if r := e.row.Redacts; r != "" {
		if target := t.byID[r]; target != nil {
			target.redact()
		} else {
			t.redactions[r] = true
		}
	}
}

func (e *entry) redact() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.redacted, e.made = true, nil
}

// trim drops the oldest entries until the rest fits, and calls gone for each.
func (t *tail) trim(gone func(*entry)) {
	for t.bytes > t.limit && t.head < len(t.fifo) {
		e := t.fifo[t.head]
		t.fifo[t.head] = nil
		t.head++
		t.bytes -= e.size()
		t.floor = t.floor.Advance(e.writer, e.nid)
		if t.byID[e.row.EventID] == e {
			delete(t.byID, e.row.EventID)
		}
		delete(t.redactions, e.row.Redacts)
		if e.isMember() {
			dropMember(t.members, *e.row.StateKey, e)
		}
		gone(e)
	}
	if t.head > 1024 && t.head > len(t.fifo)/2 {
		t.fifo = append([]*entry(nil), t.fifo[t.head:]...)
		t.head = 0
	}
}

func dropMember(members map[string][]*entry, user string, e *entry) {
	list := members[user]
	for i, x := range list {
		if x == e {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(members, user)
	} else {
		members[user] = list
	}
}
