package homeserver

import (
	"context"
	"net/http"
)

// Group is a named set of endpoints that belong together: one worker serves all of a group or none of it. It is data:
// the router, the auth and rate-limit middleware, metrics labels, reverse-proxy configuration and the documentation are
// all made from it. Package clientapi, federation and media return groups; programs write their own the same way.
type Group struct {
	// Name is the group's stable name, for example "sync". Required, unique within a process.
	Name string
	// Affinity says which requests should reach the same instance. Defaults to AnyInstance.
	Affinity Affinity
	// Stream is the stream whose writer serves these endpoints best ("typing"), or "" where none does. It is a hint for
	// load balancers: a request that reaches another process is forwarded, never failed.
	Stream string
	// Resource is the listener resource that carries the group. Defaults to ResourceClient.
	Resource string
	// Endpoints are the group's routes. Required.
	Endpoints []Endpoint
}

// The listener resources, by Synapse's names. A listener's "resources" option lists those it serves.
const (
	ResourceClient      = "client"      // /_matrix/client, /_synapse/client, /_synapse/admin, /.well-known
	ResourceFederation  = "federation"  // /_matrix/federation
	ResourceKeys        = "keys"        // /_matrix/key
	ResourceMedia       = "media"       // /_matrix/media
	ResourceOpenID      = "openid"      // /_matrix/federation/v1/openid/userinfo
	ResourceReplication = "replication" // /_synapse/replication
	ResourceMetrics     = "metrics"     // /metrics, /_synapse/metrics
	ResourceHealth      = "health"      // /health
	ResourceConsent     = "consent"     // /_matrix/consent
	ResourceStatic      = "static"      // /_matrix/static
)

// Affinity says by what a load balancer should pick the instance for a request. Any choice is correct; the named one is
// fast.
type Affinity uint8

// The affinities.
const (
	// AffinityDefault takes the group's affinity; for a group it is AnyInstance.
	AffinityDefault Affinity = iota
	// AnyInstance: round robin.
	AnyInstance
	// ByUser: the user of the access token.
	ByUser
	// ByRoom: the {roomId} (or {roomIdOrAlias}) of the path.
	ByRoom
	// ByOrigin: the server a federation request comes from; its address is a stand-in a proxy can see.
	ByOrigin
	// SingleInstance: one instance, the same for all requests.
	SingleInstance
)

var affinityNames = [...]string{"", "any", "user", "room", "origin", "single"}

// String returns "any", "user", "room", "origin" or "single", as `weftctl routes` prints them.
func (a Affinity) String() string {
	if int(a) < len(affinityNames) && a != AffinityDefault {
		return affinityNames[a]
	}
	return "any"
}

// Auth is what a request must show.
type Auth uint8

// The kinds of authentication.
const (
	// AuthNone: nothing is looked at.
	AuthNone Auth = iota
	// AuthOptional: a token is checked where there is one; Requester is nil where there is none.
	AuthOptional
	// AuthUser: a registered user's access token; guests get M_GUEST_ACCESS_FORBIDDEN.
	AuthUser
	// AuthGuest: an access token of a registered user or a guest.
	AuthGuest
	// AuthAppservice: an application service's token (as_token).
	AuthAppservice
	// AuthServer: a request another homeserver has signed (X-Matrix).
	AuthServer
	// AuthAdmin: the access token of a server administrator.
	AuthAdmin
)

var authNames = [...]string{"none", "optional", "user", "guest", "appservice", "server", "admin"}

// String returns the kind in lower case, as `weftctl routes` prints it.
func (a Auth) String() string {
	if int(a) < len(authNames) {
		return authNames[a]
	}
	return "unknown"
}

// DefaultMaxBody is the body limit in bytes of an endpoint that names none.
const DefaultMaxBody = 1 << 20

// Endpoint is one operation under one path template, in one or several API versions.
type Endpoint struct {
	// Method is the HTTP method. Required. GET does not imply HEAD. OPTIONS is answered by the router.
	Method string
	// Path is the path as the specification writes it, each parameter one segment in braces, and {v} where the version
	// stands: "/_matrix/client/{v}/rooms/{roomId}/send/{eventType}/{txnId}". Required.
	//
	// A final "{name...}" takes the rest of the path, slashes included, where no other route matches. A final
	// {stateKey} may be empty: the path then also matches without it, with and without the last slash.
	Path string
	// Versions are what {v} stands for, one route each: "v3", "r0", "api/v1", "unstable", "v1", "v2_alpha". Required
	// where Path has {v}.
	Versions []string
	// Auth is what a request must show. Defaults to AuthNone.
	Auth Auth
	// Limit is the class of the rate limit, by Synapse's option name ("rc_message", "rc_login.address"), or "" for none.
	// Requests of one user share a bucket, without a user those of one address.
	Limit string
	// MaxBody limits the request body in bytes; a longer one answers 413 M_TOO_LARGE. Defaults to DefaultMaxBody.
	MaxBody int64
	// Affinity overrides the group's where it is not AffinityDefault.
	Affinity Affinity
	// Stream overrides the group's where it is not "".
	Stream string
	// Handle serves the request. Required, unless Raw is set.
	Handle Handler
	// Raw serves the request instead of Handle, for handlers that speak plain net/http (the replication RPC server, a
	// proxy). Auth and rate limits run before it; the body is its own to read, bounded by MaxBody where that is set.
	Raw http.Handler
}

// Handler serves one request. The result becomes the response:
//
//   - nil: 200 {}
//   - json.RawMessage: 200, sent as it is
//   - *Response: its status, headers and body
//   - anything else: 200, through encoding/json
//
// An error becomes a Matrix error: *mxerr.Error anywhere in its chain gives status and errcode, a deadline gives 504,
// anything else is a bug and gives 500 M_UNKNOWN with the request id that the log repeats.
type Handler func(ctx context.Context, r *Request) (any, error)
