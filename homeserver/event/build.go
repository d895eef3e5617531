package event

import (
	"crypto/ed25519"
	"encoding/json"
)

// Draft holds what the sender of an event decides. Build adds hashes, signature and event id.
type Draft struct {
	// RoomID is required, except for m.room.create in room version 12, where it must be empty.
	RoomID string
	// Sender is the user id of the sender. Required.
	Sender string
	// Type is the event type. Required.
	Type string
	// StateKey makes the event a state event.
	StateKey *string
	// Content is a JSON object, canonical or not. Required.
	Content json.RawMessage
	// Redacts is the event that an m.room.redaction redacts. Build puts it where the room version wants it.
	Redacts string
	// PrevEvents and AuthEvents are event ids.
	PrevEvents, AuthEvents []string
	// RefHashes holds the unpadded base64 reference hashes of PrevEvents and AuthEvents in room versions 1 and 2. Where
	// one is missing, the event says {}.
	RefHashes map[string]string
	// EventID is the event id in room versions 1 and 2. Defaults to a random one on the signer's server. Ignored in
	// later versions.
	EventID string
	// Depth is one more than the greatest depth of PrevEvents; greater values than the room version allows become
	// the greatest that it does.
	Depth int64
	// OriginServerTS is the time of creation in milliseconds since the Unix epoch.
	OriginServerTS int64
	// Unsigned is a JSON object kept with the event, neither hashed, signed nor sent. Optional.
	Unsigned json.RawMessage
}

// Signer is a server's signing key.
type Signer struct {
	// ServerName is the name of the server.
	ServerName string
	// KeyID is the signing key identifier, "ed25519:abc".
	KeyID string
	// Key is the private key.
	Key ed25519.PrivateKey
}

// Build makes, hashes and signs a new event. It holds the event to the same limits as Parse (*FormatError), so that no
// other server need refuse it. Whether the sender may send it is Authorise's business.
func Build(v *Version, d Draft, s Signer) (*Event, error) { panic("not yet") }

// Sign returns the event with one more signature, as for the server that accepts an invite or vouches for a restricted
// join. An older signature of the same key is replaced.
func (e *Event) Sign(s Signer) (*Event, error) { panic("not yet") }
