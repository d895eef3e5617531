package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// UpgradeRequest is the body of /rooms/{roomId}/upgrade.
type UpgradeRequest struct {
	NewVersion         string   `json:"new_version"`
	AdditionalCreators []string `json:"additional_creators"`
}

// carriedTypes are the state events a replacement room starts with, besides bans, space children and power levels.
func carriedTypes() []string {
	return []string{
		event.TypeJoinRules, event.TypeHistoryVisibility, typeGuestAccess, typeName, typeTopic, typeAvatar, typeEncryption,
		typeServerACL,
	}
}

// Upgrade replaces a room by a new one of another version and returns its room id. The new room has the settings of the
// old one, its bans, its local aliases and its place in the published room directory; the old one is closed as far as the
// user's power level allows.
//
// Errors: M_MISSING_PARAM, M_BAD_JSON, M_UNSUPPORTED_ROOM_VERSION, M_FORBIDDEN for people who are not in the room (also
// for unknown rooms) or may not send m.room.tombstone.
//
// Spec: client-server API, "Room Upgrades" (v1.19).
func (s *Service) Upgrade(ctx context.Context, who *Requester, roomID string, req UpgradeRequest) (string, error) {
	if err := active(who); err != nil {
		return "", err
	}
	if req.NewVersion == "" {
		return "", mxerr.MissingParam.WithMessage("Missing new_version")
	}
	v, ok := event.LookupVersion(req.NewVersion)
	if !ok {
		return "", mxerr.UnsupportedRoomVersion.WithMessage("This server does not support that room version")
	}
	for _, u := range req.AdditionalCreators {
		if !id.IsUser(u) {
			return "", mxerr.BadJSON.WithMessage("additional_creators must be an array of user IDs")
		}
	}
	old, err := s.member(ctx, who, roomID)
	if err != nil {
		return "", err
	}
	may, err := s.mayChange(ctx, old, who.UserID, typeTombstone)
	if err != nil {
		return "", err
	}
	if !may {
		return "", mxerr.Forbidden.WithMessage("You cannot upgrade this room")
	}
	state, err := s.store.CurrentState(ctx, old.NID, nil)
	if err != nil {
		return "", fmt.Errorf("read state of %s: %w", roomID, err)
	}
	pl, err := s.levels(ctx, old)
	if err != nil {
		return "", err
	}
	return s.upgradeTo(ctx, who, old, v, req, state, pl)
}

// upgradeTo makes the new room, points everything to it, and closes the old one last: a failure on the way leaves the
// old room in use.
func (s *Service) upgradeTo(ctx context.Context, who *Requester, old *store.Room, v *event.Version, req UpgradeRequest, state []*store.Event, pl *event.PowerLevels) (string, error) {
	last, err := s.store.Head(ctx, old.NID)
	if err != nil {
		return "", fmt.Errorf("read head of %s: %w", old.ID, err)
	}
	before, err := s.store.Events(ctx, []storage.EventNID{last.LastNID})
	if err != nil {
		return "", fmt.Errorf("read the last event of %s: %w", old.ID, err)
	}
	create, drafts, err := s.replacement(ctx, who, old, v, req, state, before[0])
	if err != nil {
		return "", err
	}
	created, err := s.cfg.Writer.CreateRoom(ctx, v, create, drafts...)
	if err != nil {
		return "", err
	}
	if err := s.applied(ctx, created.Results...); err != nil {
		return "", err
	}
	r, err := s.room(ctx, created.RoomID)
	if err != nil {
		return "", err
	}

	key := ""
	closing := []writer.Draft{{
		Type: typeTombstone, StateKey: &key, Sender: who.UserID,
		Content: mustJSON(map[string]any{"body": "This room has been replaced", "replacement_room": r.ID}),
	}}
	if _, err := s.send(ctx, old.ID, closing...); err != nil {
		return "", err
	}
	if err := s.moveDirectory(ctx, who, old, r, state); err != nil {
		return "", err
	}
	s.closeRoom(ctx, who, old, pl, state)
	s.carryOver(ctx, who.UserID, r)
	return r.ID, nil
}

// replacement lays out the first events of the room that replaces another.
func (s *Service) replacement(ctx context.Context, who *Requester, old *store.Room, v *event.Version, req UpgradeRequest, state []*store.Event, last *store.Event) (writer.Draft, []writer.Draft, error) {
	cr := CreateRequest{CreationContent: map[string]json.RawMessage{}, Preset: PresetPrivateChat}
	predecessor := map[string]any{"room_id": old.ID}
	if !v.RoomIDFromCreate && last != nil {
		predecessor["event_id"] = last.ID()
	}
	find := func(typ string) *store.Event {
		for _, e := range state {
			if e.Is(typ, "") {
				return e
			}
		}
		return nil
	}
	if c := find(event.TypeCreate); c != nil {
		for k, raw := range gjson.ParseBytes(c.Content()).Map() {
			switch k {
			case "creator", "room_version", "predecessor", "additional_creators":
			default:
				cr.CreationContent[k] = json.RawMessage(raw.Raw)
			}
		}
	}
	cr.CreationContent["predecessor"] = mustJSON(predecessor)
	var creators []string
	if v.PrivilegedCreators {
		creators = distinct(req.AdditionalCreators, who.UserID)
	}
	create, err := createDraft(v, who.UserID, cr, creators)
	if err != nil {
		return writer.Draft{}, nil, err
	}
	profiles, err := s.profiles(ctx, []string{who.UserID})
	if err != nil {
		return writer.Draft{}, nil, err
	}
	var drafts []writer.Draft
	add := func(typ, key string, content json.RawMessage) {
		drafts = append(drafts, writer.Draft{Type: typ, StateKey: &key, Sender: who.UserID, Content: content})
	}
	add(event.TypeMember, who.UserID, mustJSON(memberContent(event.MembershipJoin, profiles[who.UserID])))

	oldLevels := json.RawMessage("{}")
	if e := find(event.TypePowerLevels); e != nil {
		oldLevels = e.Content()
	}
	newLevels := carriedLevels(old.Version, v, oldLevels, who.UserID, append(creators, who.UserID))
	// The user may lack the level for some of what follows; it is lifted while the room is set up.
	working, lifted := liftedLevels(v, newLevels, who.UserID)
	add(event.TypePowerLevels, "", working)
	for _, typ := range carriedTypes() {
		if e := find(typ); e != nil {
			add(typ, "", e.Content())
		}
	}
	for _, e := range state {
		sk, _ := e.StateKey()
		switch {
		case e.Type() == event.TypeMember && e.Membership() == event.MembershipBan && sk != who.UserID:
			add(event.TypeMember, sk, e.Content())
		case e.Type() == typeSpaceChild && len(viaOf(e.Content())) > 0:
			add(typeSpaceChild, sk, e.Content())
		}
	}
	if lifted {
		add(event.TypePowerLevels, "", newLevels)
	}
	return create, drafts, nil
}

// carriedLevels turns the power levels of a room into those of its replacement.
func carriedLevels(from, to *event.Version, content json.RawMessage, upgrader string, creators []string) json.RawMessage {
	var levels map[string]json.RawMessage
	if json.Unmarshal(content, &levels) != nil || levels == nil {
		levels = map[string]json.RawMessage{}
	}
	ints := func(key string) map[string]int64 {
		out := map[string]int64{}
		gjson.GetBytes(content, key).ForEach(func(k, r gjson.Result) bool {
			out[k.Str] = r.Int() // reads numbers in strings too, as older room versions allow
			return true
		})
		return out
	}
	for _, key := range []string{"ban", "kick", "redact", "invite", "users_default", "events_default", "state_default"} {
		if raw, ok := levels[key]; ok {
			levels[key] = mustJSON(gjson.ParseBytes(raw).Int())
		}
	}
	users, events := ints("users"), ints("events")
	if to.PrivilegedCreators {
		for _, u := range creators {
			delete(users, u)
		}
		// Only those above the level of ordinary administrators may replace the room again.
		need := int64(50)
		if v := gjson.GetBytes(content, "state_default"); v.Exists() {
			need = v.Int()
		}
		events[typeTombstone] = max(events[typeTombstone], need+1, 150)
	} else if _, ok := users[upgrader]; !ok && from.PrivilegedCreators {
		users[upgrader] = 100
	}
	levels["users"], levels["events"] = mustJSON(users), mustJSON(events)
	if raw, ok := levels["notifications"]; ok && isObject(raw) {
		levels["notifications"] = mustJSON(ints("notifications"))
	}
	return mustJSON(levels)
}

// liftedLevels returns power levels under which a user may set up the whole room, and whether they differ.
func liftedLevels(v *event.Version, content json.RawMessage, user string) (json.RawMessage, bool) {
	if v.PrivilegedCreators {
		return content, false
	}
	var levels map[string]json.RawMessage
	if json.Unmarshal(content, &levels) != nil {
		return content, false
	}
	need := int64(100)
	note := func(r gjson.Result) { need = max(need, r.Int()) }
	for _, key := range []string{"ban", "kick", "redact", "invite", "state_default"} {
		note(gjson.GetBytes(content, key))
	}
	for _, key := range []string{"users", "events"} {
		gjson.GetBytes(content, key).ForEach(func(_, r gjson.Result) bool { note(r); return true })
	}
	var users map[string]int64
	if json.Unmarshal(levels["users"], &users) != nil {
		return content, false
	}
	have := int64(0)
	if d, ok := levels["users_default"]; ok {
		have = gjson.ParseBytes(d).Int()
	}
	if l, ok := users[user]; ok {
		have = l
	}
	if have >= need {
		return content, false
	}
	users[user] = need
	levels["users"] = mustJSON(users)
	return mustJSON(levels), true
}

// moveDirectory points the old room's local aliases and its directory entry to the new one, and names the aliases there.
func (s *Service) moveDirectory(ctx context.Context, who *Requester, old, r *store.Room, state []*store.Event) error {
	moved, err := storage.MoveAliases(ctx, s.cfg.DB, old.NID, r.NID)
	if err != nil {
		return fmt.Errorf("move aliases of %s: %w", old.ID, err)
	}
	rows, err := storage.RoomSummaries(ctx, s.cfg.DB, []storage.RoomNID{old.NID})
	if err != nil {
		return fmt.Errorf("read directory entry of %s: %w", old.ID, err)
	}
	if len(rows) == 1 && rows[0].Public {
		err := errors.Join(storage.SetRoomPublic(ctx, s.cfg.DB, r.NID, true), storage.SetRoomPublic(ctx, s.cfg.DB, old.NID, false))
		if err != nil {
			return fmt.Errorf("move directory entry of %s: %w", old.ID, err)
		}
	}
	for _, e := range state {
		if !e.Is(typeCanonicalAlias, "") || len(moved) == 0 {
			continue
		}
		content := map[string]any{}
		if a := gjson.GetBytes(e.Content(), "alias").Str; slices.Contains(moved, a) {
			content["alias"] = a
		}
		var alt []string
		for _, a := range gjson.GetBytes(e.Content(), "alt_aliases").Array() {
			if slices.Contains(moved, a.Str) {
				alt = append(alt, a.Str)
			}
		}
		if len(alt) > 0 {
			content["alt_aliases"] = alt
		}
		if len(content) == 0 {
			continue
		}
		key := ""
		empty := json.RawMessage("{}")
		if _, err := s.send(ctx, r.ID, writer.Draft{Type: typeCanonicalAlias, StateKey: &key, Sender: who.UserID, Content: mustJSON(content)}); err != nil {
			s.log.Info().Err(err).Str("room_id", r.ID).Msg("canonical alias of replacement room not set")
		}
		if _, err := s.send(ctx, old.ID, writer.Draft{Type: typeCanonicalAlias, StateKey: &key, Sender: who.UserID, Content: empty}); err != nil {
			s.log.Info().Err(err).Str("room_id", old.ID).Msg("canonical alias of replaced room not taken back")
		}
	}
	return nil
}

// closeRoom keeps ordinary members from sending to a replaced room or inviting into it, where the user may.
func (s *Service) closeRoom(ctx context.Context, who *Requester, old *store.Room, pl *event.PowerLevels, state []*store.Event) {
	var content map[string]json.RawMessage
	for _, e := range state {
		if e.Is(event.TypePowerLevels, "") {
			if json.Unmarshal(e.Content(), &content) != nil {
				return
			}
		}
	}
	if content == nil {
		return
	}
	closed := max(50, pl.UsersDefault+1)
	if pl.EventsDefault >= closed && pl.Invite >= closed {
		return
	}
	content["events_default"] = mustJSON(max(closed, pl.EventsDefault))
	content["invite"] = mustJSON(max(closed, pl.Invite))
	key := ""
	d := writer.Draft{Type: event.TypePowerLevels, StateKey: &key, Sender: who.UserID, Content: mustJSON(content)}
	if _, err := s.send(ctx, old.ID, d); err != nil {
		s.log.Info().Err(err).Str("room_id", old.ID).Msg("replaced room left open")
	}
}

// replaced carries over the settings of the local members of a room that has been replaced by hand, so far as they are
// in the new room already; the others' follow when they join it.
func (s *Service) replaced(ctx context.Context, old *store.Room, newRoomID string) {
	if s.cfg.Personal == nil || newRoomID == "" {
		return
	}
	r, err := s.store.Room(ctx, newRoomID)
	if err != nil {
		return
	}
	create, err := s.current(ctx, r, event.TypeCreate, "")
	if err != nil || create == nil || gjson.GetBytes(create.Content(), "predecessor.room_id").Str != old.ID {
		return
	}
	nids, err := s.store.LocalJoined(ctx, r.NID)
	if err != nil {
		return
	}
	users, err := s.store.UserIDs(ctx, nids)
	if err != nil {
		return
	}
	for _, u := range users {
		s.carryOver(ctx, u, r)
	}
}
