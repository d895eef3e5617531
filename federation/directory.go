package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/internal/memo"
)

// Directory asks other servers for their aliases, published rooms and spaces. It has all of room.RemoteDirectory but
// EventAt. Its errors are Matrix errors: those other servers gave, or M_NOT_FOUND where none could be reached.
type Directory struct {
	client *Client
	// spaces are hierarchies told lately, by room and suggestedOnly.
	spaces memo.Cache[spaceKey, *space]
}

type spaceKey struct {
	roomID    string
	suggested bool
}

type space struct {
	*room.RemoteHierarchy
	told time.Time
}

const (
	// spaceTTL is how long what a server told of a space is handed on.
	spaceTTL  = time.Minute
	maxSpaces = 5000
	// maxAliasServers bounds the servers that an answer about an alias may name.
	maxAliasServers = 500
	// maxHierarchyServers bounds the servers that are asked about one room.
	maxHierarchyServers = 5
)

// NewDirectory makes a Directory.
func NewDirectory(c *Client) *Directory {
	return &Directory{client: c, spaces: memo.New[spaceKey, *space](maxSpaces)}
}

// ResolveAlias implements room.RemoteDirectory.
func (d *Directory) ResolveAlias(ctx context.Context, alias string) (roomID string, servers []string, err error) {
	server := id.ServerOf(alias)
	target, err := d.client.QueryDirectory(ctx, server, alias)
	if err != nil {
		return "", nil, relayed(ctx, err, "Room alias "+alias+" not found")
	}
	if !id.IsRoom(target.RoomID) {
		return "", nil, badAnswer(server)
	}
	servers = slices.DeleteFunc(target.Servers, func(s string) bool { return id.ValidateServerName(s) != nil })
	servers = servers[:min(len(servers), maxAliasServers)]
	// Whoever has the alias knows its room.
	if !slices.Contains(servers, server) {
		servers = append(servers, server)
	}
	return target.RoomID, servers, nil
}

// PublicRooms implements room.RemoteDirectory.
func (d *Directory) PublicRooms(ctx context.Context, server string, q room.PublicRoomsQuery) (*room.PublicRoomsPage, error) {
	ask := PublicRoomsQuery{
		Limit: q.Limit, Since: q.Since, IncludeAllNetworks: q.AllNetworks, ThirdPartyInstanceID: q.Network,
	}
	if q.Search != "" || q.RoomTypes != nil {
		ask.Filter = &PublicRoomsFilter{GenericSearchTerm: q.Search, RoomTypes: q.RoomTypes}
	}
	page := &room.PublicRoomsPage{}
	if err := d.client.PublicRooms(ctx, server, ask, page); err != nil {
		return nil, relayed(ctx, err, "Failed to fetch room list")
	}
	page.Chunk = slices.DeleteFunc(page.Chunk, func(r room.PublicRoom) bool { return !id.IsRoom(r.RoomID) })
	if page.Chunk == nil {
		page.Chunk = []room.PublicRoom{}
	}
	return page, nil
}

// Hierarchy implements room.RemoteDirectory. The servers are asked one after the other until one answers.
func (d *Directory) Hierarchy(ctx context.Context, roomID string, servers []string, suggestedOnly bool) (*room.RemoteHierarchy, error) {
	key := spaceKey{roomID, suggestedOnly}
	if s, ok := d.spaces.GetIfPresent(key); ok && time.Since(s.told) < spaceTTL {
		return s.RemoteHierarchy, nil
	}
	var first error
	for _, server := range servers[:min(len(servers), maxHierarchyServers)] {
		h, err := d.hierarchy(ctx, server, roomID, suggestedOnly)
		if err == nil {
			d.spaces.Set(key, &space{h, time.Now()})
			return h, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = mxerr.NotFound.WithMessage("Unknown room")
	}
	return nil, first
}

func (d *Directory) hierarchy(ctx context.Context, server, roomID string, suggestedOnly bool) (*room.RemoteHierarchy, error) {
	var out hierarchyAnswer
	if err := d.client.Hierarchy(ctx, server, roomID, suggestedOnly, &out); err != nil {
		return nil, relayed(ctx, err, "Unknown room")
	}
	if out.Room.RoomID != roomID {
		return nil, badAnswer(server)
	}
	h := &room.RemoteHierarchy{Room: toldRoom(out.Room), Inaccessible: out.Inaccessible}
	for _, c := range out.Children {
		if id.IsRoom(c.RoomID) {
			h.Children = append(h.Children, toldRoom(c))
		}
	}
	return h, nil
}

// toldRoom takes out of what a server says of a room what is not the server's to say or not what it should be.
func toldRoom(r room.HierarchyRoom) room.HierarchyRoom {
	r.Membership = ""
	children := make([]room.SpaceChild, 0, len(r.Children))
	for _, c := range r.Children {
		var content map[string]json.RawMessage
		if c.Type == "m.space.child" && json.Unmarshal(c.Content, &content) == nil && content != nil {
			children = append(children, c)
		}
	}
	r.Children = children
	return r
}

// relayed makes of another server's error one for a client of this one: an error that says that the request was not as it
// should be is no fault of the client, and one about tokens is not about the client's.
func relayed(ctx context.Context, err error, notFound string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var lost *ConnectionError
	var down *BackoffError
	if errors.As(err, &lost) || errors.As(err, &down) || errors.Is(err, ErrNotAllowed) {
		return mxerr.NotFound.WithMessage(notFound).Wrap(err)
	}
	mx, ok := mxerr.As(err)
	if !ok {
		return err
	}
	switch {
	case mx.Status == http.StatusNotFound:
		return mxerr.NotFound.WithMessage(notFound).Wrap(err)
	case mx.Code == mxerr.Forbidden.Code, mx.Code == mxerr.LimitExceeded.Code:
		return mx
	}
	return mxerr.Unknown.WithStatus(http.StatusBadGateway).WithMessage("Another server refused the request").Wrap(err)
}

func badAnswer(server string) error {
	return mxerr.Unknown.WithStatus(http.StatusBadGateway).WithMessage("Another server gave no usable answer").
		Wrap(fmt.Errorf("%s: %w", server, errBadResponse))
}
