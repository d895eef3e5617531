package room

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// Limits of a page of relations or threads.
const (
	defaultRelations = 5
	defaultThreads   = 20
	maxRelations     = 100
	// recursionLevels is how far relations of relations are followed.
	recursionLevels = 3
)

// The relations with rules of their own.
const (
	relAnnotation = "m.annotation"
	relThread     = "m.thread"
)

// RelationsRequest asks for events that relate to one.
type RelationsRequest struct {
	// RelType and Type, if not "", are the rel_type and the event type wanted.
	RelType, Type string
	// From and To are tokens: where the page starts, and where it must end.
	From, To string
	// Forwards asks for the first events first.
	Forwards bool
	// Limit is the number of events; 0 is the server's.
	Limit int
	// Recurse asks for events that relate to those too.
	Recurse bool
}

// RelationsPage is a page of events that relate to one, or of threads.
type RelationsPage struct {
	Chunk     json.RawMessage `json:"chunk"`
	NextBatch string          `json:"next_batch,omitempty"`
	PrevBatch string          `json:"prev_batch,omitempty"`
	// RecursionDepth is how far relations were followed, if that was asked for.
	RecursionDepth int `json:"recursion_depth,omitempty"`
}

// Relations returns a page of the events that relate to one the user may see.
//
// Errors: M_NOT_FOUND, also for events the user may not see; M_INVALID_PARAM for tokens that are none.
//
// Spec: client-server API, "GET /rooms/{roomId}/relations/{eventId}" (v1.19).
func (s *Service) Relations(ctx context.Context, who *Requester, roomID, eventID string, req RelationsRequest) (*RelationsPage, error) {
	r, _, err := s.visibleEvent(ctx, who, roomID, eventID)
	if err != nil {
		return nil, err
	}
	a := &access{room: r}
	after := storage.EventPoint{}
	upTo, err := s.endOf(ctx, a)
	if err != nil {
		return nil, err
	}
	from, to := &upTo, &after
	if req.Forwards {
		from, to = &after, &upTo
	}
	if err := s.bound(ctx, a, req.From, from); err != nil {
		return nil, err
	}
	if err := s.bound(ctx, a, req.To, to); err != nil {
		return nil, err
	}
	limit := defaultRelations
	if req.Limit > 0 {
		limit = min(req.Limit, maxRelations)
	}
	rq := storage.RelationPageQuery{Parent: eventID, RelType: req.RelType, Type: req.Type}
	page := &RelationsPage{PrevBatch: req.From}
	if req.Recurse {
		rq.Levels, page.RecursionDepth = recursionLevels, recursionLevels
	}
	w := window{
		room: r, after: after, upTo: upTo, backwards: !req.Forwards, limit: limit, filter: &filter.Events{},
		fetch: func(ctx context.Context, q storage.EventPageQuery) ([]*store.Event, []bool, error) {
			rq.EventPageQuery = q
			return s.store.RelationPage(ctx, rq)
		},
	}
	got, err := s.walk(ctx, who, w)
	if err != nil {
		return nil, err
	}
	if got.more {
		page.NextBatch = tokenAt(got.next)
	}
	if page.Chunk, err = s.chunk(ctx, who, r, got.events); err != nil {
		return nil, err
	}
	return page, nil
}

// chunk writes events with what relates to them.
func (s *Service) chunk(ctx context.Context, who *Requester, r *store.Room, events []view.Event) (json.RawMessage, error) {
	v, err := s.reader(ctx, who)
	if err != nil {
		return nil, err
	}
	f := s.format()
	if err := s.views.Bundle(ctx, s.cfg.DB, v, events, f); err != nil {
		return nil, fmt.Errorf("bundle relations in %s: %w", r.ID, err)
	}
	return view.AppendArray(nil, events, v, f), nil
}

// one writes an event with what relates to it.
func (s *Service) one(ctx context.Context, who *Requester, r *store.Room, e *view.Event) (json.RawMessage, error) {
	e.Related = true
	es := []view.Event{*e}
	v, err := s.reader(ctx, who)
	if err != nil {
		return nil, err
	}
	f := s.format()
	if err := s.views.Bundle(ctx, s.cfg.DB, v, es, f); err != nil {
		return nil, fmt.Errorf("bundle relations of %s: %w", e.ID(), err)
	}
	return es[0].Append(nil, v, f), nil
}

// ThreadsRequest asks for the threads of a room.
type ThreadsRequest struct {
	// Participated leaves out threads the user has had no part in.
	Participated bool
	// From is the token of an earlier page.
	From string
	// Limit is the number of threads; 0 is the server's.
	Limit int
}

// Threads returns a page of the roots of a room's threads, those with the latest replies first.
//
// Errors: M_FORBIDDEN, for unknown rooms too; M_INVALID_PARAM for a token that is none.
//
// Spec: client-server API, "GET /rooms/{roomId}/threads" (v1.19).
func (s *Service) Threads(ctx context.Context, who *Requester, roomID string, req ThreadsRequest) (*RelationsPage, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	q := storage.ThreadsQuery{Room: a.room.NID, Limit: defaultThreads}
	if q.Before, err = s.endOf(ctx, a); err != nil {
		return nil, err
	}
	q.Before.NID++
	if req.From != "" {
		t, err := token.Parse(req.From, s.cfg.WriterIDs)
		if err != nil || t.Sync != nil {
			return nil, mxerr.InvalidParam.WithMessage("Unknown pagination token")
		}
		q.Before = earlier(q.Before, storage.EventPoint{Depth: t.Topological.Depth, NID: storage.EventNID(t.Topological.NID)})
	}
	if req.Limit > 0 {
		q.Limit = min(req.Limit, maxRelations)
	}
	if req.Participated {
		if q.User, err = s.store.UserNID(ctx, who.UserID); err != nil {
			return nil, fmt.Errorf("find user: %w", err)
		}
	}
	limit := q.Limit
	q.Limit++
	ts, err := storage.Threads(ctx, s.cfg.DB, q)
	if err != nil {
		return nil, fmt.Errorf("list threads of %s: %w", roomID, err)
	}
	page := &RelationsPage{}
	if len(ts) > limit {
		ts = ts[:limit]
		page.NextBatch = tokenAt(ts[limit-1].Latest)
	}
	nids := make([]storage.EventNID, len(ts))
	for i, t := range ts {
		nids[i] = t.Root
	}
	es, err := s.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read thread roots of %s: %w", roomID, err)
	}
	v, err := s.reader(ctx, who)
	if err != nil {
		return nil, err
	}
	vs, err := s.views.Visible(ctx, v, present(es))
	if err != nil {
		return nil, fmt.Errorf("view thread roots of %s: %w", roomID, err)
	}
	for i := range vs {
		vs[i].Related = true
	}
	if page.Chunk, err = s.chunk(ctx, who, a.room, vs); err != nil {
		return nil, err
	}
	return page, nil
}

// checkRelation refuses relations that make no sense: the same annotation twice, a thread that begins in a relation.
//
// Errors: M_DUPLICATE_ANNOTATION; M_UNKNOWN with status 400, as the specification asks for.
func (s *Service) checkRelation(ctx context.Context, who *Requester, r *store.Room, req *SendRequest) error {
	rel := gjson.GetBytes(req.Content, `m\.relates_to`)
	parent := rel.Get("event_id").Str
	if parent == "" {
		return nil
	}
	switch rel.Get("rel_type").Str {
	case relAnnotation:
		key := rel.Get("key").Str
		if key == "" {
			return nil
		}
		if len(key) > 1024 {
			return mxerr.InvalidParam.WithMessage("The key of an annotation may have at most 1024 bytes")
		}
		me, err := s.store.UserNID(ctx, who.UserID)
		if err != nil {
			return fmt.Errorf("find user: %w", err)
		}
		again, err := storage.Annotated(ctx, s.cfg.DB, r.NID, parent, me, req.Type, key)
		if err != nil {
			return fmt.Errorf("look for annotations of %s: %w", parent, err)
		}
		if again {
			if sent, err := s.sentBefore(ctx, who, r, me, req); err != nil || sent {
				return err
			}
			return mxerr.DuplicateAnnotation
		}
	case relThread:
		es, err := s.store.EventsByID(ctx, []string{parent})
		if err != nil {
			return fmt.Errorf("read event %s: %w", parent, err)
		}
		if es[0] != nil && es[0].RoomNID == r.NID && gjson.GetBytes(es[0].Content(), `m\.relates_to.rel_type`).Exists() {
			return mxerr.Unknown.WithStatus(400).WithMessage("Cannot start threads from an event with a relation")
		}
	}
	return nil
}

// sentBefore reports whether a request is the repetition of an earlier one, which the writer answers.
func (s *Service) sentBefore(ctx context.Context, who *Requester, r *store.Room, me storage.UserNID, req *SendRequest) (bool, error) {
	if req.TxnID == "" {
		return false, nil
	}
	e, err := s.store.EventByTxn(ctx, r.NID, me, who.DeviceID, req.TxnID)
	if err != nil {
		return false, fmt.Errorf("look for transaction id: %w", err)
	}
	return e != nil, nil
}
