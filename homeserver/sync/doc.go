// Package sync answers /sync: what is new for one device since a token, or everything when there is none.
//
// # The tail
//
// Each process that serves /sync follows the events stream and keeps its newest rows in memory (Config.TailBytes),
// indexed by room. The rows carry the events, so an incremental sync whose token lies inside the tail reads none from
// the database. The JSON of an event is made once and copied to every client; only its unsigned object differs.
//
//	events stream ──► tail (by room) ──► change of a room ──► active users of the room ──► their waiting requests
//	receipts, typing, account_data ... ──► change caches (by room, by user) ──► the same
//
// For each user with a recent request there is a view: the rooms the user is in, kept by the events stream and loaded
// once. The views of a room are the index that wakes requests: a row wakes the requests it concerns and no others.
//
// # Consistency
//
// The positions of all streams, the tail and the views change together under one lock. A response is built against one
// snapshot of them: next_batch holds its positions, and nothing that lies beyond them is in the response. A row lies
// beyond a position when its number is above that of its writer, so several writers need no common order. Within a room
// events are in the order of their numbers.
//
// A request first learns from the database how far the writers have come, and waits until this process has seen as much.
// So a client that has been told of a success sees its effect in the next /sync, on any worker. Requests that arrive
// while a query is running share the next one. A process that is the only writer needs none of this.
//
// # Outside the tail
//
// Initial syncs, tokens from before the tail and newly joined rooms are answered from the database with a number of
// statements that does not depend on the number of rooms.
//
// Spec: client-server API, "Syncing" (v1.19).
package sync
