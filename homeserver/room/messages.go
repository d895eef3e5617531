package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Limits of a page of events.
const (
	// DefaultPage is the number of events of a page whose request names none.
	DefaultPage = 10
	// MaxPage is the greatest number of events of a page.
	MaxPage = 1000
	// maxScanned bounds the events looked at for one page where the filter or the history visibility refuses many. What
	// is left is for the next page.
	maxScanned = 5000
)

// MessagesRequest asks for a page of a room's events.
type MessagesRequest struct {
	// From and To are tokens: where the page starts, and where it must end. Without From it starts at the end of what the
	// user may see (backwards) or at the start of the room.
	From, To string
	// Backwards asks for the last events first.
	Backwards bool
	// Limit is the number of events. 0 is DefaultPage; above MaxPage it is MaxPage.
	Limit int
	// Filter lets events pass; nil is all.
	Filter *filter.Events
}

// Page is a page of a room's events.
type Page struct {
	// Start and End are the tokens around the events; End is "" where there are no more.
	Start, End string
	// Chunk are the events and State the membership events of their senders where the filter asks for them, both JSON
	// arrays. State may be nil.
	Chunk, State json.RawMessage
}

// JSON returns the page as the body of a response.
func (p *Page) JSON() json.RawMessage {
	b := append(make([]byte, 0, len(p.Chunk)+len(p.State)+128), `{"start":"`...)
	b = append(b, p.Start...)
	if p.End != "" {
		b = append(append(b, `","end":"`...), p.End...)
	}
	b = append(append(b, `","chunk":`...), p.Chunk...)
	if p.State != nil {
		b = append(append(b, `,"state":`...), p.State...)
	}
	return append(b, '}')
}

// Messages returns a page of the events of a room that the user may see.
//
// Errors: M_INVALID_PARAM for tokens that are none, M_FORBIDDEN, for unknown rooms too.
//
// Spec: client-server API, "GET /rooms/{roomId}/messages" (v1.19).
func (s *Service) Messages(ctx context.Context, who *Requester, roomID string, req MessagesRequest) (*Page, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if req.Filter == nil {
		req.Filter = &filter.Events{}
	}
	limit := req.Limit
	if limit <= 0 {
		limit = DefaultPage
	}
	limit = min(limit, MaxPage, req.Filter.Limit(MaxPage, MaxPage))

	end, err := s.endOf(ctx, a)
	if err != nil {
		return nil, err
	}
	after, upTo := storage.EventPoint{}, end
	from, to := &after, &upTo
	if req.Backwards {
		from, to = &upTo, &after
	}
	if err := s.bound(ctx, a, req.From, from); err != nil {
		return nil, err
	}
	if err := s.bound(ctx, a, req.To, to); err != nil {
		return nil, err
	}
	page := &Page{Start: req.From}
	if page.Start == "" {
		page.Start = tokenAt(*from)
	}
	if upTo = earlier(upTo, end); !req.Filter.AllowsRoom(roomID) || limit == 0 {
		page.Chunk = json.RawMessage("[]")
		return page, nil
	}
	w := window{room: a.room, after: after, upTo: upTo, backwards: req.Backwards, limit: limit, filter: req.Filter}
	got, err := s.walk(ctx, who, w)
	if err != nil {
		return nil, err
	}
	if got.more {
		page.End = tokenAt(got.next)
	}
	if page.Chunk, err = s.chunk(ctx, who, a.room, got.events); err != nil {
		return nil, err
	}
	if req.Filter.LazyLoadMembers && len(got.events) > 0 {
		ms, err := s.sendersOf(ctx, got.events)
		if err != nil {
			return nil, err
		}
		page.State = view.AppendStateArray(nil, ms, s.viewer(who), s.format())
	}
	return page, nil
}

// window is a stretch of a room to take events from.
type window struct {
	room        *store.Room
	after, upTo storage.EventPoint
	backwards   bool
	limit       int
	filter      *filter.Events
	// fetch reads a page of events and whether others relate to each. Defaults to those of the room.
	fetch func(ctx context.Context, q storage.EventPageQuery) ([]*store.Event, []bool, error)
}

// walked is what walk found.
type walked struct {
	events []view.Event
	// next is where the events after these start.
	next storage.EventPoint
	// more says that there may be some.
	more bool
}

// walk takes events that the user may see and the filter lets pass, in the direction of the window, until there are
// enough, the window is at its end, or too many have been looked at.
func (s *Service) walk(ctx context.Context, who *Requester, w window) (*walked, error) {
	got := &walked{next: w.upTo}
	if !w.backwards {
		got.next = w.after
	}
	if w.filter.MatchesNone() {
		return got, nil
	}
	q := storage.EventPageQuery{Room: w.room.NID, After: w.after, UpTo: w.upTo, Backwards: w.backwards}
	fetch := w.fetch
	if fetch == nil {
		fetch = s.store.Page
	}
	q.Types, q.NotTypes = w.filter.LikeTypes()
	ok, err := s.senders(ctx, w.filter, &q)
	if err != nil || !ok {
		return got, err
	}
	backfilled := false
	for scanned := 0; len(got.events) < w.limit; {
		// One more than wanted tells whether anything follows.
		q.Limit = w.limit - len(got.events) + 1
		if scanned > 0 {
			q.Limit = max(q.Limit, 100)
		}
		es, related, err := fetch(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("read events of %s: %w", w.room.ID, err)
		}
		if w.backwards && w.fetch == nil && !backfilled {
			if backfilled, err = s.fillGaps(ctx, w, es); err != nil {
				return nil, err
			}
			if backfilled {
				continue
			}
		}
		taken, err := s.take(ctx, who, w, es, related, got)
		if err != nil {
			return nil, err
		}
		scanned += taken
		got.more = taken < len(es)
		if len(es) == q.Limit && !got.more {
			got.more = true // the page was full, so there may be others behind it
		}
		if !got.more || len(got.events) >= w.limit || scanned >= maxScanned {
			if got.more || len(got.events) >= w.limit || !w.backwards || backfilled || w.fetch != nil {
				return got, nil
			}
			// The start of what is known here: another server may know what was before.
			if backfilled = s.backfill(ctx, w.room, nil, w.limit-len(got.events)); !backfilled {
				return got, nil
			}
		}
		if w.backwards {
			q.UpTo = got.next
		} else {
			q.After = got.next
		}
	}
	return got, nil
}

// take adds events to got until it has enough, and returns how many it has dealt with.
func (s *Service) take(ctx context.Context, who *Requester, w window, es []*store.Event, related []bool, got *walked) (int, error) {
	v, err := s.reader(ctx, who)
	if err != nil {
		return 0, err
	}
	vs, err := s.views.Of(ctx, v, es)
	if err != nil {
		return 0, fmt.Errorf("view events of %s: %w", w.room.ID, err)
	}
	wanted, err := s.relatedBy(ctx, w.filter, es, related)
	if err != nil {
		return 0, err
	}
	for i, v := range vs {
		if len(got.events) >= w.limit {
			return i, nil
		}
		got.next = pointAt(v.Event)
		if w.backwards {
			got.next.NID--
		}
		if v.Visible && w.filter.Match(subjectOf(v.Event)) && (wanted == nil || wanted[v.NID]) {
			v.Related = related[i]
			got.events = append(got.events, v)
		}
	}
	return len(vs), nil
}

// relatedBy evaluates related_by_senders and related_by_rel_types: the events that pass, nil where the filter has neither.
func (s *Service) relatedBy(ctx context.Context, f *filter.Events, es []*store.Event, related []bool) (map[storage.EventNID]bool, error) {
	if f.RelatedBySenders == nil && f.RelatedByRelTypes == nil {
		return nil, nil
	}
	pass := map[storage.EventNID]bool{}
	var nids []storage.EventNID
	for i, e := range es {
		if related[i] {
			nids = append(nids, e.NID)
		}
	}
	if len(nids) == 0 {
		return pass, nil
	}
	var senders []storage.UserNID
	if f.RelatedBySenders != nil {
		var err error
		if senders, err = s.store.UserNIDs(ctx, f.RelatedBySenders); err != nil {
			return nil, fmt.Errorf("find senders: %w", err)
		}
	}
	found, err := storage.RelatedBy(ctx, s.cfg.DB, nids, senders, f.RelatedByRelTypes)
	if err != nil {
		return nil, err
	}
	for _, n := range found {
		pass[n] = true
	}
	return pass, nil
}

// senders fills in the senders of a query, and reports false where no event can match.
func (s *Service) senders(ctx context.Context, f *filter.Events, q *storage.EventPageQuery) (bool, error) {
	in, out := f.Senders()
	nids, err := s.store.UserNIDs(ctx, append(append([]string{}, in...), out...))
	if err != nil {
		return false, fmt.Errorf("find senders: %w", err)
	}
	for i, n := range nids {
		switch {
		case n == 0: // never seen, so nothing is from them
		case i < len(in):
			q.Senders = append(q.Senders, n)
		default:
			q.NotSenders = append(q.NotSenders, n)
		}
	}
	return in == nil || len(q.Senders) > 0, nil
}

// gapsAtOnce is how many missing events are asked for at once.
const gapsAtOnce = 10

// fillGaps asks for what is missing behind events of a page: what happened while this server was not in the room, or could
// not be reached. It reports whether there is more to read now.
func (s *Service) fillGaps(ctx context.Context, w window, es []*store.Event) (bool, error) {
	if s.cfg.Remote == nil || len(es) == 0 {
		return false, nil
	}
	nids := make([]storage.EventNID, len(es))
	for i, e := range es {
		nids[i] = e.NID
	}
	missing, err := storage.GapsBehind(ctx, s.cfg.DB, w.room.NID, nids, gapsAtOnce)
	if err != nil || len(missing) == 0 {
		return false, err
	}
	return s.backfill(ctx, w.room, missing, w.limit), nil
}

// backfill asks another server for what was before missing events, or before the earliest that is known, and reports
// whether something came.
func (s *Service) backfill(ctx context.Context, r *store.Room, from []string, limit int) bool {
	if s.cfg.Remote == nil {
		return false
	}
	n, err := s.cfg.Remote.Backfill(ctx, r.ID, from, max(limit, 100))
	if err != nil {
		// History that cannot be had now is no reason to fail: the client may ask again.
		s.log.Info().Err(err).Str("room_id", r.ID).Msg("backfill failed")
	}
	return n > 0
}

// endOf returns the end of what the user may see of a room.
func (s *Service) endOf(ctx context.Context, a *access) (storage.EventPoint, error) {
	if a.left != nil {
		return pointAt(a.left), nil
	}
	h, err := s.store.Head(ctx, a.room.NID)
	if err != nil {
		return storage.EventPoint{}, fmt.Errorf("read head of %s: %w", a.room.ID, err)
	}
	return storage.EventPoint{Depth: h.Depth, NID: h.LastNID}, nil
}

// bound moves p to where a token stands; no token leaves it.
func (s *Service) bound(ctx context.Context, a *access, tok string, p *storage.EventPoint) error {
	if tok == "" {
		return nil
	}
	at, ok, err := s.pointOf(ctx, a, tok)
	if err != nil {
		return err
	}
	if !ok {
		at = storage.EventPoint{}
	}
	*p = at
	return nil
}

// pointOf returns the place in a room of a token of either kind, and false where it is before the room's start.
func (s *Service) pointOf(ctx context.Context, a *access, tok string) (storage.EventPoint, bool, error) {
	t, err := token.Parse(tok, s.cfg.WriterIDs)
	if err != nil {
		return storage.EventPoint{}, false, err
	}
	if t.Sync == nil {
		return storage.EventPoint{Depth: t.Topological.Depth, NID: storage.EventNID(t.Topological.NID)}, true, nil
	}
	b, err := s.streamBound(t.Sync.Get(token.Events))
	if err != nil {
		return storage.EventPoint{}, false, err
	}
	p, err := storage.PointAt(ctx, s.cfg.DB, a.room.NID, b)
	if errors.Is(err, storage.ErrNotFound) {
		return storage.EventPoint{}, false, nil
	}
	if err != nil {
		return storage.EventPoint{}, false, fmt.Errorf("find the place of a token in %s: %w", a.room.ID, err)
	}
	return p, true, nil
}

func (s *Service) streamBound(p replication.Position) (storage.StreamBound, error) {
	b := storage.StreamBound{Floor: storage.EventNID(p.Floor())}
	for name, at := range p.Writers() {
		id, ok := s.cfg.WriterIDs.WriterID(name)
		if !ok {
			return b, fmt.Errorf("find the number of writer %s", name)
		}
		b.Writers = append(b.Writers, storage.WriterNID(id))
		b.At = append(b.At, storage.EventNID(at))
	}
	return b, nil
}

// sendersOf returns the membership events of the senders of events, each in the state before the last of their events.
func (s *Service) sendersOf(ctx context.Context, events []view.Event) ([]*store.Event, error) {
	last := make(map[string]*store.Event)
	var order []string
	for _, e := range events {
		before, ok := last[e.Sender()]
		if !ok {
			order = append(order, e.Sender())
		}
		if !ok || e.Depth() > before.Depth() {
			last[e.Sender()] = e.Event
		}
	}
	lookups := make([]store.StateLookup, len(order))
	for i, u := range order {
		lookups[i] = store.StateLookup{Root: last[u].StateRoot, Tuples: []event.Tuple{{Type: event.TypeMember, StateKey: u}}}
	}
	found, err := s.store.StateBatch(ctx, lookups)
	if err != nil {
		return nil, fmt.Errorf("read the members who sent: %w", err)
	}
	var out []*store.Event
	for _, es := range found {
		out = append(out, present(es)...)
	}
	return out, nil
}

func subjectOf(e *store.Event) filter.Subject {
	return filter.Subject{RoomID: e.RoomID(), Type: e.Type(), Sender: e.Sender(), Content: e.Content()}
}

func pointAt(e *store.Event) storage.EventPoint {
	return storage.EventPoint{Depth: e.Depth(), NID: e.NID}
}

func tokenAt(p storage.EventPoint) string {
	return token.After(p.Depth, int64(p.NID)).String()
}

// earlier returns the earlier of two places.
func earlier(a, b storage.EventPoint) storage.EventPoint {
	if b.Depth < a.Depth || b.Depth == a.Depth && b.NID < a.NID {
		return b
	}
	return a
}

// News returns the events of a room after a token, oldest first, at most limit, and the token behind them.
//
// Errors: those of Messages.
func (s *Service) News(ctx context.Context, who *Requester, roomID, from string, limit int) ([]json.RawMessage, string, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, "", err
	}
	var after storage.EventPoint
	if err := s.bound(ctx, a, from, &after); err != nil {
		return nil, "", err
	}
	end, err := s.endOf(ctx, a)
	if err != nil {
		return nil, "", err
	}
	got, err := s.walk(ctx, who, window{room: a.room, after: after, upTo: end, limit: limit, filter: &filter.Events{}})
	if err != nil {
		return nil, "", err
	}
	out := make([]json.RawMessage, len(got.events))
	for i := range got.events {
		out[i] = got.events[i].Append(nil, s.viewer(who), s.format())
	}
	return out, tokenAt(got.next), nil
}
