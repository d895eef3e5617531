package push

import (
	"encoding/json"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
)

// RuleMaster is the id of the rule that, once enabled, turns all notifications off.
const RuleMaster = ".m.rule.master"

// The rules that look for mentions in the text of events that do not say whom they mention.
const (
	ruleDisplayName = ".m.rule.contains_display_name"
	ruleUserName    = ".m.rule.contains_user_name"
	ruleRoomNotif   = ".m.rule.roomnotif"
)

// Defaults returns the server's rules as they are for a user who has changed nothing. The result is the caller's own; what
// its rules refer to is not.
//
// They are the rules of the specification, and these, which it leaves to servers:
//
//   - .m.rule.contains_display_name, .m.rule.contains_user_name and .m.rule.roomnotif, which it had until v1.17. They look
//     for mentions in the text of events that do not say whom they mention (m.mentions), as those of older clients and of
//     bridges.
//   - .org.matrix.msc3930.*, for polls (MSC3930), which clients show settings for.
func Defaults(userID string) *Ruleset {
	local := localpart(userID)
	return &Ruleset{
		Override: []Rule{
			rule(RuleMaster, actNothing(), conditions()).disabled(),
			rule(".m.rule.suppress_notices", actNothing(), conditions(eventMatch("content.msgtype", "m.notice"))),
			rule(".m.rule.invite_for_me", actSound("default"), conditions(
				eventMatch("type", event.TypeMember), eventMatch("content.membership", event.MembershipInvite), eventMatch("state_key", userID))),
			rule(".m.rule.member_event", actNothing(), conditions(eventMatch("type", event.TypeMember))),
			rule(".m.rule.is_user_mention", actMention(), conditions(propertyContains(`content.m\.mentions.user_ids`, userID))),
			rule(ruleDisplayName, actMention(), conditions(condition{Kind: condDisplayName})),
			rule(".m.rule.is_room_mention", actHighlight(), conditions(propertyIs(`content.m\.mentions.room`, true), mayNotify("room"))),
			rule(ruleRoomNotif, actHighlight(), conditions(eventMatch("content.body", "@room"), mayNotify("room"))),
			rule(".m.rule.tombstone", actHighlight(), conditions(eventMatch("type", "m.room.tombstone"), eventMatch("state_key", ""))),
			rule(".m.rule.reaction", actNothing(), conditions(eventMatch("type", "m.reaction"))),
			rule(".m.rule.room.server_acl", actNothing(), conditions(eventMatch("type", "m.room.server_acl"), eventMatch("state_key", ""))),
			rule(".m.rule.suppress_edits", actNothing(), conditions(propertyIs(`content.m\.relates_to.rel_type`, "m.replace"))),
			rule(".org.matrix.msc3930.rule.poll_response", actNothing(), conditions(eventMatch("type", "org.matrix.msc3381.poll.response"))),
		},
		Content: []Rule{{ID: ruleUserName, Default: true, Enabled: true, Actions: actMention(), Pattern: &local}},
		Room:    []Rule{},
		Sender:  []Rule{},
		Underride: []Rule{
			rule(".m.rule.call", actSound("ring"), conditions(eventMatch("type", "m.call.invite"))),
			rule(".m.rule.encrypted_room_one_to_one", actSound("default"), conditions(members("2"), eventMatch("type", "m.room.encrypted"))),
			rule(".m.rule.room_one_to_one", actSound("default"), conditions(members("2"), eventMatch("type", "m.room.message"))),
			rule(".m.rule.message", actNotify(), conditions(eventMatch("type", "m.room.message"))),
			rule(".m.rule.encrypted", actNotify(), conditions(eventMatch("type", "m.room.encrypted"))),
			rule(".org.matrix.msc3930.rule.poll_start_one_to_one", actSound("default"), conditions(members("2"), eventMatch("type", "org.matrix.msc3381.poll.start"))),
			rule(".org.matrix.msc3930.rule.poll_start", actNotify(), conditions(eventMatch("type", "org.matrix.msc3381.poll.start"))),
			rule(".org.matrix.msc3930.rule.poll_end_one_to_one", actSound("default"), conditions(members("2"), eventMatch("type", "org.matrix.msc3381.poll.end"))),
			rule(".org.matrix.msc3930.rule.poll_end", actNotify(), conditions(eventMatch("type", "org.matrix.msc3381.poll.end"))),
		},
	}
}

func rule(id string, actions, conditions []json.RawMessage) Rule {
	return Rule{ID: id, Default: true, Enabled: true, Actions: actions, Conditions: conditions}
}

func (r Rule) disabled() Rule {
	r.Enabled = false
	return r
}

func raw(parts ...string) []json.RawMessage {
	out := make([]json.RawMessage, len(parts))
	for i, p := range parts {
		out[i] = json.RawMessage(p)
	}
	return out
}

const (
	jsonNotify    = `"notify"`
	jsonHighlight = `{"set_tweak":"highlight"}`
)

func jsonSound(sound string) string { return `{"set_tweak":"sound","value":"` + sound + `"}` }

func actNothing() []json.RawMessage           { return raw() }
func actNotify() []json.RawMessage            { return raw(jsonNotify) }
func actHighlight() []json.RawMessage         { return raw(jsonNotify, jsonHighlight) }
func actSound(sound string) []json.RawMessage { return raw(jsonNotify, jsonSound(sound)) }
func actMention() []json.RawMessage           { return raw(jsonNotify, jsonSound("default"), jsonHighlight) }

func conditions(c ...condition) []json.RawMessage {
	out := make([]json.RawMessage, len(c))
	for i := range c {
		// Strings and booleans only, which always have a JSON form.
		out[i], _ = json.Marshal(c[i])
	}
	return out
}

func eventMatch(key, pattern string) condition {
	return condition{Kind: condEventMatch, Key: key, Pattern: &pattern}
}

func propertyIs(key string, value any) condition {
	return condition{Kind: condPropertyIs, Key: key, Value: value}
}

func propertyContains(key string, value any) condition {
	return condition{Kind: condPropertyContains, Key: key, Value: value}
}

func mayNotify(key string) condition { return condition{Kind: condSenderMayNotify, Key: key} }
func members(is string) condition    { return condition{Kind: condMemberCount, Is: is} }

// localpart returns what stands between the sigil of a user id and its first colon.
func localpart(userID string) string {
	local, _, _ := strings.Cut(userID, ":")
	return strings.TrimPrefix(local, "@")
}
