package room

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// Limits of a walk through a space.
const (
	defaultHierarchyPage = 50
	maxHierarchyPage     = 50
	// maxHierarchyDepth bounds the levels walked: each costs a fixed number of statements.
	maxHierarchyDepth = 50
	// maxHierarchyRooms bounds the rooms of one walk.
	maxHierarchyRooms = 10_000
	// maxHierarchyRemote bounds the rooms of one walk that other servers are asked about.
	maxHierarchyRemote = 50
	typeSpace          = "m.space"
)

// HierarchyRequest asks for a page of the rooms of a space.
type HierarchyRequest struct {
	// SuggestedOnly leaves out rooms the space does not suggest.
	SuggestedOnly bool
	// MaxDepth bounds how deep to look; nil is as deep as the server goes, 0 is the space alone.
	MaxDepth *int
	// Limit is the number of rooms; 0 is the server's.
	Limit int
	// From is the token of an earlier page, "" for the first. The other fields but Limit must then be the same as there.
	From string
}

// HierarchyPage is a page of the rooms of a space, depth first.
type HierarchyPage struct {
	Rooms     []HierarchyRoom `json:"rooms"`
	NextBatch string          `json:"next_batch,omitempty"`
}

// HierarchyRoom is a room of a space.
type HierarchyRoom struct {
	Summary
	// Children are the m.space.child events of a space, in the order of its rooms.
	Children []SpaceChild `json:"children_state"`
}

// SpaceChild is an m.space.child event as the hierarchy shows it.
type SpaceChild struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Sender   string          `json:"sender"`
	TS       int64           `json:"origin_server_ts"`
}

// Hierarchy returns a page of the rooms of a space that the user may read or enter.
//
// Errors: M_INVALID_PARAM for a token that is none or of another request, M_FORBIDDEN for a space the user may neither
// read nor enter, also for unknown ones.
//
// Spec: client-server API, "GET /rooms/{roomId}/hierarchy" (v1.19).
func (s *Service) Hierarchy(ctx context.Context, who *Requester, roomID string, req HierarchyRequest) (*HierarchyPage, error) {
	depth := maxHierarchyDepth
	if req.MaxDepth != nil {
		depth = min(*req.MaxDepth, maxHierarchyDepth)
	}
	skip, err := hierarchyOffset(req.From, depth, req.SuggestedOnly)
	if err != nil {
		return nil, err
	}
	limit := defaultHierarchyPage
	if req.Limit > 0 {
		limit = min(req.Limit, maxHierarchyPage)
	}
	w := &spaceWalk{svc: s, user: who.UserID, suggestedOnly: req.SuggestedOnly, rooms: map[string]*HierarchyRoom{}}
	if err := w.load(ctx, roomID, depth); err != nil {
		return nil, err
	}
	if w.rooms[roomID] == nil {
		return nil, mxerr.Forbidden.WithMessage("You are not allowed to view this room.")
	}
	list := w.order(roomID, depth)
	page := &HierarchyPage{Rooms: []HierarchyRoom{}}
	if skip < len(list) {
		list = list[skip:]
		if len(list) > limit {
			list = list[:limit]
			page.NextBatch = hierarchyToken(skip+limit, depth, req.SuggestedOnly)
		}
		page.Rooms = list
	}
	return page, nil
}

// The token is how many rooms were returned, with what must not change between pages: any worker can go on from it, and
// a space that changes in between costs at most a room seen twice.
func hierarchyToken(offset, depth int, suggestedOnly bool) string {
	return fmt.Sprintf("h%d_%d_%t", offset, depth, suggestedOnly)
}

func hierarchyOffset(from string, depth int, suggestedOnly bool) (int, error) {
	if from == "" {
		return 0, nil
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(from, "h"), "_")
	n, err := strconv.Atoi(first)
	if err != nil || n <= 0 || n > maxHierarchyRooms {
		return 0, mxerr.InvalidParam.WithMessage("from is not a token of this endpoint")
	}
	if from != hierarchyToken(n, depth, suggestedOnly) {
		return 0, mxerr.InvalidParam.WithMessage("suggested_only and max_depth cannot change on paginated requests")
	}
	return n, nil
}

// spaceWalk collects the rooms of a space level by level, so that the number of statements follows the depth and not the
// number of rooms.
type spaceWalk struct {
	svc           *Service
	user          string
	server        string // asks instead of user
	suggestedOnly bool
	// rooms are those found, nil for those that the user must not see.
	rooms  map[string]*HierarchyRoom
	asked  int
	remote sync.Mutex
}

// wantedRoom is a room to find, with servers that may know it.
type wantedRoom struct {
	id  string
	via []string
}

func (w *spaceWalk) load(ctx context.Context, roomID string, depth int) error {
	level := []wantedRoom{{id: roomID}}
	for d := 0; len(level) > 0 && len(w.rooms) < maxHierarchyRooms; d++ {
		if err := w.loadLevel(ctx, level); err != nil {
			return err
		}
		if d == depth {
			return nil
		}
		var next []wantedRoom
		queued := map[string]bool{}
		for _, r := range level {
			room := w.rooms[r.id]
			if room == nil {
				continue
			}
			for _, c := range room.Children {
				if _, known := w.rooms[c.StateKey]; known || queued[c.StateKey] {
					continue
				}
				queued[c.StateKey] = true
				next = append(next, wantedRoom{c.StateKey, viaOf(c.Content)})
			}
		}
		level = next
	}
	return nil
}

func (w *spaceWalk) loadLevel(ctx context.Context, level []wantedRoom) error {
	ids := make([]string, len(level))
	for i, r := range level {
		ids[i] = r.id
	}
	found, err := w.svc.localSummaries(ctx, w.user, ids)
	if err != nil {
		return err
	}
	var spaces []storage.RoomNID
	byNID := map[storage.RoomNID]*HierarchyRoom{}
	var elsewhere []wantedRoom
	for _, r := range level {
		l, ok := found[r.id]
		switch {
		case !ok:
			elsewhere = append(elsewhere, r)
		case !l.open:
			w.rooms[r.id] = nil
		default:
			room := &HierarchyRoom{Summary: l.Summary, Children: []SpaceChild{}}
			w.rooms[r.id] = room
			if l.RoomType == typeSpace {
				spaces = append(spaces, l.nid)
				byNID[l.nid] = room
			}
		}
	}
	if err := w.loadChildren(ctx, spaces, byNID); err != nil {
		return err
	}
	return w.loadRemote(ctx, elsewhere)
}

func (w *spaceWalk) loadChildren(ctx context.Context, spaces []storage.RoomNID, byNID map[storage.RoomNID]*HierarchyRoom) error {
	if len(spaces) == 0 {
		return nil
	}
	rows, err := storage.SpaceChildren(ctx, w.svc.cfg.DB, spaces)
	if err != nil {
		return fmt.Errorf("read children of %d spaces: %w", len(spaces), err)
	}
	nids := make([]storage.EventNID, len(rows))
	for i, r := range rows {
		nids[i] = r.NID
	}
	es, err := w.svc.store.Events(ctx, nids)
	if err != nil {
		return fmt.Errorf("read children of %d spaces: %w", len(spaces), err)
	}
	for i, r := range rows {
		if es[i] == nil {
			continue
		}
		room := byNID[r.Space]
		room.Children = append(room.Children, childOf(es[i], r.Child))
	}
	for _, room := range byNID {
		room.Children = w.ordered(room.Children)
	}
	return nil
}

func childOf(e *store.Event, child string) SpaceChild {
	return SpaceChild{Type: typeSpaceChild, StateKey: child, Content: e.Content(), Sender: e.Sender(), TS: e.OriginServerTS()}
}

// ordered returns the children that count, in the order the specification gives: by the order key, those without one
// last, then by age, then by room id.
func (w *spaceWalk) ordered(all []SpaceChild) []SpaceChild {
	out := []SpaceChild{}
	for _, c := range all {
		if len(viaOf(c.Content)) == 0 || len(c.StateKey) < 2 || c.StateKey[0] != '!' ||
			w.suggestedOnly && gjson.GetBytes(c.Content, "suggested").Type != gjson.True {
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b SpaceChild) int {
		ka, kb := orderKey(a.Content), orderKey(b.Content)
		switch {
		case ka != kb && ka == "":
			return 1
		case ka != kb && kb == "":
			return -1
		}
		return cmp.Or(cmp.Compare(ka, kb), cmp.Compare(a.TS, b.TS), cmp.Compare(a.StateKey, b.StateKey))
	})
	return out
}

// loadRemote asks other servers about rooms nobody here is in. A server that does not answer costs the room, not the
// request.
func (w *spaceWalk) loadRemote(ctx context.Context, rooms []wantedRoom) error {
	dir := w.svc.cfg.RemoteDirectory
	var g errgroup.Group
	g.SetLimit(8)
	for _, r := range rooms {
		if _, known := w.rooms[r.id]; known {
			continue
		}
		w.rooms[r.id] = nil
		servers := distinct(r.via, w.svc.cfg.ServerName)
		if dir == nil || len(servers) == 0 || w.asked >= maxHierarchyRemote {
			continue
		}
		w.asked++
		g.Go(func() error {
			h, err := dir.Hierarchy(ctx, r.id, servers, w.suggestedOnly)
			if err != nil {
				return nil //nolint:nilerr // see above
			}
			sum := h.Room.Summary
			ok, err := w.svc.mayEnter(ctx, w.user, 0, &sum)
			if err != nil || !ok {
				return err
			}
			room := h.Room
			room.Children = w.ordered(room.Children)
			w.remote.Lock()
			defer w.remote.Unlock()
			w.rooms[r.id] = &room
			return nil
		})
	}
	return g.Wait()
}

// order lists the rooms found, depth first, each once.
func (w *spaceWalk) order(root string, depth int) []HierarchyRoom {
	var out []HierarchyRoom
	seen := map[string]bool{}
	var visit func(id string, d int)
	visit = func(id string, d int) {
		room := w.rooms[id]
		if seen[id] || room == nil {
			return
		}
		seen[id] = true
		out = append(out, *room)
		if d == depth {
			return
		}
		for _, c := range room.Children {
			visit(c.StateKey, d+1)
		}
	}
	visit(root, 0)
	return out
}

// viaOf returns the servers an m.space.child names; without any, the room is no child.
func viaOf(content json.RawMessage) []string {
	var out []string
	for _, v := range gjson.GetBytes(content, "via").Array() {
		if v.Type == gjson.String && v.Str != "" {
			out = append(out, v.Str)
		}
	}
	return out
}

// orderKey returns the order key of an m.space.child, "" where there is none that is valid.
func orderKey(content json.RawMessage) string {
	s := gjson.GetBytes(content, "order")
	if s.Type != gjson.String || len(s.Str) > 50 {
		return ""
	}
	for i := range len(s.Str) {
		if s.Str[i] < 0x20 || s.Str[i] > 0x7E {
			return ""
		}
	}
	return s.Str
}
