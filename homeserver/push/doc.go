// Package push keeps the push rules of this server's users, which say what they want to be notified of.
//
// # Rules
//
// A user's rules are the server's defaults (Defaults) with the user's own in front of them. Only what a user has changed
// is stored, one row a user, and travels on the push_rules stream, which has one writer; any other process hands changes
// on to it.
//
// Spec: client-server API, "Push Notifications" (v1.19).
package push
