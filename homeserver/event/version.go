package event

// DefaultVersion is the room version of new rooms when nobody asks for another.
const DefaultVersion = "12"

// EventFormat says how a PDU names its predecessors.
type EventFormat int

// The event formats.
const (
	// FormatRefs carries event_id, and [event id, {sha256}] pairs in prev_events and auth_events (versions 1 and 2).
	FormatRefs EventFormat = iota + 1
	// FormatIDs carries plain event ids and no event_id (version 3 onwards).
	FormatIDs
)

// EventIDFormat says where an event's id comes from.
type EventIDFormat int

// The event id formats.
const (
	// EventIDRandom is $opaque:server, chosen by the sender (versions 1 and 2).
	EventIDRandom EventIDFormat = iota + 1
	// EventIDBase64 is the reference hash in standard unpadded base64 (version 3).
	EventIDBase64
	// EventIDBase64URL is the reference hash in URL-safe unpadded base64 (version 4 onwards).
	EventIDBase64URL
)

// StateResolution names an algorithm for resolving forked state.
type StateResolution int

// The state resolution algorithms.
const (
	// StateResolutionV1 is the algorithm of room version 1.
	StateResolutionV1 StateResolution = iota + 1
	// StateResolutionV2 is the algorithm of room versions 2 to 11.
	StateResolutionV2
	// StateResolutionV21 is the algorithm of room version 12: version 2 from an empty state, with the conflicted state
	// subgraph.
	StateResolutionV21
)

// Version is a row of the room version table: the ways in which the rules of a room version differ from those of the
// others. Rows are shared; treat them as constants. The numbers in the comments are the versions in which the field is
// true.
type Version struct {
	// ID is the identifier of the version, as in the room_version property of m.room.create.
	ID string
	// EventFormat is the shape of a PDU.
	EventFormat EventFormat
	// EventIDFormat says where event ids come from.
	EventIDFormat EventIDFormat
	// StateResolution is the algorithm for forked state.
	StateResolution StateResolution

	// FieldBytes counts the sizes of type, state_key and ids in bytes; where servers of the time did not agree on that,
	// events that keep to them in code points are accepted. 11+
	FieldBytes bool
	// StrictCanonicalJSON rejects events with numbers that are not integers in ±(2^53-1). 6+
	StrictCanonicalJSON bool
	// EnforceKeyValidity demands signing keys that were valid at the event's origin_server_ts. 5+
	EnforceKeyValidity bool
	// RedactionAuthRule puts redactions under an authorisation rule of their own; later versions accept the event and
	// decide afterwards whether to apply it. 1, 2
	RedactionAuthRule bool
	// SpecialAliasAuth has an authorisation rule for m.room.aliases, whose content survives redaction. 1-5
	SpecialAliasAuth bool
	// NotificationLevels guards changes of notifications in m.room.power_levels. 6+
	NotificationLevels bool
	// Knock allows the knock membership and join rule. 7+
	Knock bool
	// Restricted allows the restricted join rule, and keeps allow of m.room.join_rules in redactions. 8+
	Restricted bool
	// KeepJoinAuthorised keeps join_authorised_via_users_server of m.room.member in redactions. 9+
	KeepJoinAuthorised bool
	// KnockRestricted allows the knock_restricted join rule. 10+
	KnockRestricted bool
	// IntegerPowerLevels accepts integers only in m.room.power_levels; earlier versions read strings too. 10+
	IntegerPowerLevels bool
	// UpdatedRedactions is the redaction algorithm of version 11: fewer top-level keys, the whole of m.room.create,
	// invite levels, signed third party invites and redacts are kept. 11+
	UpdatedRedactions bool
	// RedactsInContent puts redacts of m.room.redaction under content. 11+
	RedactsInContent bool
	// ImplicitCreator takes the room's creator from the sender of m.room.create; content has no creator. 11+
	ImplicitCreator bool
	// RoomIDFromCreate makes the room id the event id of m.room.create with the sigil "!"; m.room.create has no room_id
	// and is never an auth event. 12+
	RoomIDFromCreate bool
	// PrivilegedCreators gives the sender of m.room.create and additional_creators an infinite power level. 12+
	PrivilegedCreators bool
}

// String returns the version's identifier.
func (v *Version) String() string { return v.ID }

// The rows build on one another as the specification's pages do. They are computed once and never written again.
var versionTable = func() []*Version {
	v := Version{
		ID: "1", EventFormat: FormatRefs, EventIDFormat: EventIDRandom, StateResolution: StateResolutionV1,
		RedactionAuthRule: true, SpecialAliasAuth: true,
	}
	var table []*Version
	row := func(id string, change func()) {
		v.ID = id
		change()
		r := v
		table = append(table, &r)
	}
	row("1", func() {})
	row("2", func() { v.StateResolution = StateResolutionV2 })
	row("3", func() {
		v.EventFormat, v.EventIDFormat, v.RedactionAuthRule = FormatIDs, EventIDBase64, false
	})
	row("4", func() { v.EventIDFormat = EventIDBase64URL })
	row("5", func() { v.EnforceKeyValidity = true })
	row("6", func() { v.StrictCanonicalJSON, v.SpecialAliasAuth, v.NotificationLevels = true, false, true })
	row("7", func() { v.Knock = true })
	row("8", func() { v.Restricted = true })
	row("9", func() { v.KeepJoinAuthorised = true })
	row("10", func() { v.KnockRestricted, v.IntegerPowerLevels = true, true })
	row("11", func() {
		v.UpdatedRedactions, v.RedactsInContent, v.ImplicitCreator, v.FieldBytes = true, true, true, true
	})
	row("12", func() {
		v.StateResolution, v.RoomIDFromCreate, v.PrivilegedCreators = StateResolutionV21, true, true
	})
	return table
}()

// LookupVersion returns the row of a room version, and whether the version is known.
func LookupVersion(id string) (*Version, bool) {
	for _, v := range versionTable {
		if v.ID == id {
			return v, true
		}
	}
	return nil, false
}

// Versions returns every known room version, oldest first. All are stable (room versions, "Complete list of room
// versions").
func Versions() []*Version {
	return append([]*Version(nil), versionTable...)
}
