package event

import (
	"fmt"
	"strings"
)

// AuthState is the state that an event is authorised against.
type AuthState interface {
	// Event returns the event that sets a piece of state, nil if there is none.
	Event(t Tuple) *Event
}

// AuthMap is an AuthState in a map.
type AuthMap map[Tuple]*Event

// Event returns the event for a tuple, nil if there is none.
func (m AuthMap) Event(t Tuple) *Event { return m[t] }

// NewAuthMap makes an AuthMap of state events.
func NewAuthMap(events ...*Event) AuthMap {
	m := make(AuthMap, len(events))
	for _, e := range events {
		m[e.Tuple()] = e
	}
	return m
}

// Authorise applies the authorisation rules of the event's room version against a state. state must answer for AuthTuples
// and for m.room.create (in room version 12 too, where a rejected m.room.create counts as absent). The error is an
// *AuthError.
//
// Two rules lie elsewhere: those about auth_events are CheckAuthEvents, and the signature of a server that vouches for a
// restricted join is VerifySignatures.
func Authorise(e *Event, state AuthState) error {
	c := authCheck{e: e, v: e.version, state: state}
	if e.typ == TypeCreate {
		return c.checkCreate()
	}
	c.create = state.Event(Tuple{Type: TypeCreate})
	if c.create == nil {
		return c.fail(ruleCreate, "", "no m.room.create in the state")
	}
	if c.v.RoomIDFromCreate && c.create.roomID != e.roomID {
		return c.fail(ruleCreate, "", "room id is not that of m.room.create")
	}
	if string(lookup(c.create.Content(), "m.federate")) == "false" && ServerName(e.sender) != ServerName(c.create.sender) {
		return c.fail(ruleFederate, "", "room is not federated")
	}
	if e.typ == TypeAliases && c.v.SpecialAliasAuth {
		return c.checkAliases()
	}
	c.levels = NewPowerLevels(c.create, state.Event(Tuple{Type: TypePowerLevels}))
	if e.typ == TypeMember {
		return c.checkMember()
	}
	if c.membership(e.sender) != MembershipJoin {
		return c.fail(ruleJoined, "", "sender is not in the room")
	}
	level := c.levels.UserLevel(e.sender)
	if e.typ == TypeThirdPartyInvite {
		if level < c.levels.Invite {
			return c.fail(ruleThirdParty, ".1", "sender may not invite")
		}
		return nil
	}
	if need := c.levels.EventLevel(e.typ, e.isState); level < need {
		return c.fail(ruleLevel, "", fmt.Sprintf("sender's power level is %d, %s needs %d", level, e.typ, need))
	}
	if e.isState && strings.HasPrefix(e.stateKey, "@") && e.stateKey != e.sender {
		return c.fail(ruleStateKey, "", "state key is another user's id")
	}
	if e.typ == TypePowerLevels {
		return c.checkPowerLevels()
	}
	if e.typ == TypeRedaction && c.v.RedactionAuthRule {
		if level >= c.levels.Redact || ServerName(e.Redacts()) == ServerName(e.id) {
			return nil
		}
		return c.fail(rulePowerLevels+1, ".3", "sender may not redact events of other servers")
	}
	return nil
}

// The rules after those on m.room.create and auth_events, as room versions 1 to 5 number them. rule gives the number in
// other versions.
const (
	ruleCreate      = 2
	ruleFederate    = 3
	ruleAliases     = 4
	ruleMember      = 5
	ruleJoined      = 6
	ruleThirdParty  = 7
	ruleLevel       = 8
	ruleStateKey    = 9
	rulePowerLevels = 10
)

// authCheck is one run of the authorisation rules.
type authCheck struct {
	e      *Event
	v      *Version
	state  AuthState
	create *Event
	levels *PowerLevels
}

// fail makes the error of a rule, given by its number in room version 1 and the rest of its number in this version.
func (c *authCheck) fail(rule int, sub, reason string) error {
	switch {
	case rule == ruleCreate:
		if !c.v.RoomIDFromCreate {
			sub = ".4"
		}
	case c.v.RoomIDFromCreate:
		// Version 12 has a rule more before this one and none on aliases.
		if rule == ruleFederate {
			rule++
		}
	case !c.v.SpecialAliasAuth && rule > ruleAliases:
		rule--
	}
	return &AuthError{Rule: fmt.Sprint(rule, sub), Reason: reason}
}

// checkCreate is rule 1.
func (c *authCheck) checkCreate() error {
	fail := func(sub int, reason string) error {
		return &AuthError{Rule: fmt.Sprintf("1.%d", sub), Reason: reason}
	}
	if len(c.e.PrevEvents()) > 0 {
		return fail(1, "m.room.create has prev_events")
	}
	content := c.e.Content()
	if c.v.RoomIDFromCreate {
		if c.e.hasRoomID {
			return fail(2, "m.room.create has a room_id")
		}
	} else if ServerName(c.e.roomID) != ServerName(c.e.sender) {
		return fail(2, "room id is of another server than the sender")
	}
	if raw := lookup(content, "room_version"); raw != nil {
		id, _ := decodeString(raw)
		if _, ok := LookupVersion(id); !ok {
			return fail(3, "unknown room version")
		}
	}
	if !c.v.ImplicitCreator && lookup(content, "creator") == nil {
		return fail(4, "m.room.create has no creator")
	}
	if raw := lookup(content, "additional_creators"); raw != nil && c.v.PrivilegedCreators {
		it := iterArray(raw)
		for it.next() {
			if user, ok := decodeString(it.val); !ok || !validUserID(user) {
				return fail(4, "additional_creators holds something else than user ids")
			}
		}
		if it.bad {
			return fail(4, "additional_creators is not an array")
		}
	}
	return nil
}

// checkAliases is rule 4 of room versions 1 to 5.
func (c *authCheck) checkAliases() error {
	if !c.e.isState {
		return c.fail(ruleAliases, ".1", "m.room.aliases has no state key")
	}
	if c.e.stateKey != ServerName(c.e.sender) {
		return c.fail(ruleAliases, ".2", "state key is another server than the sender's")
	}
	return nil
}

// membership returns a user's membership in the state, leave if there is none.
func (c *authCheck) membership(userID string) string {
	m := c.state.Event(Tuple{TypeMember, userID})
	if m == nil {
		return MembershipLeave
	}
	return m.Membership()
}

// MayRedact reports whether a redaction is to be applied, in room versions 3 and later: the sender has the redact level,
// or is on the server of the sender of the event that is redacted (room version 3, "Handling redactions"). In versions 1
// and 2 Authorise has decided already, and it reports true.
func MayRedact(redaction, target *Event, levels *PowerLevels) bool {
	return redaction.version.RedactionAuthRule || levels.UserLevel(redaction.sender) >= levels.Redact ||
		ServerName(redaction.sender) == ServerName(target.sender)
}
