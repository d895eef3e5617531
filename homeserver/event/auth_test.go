package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// rules are the numbers of the rule that rejects an event in room versions 1-5, 6-7, 8-11 and 12, which number the same
// rules differently; "" means that the event is allowed.
type rules [4]string

func (r rules) of(v *Version) string {
	switch n, _ := strconv.Atoi(v.ID); {
	case n <= 5:
		return r[0]
	case n <= 7:
		return r[1]
	case n <= 11:
		return r[2]
	}
	return r[3]
}

var allowed = rules{}

// authRoom is a room of @alice:a with a member of every kind: @mod:m with power 50, @bob:b with none, @inv:i invited,
// @ban:x banned, @left:l gone, @knock:k knocking (from version 7).
func authRoom(t testing.TB, v *Version, joinRule string) *testRoom {
	t.Helper()
	r := newTestRoom(t, v)
	users := map[string]any{"@mod:m": 50, "@peer:m": 50}
	if !v.PrivilegedCreators {
		users["@alice:a"] = 100
	}
	r.put("@alice:a", TypePowerLevels, "", map[string]any{"users": users, "events": map[string]any{
		"org.low": 0, "org.high": 80, TypeThirdPartyInvite: 100,
	}, "notifications": map[string]any{"room": 50}, "invite": 10})
	r.put("@alice:a", TypeJoinRules, "", map[string]any{"join_rule": joinRule})
	for user, membership := range map[string]string{
		"@mod:m": "join", "@peer:m": "join", "@bob:b": "join", "@inv:i": "invite", "@ban:x": "ban", "@left:l": "leave", "@knock:k": "knock",
	} {
		r.member("@alice:a", user, membership)
	}
	return r
}

func wantRule(t *testing.T, r *testRoom, e *Event, want string) {
	t.Helper()
	err := Authorise(e, r.state)
	var ae *AuthError
	switch {
	case want == "" && err != nil:
		t.Errorf("v%s: %s %s of %s: %v, want it allowed", r.v, e.Type(), e.Content(), e.Sender(), err)
	case want != "" && (!errors.As(err, &ae) || ae.Rule != want):
		t.Errorf("v%s: %s %s of %s: %v, want rule %s", r.v, e.Type(), e.Content(), e.Sender(), err, want)
	}
}

func TestAuthoriseMembership(t *testing.T) {
	t.Parallel()
	all := func(part, sub string) rules {
		n, _ := strconv.Atoi(part)
		return rules{
			fmt.Sprintf("5.%d%s", n, sub), fmt.Sprintf("4.%d%s", n, sub), fmt.Sprintf("4.%d%s", n+1, sub), fmt.Sprintf("5.%d%s", n+1, sub),
		}
	}
	join, invite, leave, ban := "2", "3", "4", "5"
	joinLast := rules{"5.2.6", "4.2.6", "4.3.7", "5.3.7"}
	for _, c := range []struct {
		joinRule, sender, target, membership string
		want                                 rules
	}{
		{"invite", "@left:l", "@other:o", "join", all(join, ".2")},
		{"public", "@ban:x", "@ban:x", "join", all(join, ".3")},
		{"public", "@left:l", "@left:l", "join", allowed},
		{"public", "@new:n", "@new:n", "join", allowed},
		{"invite", "@new:n", "@new:n", "join", joinLast},
		{"invite", "@left:l", "@left:l", "join", joinLast},
		{"invite", "@inv:i", "@inv:i", "join", allowed},
		{"invite", "@bob:b", "@bob:b", "join", allowed},
		{"private", "@inv:i", "@inv:i", "join", joinLast},
		{"nonsense", "@inv:i", "@inv:i", "join", joinLast},

		{"public", "@new:n", "@other:o", "invite", all(invite, ".2")},
		{"public", "@inv:i", "@other:o", "invite", all(invite, ".2")},
		{"public", "@mod:m", "@bob:b", "invite", all(invite, ".3")},
		{"public", "@mod:m", "@ban:x", "invite", all(invite, ".3")},
		{"public", "@bob:b", "@other:o", "invite", all(invite, ".5")},
		{"public", "@mod:m", "@other:o", "invite", allowed},
		{"public", "@mod:m", "@inv:i", "invite", allowed},
		{"public", "@mod:m", "@knock:k", "invite", allowed},

		{"public", "@bob:b", "@bob:b", "leave", allowed},
		{"public", "@inv:i", "@inv:i", "leave", allowed},
		{"public", "@new:n", "@new:n", "leave", all(leave, ".1")},
		{"public", "@left:l", "@left:l", "leave", all(leave, ".1")},
		{"public", "@ban:x", "@ban:x", "leave", all(leave, ".1")},
		{"public", "@left:l", "@bob:b", "leave", all(leave, ".2")},
		{"public", "@bob:b", "@ban:x", "leave", all(leave, ".3")},
		{"public", "@mod:m", "@ban:x", "leave", allowed},
		{"public", "@bob:b", "@inv:i", "leave", all(leave, ".5")},
		{"public", "@mod:m", "@peer:m", "leave", all(leave, ".5")},
		{"public", "@mod:m", "@alice:a", "leave", all(leave, ".5")},
		{"public", "@mod:m", "@bob:b", "leave", allowed},

		{"public", "@left:l", "@bob:b", "ban", all(ban, ".1")},
		{"public", "@bob:b", "@new:n", "ban", all(ban, ".3")},
		{"public", "@mod:m", "@peer:m", "ban", all(ban, ".3")},
		{"public", "@mod:m", "@mod:m", "ban", all(ban, ".3")},
		{"public", "@mod:m", "@bob:b", "ban", allowed},
		{"public", "@mod:m", "@new:n", "ban", allowed},

		{"public", "@bob:b", "@bob:b", "dance", rules{"5.6", "", "4.8", "5.8"}},
	} {
		t.Run(c.membership+" "+c.sender+" "+c.target+" "+c.joinRule, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				r := authRoom(t, v, c.joinRule)
				e := r.build(r.draft(c.sender, TypeMember, ptr(c.target), map[string]any{"membership": c.membership}))
				want := c.want.of(v)
				if c.membership == "dance" {
					// Version 7 adds knocking and thus a number before this rule.
					want = map[string]string{"6": "4.6", "7": "4.7"}[v.ID] + want
				}
				wantRule(t, r, e, want)
			}
		})
	}
}

func TestAuthoriseMembershipShape(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := authRoom(t, v, "public")
		first := rules{"5.1", "4.1", "4.1", "5.1"}.of(v)
		wantRule(t, r, r.build(r.draft("@bob:b", TypeMember, nil, map[string]any{"membership": "join"})), first)
		wantRule(t, r, r.build(r.draft("@bob:b", TypeMember, ptr("@bob:b"), map[string]any{})), first)
		unknown := map[string]string{"6": "4.6", "7": "4.7"}[v.ID] + rules{"5.6", "", "4.8", "5.8"}.of(v)
		wantRule(t, r, r.build(r.draft("@bob:b", TypeMember, ptr("@bob:b"), map[string]any{"membership": 1})), unknown)
		// Without join rules, invites are needed.
		delete(r.state, Tuple{Type: TypeJoinRules})
		last := rules{"5.2.6", "4.2.6", "4.3.7", "5.3.7"}.of(v)
		wantRule(t, r, r.build(r.draft("@new:n", TypeMember, ptr("@new:n"), map[string]any{"membership": "join"})), last)
		wantRule(t, r, r.build(r.draft("@inv:i", TypeMember, ptr("@inv:i"), map[string]any{"membership": "join"})), "")
	})
}

func TestAuthoriseFirstJoin(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		delete(r.state, Tuple{TypeMember, "@alice:a"})
		last := rules{"5.2.6", "4.2.6", "4.3.7", "5.3.7"}.of(v)
		join := func(user string, prev ...string) *Event {
			d := r.draft(user, TypeMember, ptr(user), map[string]any{"membership": "join"})
			d.PrevEvents = prev
			return r.build(d)
		}
		create := r.create.ID()
		wantRule(t, r, join("@alice:a", create), "")
		wantRule(t, r, join("@bob:b", create), last)
		wantRule(t, r, join("@alice:a", create, "$x:a"), last)
		wantRule(t, r, join("@alice:a", "$x:a"), last)
		wantRule(t, r, join("@alice:a"), last)
	})
}

func TestAuthoriseRestrictedJoins(t *testing.T) {
	t.Parallel()
	via := func(user any) map[string]any {
		return map[string]any{"membership": "join", "join_authorised_via_users_server": user}
	}
	for _, joinRule := range []string{"restricted", "knock_restricted"} {
		for _, v := range Versions() {
			t.Run(joinRule+" v"+v.ID, func(t *testing.T) {
				t.Parallel()
				known := v.Restricted && joinRule == "restricted" || v.KnockRestricted && joinRule == "knock_restricted"
				last := rules{"5.2.6", "4.2.6", "4.3.7", "5.3.7"}.of(v)
				vouched := rules{"", "", "4.3.5.2", "5.3.5.2"}.of(v)
				r := authRoom(t, v, joinRule)
				for _, c := range []struct {
					user    string
					content map[string]any
					want    string
				}{
					{"@inv:i", map[string]any{"membership": "join"}, ""},
					{"@bob:b", map[string]any{"membership": "join"}, ""},
					{"@new:n", map[string]any{"membership": "join"}, vouched},
					{"@new:n", via("@mod:m"), ""},
					{"@left:l", via("@alice:a"), ""},
					{"@knock:k", via("@alice:a"), ""},
					{"@new:n", via("@bob:b"), vouched},
					{"@new:n", via("@left:l"), vouched},
					{"@new:n", via("@nobody:n"), vouched},
					{"@new:n", via(7), vouched},
				} {
					want := c.want
					if !known {
						want = last
					}
					wantRule(t, r, r.build(r.draft(c.user, TypeMember, ptr(c.user), c.content)), want)
				}
				banned := rules{"5.2.3", "4.2.3", "4.3.3", "5.3.3"}.of(v)
				wantRule(t, r, r.build(r.draft("@ban:x", TypeMember, ptr("@ban:x"), via("@mod:m"))), banned)
			})
		}
	}
}

func TestAuthoriseKnocks(t *testing.T) {
	t.Parallel()
	for _, v := range Versions() {
		t.Run("v"+v.ID, func(t *testing.T) {
			t.Parallel()
			fail := func(sub string) string {
				if !v.Knock {
					return map[string]string{"6": "4.6"}[v.ID] + rules{"5.6", "", "", ""}.of(v)
				}
				return rules{"", "4.6", "4.7", "5.7"}.of(v) + sub
			}
			knock := func(r *testRoom, sender, target string) *Event {
				return r.build(r.draft(sender, TypeMember, ptr(target), map[string]any{"membership": "knock"}))
			}
			allowed := ""
			if !v.Knock {
				allowed = fail("")
			}
			for _, joinRule := range []string{"public", "invite", "restricted"} {
				wantRule(t, authRoom(t, v, joinRule), knock(authRoom(t, v, joinRule), "@new:n", "@new:n"), fail(".1"))
			}
			r := authRoom(t, v, "knock_restricted")
			want := fail(".1")
			if v.KnockRestricted {
				want = ""
			}
			wantRule(t, r, knock(r, "@new:n", "@new:n"), want)

			r = authRoom(t, v, "knock")
			wantRule(t, r, knock(r, "@new:n", "@new:n"), allowed)
			wantRule(t, r, knock(r, "@left:l", "@left:l"), allowed)
			wantRule(t, r, knock(r, "@knock:k", "@knock:k"), allowed)
			wantRule(t, r, knock(r, "@new:n", "@other:o"), fail(".2"))
			for _, user := range []string{"@ban:x", "@inv:i", "@bob:b"} {
				wantRule(t, r, knock(r, user, user), fail(".4"))
			}
			// The join rule lets the invited in, and knocks can be taken back.
			join := func(user string) *Event {
				return r.build(r.draft(user, TypeMember, ptr(user), map[string]any{"membership": "join"}))
			}
			last := rules{"5.2.6", "4.2.6", "4.3.7", "5.3.7"}.of(v)
			wantRule(t, r, join("@new:n"), last)
			leave := r.build(r.draft("@knock:k", TypeMember, ptr("@knock:k"), map[string]any{"membership": "leave"}))
			if v.Knock {
				wantRule(t, r, join("@inv:i"), "")
				wantRule(t, r, leave, "")
			} else {
				wantRule(t, r, join("@inv:i"), last)
				wantRule(t, r, leave, rules{"5.4.1", "4.4.1", "", ""}.of(v))
			}
		})
	}
}

func TestAuthoriseThirdPartyInvites(t *testing.T) {
	t.Parallel()
	identity := ownSigner("identity")
	signed := func(m map[string]any, s Signer) any {
		raw, _ := json.Marshal(m)
		out, err := SignJSON(raw, s)
		if err != nil {
			t.Fatal(err)
		}
		return json.RawMessage(out)
	}
	public := func(s Signer, e *base64.Encoding) string {
		return e.EncodeToString(s.Key.Public().(ed25519.PublicKey))
	}
	good := map[string]any{"mxid": "@new:n", "token": "tok"}
	for _, v := range Versions() {
		t.Run("v"+v.ID, func(t *testing.T) {
			t.Parallel()
			rule := func(sub string) string {
				return rules{"5.3.1.", "4.3.1.", "4.4.1.", "5.4.1."}.of(v) + sub
			}
			r := authRoom(t, v, "invite")
			r.put("@mod:m", TypeThirdPartyInvite, "tok", map[string]any{
				"public_key":  public(ownSigner("unused"), base64.RawStdEncoding),
				"public_keys": []any{7, map[string]any{"public_key": "!"}, map[string]any{"public_key": public(identity, base64.URLEncoding)}},
			})
			r.put("@mod:m", TypeThirdPartyInvite, "single", map[string]any{"public_key": public(identity, base64.RawStdEncoding)})
			for _, c := range []struct {
				name, sender, target string
				tpi                  any
				want                 string
			}{
				{"good", "@mod:m", "@new:n", map[string]any{"signed": signed(good, identity)}, ""},
				{"single key", "@mod:m", "@new:n", map[string]any{"signed": signed(map[string]any{"mxid": "@new:n", "token": "single"}, identity)}, ""},
				{"banned", "@mod:m", "@ban:x", map[string]any{"signed": signed(good, identity)}, rule("1")},
				{"unsigned", "@mod:m", "@new:n", map[string]any{"display_name": "x"}, rule("2")},
				{"not an object", "@mod:m", "@new:n", 7, rule("2")},
				{"no mxid", "@mod:m", "@new:n", map[string]any{"signed": signed(map[string]any{"token": "tok"}, identity)}, rule("3")},
				{"no token", "@mod:m", "@new:n", map[string]any{"signed": signed(map[string]any{"mxid": "@new:n"}, identity)}, rule("3")},
				{"other user", "@mod:m", "@other:o", map[string]any{"signed": signed(good, identity)}, rule("4")},
				{"unknown token", "@mod:m", "@new:n", map[string]any{"signed": signed(map[string]any{"mxid": "@new:n", "token": "?"}, identity)}, rule("5")},
				{"other sender", "@alice:a", "@new:n", map[string]any{"signed": signed(good, identity)}, rule("6")},
				{"wrong key", "@mod:m", "@new:n", map[string]any{"signed": signed(good, ownSigner("evil"))}, rule("8")},
				{"no signature", "@mod:m", "@new:n", map[string]any{"signed": good}, rule("8")},
			} {
				e := r.build(r.draft(c.sender, TypeMember, ptr(c.target), map[string]any{"membership": "invite", "third_party_invite": c.tpi}))
				t.Run(c.name, func(t *testing.T) { wantRule(t, r, e, c.want) })
			}
		})
	}
}

func TestThirdPartyInviteIsBounded(t *testing.T) {
	t.Parallel()
	v := version(t, "12")
	r := authRoom(t, v, "invite")
	var keys []any
	sigs := map[string]any{}
	for i := range 150 {
		s := ownSigner(fmt.Sprint(i))
		keys = append(keys, map[string]any{"public_key": base64.RawStdEncoding.EncodeToString(s.Key.Public().(ed25519.PublicKey))})
		sigs[fmt.Sprintf("ed25519:%d", i)] = strings.Repeat("A", signatureChars)
	}
	r.put("@mod:m", TypeThirdPartyInvite, "tok", map[string]any{"public_keys": keys})
	e := r.build(r.draft("@mod:m", TypeMember, ptr("@new:n"), map[string]any{"membership": "invite", "third_party_invite": map[string]any{
		"signed": map[string]any{"mxid": "@new:n", "token": "tok", "signatures": map[string]any{"identity": sigs}},
	}}))
	wantRule(t, r, e, "5.4.1.8")
}

func TestAuthoriseOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sender, typ string
		stateKey          *string
		content           map[string]any
		want              rules
	}{
		{"message", "@bob:b", "m.room.message", nil, nil, allowed},
		{"message of a stranger", "@new:n", "m.room.message", nil, nil, rules{"6", "5", "5", "6"}},
		{"message of the invited", "@inv:i", "m.room.message", nil, nil, rules{"6", "5", "5", "6"}},
		{"message of the banned", "@ban:x", "m.room.message", nil, nil, rules{"6", "5", "5", "6"}},
		{"state", "@bob:b", "m.room.topic", ptr(""), nil, rules{"8", "7", "7", "8"}},
		{"state of a moderator", "@mod:m", "m.room.topic", ptr(""), nil, allowed},
		{"low state", "@bob:b", "org.low", ptr(""), nil, allowed},
		{"high state", "@mod:m", "org.high", ptr(""), nil, rules{"8", "7", "7", "8"}},
		{"high message", "@mod:m", "org.high", nil, nil, rules{"8", "7", "7", "8"}},
		{"high message of the creator", "@alice:a", "org.high", nil, nil, allowed},
		{"own state key", "@bob:b", "org.low", ptr("@bob:b"), nil, allowed},
		{"other's state key", "@mod:m", "org.low", ptr("@bob:b"), nil, rules{"9", "8", "8", "9"}},
		{"other's state key by the creator", "@alice:a", "org.low", ptr("@"), nil, rules{"9", "8", "8", "9"}},
		{"third party invite", "@mod:m", TypeThirdPartyInvite, ptr("tok"), nil, allowed},
		{"third party invite of the weak", "@bob:b", TypeThirdPartyInvite, ptr("tok"), nil, rules{"7.1", "6.1", "6.1", "7.1"}},
		{"third party invite of a stranger", "@new:n", TypeThirdPartyInvite, ptr("tok"), nil, rules{"6", "5", "5", "6"}},
		{"aliases", "@bob:b", TypeAliases, ptr("b"), nil, rules{"", "7", "7", "8"}},
		{"aliases of a stranger", "@new:n", TypeAliases, ptr("n"), nil, rules{"", "5", "5", "6"}},
		{"aliases of another server", "@bob:b", TypeAliases, ptr("a"), nil, rules{"4.2", "7", "7", "8"}},
		{"aliases without state key", "@bob:b", TypeAliases, nil, nil, rules{"4.1", "", "", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				r := authRoom(t, v, "public")
				if c.content == nil {
					c.content = map[string]any{}
				}
				wantRule(t, r, r.build(r.draft(c.sender, c.typ, c.stateKey, c.content)), c.want.of(v))
			}
		})
	}
}

func TestAuthoriseRedactions(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := authRoom(t, v, "public")
		for _, c := range []struct{ sender, redacts, want string }{
			{"@bob:b", "$x:b", ""},
			{"@bob:b", "$x:a", "11.3"},
			{"@mod:m", "$x:a", ""},
		} {
			d := r.draft(c.sender, TypeRedaction, nil, map[string]any{})
			d.Redacts = c.redacts
			want := c.want
			if !v.RedactionAuthRule {
				want = ""
			}
			wantRule(t, r, r.build(d), want)
		}
	})
}

func TestAuthoriseCreate(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		create := func(change func(d *Draft, content map[string]any)) *Event {
			content := map[string]any{"room_version": v.ID}
			d := Draft{RoomID: "!new:a", Sender: "@alice:a", Type: TypeCreate, StateKey: ptr(""), Depth: 1}
			if v.RoomIDFromCreate {
				d.RoomID = ""
			}
			if !v.ImplicitCreator {
				content["creator"] = "@alice:a"
			}
			change(&d, content)
			d.Content, _ = json.Marshal(content)
			return r.build(d)
		}
		pick := func(yes bool, rule string) string {
			if yes {
				return rule
			}
			return ""
		}
		nothing := func(*Draft, map[string]any) {}
		wantRule(t, r, create(nothing), "")
		wantRule(t, r, create(func(d *Draft, _ map[string]any) { d.PrevEvents = []string{"$x"} }), "1.1")
		wantRule(t, r, create(func(d *Draft, _ map[string]any) { d.Sender = "@alice:b" }), pick(!v.RoomIDFromCreate, "1.2"))
		wantRule(t, r, create(func(_ *Draft, c map[string]any) { c["room_version"] = "x" }), "1.3")
		wantRule(t, r, create(func(_ *Draft, c map[string]any) { c["room_version"] = 1 }), "1.3")
		wantRule(t, r, create(func(_ *Draft, c map[string]any) { delete(c, "room_version") }), "")
		wantRule(t, r, create(func(_ *Draft, c map[string]any) { delete(c, "creator") }), pick(!v.ImplicitCreator, "1.4"))
		for _, bad := range []any{"@x:y", []any{7}, []any{"@ok:a", "bad"}, map[string]any{}, nil} {
			wantRule(t, r, create(func(_ *Draft, c map[string]any) { c["additional_creators"] = bad }), pick(v.PrivilegedCreators, "1.4"))
		}
		for _, ok := range []any{[]any{}, []any{"@x:y", "@:z"}} {
			wantRule(t, r, create(func(_ *Draft, c map[string]any) { c["additional_creators"] = ok }), "")
		}
		if v.RoomIDFromCreate {
			raw := edit(t, create(nothing), func(m map[string]any) { m["room_id"] = "!new:a" })
			e, err := Parse(v, raw)
			if err != nil {
				t.Fatal(err)
			}
			wantRule(t, r, e, "1.2")
		}
	})
}

func TestAuthoriseNeedsCreate(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		e := r.build(r.draft("@alice:a", "m.room.message", nil, map[string]any{}))
		none := "2.4"
		if v.RoomIDFromCreate {
			none = "2"
			d := r.draft("@alice:a", "m.room.message", nil, map[string]any{})
			d.RoomID = "!" + strings.Repeat("A", 43)
			wantRule(t, r, r.build(d), "2")
		}
		delete(r.state, Tuple{Type: TypeCreate})
		wantRule(t, r, e, none)
	})
}

func TestAuthoriseFederate(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		content := map[string]any{"room_version": v.ID, "m.federate": false, "creator": "@alice:a"}
		r.tip, r.id = nil, "!room:a"
		if v.RoomIDFromCreate {
			r.id = ""
		}
		r.create = r.put("@alice:a", TypeCreate, "", content)
		r.id = r.create.RoomID()
		r.put("@alice:a", TypeJoinRules, "", map[string]any{"join_rule": "public"})
		want := rules{"3", "3", "3", "4"}.of(v)
		join := func(user string) *Event {
			return r.build(r.draft(user, TypeMember, ptr(user), map[string]any{"membership": "join"}))
		}
		wantRule(t, r, join("@other:a"), "")
		wantRule(t, r, join("@other:b"), want)
	})
}

func TestCheckAuthEvents(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := authRoom(t, v, "public")
		n := "2"
		if v.RoomIDFromCreate {
			n = "3"
		}
		check := func(name string, e *Event, auth []*Event, rejected string, want string) {
			t.Helper()
			err := CheckAuthEvents(e, auth, func(id string) bool { return id == rejected })
			var ae *AuthError
			if want == "" && err != nil || want != "" && (!errors.As(err, &ae) || ae.Rule != n+"."+want) {
				t.Errorf("%s: %v, want rule %q", name, err, want)
			}
		}
		power, member, create := r.state[Tuple{Type: TypePowerLevels}], r.state[Tuple{TypeMember, "@bob:b"}], r.create
		auth := []*Event{power, member}
		if !v.RoomIDFromCreate {
			auth = append(auth, create)
		}
		e := r.build(r.draft("@bob:b", "m.room.message", nil, map[string]any{}))
		check("as selected", e, auth, "", "")
		check("two of a kind", e, append(auth, r.build(r.draft("@alice:a", TypePowerLevels, ptr(""), map[string]any{}))), "", "1")
		check("unexpected", e, append(auth, r.state[Tuple{Type: TypeJoinRules}]), "", "2")
		check("not state", e, append(auth, e), "", "2")
		check("other member", e, append(auth, r.state[Tuple{TypeMember, "@mod:m"}]), "", "2")
		check("rejected", e, auth, power.ID(), "3")
		if v.RoomIDFromCreate {
			check("with m.room.create", e, append(auth, create), "", "2")
			check("empty", e, nil, "", "")
		} else {
			check("without m.room.create", e, auth[:2], "", "4")
			check("empty", e, nil, "", "4")
		}
		other := newTestRoom(t, v)
		other.id = "!other:a"
		foreign := other.put("@alice:a", TypePowerLevels, "", map[string]any{})
		check("of another room", e, append(append([]*Event{}, auth[1:]...), foreign), "", "5")
		check("create", create, []*Event{power}, "", "")
		if err := CheckAuthEvents(e, auth, nil); err != nil {
			t.Errorf("nobody rejects: %v", err)
		}
	})
}

func TestAuthTuples(t *testing.T) {
	t.Parallel()
	const pl, me = "(m.room.power_levels, \"\")", "(m.room.member, \"@a:a\")"
	for _, c := range []struct {
		version, typ string
		stateKey     *string
		content      string
		want         string
	}{
		{"11", TypeCreate, ptr(""), `{}`, ``},
		{"11", "m.room.message", nil, `{}`, `(m.room.create, "") ` + pl + " " + me},
		{"12", "m.room.message", nil, `{}`, pl + " " + me},
		{"12", TypeMember, ptr("@a:a"), `{"membership":"leave"}`, pl + " " + me},
		{"12", TypeMember, ptr("@b:b"), `{"membership":"ban"}`, pl + " " + me + ` (m.room.member, "@b:b")`},
		{"12", TypeMember, ptr("@a:a"), `{"membership":"join"}`, pl + " " + me + ` (m.room.join_rules, "")`},
		{"12", TypeMember, ptr("@a:a"), `{"membership":"knock"}`, pl + " " + me + ` (m.room.join_rules, "")`},
		{"12", TypeMember, ptr("@b:b"), `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`, pl + " " + me + ` (m.room.member, "@b:b") (m.room.join_rules, "") (m.room.third_party_invite, "t")`},
		{"12", TypeMember, ptr("@a:a"), `{"membership":"join","third_party_invite":{"signed":{"token":"t"}}}`, pl + " " + me + ` (m.room.join_rules, "")`},
		{"8", TypeMember, ptr("@a:a"), `{"join_authorised_via_users_server":"@r:r","membership":"join"}`, `(m.room.create, "") ` + pl + " " + me + ` (m.room.join_rules, "") (m.room.member, "@r:r")`},
		{"7", TypeMember, ptr("@a:a"), `{"join_authorised_via_users_server":"@r:r","membership":"join"}`, `(m.room.create, "") ` + pl + " " + me + ` (m.room.join_rules, "")`},
	} {
		var got []string
		for _, tuple := range AuthTuples(version(t, c.version), "@a:a", c.typ, c.stateKey, []byte(c.content)) {
			got = append(got, tuple.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("v%s %s %s: %s\nwant %s", c.version, c.typ, c.content, strings.Join(got, " "), c.want)
		}
	}
}
