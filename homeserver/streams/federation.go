package streams

import (
	"encoding/json"

	"github.com/weft-im/weft/replication"
)

// FederationRow is a row of the federation stream: something ephemeral that other servers are to be told.
type FederationRow struct {
	// Type says what Data is: FederationEDU. Rows of other types are passed over.
	Type string
	Data OutboundEDU
}

// FederationEDU is the type of rows that carry an EDU.
const FederationEDU = "edu"

// OutboundEDU is an EDU on its way to the processes that send to other servers.
type OutboundEDU struct {
	Destinations []string        `json:"destinations"`
	EDUType      string          `json:"edu_type"`
	Content      json.RawMessage `json:"content"`
	// Key, if not "", names what the EDU is about: one with the same type and key that still waits is replaced by it.
	Key string `json:"key,omitempty"`
}

// Federation is the stream of what processes want told to other servers, beside what follows from the other streams. It
// lives in the memory of the main process. See package federation/outbox.
func Federation() replication.Stream[FederationRow] {
	return replication.Stream[FederationRow]{
		StreamInfo: replication.StreamInfo{Name: "federation", Mode: replication.MainWriter, InMemory: true},
		Codec:      replication.MustArrayCodec[FederationRow](),
	}
}
