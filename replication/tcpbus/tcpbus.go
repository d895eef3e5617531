// Package tcpbus is a replication bus without Redis: the main process relays lines between
// the others over TCP, as Synapse's deprecated direct replication does.
package tcpbus
