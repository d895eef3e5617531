// Package sender tells other servers what happens here: events of rooms they are in, typing, receipts, presence.
//
// # Who sends what
//
// One process or several run a [Sender]. Each has a row in federation_senders, which it renews; the destinations are
// divided among those whose rows are alive by rendezvous hashing, so that a sender that comes or goes moves only what must
// move, and nobody has to be told beforehand. While two senders disagree for a moment both may send to a destination: it
// is the remote server's business to see that it has an event already, so that costs time and does no harm. What must
// never happen is that an event is left out.
//
// # What is owed
//
// Nothing is queued in the database. Which events are for a server follows from what is there: events.outbound marks
// those to be told, room_servers says when which server was in which room, outbound_cursors how far each has been sent
// everything. Both are written by whoever writes the event, in the same transaction; so an event costs the same with two
// servers in the room as with two hundred, and after a crash, an outage or a change of hands the rest is one question:
// storage.OutboundBacklog.
//
// What happens while a destination keeps up comes from the events stream: its number is appended to the queue of each
// destination. A queue is a copy of what is owed and may be dropped at any time; then the destination is "behind" and its
// backlog is read from the database, in order, until nothing lies between it and the queue.
//
// # A destination
//
// A destination has a goroutine while there is something to send, and is parked while its server does not answer. Parked
// it costs nothing: no queue, no goroutine, no query. It wakes when its time has come or when the server makes itself
// heard. After an outage of which more than a few dozen events in a room were missed, the newest event of the room stands
// for the rest, which the other server fetches if it wants them.
//
// Before a transaction with events is sent it is noted in the cursor's row; a sender that takes over after a crash sends
// the same once more, under the same id. These notes of all destinations share statements and are committed without
// waiting for the disk.
//
// # Locks
//
// Sender.mu guards all destinations. Nothing is called under it that may block.
package sender
