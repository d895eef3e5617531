package event

// Parse reads an event as it came over the network. It canonicalises the JSON, checks the format of the room version
// (fields, sizes, number ranges), computes the event id, and verifies the content hash: an event whose hash does not
// match comes back redacted, with HashMismatch set. Signatures are VerifySignatures' business. unsigned is taken out of
// the event's JSON and kept aside.
//
// Errors are *FormatError; raw is not kept.
func Parse(v *Version, raw []byte) (*Event, error) { panic("not yet") }

// Load reads an event that this server stored: raw is what JSON returned when it was stored (bytes are kept, not
// copied), id its event id. Nothing is verified, hashed or copied; the error says that raw is not an event at all.
func Load(v *Version, id string, raw []byte) (*Event, error) { panic("not yet") }

func (e *Event) references() *eventRefs { panic("not yet") }

// Redacts returns the id of the event that an m.room.redaction redacts, from where the room version puts it (the event
// or its content); empty for other events.
func (e *Event) Redacts() string { panic("not yet") }

// Membership returns content.membership of an m.room.member event, empty where it is missing or no string, and for
// other events.
func (e *Event) Membership() string { panic("not yet") }

// WithUnsigned returns the same event with another unsigned object (JSON, not copied).
func (e *Event) WithUnsigned(unsigned []byte) *Event { panic("not yet") }

// ServerName returns the server part of a user, room, alias or (room versions 1 and 2) event id: what follows the first
// colon, empty if there is none.
func ServerName(id string) string { panic("not yet") }

// ReferenceHash returns the SHA-256 of the redacted event without signatures, which is the event id of room versions
// 3 and later (server-server API, "Calculating the reference hash for an event").
func (e *Event) ReferenceHash() [32]byte { panic("not yet") }

// ContentHash returns the SHA-256 of the event without unsigned, signatures and hashes (server-server API, "Calculating
// the content hash for an event").
func (e *Event) ContentHash() [32]byte { panic("not yet") }

// Redacted returns the event stripped to the keys that its room version protects from redaction. unsigned goes too. The
// id stays the same. A redacted event returns itself.
func (e *Event) Redacted() *Event { panic("not yet") }
