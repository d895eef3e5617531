// Package event is what the Matrix specification says of room events, and nothing else: no I/O, no clock, no storage.
//
// It parses events from the network ([Parse]) and from the database ([Load]), builds and signs new ones ([Build]),
// redacts them, selects their auth events ([AuthTuples]), authorises them ([Authorise], [CheckAuthEvents]) and resolves
// the state of a forked room ([Resolve]), for room versions 1 to 12. What differs between versions is data: a row of the
// version table ([Version]).
//
// An [Event] is immutable and safe to share between goroutines. It holds the canonical JSON of the event as it travels
// over federation, with the positions of its fields, so that hashing, redacting, storing and serving append bytes
// instead of decoding and encoding again. Every byte slice an Event hands out is part of that JSON: read it, never write
// to it.
//
// The order of checks on receipt of a PDU (server-server API, "Checks performed on receipt of a PDU") maps to:
//
//  1. format                      Parse
//  2. signatures                  (*Event).VerifySignatures
//  3. content hash                Parse (the event comes back redacted, HashMismatch reports it)
//  4. auth events of the event    CheckAuthEvents, then Authorise against them
//  5. state before the event      Authorise against that state
//  6. current state               Authorise against that state; a failure is a soft failure
package event
