package sync

import (
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// snapshot is one point in all streams as one user sees it. It shares slices with the hub that the hub never changes.
type snapshot struct {
	view *view
	// since and now are what the response covers; next is its token.
	since, now, next token.Sync
	// rooms are the user's rooms at that point.
	rooms []viewRoom
	// recent is, where the query asks for it, the newest event of each of rooms that concerns the user, by number.
	recent []int64
	// tailed says that the tail has all events behind since. own and news are then complete.
	tailed bool
	// own are the rows that changed the user's place in a room.
	own []*entry
	// news are the rows of rooms the user is joined to now or was in own, by room id.
	news map[string][]*entry
	// typing is who types in joined rooms where that changed or, in rooms that are all new, where there is anybody.
	typing map[string]*typingState
	// receipted says that receipts has all rows behind since.
	receipted bool
	receipts  map[string][]*receiptEntry
	// accountData says that account data of the user may have changed.
	accountData bool
}

// snapshot takes a snapshot, and false where the view has been dropped.
func (h *hub) snapshot(v *view, q *query) (*snapshot, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if v.dropped {
		return nil, false
	}
	s := &snapshot{view: v, now: h.now(), rooms: v.rooms, accountData: true}
	s.since = comparable(q.since, s.now)
	s.next = s.now
	for st := range token.Streams {
		s.next = s.next.With(st, s.now.Get(st).Merge(s.since.Get(st)))
	}
	if q.recency {
		s.recent = make([]int64, len(s.rooms))
		for i, vr := range s.rooms {
			s.recent[i] = vr.nid
			if vr.membership == storage.MembershipJoin {
				s.recent[i] = max(vr.nid, vr.room.recent)
			}
		}
	}
	if q.initial {
		s.typing = map[string]*typingState{}
		for _, vr := range s.rooms {
			if t := vr.room.typing; t != nil && len(t.users) > 0 && vr.membership == storage.MembershipJoin {
				s.typing[vr.room.id] = t
			}
		}
		return s, true
	}
	since, now := s.since.Get(token.Events), s.now.Get(token.Events)
	s.tailed = h.tail.covers(since)
	sinceReceipts := s.since.Get(token.Receipts)
	s.receipted = sinceReceipts.AtLeast(h.receipts.floor)
	s.accountData = h.account.changed(v.userID, s.since.Get(token.AccountData))
	if s.tailed {
		for _, e := range h.tail.members[v.userID] {
			if !e.in(since, now) {
				continue
			}
			s.own = append(s.own, e)
			if r := h.rooms[e.row.RoomID]; r != nil {
				s.addNews(r.id, r.since(since, now))
			}
		}
	}
	for _, vr := range s.rooms {
		if vr.membership != storage.MembershipJoin {
			continue
		}
		r := vr.room
		if s.tailed && r.last > since.Floor() {
			if _, ok := s.news[r.id]; !ok {
				s.addNews(r.id, r.since(since, now))
			}
		}
		if t := r.typing; t != nil && t.after(s.since.Get(token.Typing)) {
			if s.typing == nil {
				s.typing = map[string]*typingState{}
			}
			s.typing[r.id] = t
		}
		if s.receipted && len(r.receipts) > 0 {
			s.addReceipts(r)
		}
	}
	return s, true
}

func (s *snapshot) addNews(roomID string, entries []*entry) {
	if len(entries) == 0 {
		return
	}
	if s.news == nil {
		s.news = map[string][]*entry{}
	}
	s.news[roomID] = entries
}

func (s *snapshot) addReceipts(r *room) {
	since := s.since.Get(token.Receipts)
	i := len(r.receipts)
	for i > 0 && r.receipts[i-1].id > since.Floor() {
		i--
	}
	for _, e := range r.receipts[i:] {
		if e.after(since) {
			if s.receipts == nil {
				s.receipts = map[string][]*receiptEntry{}
			}
			s.receipts[r.id] = append(s.receipts[r.id], e)
		}
	}
}
