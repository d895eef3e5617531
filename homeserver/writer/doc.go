// Package writer writes events to rooms.
//
// # The path of an event
//
//	Send ──► owner of the room? ──no──► RPC to the owner ──► its Send
//	             │ yes
//	             ▼
//	lane (one a room, in memory): completes drafts in order, each on top of the one before it:
//	             prev_events, auth_events, depth, authorisation, hash, signature
//	             │ ready items
//	             ▼
//	committer: takes whatever is ready over all lanes when the last commit is done, gives out event numbers,
//	             grows the state trees, and sends one pipelined batch: one transaction, one round trip
//	             │ committed
//	             ▼
//	effects: caches, rows of the events stream, position; then the callers of Send return
//
// # Invariants
//
//   - A room is extended only by a transaction that finds its head at the generation the lane built on
//     (storage.EventBatch). Who writes the room is a matter of speed: two writers of one room take turns, and the one
//     that finds the head moved forgets what it built, reads the head and completes its drafts anew.
//   - Numbers of a room's events ascend in the order of its graph: the committer takes numbers above the room's last.
//   - A lane hands out an answer, a refusal too, only when what the answer rests on is committed.
//   - When a connection breaks in a commit, nothing is answered before it is certain whether the commit took place.
//   - What a request is answered with has been applied to the caches of this process.
//
// # Locks
//
// committer.mu and lane.mu are never held together with I/O. Order: Writer.mu, then lane.mu, then committer.mu.
package writer
