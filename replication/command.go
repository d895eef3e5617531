package replication

import "github.com/weft-im/weft/replication/wire"

// Command is a line of the replication protocol: wire.UserSync, wire.FederationAck and so
// on. Those that carry streams (RDATA, POSITION, REPLICATE) are the client's own business.
type Command = wire.Command
