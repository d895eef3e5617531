package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
)

// checkState refuses state events that the authorisation rules let pass and that would do harm: aliases that do not
// point to the room, access lists that shut this server out, power levels nobody can mean. r is nil while the room is
// being created.
func (s *Service) checkState(ctx context.Context, r *store.Room, v *event.Version, typ, stateKey string, content json.RawMessage) error {
	switch {
	case typ == event.TypeCreate:
		return mxerr.InvalidParam.WithMessage("m.room.create is sent once, when the room is created")
	case typ == event.TypeMember:
		return checkMember(stateKey, content)
	case stateKey != "":
		return nil
	}
	switch typ {
	case event.TypePowerLevels:
		var creators []string
		if r != nil && v.PrivilegedCreators {
			create, err := s.current(ctx, r, event.TypeCreate, "")
			if err != nil {
				return err
			}
			if create != nil {
				creators = event.Creators(create.Event)
			}
		}
		return checkPowerLevels(v, content, creators)
	case typeCanonicalAlias:
		if r == nil {
			return s.checkAliasForms(content)
		}
		return s.checkCanonicalAlias(ctx, r, content)
	case typeServerACL:
		return s.checkServerACL(content)
	case event.TypeHistoryVisibility:
		return checkOneOf(content, "history_visibility", "world_readable", "shared", "invited", "joined")
	case typeGuestAccess:
		return checkOneOf(content, "guest_access", "can_join", "forbidden")
	case event.TypeJoinRules:
		if gjson.GetBytes(content, "join_rule").Type != gjson.String {
			return mxerr.BadJSON.WithMessage("m.room.join_rules: join_rule must be a string")
		}
	}
	return nil
}

// checkMember refuses memberships that are none: later readers would have to guess.
func checkMember(stateKey string, content json.RawMessage) error {
	if !id.IsUser(stateKey) {
		return mxerr.BadJSON.WithMessage("m.room.member: the state key must be a user ID")
	}
	switch gjson.GetBytes(content, "membership").Str {
	case event.MembershipJoin, event.MembershipInvite, event.MembershipLeave, event.MembershipBan, event.MembershipKnock:
	default:
		return mxerr.BadJSON.WithMessage("m.room.member: membership must be join, invite, leave, ban or knock")
	}
	for _, key := range []string{"displayname", "avatar_url"} {
		if v := gjson.GetBytes(content, key); v.Exists() && v.Type != gjson.String && v.Type != gjson.Null {
			return mxerr.BadJSON.WithMessage("m.room.member: " + key + " must be a string or null")
		}
	}
	return nil
}

// checkOneOf checks a setting of a few values. An empty content takes the setting back.
func checkOneOf(content json.RawMessage, key string, values ...string) error {
	if len(gjson.ParseBytes(content).Map()) == 0 {
		return nil
	}
	got := gjson.GetBytes(content, key)
	for _, v := range values {
		if got.Type == gjson.String && got.Str == v {
			return nil
		}
	}
	return mxerr.BadJSON.WithMessage(key + " must be one of " + strings.Join(values, ", "))
}

// checkAliasForms checks that an m.room.canonical_alias holds aliases.
func (s *Service) checkAliasForms(content json.RawMessage) error {
	_, err := aliasesIn(content)
	return err
}

// checkCanonicalAlias checks that the aliases which an m.room.canonical_alias adds point to the room.
//
// Errors: M_INVALID_PARAM for what is no alias, M_BAD_ALIAS for one that points elsewhere or nowhere.
func (s *Service) checkCanonicalAlias(ctx context.Context, r *store.Room, content json.RawMessage) error {
	wanted, err := aliasesIn(content)
	if err != nil || len(wanted) == 0 {
		return err
	}
	before := map[string]bool{}
	old, err := s.current(ctx, r, typeCanonicalAlias, "")
	if err != nil {
		return err
	}
	if old != nil {
		// What other servers or older clients have put there does not matter: those aliases are not added now.
		as, _ := aliasesIn(old.Content())
		for _, a := range as {
			before[a] = true
		}
	}
	for _, a := range wanted {
		if before[a] {
			continue
		}
		res, err := s.ResolveAlias(ctx, a)
		if errors.Is(err, mxerr.NotFound) {
			return mxerr.BadAlias.WithMessage(fmt.Sprintf("Room alias %s does not point to the room", a))
		}
		if err != nil {
			return err
		}
		if res.RoomID != r.ID {
			return mxerr.BadAlias.WithMessage(fmt.Sprintf("Room alias %s does not point to the room", a))
		}
	}
	return nil
}

// aliasesIn returns the aliases an m.room.canonical_alias names.
func aliasesIn(content json.RawMessage) ([]string, error) {
	var out []string
	add := func(v gjson.Result) error {
		if v.Type != gjson.String || !id.IsAlias(v.Str) {
			return mxerr.InvalidParam.WithMessage("m.room.canonical_alias holds what is not a room alias")
		}
		out = append(out, v.Str)
		return nil
	}
	switch a := gjson.GetBytes(content, "alias"); {
	case !a.Exists(), a.Type == gjson.Null, a.Type == gjson.String && a.Str == "":
	default:
		if err := add(a); err != nil {
			return nil, err
		}
	}
	alt := gjson.GetBytes(content, "alt_aliases")
	if alt.Exists() && !alt.IsArray() && alt.Type != gjson.Null {
		return nil, mxerr.BadJSON.WithMessage("m.room.canonical_alias: alt_aliases must be an array")
	}
	for _, a := range alt.Array() {
		if a.Type == gjson.Null && !alt.IsArray() {
			break
		}
		if err := add(a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkServerACL refuses an access list that shuts this server out, after which nobody here could mend it.
func (s *Service) checkServerACL(content json.RawMessage) error {
	acl, err := ParseServerACL(content)
	if err != nil {
		return err
	}
	if !acl.Allows(s.cfg.ServerName) {
		return mxerr.BadJSON.WithMessage("m.room.server_acl: this would shut out your own server")
	}
	return nil
}
