// Package requester holds the one type that says who makes a client request, so that the packages below homeserver can
// name it too.
package requester

import "context"

// Requester is who makes a client request. It is shared between requests and must not be changed.
type Requester struct {
	// UserID is the user the request acts as. Empty only for requests of application services that name no user.
	UserID string
	// DeviceID is the device of the access token, "" for tokens without one.
	DeviceID string
	// TokenID is the access token's number in storage, 0 where it has none (application services).
	TokenID int64
	// IsGuest is set for guest accounts.
	IsGuest bool
	// IsAdmin is set for server administrators.
	IsAdmin bool
	// ShadowBanned is set for users whose actions must look successful to them and reach nobody.
	ShadowBanned bool
	// Suspended is set for accounts that may read, log out and leave rooms, and get M_USER_SUSPENDED for the rest.
	Suspended bool
	// Locked is set for accounts an administrator has locked. Such a Requester never leaves the Authenticator, except
	// for the two logout endpoints.
	Locked bool
	// AppserviceID is the id of the application service whose as_token was used, or "".
	AppserviceID string
	// RateLimitExempt is set where no rate limit applies (application services with rate_limited: false, overrides).
	RateLimitExempt bool
}

type clientIPKey struct{}

// WithClientIP returns a context that says where a request comes from, for requests that a reverse proxy has passed on:
// their RemoteAddr is the proxy's.
func WithClientIP(ctx context.Context, ip string) context.Context {
	return context.WithValue(ctx, clientIPKey{}, ip)
}

// ClientIP returns what WithClientIP was given, and whether it was.
func ClientIP(ctx context.Context) (string, bool) {
	ip, ok := ctx.Value(clientIPKey{}).(string)
	return ip, ok
}
