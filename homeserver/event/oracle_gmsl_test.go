package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"pgregory.net/rapid"
)

// The tests in this file compare with gomatrixserverlib. Where it departs from the specification, a comment says so and
// the case is left out.

func gmslVersion(v *Version) gomatrixserverlib.IRoomVersion {
	return gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v.ID))
}

func gmslUser(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

func TestCanonicalMatchesGomatrixserverlib(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(genJSON().Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		// It writes keys without the escapes that they need.
		if bytes.Contains(raw, []byte(`\`)) {
			t.Skip()
		}
		want, err := gomatrixserverlib.CanonicalJSON(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Canonical(raw); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got  %s, %v\nwant %s", got, err, want)
		}
	})
}

func TestEventsMatchGomatrixserverlib(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		rapid.Check(t, func(rt *rapid.T) {
			c := drawAuthCase(rt, t, v)
			events := []*Event{c.event}
			for _, e := range c.state {
				events = append(events, e)
			}
			for _, e := range events {
				theirs, err := gmslVersion(v).NewEventFromUntrustedJSON(e.JSON())
				if err != nil {
					rt.Fatalf("%s: %v", e.JSON(), err)
				}
				if theirs.Redacted() {
					rt.Fatalf("the hash of %s does not match", e.JSON())
				}
				if theirs.EventID() != e.ID() || theirs.RoomID().String() != e.RoomID() {
					rt.Fatalf("%s is %s in %s, want %s in %s", e.JSON(), e.ID(), e.RoomID(), theirs.EventID(), theirs.RoomID().String())
				}
				// It counts m.room.create of version 12 among the auth events.
				auth := slices.DeleteFunc(slices.Clone(theirs.AuthEventIDs()), func(id string) bool {
					return v.RoomIDFromCreate && id == "$"+e.RoomID()[1:]
				})
				if !slices.Equal(auth, e.AuthEvents()) || !slices.Equal(theirs.PrevEventIDs(), e.PrevEvents()) {
					rt.Fatalf("references of %s: %q %q", e.JSON(), e.PrevEvents(), e.AuthEvents())
				}
				redacted, err := gmslVersion(v).RedactEventJSON(e.JSON())
				if err != nil {
					rt.Fatal(err)
				}
				// It writes missing fields of m.room.create of version 12 as empty ones.
				want, got := jsonObject(t, redacted), jsonObject(t, e.Redacted().JSON())
				if v.RoomIDFromCreate && e.Type() == TypeCreate {
					delete(want, "room_id")
				}
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Fatalf("redacting %s: (-want +got)\n%s", e.JSON(), diff)
				}
			}
		})
	})
}

func TestAuthoriseMatchesGomatrixserverlib(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		rapid.Check(t, func(rt *rapid.T) {
			c := drawAuthCase(rt, t, v)
			if c.event.Type() == TypeAliases && !c.event.IsState() {
				rt.Skip("it panics on m.room.aliases without state key")
			}
			var events []gomatrixserverlib.PDU
			for _, e := range c.state {
				theirs, err := gmslVersion(v).NewEventFromTrustedJSONWithEventID(e.ID(), e.JSON(), false)
				if err != nil {
					rt.Fatal(err)
				}
				events = append(events, theirs)
			}
			theirs, err := gmslVersion(v).NewEventFromTrustedJSONWithEventID(c.event.ID(), c.event.JSON(), false)
			if err != nil {
				rt.Fatal(err)
			}
			auth, err := gomatrixserverlib.NewAuthEvents(events)
			if err != nil {
				rt.Fatal(err)
			}
			want := gomatrixserverlib.Allowed(theirs, auth, gmslUser)
			got := Authorise(c.event, c.state)
			if (want == nil) != (got == nil) && !gmslDeparts(c).excuses(want == nil) {
				rt.Fatalf("v%s: we say %v, gomatrixserverlib %v\n%s", v, got, want, c)
			}
			if got != nil && !errors.As(got, new(*AuthError)) {
				rt.Fatalf("error is a %T", got)
			}
		})
	})
}

// gmslDeparts says how gomatrixserverlib departs from the specification in a case where it disagrees, nothing if it does
// not. The rules are numbered as in room version 1.
func gmslDeparts(c authCase) departure {
	e, v := c.event, c.event.Version()
	current := ""
	if m := c.state.Event(Tuple{TypeMember, e.stateKey}); m != nil {
		current = m.Membership()
	}
	rule := ""
	if r := c.state.Event(Tuple{Type: TypeJoinRules}); r != nil {
		rule, _ = lookupString(r.Content(), "join_rule")
	}
	switch {
	case e.Type() == TypeAliases && !v.SpecialAliasAuth:
		return departure{either, "rule 4 on m.room.aliases, which version 6 dropped, still applies"}
	case e.Membership() == MembershipJoin && e.Sender() == e.stateKey && (current == MembershipJoin || current == MembershipInvite):
		return departure{theyAllow, "rule 5.2: who is invited or in the room may join whatever the join rule"}
	case (e.Membership() == MembershipKnock || e.Membership() == MembershipJoin) && e.Sender() == e.stateKey &&
		v.Knock && !v.KnockRestricted && rule == JoinRuleKnockRestricted:
		return departure{theyAllow, "rules 5.3.5 and 5.7.1: knock_restricted counts before version 10, which added it"}
	case e.Membership() == MembershipJoin && e.Sender() == e.stateKey && current == MembershipKnock:
		return departure{theyReject, "rule 5.2: who knocks may not join even where the join rule is public"}
	case e.Membership() == MembershipJoin && e.Sender() != e.stateKey:
		return departure{theyReject, "rule 5.2.1: the first join must be sent by the creator"}
	case e.Membership() == MembershipLeave && e.Sender() == e.stateKey && (current == MembershipLeave || current == ""):
		return departure{theyAllow, "rule 5.4.1: who is not in the room may leave"}
	case e.Membership() == MembershipLeave && e.Sender() == e.stateKey && current == MembershipKnock && !v.Knock:
		return departure{theyAllow, "rule 5.4.1: knocks can be taken back before version 7, which added them"}
	case e.Membership() == MembershipLeave && e.Sender() != e.stateKey && current == MembershipBan:
		return departure{theyAllow, "rule 5.4.4: unbanning does not need the power to kick the user"}
	case e.Type() == TypeThirdPartyInvite:
		return departure{theyReject, "rule 7 does not end the checks: rule 9 on state keys follows"}
	case e.Type() == TypePowerLevels:
		old := c.state.Event(e.Tuple())
		if old == nil {
			if v.PrivilegedCreators && e.levels().notifications != nil {
				return departure{theyReject, "rule 10.5: the notifications of a first m.room.power_levels are checked, and by a creator's level of 0"}
			}
			return departure{}
		}
		for _, m := range [][2]map[string]int64{
			{old.levels().users, e.levels().users},
			{old.levels().events, e.levels().events},
			{old.levels().notifications, e.levels().notifications},
		} {
			if !slices.Equal(slices.Sorted(maps.Keys(m[0])), slices.Sorted(maps.Keys(m[1]))) {
				return departure{either, "rule 10: entries added or removed count as changed from or to the default"}
			}
		}
		if old.levels().has != e.levels().has {
			return departure{either, "rule 10.3: levels added or removed count as changed from or to the default"}
		}
	}
	return departure{}
}
