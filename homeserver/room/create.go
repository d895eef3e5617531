package room

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// maxInvites bounds the users one request invites: each costs an event.
const maxInvites = 500

// maxInitialState bounds the events a room is created with.
const maxInitialState = 1000

// The presets of rooms.
const (
	PresetPrivateChat        = "private_chat"
	PresetTrustedPrivateChat = "trusted_private_chat"
	PresetPublicChat         = "public_chat"
)

// The visibilities of rooms in the published room directory.
const (
	VisibilityPublic  = "public"
	VisibilityPrivate = "private"
)

// CreateRequest is the body of /createRoom; see there for the meaning of its fields and their defaults.
type CreateRequest struct {
	Visibility                string                     `json:"visibility"`
	RoomAliasName             string                     `json:"room_alias_name"`
	Name                      string                     `json:"name"`
	Topic                     string                     `json:"topic"`
	Invite                    []string                   `json:"invite"`
	Invite3PID                []Invite3PID               `json:"invite_3pid"`
	RoomVersion               string                     `json:"room_version"`
	CreationContent           map[string]json.RawMessage `json:"creation_content"`
	InitialState              []InitialState             `json:"initial_state"`
	Preset                    string                     `json:"preset"`
	IsDirect                  bool                       `json:"is_direct"`
	PowerLevelContentOverride map[string]json.RawMessage `json:"power_level_content_override"`
}

// InitialState is a state event a room is created with.
type InitialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Invite3PID invites the owner of a third-party identifier.
type Invite3PID struct {
	IDServer      string `json:"id_server"`
	IDAccessToken string `json:"id_access_token"`
	Medium        string `json:"medium"`
	Address       string `json:"address"`
}

// Create makes a room and returns its room id.
//
// Errors: M_BAD_JSON and M_INVALID_PARAM for a request that makes no sense, M_UNSUPPORTED_ROOM_VERSION, M_ROOM_IN_USE for
// an alias that is taken, M_INVALID_ROOM_STATE where the authorisation rules refuse what the request asks for,
// M_FORBIDDEN.
//
// Spec: client-server API, "POST /createRoom" (v1.19).
func (s *Service) Create(ctx context.Context, who *Requester, req CreateRequest) (string, error) {
	if err := active(who); err != nil {
		return "", err
	}
	p, err := s.plan(ctx, who, req)
	if err != nil {
		return "", err
	}
	if len(req.Invite3PID) > 0 && s.cfg.Identity == nil {
		return "", errNoIdentity
	}
	creator, err := s.store.InternUsers(ctx, []string{who.UserID})
	if err != nil {
		return "", fmt.Errorf("number the creator: %w", err)
	}
	if p.alias != "" {
		free, err := storage.ReserveAlias(ctx, s.cfg.DB, p.alias, creator[0], s.now())
		if err != nil {
			return "", fmt.Errorf("reserve alias: %w", err)
		}
		if !free {
			return "", mxerr.RoomInUse
		}
	}
	created, err := s.cfg.Writer.CreateRoom(ctx, p.version, p.create, p.drafts...)
	if err != nil {
		if p.alias != "" {
			// The context may be what failed; the reservation would only time out by itself.
			if e := storage.ReleaseAlias(context.WithoutCancel(ctx), s.cfg.DB, p.alias, creator[0]); e != nil {
				err = errors.Join(err, fmt.Errorf("release alias: %w", e))
			}
		}
		return "", createError(err)
	}
	if err := s.applied(ctx, created.Results...); err != nil {
		return "", err
	}
	r, err := s.room(ctx, created.RoomID)
	if err != nil {
		return "", err
	}
	if p.alias != "" {
		if err := storage.ClaimAlias(ctx, s.cfg.DB, p.alias, creator[0], r.NID); err != nil {
			return "", fmt.Errorf("point alias to room: %w", err)
		}
	}
	if req.Visibility == VisibilityPublic {
		if err := storage.SetRoomPublic(ctx, s.cfg.DB, r.NID, true); err != nil {
			return "", fmt.Errorf("publish room: %w", err)
		}
	}
	for _, d := range p.remoteInvites {
		// The room is there already: an invitee's server that cannot be reached must not make the client create another.
		if err := s.sendInvite(ctx, r, d); err != nil {
			s.log.Warn().Err(err).Str("room_id", r.ID).Msg("invite to new room failed")
		}
	}
	for _, in := range req.Invite3PID {
		if err := s.Invite3PID(ctx, who, r.ID, in); err != nil {
			s.log.Warn().Err(err).Str("room_id", r.ID).Msg("third-party invite to new room failed")
		}
	}
	return r.ID, nil
}

// createError turns a refusal by the authorisation rules into the error the endpoint documents: nobody asked may the
// user act in the room, but whether the room makes sense.
func createError(err error) error {
	if mx, ok := mxerr.As(err); ok && mx.Code == mxerr.Forbidden.Code {
		return mxerr.InvalidRoomState.WithMessage(mx.Message).Wrap(err)
	}
	return err
}

// plan is a room about to be created.
type plan struct {
	version       *event.Version
	alias         string
	create        writer.Draft
	drafts        []writer.Draft
	remoteInvites []writer.Draft
}

// presetState returns the settings a preset stands for, and false where there is no such preset. guests is "" where they
// are forbidden, which they are without being told: other servers do not send m.room.guest_access then, and tests rely on it.
func presetState(preset string) (joinRule, visibility, guests string, ok bool) {
	switch preset {
	case PresetPrivateChat, PresetTrustedPrivateChat:
		return "invite", view.Shared, "can_join", true
	case PresetPublicChat:
		return "public", view.Shared, "", true
	}
	return "", "", "", false
}

// plan checks a request and lays out the room's first events in the order the specification gives.
func (s *Service) plan(ctx context.Context, who *Requester, req CreateRequest) (*plan, error) {
	if err := req.validate(); err != nil {
		return nil, err
	}
	p := &plan{}
	version := req.RoomVersion
	if version == "" {
		version = s.cfg.DefaultVersion
	}
	var ok bool
	if p.version, ok = event.LookupVersion(version); !ok {
		return nil, mxerr.UnsupportedRoomVersion.WithMessage("This server does not support that room version")
	}
	var err error
	if req.RoomAliasName != "" {
		if p.alias, err = s.aliasOf(req.RoomAliasName); err != nil {
			return nil, err
		}
	}
	invites := distinct(req.Invite, who.UserID)
	creators, err := creatorsOf(p.version, who.UserID, req, invites)
	if err != nil {
		return nil, err
	}
	if p.create, err = createDraft(p.version, who.UserID, req, creators); err != nil {
		return nil, err
	}
	profiles, err := s.profiles(ctx, append([]string{who.UserID}, invites...))
	if err != nil {
		return nil, err
	}

	given := make(map[event.Tuple]json.RawMessage, len(req.InitialState))
	for _, st := range req.InitialState {
		given[event.Tuple{Type: st.Type, StateKey: st.StateKey}] = st.Content
	}
	state := func(typ, key string, content any) {
		raw, ok := content.(json.RawMessage)
		if !ok {
			raw = mustJSON(content)
		}
		p.drafts = append(p.drafts, writer.Draft{Type: typ, StateKey: &key, Sender: who.UserID, Content: raw})
	}

	state(event.TypeMember, who.UserID, memberContent(event.MembershipJoin, profiles[who.UserID]))

	pl := event.Tuple{Type: event.TypePowerLevels}
	if content, ok := given[pl]; ok && len(req.PowerLevelContentOverride) == 0 {
		// Sent where the default would be: what follows is then judged by the levels the client wants.
		state(pl.Type, "", content)
	} else {
		delete(given, pl)
		levels, err := defaultLevels(p.version, who.UserID, req, invites)
		if err != nil {
			return nil, err
		}
		state(pl.Type, "", levels)
	}
	if err := checkPowerLevels(p.version, p.drafts[1].Content, append(creators, who.UserID)); err != nil {
		return nil, err
	}

	if p.alias != "" {
		state(typeCanonicalAlias, "", map[string]any{"alias": p.alias})
	}

	joinRule, visibility, guests, _ := presetState(req.preset())
	for _, st := range []struct{ typ, key, value string }{
		{event.TypeJoinRules, "join_rule", joinRule},
		{event.TypeHistoryVisibility, "history_visibility", visibility},
		{typeGuestAccess, "guest_access", guests},
	} {
		if _, ok := given[event.Tuple{Type: st.typ}]; !ok && st.value != "" {
			state(st.typ, "", map[string]any{st.key: st.value})
		}
	}

	for _, st := range req.InitialState {
		switch {
		case st.Type == pl.Type && st.StateKey == "",
			st.Type == typeName && st.StateKey == "" && req.Name != "",
			st.Type == typeTopic && st.StateKey == "" && req.Topic != "":
			continue
		}
		if err := s.checkState(ctx, nil, p.version, st.Type, st.StateKey, st.Content); err != nil {
			return nil, err
		}
		state(st.Type, st.StateKey, st.Content)
	}
	if req.Name != "" {
		state(typeName, "", map[string]any{"name": req.Name})
	}
	if req.Topic != "" {
		state(typeTopic, "", topicContent(req.Topic))
	}

	for _, user := range invites {
		if err := s.checkInvitable(ctx, user); err != nil {
			return nil, err
		}
		content := memberContent(event.MembershipInvite, profiles[user])
		if req.IsDirect {
			content["is_direct"] = true
		}
		d := writer.Draft{Type: event.TypeMember, StateKey: &user, Sender: who.UserID, Content: mustJSON(content)}
		if s.isLocal(user) {
			p.drafts = append(p.drafts, d)
		} else {
			p.remoteInvites = append(p.remoteInvites, d)
		}
	}
	return p, nil
}

func (req *CreateRequest) validate() error {
	switch req.Visibility {
	case "", VisibilityPublic, VisibilityPrivate:
	default:
		return mxerr.InvalidParam.WithMessage("visibility must be public or private")
	}
	if _, _, _, ok := presetState(req.preset()); !ok {
		return mxerr.InvalidParam.WithMessage("preset must be private_chat, public_chat or trusted_private_chat")
	}
	if len(req.Invite)+len(req.Invite3PID) > maxInvites {
		return mxerr.InvalidParam.WithMessage(fmt.Sprintf("A room can be created with at most %d invites", maxInvites))
	}
	for _, u := range req.Invite {
		if !id.IsUser(u) {
			return mxerr.InvalidParam.WithMessage("invite has an entry that is not a user ID")
		}
	}
	if len(req.InitialState) > maxInitialState {
		return mxerr.InvalidParam.WithMessage(fmt.Sprintf("A room can be created with at most %d state events", maxInitialState))
	}
	for _, st := range req.InitialState {
		if st.Type == "" {
			return mxerr.BadJSON.WithMessage("initial_state has an entry without a type")
		}
		if !isObject(st.Content) {
			return mxerr.BadJSON.WithMessage("initial_state has an entry whose content is not an object")
		}
		if st.Type == event.TypeCreate {
			return mxerr.InvalidRoomState.WithMessage("initial_state cannot hold m.room.create: use creation_content")
		}
	}
	return nil
}

// preset is what the request asks for, or what its visibility stands for.
func (req *CreateRequest) preset() string {
	switch {
	case req.Preset != "":
		return req.Preset
	case req.Visibility == VisibilityPublic:
		return PresetPublicChat
	}
	return PresetPrivateChat
}

// aliasOf makes an alias of this server from its local part.
func (s *Service) aliasOf(localpart string) (string, error) {
	a := "#" + localpart + ":" + s.cfg.ServerName
	if strings.ContainsAny(localpart, ":# \t\r\n") || !id.IsAlias(a) {
		return "", mxerr.InvalidParam.WithMessage("Room alias invalid")
	}
	return a, nil
}

// creatorsOf returns the additional creators of a room, nil in versions that have none.
func creatorsOf(v *event.Version, creator string, req CreateRequest, invites []string) ([]string, error) {
	if !v.PrivilegedCreators {
		return nil, nil
	}
	var creators []string
	if raw, ok := req.CreationContent["additional_creators"]; ok {
		if err := json.Unmarshal(raw, &creators); err != nil || bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
			return nil, mxerr.BadJSON.WithMessage("additional_creators must be an array of user IDs")
		}
		for _, u := range creators {
			if !id.IsUser(u) {
				return nil, mxerr.BadJSON.WithMessage("additional_creators must be an array of user IDs")
			}
		}
	}
	if req.preset() == PresetTrustedPrivateChat {
		creators = append(creators, invites...)
	}
	return distinct(creators, creator), nil
}

func createDraft(v *event.Version, creator string, req CreateRequest, creators []string) (writer.Draft, error) {
	content := make(map[string]json.RawMessage, len(req.CreationContent)+2)
	for k, raw := range req.CreationContent {
		content[k] = raw
	}
	delete(content, "creator")
	if !v.ImplicitCreator {
		content["creator"] = mustJSON(creator)
	}
	content["room_version"] = mustJSON(v.ID)
	if v.PrivilegedCreators {
		delete(content, "additional_creators")
		if len(creators) > 0 {
			content["additional_creators"] = mustJSON(creators)
		}
	}
	if raw, ok := content["m.federate"]; ok {
		var b bool
		if json.Unmarshal(raw, &b) != nil {
			return writer.Draft{}, mxerr.BadJSON.WithMessage("m.federate must be a boolean")
		}
	}
	key := ""
	return writer.Draft{Type: event.TypeCreate, StateKey: &key, Sender: creator, Content: mustJSON(content)}, nil
}

// distinct returns list without duplicates and without one value, in order.
func distinct(list []string, without string) []string {
	var out []string
	for _, s := range list {
		if s != without && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// topicContent is an m.room.topic with its plain-text form in m.topic.
func topicContent(topic string) map[string]any {
	return map[string]any{
		"topic":   topic,
		"m.topic": map[string]any{"m.text": []map[string]any{{"body": topic, "mimetype": "text/plain"}}},
	}
}

func isObject(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && raw[0] == '{'
}
