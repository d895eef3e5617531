package homeserver

import (
	"context"
	"net/http"
	"strings"

	"github.com/weft-im/weft/homeserver/requester"
)

// Requester is who makes a client request. It is shared between requests and must not be changed.
type Requester = requester.Requester

// Authenticator finds the user behind an access token. Package homeserver/account implements it.
type Authenticator interface {
	// Authenticate returns who makes the request. token is never empty; r gives the query (an application service may
	// act for ?user_id=) and the address. Errors are M_UNKNOWN_TOKEN, M_USER_LOCKED, M_FORBIDDEN or M_EXCLUSIVE.
	Authenticate(ctx context.Context, token string, r *http.Request) (*Requester, error)
}

// ServerAuthenticator checks the X-Matrix signature of a request another homeserver sent. Package federation implements
// it.
type ServerAuthenticator interface {
	// AuthenticateServer returns the name of the server that signed the request over body. Errors are M_UNAUTHORIZED
	// with status 401, or M_FORBIDDEN.
	AuthenticateServer(ctx context.Context, r *http.Request, body []byte) (origin string, err error)
}

// AccessToken returns the access token of a request, from the Authorization header (scheme Bearer) or, as older clients
// send it, from ?access_token=. It returns "" where there is none.
func AccessToken(r *http.Request) string {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, token, ok := strings.Cut(h, " ")
		if ok && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
		return ""
	}
	if strings.Contains(r.URL.RawQuery, "access_token=") {
		return r.URL.Query().Get("access_token")
	}
	return ""
}
