package room

import (
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Event types this package writes or reads beside those that the rules of rooms name.
const (
	typeName           = "m.room.name"
	typeTopic          = "m.room.topic"
	typeAvatar         = "m.room.avatar"
	typeCanonicalAlias = "m.room.canonical_alias"
	typeGuestAccess    = "m.room.guest_access"
	typeServerACL      = "m.room.server_acl"
	typeEncryption     = "m.room.encryption"
	typeTombstone      = "m.room.tombstone"
	typeSpaceChild     = "m.space.child"
)

// defaultLevels is the m.room.power_levels a room is created with.
func defaultLevels(v *event.Version, creator string, req CreateRequest, invites []string) (json.RawMessage, error) {
	users := map[string]int64{}
	if !v.PrivilegedCreators {
		users[creator] = 100
		if req.preset() == PresetTrustedPrivateChat {
			for _, u := range invites {
				users[u] = 100
			}
		}
	}
	tombstone := 100
	if v.PrivilegedCreators {
		// Only creators may replace the room: others could otherwise take it from them.
		tombstone = 150
	}
	invite := 50
	if req.preset() != PresetPublicChat {
		invite = 0
	}
	content := map[string]any{
		"users":         users,
		"users_default": 0,
		"events": map[string]int{
			typeName:                    50,
			typeAvatar:                  50,
			typeCanonicalAlias:          50,
			event.TypePowerLevels:       100,
			event.TypeHistoryVisibility: 100,
			typeServerACL:               100,
			typeEncryption:              100,
			typeTombstone:               tombstone,
		},
		"events_default": 0,
		"state_default":  50,
		"ban":            50,
		"kick":           50,
		"redact":         50,
		"invite":         invite,
		"historical":     100,
	}
	for k, raw := range req.PowerLevelContentOverride {
		content[k] = raw
	}
	return mustJSON(content), nil
}

// checkPowerLevels refuses an m.room.power_levels that the authorisation rules would refuse from anybody, or that would
// lock the room in a way its author cannot mean, with an error that says which key is at fault.
func checkPowerLevels(v *event.Version, content json.RawMessage, creators []string) error {
	bad := func(key, why string) error {
		return mxerr.BadJSON.WithMessage("m.room.power_levels: " + key + " " + why)
	}
	isLevel := func(r gjson.Result) bool {
		switch r.Type {
		case gjson.Number:
			return isInteger(r.Raw)
		case gjson.String:
			// Room versions before 10 read numbers in strings; a new event has no reason to use them.
			return !v.IntegerPowerLevels && isInteger(r.Str)
		}
		return false
	}
	var err error
	gjson.ParseBytes(content).ForEach(func(k, r gjson.Result) bool {
		switch k.Str {
		case "ban", "kick", "redact", "invite", "users_default", "events_default", "state_default":
			if !isLevel(r) {
				err = bad(k.Str, "must be an integer")
			}
		case "users", "events", "notifications":
			if !r.IsObject() {
				err = bad(k.Str, "must be an object")
				break
			}
			r.ForEach(func(name, level gjson.Result) bool {
				switch {
				case !isLevel(level):
					err = bad(k.Str, "must hold integers")
				case k.Str == "users" && v.PrivilegedCreators && slices.Contains(creators, name.Str):
					err = bad("users", "must not list a creator of the room")
				}
				return err == nil
			})
		}
		return err == nil
	})
	return err
}

// isInteger reports whether s is an integer that canonical JSON allows.
func isInteger(s string) bool {
	var n int64
	if json.Unmarshal([]byte(s), &n) != nil {
		return false
	}
	return n >= -event.MaxDepth && n <= event.MaxDepth
}
