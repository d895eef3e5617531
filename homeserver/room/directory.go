package room

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// maxPublicRooms bounds a page of the published room directory.
const maxPublicRooms = 500

// PublicRoomsQuery asks for a page of the published room directory.
type PublicRoomsQuery struct {
	// Server is the server whose directory is asked; "" is this one.
	Server string
	// Limit is the number of rooms; 0 is as many as the server gives.
	Limit int
	// Since is a token of an earlier page.
	Since string
	// Search, if not "", is a text that name, topic or canonical alias must hold.
	Search string
	// RoomTypes, if not nil, are the room types wanted; nil among them stands for rooms without one.
	RoomTypes []*string
	// Network is a network of an application service, "<appservice id>|<network id>"; AllNetworks asks for those of all
	// networks and of none.
	Network     string
	AllNetworks bool
	// Federation is set for requests of other servers, which see only rooms they may join.
	Federation bool
}

// PublicRoomsPage is a page of the published room directory.
type PublicRoomsPage struct {
	Chunk     []PublicRoom `json:"chunk"`
	NextBatch string       `json:"next_batch,omitempty"`
	PrevBatch string       `json:"prev_batch,omitempty"`
	// Total is the number of rooms that match.
	Total int64 `json:"total_room_count_estimate"`
}

// PublicRoom is what the published room directory and the summary of a room say of it.
type PublicRoom struct {
	RoomID         string `json:"room_id"`
	Name           string `json:"name,omitempty"`
	Topic          string `json:"topic,omitempty"`
	AvatarURL      string `json:"avatar_url,omitempty"`
	CanonicalAlias string `json:"canonical_alias,omitempty"`
	Joined         int64  `json:"num_joined_members"`
	WorldReadable  bool   `json:"world_readable"`
	GuestCanJoin   bool   `json:"guest_can_join"`
	JoinRule       string `json:"join_rule,omitempty"`
	RoomType       string `json:"room_type,omitempty"`
}

func publicRoom(r *storage.RoomSummary) PublicRoom {
	return PublicRoom{
		RoomID:         r.RoomID,
		Name:           r.Name,
		Topic:          r.Topic,
		AvatarURL:      r.AvatarURL,
		CanonicalAlias: r.CanonicalAlias,
		Joined:         r.Joined,
		WorldReadable:  r.Visibility == view.WorldReadable,
		GuestCanJoin:   r.GuestAccess == "can_join",
		JoinRule:       r.JoinRule,
		RoomType:       r.RoomType,
	}
}

// PublicRooms returns a page of the published room directory, largest rooms first.
//
// Errors: M_INVALID_PARAM for a token or a server name that is none, M_NOT_FOUND for servers that cannot be asked.
func (s *Service) PublicRooms(ctx context.Context, q PublicRoomsQuery) (*PublicRoomsPage, error) {
	if q.Server != "" && q.Server != s.cfg.ServerName {
		if err := id.ValidateServerName(q.Server); err != nil {
			return nil, mxerr.InvalidParam.WithMessage("server is not a server name").Wrap(err)
		}
		if s.cfg.RemoteDirectory == nil {
			return nil, mxerr.NotFound.WithMessage("Failed to fetch room list")
		}
		return s.cfg.RemoteDirectory.PublicRooms(ctx, q.Server, q)
	}
	p := storage.PublicRoomsQuery{Search: q.Search, AllNetworks: q.AllNetworks, FederatedOnly: q.Federation}
	if q.Network != "" {
		var ok bool
		if p.Appservice, p.Network, ok = strings.Cut(q.Network, "|"); !ok {
			return nil, mxerr.InvalidParam.WithMessage("Unknown third_party_instance_id")
		}
	}
	if q.RoomTypes != nil {
		p.RoomTypes = []string{}
		for _, t := range q.RoomTypes {
			if t == nil {
				p.RoomTypes = append(p.RoomTypes, "")
			} else {
				p.RoomTypes = append(p.RoomTypes, *t)
			}
		}
	}
	limit := maxPublicRooms
	if q.Limit > 0 {
		limit = min(q.Limit, maxPublicRooms)
	}
	p.Limit = limit + 1
	if q.Since != "" {
		t, err := parseDirToken(q.Since)
		if err != nil {
			return nil, err
		}
		p.Backwards, p.AfterJoined, p.After = t.backwards, t.joined, t.room
	}
	rooms, total, err := storage.PublicRooms(ctx, s.cfg.DB, p)
	if err != nil {
		return nil, fmt.Errorf("list public rooms: %w", err)
	}
	more := len(rooms) > limit
	rooms = rooms[:min(limit, len(rooms))]
	if p.Backwards {
		slices.Reverse(rooms)
	}
	page := &PublicRoomsPage{Chunk: make([]PublicRoom, len(rooms)), Total: total}
	for i := range rooms {
		page.Chunk[i] = publicRoom(&rooms[i])
	}
	if len(rooms) == 0 {
		return page, nil
	}
	first, last := &rooms[0], &rooms[len(rooms)-1]
	if more && !p.Backwards || p.Backwards {
		page.NextBatch = dirToken{joined: last.Joined, room: last.RoomNID}.String()
	}
	if more && p.Backwards || q.Since != "" && !p.Backwards {
		page.PrevBatch = dirToken{backwards: true, joined: first.Joined, room: first.RoomNID}.String()
	}
	return page, nil
}

// dirToken is a place in the published room directory, whose order is by size.
type dirToken struct {
	backwards bool
	joined    int64
	room      storage.RoomNID
}

// String returns the token. Room numbers never leave the server in plain sight, so it is encoded; it holds no secret.
func (t dirToken) String() string {
	dir := "n"
	if t.backwards {
		dir = "p"
	}
	return base64.RawURLEncoding.EncodeToString([]byte(dir + strconv.FormatInt(t.joined, 36) + "." + strconv.FormatInt(int64(t.room), 36)))
}

func parseDirToken(s string) (dirToken, error) {
	bad := mxerr.InvalidParam.WithMessage("since is not a token of the published room directory")
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) < 4 || raw[0] != 'n' && raw[0] != 'p' {
		return dirToken{}, bad
	}
	a, b, ok := strings.Cut(string(raw[1:]), ".")
	joined, err1 := strconv.ParseInt(a, 36, 64)
	room, err2 := strconv.ParseInt(b, 36, 64)
	if !ok || err1 != nil || err2 != nil || joined < 0 || room <= 0 {
		return dirToken{}, bad
	}
	return dirToken{raw[0] == 'p', joined, storage.RoomNID(room)}, nil
}

// Visibility returns whether a room is in the published room directory: "public" or "private".
//
// Errors: M_NOT_FOUND for unknown rooms.
func (s *Service) Visibility(ctx context.Context, roomID string) (string, error) {
	r, err := s.room(ctx, roomID)
	if err != nil {
		return "", err
	}
	rows, err := storage.RoomSummaries(ctx, s.cfg.DB, []storage.RoomNID{r.NID})
	if err != nil {
		return "", fmt.Errorf("read directory entry of %s: %w", roomID, err)
	}
	if len(rows) == 1 && rows[0].Public {
		return VisibilityPublic, nil
	}
	return VisibilityPrivate, nil
}

// SetVisibility puts a room into the published room directory ("public", also "") or takes it out ("private"). Those may
// who are in the room and may change its canonical alias, and server administrators.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND for unknown rooms, M_FORBIDDEN.
func (s *Service) SetVisibility(ctx context.Context, who *Requester, roomID, visibility string) error {
	switch visibility {
	case "":
		visibility = VisibilityPublic
	case VisibilityPublic, VisibilityPrivate:
	default:
		return mxerr.InvalidParam.WithMessage("visibility must be public or private")
	}
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	may, err := s.mayChange(ctx, r, who.UserID, typeCanonicalAlias)
	if err != nil {
		return err
	}
	if !may && !who.IsAdmin {
		return mxerr.Forbidden.WithMessage("You don't have permission to change the room's directory entry")
	}
	if err := storage.SetRoomPublic(ctx, s.cfg.DB, r.NID, visibility == VisibilityPublic); err != nil {
		return fmt.Errorf("change directory entry of %s: %w", roomID, err)
	}
	return nil
}

// SetAppserviceVisibility puts a room into the list of one network of the application service that asks, or takes it out.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND for unknown rooms.
func (s *Service) SetAppserviceVisibility(ctx context.Context, who *Requester, network, roomID, visibility string) error {
	if visibility != VisibilityPublic && visibility != VisibilityPrivate {
		return mxerr.InvalidParam.WithMessage("visibility must be public or private")
	}
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	err = storage.SetAppserviceRoomPublic(ctx, s.cfg.DB, who.AppserviceID, network, r.NID, visibility == VisibilityPublic)
	if err != nil {
		return fmt.Errorf("change directory entry of %s: %w", roomID, err)
	}
	return nil
}
