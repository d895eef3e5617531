package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// Resolved is what an alias points to.
type Resolved struct {
	RoomID string `json:"room_id"`
	// Servers are servers that know the room, this one first where it does.
	Servers []string `json:"servers"`
}

// ResolveAlias returns the room an alias points to, asking its server where that is another one.
//
// Errors: M_INVALID_PARAM for what is no alias, M_NOT_FOUND for one that points nowhere or whose server cannot be asked.
func (s *Service) ResolveAlias(ctx context.Context, alias string) (*Resolved, error) {
	a, err := parseAlias(alias)
	if err != nil {
		return nil, err
	}
	if a.Server != s.cfg.ServerName {
		if s.cfg.RemoteDirectory == nil {
			return nil, aliasNotFound(alias)
		}
		roomID, servers, err := s.cfg.RemoteDirectory.ResolveAlias(ctx, alias)
		if err != nil {
			return nil, err
		}
		return &Resolved{roomID, servers}, nil
	}
	row, err := storage.AliasByName(ctx, s.cfg.DB, alias)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, aliasNotFound(alias)
	}
	if err != nil {
		return nil, fmt.Errorf("find alias: %w", err)
	}
	servers, err := s.serversOf(ctx, row.RoomNID)
	if err != nil {
		return nil, err
	}
	return &Resolved{row.RoomID, servers}, nil
}

// CreateAlias points a new alias of this server to a room that the user is in.
//
// Errors: M_INVALID_PARAM for what is no alias or one of another server, M_UNKNOWN with status 409 for one that is taken,
// M_NOT_FOUND for unknown rooms, M_FORBIDDEN for people who are not in the room.
func (s *Service) CreateAlias(ctx context.Context, who *Requester, alias, roomID string) error {
	if err := s.ownAlias(alias); err != nil {
		return err
	}
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	if !who.IsAdmin && who.AppserviceID == "" {
		if r, err = s.member(ctx, who, roomID); err != nil {
			return err
		}
	}
	users, err := s.store.InternUsers(ctx, []string{who.UserID})
	if err != nil {
		return fmt.Errorf("number the user: %w", err)
	}
	made, err := storage.InsertAlias(ctx, s.cfg.DB, storage.Alias{
		Alias: alias, RoomNID: r.NID, CreatorNID: users[0], CreatedTS: s.now(),
	})
	if err != nil {
		return fmt.Errorf("insert alias: %w", err)
	}
	if !made {
		return mxerr.Unknown.WithStatus(409).WithMessage(fmt.Sprintf("Room alias %s already exists.", alias))
	}
	return nil
}

// DeleteAlias removes an alias of this server. Its creator, server administrators, and those who may change the room's
// m.room.canonical_alias may. Where the room's canonical alias names it and the user may change that, it is taken out
// there too.
//
// Errors: M_INVALID_PARAM for what is no alias or one of another server, M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) DeleteAlias(ctx context.Context, who *Requester, alias string) error {
	if err := s.ownAlias(alias); err != nil {
		return err
	}
	row, err := storage.AliasByName(ctx, s.cfg.DB, alias)
	if errors.Is(err, storage.ErrNotFound) {
		return aliasNotFound(alias)
	}
	if err != nil {
		return fmt.Errorf("find alias: %w", err)
	}
	r, err := s.room(ctx, row.RoomID)
	if err != nil {
		return err
	}
	may, err := s.mayChange(ctx, r, who.UserID, typeCanonicalAlias)
	if err != nil {
		return err
	}
	me, err := s.store.UserNID(ctx, who.UserID)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	if !may && row.CreatorNID != me && !who.IsAdmin {
		return mxerr.Forbidden.WithMessage("You don't have permission to delete the alias.")
	}
	gone, err := storage.DeleteAlias(ctx, s.cfg.DB, alias, row.RoomNID)
	if err != nil {
		return fmt.Errorf("delete alias: %w", err)
	}
	if !gone {
		return aliasNotFound(alias)
	}
	if !may {
		return nil
	}
	// The alias is gone whatever becomes of the event; the specification asks for success then too.
	if err := s.dropCanonicalAlias(ctx, who, r, alias); err != nil {
		s.log.Info().Err(err).Str("room_id", r.ID).Msg("canonical alias not updated")
	}
	return nil
}

// dropCanonicalAlias takes an alias out of the room's m.room.canonical_alias.
func (s *Service) dropCanonicalAlias(ctx context.Context, who *Requester, r *store.Room, alias string) error {
	e, err := s.current(ctx, r, typeCanonicalAlias, "")
	if err != nil || e == nil {
		return err
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(e.Content(), &content); err != nil {
		return fmt.Errorf("decode %s: %w", typeCanonicalAlias, err)
	}
	changed := false
	if gjson.GetBytes(e.Content(), "alias").Str == alias {
		delete(content, "alias")
		changed = true
	}
	var alt []string
	if json.Unmarshal(content["alt_aliases"], &alt) == nil && slices.Contains(alt, alias) {
		changed = true
		alt = slices.DeleteFunc(alt, func(a string) bool { return a == alias })
		if len(alt) > 0 {
			content["alt_aliases"] = mustJSON(alt)
		} else {
			delete(content, "alt_aliases")
		}
	}
	if !changed {
		return nil
	}
	key := ""
	_, err = s.send(ctx, r.ID, writer.Draft{
		Type: typeCanonicalAlias, StateKey: &key, Sender: who.UserID, Content: mustJSON(content),
	})
	return err
}

// Aliases returns the aliases of this server that point to a room, sorted, to people who may read it now.
//
// Errors: M_FORBIDDEN, for unknown rooms too.
func (s *Service) Aliases(ctx context.Context, who *Requester, roomID string) ([]string, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if a.left != nil {
		return nil, mxerr.Forbidden.WithMessage("You are not a member of the room.")
	}
	as, err := storage.RoomAliases(ctx, s.cfg.DB, a.room.NID)
	if err != nil {
		return nil, fmt.Errorf("list aliases of %s: %w", roomID, err)
	}
	if as == nil {
		as = []string{}
	}
	return as, nil
}

// mayChange reports whether a user is in a room and has the power level for a type of state event.
func (s *Service) mayChange(ctx context.Context, r *store.Room, userID, typ string) (bool, error) {
	m, err := s.store.Membership(ctx, r.NID, userID)
	if err != nil {
		return false, fmt.Errorf("read membership of %s in %s: %w", userID, r.ID, err)
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return false, nil
	}
	pl, err := s.levels(ctx, r)
	if err != nil {
		return false, err
	}
	return pl.UserLevel(userID) >= pl.EventLevel(typ, true), nil
}

// serversOf returns the servers of the members of a room, this one first if it is among them, the others by how many
// members they have.
func (s *Service) serversOf(ctx context.Context, room storage.RoomNID) ([]string, error) {
	ms, err := s.store.Members(ctx, room, storage.MembershipJoin)
	if err != nil {
		return nil, fmt.Errorf("list members of room %d: %w", room, err)
	}
	count := map[string]int{}
	for _, m := range ms {
		count[id.ServerOf(m.UserID)]++
	}
	servers := make([]string, 0, len(count))
	for server := range count {
		servers = append(servers, server)
	}
	slices.SortFunc(servers, func(a, b string) int {
		switch {
		case a == s.cfg.ServerName:
			return -1
		case b == s.cfg.ServerName:
			return 1
		case count[a] != count[b]:
			return count[b] - count[a]
		case a < b:
			return -1
		}
		return 1
	})
	return servers, nil
}

// target finds the room that {roomIdOrAlias} names: its id, and servers that may be in it.
func (s *Service) target(ctx context.Context, roomIDOrAlias string, via []string) (string, []string, error) {
	if len(roomIDOrAlias) > 0 && roomIDOrAlias[0] == '#' {
		res, err := s.ResolveAlias(ctx, roomIDOrAlias)
		if err != nil {
			return "", nil, err
		}
		return res.RoomID, distinct(append(slices.Clone(via), res.Servers...), s.cfg.ServerName), nil
	}
	if len(roomIDOrAlias) < 2 || roomIDOrAlias[0] != '!' || len(roomIDOrAlias) > id.MaxLength {
		return "", nil, mxerr.InvalidParam.WithMessage("That is neither a room ID nor a room alias")
	}
	return roomIDOrAlias, distinct(via, s.cfg.ServerName), nil
}

func (s *Service) ownAlias(alias string) error {
	a, err := parseAlias(alias)
	if err != nil {
		return err
	}
	if a.Server != s.cfg.ServerName {
		return mxerr.InvalidParam.WithMessage("Room alias must be local")
	}
	return nil
}

func parseAlias(alias string) (id.Alias, error) {
	a, err := id.ParseAlias(alias)
	if err != nil {
		return a, mxerr.InvalidParam.WithMessage("Room alias invalid").Wrap(err)
	}
	return a, nil
}

func aliasNotFound(alias string) error {
	return mxerr.NotFound.WithMessage(fmt.Sprintf("Room alias %s not found.", alias))
}
