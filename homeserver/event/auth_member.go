package event

import (
	"crypto/ed25519"
	"strconv"
	"strings"
)

// Join rules of m.room.join_rules.
const (
	JoinRulePublic          = "public"
	JoinRuleInvite          = "invite"
	JoinRuleKnock           = "knock"
	JoinRuleRestricted      = "restricted"
	JoinRuleKnockRestricted = "knock_restricted"
	JoinRulePrivate         = "private"
)

// The parts of the rule on m.room.member, as room versions 1 to 7 number them. From version 8, with the signature of
// restricted joins, they are one higher.
const (
	memberJoin   = 2
	memberInvite = 3
	memberLeave  = 4
	memberBan    = 5
	memberKnock  = 6
)

func (c *authCheck) failMember(part int, sub, reason string) error {
	if c.v.Restricted {
		part++
	}
	return c.fail(ruleMember, "."+strconv.Itoa(part)+sub, reason)
}

// checkMember is the rule on m.room.member.
func (c *authCheck) checkMember() error {
	membership, ok := lookupString(c.e.Content(), "membership")
	if !c.e.isState || lookup(c.e.Content(), "membership") == nil {
		return c.fail(ruleMember, ".1", "m.room.member has no state key or no membership")
	}
	switch membership {
	case MembershipJoin:
		return c.checkJoin()
	case MembershipInvite:
		return c.checkInvite()
	case MembershipLeave:
		return c.checkLeave()
	case MembershipBan:
		return c.checkBan()
	case MembershipKnock:
		if c.v.Knock {
			return c.checkKnock()
		}
	}
	last := memberKnock
	if c.v.Knock {
		last++
	}
	if !ok {
		membership = "not a string"
	}
	return c.failMember(last, "", "membership is "+membership)
}

// joinRule returns the join rule of the state, invite if there is none.
func (c *authCheck) joinRule() string {
	e := c.state.Event(Tuple{Type: TypeJoinRules})
	if e == nil {
		return JoinRuleInvite
	}
	rule, _ := lookupString(e.Content(), "join_rule")
	return rule
}

func (c *authCheck) checkJoin() error {
	target := c.e.stateKey
	if prev := c.e.PrevEvents(); len(prev) == 1 && prev[0] == c.create.id && target == Creators(c.create)[0] {
		return nil
	}
	if c.e.sender != target {
		return c.failMember(memberJoin, ".2", "sender makes another user join")
	}
	current := c.membership(target)
	if current == MembershipBan {
		return c.failMember(memberJoin, ".3", "user is banned")
	}
	invited := current == MembershipInvite || current == MembershipJoin
	last := ".6"
	if c.v.Restricted {
		last = ".7"
	}
	switch rule := c.joinRule(); {
	case rule == JoinRulePublic:
		return nil
	case rule == JoinRuleInvite, rule == JoinRuleKnock && c.v.Knock:
		if invited {
			return nil
		}
	case rule == JoinRuleRestricted && c.v.Restricted, rule == JoinRuleKnockRestricted && c.v.KnockRestricted:
		if invited {
			return nil
		}
		user, _ := lookupString(c.e.Content(), "join_authorised_via_users_server")
		if user == "" || c.membership(user) != MembershipJoin {
			return c.failMember(memberJoin, ".5.2", "no joined user vouches for the join")
		}
		if c.levels.UserLevel(user) < c.levels.Invite {
			return c.failMember(memberJoin, ".5.2", "the user who vouches for the join may not invite")
		}
		return nil
	default:
		return c.failMember(memberJoin, last, "join rule does not let users join")
	}
	return c.failMember(memberJoin, last, "user is not invited")
}

func (c *authCheck) checkInvite() error {
	if tpi := lookup(c.e.Content(), "third_party_invite"); tpi != nil {
		return c.checkThirdPartyInvite(tpi)
	}
	if c.membership(c.e.sender) != MembershipJoin {
		return c.failMember(memberInvite, ".2", "sender is not in the room")
	}
	switch c.membership(c.e.stateKey) {
	case MembershipJoin:
		return c.failMember(memberInvite, ".3", "user is in the room already")
	case MembershipBan:
		return c.failMember(memberInvite, ".3", "user is banned")
	}
	if c.levels.UserLevel(c.e.sender) < c.levels.Invite {
		return c.failMember(memberInvite, ".5", "sender may not invite")
	}
	return nil
}

// maxThirdPartyChecks bounds the signatures tried for one third party invite: two 64 KiB events could ask for hundreds of
// thousands. Identity servers use one key and one signature.
const maxThirdPartyChecks = 100

func (c *authCheck) checkThirdPartyInvite(tpi []byte) error {
	fail := func(sub, reason string) error { return c.failMember(memberInvite, ".1."+sub, reason) }
	if c.membership(c.e.stateKey) == MembershipBan {
		return fail("1", "user is banned")
	}
	signed := lookup(tpi, "signed")
	if signed == nil {
		return fail("2", "third party invite is not signed")
	}
	mxid, ok1 := lookupString(signed, "mxid")
	token, ok2 := lookupString(signed, "token")
	if !ok1 || !ok2 {
		return fail("3", "third party invite has no mxid or token")
	}
	if mxid != c.e.stateKey {
		return fail("4", "third party invite is for another user")
	}
	invite := c.state.Event(Tuple{TypeThirdPartyInvite, token})
	if invite == nil {
		return fail("5", "no third party invite with this token")
	}
	if invite.sender != c.e.sender {
		return fail("6", "third party invite was made by another user")
	}
	keys := thirdPartyKeys(invite.Content())
	message := signedPart(signed)
	checks := 0
	for servers := iterObject(lookup(signed, "signatures")); servers.next(); {
		for sigs := iterObject(servers.val); sigs.next(); {
			sig, ok := decodeBase64(sigs.val)
			if !ok || len(sig) != ed25519.SignatureSize || !strings.HasPrefix(string(sigs.key), "ed25519:") {
				continue
			}
			for _, key := range keys {
				if checks++; checks > maxThirdPartyChecks {
					return fail("8", "too many signatures and keys")
				}
				if ed25519.Verify(key, message, sig) {
					return nil
				}
			}
		}
	}
	return fail("8", "no signature matches the keys of the third party invite")
}

// thirdPartyKeys returns the public keys of m.room.third_party_invite.
func thirdPartyKeys(content []byte) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(raw []byte) {
		if key, ok := decodeBase64(raw); ok && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	add(lookup(content, "public_key"))
	for it := iterArray(lookup(content, "public_keys")); it.next(); {
		add(lookup(it.val, "public_key"))
	}
	return keys
}

func (c *authCheck) checkLeave() error {
	sender, target := c.e.sender, c.e.stateKey
	current := c.membership(target)
	if sender == target {
		if current == MembershipInvite || current == MembershipJoin || current == MembershipKnock && c.v.Knock {
			return nil
		}
		return c.failMember(memberLeave, ".1", "user is not in the room")
	}
	if c.membership(sender) != MembershipJoin {
		return c.failMember(memberLeave, ".2", "sender is not in the room")
	}
	level := c.levels.UserLevel(sender)
	if current == MembershipBan && level < c.levels.Ban {
		return c.failMember(memberLeave, ".3", "sender may not unban")
	}
	if level < c.levels.Kick || c.levels.UserLevel(target) >= level {
		return c.failMember(memberLeave, ".5", "sender may not kick the user")
	}
	return nil
}

func (c *authCheck) checkBan() error {
	if c.membership(c.e.sender) != MembershipJoin {
		return c.failMember(memberBan, ".1", "sender is not in the room")
	}
	level := c.levels.UserLevel(c.e.sender)
	if level < c.levels.Ban || c.levels.UserLevel(c.e.stateKey) >= level {
		return c.failMember(memberBan, ".3", "sender may not ban the user")
	}
	return nil
}

func (c *authCheck) checkKnock() error {
	if rule := c.joinRule(); rule != JoinRuleKnock && (rule != JoinRuleKnockRestricted || !c.v.KnockRestricted) {
		return c.failMember(memberKnock, ".1", "join rule does not let users knock")
	}
	if c.e.sender != c.e.stateKey {
		return c.failMember(memberKnock, ".2", "sender makes another user knock")
	}
	switch c.membership(c.e.sender) {
	case MembershipBan, MembershipInvite, MembershipJoin:
		return c.failMember(memberKnock, ".4", "user is banned, invited or in the room")
	}
	return nil
}
