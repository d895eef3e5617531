//go:build goexperiment.jsonv2 || go1.27

package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"
	"pgregory.net/rapid"
)

// The tests in this file compare with mautrix, whose federation/pdu and federation/eventauth need
// GOEXPERIMENT=jsonv2 before Go 1.27. Where it departs from the specification, a comment says so.

func mautrixPDU(t interface{ Fatalf(string, ...any) }, e *Event) *pdu.PDU {
	var p pdu.PDU
	if err := json.Unmarshal(e.JSON(), &p); err != nil {
		t.Fatalf("%s: %v", e.JSON(), err)
	}
	return &p
}

func mautrixKey(server string, _ id.KeyID, _ time.Time) (id.SigningKey, time.Time, error) {
	key := ownSigner(server).Key.Public().(ed25519.PublicKey)
	return id.SigningKey(base64.RawStdEncoding.EncodeToString(key)), time.Now().Add(time.Hour), nil
}

func TestEventsMatchMautrix(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		rapid.Check(t, func(rt *rapid.T) {
			c := drawAuthCase(rt, t, v)
			events := []*Event{c.event}
			for _, e := range c.state {
				events = append(events, e)
			}
			for _, e := range events {
				var p pdu.AnyPDU
				var redacted []byte
				var err error
				if v.EventFormat == FormatRefs {
					var old pdu.RoomV1PDU
					if err := json.Unmarshal(e.JSON(), &old); err != nil {
						rt.Fatalf("%s: %v", e.JSON(), err)
					}
					redacted, err = json.Marshal(old.Clone().Redact(id.RoomVersion(v.ID)))
					p = &old
				} else {
					theirs := mautrixPDU(rt, e)
					redacted, err = json.Marshal(theirs.Clone().Redact(id.RoomVersion(v.ID)))
					p = theirs
				}
				if err != nil {
					rt.Fatal(err)
				}
				if !p.VerifyContentHash() {
					rt.Fatalf("the hash of %s does not match", e.JSON())
				}
				// It keeps the top-level redacts of a redaction before version 11, which is not in the list of keys to keep.
				if e.Type() == TypeRedaction && !v.RedactsInContent {
					continue
				}
				if eventID, err := p.GetEventID(id.RoomVersion(v.ID)); err != nil || string(eventID) != e.ID() {
					rt.Fatalf("%s is %s, want %s, %v", e.JSON(), e.ID(), eventID, err)
				}
				if err := p.VerifySignature(id.RoomVersion(v.ID), ServerName(e.Sender()), mautrixKey); err != nil {
					rt.Fatalf("%s: %v", e.JSON(), err)
				}
				if diff := cmp.Diff(jsonObject(t, redacted), jsonObject(t, e.Redacted().JSON())); diff != "" {
					rt.Fatalf("redacting %s: (-want +got)\n%s", e.JSON(), diff)
				}
				var tuples []Tuple
				for _, k := range p.AuthEventSelection(id.RoomVersion(v.ID)) {
					tuples = append(tuples, Tuple(k))
				}
				if !slices.Equal(tuples, e.AuthTuples()) && len(tuples)+len(e.AuthTuples()) > 0 {
					rt.Fatalf("auth events of %s are %v, want %v", e.JSON(), e.AuthTuples(), tuples)
				}
			}
		})
	})
}

func TestAuthoriseMatchesMautrix(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		if v.EventFormat == FormatRefs {
			t.Skip("eventauth knows room versions 3 and later")
		}
		rapid.Check(t, func(rt *rapid.T) {
			c := drawAuthCase(rt, t, v)
			create := c.state.Event(Tuple{Type: TypeCreate})
			if old := c.state.Event(Tuple{Type: TypePowerLevels}); old != nil && c.event.Type() == TypePowerLevels {
				for user := range old.levels().users {
					if _, ok := c.event.levels().users[user]; !ok {
						rt.Skip("it may panic when a user is removed from the power levels")
					}
				}
			}
			auth := []*pdu.PDU{}
			if !v.RoomIDFromCreate {
				auth = append(auth, mautrixPDU(rt, create))
			}
			for _, tuple := range c.event.AuthTuples() {
				if e := c.state.Event(tuple); e != nil && e != create {
					auth = append(auth, mautrixPDU(rt, e))
				}
			}
			signed := c.event
			for _, server := range RequiredSigners(c.event) {
				var err error
				if signed, err = signed.Sign(ownSigner(server)); err != nil {
					rt.Fatal(err)
				}
			}
			get := func([]id.EventID) ([]*pdu.PDU, error) { return []*pdu.PDU{mautrixPDU(rt, create)}, nil }
			want := eventauth.Authorize(id.RoomVersion(v.ID), mautrixPDU(rt, signed), auth, get, mautrixKey)
			got := Authorise(c.event, c.state)
			if (want == nil) != (got == nil) && !mautrixDeparts(c).excuses(want == nil) {
				rt.Fatalf("v%s: we say %v, mautrix %v\n%s", v, got, want, c)
			}
		})
	})
}

// mautrixDeparts says how mautrix departs from the specification in a case where it disagrees, nothing if it does not.
func mautrixDeparts(c authCase) departure {
	e, v := c.event, c.event.Version()
	create := c.state.Event(Tuple{Type: TypeCreate})
	switch {
	case e.Type() == TypeAliases && v.SpecialAliasAuth:
		return departure{either, "rule 4 on m.room.aliases is missing"}
	case e.Type() == TypePowerLevels && !v.NotificationLevels:
		return departure{theyReject, "rule 10.4 and 10.5: notifications are guarded before version 6"}
	case e.Membership() == MembershipJoin && slices.Equal(e.PrevEvents(), []string{create.ID()}) && e.stateKey == Creators(create)[0] && len(e.AuthEvents()) > 1:
		return departure{theyReject, "rule 5.2.1: the first join must not have other auth events"}
	case !v.Restricted && lookup(e.Content(), "join_authorised_via_users_server") != nil:
		return departure{theyReject, "rule 5.2 of version 8: earlier versions need the signature too"}
	}
	return departure{}
}

func TestGoldenEventsMatchMautrix(t *testing.T) {
	t.Parallel()
	for _, v := range Versions() {
		if v.EventFormat == FormatRefs {
			continue
		}
		e, err := Build(v, goldenDraft(), testSigner("domain"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := mautrixPDU(t, e).GetEventID(id.RoomVersion(v.ID)); err != nil || string(got) != e.ID() {
			t.Errorf("v%s: %s, mautrix has %s, %v", v, e.ID(), got, err)
		}
	}
}
