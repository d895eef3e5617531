package room

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// Limits of a search.
const (
	maxSearchPage    = 100
	maxSearchTerm    = 1000
	maxSearchContext = 20
	// indexPerSearch bounds the events of one room that a search takes into the index first; the rest follow with later
	// searches.
	indexPerSearch = 5000
)

// SearchRequest is the room_events part of a search.
type SearchRequest struct {
	Term    string          `json:"search_term"`
	Keys    []string        `json:"keys"`
	Filter  json.RawMessage `json:"filter"`
	OrderBy string          `json:"order_by"`
	Context *SearchContext  `json:"event_context"`
	State   bool            `json:"include_state"`
	Groups  struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

// SearchContext says what to return around each result.
type SearchContext struct {
	Before  *int `json:"before_limit"`
	After   *int `json:"after_limit"`
	Profile bool `json:"include_profile"`
}

// SearchResults is a page of results.
type SearchResults struct {
	Count      int64                              `json:"count"`
	Highlights []string                           `json:"highlights"`
	Results    []SearchResult                     `json:"results"`
	State      map[string]json.RawMessage         `json:"state,omitempty"`
	Groups     map[string]map[string]*SearchGroup `json:"groups,omitempty"`
	NextBatch  string                             `json:"next_batch,omitempty"`
}

// SearchResult is an event that matches.
type SearchResult struct {
	Rank    float64         `json:"rank"`
	Result  json.RawMessage `json:"result"`
	Context *ResultContext  `json:"context,omitempty"`
}

// ResultContext is what is around a result.
type ResultContext struct {
	Start    string                   `json:"start"`
	End      string                   `json:"end"`
	Before   json.RawMessage          `json:"events_before"`
	After    json.RawMessage          `json:"events_after"`
	Profiles map[string]ResultProfile `json:"profile_info,omitempty"`
}

// ResultProfile is how a sender was called when they sent.
type ResultProfile struct {
	DisplayName string `json:"displayname,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`
}

// SearchGroup is the results of one room or one sender.
type SearchGroup struct {
	Order   int      `json:"order"`
	Results []string `json:"results"`
}

// Search returns a page of the messages, names and topics in the user's rooms that match. from is the NextBatch of the
// page before, or "".
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_BAD_JSON for a bad filter.
//
// Spec: client-server API, "Server Side Search" (v1.19).
func (s *Service) Search(ctx context.Context, who *Requester, req SearchRequest, from string) (*SearchResults, error) {
	q, f, err := s.searchQuery(req, from)
	if err != nil {
		return nil, err
	}
	rooms, err := s.searchable(ctx, who, f)
	if err != nil {
		return nil, err
	}
	out := &SearchResults{Highlights: wordsOf(req.Term), Results: []SearchResult{}}
	for nid := range rooms {
		q.Rooms = append(q.Rooms, nid)
	}
	slices.Sort(q.Rooms)
	pq := storage.EventPageQuery{}
	ok, err := s.senders(ctx, f, &pq)
	if err != nil {
		return nil, err
	}
	if len(q.Rooms) == 0 || !ok || f.MatchesNone() {
		return out, nil
	}
	q.Senders, q.NotSenders = pq.Senders, pq.NotSenders
	q.Types, q.NotTypes = f.LikeTypes()
	if _, err := storage.IndexForSearch(ctx, s.cfg.DB, q.Rooms, indexPerSearch); err != nil {
		return nil, err
	}
	found, more, err := s.find(ctx, who, q, f, out)
	if err != nil {
		return nil, err
	}
	out.NextBatch = more
	return out, s.describe(ctx, who, req, rooms, found, out)
}

func (s *Service) searchQuery(req SearchRequest, from string) (*storage.SearchQuery, *filter.Events, error) {
	if strings.TrimSpace(req.Term) == "" {
		return nil, nil, mxerr.MissingParam.WithMessage("Missing search_term")
	}
	if len(req.Term) > maxSearchTerm {
		return nil, nil, mxerr.InvalidParam.WithMessage(fmt.Sprintf("search_term may have at most %d bytes", maxSearchTerm))
	}
	q := &storage.SearchQuery{Term: req.Term}
	for _, k := range req.Keys {
		switch k {
		case "content.body":
			q.Keys = append(q.Keys, storage.SearchBody)
		case "content.name":
			q.Keys = append(q.Keys, storage.SearchName)
		case "content.topic":
			q.Keys = append(q.Keys, storage.SearchTopic)
		default:
			return nil, nil, mxerr.InvalidParam.WithMessage("keys may hold content.body, content.name and content.topic")
		}
	}
	if req.Keys == nil {
		q.Keys = []int16{storage.SearchBody, storage.SearchName, storage.SearchTopic}
	}
	switch req.OrderBy {
	case "", "rank":
		q.ByRank = true
	case "recent":
	default:
		return nil, nil, mxerr.InvalidParam.WithMessage("order_by must be recent or rank")
	}
	for _, g := range req.Groups.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return nil, nil, mxerr.InvalidParam.WithMessage("group_by may hold room_id and sender")
		}
	}
	if c := req.Context; c != nil && (c.Before != nil && *c.Before < 0 || c.After != nil && *c.After < 0) {
		return nil, nil, mxerr.InvalidParam.WithMessage("before_limit and after_limit must not be negative")
	}
	f := &filter.Events{}
	if len(req.Filter) > 0 && string(req.Filter) != "null" {
		var err error
		if f, err = filter.ParseEvents(req.Filter); err != nil {
			return nil, nil, err
		}
	}
	q.Limit = max(1, f.Limit(DefaultPage, maxSearchPage))
	return q, f, parseSearchToken(from, q)
}

// A token of a search is where the next page starts: a place in time, or a number of results by rank.
func searchToken(q *storage.SearchQuery) string {
	if q.ByRank {
		return "o" + strconv.Itoa(q.Offset)
	}
	return "n" + strconv.FormatInt(int64(q.Before), 10)
}

func parseSearchToken(from string, q *storage.SearchQuery) error {
	if from == "" {
		return nil
	}
	n, err := strconv.ParseInt(from[1:], 10, 64)
	switch {
	case err != nil:
	case q.ByRank && from[0] == 'o' && n > 0 && n < 1<<30:
		q.Offset = int(n)
		return nil
	case !q.ByRank && from[0] == 'n' && n != 0:
		q.Before = storage.EventNID(n)
		return nil
	}
	return mxerr.InvalidParam.WithMessage("next_batch is not a token of this endpoint")
}

// searchable returns the rooms whose events the user may search: those they are in, and those they were in and have not
// forgotten.
func (s *Service) searchable(ctx context.Context, who *Requester, f *filter.Events) (map[storage.RoomNID]*store.Room, error) {
	me, err := s.store.UserNID(ctx, who.UserID)
	if err != nil {
		return nil, fmt.Errorf("find user: %w", err)
	}
	urs, err := s.store.UserRooms(ctx, me, storage.MembershipJoin, storage.MembershipLeave, storage.MembershipBan)
	if err != nil {
		return nil, fmt.Errorf("list rooms of %s: %w", who.UserID, err)
	}
	var nids []storage.RoomNID
	for _, ur := range urs {
		if !ur.Forgotten {
			nids = append(nids, ur.RoomNID)
		}
	}
	rs, err := s.store.RoomsByNID(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("find rooms of %s: %w", who.UserID, err)
	}
	out := make(map[storage.RoomNID]*store.Room, len(rs))
	for _, r := range rs {
		if r != nil && f.AllowsRoom(r.ID) {
			out[r.NID] = r
		}
	}
	return out, nil
}

// hit is a result the user may see.
type hit struct {
	view.Event
	rank float64
}

// find collects results that the user may see, and the token of those after them where the page is full.
func (s *Service) find(ctx context.Context, who *Requester, q *storage.SearchQuery, f *filter.Events, out *SearchResults) ([]hit, string, error) {
	var found []hit
	wanted := q.Limit
	for range 10 {
		q.Limit = wanted - len(found)
		hits, total, err := storage.SearchEvents(ctx, s.cfg.DB, *q)
		if err != nil {
			return nil, "", err
		}
		out.Count = total
		seen, err := s.visibleHits(ctx, who, hits)
		if err != nil {
			return nil, "", err
		}
		for _, h := range hits {
			q.Before = h.NID
			q.Offset++
			if e, ok := seen[h.NID]; ok && f.Match(subjectOf(e.Event)) {
				found = append(found, hit{e, h.Rank})
			}
		}
		if len(hits) < q.Limit {
			return found, "", nil
		}
		if len(found) == wanted {
			break
		}
	}
	return found, searchToken(q), nil
}

func (s *Service) visibleHits(ctx context.Context, who *Requester, hits []storage.SearchHit) (map[storage.EventNID]view.Event, error) {
	nids := make([]storage.EventNID, len(hits))
	for i, h := range hits {
		nids[i] = h.NID
	}
	es, err := s.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	v, err := s.reader(ctx, who)
	if err != nil {
		return nil, err
	}
	vs, err := s.views.Visible(ctx, v, present(es))
	if err != nil {
		return nil, fmt.Errorf("view results: %w", err)
	}
	out := make(map[storage.EventNID]view.Event, len(hits))
	for _, v := range vs {
		v.Related = true
		out[v.NID] = v
	}
	return out, nil
}

// describe writes the results, with their context, groups and the state of their rooms as far as asked for.
func (s *Service) describe(ctx context.Context, who *Requester, req SearchRequest, rooms map[storage.RoomNID]*store.Room, found []hit, out *SearchResults) error {
	for _, h := range found {
		r := rooms[h.RoomNID]
		res := SearchResult{Rank: h.rank}
		var err error
		if res.Result, err = s.one(ctx, who, r, &h.Event); err != nil {
			return err
		}
		if req.Context != nil {
			if res.Context, err = s.resultContext(ctx, who, r, &h.Event, req.Context); err != nil {
				return err
			}
		}
		out.Results = append(out.Results, res)
	}
	for _, g := range req.Groups.By {
		groups := map[string]*SearchGroup{}
		for i, h := range found {
			key := h.Sender()
			if g.Key == "room_id" {
				key = h.RoomID()
			}
			if groups[key] == nil {
				groups[key] = &SearchGroup{Order: i + 1}
			}
			groups[key].Results = append(groups[key].Results, h.ID())
		}
		if out.Groups == nil {
			out.Groups = map[string]map[string]*SearchGroup{}
		}
		out.Groups[g.Key] = groups
	}
	if !req.State {
		return nil
	}
	out.State = map[string]json.RawMessage{}
	for _, h := range found {
		if _, ok := out.State[h.RoomID()]; ok {
			continue
		}
		state, err := s.State(ctx, who, h.RoomID())
		if err != nil {
			return err
		}
		out.State[h.RoomID()] = state
	}
	return nil
}

func (s *Service) resultContext(ctx context.Context, who *Requester, r *store.Room, e *view.Event, c *SearchContext) (*ResultContext, error) {
	limit := func(p *int) int {
		if p == nil {
			return 5
		}
		return min(*p, maxSearchContext)
	}
	at := pointAt(e.Event)
	just := token.Before(at.Depth, int64(at.NID))
	before := &walked{next: storage.EventPoint{Depth: just.Depth, NID: storage.EventNID(just.NID)}}
	after := &walked{next: at}
	var err error
	if n := limit(c.Before); n > 0 {
		if before, err = s.walk(ctx, who, window{room: r, upTo: before.next, backwards: true, limit: n, filter: &filter.Events{}}); err != nil {
			return nil, err
		}
	}
	if n := limit(c.After); n > 0 {
		end, err := s.endOf(ctx, &access{room: r})
		if err != nil {
			return nil, err
		}
		if after, err = s.walk(ctx, who, window{room: r, after: at, upTo: end, limit: n, filter: &filter.Events{}}); err != nil {
			return nil, err
		}
	}
	out := &ResultContext{Start: tokenAt(before.next), End: tokenAt(after.next)}
	if out.Before, err = s.chunk(ctx, who, r, before.events); err != nil {
		return nil, err
	}
	if out.After, err = s.chunk(ctx, who, r, after.events); err != nil {
		return nil, err
	}
	if !c.Profile {
		return out, nil
	}
	members, err := s.sendersOf(ctx, slices.Concat(before.events, []view.Event{*e}, after.events))
	if err != nil {
		return nil, err
	}
	out.Profiles = map[string]ResultProfile{}
	for _, m := range members {
		user, _ := m.StateKey()
		out.Profiles[user] = ResultProfile{
			DisplayName: gjson.GetBytes(m.Content(), "displayname").Str,
			AvatarURL:   gjson.GetBytes(m.Content(), "avatar_url").Str,
		}
	}
	return out, nil
}

// wordsOf returns the words of a search term, for clients to highlight.
func wordsOf(term string) []string {
	return distinct(strings.FieldsFunc(strings.ToLower(term), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r)
	}), "")
}
