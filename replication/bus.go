package replication

import (
	"context"
	"errors"
)

// Bus carries messages between the processes of a server. A message is one or more lines
// of the replication protocol without the final newline, published on a named channel.
//
// A bus is a hint, never the truth: it may lose, repeat and reorder messages, so that a
// plain transport is enough. What it must keep:
//
//   - a message arrives whole or not at all, and unchanged;
//   - a subscriber gets the messages of its channels and of no others, those published
//     through the same Bus value included;
//   - when messages may have been lost because the transport was interrupted, Connected
//     is called again once it works.
//
// Three implementations are at hand: NewLocalBus, package redisbus, package tcpbus.
// replicationtest.TestBus holds them, and any other, to this contract.
type Bus interface {
	// Publish sends one message. It may return before the message has reached anybody.
	// An error means that it probably has not; the caller need not try again, because
	// followers find the gap from later messages. Safe for concurrent use.
	Publish(ctx context.Context, channel, message string) error

	// Subscribe delivers the messages of the channels to sub until ctx is done, and then
	// returns nil. It connects, and reconnects with a growing delay, by itself; it
	// returns an error only where trying again cannot help.
	Subscribe(ctx context.Context, channels []string, sub Subscriber) error

	// Close releases the connections. Publish then returns ErrBusClosed and Subscribe
	// returns.
	Close() error
}

// Subscriber receives what a Bus delivers. Its methods are called one at a time and must
// return quickly, as they hold up the connection.
type Subscriber interface {
	// Connected is called when the subscription has taken effect, at first and after each
	// interruption: messages published from now on will arrive, earlier ones may be lost.
	Connected()
	// Message is called for each message.
	Message(channel, message string)
	// Disconnected is called when the transport was interrupted, with the reason.
	Disconnected(err error)
}

// ErrBusClosed is returned by a Bus after Close.
var ErrBusClosed = errors.New("replication bus is closed")

// ErrNotConnected is returned by Publish of a Bus whose transport is interrupted.
var ErrNotConnected = errors.New("replication bus is not connected")
