// Package storage keeps a homeserver's rows in PostgreSQL.
//
// It knows tables and no Matrix: a function takes and returns rows, and a doc
// comment says what the columns mean. One file holds one domain; the SQL stands
// beside the function that runs it.
//
// Every function takes the [Querier] it runs on, so that the pool, one
// connection and a transaction serve alike. Functions work on sets: they take
// and return slices and cost one round trip whatever the length.
//
// # Errors
//
// A function that looks for one row returns [ErrNotFound] when there is none. A
// row that cannot be written because of another is a [*ConflictError]. Both
// come out of [TranslateError], the one place that reads PostgreSQL's codes.
// [IsTransient] tells whether the server was away; such work may be tried again
// with [Retry].
//
// # Numbers
//
// Rooms, users, state keys, events and writers have numbers inside the database
// ([RoomNID] and so on). They never leave the server.
package storage
