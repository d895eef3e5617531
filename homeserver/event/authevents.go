package event

import (
	"encoding/json"
	"slices"
	"strconv"
)

// AuthTuples returns the pieces of state that authorise an event: what its auth_events are selected from
// (server-server API, "Auth events selection"). stateKey is nil for message events. content must be canonical JSON. The
// tuples are distinct; in room version 12 m.room.create is not among them, although Authorise asks for it.
func AuthTuples(v *Version, sender, typ string, stateKey *string, content json.RawMessage) []Tuple {
	if typ == TypeCreate {
		return nil
	}
	tuples := make([]Tuple, 0, 6)
	add := func(typ, key string) {
		if t := (Tuple{typ, key}); !slices.Contains(tuples, t) {
			tuples = append(tuples, t)
		}
	}
	if !v.RoomIDFromCreate {
		add(TypeCreate, "")
	}
	add(TypePowerLevels, "")
	add(TypeMember, sender)
	if typ != TypeMember || stateKey == nil {
		return tuples
	}
	add(TypeMember, *stateKey)
	membership, _ := lookupString(content, "membership")
	switch membership {
	case MembershipJoin, MembershipInvite, MembershipKnock:
		add(TypeJoinRules, "")
	}
	if membership == MembershipInvite {
		if token, ok := lookupString(lookup(lookup(content, "third_party_invite"), "signed"), "token"); ok {
			add(TypeThirdPartyInvite, token)
		}
	}
	if membership == MembershipJoin && v.Restricted {
		if user, ok := lookupString(content, "join_authorised_via_users_server"); ok {
			add(TypeMember, user)
		}
	}
	return tuples
}

// AuthTuples returns the pieces of state that authorise the event.
func (e *Event) AuthTuples() []Tuple {
	var stateKey *string
	if e.isState {
		stateKey = &e.stateKey
	}
	return AuthTuples(e.version, e.sender, e.typ, stateKey, e.Content())
}

// CheckAuthEvents applies the authorisation rules about the auth_events of an event (rule 2; rule 3 in room version
// 12): no duplicates, only tuples that selection allows, none that was rejected, all of the same room, and m.room.create
// among them (before version 12). authEvents are the events that e.AuthEvents names; rejected reports whether one of them
// was rejected, nil meaning none. The error is an *AuthError.
func CheckAuthEvents(e *Event, authEvents []*Event, rejected func(id string) bool) error {
	if e.typ == TypeCreate {
		return nil
	}
	number := 2
	if e.version.RoomIDFromCreate {
		number = 3
	}
	fail := func(sub int, reason string) error {
		return &AuthError{Rule: strconv.Itoa(number) + "." + strconv.Itoa(sub), Reason: reason}
	}
	allowed := e.AuthTuples()
	seen := make([]Tuple, 0, len(authEvents))
	for _, a := range authEvents {
		t := a.Tuple()
		if slices.Contains(seen, t) {
			return fail(1, "two auth events for "+t.String())
		}
		seen = append(seen, t)
	}
	for _, a := range authEvents {
		if !a.isState || !slices.Contains(allowed, a.Tuple()) {
			return fail(2, "auth event "+a.id+" is not one that selection allows")
		}
	}
	if rejected != nil {
		for _, a := range authEvents {
			if rejected(a.id) {
				return fail(3, "auth event "+a.id+" was rejected")
			}
		}
	}
	if !e.version.RoomIDFromCreate && !slices.Contains(seen, Tuple{Type: TypeCreate}) {
		return fail(4, "no m.room.create among the auth events")
	}
	for _, a := range authEvents {
		if a.roomID != e.roomID {
			return fail(5, "auth event "+a.id+" is of another room")
		}
	}
	return nil
}

// String returns the tuple as "(type, state key)".
func (t Tuple) String() string { return "(" + t.Type + ", " + strconv.Quote(t.StateKey) + ")" }
