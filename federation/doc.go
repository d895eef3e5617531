// Package federation is the server-server API: the client that calls other servers, the authentication of those that call
// this one, and the endpoint groups that answer them.
//
// A [Client] finds a server by its name, signs requests, and keeps away from servers that are down. [ServerAuth] checks
// the signatures of requests, with the keys that package federation/keyring finds. Package federation/node puts all parts
// together.
//
// Spec: server-server API (v1.19).
package federation
