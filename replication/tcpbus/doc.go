// Package tcpbus is a replication bus without Redis: the main process relays lines between
// the others over TCP, with the lines of Synapse's deprecated direct replication. It serves
// old configurations and single machines; Redis scales further, and has authentication.
// The port must not be reachable by strangers.
//
// The main process has a Server, the others a Client. Anybody may look on:
//
//	$ nc localhost 9092
//	< SERVER example.com
//	> REPLICATE
//	< POSITION events persister1 57 57
//	< RDATA events persister1 58 ["ev",{...}]
//	< POSITION events persister1 57 58
//
// A connection opens with SERVER from the relay and NAME from the other side. Either side
// sends PING when it has been silent for a while, and gives up on a peer that has pinged
// before and then falls silent. REPLICATE starts the flow; see wire.Replicate for the form
// with streams. The relay passes every other command on to all connections but the one it
// came from.
//
// A message of the bus is a run of RDATA lines with the POSITION line after them, which
// stay together on every connection, or any other single line. A connection that takes
// its messages too slowly is closed, to be caught up when it comes again.
package tcpbus
