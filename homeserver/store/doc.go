// Package store reads what the event write path has written: rooms, events, state, memberships.
//
// Events, state trees and interned numbers never change, so they are cached without bounds in time and bounded in bytes.
// What does change (heads, memberships, statistics, which events are redacted) is cached only in a process that follows
// the events stream: each row of it goes to [Store.Apply], which drops what the row outdates. Until [Store.Following] is
// called, and after [Store.Forget], such things are read from the database each time.
//
// All methods are safe for concurrent use, take and return sets where a set makes sense, and cost a fixed number of
// statements whatever the size of the set.
package store
