package event

import (
	"encoding/json"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
)

// goldenDraft is one event in the dress of each room version, signed with the key of the specification's test vectors.
func goldenDraft() Draft {
	return Draft{
		RoomID: "!room:domain", EventID: "$golden:domain", Sender: "@u:domain", Type: TypeMember, StateKey: ptr("@u:domain"),
		Content: json.RawMessage(`{"membership": "join", "join_authorised_via_users_server": "@r:domain",
			"displayname": "Ü \" \u0001", "third_party_invite": {"signed": {"token": "t"}, "display_name": "d"}}`),
		PrevEvents: []string{"$prev:domain"}, AuthEvents: []string{"$auth:domain", "$other:domain"},
		RefHashes: map[string]string{"$prev:domain": "AAAA", "$auth:domain": "BBBB", "$other:domain": "CCCC"},
		Depth:     7, OriginServerTS: 1000000,
	}
}

func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	type golden struct{ id, signature string }
	// Versions that differ neither in format nor in redaction give the same event.
	v1 := golden{"$golden:domain", "cScEBeuib2K23tHcmEPh4RDICXktWcUrPqrleayifOi7OyBf1Q6caV5MdN+tIsp05QaMg4uJ6MnvSReUHU2iAw"}
	v3 := golden{"$m8Z57aJLHJ6TbJ9GfPb1wT6teAdotst2TgLu4xRuhJ4", "XaNEt6wz0dK8pR2Vj98eh/eFjcGH80zLlkvJJBV509KOuIliAXEhVuZV1XL1yommpKvB77svsXkLoEHtRgQgDg"}
	v9 := golden{"$fghqPdG-dMEdIS0FiAnKcpFCnlKYwXOc2OWUCJjpmI4", "WvuQbw8iasalm2blMvhcMGl8df1aOH5RJwdvhCULNqT14NlFza5eWsMDHB8IlGVLF/FzLMTd41NOy7Pm8KgnAA"}
	v11 := golden{"$wIGN4NdD2O0JPkJktqhJessbOMyM7_WZj9RnDNkCDuY", "xhC3NtQnB4cLKjLDmxKuBZHlW/ZC7v0DDPWFE/OHUANdyfE6xc5hvXKNvGfAPtinF5VBYX6IXpti48+HbqZGBQ"}
	for i, want := range []golden{v1, v1, v3, v3, v3, v3, v3, v3, v9, v9, v11, v11} {
		v := Versions()[i]
		e, err := Build(v, goldenDraft(), testSigner("domain"))
		if err != nil {
			t.Fatal(err)
		}
		signature, _ := decodeString(lookup(lookup(e.bytes(e.signatures), "domain"), "ed25519:1"))
		if got := (golden{e.ID(), signature}); got != want {
			t.Errorf("v%s: %q, want %q", v, got, want)
		}
		if v.UpdatedRedactions {
			// It does not keep third_party_invite.signed in redactions of version 11; mautrix does.
			continue
		}
		theirs, err := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v.ID)).NewEventFromUntrustedJSON(e.JSON())
		if err != nil || theirs.EventID() != e.ID() || theirs.Redacted() {
			t.Errorf("v%s: gomatrixserverlib disagrees: %v", v, err)
		}
	}
}
